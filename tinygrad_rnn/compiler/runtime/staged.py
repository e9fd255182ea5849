"""Runs of what is behind each stage of the compiler: the same loop, by the program, the schedule or the layout."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.program import Direction, Key
from .executable import Compiled
from .layout import Layout
from .machine import Laid, scheduled
from .node import Run
from .reference import ReferenceRun


class LowerRun(ReferenceRun):
    """The step on rows. Of gradients it knows nothing yet."""

    stage = "lower"


class DifferentiateRun(ReferenceRun):
    """The step and its gradient, in which all is computed again."""

    stage = "differentiate"


class RematerialiseRun(ReferenceRun):
    """The same with what the forward run saves."""

    stage = "rematerialise"


class ScheduleRun(ReferenceRun):
    """The phases in their order, on arrays by name."""

    def _interpreted(self, direction: Direction, more: dict[Key, Any], forwards: bool) -> dict[Key, Any]:
        program = self.compiled.program
        schedule = program.forward if direction is program.stages[self.stage].forward else program.backward
        assert schedule is not None
        return scheduled(
            schedule, direction, self.arrays | more, self.matrices, steps=self.steps, rows=program.rows,
            live=None if self.ragged is None else self.ragged.live[: self.steps].tolist(),
            backwards=not forwards, lasts=self.same,
        )  # fmt: skip


class LayoutRun(Run):
    """The table, read on NumPy in place of the kernels, from the same memory. What is beyond an array is refused.

    Where a run has been laid out, that is what is read; else it is laid out with numbers for its functions, so that
    none is compiled.
    """

    def __init__(self, compiled: Compiled, *rest: Any) -> None:
        super().__init__(_uncompiled(compiled), *rest)

    def _execute(
        self, layout: Layout, bases: Mapping[Key, int], arrays: Mapping[Key, Any], inside: Sequence[Any]
    ) -> None:
        memory = {}
        for key, address in bases.items():
            bounds = [(address, address + layout.sizes[key])] if key in layout.sizes else []
            if not bounds:
                within = [arrays[key]] if key in arrays else inside
                bounds = [np.lib.array_utils.byte_bounds(array) for array in within]
            low, high = next((low, high) for low, high in bounds if low <= address < high or address == low == high)
            memory[key] = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low)), address - low
        Laid(layout, memory).run()


def _uncompiled(compiled: Compiled) -> Compiled:
    """The same program, with its layouts, whose functions need not be compiled for others."""
    made = copy.copy(compiled)
    made._layouts = dict(compiled._layouts)
    plans = [plan for plan in (compiled.program.forward, compiled.program.backward) if plan is not None]
    numbers = {plan.name: {name: i for i, name in enumerate(plan.functions)} for plan in plans}
    made._functions = numbers | compiled._functions
    return made


#: For each stage whose result can be run, in order, the kind of run.
RUNS: dict[str, type[Run]] = {
    "lower": LowerRun,
    "differentiate": DifferentiateRun,
    "rematerialise": RematerialiseRun,
    "merge": ReferenceRun,
    "schedule": ScheduleRun,
    "layout": LayoutRun,
    "kernels": Run,
}
