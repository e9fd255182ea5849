"""Computing again instead of keeping: memory for time.

The tape stays what it is: every operation has its node, so backward to any order, names and pictures notice nothing.
Only what the nodes saved is dropped, and brought back by running the function once more when backward asks for it.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError
from ..ops.random import Draws
from .tape import Node, Watcher, enable_grad, root_of, thread, tick, writes


def checkpoint(f: Callable[..., Any], *xs: Any) -> Any:
    """f(*xs), of which nothing but the inputs is kept for backward: backward runs f again (Chen et al. 2016).

    Random numbers drawn through this library (dropout, an `rng=` given to its functions) are the same the second time.
    A function that does something else the second time is an error: one that reads a value changed since, or draws
    from elsewhere. Inside f another `checkpoint` saves memory in the forward pass only.

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
    if not state.enabled or any(isinstance(watcher, _Nodes) and watcher.again for watcher in state.watchers):
        return f(*xs)
    region = Region(f, xs)
    with region.draws, region.watcher:
        made = f(*xs)
    region.close(made)
    return made


class _Nodes(Watcher):
    """Collects the nodes that a gradient flows through, and the memory that they read but did not make."""

    def __init__(self, again: bool) -> None:
        self.again = again
        self.nodes: list[Node] = []
        self.made: dict[int, Any] = {}
        self.given: dict[int, Any] = {}

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        if True in node.wanted:
            self.nodes.append(node)
        if not self.again:
            for x in inputs:
                root = root_of(x._array) if x is not None else None
                if root is not None and id(root) not in self.made:
                    self.given[id(root)] = root
            self.made[id(root_of(y))] = root_of(y)


class Region:
    """One call of `checkpoint`: what its nodes have in the place of saved values."""

    def __init__(self, f: Callable[..., Any], xs: tuple[Any, ...]) -> None:
        self.f, self.xs = f, xs
        self.place = thread.state.place
        self.draws = Draws()
        self.watcher = _Nodes(again=False)
        self.what: list[tuple[str, tuple[int, ...]]] = []
        self.number: dict[int, int] = {}
        self.given: list[Any] = []
        self.end = 0
        self.sums: list[tuple[float, float]] = []
        self.brought: dict[int, Node] | None = None

    def close(self, made: Any) -> None:
        """The function has run: drop what its nodes saved."""
        nodes = self.watcher.nodes
        for root in self.watcher.given.values():
            with contextlib.suppress(TypeError):  # memory of a foreign kind, which is not written through tensors
                self.given.append(weakref.ref(root))
        self.watcher = _Nodes(again=False)
        self.what = [_what(node) for node in nodes]
        self.number = {node.order: i for i, node in enumerate(nodes)}
        self.sums = _sums(made)
        self.end = tick()
        for node in nodes:
            if node.saved:
                node.saved = self

    def saved(self, node: Node, retain: bool) -> tuple[Any, ...]:
        """What `node` saved, from another run of the function; forgotten then unless `retain`."""
        if self.brought is None:
            self.brought = self._again()
        again = self.brought[node.order] if retain else self.brought.pop(node.order)
        if writes.latest > again.order:
            writes.check(again, again.saved)
        found: tuple[Any, ...] = again.saved
        return found

    def _again(self) -> dict[int, Node]:
        for root in [reference() for reference in self.given]:
            if root is not None and writes.stamp(root) > self.end:
                raise GraphError(
                    f"checkpoint: a value that the function reads, of {root.nbytes} bytes, was changed in place since",
                    expected="the values of the first time, to compute the same again",
                    hint="run backward() before optimizer.step(), or change a copy",
                )
        state = thread.state
        outer = state.watchers, state.place
        watcher = _Nodes(again=True)
        try:
            state.watchers, state.place = (watcher,), self.place
            with enable_grad(), self.draws.repeated():
                made = self.f(*self.xs)
        finally:
            state.watchers, state.place = outer
        ran = [_what(node) for node in watcher.nodes]
        if ran != self.what:
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ran, self.what)))
            first, second = ("{} {}".format(*what[same]) if same < len(what) else "the end"
                             for what in (self.what, ran))  # fmt: skip
            raise GraphError(
                "checkpoint: the function did something else the second time",
                expected=f"{first} after {same} operations",
                got=second,
                hint="train(), eval() and conditions must be the same in backward() as before",
            )
        rough = 1e-4 if any(node.dtype == np.float32 for node in watcher.nodes) else 1e-9
        if not all(
            np.allclose(a, b, rtol=rough, atol=rough * max(1.0, b[1]), equal_nan=True)
            for a, b in zip(_sums(made), self.sums)
        ):
            raise GraphError(
                "checkpoint: the function computed other numbers the second time",
                expected="the same result from the same inputs",
                hint="draw random numbers through this library: tg.dropout, or rng= of its functions",
            )
        return {order: watcher.nodes[i] for order, i in self.number.items()}


def _what(node: Node) -> tuple[str, tuple[int, ...]]:
    return node.op.name if node.op is not None else "leaf", node.shape


def _sums(made: Any) -> list[tuple[float, float]]:
    """For each output the sum of its elements and the root of the sum of their squares: to know it again."""
    if isinstance(made, (list, tuple)):
        return [pair for part in made for pair in _sums(part)]
    array = getattr(made, "_array", None)
    if array is None or array.dtype.kind != "f":
        return []
    with np.errstate(all="ignore"):
        flat = array.ravel()
        return [(float(np.sum(flat, dtype=np.float64)), float(np.sqrt(np.dot(flat, flat))))]
