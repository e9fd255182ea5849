"""The gradient of one step: the operations' own vjps, traced on the tape and lowered like the step itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...autograd import tape
from ...autograd.backward import grad_up_to
from ...autograd.tape import enable_grad
from ...autograd.tensor import Tensor
from ...ir.nodes import Node
from ...ir.program import Direction, Gemm, Key, Program, Wanted, given_of
from ...kernels import scalar
from .forms import CapturedConstant, Row, Total
from .lower import lower
from .lowering import Lowering
from .trace import NotFused, Trace


@dataclass(frozen=True)
class TracedStep:
    """One step as traced: its operations, the leaves that it started from, and those that it returned."""

    trace: Trace
    starts: list[Tensor]
    given: list[Tensor]
    after: list[Tensor]
    outputs: list[Tensor]


def node_of(tensor: Tensor) -> tape.Node:
    """The node of a tensor of a trace, where every one has one."""
    assert tensor.node is not None
    return tensor.node


@dataclass(frozen=True)
class Gradient:
    """The gradient of one step, beside the program.

    Attributes:
        x: for each x its gradient, or None.
        of_captures: of captured tensors, by number, their total.
        unused: parts of the carry that no step takes.
        gemms: the numbers of the weight-gradient GEMMs that gradients are made of.
        sums: of the sums over rows those that no GEMM makes; `beside` has the others, and the GEMM whose right side
            each is the sum of: they are GEMMs of ones.
    """

    x: list[Node | None]
    of_captures: dict[int, Any]
    unused: set[int]
    gemms: list[int]
    sums: set[int]
    beside: dict[int, int]


@dataclass(frozen=True)
class RequiresGrad:
    """Where gradients go, as they would in the loop.

    Attributes:
        carry: for each part of the carry, whether one goes through it at any step.
        ys: for each output, whether one goes to it at any step.
        course: the same of the carry after 0, 1, 2, ... steps, until it comes back to what it was at `again`.
    """

    carry: list[bool]
    ys: list[bool]
    course: list[tuple[bool, ...]]
    again: int

    def after(self, steps: int) -> tuple[bool, ...]:
        """To which parts of the carry after so many steps."""
        if steps >= len(self.course):
            steps = self.again + (steps - self.again) % (len(self.course) - self.again)
        return self.course[steps]


def flowing(step: TracedStep, needs: Sequence[bool], needs_x: Sequence[bool]) -> RequiresGrad:
    """Where gradients go, of a carry and an x of which these want one."""
    made = {node_of(x).order for x in (*step.starts, *step.given)} | {one.node.order for one in step.trace.done}

    def wanting(flows: Sequence[bool], results: Sequence[Tensor]) -> tuple[bool, ...]:
        """Which results of a step want one, whose carry wants these."""
        given = zip((*step.starts, *step.given), (*flows, *needs_x))
        found = {node_of(x).order for x, flow in given if flow}

        def wants(tensor: Tensor) -> bool:
            inside = tensor.node is not None and tensor.node.order in made
            return node_of(tensor).order in found if inside else tensor._requires_grad

        for one in step.trace.done:
            if any(w and wants(x) for w, x in zip(one.node.wanted, one.inputs) if x is not None):
                found.add(one.node.order)
        return tuple([wants(result) for result in results])

    course = [tuple(needs)]
    ys = list(wanting(needs, step.outputs))
    while True:
        now = wanting(course[-1], step.after)
        if now in course:
            return RequiresGrad([any(flows) for flows in zip(*course)], ys, course, course.index(now))
        course.append(now)
        ys = [a or b for a, b in zip(ys, wanting(now, step.outputs))]


def differentiate(
    low: Lowering,
    step: TracedStep,
    program: Program,
    results: tuple[Sequence[Node], Sequence[Node]],
    flows: tuple[Sequence[bool], Sequence[bool]],
    wants_x: Sequence[bool],
    listed: list[str] | None,
) -> tuple[Program, Gradient]:
    """The program with its backward direction.

    Args:
        results: the nodes of the next carry, and of the outputs.
        flows: to which of these gradients arrive.
        wants_x: which x wants one.
        listed: where to put the gradient's operations as traced, if anywhere.
    """
    seeds = _arriving(low, step, results, flows)
    used = dict.fromkeys([*low.vectors, *low.matrices, *low.per_row])
    boundary = [n for n in used if low.tensors[n]._requires_grad]
    per_row = set(low.per_row)
    if any(n in per_row for n in boundary):
        raise NotFused("a fixed value with a batch axis needs a gradient")
    wanted = [
        *[one for one, flow in zip(step.starts, flows[0]) if flow],
        *[one for one, wants in zip(step.given, wants_x) if wants],
        *[low.tensors[n] for n in boundary],
    ]
    ones = [Tensor(np.ones(tensor.shape, tensor.dtype)) for tensor, _ in seeds]
    for one in ones:
        one.node = tape.Node.leaf(one._array)
    found, trace = _traced([tensor for tensor, _ in seeds], wanted, ones)
    if listed is not None:
        listed.append(tape.wengert([one.node for one in trace.done]))
    for one, (_, node) in zip(ones, seeds):
        low.know(node_of(one), Row(node, one.shape[1:]))
    forward = len(low.step.nodes)
    lower(low, trace)
    made = iter(found)
    of_carry = [next(made) if flow else None for flow in flows[0]]
    of_x = [next(made) if wants else None for wants in wants_x]
    nodes = [_gradient(low, g, node.width) if flow else None for g, flow, node in zip(of_carry, flows[0], results[0])]
    x = [None if g is None else _gradient(low, g, math.prod(one.shape[1:])) for g, one in zip(of_x, step.given)]
    of_captures = {}
    for n, g in zip(boundary, made):
        if g is not None:
            of_captures[n] = low.of(g)
            if isinstance(of_captures[n], Row):
                raise NotFused("a gradient of what is fixed is no sum over rows")
    sums, gemms = _used(low, of_captures)
    rights = {low.gemms[i][1].number: i for i in gemms}
    beside = {i: rights[low.sums[i].number] for i in sums if low.sums[i].number in rights}
    sums -= beside.keys()
    unused = {i for i, g in enumerate(of_carry) if g is None}
    gradient = Gradient(x, of_captures, unused, gemms, sums, beside)
    return replace(program, backward=_backward(low, gradient, nodes, results, forward)), gradient


def _arriving(
    low: Lowering, step: TracedStep, results: tuple[Sequence[Node], Sequence[Node]], flows: Any
) -> list[tuple[Tensor, Node]]:
    """The tensors that gradients arrive at, each once, with what arrives."""
    arriving = [
        (tensor, low.step.input((name, i), node.shape))
        for name, tensors, nodes, flow in zip(
            ("carry gradient", "output gradient"), (step.after, step.outputs), results, flows
        )
        for i, (tensor, node, flows) in enumerate(zip(tensors, nodes, flow))
        if flows
    ]
    seeds: dict[int, tuple[Tensor, Node]] = {}
    for tensor, node in arriving:
        if tensor._requires_grad:  # else it is a constant, whatever arrives
            known = seeds.get(node_of(tensor).order)
            seeds[node_of(tensor).order] = tensor, node if known is None else low.step.map(scalar.add, known[1], node)
    return list(seeds.values())


def _traced(outputs: list[Tensor], wanted: list[Any], ones: list[Tensor]) -> tuple[list[Any], Trace]:
    """The gradients of what is wanted, and the operations that made them."""
    trace = Trace()
    with enable_grad(), trace:
        found = grad_up_to(outputs, wanted, ones, create_graph=True)
    return list(found), trace


def _gradient(low: Lowering, g: Any, width: int) -> Node:
    if g is None:
        return low.step.broadcast(low.step.constant(0.0), (width,))
    found = low.of(g)
    if isinstance(found, CapturedConstant):
        return low.step.broadcast(low.beside(found, g, g.shape), (width,))
    if not isinstance(found, Row):
        raise NotFused("a gradient of rows is a sum over them")
    return low.full(found)


def _used(low: Lowering, totals: Mapping[int, Any]) -> tuple[set[int], list[int]]:
    """Which sums and GEMMs totals are made of."""
    sums: set[int] = set()
    gemms: dict[int, None] = {}
    seen: set[int] = set()
    stack = list(totals.values())
    while stack:
        one = stack.pop()
        if not isinstance(one, Total) or one.number in seen:
            continue
        seen.add(one.number)
        made = low.totals[one.number]
        if isinstance(made, tuple) and made[0] == "sum":
            sums.add(made[1])
        elif isinstance(made, tuple) and made[0] == "gemm":
            gemms[made[1]] = None
        else:
            stack += made.operands
    return sums, list(gemms)


def _backward(
    low: Lowering,
    gradient: Gradient,
    carry: Sequence[Node | None],
    results: tuple[Sequence[Node], Sequence[Node]],
    forward: int,
) -> Direction:
    wanted = [Wanted(node, ("next", i)) for i, node in enumerate(carry) if node is not None]
    wanted += [Wanted(node, ("dx", i)) for i, node in enumerate(gradient.x) if node is not None]
    wanted += [Wanted(node, ("sum", i), True) for i, node in enumerate(low.sums) if i in gradient.sums]
    gemms = [Gemm(*low.gemms[i], ("gemm", i)) for i in gradient.gemms]
    gemms += [Gemm(None, low.sums[i], ("sum", i)) for i in gradient.beside]
    given: dict[int, Key] = given_of(low.step.nodes, True)
    for name, nodes in zip(("after", "y"), results):  # these lie in memory, as they are returned
        for i, node in reversed(list(enumerate(nodes))):
            if node.number < forward:
                given.setdefault(node.number, (name, i))
    return Direction(given, tuple(wanted), tuple(gemms))
