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
from ..front.forms import DeferredOp, Total
from ..program import Planned
from .captures import Captures, Totals


class Alias(NamedTuple):
    """A captured constant's gradient is part of that of the `outer`-th tensor; `part` gives it of the whole array."""

    outer: int
    part: Callable[[Any], Any]


class BufferSlice(NamedTuple):
    """Where a GEMM is written: in the gradient of the `outer`-th tensor, at so many bytes, which has such rows."""

    outer: int
    offset: int
    row: int


class GradientBuffers:
    """For one program, the gradients of all tensors that the step takes from outside and that want one.

    Attributes:
        outer: the numbers of those tensors among the captures.
        complete: whether each captured constant that a gradient goes to is one of those tensors, or a view of one.
        in_place: GEMMs that are written in place.
        gemms: the shapes of those that are not. Sums beside a GEMM are among both.
    """

    def __init__(self, program: Planned) -> None:
        low = program.low
        self.program, self.dtype = program, program.dtype
        self.outer = [n for n, t in enumerate(low.captures) if not isinstance(t, DeferredOp) and t._requires_grad]
        self._likes = [(low.captures[n].shape, low.captures[n].dtype) for n in self.outer]
        self._aliases: dict[int, Alias] = {}
        places = {n: i for i, n in enumerate(self.outer)}
        for n in program.of_captures:
            root, part = self._traced(n)
            if root in places and _is_view(part, low.captures[root].shape):
                self._aliases[n] = Alias(places[root], part)
        self.complete = len(self._aliases) == len(program.of_captures)
        #: For each tensor whether nothing of its gradient is written twice; and whether it begins as zeros: where
        #: something is, or is not written at all.
        self._once, self._from_zero = [], []
        for i, (shape, _) in enumerate(self._likes):
            parts = [alias.part for alias in self._aliases.values() if alias.outer == i]
            count = np.zeros(shape, np.int8)
            for part in parts:
                part(count)[...] += 1
            self._once.append(bool((count <= 1).all()))
            self._from_zero.append(bool((count != 1).any()))
        totals = {n: low.totals[t.number] for n, t in program.of_captures.items() if isinstance(t, Total)}
        self._keys: dict[int, Key] = {n: key for n, key in totals.items() if not isinstance(key, DeferredOp)}
        self.in_place: dict[Key, BufferSlice] = {}
        self._direct: dict[int, Key] = {}
        self.gemms: dict[Key, tuple[int, ...]] = {}
        for i in program.used_gemms if program.backward is not None else ():
            self.gemms["gemm", i] = low.gemms[i][0].width, low.gemms[i][1].width
        for i in program.beside if program.backward is not None else ():
            self.gemms["sum", i] = (low.sums[i].width,)
        for n, alias in self._aliases.items():
            key, (shape, dtype) = self._keys.get(n), self._likes[alias.outer]
            if key not in self.gemms or dtype != self.dtype or not self._once[alias.outer]:
                continue
            whole = np.empty(shape, dtype)
            part = alias.part(whole)
            if part.shape == self.gemms[key] and part.strides[-1] == dtype.itemsize:
                offset = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
                self.in_place[key] = BufferSlice(alias.outer, offset, part.strides[0])
                self._direct[n] = key
                del self.gemms[key]
        #: Whether what is written in place is read too: by a total that is made of it, or for another capture.
        self._others = [
            (n, total, self._keys.get(n), self._aliases.get(n))
            for n, total in program.of_captures.items()
            if n not in self._direct
        ]
        self._read = any(key is None or key in self.in_place for _, _, key, _ in self._others)
        self._written = {alias.outer for alias in self._aliases.values()}

    def _traced(self, n: int) -> tuple[int, Callable[[Any], Any]]:
        """The captured constant that one may be a view of (-1 for none), and how."""
        views: list[DeferredOp] = []
        made = self.program.low.captures[n]
        while isinstance(made, DeferredOp):
            if not getattr(made.op, "view", False):
                return -1, lambda array: array
            views.append(made)
            n = made.operands[0].number
            made = self.program.low.captures[n]

        def part(array: Any) -> Any:
            view = array
            for made in reversed(views):
                view = made.op.forward([view], made.settings)
            return view

        return n, part if views else lambda array: array

    def row(self, key: Key) -> int:
        """The bytes of a row where a GEMM is written."""
        return self.in_place[key].row if key in self.in_place else self.gemms[key][-1] * self.dtype.itemsize

    def begun(self) -> tuple[list[Any], dict[Key, int]]:
        """Memory for the gradient of each tensor, and the addresses in it of the GEMMs that are written in place."""
        arrays = [zeros(*like) if filled else empty(*like) for filled, like in zip(self._from_zero, self._likes)]
        return arrays, {key: address_of(arrays[target.outer]) + target.offset for key, target in self.in_place.items()}

    def filled(self, arrays: list[Any], captures: Captures, found: dict[Key, Any]) -> list[Any]:
        """The gradients: `arrays` as `begun`, with what is not there of the sums and GEMMs `found`; None for none."""
        if self._read:
            found |= {key: self._aliases[n].part(arrays[self._aliases[n].outer]) for n, key in self._direct.items()}
        totals, seeds = Totals(captures, found), []
        for n, total, key, alias in self._others:
            g = found[key] if key in found else totals.of(total)
            if alias is None:
                seeds.append((captures[n], g))
                continue
            part = alias.part(arrays[alias.outer])
            if self._once[alias.outer]:
                part[...] = g.reshape(part.shape)
            else:
                part += g.reshape(part.shape)
        made = [array if i in self._written else None for i, array in enumerate(arrays)]
        if seeds:
            starts = [Tensor(np.asarray(g).reshape(t.shape).astype(t.dtype)) for t, g in seeds]
            more = grad_up_to([t for t, _ in seeds], captures.outer, starts, create_graph=False)
            made = [_sum(a, None if g is None else g._array) for a, g in zip(made, more)]
        return [None if array is None else Tensor(array) for array in made]


def _is_view(part: Callable[[Any], Any], shape: tuple[int, ...]) -> bool:
    whole = np.empty(shape, np.int8)
    return root_of(part(whole)) is whole


def _sum(a: Any, b: Any) -> Any:
    return a if b is None else b if a is None else a + b
