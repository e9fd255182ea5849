"""A step run once, every operation noted: what the compiler reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..autograd.tape import Node, Watcher, writes
from ..ops.op import Op
from ..ops.random import Draws

_LIBRARY = str(Path(__file__).parent.parent)


class NotFused(Exception):
    """Why a step cannot become kernels."""

    def __init__(self, why: str, where: str = "") -> None:
        super().__init__(f"{why}{f' ({where})' if where else ''}")


class Traced(NamedTuple):
    """One operation of a trace.

    Attributes:
        op: the operation.
        inputs: its input tensors; None where not given.
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
    """Notes every operation; a value that is read, or written in place, ends it."""

    def __init__(self, starts: Sequence[Any] = ()) -> None:
        self.done: list[Traced] = []
        self.names: dict[int, tuple[str, int]] = {id(x._array): ("start", i) for i, x in enumerate(starts)}
        self.latest = writes.latest
        self.draws = Draws()
        self.trouble: NotFused | None = None

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        assert node.op is not None
        self.names[id(y)] = "made", len(self.done)
        self.done.append(Traced(node.op, tuple(inputs), node.settings or {}, y, node, _line()))

    def see_read(self, x: Any) -> None:
        if self.trouble is None:
            self.trouble = NotFused("the step reads values, which decides once for all steps", _line())

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

    def compare(self, other: Trace) -> None:
        """Raise NotFused where another step did something else."""
        for one, two in zip(self.done, other.done):
            alike = one.op is two.op and len(one.inputs) == len(two.inputs)
            alike = alike and _equal(self._settings(one), other._settings(two))
            if not alike or not all(map(self._named_alike, one.inputs, two.inputs, [other] * len(one.inputs))):
                raise NotFused(f"{two.op.name}: the second step does something else than the first", two.where)
        sources = [key.source for key in self.draws.keys], [key.source for key in other.draws.keys]
        if len(self.done) != len(other.done) or list(map(id, sources[0])) != list(map(id, sources[1])):
            raise NotFused("the second step does something else than the first")

    def _settings(self, one: Traced) -> dict[str, Any]:
        """An operation's settings, with a key that this step drew as the number of the draw."""
        key = one.settings.get("key")
        drawn = [i for i, own in enumerate(self.draws.keys) if own is key]
        return one.settings | {"key": ("drawn", drawn[0])} if drawn else one.settings

    def _named_alike(self, x: Any, y: Any, other: Trace) -> bool:
        if x is None or y is None:
            return x is y
        name = self.names.get(id(x._array))
        if name is not None or id(y._array) in other.names:
            return name == other.names.get(id(y._array))
        if x is y or x._requires_grad or y._requires_grad:
            return x is y
        return bool(x.dtype == y.dtype and np.array_equal(x._array, y._array, equal_nan=x.dtype.kind == "f"))


def _equal(a: Any, b: Any) -> bool:
    """Whether two settings are the same."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return bool(a is b or (type(a) is type(b) and a == b))


def _line() -> str:
    """The innermost line of code that is not the library's own, or else of a cell's step."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name, function = frame.f_code.co_filename, frame.f_code.co_name
        if not name.startswith((_LIBRARY, "<")):
            return f"{Path(name).name}, line {frame.f_lineno}"
        if function == "step":
            return f"{Path(name).name}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""
