"""What is computed outside the loop: what the step takes that is the same at every step, and sums over all steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...autograd.tape import root_of, thread
from ...ir.program import Key
from ...kernels.runtime.pool import address_of, readable
from ...ops.op import Elementwise
from ..front.forms import DeferredOp, Total
from ..front.lowering import Lowering
from ..front.trace import NotFused


class Captures:
    """The captures as they are now, each computed when first asked for; `tensors` are those of `Source`.

    Attributes:
        taken: those that are tensors of others, and not made of them here.
        outer: those of the numbers given.
        constants: the arrays of those among `taken` that want no gradient.
    """

    def __init__(self, low: Lowering, tensors: Sequence[Any], outer: Sequence[int]) -> None:
        self.low, self.tensors = low, tensors
        self._given = {
            n: tensors[low.bound[n]] if n in low.bound else made
            for n, made in enumerate(low.captures)
            if not isinstance(made, DeferredOp)
        }
        self._known = dict(self._given)
        self.taken = list(self._given.values())
        self.outer = [self._given[n] for n in outer]
        self.constants = [t._array for t in self.taken if not t._requires_grad]

    def again(self) -> Captures:
        """The same, nothing computed yet."""
        if len(self._given) == len(self.low.captures):
            return self
        made = object.__new__(Captures)
        vars(made).update(vars(self), _known=dict(self._given))  # a quarter of the time of `copy`
        return made

    def __getitem__(self, number: int) -> Any:
        stack = [number]
        while stack:
            n = stack[-1]
            if n in self._known:
                stack.pop()
                continue
            made = self.low.captures[n]
            missing = [o.number for o in made.operands if o is not None and o.number not in self._known]
            if missing:
                stack += missing
                continue
            operands = [None if o is None else self._known[o.number] for o in made.operands]
            self._known[n] = replayed(made, operands)
        return self._known[number]

    def of_shape(self, number: int, shape: tuple[int, ...]) -> Any:
        """The array of a captured constant, where it is as large, and of the dtype, as kernels take it for.

        Raises:
            NotFused: where it is not.
        """
        array = self[number]._array
        if array.shape != shape or array.dtype != self.low.dtype:
            now = f"{array.shape}, {array.dtype}"
            raise NotFused(f"a fixed value was {shape}, {self.low.dtype} when the step was traced, and is {now} now")
        return array


class Bound(NamedTuple):
    """Matrices and vectors as kernels read them, where they lie, and the arrays of the tensors they are made of."""

    sources: list[Any]
    given: dict[Key, Any]
    addresses: dict[Key, int]
    strides: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, captures: Captures, shapes: Mapping[int, tuple[int, ...]]) -> Bound:
        """Those of the captures, which have these shapes (by number)."""
        sources, low = [t._array for t in captures.taken], captures.low
        given: dict[Key, Any] = {}
        for i, n in enumerate(low.matrices):
            given["matrix", i] = readable(captures.of_shape(n, shapes[n]), low.dtype, "either")
        for i, n in enumerate(low.vectors):
            given["vector", i] = readable(captures.of_shape(n, shapes[n]), low.dtype)
        addresses = {key: address_of(array) for key, array in given.items()}
        return cls(sources, given, addresses, tuple([given["matrix", i].strides for i in range(len(low.matrices))]))

    @property
    def lasting(self) -> bool:
        """Whether all is read where it lies, so that this holds when the numbers have changed."""
        roots = {id(root_of(array)) for array in self.sources}
        return all(id(root_of(array)) in roots for array in self.given.values())


class Totals:
    """Sums over rows and steps, `found` by their keys, and what is made of them."""

    def __init__(self, captures: Captures, found: dict[Key, Any]) -> None:
        self.captures, self.low, self.found = captures, captures.low, found
        self._known: dict[int, Any] = {}

    def of(self, total: Any) -> Any:
        """The array of a total, or of a captured constant."""
        stack = [total]
        while stack:
            one = stack[-1]
            made = self.low.totals[one.number] if isinstance(one, Total) else None
            operands = made.operands if isinstance(made, DeferredOp) else ()
            missing = [o for o in operands if isinstance(o, Total) and o.number not in self._known]
            if missing:
                stack += missing
                continue
            if made is not None and one.number not in self._known:
                self._known[one.number] = self._made(made)
            stack.pop()
        return self._value(total)

    def _value(self, one: Any) -> Any:
        return self._known[one.number] if isinstance(one, Total) else self.captures[one.number]._array

    def _made(self, made: Any) -> Any:
        if not isinstance(made, DeferredOp):
            return self.found[made]
        operands: list[Any] = [None if o is None else self._value(o) for o in made.operands]
        if made.op == "reshape":
            return operands[0].reshape(made.settings["shape"]).copy()  # two gradients may be the same sum
        if made.op == "add":
            return operands[0] + operands[1]
        if made.op == "sum":
            return operands[0].sum(made.settings["axis"])
        arrays = [None if a is None else np.asarray(a, self.low.dtype) for a in _with_numbers(made, operands)]
        settings = {} if isinstance(made.op, Elementwise) else dict(made.settings)
        return np.asarray(made.op.forward(arrays, settings))


def replayed(deferred: DeferredOp, operands: list[Any]) -> Any:
    """A deferred op on tensors; who watches sees the run that takes the result, and not this."""
    operands, state = _with_numbers(deferred, operands), thread.state
    watchers, state.watchers = state.watchers, ()
    try:
        if isinstance(deferred.op, Elementwise):
            return deferred.op.call(*operands)
        return deferred.op.call(operands, dict(deferred.settings))
    finally:
        state.watchers = watchers


def _with_numbers(deferred: DeferredOp, operands: list[Any]) -> list[Any]:
    """The operands, with the plain numbers among them, which an elementwise op has in its settings."""
    if not isinstance(deferred.op, Elementwise):
        return operands
    return [deferred.settings.get(name, x) for name, x in zip(deferred.op.inputs, operands)]
