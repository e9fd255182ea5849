"""Backward: gradients go from a result to what it was made from, newest operation first.

A heap of clock numbers takes the place of recursion and of a topological sort: an operation is always younger than
what it was made from, so when a node comes up, all of its gradient has arrived.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from ..errors import ArgumentError, GraphError, ShapeError
from ..kernels.runtime.locks import lock_across_forks
from ..kernels.runtime.pool import copied
from ..ops.op import Elementwise, Piece
from ..ops.shape import astype
from .memory import out_of_memory
from .pull import brought_back, pull_joint, pull_whole, read_only, summed_to
from .tape import Node, Place, thread, writes
from .tensor import Tensor, as_tensor, runs_backward


class Pieces:
    """A gradient that arrives in pieces, and the part that came whole. They meet when the node's turn comes."""

    __slots__ = ("held", "pieces", "whole")

    def __init__(self, whole: Any = None) -> None:
        self.pieces: list[Piece] = []
        self.whole: Any = whole
        self.held = 0

    def add(self, piece: Piece, node: Node, meet: bool) -> None:
        """One piece more. Where they hold more memory than a few of the whole, they meet early (if `meet`)."""
        self.pieces.append(piece)
        self.held += piece.size
        if meet and self.held > 4 * math.prod(node.shape):
            self.whole, self.pieces, self.held = self.made(node), [], 0

    def made(self, node: Node) -> Any:
        """All of it as one tensor."""
        kinds: dict[type[Piece], None] = dict.fromkeys(map(type, self.pieces))
        total = self.whole
        for kind in kinds:
            made = as_tensor(kind.made([piece for piece in self.pieces if type(piece) is kind], node.shape))
            if made.shape != node.shape:
                made = summed_to(made, node.shape)
            total = made if total is None else total + made
        return total


