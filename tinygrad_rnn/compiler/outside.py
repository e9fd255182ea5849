"""What is computed outside the loop: what the step takes that is the same at every step, and sums over all steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor
from ..ops.op import Elementwise
from .forms import Recipe, Total
from .lower import Lowering


class Fixtures:
    """The fixtures as they are now, each computed when first asked for; `tensors` are those of `Source`."""

    def __init__(self, low: Lowering, tensors: Sequence[Any]) -> None:
        self.low, self.tensors = low, tensors
        self._known: dict[int, Any] = {}

    def __getitem__(self, number: int) -> Any:
        found = self._known.get(number)
        if found is None:
            made = self.low.fixtures[number]
            if isinstance(made, Recipe):
                made = replayed(made, [None if o is None else self[o.number] for o in made.operands])
            elif number in self.low.bound:
                made = self.tensors[self.low.bound[number]]
            found = self._known[number] = made
        return found


class Totals:
    """Sums over rows and steps, and what is made of them."""

    def __init__(self, fixtures: Fixtures, sums: dict[int, Any], grams: dict[int, Any]) -> None:
        self.fixtures, self.low, self.sums, self.grams = fixtures, fixtures.low, sums, grams
        self._known: dict[int, Any] = {}

    def of(self, total: Any) -> Any:
        """The array of a total, or of a fixture."""
        if not isinstance(total, Total):
            return self.fixtures[total.number]._array
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
            return replayed(
                made, [None if a is None else Tensor(np.asarray(a, self.low.dtype)) for a in operands]
            )._array


def replayed(recipe: Recipe, operands: list[Any]) -> Any:
    """A recipe on tensors."""
    if isinstance(recipe.op, Elementwise):
        return recipe.op.call(*[recipe.settings.get(name, x) for name, x in zip(recipe.op.inputs, operands)])
    return recipe.op.call(operands, dict(recipe.settings))
