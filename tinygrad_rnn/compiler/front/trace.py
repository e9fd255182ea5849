"""A step run once, every operation noted: what the compiler reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...autograd.tape import Node, Watcher, tick, writes
from ...ops.op import Elementwise, Op
from ...ops.random import Draws
from .line import users_line


class NotFused(Exception):
    """Why a step cannot become kernels."""

    def __init__(self, why: str, where: str = "") -> None:
        super().__init__(f"{why}{f' ({where})' if where else ''}")

    @classmethod
    def failed(cls, trouble: Exception) -> NotFused:
        """Where the compiler itself is at fault."""
        made = cls(f"the compiler failed, which is a fault of its own: {type(trouble).__name__}: {trouble}")
        made.__cause__ = trouble
        return made


class Traced(NamedTuple):
    """One operation of a trace.

    Attributes:
        op: the operation.
        inputs: its input tensors, each with a node; None where not given.
        settings: its settings; for an elementwise one, the inputs that are plain numbers.
        made: the output's array.
        node: its node.
        where: the line of the user's code that ran it.
    """

    op: Op
    inputs: tuple[Any, ...]
    settings: dict[str, Any]
    made: np.ndarray[Any, Any]
    node: Node
    where: str


class Trace(Watcher):
    """Notes every operation. Values are known by the nodes that made them, never by their memory.

    Attributes:
        done: the operations.
        numbers: the plain numbers among their inputs, by the clock numbers of the leaves that stand for them.
        trouble: what no kernel does, where the step did it: read a value.
    """

    names_constants = True

    def __init__(self, starts: Sequence[Any] = ()) -> None:
        self.done: list[Traced] = []
        self.numbers: dict[int, bool | int | float] = {}
        self.names: dict[int, tuple[str, int]] = {x.node.order: ("start", i) for i, x in enumerate(starts)}
        self.latest, self._since = writes.latest, tick()
        self.draws = Draws()
        self.trouble: NotFused | None = None

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        assert node.op is not None
        settings = node.settings or {}
        if settings and isinstance(node.op, Elementwise):
            for name, x in zip(node.op.inputs, inputs):
                if name in settings and x is not None and x.node is not None:
                    self.numbers[x.node.order] = settings[name]
        self.names[node.order] = "made", len(self.done)
        self.done.append(Traced(node.op, tuple(inputs), settings, y, node, users_line()))

    def see_read(self, x: Any) -> None:
        if self.trouble is None:
            self.trouble = NotFused("the step reads values, which decides once for all steps", users_line())

    def check(self) -> None:
        """Raise NotFused where the step did what no kernel does."""
        if self.trouble is not None:
            raise self.trouble
        if writes.latest != self.latest:
            raise NotFused("the step writes to a tensor in place")
        for one in self.done:
            if one.node.hooks or one.node.owner is not None:
                raise NotFused("a hook, or retain_grad, waits for a gradient inside the step", one.where)
        if self.draws.count != len(self.draws.keys):
            raise NotFused("the step draws random numbers that no kernel draws")

    def compare(self, other: Trace, made: Sequence[Any], others: Sequence[Any]) -> None:
        """Raise NotFused where another step did something else, or what it `made` is something else."""
        for one, two in zip(self.done, other.done):
            alike = one.op is two.op and len(one.inputs) == len(two.inputs)
            alike = alike and _equal(self._settings(one), other._settings(two))
            if not alike or not all(map(self._named_alike, one.inputs, two.inputs, [other] * len(one.inputs))):
                raise NotFused(f"{two.op.name}: the second step does something else than the first", two.where)
        sources = [key.source for key in self.draws.keys], [key.source for key in other.draws.keys]
        if len(self.done) != len(other.done) or list(map(id, sources[0])) != list(map(id, sources[1])):
            raise NotFused("the second step does something else than the first")
        for x in (*made, *others):
            if x.node is None:
                x.node = Node.leaf(x._array)
        if not all(map(self._named_alike, made, others, [other] * len(made))):
            raise NotFused("the second step returns something else than the first")

    def compare_results(self, again: Trace, values: bool) -> None:
        """Raise NotFused where the same step, run again, did something else, or (if `values`) made other numbers."""
        for one, two in zip(self.done, again.done):
            if one.op is not two.op:
                raise NotFused(f"{two.op.name}: {_NO_FUNCTION}", two.where)
            if values and not _near(one.made, two.made):
                raise NotFused(f"{two.op.name}: {_NO_FUNCTION}: other numbers", two.where)
        if len(self.done) != len(again.done):
            longer = max(self.done, again.done, key=len)
            first = longer[min(len(self.done), len(again.done))]
            raise NotFused(f"{first.op.name}: {_NO_FUNCTION}", first.where)

    def _settings(self, one: Traced) -> dict[str, Any]:
        """An operation's settings, with a key that this step drew as the number of the draw."""
        key = one.settings.get("key")
        drawn = [i for i, own in enumerate(self.draws.keys) if own is key]
        return one.settings | {"key": ("drawn", drawn[0])} if drawn else one.settings

    def _named_alike(self, x: Any, y: Any, other: Trace) -> bool:
        if x is None or y is None:
            return x is y
        one, two = x.node.order, y.node.order
        if one in self.names or two in other.names:
            return self.names.get(one) == other.names.get(two)
        if one == two:
            return True  # a tensor from outside
        if x._requires_grad or y._requires_grad:
            raise NotFused("a tensor that wants a gradient of its own is made inside the step")
        return bool(x.dtype == y.dtype and _bits(x._array, y._array))

    def outline(self) -> list[tuple[Any, ...]]:
        """What the step does, without the numbers: of each operation its settings, and where its inputs come from."""
        return [(one.op, self._settings(one), [self._source(x) for x in one.inputs]) for one in self.done]

    def _source(self, x: Any) -> Any:
        if x is None:
            return None
        order = x.node.order
        if order in self.names:
            return self.names[order]
        if order in self.numbers:
            return "number", float(self.numbers[order]).hex()
        return ("outside",) if order <= self._since else ("inside", x._array)

    def captured(self, other: Trace) -> set[int]:
        """The tensors that both steps took from outside, by the clock numbers of their nodes."""
        both = [
            {x.node.order for one in t.done for x in one.inputs if x is not None} - t.names.keys()
            for t in (self, other)
        ]
        return both[0] & both[1]


