"""A program run over a whole sequence, and the node that it leaves on the tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import settings
from ..autograd.backward import grad, grad_up_to
from ..autograd.nest import leaves, like
from ..autograd.replay import joined, redirected
from ..autograd.tape import Node, Reads, enable_grad, is_grad_enabled, root_of, thread, tick
from ..autograd.tensor import Tensor
from ..kernels import jit, threads
from ..kernels.draw import masks
from ..kernels.machine import HEAD, PLACE
from ..kernels.memory import Block, empty
from ..ops.random import Draws, fresh_keys
from ..ops.shape import astype
from .build import Program, Source
from .forms import Recipe
from .layout import LIVE, SAVED, WORK, Gram, Layout
from .outside import Fixtures, Totals
from .plan import Key, Plan
from .ragged import Ragged


class Compiled:
    """A program and its kernels, and how its memory is laid out for each size of run."""

    def __init__(self, program: Program) -> None:
        self.program = program
        numbers = [value.number for value in program.next]
        #: For each output the part of the carry that it is, or None; and the parts that are outputs.
        self.carried = [numbers.index(y.number) if y.number in numbers else None for y in program.ys]
        self.shown = {i for i in self.carried if i is not None}
        self._functions: dict[str, dict[str, int]] = {}
        self._layouts: dict[Any, Layout] = {}

    def __call__(
        self,
        eager: Callable[[Any, Any], Any],
        carry: Any,
        xs: Any,
        reverse: bool,
        source: Source,
        ragged: Ragged | None,
    ) -> tuple[Any, Any]:
        """Run it: (carry, ys)."""
        return _Run(self, eager, carry, xs, reverse, source, ragged).forward()

    def layout(self, way: str, *key: Any) -> Layout:
        """The layout of a run "forward" or "backward" for this key, which is what `_forward` or `_backward` takes."""
        key = (way, settings.get_num_threads(), *key)
        found = self._layouts.get(key)
        if found is None:
            if len(self._layouts) >= 64:
                self._layouts.clear()
            found = self._layouts[key] = (self._forward if way == "forward" else self._backward)(*key[1:])
        return found

    def _sealed(self, layout: Layout, plan: Plan, strides: Any, grams: Sequence[Gram] = ()) -> Layout:
        functions = self._functions.get(plan.name)
        if functions is None:
            numbers = HEAD + PLACE * len(plan.places)
            functions = jit.rows(plan.name, plan.text, plan.functions, plan.dtype, numbers)
            self._functions[plan.name] = functions
        layout.seal(plan, functions, strides, grams)
        return layout

    def _saved(self, layout: Layout, keep: bool, first: int, forwards: bool) -> tuple[list[int], list[int]]:
        """Where the states lie, and what the forward run keeps: alike in both directions. Random masks are placed."""
        block = SAVED if keep else WORK
        steps, rows = layout.steps, layout.rows
        states = [
            layout.base(("state", i)) if i in self.shown else layout.room(block, steps + 1, rows, value.width)
            for i, value in enumerate(self.program.next)
        ]
        for i, mask in enumerate(self.program.low.masks):
            count = steps if mask.kind == "step" else 1
            address = layout.room(block, count, rows, mask.width)
            layout.spot(("mask", i), address, count, rows * mask.width)
            if mask.kind == "step":
                layout.over_time(("mask", i), address, mask.width, first, forwards)
            else:
                layout.same(("mask", i), address, mask.width * layout.dtype.itemsize)
        return states, [layout.room(block, steps if keep else 1, rows, v.width) for v in self.program.kept]

    def _forward(self, threads: int, steps: int, ragged: bool, forwards: bool, keep: bool, strides: _Strides) -> Layout:
        program = self.program
        layout = Layout(steps, program.rows, program.dtype, threads, ragged)
        first, start, after = (0, 0, 1) if forwards else (steps - 1, steps, steps - 1)
        states, kept = self._saved(layout, keep, first, forwards)
        for i, (address, value) in enumerate(zip(states, program.next)):
            layout.over_time(("carry", i), address, value.width, start, forwards)
            layout.over_time(("next", i), address, value.width, after, forwards)
            if i not in self.shown:
                layout.spot(("carry", i), address, steps + 1, layout.rows, value.width)
        for i, (value, carry) in enumerate(zip(program.ys, self.carried)):
            if carry is None:
                layout.over_time(("y", i), layout.base(("y", i)), value.width, first, forwards)
        for i, (address, value) in enumerate(zip(kept, program.kept)):
            if keep:
                layout.over_time(("kept", i), address, value.width, first, forwards)
            else:
                layout.same(("kept", i), address, value.width * program.dtype.itemsize)
        strides.place(layout, first, forwards)
        return self._sealed(layout, program.forward, strides.matrices)

    def _backward(
        self, threads: int, steps: int, ragged: bool, forwards: bool, strides: _Strides,
        arrived: tuple[tuple[int, int] | None, ...],
    ) -> Layout:  # fmt: skip
        program, low = self.program, self.program.low
        layout = Layout(steps, program.rows, program.dtype, threads, ragged)
        back = not forwards
        first, start, after = (0, 0, 1) if back else (steps - 1, steps, steps - 1)
        states, kept = self._saved(layout, True, first, back)
        for i, (value, flow) in enumerate(zip(program.next, program.flows)):
            if flow:
                address = layout.room(WORK, steps + 1, layout.rows, value.width)
                layout.over_time(("carry", i), address, value.width, start, back)
                layout.over_time(("next", i), address, value.width, after, back)
                layout.spot(("carry", i), address, steps + 1, layout.rows, value.width)
        for i, (address, value) in enumerate(zip(states, program.next)):
            layout.over_time(("state", i), address, value.width, after, back)
            layout.over_time(("after", i), address, value.width, start, back)
        for i, (value, carry) in enumerate(zip(program.ys, self.carried)):
            if carry is None:
                layout.over_time(("y", i), layout.base(("y", i)), value.width, first, back)
        for i, (address, value) in enumerate(zip(kept, program.kept)):
            layout.over_time(("kept", i), address, value.width, first, back)
        for key, width in program.times.items():
            layout.over_time(key, layout.room(WORK, steps, layout.rows, width), width, first, back)
        for i, of_x in enumerate(program.x_gradients):
            if of_x is not None:
                layout.over_time(("dx", i), layout.base(("dx", i)), of_x.width, first, back)
        nothing = max([v.width for v, g in zip(program.ys, arrived) if g is None], default=0)
        sums = sorted(program.used_sums)
        width = sum(low.sums[i].width for i in sums)
        zeros = layout.room(WORK, layout.rows * width + nothing)
        layout.spot(("zeros", 0), zeros, layout.rows * width + nothing)
        for i in sums:
            layout.same(("sum", i), zeros, low.sums[i].width * program.dtype.itemsize)
            layout.spot(("sum", i), zeros, layout.rows, low.sums[i].width)
            zeros += layout.rows * low.sums[i].width * program.dtype.itemsize
        for i, g in enumerate(arrived):
            if g is None:
                layout.same(("dy", i), zeros)
            else:
                layout.strided(("dy", i), layout.base(("dy", i)), *g, first, back)
        strides.place(layout, first, back)
        grams: list[Gram] = []
        for i in program.used_grams:
            (left, right), (left_place, right_place) = low.grams[i], program.gram_places[i]
            same = [gram for gram in grams if gram.left == left_place and gram.columns == left.width]
            if not same:
                same = [Gram(left_place, left.width, [])]
                grams += same
            same[0].partners.append((right_place, right.width, ("gram", i)))
        assert program.backward is not None
        return self._sealed(layout, program.backward, strides.matrices, grams)


class _Strides(NamedTuple):
    """Those of what comes from outside, in bytes: of each x (a step, a row), each matrix, what is fixed a row."""

    xs: tuple[tuple[int, int], ...]
    matrices: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    vectors: int

    def place(self, layout: Layout, first: int, forwards: bool) -> None:
        """Put all of it into a layout."""
        for i, (step, row) in enumerate(self.xs):
            layout.strided(("x", i), layout.base(("x", i)), step, row, first, forwards)
        for i, row in enumerate(self.rows):
            layout.same(("row", i), layout.base(("row", i)), row)
        for i in range(self.vectors):
            layout.same(("vector", i), layout.base(("vector", i)))


class _Run:
    """One run: its memory, and how to go back."""

    def __init__(
        self, compiled: Compiled, eager: Callable[[Any, Any], Any], carry: Any, xs: Any, reverse: bool, source: Source,
        ragged: Ragged | None,
    ) -> None:  # fmt: skip
        self.compiled, self.eager, self.forwards = compiled, eager, not reverse
        self.carry_nest, self.x_nest, self.keys = carry, xs, source.keys
        low = compiled.program.low
        self.inputs = [*leaves(carry), *leaves(xs)]
        self.ragged = ragged
        self.steps = self.inputs[-1].shape[0] if ragged is None else ragged.longest
        # Of each row, the place in time of the state that it starts from, and of its last.
        ends: Any = self.steps if ragged is None else (ragged.lengths, np.arange(len(ragged.lengths)))
        self.start: Any
        self.end: Any
        self.start, self.end = (0, ends) if self.forwards else (ends, 0)
        self.fixtures = Fixtures(low, source.tensors)
        outer = [self.fixtures[n] for n, made in enumerate(low.fixtures) if not isinstance(made, Recipe)]
        self.outer = [t for t in outer if t._requires_grad]
        self._take(self.inputs[len(compiled.program.next) :])

    def forward(self) -> tuple[Any, Any]:
        """Run all steps: (carry, ys), which lead back here."""
        program, steps, shown = self.compiled.program, self.steps, self.compiled.shown
        keep = is_grad_enabled() and program.backward is not None
        layout = self.compiled.layout("forward", steps, self.ragged is not None, self.forwards, keep, self.strides)
        threads.ready(layout.parts)
        saved = Block(layout.sizes[SAVED]) if SAVED in layout.sizes else None
        self.made = self._outputs()
        self.addresses = {key: array.ctypes.data for key, array in (self.given | self.made).items()}
        if saved is not None:
            self.addresses[SAVED] = saved.address
        work = Block(layout.sizes.get(WORK, 0))
        block = saved or work
        states = [
            self.made["state", i] if i in shown else block.array(*layout.spots["carry", i], program.dtype)
            for i in range(len(program.next))
        ]
        self._draw(layout, block)
        for state, part in zip(states, self.inputs):
            state[self.start] = self._sorted(part._array.reshape(program.rows, -1), 0)
        self._go(layout, work, {}, self.forwards)
        arrays = [self._unsorted(state[self.end], part.shape) for state, part in zip(states, self.inputs)]
        for i, (carry, shape) in enumerate(zip(self.compiled.carried, program.y_shapes)):
            y = self.made["y", i] if carry is None else self.made["state", carry]
            y = y if carry is None else y[1:] if self.forwards else y[:-1]
            y = y if self.ragged is None else self.ragged.whole(y)
            arrays.append(y.reshape(len(y), program.rows, *shape))
        flows = [*program.flows, *program.ys_flow]
        if keep and any(flows):
            self.read = Reads([root_of(array) for array in self.made.values()])
            held = () if saved is None else (saved.memory, saved)  # the node's: gone after backward
            tensors = joined(self, [*self.inputs, *self.outer], arrays, flows, held)
        else:
            tensors = [Tensor(array) for array in arrays]
        outputs = iter(tensors)  # not kept here, or run and tensors would hold each other
        return like(program.carry, outputs), like(program.y, outputs)

    def _sorted(self, array: Any, axis: int) -> Any:
        """An array's rows in the order in which they run."""
        return array if self.ragged is None else self.ragged.sorted(array, axis)

    def _unsorted(self, rows: Any, shape: tuple[int, ...]) -> Any:
        """Rows in the order in which they were given, in memory of their own."""
        return np.array(rows if self.ragged is None else rows[self.ragged.back]).reshape(shape)

    def _over_time(self, array: Any) -> Any:
        """An array (T, B, ...) as (steps, B, n), in the order in which its rows run."""
        return _flat(self._sorted(array[: self.steps], 1), self.steps, self.compiled.program.rows)

    def _outputs(self) -> dict[Key, Any]:
        """Memory for what is returned: states that are outputs, with the one before the first, and other outputs."""
        program, shape = self.compiled.program, (self.steps, self.compiled.program.rows)
        made: dict[Key, Any] = {}
        for i in self.compiled.shown:
            made["state", i] = empty((shape[0] + 1, shape[1], program.next[i].width), program.dtype)
        for i, (value, carry) in enumerate(zip(program.ys, self.compiled.carried)):
            if carry is None:
                made["y", i] = empty((*shape, value.width), program.dtype)
        return made

    def __repr__(self) -> str:
        return "scan"

    def _take(self, inputs: Sequence[Tensor]) -> None:
        """The arrays that come from outside, by their names, and their strides."""
        low, rows = self.compiled.program.low, self.compiled.program.rows
        self.given: dict[Key, Any] = {}
        for i, x in enumerate(inputs):
            self.given["x", i] = self._over_time(x._array)
        for i, n in enumerate(low.matrices):
            matrix = self.fixtures[n]._array
            along = matrix.itemsize in matrix.strides  # kernels read along a row or a column
            self.given["matrix", i] = matrix if along else np.ascontiguousarray(matrix)
        for i, n in enumerate(low.vectors):
            self.given["vector", i] = np.ascontiguousarray(self.fixtures[n]._array)
        for i, n in enumerate(low.per_row):
            self.given["row", i] = np.ascontiguousarray(self._sorted(self.fixtures[n]._array, 0)).reshape(rows, -1)
        self.strides = _Strides(
            tuple([self.given["x", i].strides[:2] for i in range(len(inputs))]),
            tuple([self.given["matrix", i].strides for i in range(len(low.matrices))]),
            tuple([self.given["row", i].strides[0] for i in range(len(low.per_row))]),
            len(low.vectors),
        )

    def _draw(self, layout: Layout, block: Block) -> None:
        """Fill the random masks: a key for each at every step, or one for all, as the steps one by one would."""
        program = self.compiled.program
        with Draws() as self.draws:
            drawn = fresh_keys(program.draws, self.steps)
        for i, mask in enumerate(program.low.masks):
            if mask.kind == "step":
                keys = drawn[mask.key] if self.forwards else drawn[mask.key][::-1]
            else:
                keys = np.array([self.keys[mask.key] if mask.kind == "sequence" else mask.key])
            masks(np.ascontiguousarray(keys, np.uint64), mask.p, block.array(*layout.spots["mask", i], program.dtype))

    def _go(self, layout: Layout, work: Block, more: dict[Key, Any], forwards: bool) -> None:
        """Run the kernels on what is given, the memory of the run and of `more`."""
        if self.ragged is not None:
            more = more | {LIVE: np.ascontiguousarray(self.ragged.live[: self.steps][:: 1 if forwards else -1])}
        known = self.addresses | {key: array.ctypes.data for key, array in more.items()}
        known[WORK] = work.address
        table = layout.table(known)
        threads.run(layout.work, table.ctypes.data, layout.jobs, layout.parts)

    # --- Back ---

    def gradients(self, tensors: Sequence[Tensor], arrived: list[Any]) -> list[Any]:
        """The gradients of the carry, of xs and of what is closed over, from those of the outputs (None for none)."""
        self.read.check("scan: an output")
        if is_grad_enabled():
            return self._eagerly(tensors, arrived)
        program = self.compiled.program
        low, dtype, steps, rows = program.low, program.dtype, self.steps, program.rows
        count = len(program.next)
        given = {i: self._over_time(g._array) for i, g in enumerate(arrived[count:]) if g is not None}
        kinds = tuple([given[i].strides[:2] if i in given else None for i in range(len(program.ys))])
        layout = self.compiled.layout("backward", steps, self.ragged is not None, self.forwards, self.strides, kinds)
        threads.ready(layout.parts)
        work, more = Block(layout.sizes.get(WORK, 0)), {("dy", i): g for i, g in given.items()}
        xs = [None if of_x is None else empty((steps, rows, of_x.width), dtype) for of_x in program.x_gradients]
        more |= {("dx", i): dx for i, dx in enumerate(xs) if dx is not None}
        found = {i: empty((low.grams[i][0].width, low.grams[i][1].width), dtype) for i in program.used_grams}
        more |= {("gram", i): total for i, total in found.items()}

        def spot(key: Key) -> Any:
            return work.array(*layout.spots[key], dtype)

        spot(("zeros", 0))[...] = 0
        carries = {i: spot(("carry", i)) for i, flow in enumerate(program.flows) if flow}
        for i, carry in carries.items():
            g = arrived[i]
            carry[self.end] = 0 if g is None else self._sorted(g._array.reshape(rows, -1), 0)
        self._go(layout, work, more, not self.forwards)
        made: list[Any] = []
        for i, shape in enumerate(program.carry_shapes):
            wanted = i in carries and self.inputs[i]._requires_grad
            made.append(Tensor(self._unsorted(carries[i][self.start], (rows, *shape))) if wanted else None)
        for g, x in zip(xs, leaves(self.x_nest)):
            g = g if g is None or self.ragged is None else self.ragged.whole(g)
            made.append(None if g is None else Tensor(g.reshape(x.shape)))
        sums = {i: spot(("sum", i)) for i in program.used_sums}
        sums = {i: t.sum(0, dtype=np.float64) if rows > 1 else np.array(t[0]) for i, t in sums.items()}
        totals = Totals(self.fixtures, sums, found)
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
            more = grad_up_to([t for t, _ in seeds], self.outer, [g for _, g in seeds], create_graph=False)
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
            with enable_grad(), self.draws.repeated():
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


def _flat(array: Any, steps: int, rows: int) -> Any:
    """An array (steps, B, ...) as (steps, B, n), each row in one piece."""
    flat = array.reshape(steps, rows, -1)
    return flat if flat.strides[2] == flat.itemsize or flat.shape[2] == 1 else np.ascontiguousarray(flat)