@runs_backward
def backward(
    outputs: Sequence[Tensor], grads: Sequence[Any], *, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add the gradients of the sum of `outputs`, weighted by `grads`, to the `grad` of every leaf."""
    propagate(_seeds("backward", outputs, grads), retain_graph, create_graph, None)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    create_graph: bool = False,
    allow_unused: bool = False,
    retain_graph: bool | None = None,
) -> Any:
    """The gradients of the sum of `outputs` with respect to `inputs`; no `.grad` is touched.

    Args:
        outputs: a tensor or several.
        inputs: a tensor or several (`module.parameters()`), leaves or intermediate results.
        grad_outputs: the gradient that starts each output, of its shape; 1 for scalars.
        create_graph: record the computation, so that the gradients can be differentiated.
        allow_unused: give None for an input that the outputs do not depend on, instead of raising.
        retain_graph: keep what is saved; as `create_graph` where None.

    Returns:
        A tensor where `inputs` is one, else a tuple.

    Raises:
        GraphError: for an input that requires no gradient or is unused, and as `Tensor.backward`.
    """
    several_outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    several_inputs: list[Any] = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    starts = list(grad_outputs) if isinstance(grad_outputs, (list, tuple)) else [grad_outputs] * len(several_outputs)
    wanted: dict[int, Any] = {}
    for i, one in enumerate(several_inputs):
        if not isinstance(one, Tensor) or one.node is None or not one._requires_grad:
            raise GraphError(f"grad: input {i} requires no gradient", hint="tg.tensor(..., requires_grad=True)")
        wanted[one.node.order] = None
    retain = create_graph if retain_graph is None else retain_graph
    propagate(_seeds("grad", several_outputs, starts), retain, create_graph, wanted)
    found = []
    for i, one in enumerate(several_inputs):
        g = wanted[one.node.order]
        if g is None and not allow_unused:
            raise GraphError(
                f"grad: the outputs do not depend on input {i}", hint="allow_unused=True gives None for it"
            )
        found.append(g)
    return found[0] if isinstance(inputs, Tensor) else tuple(found)


def grad_up_to(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor], create_graph: bool
) -> list[Any]:
    """`grad` as if the inputs were leaves without hooks: what one is made of is another matter, also where that is
    among the inputs too. The graph is kept; None for an input that is unused."""
    wanted: dict[int, Any] = {one.node.order: None for one in inputs if one.node is not None}
    propagate(_seeds("grad", outputs, grads), True, create_graph, wanted, through=False)
    return [wanted[one.node.order] if one.node is not None else None for one in inputs]


#: How the gradients to start from are given.
_STARTS = {"backward": "backward(grad)", "grad": "grad(..., grad_outputs=...)"}


def _seeds(name: str, outputs: Sequence[Tensor], grads: Sequence[Any]) -> list[tuple[Node, Tensor]]:
    if len(grads) != len(outputs):
        raise ArgumentError(f"{name}: one gradient for each output", expected=len(outputs), got=len(grads))
    seeds = []
    for output, start in zip(outputs, grads):
        if not isinstance(output, Tensor) or output.node is None or not output._requires_grad:
            raise GraphError(
                f"{name}: nothing was recorded for this tensor",
                expected="a result of tensors that require a gradient",
                hint="tg.tensor(..., requires_grad=True) on what it is made from, and not under tg.no_grad()",
            )
        if start is None:
            if output.size != 1:
                raise GraphError(
                    f"{name}: this tensor is not a scalar, so it needs a gradient to start from",
                    expected=f"one element, or {_STARTS[name]}",
                    got=f"shape {output.shape}",
                    hint=".sum() or .mean() it first",
                )
            start = Tensor(np.ones(output.shape, output.dtype))
        start = as_tensor(start)
        if start.shape != output.shape:
            raise ShapeError(f"{name}: the gradient to start from does not fit", expected=output.shape, got=start.shape)
        seeds.append((output.node, start if start.dtype is output.dtype else start.astype(output.dtype)))
    return seeds


def propagate(
    seeds: list[tuple[Node, Tensor]],
    retain_graph: bool,
    create_graph: bool,
    wanted: dict[int, Any] | None,
    through: bool = True,
) -> None:
    """Run every node that the seeds reach, newest first.

    Gradients are arrays, and elementwise vjps are compiled kernels; under `create_graph` they are tensors, and the
    same vjps run as recorded operations. Where `wanted` is given (by clock number), gradients are left there and
    nowhere else; they go on from there only if `through`.
    """
    state = thread.state
    enabled, watchers, anomaly, place = state.enabled, state.watchers, state.anomaly, state.place
    state.enabled = create_graph
    # A tape lists what was asked for, not how gradients were found.
    state.watchers = watchers if create_graph else ()
    if anomaly is not None:
        outer, anomaly.backward = anomaly.backward, True
    try:
        with np.errstate(all="ignore"):
            _propagate(seeds, retain_graph, create_graph, wanted, through)
    except MemoryError as trouble:
        raise out_of_memory("backward", trouble, [node for node, _ in seeds]) from None
    finally:
        state.enabled, state.watchers, state.place = enabled, watchers, place
        if anomaly is not None:
            anomaly.backward = outer


def _propagate(
    seeds: list[tuple[Node, Tensor]],
    retain_graph: bool,
    create_graph: bool,
    wanted: dict[int, Any] | None,
    through: bool,
) -> None:
    nodes: dict[int, Node] = {}
    totals: dict[int, Any] = {}
    ours: set[int] = set()  # totals that are sums, or made for this alone, so nobody else holds their memory
    heap: list[int] = []
    reachable = _reachable([node for node, _ in seeds], wanted, through) if wanted is not None else None
    state = thread.state
    anomaly = state.anomaly

    def arrive(node: Node, g: Any) -> None:
        order = node.order
        if reachable is not None and order not in reachable:
            return
        total = totals.get(order)
        if total is None:
            nodes[order] = node
            heappush(heap, -order)
        if isinstance(g, Piece):
            if type(total) is not Pieces:
                total = Pieces(total if total is None or create_graph else Tensor(total))
                totals[order] = total
            total.add(g, node, not create_graph)
        elif total is None:
            totals[order] = g
        elif type(total) is Pieces:
            g = g if create_graph else Tensor(g)
            total.whole = g if total.whole is None else total.whole + g
        elif order in ours:
            np.add(total, g, out=total)
        else:
            totals[order] = total + g
            if not create_graph and type(totals[order]) is np.ndarray:
                ours.add(order)

    given = [] if create_graph else [start._array for _, start in seeds]
    for node, start in seeds:
        if anomaly is not None:
            anomaly.see_gradient(node, None, start, None)
        if create_graph:
            state.place = Place.of_gradient(node.place)
        arrive(node, _own(start) if create_graph else start._array)

    while heap:
        order = -heappop(heap)
        node, g = nodes.pop(order), totals.pop(order)
        if type(g) is Pieces:
            g = g.made(node)
            g = g if create_graph else g._array
        if node.hooks and any(np.may_share_memory(g, start) for start in given):
            g = copied(g)  # a hook may keep it, and the caller may write to what was given
        if (node.hooks or node.owner is not None) and (through or (wanted is not None and order not in wanted)):
            g = _delivered(node, g, order in ours, create_graph, wanted is None)
        if wanted is not None and order in wanted:
            wanted[order] = _own(g) if create_graph else Tensor(copied(g))
        op = node.op
        if op is None or (reachable is not None and not reachable[order]):
            continue
        if create_graph:
            state.place = Place.of_gradient(node.place)
        saved = node.saved
        if type(saved) is not tuple:
            saved = brought_back(node, retain_graph)
        elif writes.latest > order:
            writes.check(node, saved)
        if op.picks:
            whole = node.parents[0]
            assert whole is not None and node.settings is not None
            order = whole.order
            if reachable is None or order in reachable:
                if order not in totals:
                    nodes[order], totals[order] = whole, {}
                    heappush(heap, -order)
                totals[order][node.settings["number"]] = g
        elif op.joint is not None:
            for source, part in pull_joint(node, saved, g, create_graph, anomaly):
                if wanted is not None or create_graph or not _settled(source, part):
                    arrive(source, part)
        elif create_graph or not isinstance(op, Elementwise):
            g = g if create_graph else Tensor(g)
            for source, part in pull_whole(node, saved, g, create_graph, anomaly, reachable):
                arrive(source, part)
        else:
            for i, pull in op.pulls(node.wanted):
                parent = node.parents[i]
                assert parent is not None
                if reachable is not None and parent.order not in reachable:
                    continue
                part = pull(g, saved)
                if anomaly is not None:
                    anomaly.see_gradient(node, i, part, g)
                if part.shape != parent.shape:
                    part = summed_to(Tensor(np.asarray(part)), parent.shape)._array
                older = parent.order
                if older in totals:
                    arrive(parent, part)
                else:  # what `arrive` does first, without the call: most values are used once
                    nodes[older], totals[older] = parent, part
                    heappush(heap, -older)
        if not retain_graph:
            node.saved = None


def _reachable(seeds: list[Node], wanted: dict[int, Any], through: bool) -> dict[int, bool]:
    """The clock numbers of all nodes between the seeds and a wanted one; whether what is behind them leads there too.

    The rest of the graph is not run: its hooks stay silent, and it may be freed.
    """
    every: dict[int, Node] = {}
    stack = list(seeds)
    oldest = min(wanted, default=0)
    while stack:
        node = stack.pop()
        if node.order not in every:
            every[node.order] = node
            if not through and node.order in wanted:
                continue
            stack.extend(
                p for p, wants in zip(node.parents, node.wanted) if wants and p is not None and p.order >= oldest
            )
    found: dict[int, bool] = {}
    for order in sorted(every):
        behind = (through or order not in wanted) and any(
            p is not None and p.order in found for p in every[order].parents
        )
        if behind or order in wanted:
            found[order] = behind
    return found


_accumulating = lock_across_forks()


def _delivered(node: Node, g: Any, exclusive: bool, create_graph: bool, accumulate: bool) -> Any:
    """Show the gradient to the node's hooks, and leave it in the `grad` of the tensor that wants it."""
    if node.hooks:
        # A hook may keep what it sees, but not write to it: other tensors' gradients may be in the same memory.
        seen, exclusive = read_only(g._array if create_graph else np.asarray(g)), False
        tensor = Tensor(seen, g.node, g._requires_grad) if create_graph else Tensor(seen)
        state = thread.state
        enabled, state.enabled = state.enabled, create_graph
        try:
            for hook in list(node.hooks.values()):
                replaced = hook(tensor)
                if replaced is not None:
                    tensor = as_tensor(replaced).astype(node.dtype)
        finally:
            state.enabled = enabled
        if tensor.shape != node.shape:
            raise ShapeError("hook: the gradient it returned has another shape", expected=node.shape, got=tensor.shape)
        g = tensor if create_graph else tensor._array
    owner = node.owner() if node.owner is not None and accumulate else None
    if owner is None or not owner._requires_grad:
        return g
    with _accumulating:  # NumPy lets other threads run while it adds
        if create_graph:
            owner._grad = _own(g) if owner._grad is None else owner._grad + g
        elif owner._grad is not None:
            owner._grad = Tensor(np.asarray(owner._grad._array + g))
        else:
            owner._grad = Tensor(g if exclusive and node.op is None else copied(g))
    return g


def _settled(node: Node, g: Any) -> bool:
    """Leave a gradient, an array that nobody else holds, with a leaf at once. False for a node that is none, or has
    hooks, which see all that arrives as one."""
    if node.op is not None or node.hooks or node.owner is None:
        return False
    owner = node.owner()
    if owner is not None and owner._requires_grad:
        with _accumulating:
            owner._grad = Tensor(g if owner._grad is None else np.asarray(owner._grad._array + g))
    return True


def _own(g: Tensor) -> Tensor:
    """The gradient in memory of its own, as what arrives may be another input's; no leaf, though a leaf may arrive."""
    made: Tensor = astype(g, g.dtype)
    return made