def same_for_rows(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]], rows: int, others: int) -> bool:
    """Whether two outlines say the same, of a step of so many rows and of one of other rows."""

    def same(a: Any, b: Any, exact: bool) -> bool:
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key], exact) for key in a)
        if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
            return len(a) == len(b) and all(same(x, y, exact) for x, y in zip(a, b))
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape[:1] == (rows,) != b.shape[:1]:
            return b.shape == (others, *a.shape[1:]) and _bits(a[: len(b)], b[: len(a)])
        return _equal(a, b) or (not exact and type(a) is type(b) is int and (a, b) == (rows, others))

    return len(one) == len(other) and all(
        a[0] is b[0] and same(a[1], b[1], isinstance(a[0], Elementwise)) and same(a[2], b[2], False)
        for a, b in zip(one, other)
    )


_NO_FUNCTION = "the step is no function of what it is given: run again, it does something else"


def _bits(a: Any, b: Any) -> bool:
    """Whether two arrays are the same to the last bit."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    )


def _near(a: Any, b: Any) -> bool:
    """Whether two arrays are the same but for rounding: a product's depends on where in memory its operands lie."""
    if _bits(a, b) or a.dtype != b.dtype or a.dtype.kind != "f":
        return _bits(a, b)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    rough = 64.0 * float(np.finfo(a.dtype).eps)
    return bool(np.abs(a[finite] - b[finite]).max(initial=0.0) <= rough * np.abs(a[finite]).max(initial=0.0))


def _equal(a: Any, b: Any) -> bool:
    """Whether two settings are the same, 0.0 and -0.0 told apart."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and _bits(a, b)
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()
    return bool(a is b or (type(a) is type(b) and a == b))
