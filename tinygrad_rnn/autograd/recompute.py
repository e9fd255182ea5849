"""Computing again instead of keeping: memory for time.

The tape stays what it is: every operation has its node, so backward to any order, names and pictures notice nothing.
Only what the nodes saved is dropped, and brought back by running the function once more when backward asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import GraphError
from ..ops.random import Draws
from .tape import Node, Reads, Watcher, enable_grad, root_of, thread, writes


def checkpoint(f: Callable[..., Any], *xs: Any) -> Any:
    """f(*xs), of which nothing but the inputs is kept for backward: backward runs f again (Chen et al. 2016).

    Random numbers drawn through this library (dropout, an `rng=` given to its functions) are the same the second time.
    Every value of the second run is compared with the first by its sums, so a function that reads something changed
    since, or draws from elsewhere, is an error. Inside f another `checkpoint` saves memory in the forward pass only.

    Args:
        f: a function of anything; tensors that it closes over get their gradients too.
        xs: its arguments.

    Returns:
        What f returns.

    Raises:
        GraphError: by backward, where f does not do the same again.

    >>> import tinygrad_rnn as tg
    >>> x = tg.tensor([0.5], requires_grad=True)
    >>> tg.checkpoint(lambda x: tg.tanh(tg.tanh(x)), x).backward()
    >>> x.grad
    tensor([0.6398])
    """
    state = thread.state
    if not state.enabled or any(isinstance(watcher, _Course) and watcher.again for watcher in state.watchers):
        return f(*xs)
    region, course = Region(f, xs), _Course(again=False)
    with region.draws, course:
        made = f(*xs)
    region.close(course)
    return made


class Mark(NamedTuple):
    """One value of a run: what made it (or that it was read), and three sums to know it again by.

    They are of its elements, of their squares, and of the products of neighbours, which tells an order from another.
    """

    what: tuple[str, tuple[int, ...], tuple[bool, ...]]
    sums: tuple[float, float, float]
    size: int
    rough: float

    @classmethod
    def of(cls, name: str, array: np.ndarray[Any, Any], wanted: tuple[bool, ...] = ()) -> Mark:
        """The mark of an array."""
        flat = array.ravel()
        rough = 1e-4 if flat.dtype == np.float32 else 1e-9
        if flat.dtype.kind != "f":
            flat = flat.astype(np.float64)
        with np.errstate(all="ignore"):
            sums = np.sum(flat, dtype=np.float64), np.dot(flat, flat), np.dot(flat[:-1], flat[1:])
        return cls((name, array.shape, wanted), (float(sums[0]), float(sums[1]), float(sums[2])), flat.size, rough)

    def agrees(self, other: Mark) -> bool:
        """Whether the sums are the same but for rounding, which is measured against the root of the squares' sum."""
        square = self.sums[1]
        scales = math.sqrt(self.size * square) if square >= 0.0 else square, square, square
        return all(
            a == b or (a != a and b != b) or abs(a - b) <= self.rough * scale
            for a, b, scale in zip(self.sums, other.sums, scales)
        )


class _Course(Watcher):
    """What one run of a function did: its nodes, marks of all values, and the memory that it read but did not make."""

    def __init__(self, again: bool) -> None:
        self.again = again
        self.nodes: list[Node] = []
        self.marks: list[Mark] = []
        self.made: dict[int, Any] = {}
        self.read: dict[tuple[int, int], Any] = {}

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        for x in inputs:
            root = root_of(x._array) if x is not None else None
            if root is not None and id(root) not in self.made:
                key = id(root), writes.stamp(root)
                if key not in self.read:
                    self.read[key] = root
                    self.marks.append(Mark.of("a value that it reads", x._array))
        root = root_of(y)
        self.made[id(root)] = root
        self.nodes.append(node)
        self.marks.append(Mark.of(node.op.name if node.op is not None else "", y, node.wanted))


class Region:
    """One call of `checkpoint`: what its nodes have in the place of saved values."""

    def __init__(self, f: Callable[..., Any], xs: tuple[Any, ...]) -> None:
        self.f, self.xs = f, xs
        self.place = thread.state.place
        self.draws = Draws()
        self.marks: list[Mark] = []
        self.read = Reads()
        self.number: dict[int, int] = {}
        self.second: dict[int, Node] | None = None

    def close(self, course: _Course) -> None:
        """The function has run: drop what its nodes saved."""
        self.read = Reads(course.read.values())
        self.marks = course.marks
        self.number = {node.order: i for i, node in enumerate(course.nodes)}
        for node in course.nodes:
            if node.saved:
                node.saved = self

    def bring(self, node: Node, retain: bool) -> tuple[Any, ...]:
        """What `node` saved, from a second run of the function; here it is forgotten then, unless `retain`."""
        if self.second is None:
            nodes = self._run_again()
            self.second = {order: nodes[i] for order, i in self.number.items()}
        again = self.second[node.order]
        if writes.latest > again.order:
            writes.check(again, again.saved)
        found: tuple[Any, ...] = again.saved
        if not retain:
            del self.second[node.order]
            node.saved = found  # the node's own, until this backward has come past it
        return found

    def _run_again(self) -> list[Node]:
        self.read.check("checkpoint: a value that the function reads")
        state, course = thread.state, _Course(again=True)
        outer = state.watchers, state.place
        try:
            state.watchers, state.place = (course,), self.place
            with enable_grad(), self.draws.repeated():
                self.f(*self.xs)
        finally:
            state.watchers, state.place = outer
        self._refuse_difference(course.marks)
        return course.nodes

    def _refuse_difference(self, marks: list[Mark]) -> None:
        for i, (first, second) in enumerate(zip(self.marks, marks)):
            if first.what != second.what:
                self._refuse(i, marks)
            if not first.agrees(second):
                raise GraphError(
                    "checkpoint: the function computed other numbers the second time, "
                    f"at {first.what[0]} {first.what[1]}",
                    expected="the same values from the same inputs",
                    hint="draw random numbers through this library: tg.dropout, or rng= of its functions",
                )
        if len(self.marks) != len(marks):
            self._refuse(min(len(self.marks), len(marks)), marks)

    def _refuse(self, i: int, marks: list[Mark]) -> None:
        first, second = ("{} {}".format(*run[i].what) if i < len(run) else "the end" for run in (self.marks, marks))
        raise GraphError(
            "checkpoint: the function did something else the second time",
            expected=f"{first} as step {i}",
            got=second,
            hint="train(), eval(), requires_grad and conditions must be the same in backward() as before",
        )
