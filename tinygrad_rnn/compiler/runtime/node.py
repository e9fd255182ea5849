"""A program run over a whole sequence, and the node that it leaves on the tape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...autograd.backward import grad
from ...autograd.pytree import leaves, unflatten
from ...autograd.replay import joined, redirected
from ...autograd.tape import Node, Watcher, enable_grad, is_grad_enabled, thread, tick, writes
from ...autograd.tensor import Tensor
from ...errors import GraphError
from ...ir.nodes import Draw
from ...ir.program import Key
from ...kernels.random import gumbels, masks
from ...kernels.runtime import threads
from ...kernels.runtime.pool import Block, address_of, empty, readable
from ...ops.random import Draws, fresh_keys
from ...ops.shape import astype
from ..front.reads import Reads
from ..front.trace import NotFused
from ..passes.schedule import ONES
from . import layout as layouts
from .executable import Compiled
from .layout import LIVE, SAVED, WORK, Layout
from .ragged import Ragged

#: The one that sums are products with.
_ONES = {char: np.ones(1, char) for char in "fd"}

#: What a run without random numbers has drawn.
_NONE = Draws()


class Run:
    """One run of a program: its memory, and how to go back.

    Args:
        compiled: the program.
        eager: does the same step by step, for derivatives of higher order.
        carry, xs, reverse, ragged: as the loop has them.
        reads: what the step reads now.
        before: how many steps of a longer run came before.
    """

    def __init__(
        self, compiled: Compiled, eager: Callable[[Any, Any], Any], carry: Any, xs: Any, reverse: bool, reads: Reads,
        ragged: Ragged | None, before: int = 0,
    ) -> None:  # fmt: skip
        self.compiled, self.eager, self.forwards, self.before = compiled, eager, not reverse, before
        self.carry_tree, self.x_tree, self.keys = carry, xs, reads.keys
        self.inputs = [*leaves(carry), *leaves(xs)]
        self.ragged = ragged
        self.steps = self.inputs[-1].shape[0] if ragged is None else ragged.longest
        # Of each row, the place in time of the state that it starts from, and of its last.
        ends: Any = self.steps if ragged is None else (ragged.lengths, np.arange(len(ragged.lengths)))
        self.start: Any
        self.end: Any
        self.start, self.end = (0, ends) if self.forwards else (ends, 0)
        self.captures, self.bound = compiled.taken(reads.tensors)
        self.outer = self.captures.outer
        self._take(self.inputs[len(compiled.program.next) :])

    def forward(self) -> tuple[Any, Any]:
        """Run all steps: (carry, ys), which lead back here."""
        program, steps, shown = self.compiled.program, self.steps, self.compiled.shown
        keep = is_grad_enabled() and program.backward is not None
        layout = self.compiled.layout("forward", steps, self.ragged is not None, self.forwards, keep, self.strides)
        threads.ready(layout.shards)
        saved = Block(layout.sizes[SAVED]) if SAVED in layout.sizes else None
        self.made = self._outputs()
        self.addresses = self.bound.addresses.copy()
        for key, array in self.given.items():
            self.addresses[key] = address_of(array)
        for key, array in self.made.items():
            self.addresses[key] = address_of(array)
        if saved is not None:
            self.addresses[SAVED] = saved.address
        work = Block(layout.sizes.get(WORK, 0))
        block = saved or work
        states = [
            self.made["state", i] if i in shown else block.array(*layout.regions["carry", i], program.dtype)
            for i in range(len(program.next))
        ]
        self.draws = Draws() if program.low.masks or program.draws else _NONE
        if self.draws is not _NONE:
            self._draw(layout, block)
        for state, part in zip(states, self.inputs):
            state[self.start] = self.sorted(part._array.reshape(program.rows, -1), 0)
        self._go(layout, work, {}, {}, self.forwards)
        ys = []
        for i, carry in enumerate(self.compiled.carried):
            y = self.made["y", i] if carry is None else self.made["state", carry]
            ys.append(y if carry is None else y[1:] if self.forwards else y[:-1])
        held = () if saved is None else (saved.memory, saved)  # the node's: gone after backward
        return self.returned([state[self.end] for state in states], ys, keep, held, [*self.made.values()])

    def returned(
        self, ends: Sequence[Any], outputs: Sequence[Any], keep: bool, held: Sequence[Any], read: Sequence[Any]
    ) -> tuple[Any, Any]:
        """(carry, ys) of the run, which lead back here if `keep`.

        Args:
            ends: the last carry (B, n), rows in the order in which they ran; `outputs` (steps, B, n) likewise.
            held: what backward needs.
            read: arrays that it reads, which must stay as they are.
        """
        program = self.compiled.program
        arrays = [self._unsorted(end, part._array) for end, part in zip(ends, self.inputs)]
        for y, shape, dtype in zip(outputs, program.y_shapes, program.y_dtypes):
            y = y if self.ragged is None else self.ragged.whole(y)
            y = y if y.shape[2:] == shape else y.reshape(len(y), program.rows, *shape)
            arrays.append(y if y.dtype is dtype else y.astype(dtype))
        flows = [*self._ends(), *program.ys_flow]
        if keep and any(flows):
            self.read, self.end_of_run = [*read, *self.captures.constants], tick()
            self.ys = arrays[len(program.next) :]
            tensors = joined(self, [*self.inputs, *self.outer], arrays, flows, held, self.captures.taken)
        else:
            tensors = [Tensor(array) for array in arrays]
        made = iter(tensors)  # not kept here, or run and tensors would hold each other
        return unflatten(program.carry, made), unflatten(program.y, made)

    def _ends(self) -> Sequence[bool]:
        """To which parts of the final carry a gradient goes: with lengths, to those that it goes to of any row, or of
        one of no steps, as the eager engine joins the rows that have ended."""
        flow = self.compiled.program.flow
        if self.ragged is None:
            return flow.after(self.before + self.steps)
        lengths = {0, *self.ragged.lengths.tolist()}
        return [any(flows) for flows in zip(*[flow.after(self.before + n) for n in lengths])]

    def sorted(self, array: Any, axis: int) -> Any:
        """An array's rows in the order in which they run."""
        return array if self.ragged is None else self.ragged.sorted(array, axis)

    def _unsorted(self, rows: Any, like: Any) -> Any:
        """Rows in the order in which they were given, in memory of their own, in the shape and dtype of `like`."""
        return np.array(rows if self.ragged is None else rows[self.ragged.back], like.dtype).reshape(like.shape)

    def _over_time(self, array: Any) -> Any:
        """An array (T, B, ...) as (steps, B, n), in the order in which its rows run."""
        program = self.compiled.program
        if self.ragged is not None:
            array = self.ragged.sorted(array[: self.steps], 1)
        if array.ndim != 3:
            array = array.reshape(self.steps, program.rows, -1)
        return readable(array, program.dtype, "rows")  # whole numbers are floats inside

    def _outputs(self) -> dict[Key, Any]:
        """Memory for what is returned: states that are outputs, with the one before the first, and other outputs."""
        steps, program = self.steps, self.compiled.program
        return {
            key: empty((steps + before, program.rows, width), program.dtype)
            for key, before, width in self.compiled.outputs
        }

    def __repr__(self) -> str:
        return "scan"

    def _take(self, inputs: Sequence[Tensor]) -> None:
        """The arrays that come from outside, by their names, and their strides."""
        low, rows = self.compiled.program.low, self.compiled.program.rows
        self.given: dict[Key, Any] = {}
        strides = []
        for i, x in enumerate(inputs):
            aside = x._array.ndim <= 1  # without a batch: no kernel reads it
            array = self.given["x", i] = np.zeros((1, 1, 1), low.dtype) if aside else self._over_time(x._array)
            strides.append(_strides(array))
        for i, n in enumerate(low.per_row):
            fixed = self.captures.of_shape(n, self.compiled.shapes[n])
            self.given["row", i] = readable(self.sorted(fixed, 0), low.dtype).reshape(rows, -1)
        by_row = tuple([self.given["row", i].strides[0] for i in range(len(low.per_row))])
        self.strides = tuple(strides), self.bound.strides, by_row

    def _draw(self, layout: Layout, block: Block) -> None:
        """Fill the random masks."""
        for i, (mask, keys) in enumerate(self.keys_drawn()):
            room = block.array(*layout.regions["mask", i], self.compiled.program.dtype)
            if mask.p is None:
                gumbels(keys, room)
            else:
                masks(keys, mask.p, room)

    def keys_drawn(self) -> Iterator[tuple[Draw, Any]]:
        """The random masks with their keys: one at every step, or one for all, as the steps one by one draw them."""
        program = self.compiled.program
        with self.draws:
            drawn = fresh_keys(program.draws, self.steps)
        for mask in program.low.masks:
            if mask.origin == "step":
                keys = drawn[mask.key] if self.forwards else drawn[mask.key][::-1]
            else:
                keys = np.array([self.keys[mask.key] if mask.origin == "sequence" else mask.key])
            yield mask, np.ascontiguousarray(keys, np.uint64)

    def _go(
        self,
        layout: Layout,
        work: Block,
        more: dict[Key, Any],
        addresses: dict[Key, int],
        forwards: bool,
        inside: Sequence[Any] = (),
    ) -> None:
        """Run the kernels on what is given, the memory of the run, `more` arrays, and what lies at more `addresses`,
        `inside` of these arrays."""
        if self.ragged is not None:
            more[LIVE] = np.ascontiguousarray(self.ragged.live[: self.steps][:: 1 if forwards else -1])
        for key, array in more.items():
            addresses[key] = address_of(array)
        addresses[WORK] = work.address
        bases = self.addresses | addresses
        self._execute(layout, bases, self.bound.given | self.given | self.made | more, inside)

    def _execute(
        self, layout: Layout, bases: Mapping[Key, int], arrays: Mapping[Key, Any], inside: Sequence[Any]
    ) -> None:
        """Run the kernels: all has an address."""
        if layouts.inspect is not None:
            layouts.inspect(layout, bases, arrays, inside)
        layout.run(bases)

    # --- Back ---

    def gradients(self, inputs: Callable[[], list[Tensor]], arrived: list[Any]) -> list[Any]:
        """The gradients of the carry, of xs and of what is closed over, from those of the outputs (None for none)."""
        writes.refuse(self.read, self.end_of_run, "scan: an output, or a constant that the step takes")
        if is_grad_enabled():
            return self._eagerly(inputs(), arrived)
        program = self.compiled.program
        dtype, steps, rows = program.dtype, self.steps, program.rows
        count = len(program.next)
        more, kinds = {}, []
        for i, g in enumerate(arrived[count:]):
            if g is not None:
                more["dy", i] = self._over_time(g._array)
            kinds.append(None if g is None else _strides(more["dy", i]))
        try:
            layout = self.compiled.layout(
                "backward", steps, self.ragged is not None, self.forwards, self.strides, tuple(kinds)
            )
        except NotFused:
            return self._step_by_step(arrived)
        threads.ready(layout.shards)
        work = Block(layout.sizes.get(WORK, 0))
        xs = [None if of_x is None else empty((steps, rows, of_x.width), dtype) for of_x in program.x_gradients]
        for i, dx in enumerate(xs):
            if dx is not None:
                more["dx", i] = dx
        buffers = self.compiled.gradient_buffers
        outer, targets = buffers.begun()
        if program.beside:
            more[ONES] = _ONES[dtype.char]
        found: dict[Key, Any] = {key: empty(shape, dtype) for key, shape in buffers.gemms.items()}
        more |= found

        def region(key: Key) -> Any:
            return work.array(*layout.regions[key], dtype)

        if math.prod(layout.regions["zeros", 0].shape):
            region(("zeros", 0))[...] = 0
        carries = {i: region(("carry", i)) for i, flow in enumerate(program.flows) if flow}
        for i, carry in carries.items():
            g = arrived[i]
            carry[self.end] = 0 if g is None else self.sorted(g._array.reshape(rows, -1), 0)
        self._go(layout, work, more, targets, not self.forwards, outer)
        made = self.brought({i: carry[self.start] for i, carry in carries.items()}, xs)
        if self.compiled.spans:
            every = region(("sums", 0))
            every = every.sum(0, dtype=np.float64) if rows > 1 else every[0]
            for i, (start, stop) in self.compiled.spans.items():
                found["sum", i] = every[start:stop]
        return made + buffers.filled(outer, self.captures, found)

    def brought(self, carries: dict[int, Any], xs: Sequence[Any]) -> list[Any]:
        """The gradients of the inputs: of parts of the carry (B, n), by number, and of x (steps, B, n) or None."""
        made: list[Any] = []
        program, count = self.compiled.program, len(self.compiled.program.next)
        through = self.ragged is not None  # a row of no steps hands its state on
        for i, part in enumerate(self.inputs[:count]):
            wanted = i in carries and part._requires_grad and (i not in program.unused or through)
            made.append(Tensor(self._unsorted(carries[i], part._array)) if wanted else None)
        for g, x in zip(xs, self.inputs[count:]):
            g = g if g is None or self.ragged is None else self.ragged.whole(g)
            if g is not None and (g.shape != x._array.shape or g.dtype is not x._array.dtype):
                g = g.reshape(x.shape).astype(x.dtype, copy=False)
            made.append(None if g is None else Tensor(g))
        return made

    def _step_by_step(self, arrived: list[Any]) -> list[Any]:
        """The gradients from the steps one by one: where the compiler fails, and only then."""
        taken = [*self.inputs, *self.outer]
        starts = [Tensor(t._array) for t in taken]
        for start, t in zip(starts, taken):
            start.requires_grad = t._requires_grad
        outside = zip(self.outer, starts[len(self.inputs) :])
        known = {t.node.order: start for t, start in outside if t.node is not None}
        _, outputs = self.again(starts, known)
        self._compare(outputs[len(self.compiled.program.next) :])
        chosen = [(y, g) for y, g in zip(outputs, arrived) if g is not None and y._requires_grad]
        wanted = [start for start in starts if start._requires_grad]
        found = iter(grad([y for y, _ in chosen], wanted, [g for _, g in chosen], allow_unused=True))
        return [next(found) if start._requires_grad else None for start in starts]

    def opened(
        self, starts: Sequence[Tensor], watchers: tuple[Watcher, ...] = ()
    ) -> tuple[Sequence[Node], list[Tensor]]:
        """The steps run one by one on these inputs, and compared; nobody has watched them the first time."""
        nodes, outputs = self.again(starts)
        self._compare(outputs[len(self.compiled.program.next) :])
        return nodes, outputs

    def again(
        self, starts: Sequence[Tensor], known: dict[int, Tensor] | None = None
    ) -> tuple[Sequence[Node], list[Tensor]]:
        """The steps run one by one on these inputs: the nodes, and the outputs.

        They lead to what is `known` for something that the step closes over (by order) instead of to that itself.
        """
        given, state, since = iter(starts), thread.state, tick()
        carry, xs = unflatten(self.carry_tree, given), unflatten(self.x_tree, given)
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
        known = {t.node.order: start for t, start in zip(self.outer, starts[inputs:]) if t.node is not None}
        _, outputs = self.again(starts, known)
        self._compare(outputs[len(self.compiled.program.next) :])
        chosen = [(y, g) for y, g in zip(outputs, arrived) if g is not None]
        wanted = [start for start in starts if start._requires_grad]
        found = iter(grad([y for y, _ in chosen], wanted, [g for _, g in chosen], create_graph=True, allow_unused=True))
        return [next(found) if start._requires_grad else None for start in starts]

    def _compare(self, ys: Sequence[Tensor]) -> None:
        """Raise where the step does something else now; seen at the first step, as later ones amplify rounding."""
        at: Any = 0 if self.forwards else self.steps - 1
        if self.ragged is not None and not self.forwards:
            lengths = self.ragged.lengths[self.ragged.back]
            rows = np.flatnonzero(lengths)
            at = lengths[rows] - 1, rows
        rough = 1e-3 if self.compiled.program.dtype == np.float32 else 1e-8
        for now, before in zip(ys, self.ys):
            one, other = now._array[at], before[at]
            if one.dtype.kind == "f" and not np.allclose(one, other, rough, rough, equal_nan=True):
                raise GraphError(
                    "scan: the step computed something else the second time, which derivatives of gradients need",
                    expected="the same values from the same inputs",
                    hint="train(), eval() and values that the step reads stay as they were until backward()",
                )


def _strides(array: Any) -> tuple[int, int]:
    """Bytes from one step to the next and from one row to the next of an array (steps, B, n).

    Along an axis of one NumPy's may be anything: there they are such that all rows of all steps follow one another.
    """
    step, row, _ = array.strides
    if array.shape[0] == 1:
        return row * array.shape[1], row
    return step, step if array.shape[1] == 1 else row
