"""What happens inside of a layer while it runs: named values of every step, from the fused engine too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..autograd.tape import Place, thread
from ..autograd.tensor import Tensor
from ..errors import ArgumentError

Array = np.ndarray[Any, Any]


class Where(NamedTuple):
    """Whose value it is."""

    name: str
    layer: int | None
    reverse: bool

    def __str__(self) -> str:
        parts = [repr(self.name)]
        parts += [str(self.layer)] if self.layer or self.reverse else []
        return ", ".join([*parts, "reverse=True"] if self.reverse else parts)


@contextlib.contextmanager
def named_values() -> Iterator[dict[str, Tensor]]:
    """Inside, what `Tensor.named` names, by name."""
    outer, found = thread.state.named, dict[str, Tensor]()
    thread.state.named = found
    try:
        yield found
    finally:
        thread.state.named = outer


class record:
    """Inside, layers over time keep the named values of every step: gates, candidates, states.

    The values are (T, B, H), without a history, and 0 past a row's length; they come from the fused engine as from the
    other, and training goes on as it would. Where a layer runs several times, those of the last time are kept. Holds
    for this thread. Nets of several layers have them by the layer's number; two nets take a record each.

    Args:
        names: as in `Tensor.named`, such as "forget_gate" or "cell".

    Raises:
        ArgumentError: for no names; and on reading, for a value that no layer inside has, or that several have.

    >>> import tinygrad_rnn as tg
    >>> lstm = tg.nn.LSTM(4, 8)
    >>> with tg.record("forget_gate", "cell") as r:
    ...     outputs, _ = lstm(tg.randn(20, 3, 4))
    >>> r["forget_gate"].shape
    (20, 3, 8)
    >>> r.time_constant("forget_gate").shape
    (8,)
    """

    def __init__(self, *names: str) -> None:
        if not names or not all(isinstance(name, str) for name in names):
            raise ArgumentError("record: which values?", expected='names such as "forget_gate"', got=repr(names))
        self.names = tuple(sorted(set(names)))
        self.values: dict[Where, Array] = {}
        self._lengths: dict[Where, Array | None] = {}
        self._layers: dict[Where, list[object]] = {}  # whose they are: one, or there is no telling
        self._outer: list[record | None] = []

    def __enter__(self) -> record:
        self._outer.append(thread.state.recorder)
        thread.state.recorder = self
        return self

    def __exit__(self, *trouble: object) -> None:
        thread.state.recorder = self._outer.pop()

    # --- Of what was recorded ---

    def __getitem__(self, which: Any) -> Array:
        """r["cell"], or of several layers r["cell", 1]; the other direction's are `r.of("cell", 1, reverse=True)`."""
        return self.of(*which) if isinstance(which, tuple) else self.of(which)

    def of(self, name: str, layer: int | None = None, reverse: bool | None = None) -> Array:
        """The values (T, B, H) of a name; which layer's, and which direction's, where there are several."""
        found = {
            where: values
            for where, values in self.values.items()
            if where.name == name and layer in (None, where.layer) and reverse in (None, where.reverse)
        }
        if len(found) != 1:
            known = [str(where) for where in found or self.values]
            raise ArgumentError(
                f"record: {'several layers have' if found else 'no layer had'} {name!r}",
                expected=" | ".join(known) or f"one of {', '.join(self.names)}, named inside a cell's step",
                got=f"layer {layer}, reverse {reverse}",
            )
        (where,) = found
        if len(self._layers[where]) > 1:
            raise ArgumentError(
                f"record: {len(self._layers[where])} layers of different nets have {where}",
                expected="one",
                hint="a record for each net",
            )
        return found[where]

    def _live(self, name: str, layer: int | None, reverse: bool | None) -> Array:
        """The values (n, H) of a name at the steps that rows have, which with lengths are fewer."""
        values = self.of(name, layer, reverse)
        lengths = next(self._lengths[where] for where, known in self.values.items() if known is values)
        if lengths is None:
            return values.reshape(-1, values.shape[-1])
        return np.asarray(values[np.arange(len(values))[:, None] < lengths])

    def saturation(
        self,
        name: str,
        layer: int | None = None,
        reverse: bool | None = None,
        *,
        limits: tuple[float, float] | None = None,
    ) -> Array:
        """The share (H,) of steps and rows at which a unit is near a limit, where its derivative has all but gone.

        Near is by a twentieth of the range. The limits are a sigmoid's, 0 and 1, where no value is negative; else a
        tanh's, -1 and 1; or those given.

        Raises:
            ArgumentError: for values outside of the limits, such as a cell state's, which has none.
        """
        values = self._live(name, layer, reverse)
        low, high = limits or ((0.0, 1.0) if values.size and values.min() >= 0.0 else (-1.0, 1.0))
        if values.size and (values.min() < low or values.max() > high):
            ends = f"{values.min():.3g} to {values.max():.3g}"
            raise ArgumentError(
                f"record: {name} has no such limits", expected=f"values from {low:g} to {high:g}", got=ends
            )
        near = 0.05 * (high - low)
        return np.asarray(((values < low + near) | (values > high - near)).mean(0))

    def time_constant(self, name: str = "forget_gate", layer: int | None = None, reverse: bool | None = None) -> Array:
        """For each unit (H,) the steps after which its memory has fallen to 1/e: -1 / mean(ln f), over steps and rows.

        Infinite for a gate that never closes. (Tallec and Ollivier 2018, "Can recurrent neural networks warp time?")

        Raises:
            ArgumentError: for values that are no gate's, outside of 0 to 1.
        """
        values = self._live(name, layer, reverse).astype(np.float64)
        if values.size and (values.min() < 0.0 or values.max() > 1.0):
            ends = f"{values.min():.3g} to {values.max():.3g}"
            raise ArgumentError(f"record: {name} is no gate", expected="values from 0 to 1", got=ends)
        with np.errstate(divide="ignore"):
            return np.asarray(1.0 / np.abs(np.log(values).mean(0)))

    # --- While a layer runs ---

    def around(self, step: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, Any]]:
        """The step of a layer, with the named values beside its output."""

        def watched(state: Any, x: Any) -> tuple[Any, Any]:
            with named_values() as found:
                new, output = step(state, x)
            return new, (output, {name: found[name].detach() for name in self.names if name in found})

        return watched

    def taken(self, layer: object, place: Place, outputs: Any, lengths: Array | None) -> Tensor:
        """The outputs of a layer whose step was `around`; the named values are kept."""
        output: Tensor = outputs[0]
        named: dict[str, Tensor] = outputs[1]
        for name, values in named.items():
            where = Where(name, place.layer, place.reverse)
            self.values[where], self._lengths[where] = values._array, lengths
            known = self._layers.setdefault(where, [])
            if not any(one is layer for one in known):
                known.append(layer)
        return output
