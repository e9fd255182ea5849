"""Where the gradients of what a step takes from outside go: each into that of the tensor which it is, or a part of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...autograd.backward import grad_up_to
from ...autograd.tape import root_of
from ...autograd.tensor import Tensor
from ...ir.program import Key
from ...kernels.runtime.pool import address_of, empty, zeros
from ..front.forms import Recipe, Total
from ..program import Planned
from .captures import Fixtures, Totals


class Home(NamedTuple):
    """The gradient of a fixture is part of that of the `outer`-th tensor; `part` gives it of the whole array."""

    outer: int
    part: Callable[[Any], Any]


class Spot(NamedTuple):
    """Where a gram is written: in the gradient of the `outer`-th tensor, at so many bytes, which has such rows."""

    outer: int
    offset: int
    row: int


class Homes:
    """For one program, the gradients of all tensors that the step takes from outside and that want one.

    Attributes:
        outer: the numbers of those tensors among the fixtures.
        complete: whether each fixture that a gradient goes to is one of those tensors, or a view of one.
        spots: grams that are written in place.
        grams: the shapes of those that are not. Sums beside a gram are among both.
    """

    def __init__(self, program: Planned) -> None:
        low = program.low
        self.program, self.dtype = program, program.dtype
        self.outer = [n for n, t in enumerate(low.fixtures) if not isinstance(t, Recipe) and t._requires_grad]
        self._likes = [(low.fixtures[n].shape, low.fixtures[n].dtype) for n in self.outer]
        self._homes: dict[int, Home] = {}
        places = {n: i for i, n in enumerate(self.outer)}
        for n in program.of_fixtures:
            root, part = self._traced(n)
            if root in places and _is_view(part, low.fixtures[root].shape):
                self._homes[n] = Home(places[root], part)
        self.complete = len(self._homes) == len(program.of_fixtures)
        #: For each tensor whether nothing of its gradient is written twice; and whether it begins as zeros: where
        #: something is, or is not written at all.
        self._once, self._from_zero = [], []
        for i, (shape, _) in enumerate(self._likes):
            parts = [home.part for home in self._homes.values() if home.outer == i]
            count = np.zeros(shape, np.int8)
            for part in parts:
                part(count)[...] += 1
            self._once.append(bool((count <= 1).all()))
            self._from_zero.append(bool((count != 1).any()))
        totals = {n: low.totals[t.number] for n, t in program.of_fixtures.items() if isinstance(t, Total)}
        self._keys: dict[int, Key] = {n: key for n, key in totals.items() if not isinstance(key, Recipe)}
        self.spots: dict[Key, Spot] = {}
        self._direct: dict[int, Key] = {}
        self.grams: dict[Key, tuple[int, ...]] = {}
        for i in program.used_grams if program.backward is not None else ():
            self.grams["gram", i] = low.grams[i][0].width, low.grams[i][1].width
        for i in program.beside if program.backward is not None else ():
            self.grams["sum", i] = (low.sums[i].width,)
        for n, home in self._homes.items():
            key, (shape, dtype) = self._keys.get(n), self._likes[home.outer]
            if key not in self.grams or dtype != self.dtype or not self._once[home.outer]:
                continue
            whole = np.empty(shape, dtype)
            part = home.part(whole)
            if part.shape == self.grams[key] and part.strides[-1] == dtype.itemsize:
                offset = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
                self.spots[key] = Spot(home.outer, offset, part.strides[0])
                self._direct[n] = key
                del self.grams[key]
        #: Whether what is written in place is read too: by a total that is made of it, or for another fixture.
        self._others = [
            (n, total, self._keys.get(n), self._homes.get(n))
            for n, total in program.of_fixtures.items()
            if n not in self._direct
        ]
        self._read = any(key is None or key in self.spots for _, _, key, _ in self._others)
        self._written = {home.outer for home in self._homes.values()}

    def _traced(self, n: int) -> tuple[int, Callable[[Any], Any]]:
        """The fixture that one may be a view of (-1 for none), and how."""
        views: list[Recipe] = []
        made = self.program.low.fixtures[n]
        while isinstance(made, Recipe):
            if not getattr(made.op, "view", False):
                return -1, lambda array: array
            views.append(made)
            n = made.operands[0].number
            made = self.program.low.fixtures[n]

        def part(array: Any) -> Any:
            view = array
            for made in reversed(views):
                view = made.op.forward([view], made.settings)
            return view

        return n, part if views else lambda array: array

    def row(self, key: Key) -> int:
        """The bytes of a row where a gram is written."""
        return self.spots[key].row if key in self.spots else self.grams[key][-1] * self.dtype.itemsize

    def begun(self) -> tuple[list[Any], dict[Key, int]]:
        """Memory for the gradient of each tensor, and the addresses in it of the grams that are written in place."""
        arrays = [zeros(*like) if filled else empty(*like) for filled, like in zip(self._from_zero, self._likes)]
        return arrays, {key: address_of(arrays[spot.outer]) + spot.offset for key, spot in self.spots.items()}

    def filled(self, arrays: list[Any], fixtures: Fixtures, found: dict[Key, Any]) -> list[Any]:
        """The gradients: `arrays` as `begun`, with what is not there of the sums and grams `found`; None for none."""
        if self._read:
            found |= {key: self._homes[n].part(arrays[self._homes[n].outer]) for n, key in self._direct.items()}
        totals, seeds = Totals(fixtures, found), []
        for n, total, key, home in self._others:
            g = found[key] if key in found else totals.of(total)
            if home is None:
                seeds.append((fixtures[n], g))
                continue
            part = home.part(arrays[home.outer])
            if self._once[home.outer]:
                part[...] = g.reshape(part.shape)
            else:
                part += g.reshape(part.shape)
        made = [array if i in self._written else None for i, array in enumerate(arrays)]
        if seeds:
            starts = [Tensor(np.asarray(g).reshape(t.shape).astype(t.dtype)) for t, g in seeds]
            more = grad_up_to([t for t, _ in seeds], fixtures.outer, starts, create_graph=False)
            made = [_sum(a, None if g is None else g._array) for a, g in zip(made, more)]
        return [None if array is None else Tensor(array) for array in made]


def _is_view(part: Callable[[Any], Any], shape: tuple[int, ...]) -> bool:
    whole = np.empty(shape, np.int8)
    return root_of(part(whole)) is whole


def _sum(a: Any, b: Any) -> Any:
    return a if b is None else b if a is None else a + b
