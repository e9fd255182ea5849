"""Rows of different lengths: each step runs the rows that are still live, and padding is never read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.nest import leaves, map_nest, structure
from ..autograd.tape import Place
from ..autograd.tensor import Tensor
from ..compiler.run import at
from ..errors import DtypeError, ShapeError
from ..ops.arrange import pad
from ..ops.shape import concat

Over = Callable[[Any, Any, int], tuple[Any, Any]]
Stretch = tuple[int, int, int]


def checked_lengths(lengths: Any, steps: int, batch_size: int, name: str) -> np.ndarray[Any, Any]:
    """The lengths as an int64 array (B,).

    Raises:
        DtypeError: where they are no integers.
        ShapeError: where they are not one a row, below 0, or longer than x.
    """
    try:
        found = np.asarray(lengths)
    except ValueError:
        raise ShapeError(f"{name}: one length for each row", expected=(batch_size,), got=repr(lengths)[:60]) from None
    if found.dtype.kind not in "iu" and found.size:
        raise DtypeError(f"{name}: lengths are whole numbers", expected="integers", got=found.dtype)
    if found.shape != (batch_size,):
        raise ShapeError(f"{name}: one length for each row", expected=(batch_size,), got=found.shape)
    wrong = np.flatnonzero((found < 0) | (found > steps))
    if wrong.size:
        row = int(wrong[0])
        raise ShapeError(
            f"{name}: the length of row {row} does not fit", expected=f"0 to {steps}, the steps of x", got=found[row]
        )
    return found.astype(np.int64)


def over_live_rows(
    over: Over, x: Tensor, state: Any, lengths: np.ndarray[Any, Any], place: Place
) -> tuple[Tensor, Any]:
    """`over(x, state, first)`, which runs steps from `first` on, for rows of these lengths.

    The rows are sorted, longest first. Then the live ones come first at every step, and stretches of time in which the
    same rows live are run one after another.
    """
    steps, batch_size = x.shape[:2]
    with at(place):
        for part in leaves(state):
            if not part.ndim or part.shape[0] != batch_size:
                raise ShapeError(
                    "with lengths, the first axis of a state is the batch",
                    expected=f"({batch_size}, ...)",
                    got=structure(state),
                )
    order = np.argsort(-lengths, kind="stable")
    back = np.argsort(order, kind="stable")
    state = map_nest(lambda part: part[order], state)
    live = np.count_nonzero(lengths[:, None] > np.arange(steps), axis=0)
    ends = [t + 1 for t in range(steps) if t + 1 == steps or live[t + 1] != live[t]]
    stretches = [(a, b, int(live[a])) for a, b in zip([0, *ends], ends) if live[a]]
    if not stretches:
        outputs, now = over(x[:0], state, 0)
        return pad(outputs, {0: (0, steps)}), map_nest(lambda part: part[back], now)
    x, run = x[:, order], _backwards if place.reverse else _forwards
    parts, final = run(over, x, state, stretches)
    longest = stretches[-1][1]
    padded = [pad(y, {1: (0, batch_size - y.shape[1])}) for y in parts]
    outputs = pad(concat(padded), {0: (0, steps - longest)})
    return outputs[:, back], map_nest(lambda part: part[back], final)


def _forwards(over: Over, x: Tensor, state: Any, stretches: list[Stretch]) -> tuple[list[Tensor], Any]:
    """Outputs of each stretch, and the final state: rows leave when they end."""
    outputs, ended = [], []
    for a, b, rows in stretches:
        ended.append(map_nest(lambda part, n=rows: part[n:], state))
        state = map_nest(lambda part, n=rows: part[:n], state)
        y, state = over(x[a:b, :rows], state, a)
        outputs.append(y)
    return outputs, map_nest(lambda *parts: concat(parts), state, *reversed(ended))


def _backwards(over: Over, x: Tensor, state: Any, stretches: list[Stretch]) -> tuple[list[Tensor], Any]:
    """The same from the end: rows join where they end."""
    outputs, now, before = [], map_nest(lambda part: part[:0], state), 0
    for a, b, rows in reversed(stretches):
        now = map_nest(lambda old, new, i=before, n=rows: concat([old, new[i:n]]), now, state)
        y, now = over(x[a:b, :rows], now, a)
        outputs.append(y)
        before = rows
    return outputs[::-1], map_nest(lambda old, new: concat([old, new[before:]]), now, state)
