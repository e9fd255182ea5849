"""What the compiler knows of a tensor of the trace: in which form a kernel, or what comes around it, has it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from ...ir.nodes import Node


class Row(NamedTuple):
    """A tensor (B, *shape) whose rows do not mix. Where the value's width is 1, it is the same all along the row."""

    value: Node
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class CapturedConstant(NamedTuple):
    """A tensor that is the same at all steps; `number` of `Captures`."""

    number: int


class ScalarInput(NamedTuple):
    """One number that changes from step to step, the same for all rows: no kernel takes it."""


class RowConcatenated(NamedTuple):
    """Rows, one batch below another: the sides of a sum of products over rows."""

    rows: tuple[Row, ...]


class Transposed(NamedTuple):
    """Rows as columns."""

    values: tuple[Node, ...]


class Total(NamedTuple):
    """A sum over all rows and steps, or something linear made of such; `number` of `Totals`."""

    number: int


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class DeferredOp:
    """How a fixed value or a total is made: an operation on others of its kind (or plain arrays), with settings."""

    op: Any
    operands: tuple[Any, ...]
    settings: dict[str, Any]
