"""A whole function as one node of the tape: backward runs it again, and differentiates that.

`checkpoint` (in `recompute`) leaves every operation on the tape and drops what it saved. This leaves one node: a
sequence cut into pieces then costs memory for the ends of the pieces, and for one piece at a time.

The node has many outputs. They are picked from it by nodes of their own, and what arrives at those goes back to it as
pieces of one long gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError
from ..ops.op import Array, Op, Piece
from ..ops.random import Draws
from ..ops.shape import astype, concat, reshape
from ..settings import FLOAT32, FLOAT64
from .backward import grad
from .nest import leaves, like, map_nest
from .recompute import Mark
from .tape import Node, Watcher, enable_grad, is_grad_enabled, thread, tick
from .tensor import Tensor, as_tensor


def replayed(f: Callable[..., Any], *xs: Any) -> Any:
    """f(*xs), as one node that keeps its inputs only: backward runs f again.

    Args:
        f: a function of nests of tensors that returns one. What it closes over gets its gradients too. It must do the
            same again: random numbers drawn through this library do.
        xs: its arguments.

    Raises:
        GraphError: by backward, where f computes other numbers the second time, or changed what it reads.
    """
    if not is_grad_enabled():
        return f(*xs)
    run = Run(f, xs)
    with run.draws:
        seen, made = run.go([Tensor(t._array, None, False) if not t._requires_grad else _leaf(t) for t in run.inputs])
    outputs = [as_tensor(y) for y in leaves(made)]
    run.marks = [Mark.of("an output", y._array) for y in outputs]
    run.outer = list(seen.outer.values())
    tensors = [*run.inputs, *run.outer]
    run.wanted = wanted = tuple([t._requires_grad for t in tensors])
    flowing = [y for y in outputs if y._requires_grad]
    if True not in wanted or not flowing:
        return map_nest(lambda y: Tensor(as_tensor(y)._array), made)
    run.sources = [t.node for t in tensors]
    dtype = FLOAT64 if any(y.dtype == FLOAT64 for y in flowing) else FLOAT32
    whole = np.broadcast_to(dtype.type(0), (sum(y.size for y in flowing),))
    saved = (tuple([t._array for t in tensors]),)
    node = Node(_replay, tuple(run.sources), wanted, saved, {"run": run}, whole, run.place)
    for watcher in thread.state.watchers:
        watcher.see(node, tensors, whole)
    start, picked = 0, []
    for y in outputs:
        if y._requires_grad:
            own = Node(_pick, (node,), (True,), (), {"start": start}, y._array, run.place)
            picked.append(Tensor(y._array, own, True))
            for watcher in thread.state.watchers:
                watcher.see(own, (Tensor(whole, node, True),), y._array)
            start += y.size
        else:
            picked.append(Tensor(y._array))
    return like(made, iter(picked))


class _Seen(Watcher):
    """The nodes that a run made, and the tensors from outside that it used and that need a gradient."""

    def __init__(self) -> None:
        self.since = tick()
        self.nodes: list[Node] = []
        self.outer: dict[int, Tensor] = {}

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        self.nodes.append(node)
        for x in inputs:
            self.used(x)

    def used(self, x: Any) -> None:
        """Note a tensor that was there before the run."""
        if isinstance(x, Tensor) and x._requires_grad and x.node is not None and x.node.order < self.since:
            self.outer.setdefault(x.node.order, x)


class Run:
    """One call of `replayed`: how to do it again."""

    def __init__(self, f: Callable[..., Any], xs: tuple[Any, ...]) -> None:
        self.f, self.xs = f, map_nest(lambda _: 0, xs)
        self.inputs: list[Tensor] = [as_tensor(x) for x in leaves(xs)]
        self.place = thread.state.place
        self.draws = Draws()
        self.marks: list[Mark] = []
        self.outer: list[Tensor] = []
        self.sources: list[Node | None] = []
        self.wanted: tuple[bool, ...] = ()

    def __repr__(self) -> str:
        return getattr(self.f, "__name__", type(self.f).__name__)

    def go(self, inputs: Sequence[Tensor]) -> tuple[_Seen, Any]:
        """Run the function on these inputs; what it used from outside them."""
        seen = _Seen()
        with seen:
            made = self.f(*like(self.xs, iter(inputs)))
        for y in leaves(made):
            seen.used(y)
        own = {x.node.order for x in inputs if x.node is not None}
        seen.outer = {order: x for order, x in seen.outer.items() if order not in own}
        return seen, made

    def gradients(self, tensors: Sequence[Tensor], g: Tensor) -> list[Any]:
        """The gradients of all inputs and of what is closed over, from a second run. They can be differentiated."""
        differentiable = is_grad_enabled()
        # Names of their own for what the run starts from: its inner graph ends at them, whatever made the values.
        starts = [
            x if not wants else astype(x, x.dtype) if differentiable else _leaf(x)
            for x, wants in zip(tensors, self.wanted)
        ]
        outputs = self._again(starts)
        flowing, gs, start = [], [], 0
        for y in outputs:
            if y._requires_grad:
                flowing.append(y)
                gs.append(astype(reshape(g[start : start + y.size], y.shape), y.dtype))
                start += y.size
        wanted = [x for x in starts if x._requires_grad]
        found = iter(grad(flowing, wanted, gs, create_graph=differentiable, allow_unused=True))
        return [_zero_where_none(next(found), x) if x._requires_grad else None for x in starts]

    def _again(self, starts: Sequence[Tensor]) -> list[Tensor]:
        count = len(self.inputs)
        state = thread.state
        outer = state.watchers, state.place
        try:
            state.watchers, state.place = (), self.place
            with enable_grad(), self.draws.repeated():
                seen, made = self.go(starts[:count])
        finally:
            state.watchers, state.place = outer
        known = {source.order: x for source, x in zip(self.sources[count:], starts[count:]) if source is not None}
        outputs = [as_tensor(y) for y in leaves(made)]
        same = len(outputs) == len(self.marks) and seen.outer.keys() == known.keys()
        for y, mark in zip(outputs, self.marks):
            again = Mark.of("an output", y._array)
            same = same and again.what == mark.what and again.agrees(mark)
        if not same:
            raise GraphError(
                f"scan: {self} computed something else the second time, which gradients over pieces need",
                expected="the same values from the same inputs",
                hint="train(), eval(), requires_grad and values that it reads stay as they were until backward(), and "
                "random numbers are drawn through this library",
            )
        for node in seen.nodes:  # the function used what it closes over by itself: lead that to the names above
            if any(p is not None and p.order in known for p in node.parents):
                node.parents = tuple([known[p.order].node if p and p.order in known else p for p in node.parents])
        return [known.get(y.node.order, y) if y.node is not None else y for y in outputs]


def _leaf(t: Tensor) -> Tensor:
    made = Tensor(t._array)
    made.requires_grad = True
    return made


def _zero_where_none(g: Tensor | None, x: Tensor) -> Tensor:
    return Tensor(np.zeros(x.shape, x.dtype)) if g is None else g


class Output(Piece):
    """What arrived at one output of a node that has several."""

    __slots__ = ("g", "start")

    def __init__(self, g: Any, start: int) -> None:
        self.g, self.start = g, start

    @staticmethod
    def made(pieces: Sequence[Any], shape: tuple[int, ...]) -> Any:
        """All outputs' gradients in a row; zeros where none arrived."""
        dtype = FLOAT64 if any(piece.g.dtype == FLOAT64 for piece in pieces) else FLOAT32
        parts, end = [], 0
        for piece in sorted(pieces, key=lambda piece: piece.start):
            parts.append(Tensor(np.zeros(piece.start - end, dtype)))
            parts.append(astype(reshape(piece.g, (-1,)), dtype))
            end = piece.start + piece.g.size
        return concat([*parts, Tensor(np.zeros(shape[0] - end, dtype))])


def _replayed(arrays: Sequence[Array], run: Run) -> Any:
    raise TypeError("a node of this op is made by `replayed`")


def _picked(whole: Array, start: int) -> Any:
    raise TypeError("a node of this op is made by `replayed`")


_replay, _pick = Op(_replayed, name="replay"), Op(_picked, name="pick")
_replay.own = _pick.own = True
_replay.add_vjp("arrays", lambda g, arrays, run: run.gradients(arrays, g))
_pick.add_vjp("whole", lambda g, start: Output(g, start))
