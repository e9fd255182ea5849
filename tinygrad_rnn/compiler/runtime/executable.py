"""A program, its kernels, and where the memory of each kind of run lies."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from ... import settings
from ...ir.program import Key
from ...kernels.codegen import jit
from ...kernels.runtime.table import Address, Head, Slot
from ..front.trace import NotFused
from ..passes.schedule import ONES, Schedule
from ..program import Planned
from .captures import Bound, Captures
from .gradient_buffers import GradientBuffers
from .layout import SAVED, WORK, Layout, WeightGemm


class Strides(NamedTuple):
    """Those of what comes from outside, in bytes: of each x (a step, a row), each matrix, what is fixed a row."""

    xs: tuple[tuple[int, int], ...]
    matrices: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]

    def place(self, layout: Layout, first: int, forwards: bool, vectors: int) -> None:
        """Put all of it into a layout."""
        for i, (step, row) in enumerate(self.xs):
            layout.strided(("x", i), Address(("x", i)), step, row, first, forwards)
        for i, row in enumerate(self.rows):
            layout.same(("row", i), Address(("row", i)), row)
        for i in range(vectors):
            layout.same(("vector", i), Address(("vector", i)))


class Taken:
    """What runs take from outside, as long as it is the same: `tensors` are those of `Source`."""

    def __init__(self, tensors: Sequence[Any], captures: Captures, bound: Bound) -> None:
        self.tensors, self.captures, self.bound = tensors, captures, bound
        inside = {id(t) for t in tensors}
        self._others = [t for t in captures.taken if id(t) not in inside]
        self._arrays, self._other_arrays = [t._array for t in tensors], [t._array for t in self._others]

    def hold(self, tensors: Sequence[Any]) -> bool:
        """Whether it is what a run of these tensors takes."""
        if tensors is not self.tensors:
            if not all(map(operator.is_, tensors, self.tensors)):
                return False
            if not all(map(operator.is_, [t._array for t in tensors], self._arrays)):
                return False
        return all(map(operator.is_, [t._array for t in self._others], self._other_arrays))


class Compiled:
    """A program and its kernels, and how its memory is laid out for each size of run.

    Args:
        program: what to run.
        holds: whether what runs take from outside may be kept alive between them.
    """

    def __init__(self, program: Planned, holds: bool) -> None:
        self.program, self._holds = program, holds
        numbers = [value.number for value in program.next]
        #: For each output the part of the carry that it is, or None; and the parts that are outputs.
        self.carried = [numbers.index(y.number) if y.number in numbers else None for y in program.ys]
        self.shown = {i for i in self.carried if i is not None}
        #: For each array that is returned over time its name, how many steps it has before the first, and its width.
        self.outputs: list[tuple[Key, int, int]] = [(("state", i), 1, program.next[i].width) for i in self.shown]
        self.outputs += [(("y", i), 0, y.width) for i, y in enumerate(program.ys) if self.carried[i] is None]
        low = program.low
        self.gradient_buffers = GradientBuffers(program)
        #: Those that kernels read, by their numbers among the captures.
        self.shapes = {n: low.tensors[n].shape for n in (*low.matrices, *low.vectors, *low.per_row)}
        #: For each sum over rows, its columns among all of them, which lie side by side.
        self.spans: dict[int, tuple[int, int]] = {}
        end = 0
        for i in sorted(program.used_sums) if program.backward is not None else ():
            self.spans[i] = end, end + low.sums[i].width
            end += low.sums[i].width
        if not program.listed:
            program.release()
        #: For how many rows it is known that a step does the same.
        self.rows_seen: set[int] = set()
        self._kept: Taken | None = None
        self._functions: dict[str, dict[str, int]] = {}
        self._layouts: dict[Any, Layout] = {}

    def taken(self, tensors: Sequence[Any]) -> tuple[Captures, Bound]:
        """What a run takes from outside, of these tensors of `Source`."""
        kept = self._kept  # once, as another thread may put another there
        if kept is not None and kept.hold(tensors):
            return kept.captures.again(), kept.bound
        captures = Captures(self.program.low, tensors, self.gradient_buffers.outer)
        bound = Bound.of(captures, self.shapes)
        named = all(t.node is None or t.node.op is None for t in tensors)  # or what they are made of would live on here
        lasting = self._holds and named and self.gradient_buffers.complete and bound.lasting
        self._kept = Taken(tensors, captures, bound) if lasting else None
        return captures, bound

    def layout(self, way: str, *key: Any) -> Layout:
        """The layout of a run "forward" or "backward" for this key, which is what `_forward` or `_backward` takes.

        Raises:
            NotFused: where the compiler fails.
        """
        key = (way, settings.get_num_threads(), *key)
        found = self._layouts.get(key)
        if found is None:
            if len(self._layouts) >= 64:
                self._layouts.clear()
            try:
                found = self._layouts[key] = (self._forward if way == "forward" else self._backward)(*key[1:])
            except (NotFused, MemoryError):
                raise
            except Exception as trouble:  # nothing has run yet
                raise NotFused.failed(trouble) from trouble
        return found

    def _sealed(self, layout: Layout, plan: Schedule, strides: Any, gradients: Sequence[WeightGemm] = ()) -> Layout:
        functions = self._functions.get(plan.name)
        if functions is None:
            numbers = len(Head) + len(Slot) * len(plan.places)
            functions = jit.rows(plan.name, plan.sources, plan.text, plan.functions, plan.dtype, numbers)
            self._functions[plan.name] = functions
        layout.seal(plan, functions, strides, gradients)
        return layout

    def _saved(self, layout: Layout, keep: bool, first: int, forwards: bool) -> tuple[list[Address], list[Address]]:
        """Where the states lie, and what the forward run keeps: alike in both directions. Random masks are placed."""
        block = SAVED if keep else WORK
        steps, rows = layout.steps, layout.rows
        states = [
            Address(("state", i)) if i in self.shown else layout.room(block, steps + 1, rows, value.width)
            for i, value in enumerate(self.program.next)
        ]
        for i, mask in enumerate(self.program.low.masks):
            count = steps if mask.origin == "step" else 1
            address = layout.room(block, count, rows, mask.width)
            layout.region(("mask", i), address, count, rows * mask.width)
            if mask.origin == "step":
                layout.over_time(("mask", i), address, mask.width, first, forwards)
            else:
                layout.same(("mask", i), address, mask.width * layout.dtype.itemsize)
        return states, [layout.room(block, steps if keep else 1, rows, v.width) for v in self.program.saved]

    def _forward(self, threads: int, steps: int, ragged: bool, forwards: bool, keep: bool, strides: Any) -> Layout:
        program = self.program
        layout = Layout(steps, program.rows, program.dtype, threads, ragged)
        first, start, after = (0, 0, 1) if forwards else (steps - 1, steps, steps - 1)
        states, saved = self._saved(layout, keep, first, forwards)
        for i, (address, value) in enumerate(zip(states, program.next)):
            layout.over_time(("carry", i), address, value.width, start, forwards)
            layout.over_time(("next", i), address, value.width, after, forwards)
            if i not in self.shown:
                layout.region(("carry", i), address, steps + 1, layout.rows, value.width)
        for i, (value, carry) in enumerate(zip(program.ys, self.carried)):
            if carry is None:
                layout.over_time(("y", i), Address(("y", i)), value.width, first, forwards)
        for i, (address, value) in enumerate(zip(saved, program.saved)):
            if keep:
                layout.over_time(("saved", i), address, value.width, first, forwards)
            else:
                layout.same(("saved", i), address, value.width * program.dtype.itemsize)
        Strides(*strides).place(layout, first, forwards, len(program.low.vectors))
        return self._sealed(layout, program.forward, strides[1])

    def _backward(
        self, threads: int, steps: int, ragged: bool, forwards: bool, strides: Any,
        arrived: tuple[tuple[int, int] | None, ...],
    ) -> Layout:  # fmt: skip
        program, low = self.program, self.program.low
        layout = Layout(steps, program.rows, program.dtype, threads, ragged)
        back = not forwards
        first, start, after = (0, 0, 1) if back else (steps - 1, steps, steps - 1)
        states, saved = self._saved(layout, True, first, back)
        for i, (value, flow) in enumerate(zip(program.next, program.flows)):
            if flow:
                address = layout.room(WORK, steps + 1, layout.rows, value.width)
                layout.over_time(("carry", i), address, value.width, start, back)
                layout.over_time(("next", i), address, value.width, after, back)
                layout.region(("carry", i), address, steps + 1, layout.rows, value.width)
        for i, (address, value) in enumerate(zip(states, program.next)):
            layout.over_time(("state", i), address, value.width, after, back)
            layout.over_time(("after", i), address, value.width, start, back)
        for i, (value, carry) in enumerate(zip(program.ys, self.carried)):
            if carry is None:
                layout.over_time(("y", i), Address(("y", i)), value.width, first, back)
        for i, (address, value) in enumerate(zip(saved, program.saved)):
            layout.over_time(("saved", i), address, value.width, first, back)
        for key, width in program.times.items():
            layout.over_time(key, layout.room(WORK, steps, layout.rows, width), width, first, back)
        for i, of_x in enumerate(program.x_gradients):
            if of_x is not None:
                layout.over_time(("dx", i), Address(("dx", i)), of_x.width, first, back)
        nothing = max([v.width for v, g in zip(program.ys, arrived) if g is None], default=0)
        width = sum(stop - start for start, stop in self.spans.values())
        zeros = layout.room(WORK, layout.rows * width + nothing)
        layout.region(("zeros", 0), zeros, layout.rows * width + nothing)
        layout.region(("sums", 0), zeros, layout.rows, width)
        size = program.dtype.itemsize
        for i, (start, _) in self.spans.items():
            layout.same(("sum", i), zeros + start * size, width * size)
        zeros += layout.rows * width * size
        for i, g in enumerate(arrived):
            if g is None:
                layout.same(("dy", i), zeros)
            else:
                layout.strided(("dy", i), Address(("dy", i)), *g, first, back)
        Strides(*strides).place(layout, first, back, len(low.vectors))
        gradients: list[WeightGemm] = []
        for i in program.used_gemms:
            (left, right), (left_place, right_place) = low.gemms[i], program.gemm_places[i]
            same = [one for one in gradients if one.left == left_place and one.columns == left.width]
            if not same:
                same = [WeightGemm(left_place, left.width, [])]
                gradients += same
            same[0].partners.append((right_place, right.width, ("gemm", i), self.gradient_buffers.row(("gemm", i))))
        ones = WeightGemm((ONES, 0), 1, [])
        for i, beside in program.beside.items():
            place, sums = program.gemm_places[beside][1], ("sum", i)
            ones.partners.append((place, low.sums[i].width, sums, self.gradient_buffers.row(sums)))
        if program.beside:
            layout.same(ONES, Address(ONES))
            gradients.append(ones)
        assert program.backward is not None
        return self._sealed(layout, program.backward, strides[1], gradients)
