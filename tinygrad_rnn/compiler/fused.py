"""A program run over a whole sequence, and the node that it leaves on the tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import settings
from ..autograd.backward import grad
from ..autograd.nest import leaves, like
from ..autograd.replay import joined, redirected
from ..autograd.tape import Node, enable_grad, is_grad_enabled, no_grad, thread, tick
from ..autograd.tensor import Tensor
from ..kernels import jit, threads
from ..kernels.machine import BLOCK, HEAD, PLACE, machine
from ..kernels.memory import empty, zeros
from ..ops.op import Elementwise
from ..ops.shape import astype
from .build import Program
from .forms import Recipe, Total
from .plan import Key, Plan, Product

#: Multiplications below which one thread does all: waking another takes longer.
SMALL = 3_000_000

#: Rows that are worked on at once before and after the steps.
TOGETHER = 256


class Memory:
    """The arrays of a run, by key; for each its address, and its bytes a step, within a chunk, a row and a part."""

    def __init__(self) -> None:
        self.at: dict[Key, tuple[int, int, int, int, int]] = {}
        self.held: list[Any] = []

    def hold(self, array: Any) -> Any:
        """Keep an array until the run is over."""
        self.held.append(array)
        return array

    def over_time(self, key: Key, array: Any, first: int, forwards: bool) -> None:
        """An array (steps, B, n), of which the first step's is at `first`."""
        step, row = array.strides[0], array.strides[1]
        self.at[key] = array.ctypes.data + first * step, step if forwards else -step, 0, row, 0
        self.held.append(array)

    def same(self, key: Key, array: Any) -> None:
        """An array (n,) or (B, n) that is the same at all steps."""
        self.at[key] = array.ctypes.data, 0, 0, array.strides[0] if array.ndim == 2 else 0, 0
        self.held.append(array)


class Kernels:
    """A plan's functions, compiled, and what they need of a table."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._addresses: dict[str, int] | None = None

    def addresses(self) -> dict[str, int]:
        """Of the row functions, by name."""
        if self._addresses is None:
            numbers = HEAD + PLACE * len(self.plan.places)
            self._addresses = jit.rows(self.plan.name, self.plan.text, self.plan.functions, self.plan.dtype, numbers)
        return self._addresses

    def run(
        self,
        memory: Memory,
        matrices: Sequence[Any],
        steps: int,
        rows: int,
        dtype: np.dtype[Any],
        grams: Sequence[Any] = (),
    ) -> None:
        """All steps; then the grams: (place of the left side, its columns, [(place, columns, array), ...])."""
        plan, size = self.plan, dtype.itemsize
        made = machine(size)
        products = [phase for phase in plan.phases if isinstance(phase, Product)]
        work = steps * rows * (sum(p.inner * p.width for p in products) + sum(g[1] * o[1] for g in grams for o in g[2]))
        parts = 1 if work < SMALL or rows < 2 else min(settings.get_num_threads(), rows)
        chunk = max(min(TOGETHER * parts // rows, steps), min(4, steps))
        for i, (width, lasting) in enumerate(plan.scratch):
            array = memory.hold(empty((chunk if lasting else 1, rows, width), dtype))
            memory.at["scratch", i] = array.ctypes.data, 0, array.strides[0] if lasting else 0, array.strides[1], 0
        packed: dict[tuple[int, bool], int] = {}
        packs = []
        for p in products:
            if p.matrix not in packed:
                matrix = matrices[p.matrix[0]].T if p.matrix[1] else matrices[p.matrix[0]]
                room = memory.hold(empty(((p.width + 64 // size) * p.inner + 1024,), dtype))
                packed[p.matrix] = room.ctypes.data
                packs += [matrix.ctypes.data, *matrix.strides, p.inner, p.width, room.ctypes.data, 0, 0]
        addresses, phases = self.addresses(), []
        for phase in plan.phases:
            if isinstance(phase, Product):
                phases += [1, phase.level, phase.source, phase.target, packed[phase.matrix], phase.inner, phase.width]
                phases.append(int(phase.onto))
            else:
                phases += [0, phase.level, addresses[phase.name], 0, 0, 0, 0, 0]
        places, jobs, panels = list(plan.places), [], 0
        for left, columns, partners in grams:
            jobs += [_index(places, left), columns, len(partners), 0, 0, 0, 0, 0]
            for right, width, array in partners:
                jobs += [_index(places, right), width, array.ctypes.data, array.strides[0], 0, 0, 0, 0]
            panels = max(panels, sum(width + 64 // size for _, width, _ in partners))
        room = parts * (-(-(BLOCK * (8 + panels) * size + 4096) // 64) * 64) if grams else 0
        scratch = memory.hold(empty((room,), np.dtype(np.uint8)))
        table: list[int] = [0] * HEAD
        for n, (key, offset) in enumerate(places):
            if n == len(plan.places):
                table += plan.numbers
            base, step, within, row, part = memory.at[key]
            table += [base + offset * size, step, within, row, part]
        if len(places) == len(plan.places):
            table += plan.numbers
        table[:5] = [steps, chunk, rows, len(table), len(phases) // 8]
        table += phases
        table[5:7] = [len(table), len(jobs) // 8]
        table += jobs
        table[7:9] = [len(table), len(packs) // 8]
        table += packs
        table[9:13] = [0, scratch.ctypes.data, room // parts, made.tiles]
        numbers = np.array(table, np.int64)
        threads.run(made.work, numbers.ctypes.data, ((0, parts), (1, parts), (2, parts if grams else 0)), parts)


def _index(places: list[tuple[Key, int]], place: tuple[Key, int]) -> int:
    if place not in places:
        places.append(place)
    return places.index(place)


class Compiled:
    """A program and its kernels."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.forward = Kernels(program.forward)
        self.backward = Kernels(program.backward) if program.backward is not None else None

    def __call__(self, eager: Callable[[Any, Any], Any], carry: Any, xs: Any, reverse: bool) -> tuple[Any, Any]:
        """Run it: (carry, ys)."""
        return _Run(self, eager, carry, xs, reverse).outputs


