"""A run on NumPy: what the program means, whatever the kernels make of it. Nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...autograd.backward import grad_up_to
from ...autograd.tape import enable_grad, is_grad_enabled, writes
from ...autograd.tensor import Tensor
from ...ir import interpret
from ...ir.program import Direction, Key
from ...kernels.random import gumbels_reference, masks_reference
from ...ops.random import Draws
from .captures import Totals
from .node import Run


class ReferenceRun(Run):
    """A run whose steps are evaluated by `ir.interpret`, one after another: by the program behind a stage."""

    stage = "merge"

    def forward(self) -> tuple[Any, Any]:
        program, staged = self.compiled.program, self.compiled.program.stages[self.stage]
        keep = is_grad_enabled() and staged.backward is not None
        self.draws = Draws()
        self.arrays: dict[Key, Any] = {key: array for key, array in self.bound.given.items() if key[0] == "vector"}
        self.arrays |= self.given
        self.matrices = [self.bound.given["matrix", i] for i in range(len(program.low.matrices))]
        same = {key for key in self.given if key[0] == "row"}
        for i, (mask, keys) in enumerate(self.keys_drawn()):
            room = np.empty((len(keys), program.rows * mask.width), program.dtype)
            gumbels_reference(keys, room) if mask.p is None else masks_reference(keys, mask.p, room)
            self.arrays["mask", i] = room.reshape(-1, program.rows, mask.width)
            if mask.origin != "step":
                self.arrays["mask", i] = self.arrays["mask", i][0]
                same.add(("mask", i))
        self.same = frozenset(same)
        parts = self.inputs[: len(program.next)]
        starts = [self.sorted(part._array, 0).reshape(program.rows, -1).astype(program.dtype) for part in parts]
        found = self._interpreted(staged.forward, dict(zip(self._carries(), starts)), self.forwards)
        self.saved = {key: array for key, array in found.items() if key[0] in ("saved", "y")}
        for i, start in enumerate(starts):
            after = self.saved["after", i] = found["next", i]
            before = [start[None], after[:-1]] if self.forwards else [after[1:], start[None]]
            self.saved["state", i] = np.concatenate(before)
        ends = [found[key].reshape(program.rows, -1) for key in self._carries()]
        ys = [found["y", i] if n is None else found["next", n] for i, n in enumerate(self.compiled.carried)]
        return self.returned(ends, ys, keep, (), ys)

    def _carries(self) -> list[Key]:
        return [("carry", i) for i in range(len(self.compiled.program.next))]

    def _interpreted(self, direction: Direction, more: dict[Key, Any], forwards: bool) -> dict[Key, Any]:
        live = None if self.ragged is None else self.ragged.live[: self.steps].tolist()
        return interpret.run(
            direction, self.arrays | more, self.matrices, steps=self.steps, rows=self.compiled.program.rows, live=live,
            backwards=not forwards, lasts=self.same,
        )  # fmt: skip

    def gradients(self, inputs: Callable[[], list[Tensor]], arrived: list[Any]) -> list[Any]:
        writes.refuse(self.read, self.end_of_run, "scan: an output, or a constant that the step takes")
        if is_grad_enabled():
            return self._eagerly(inputs(), arrived)
        program = self.compiled.program
        backward, rows, count = program.stages[self.stage].backward, program.rows, len(program.next)
        assert backward is not None
        given: dict[Key, Any] = {}
        for i, (node, flow, g) in enumerate(zip(program.next, program.flows, arrived)):
            if flow:
                array = np.zeros((rows, node.width), program.dtype)
                given["carry", i] = array if g is None else self.sorted(g._array.reshape(rows, -1), 0).copy()
        for i, (node, g) in enumerate(zip(program.ys, arrived[count:])):
            zeros = np.zeros((self.steps, rows, node.width), program.dtype)
            given["dy", i] = zeros if g is None else self._over_time(g._array)
        found = self._interpreted(backward, self.saved | given, not self.forwards)
        xs = [None if x is None else found["dx", i] for i, x in enumerate(program.x_gradients)]
        carries = {i: found["carry", i].reshape(rows, -1) for i, flow in enumerate(program.flows) if flow}
        return self.brought(carries, xs) + self._outside(found)

    def _outside(self, found: dict[Key, Any]) -> list[Any]:
        """The gradients of what the step takes from outside."""
        totals = Totals(self.captures, found)
        with enable_grad():  # what is made of tensors from outside may be made here for the first time
            seeds = [(self.captures[n], np.asarray(totals.of(t))) for n, t in self.compiled.program.of_captures.items()]
        if not seeds:
            return [None] * len(self.outer)
        starts = [Tensor(g.reshape(t.shape).astype(t.dtype)) for t, g in seeds]
        return grad_up_to([t for t, _ in seeds], self.outer, starts, create_graph=False)
