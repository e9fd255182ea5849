"""A step as a program for kernels, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import tape
from ..autograd.pytree import leaves, map_leaves, unflatten
from ..autograd.tape import enable_grad, no_grad, thread, wengert
from ..autograd.tensor import Tensor
from ..ir.nodes import Input, Node
from ..ir.program import Direction, Program, Wanted, given_of
from ..kernels import scalar
from ..ops.random import RandomKey
from .front.differentiate import Gradient, TracedStep, differentiate, flowing, node_of
from .front.forms import DeferredOp, Row, ScalarInput
from .front.lower import lower
from .front.lowering import Lowering
from .front.trace import NotFused, Trace
from .passes.merge import merge
from .passes.rematerialise import rematerialise
from .passes.schedule import Schedule


class Draft:
    """Two steps, run on leaves of their own: what a program is made from.

    Args:
        step: the step.
        carry: the first carry.
        xs: x at two steps, which must do the same.
        needs_x: for each part of x, whether it wants a gradient.

    Attributes:
        first: the first step; `traces` of both.
        carry, y: what the first returned.
        captured: the tensors that both took from outside, by the clock numbers of their nodes.
    """

    def __init__(
        self,
        step: Callable[[Any, Any], tuple[Any, Any]],
        carry: Any,
        xs: Sequence[Any],
        needs_x: Sequence[bool],
    ) -> None:
        self.rows, self.dtype = _rows(list(leaves(carry)), list(leaves(xs[0])), needs_x)
        self.first, self.carry, self.y = one_step(step, carry, xs[0], needs_x)
        self.traces = [self.first.trace]
        for x in xs[1:]:
            again, _, _ = one_step(step, self.carry, x, needs_x)
            self.traces.append(again.trace)
            own = [*self.first.after, *self.first.outputs]
            self.first.trace.compare(again.trace, own, [*again.after, *again.outputs])
        self.captured = self.first.trace.captured(self.traces[-1])


class Planned:
    """What a step does, for one kind of carry, x and gradient.

    Args:
        draft: two steps, traced.
        needs: for each part of the carry, whether it wants a gradient; `needs_x` for each part of x.
        tensors, keys: those that the step reads.
        listed: whether to keep what `explain` shows.

    Attributes:
        stages: the program after each stage, by the stage's name, in order.
        forward, backward: the schedules; the second is None where no gradient is wanted.
        low: the nodes, and what they take from outside.
        flow: where gradients go; `flows` through which parts of the carry, `ys_flow` to which outputs.
        wants_x: for each x, whether it wants a gradient.
        traced: with `listed`, the operations of a step, and of its gradient.
        draws: for each key that a step draws, from where.
        whole: whether there are whole numbers in the carry or in x.
        next, ys: the nodes of the next carry and of the outputs.
        saved: nodes that the forward run saves for the gradient.
        x_gradients: of one step; `of_captures` for captured tensors (by number) their total.
        outline: what a step does, to be compared with one of other rows.
        repeatable: whether all that it takes from outside is among the tensors read.
        unused: parts of the carry that no step takes.
        used_gemms, used_sums, beside: as `Gradient` has them.
        gemm_places: for each GEMM, where its sides lie: a key, and an offset.
        times: widths of what is kept of all steps for GEMMs alone.
    """

    def __init__(
        self,
        draft: Draft,
        needs: Sequence[bool],
        needs_x: Sequence[bool],
        tensors: Sequence[Any],
        keys: Sequence[RandomKey],
        listed: bool,
    ) -> None:
        traced, self.listed = draft.first, listed
        self.rows, self.dtype, self.carry, self.y = draft.rows, draft.dtype, draft.carry, draft.y
        self.whole = any(part.dtype.kind in "iu" for part in (*traced.starts, *traced.given))
        self.draws = [key.source for key in traced.trace.draws.keys]
        self.traced = [wengert([one.node for one in traced.trace.done])] if listed else []
        program = self._lower(traced, keys)
        self.stages = {"lower": program}
        self.flow = flowing(traced, needs, needs_x)
        self.flows, self.ys_flow = self.flow.carry, self.flow.ys
        self.wants_x = [thread.state.enabled and wants for wants in needs_x]
        builder, made = self.low.step, len(self.low.step.nodes)
        gradient = Gradient([], {}, set(), [], set(), {})
        if thread.state.enabled and (any(self.flows) or any(self.ys_flow)):
            program, gradient = differentiate(
                self.low, traced, program, (self.next, self.ys), (self.flows, self.ys_flow), self.wants_x,
                self.traced if listed else None,
            )  # fmt: skip
            self.stages["differentiate"] = program
            self.stages["rematerialise"] = program = rematerialise(program, made)
        self.stages["merge"] = program = merge(program, builder)
        self.backward = None if program.backward is None else Schedule(program.backward, builder, "backward")
        self.forward = Schedule(program.forward, builder, "forward")
        self._take(gradient, program)
        self._bind(tensors, draft.captured)
        self.outline = traced.trace.outline()

    def _bind(self, tensors: Sequence[Any], captured: set[int]) -> None:
        """Find what is taken from outside among the tensors that the step reads."""
        low = self.low
        slots = {tensor.node.order: slot for slot, tensor in enumerate(tensors) if tensor.node is not None}
        outside = [(n, t.node.order) for n, t in enumerate(low.captures) if not isinstance(t, DeferredOp) and t.node]
        low.bound = {n: slots[order] for n, order in outside if order in slots}
        self.repeatable = {n for n, order in outside if order in captured} <= low.bound.keys()

    def release(self) -> None:
        """Keep nothing alive of the trace: runs take what is outside anew."""
        low = self.low
        self.carry, self.y = (map_leaves(lambda _: 0, tree) for tree in (self.carry, self.y))
        low.known, low.tensors = {}, []
        for n in low.bound:
            low.captures[n] = None

    def _take(self, gradient: Gradient, program: Program) -> None:
        """What the runs need to know."""
        self.saved = program.saved
        self.x_gradients, self.of_captures, self.unused = gradient.x, gradient.of_captures, gradient.unused
        self.used_gemms, self.used_sums, self.beside = gradient.gemms, gradient.sums, gradient.beside
        self.times = {} if self.backward is None else self.backward.times
        gemms = {} if self.backward is None else self.backward.gemms
        self.gemm_places = {i: (left, right) for (kind, i), (left, right) in gemms.items() if left is not None}

    # --- Lower ---

    def _lower(self, traced: TracedStep, source_keys: Sequence[RandomKey]) -> Program:
        """The step on rows."""
        keys = {int(key): ("step", i) for i, key in enumerate(traced.trace.draws.keys)}
        keys |= {int(key): ("sequence", i) for i, key in enumerate(source_keys)}
        self.low = low = Lowering(self.rows, self.dtype, keys)
        for i, start in enumerate(traced.starts):
            low.know(node_of(start), Row(low.step.input(("carry", i), (_size(start),)), start.shape[1:]))
        for i, one in enumerate(traced.given):
            value: Node = low.step.input(("x", i), (_size(one),))
            if one.dtype.kind == "b":  # in memory it is 1 and 0
                value = low.step.map(scalar.greater, value, low.step.constant(0.0))
            found = Row(value, one.shape[1:]) if one.ndim else ScalarInput()
            low.know(node_of(one), found)
        lower(low, traced.trace)
        self.next = [self._row(part) for part in traced.after]
        self.ys = [self._row(part) for part in traced.outputs]
        self._limited()
        self.y_dtypes = [part.dtype for part in traced.outputs]
        self.y_shapes = [part.shape[1:] for part in traced.outputs]
        wanted = [Wanted(node, ("next", i)) for i, node in enumerate(self.next)]
        known = {node.number for node in self.next}
        wanted += [Wanted(node, ("y", i)) for i, node in enumerate(self.ys) if node.number not in known]
        return Program(Direction(given_of(low.step.nodes, False), tuple(wanted)))

    def _limited(self) -> None:
        """See that whole numbers stay below their limits from step to step."""
        for (name, i), limit in self.low.limits:
            node = self.next[i] if name == "carry" else None
            given = isinstance(node, Input) and node.source == (name, i)
            if node is not None and not given and self.low.below.get(node.number, math.inf) > limit:
                raise NotFused("a number in the carry may be beyond the table that it is looked up in")

    def _row(self, tensor: Any) -> Node:
        """The node of an output, in full."""
        found = self.low.of(tensor)
        if isinstance(found, ScalarInput):
            raise NotFused("an x without a batch axis is an output")
        if not isinstance(found, Row):
            if tensor.dtype != self.dtype:
                raise NotFused(f"an output of {tensor.dtype}")
            found = Row(self.low.beside(found, tensor, tensor.shape), tensor.shape[1:])
        node = self.low.full(found)
        if node.width == 0:
            raise NotFused("an output without elements")
        return node


def one_step(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, x: Any, needs_x: Sequence[bool]
) -> tuple[TracedStep, Any, Any]:
    """One step run: what it did, and the carry and y that it returned."""
    differentiable = thread.state.enabled
    starts = [_start(part._array, differentiable) for part in leaves(carry)]
    given = [_start(one._array, differentiable and wants) for one, wants in zip(leaves(x), needs_x)]
    trace = Trace([*starts, *given])
    quiet = np.errstate(all="ignore")  # padding may be anything
    with enable_grad() if differentiable else no_grad(), trace, trace.draws, quiet:
        made, y = step(unflatten(carry, iter(starts)), unflatten(x, iter(given)))
    trace.check()
    return TracedStep(trace, starts, given, list(leaves(made)), list(leaves(y))), made, y


def _size(tensor: Any) -> int:
    return math.prod(tensor.shape[1:])


def _start(array: Any, wants: bool) -> Tensor:
    """A leaf, with a node of its own even where it is a constant."""
    made = Tensor(array)
    made.node = tape.Node.leaf(array)
    if wants and array.dtype.kind == "f":
        made.requires_grad = True
    return made


def _rows(carry: Sequence[Any], xs: Sequence[Any], needs_x: Sequence[bool]) -> tuple[int, np.dtype[Any]]:
    """The size of the batch axis, and the dtype of all that is not whole numbers."""
    lone = [not x.ndim and not wants for x, wants in zip(xs, needs_x)]  # may be left aside by the step
    tensors = [*carry, *[x for x, alone in zip(xs, lone) if not alone]]
    if not tensors or any(not t.ndim for t in tensors):
        raise NotFused("the carry or x has no batch axis")
    sizes = {t.shape[0] for t in tensors}
    if any(part.dtype.kind == "b" for part in carry):
        raise NotFused("a part of the carry is truth values, which no kernel hands on")
    dtypes = {t.dtype for t in tensors if t.dtype.kind not in "iub"}
    if len(sizes) != 1:
        raise NotFused("the first axes of carry and x differ, so none is the batch")
    if len(dtypes) != 1 or next(iter(dtypes)).kind != "f":
        found = sorted({str(t.dtype) for t in tensors})
        raise NotFused(f"carry and x are of {', '.join(found)}, not of one floating dtype")
    if any(_size(t) == 0 for t in tensors) or 0 in sizes:
        raise NotFused("there are no elements")
    return sizes.pop(), dtypes.pop()