class _Run:
    """One run: its memory, and how to go back."""

    def __init__(
        self, compiled: Compiled, eager: Callable[[Any, Any], Any], carry: Any, xs: Any, reverse: bool
    ) -> None:
        self.compiled, self.eager, self.forwards = compiled, eager, not reverse
        self.carry_nest, self.x_nest = carry, xs
        program = compiled.program
        low, dtype = program.low, program.dtype
        parts, inputs = list(leaves(carry)), list(leaves(xs))
        self.steps, self.rows = inputs[0].shape[0], program.rows
        self.fixtures = _evaluated(low, [*low.vectors, *low.matrices, *low.per_row], is_grad_enabled())
        differentiable = is_grad_enabled() and program.backward is not None
        steps, rows = self.steps, self.rows
        memory = Memory()
        self.xs = [_flat(x._array, steps, rows) for x in inputs]
        self.states = [empty((steps + 1, rows, value.width), dtype) for value in program.next]
        start = 0 if self.forwards else steps
        for state, part in zip(self.states, parts):
            state[start] = part._array.reshape(rows, -1)
        for i, x in enumerate(self.xs):
            memory.over_time(("x", i), x, 0 if self.forwards else steps - 1, self.forwards)
        for i, state in enumerate(self.states):
            memory.over_time(("carry", i), state, start, self.forwards)
            memory.over_time(("next", i), state, 1 if self.forwards else steps - 1, self.forwards)
        numbers = [value.number for value in program.next]
        self.ys = []
        for i, value in enumerate(program.ys):
            if value.number in numbers:
                state = self.states[numbers.index(value.number)]
                self.ys.append(state[1:] if self.forwards else state[:-1])
            else:
                made = empty((steps, rows, value.width), dtype)
                memory.over_time(("y", i), made, 0 if self.forwards else steps - 1, self.forwards)
                self.ys.append(made)
        self.kept = []
        for i, value in enumerate(program.kept):
            made = empty((steps if differentiable else 1, rows, value.width), dtype)
            memory.over_time(("kept", i), made, 0 if self.forwards or not differentiable else steps - 1, self.forwards)
            if not differentiable:
                memory.same(("kept", i), made[0])
            self.kept.append(made)
        self._give_fixed(memory)
        self.matrices = [self.fixtures[n]._array for n in low.matrices]
        compiled.forward.run(memory, self.matrices, steps, rows, dtype)
        final = [
            (state[steps] if self.forwards else state[0]).reshape(part.shape) for state, part in zip(self.states, parts)
        ]
        ys = [y.reshape(steps, rows, *shape) for y, shape in zip(self.ys, program.y_shapes)]
        outer = [low.fixtures[n] for n in range(len(low.fixtures)) if not isinstance(low.fixtures[n], Recipe)]
        self.outer = [t for t in outer if t._requires_grad]
        arrays = [*final, *ys]
        flows = [*program.flows, *program.ys_flow]
        if differentiable and any(flows):
            tensors = joined(self, [*parts, *inputs, *self.outer], arrays, flows)
        else:
            tensors = [Tensor(a) for a in arrays]
        outputs = iter(tensors)
        self.outputs = like(program.carry, outputs), like(program.y, outputs)

    def __repr__(self) -> str:
        return "scan"

    def _give_fixed(self, memory: Memory) -> None:
        low = self.compiled.program.low
        for i, n in enumerate(low.vectors):
            memory.same(("vector", i), np.ascontiguousarray(self.fixtures[n]._array).reshape(-1))
        for i, n in enumerate(low.per_row):
            memory.same(("row", i), np.ascontiguousarray(self.fixtures[n]._array).reshape(self.rows, -1))

    # --- Back ---

    def gradients(self, tensors: Sequence[Tensor], arrived: list[Any]) -> list[Any]:
        """The gradients of the carry, of xs and of what is closed over, from those of the outputs (None for none)."""
        if is_grad_enabled():
            return self._eagerly(tensors, arrived)
        program = self.compiled.program
        low, dtype, steps, rows = program.low, program.dtype, self.steps, self.rows
        arrived = [None if g is None else g._array for g in arrived]
        assert self.compiled.backward is not None
        memory, back = Memory(), not self.forwards
        first = 0 if back else steps - 1
        count = len(self.states)
        gradients: list[Any] = []
        for i, (value, flow) in enumerate(zip(program.next, program.flows)):
            if not flow:
                gradients.append(None)
                continue
            d = empty((steps + 1, rows, value.width), dtype)
            g = arrived[i]
            d[0 if back else steps] = 0.0 if g is None else g.reshape(rows, -1)
            memory.over_time(("carry", i), d, 0 if back else steps, back)
            memory.over_time(("next", i), d, 1 if back else steps - 1, back)
            gradients.append(d)
        for i, (value, g) in enumerate(zip(program.ys, arrived[count:])):
            if g is None:
                memory.same(("dy", i), np.zeros(value.width, dtype))
            else:
                memory.over_time(("dy", i), _flat(g, steps, rows), first, back)
        for i, x in enumerate(self.xs):
            memory.over_time(("x", i), x, first, back)
        for i, state in enumerate(self.states):
            memory.over_time(("state", i), state, 1 if back else steps - 1, back)
            memory.over_time(("after", i), state, 0 if back else steps, back)
        for i, y in enumerate(self.ys):
            memory.over_time(("y", i), y, first, back)
        for i, kept in enumerate(self.kept):
            memory.over_time(("kept", i), kept, first, back)
        for key, width in program.times.items():
            memory.over_time(key, empty((steps, rows, width), dtype), first, back)
        xs: list[Any] = []
        for i, of_x in enumerate(program.x_gradients):
            xs.append(None if of_x is None else empty((steps, rows, of_x.width), dtype))
            if of_x is not None:
                memory.over_time(("dx", i), xs[i], first, back)
        self._give_fixed(memory)
        sums = {i: zeros((rows, low.sums[i].width), dtype) for i in program.used_sums}  # each row's over all steps
        for i, total in sums.items():
            memory.same(("sum", i), total)
        grams: list[Any] = []
        found: dict[int, Any] = {}
        for i in program.used_grams:
            left, right = low.grams[i]
            found[i] = empty((left.width, right.width), dtype)
            places = program.gram_places[i]
            same = [g for g in grams if g[0] == places[0] and g[1] == left.width]
            if same:
                same[0][2].append((places[1], right.width, found[i]))
            else:
                grams.append((places[0], left.width, [(places[1], right.width, found[i])]))
        self.compiled.backward.run(memory, self.matrices, steps, rows, dtype, grams)
        ends = [None if d is None else d[steps if back else 0] for d in gradients]
        made: list[Any] = [
            None if g is None else Tensor(g.reshape(rows, *shape)) for g, shape in zip(ends, program.carry_shapes)
        ]
        made += [None if g is None else Tensor(g.reshape(x.shape)) for g, x in zip(xs, leaves(self.x_nest))]
        totals = _Totals(low, {i: t.sum(0, dtype=np.float64) for i, t in sums.items()}, found)
        boundary = {n: totals.of(total) for n, total in program.of_fixtures.items()}
        return made + self._to_outer(boundary)

    def _to_outer(self, boundary: dict[int, Any]) -> list[Any]:
        """The gradients of what is closed over, from those of what the loop takes of it."""
        low = self.compiled.program.low
        direct: dict[int, Any] = {}
        seeds, taken = [], set()
        for n, g in boundary.items():
            fixture = self.fixtures[n]
            g = g.reshape(fixture.shape).astype(fixture.dtype, copy=id(g) in taken)  # each in memory of its own
            taken.add(id(boundary[n]))
            if isinstance(low.fixtures[n], Recipe):
                seeds.append((fixture, Tensor(g)))
            else:
                known = direct.get(id(fixture))
                direct[id(fixture)] = g if known is None else known + g
        found: list[Any] = [direct.get(id(t)) for t in self.outer]
        if seeds:
            more = grad([t for t, _ in seeds], self.outer, [g for _, g in seeds], allow_unused=True, retain_graph=True)
            for i, g in enumerate(more):
                if g is not None:
                    found[i] = g._array if found[i] is None else found[i] + g._array
        return [None if g is None else Tensor(g) for g in found]

    def again(
        self, starts: Sequence[Tensor], known: dict[int, Tensor] | None = None
    ) -> tuple[Sequence[Node], list[Tensor]]:
        """The steps run one by one on these inputs: the nodes, and the outputs.

        They lead to what is `known` for something that the step closes over (by order) instead of to that itself.
        """
        given, state, since = iter(starts), thread.state, tick()
        carry, xs = like(self.carry_nest, given), like(self.x_nest, given)
        watchers, state.watchers = state.watchers, ()
        try:
            with enable_grad():
                made = self.eager(carry, xs)
        finally:
            state.watchers = watchers
        nodes: dict[int, Node] = {}
        stack = [y.node for y in (*leaves(made[0]), *leaves(made[1])) if y.node is not None]
        while stack:
            node = stack.pop()
            if node.order > since and node.order not in nodes:
                nodes[node.order] = node
                stack += [p for p in node.parents if p is not None]
        ordered = [nodes[order] for order in sorted(nodes)]
        return ordered, redirected(ordered, known or {}, made)

    def _eagerly(self, tensors: Sequence[Tensor], arrived: list[Any]) -> list[Any]:
        """The same, from the step run one by one, which can be differentiated again."""
        # Names of their own for what the run starts from: its inner graph ends at them, whatever made the values.
        starts = [astype(t, t.dtype) if t._requires_grad else Tensor(t._array) for t in tensors]
        inputs = len(tensors) - len(self.outer)
        known = {t.node.order: start for t, start in zip(tensors[inputs:], starts[inputs:]) if t.node is not None}
        _, outputs = self.again(starts, known)
        chosen = [(y, g) for y, g in zip(outputs, arrived) if g is not None]
        wanted = [start for start in starts if start._requires_grad]
        found = iter(grad([y for y, _ in chosen], wanted, [g for _, g in chosen], create_graph=True, allow_unused=True))
        return [next(found) if start._requires_grad else None for start in starts]


