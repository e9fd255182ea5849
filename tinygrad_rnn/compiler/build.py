"""A step as two plans: one that runs it over time, and one that brings gradients back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd.backward import grad_up_to
from ..autograd.nest import leaves, like, map_nest
from ..autograd.tape import Node, enable_grad, no_grad, thread, wengert
from ..autograd.tensor import Tensor
from ..kernels import scalar
from ..ops.random import RandomKey
from ..program.step import Value, reachable
from .forms import Fixed, Lone, Recipe, Row, Total
from .keep import chosen
from .lower import Lowering
from .merge import merged
from .plan import Key, Plan, Wanted
from .trace import NotFused, Trace, Traced

Step = Callable[[Any, Any], tuple[Any, Any]]


class Draft:
    """Two steps, run on leaves of their own: what a program is made from.

    Args:
        step: the step.
        carry: the first carry.
        xs: x at two steps, which must do the same.
        needs_x: for each part of x, whether it wants a gradient.

    Attributes:
        traces: what they did.
        starts, given: the leaves that the first started from: carry and x; `made`, `y` what it returned.
        captured: the tensors that both took from outside, by the clock numbers of their nodes.
    """

    def __init__(self, step: Step, carry: Any, xs: Sequence[Any], needs_x: Sequence[bool]) -> None:
        self.rows, self.dtype = _rows(list(leaves(carry)), list(leaves(xs[0])), needs_x)
        self.carry_before = carry
        first, self.starts, self.given, self.carry, self.y = _traced(step, carry, xs[0], needs_x)
        self.traces = [first]
        for x in xs[1:]:
            again, _, _, *made = _traced(step, self.carry, x, needs_x)
            self.traces.append(again)
            first.compare(again, leaves((self.carry, self.y)), leaves(made))
        self.captured = first.captured(self.traces[-1])


def _traced(step: Step, carry: Any, x: Any, needs_x: Sequence[bool]) -> tuple[Trace, Any, Any, Any, Any]:
    """One step run: what it did, the leaves that it started from, and what it returned."""
    differentiable = thread.state.enabled
    starts = [_start(part._array, differentiable) for part in leaves(carry)]
    given = [_start(one._array, differentiable and wants) for one, wants in zip(leaves(x), needs_x)]
    trace = Trace([*starts, *given])
    quiet = np.errstate(all="ignore")  # padding may be anything
    with enable_grad() if differentiable else no_grad(), trace, trace.draws, quiet:
        made, y = step(like(carry, iter(starts)), like(x, iter(given)))
    trace.check()
    return trace, starts, given, made, y


#: A one at each step and in each row: the left side of a sum.
ONES: Key = ("ones", 0)


class Program:
    """What a step does, for one kind of carry, x and gradient.

    Args:
        draft: two steps, traced.
        needs: for each part of the carry, whether it wants a gradient; `needs_x` for each part of x.
        tensors, keys: those that the step reads.
        listed: whether to keep what `explain` shows.

    Attributes:
        low: the values, and what they take from outside.
        flows: for each part of the carry, whether a gradient goes through it; `ys_flow` for each output.
        wants_x: for each x, whether it wants a gradient.
        traced: with `listed`, the operations of a step, and of its gradient.
        draws: for each key that a step draws, from where.
        whole: whether there are whole numbers in the carry or in x.
        next, ys: the values of the next carry and of the outputs.
        forward, backward: the plans; the second is None where no gradient is wanted.
        kept: values that the first keeps for the second.
        repeatable: whether all that it takes from outside is among the tensors read.
        carry_gradients, x_gradients: of one step; `of_fixtures` for fixtures (by number) their total.
        unused: parts of the carry that no step takes.
        gram_places: for each gram, where its sides lie: a key, and an offset.
        used_grams, used_sums: the grams and sums that gradients are made of. Of the latter, `beside` has those that are
            of the right side of a gram, and which: they are sums of its products with ones.
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
        trace, starts, given = draft.traces[0], draft.starts, draft.given
        self.rows, self.dtype, self.carry, self.y = draft.rows, draft.dtype, draft.carry, draft.y
        self.whole = any(part.dtype.kind in "iu" for part in (*starts, *given))
        self.carry_shapes = [part.shape[1:] for part in starts]
        differentiable = thread.state.enabled
        self.draws = [key.source for key in trace.draws.keys]
        places = {int(key): ("step", i) for i, key in enumerate(trace.draws.keys)}
        places |= {int(key): ("sequence", i) for i, key in enumerate(keys)}
        self.listed = listed
        self.traced = [wengert([one.node for one in trace.done])] if listed else []
        self.low = low = Lowering(self.rows, self.dtype, places)
        for i, start in enumerate(starts):
            low.know(start.node, Row(low.step.input(("carry", i), _size(start)), start.shape[1:]))
        for i, one in enumerate(given):
            low.know(one.node, Lone() if not one.ndim else Row(low.step.input(("x", i), _size(one)), one.shape[1:]))
        low.run(trace)
        after, outputs = list(leaves(self.carry)), list(leaves(self.y))
        self.next = [self._row(part) for part in after]
        self.ys = [self._row(part) for part in outputs]
        self._limited()
        self.y_dtypes = [part.dtype for part in outputs]
        self.y_shapes = [part.shape[1:] for part in outputs]
        self.flows, self.ys_flow = self._flowing(trace.done, starts, given, after, outputs, needs, needs_x)
        self.wants_x = [differentiable and wants for wants in needs_x]
        self.kept: list[Value] = []
        self.backward: Plan | None = None
        self.of_fixtures: dict[int, Any] = {}
        if differentiable and (any(self.flows) or any(self.ys_flow)):
            self._reverse(starts, given, after, outputs)
        self.forward = self._forwards()
        slots = {tensor.node.order: slot for slot, tensor in enumerate(tensors) if tensor.node is not None}
        outside = [(n, t) for n, t in enumerate(low.fixtures) if not isinstance(t, Recipe)]
        low.bound = {n: slots[t.node.order] for n, t in outside if t.node is not None and t.node.order in slots}
        taken = {n for n, t in outside if t.node is not None and t.node.order in draft.captured}
        self.repeatable = taken <= low.bound.keys()

    def release(self) -> None:
        """Keep nothing alive of the trace: runs take what is outside anew."""
        low = self.low
        self.carry, self.y = (map_nest(lambda _: 0, nest) for nest in (self.carry, self.y))
        low.known, low.tensors = {}, []
        for n in low.bound:
            low.fixtures[n] = None

    def _limited(self) -> None:
        """See that whole numbers stay below their limits from step to step."""
        for (name, i), limit in self.low.limits:
            value = self.next[i] if name == "carry" else None
            given = value is None or value.setting == (name, i)
            if value is not None and not given and self.low.below.get(value.number, math.inf) > limit:
                raise NotFused("a number in the carry may be beyond the table that it is looked up in")

    def _row(self, tensor: Any) -> Value:
        """The value of an output, in full."""
        found = self.low.of(tensor)
        if isinstance(found, Lone):
            raise NotFused("an x without a batch axis is an output")
        if not isinstance(found, Row):
            if tensor.dtype != self.dtype:
                raise NotFused(f"an output of {tensor.dtype}")
            found = Row(self.low.beside(found, tensor, tensor.shape), tensor.shape[1:])
        value = self.low.full(found)
        if value.width == 0:
            raise NotFused("an output without elements")
        return value

    def _flowing(
        self, trace: list[Traced], starts: Any, given: Any, after: Any, outputs: Any, needs: Any, needs_x: Any
    ) -> tuple[list[bool], list[bool]]:
        """Through which parts of the carry gradients go, and to which outputs: as they would in the loop."""
        flows = list(needs)
        made = {x.node.order for x in (*starts, *given)} | {one.node.order for one in trace}
        while True:
            wanting = {x.node.order for x, flow in zip((*starts, *given), (*flows, *needs_x)) if flow}

            def wants(tensor: Any, wanting: set[int] = wanting) -> bool:
                if tensor.node is not None and tensor.node.order in made:
                    return tensor.node.order in wanting
                return bool(tensor._requires_grad)

            for one in trace:
                if any(w and wants(x) for w, x in zip(one.node.wanted, one.inputs) if x is not None):
                    wanting.add(one.node.order)
            found = [flow or wants(part) for flow, part in zip(flows, after)]
            if found == flows:
                return flows, [wants(one) for one in outputs]
            flows = found

    # --- The gradient ---

    def _reverse(self, starts: Any, given: Any, after: Any, outputs: Any) -> None:
        low, step = self.low, self.low.step
        seeds: dict[int, tuple[Any, Value]] = {}  # by the clock numbers of the nodes
        arriving = [
            (tensor, step.input((name, i), value.width))
            for name, tensors, values, flow in (
                ("carry gradient", after, self.next, self.flows),
                ("output gradient", outputs, self.ys, self.ys_flow),
            )
            for i, (tensor, value, flows) in enumerate(zip(tensors, values, flow))
            if flows
        ]
        for tensor, value in arriving:
            if tensor._requires_grad:  # else it is a constant, whatever arrives
                known = seeds.get(tensor.node.order)
                seeds[tensor.node.order] = (
                    tensor,
                    value if known is None else step.map(scalar.add, known[1], value),
                )
        used = dict.fromkeys([*low.vectors, *low.matrices, *low.per_row])
        self.boundary = [n for n in used if low.tensors[n]._requires_grad]
        if any(n in low.per_row for n in self.boundary):
            raise NotFused("a fixed value with a batch axis needs a gradient")
        wanted = [
            *[one for one, flow in zip(starts, self.flows) if flow],
            *[one for one, wants in zip(given, self.wants_x) if wants],
            *[low.tensors[n] for n in self.boundary],
        ]
        tensors = [tensor for tensor, _ in seeds.values()]
        ones: list[Any] = [_start(np.ones(tensor.shape, tensor.dtype), False) for tensor in tensors]
        trace = Trace()
        with enable_grad(), trace:
            found = grad_up_to(tensors, wanted, ones, create_graph=True)
        if self.listed:
            self.traced.append(wengert([one.node for one in trace.done]))
        for one, (_, value) in zip(ones, seeds.values()):
            low.know(one.node, Row(value, one.shape[1:]))
        forward = len(step.values)
        low.run(trace)
        results = iter(found)
        of_carry = [next(results) if flow else None for flow in self.flows]
        of_x = [next(results) if wants else None for wants in self.wants_x]
        self.unused = {i for i, g in enumerate(of_carry) if g is None}
        self.carry_gradients = [
            self._gradient(g, value.width) if flow else None for g, flow, value in zip(of_carry, self.flows, self.next)
        ]
        self.x_gradients = [None if g is None else self._gradient(g, _size(one)) for g, one in zip(of_x, given)]
        for n in self.boundary:
            g = next(results)
            if g is not None:
                known = low.of(g)
                if isinstance(known, Row):
                    raise NotFused("a gradient of what is fixed is no sum over rows")
                self.of_fixtures[n] = known
        self._plan_backward(forward)

    def _gradient(self, g: Any, width: int) -> Value:
        step = self.low.step
        if g is None:
            return step.spread(step.constant(0.0), width)
        found = self.low.of(g)
        if isinstance(found, Fixed):
            return self.low.step.spread(self.low.beside(found, g, g.shape), width)
        if not isinstance(found, Row):
            raise NotFused("a gradient of rows is a sum over them")
        return self.low.full(found)

    def _plan_backward(self, forward: int) -> None:
        step, low = self.low.step, self.low
        stored = {value.number: ("after", i) for i, value in enumerate(self.next)}
        stored = {value.number: ("y", i) for i, value in enumerate(self.ys)} | stored
        wanted = [Wanted(v, ("next", i)) for i, v in enumerate(self.carry_gradients) if v is not None]
        wanted += [Wanted(v, ("dx", i)) for i, v in enumerate(self.x_gradients) if v is not None]
        self._trim_totals()
        rights = {low.grams[i][1].number: i for i in self.used_grams}
        self.beside = {i: rights[low.sums[i].number] for i in self.used_sums if low.sums[i].number in rights}
        self.used_sums -= self.beside.keys()
        wanted += [Wanted(v, ("sum", i), True) for i, v in enumerate(low.sums) if i in self.used_sums]
        given: dict[int, Key] = {}
        carried = []
        for value in step.values:
            if value.operator == "input":
                name, i = value.setting
                given[value.number] = {
                    "carry": ("state", i), "carry gradient": ("carry", i), "output gradient": ("dy", i),
                }.get(name, (name, i))  # fmt: skip
                if name == "carry gradient":
                    carried.append(value)
            elif value.operator == "vector":
                given[value.number] = ("vector", value.setting)
        given = {**{n: key for n, key in stored.items() if n not in given and n < forward}, **given}
        sides = [side for i in self.used_grams for side in low.grams[i]]
        self.kept = chosen([w.value for w in wanted] + sides, given, forward)
        given |= {value.number: ("kept", i) for i, value in enumerate(self.kept)}
        became, wanted = self._merged(wanted, sides, given, carried)
        self._place_grams(wanted, given, became)
        self.times = {key: v.width for v, key, _ in wanted if key[0] == "time"}
        self.backward = Plan(step, given, wanted, carried, str(self.dtype), "backward")
        for key, offset in [place for places in self.gram_places.values() for place in places]:
            self.backward.place(key, offset)
        if self.beside:
            self.backward.place(ONES)

    def _merged(
        self, wanted: list[Wanted], more: list[Value], given: dict[int, Key], carried: list[Value]
    ) -> tuple[dict[int, Value], list[Wanted]]:
        """What the values wanted, and more, become when products are merged."""
        leading = [w.value for w in wanted if w.key[0] == "next"]
        numbers = [value.number for value in carried]
        became = merged(self.low.step, [*[w.value for w in wanted], *more], leading, given, numbers)
        return became, [w._replace(value=became[w.value.number]) for w in wanted]

    def _place_grams(self, wanted: list[Wanted], given: dict[int, Key], became: dict[int, Value]) -> None:
        """Choose where the sides of grams lie at all steps; those that do not yet are wanted too."""
        products = [v for v in reachable(became.values(), given) if v.operator == "product" and v.number not in given]
        whole = {
            part.number: (join, offset)
            for join in [product.operands[0] for product in products]
            if join.operator == "join" and join.number not in given
            for part, offset in zip(join.operands, join.setting)
        }
        lasting = {"state", "x", "dy", "after", "y", "kept"}
        held = {number: key for number, key in given.items() if key[0] in lasting}
        held |= {w.value.number: w.key for w in wanted if not w.add and w.key[0] == "dx"}

        def place(side: Value) -> tuple[Key, int]:
            base, offset = (side.operands[0], side.setting) if side.operator == "slice" else (side, 0)
            if base.number not in held:
                base, offset = whole.get(side.number, (side, 0))
            if base.number not in held:
                held[base.number] = ("time", sum(key[0] == "time" for key in held.values()))
                wanted.append(Wanted(base, held[base.number]))
            return held[base.number], offset

        self.gram_places: dict[int, tuple[tuple[Key, int], tuple[Key, int]]] = {}
        for i in self.used_grams:
            left, right = self.low.grams[i]
            self.gram_places[i] = place(became[left.number]), place(became[right.number])

    def _trim_totals(self) -> None:
        """Which sums and grams the gradients of fixtures are made of."""
        self.used_sums: set[int] = set()
        self.used_grams: list[int] = []
        stack = list(self.of_fixtures.values())
        while stack:
            one = stack.pop()
            if not isinstance(one, Total):
                continue
            made = self.low.totals[one.number]
            if isinstance(made, tuple) and made[0] == "sum":
                self.used_sums.add(made[1])
            elif isinstance(made, tuple) and made[0] == "gram":
                if made[1] not in self.used_grams:
                    self.used_grams.append(made[1])
            else:
                stack += made.operands

    def _forwards(self) -> Plan:
        step = self.low.step
        given: dict[int, Key] = {}
        carried = []
        for value in step.values:
            if value.operator == "input" and "gradient" not in value.setting[0]:
                given[value.number] = value.setting
                if value.setting[0] == "carry":
                    carried.append(value)
            elif value.operator == "vector":
                given[value.number] = ("vector", value.setting)
        wanted = [Wanted(value, ("next", i)) for i, value in enumerate(self.next)]
        known = {value.number for value in self.next}
        wanted += [Wanted(value, ("y", i)) for i, value in enumerate(self.ys) if value.number not in known]
        wanted += [Wanted(value, ("kept", i)) for i, value in enumerate(self.kept)]
        _, wanted = self._merged(wanted, [], given, carried)
        return Plan(step, given, wanted, carried, str(self.dtype), "forward")


def _size(tensor: Any) -> int:
    return math.prod(tensor.shape[1:])


def _start(array: Any, wants: bool) -> Tensor:
    """A leaf, with a node of its own even where it is a constant."""
    made = Tensor(array)
    made.node = Node.leaf(array)
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
    dtypes = {t.dtype for t in tensors if t.dtype.kind not in "iu"}
    if len(sizes) != 1:
        raise NotFused("the first axes of carry and x differ, so none is the batch")
    if len(dtypes) != 1 or next(iter(dtypes)).kind != "f":
        found = sorted({str(t.dtype) for t in tensors})
        raise NotFused(f"carry and x are of {', '.join(found)}, not of one floating dtype")
    if any(_size(t) == 0 for t in tensors) or 0 in sizes:
        raise NotFused("there are no elements")
    return sizes.pop(), dtypes.pop()