class _Totals:
    """Sums over rows and steps, and what is made of them."""

    def __init__(self, low: Any, sums: dict[int, Any], grams: dict[int, Any]) -> None:
        self.low, self.sums, self.grams = low, sums, grams
        self._known: dict[int, Any] = {}

    def of(self, total: Any) -> Any:
        """The array of a total, or of a fixture."""
        if not isinstance(total, Total):
            return self.low.tensors[total.number]._array
        found = self._known.get(total.number)
        if found is None:
            found = self._known[total.number] = self._made(self.low.totals[total.number])
        return found

    def _made(self, made: Any) -> Any:
        if not isinstance(made, Recipe):
            return (self.sums if made[0] == "sum" else self.grams)[made[1]]
        operands: list[Any] = [None if o is None else self.of(o) for o in made.operands]
        if made.op == "reshape":
            return operands[0].reshape(made.settings["shape"]).copy()  # two gradients may be the same sum
        if made.op == "add":
            return operands[0] + operands[1]
        if made.op == "sum":
            return operands[0].sum(made.settings["axis"])
        with no_grad():
            return _replayed(
                made, [None if a is None else Tensor(np.asarray(a, self.low.dtype)) for a in operands]
            )._array


def _evaluated(low: Any, numbers: Sequence[int], record: bool) -> dict[int, Any]:
    """The fixtures, as they are now."""
    found: dict[int, Any] = {}

    def value(n: int) -> Any:
        if n not in found:
            made = low.fixtures[n]
            if isinstance(made, Recipe):
                made = _replayed(made, [None if o is None else value(o.number) for o in made.operands])
            found[n] = made
        return found[n]

    with enable_grad() if record else no_grad():
        for n in numbers:
            value(n)
    return found


def _replayed(recipe: Recipe, operands: list[Any]) -> Any:
    """A recipe on tensors."""
    if isinstance(recipe.op, Elementwise):
        return recipe.op.call(*[recipe.settings.get(name, x) for name, x in zip(recipe.op.inputs, operands)])
    return recipe.op.call(operands, dict(recipe.settings))


def _flat(array: Any, steps: int, rows: int) -> Any:
    """An array (steps, B, ...) as (steps, B, n), each row in one piece."""
    flat = array.reshape(steps, rows, -1)
    return flat if flat.strides[2] == flat.itemsize or flat.shape[2] == 1 else np.ascontiguousarray(flat)
