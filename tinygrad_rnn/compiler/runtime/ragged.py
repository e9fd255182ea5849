"""Rows of different lengths: each step runs the rows that are still live, and padding is never read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...autograd.pytree import map_leaves
from ...autograd.tensor import Tensor
from ...ops.arrange import pad
from ...ops.shape import concat

Over = Callable[[Any, Any, int], tuple[Any, Any]]
Stretch = tuple[int, int, int]


class Ragged:
    """Rows sorted by length, longest first, so that the live ones come first at every step.

    Attributes:
        steps: those of x; longest: those in which any row lives.
        lengths: sorted; live: how many rows live at each step.
        order: of the sorted rows, where each came from; back: the reverse.
    """

    def __init__(self, lengths: np.ndarray[Any, Any], steps: int) -> None:
        self.steps, self.longest = steps, int(lengths.max(initial=0))
        self.order = np.argsort(-lengths, kind="stable")
        self.back = np.argsort(self.order, kind="stable")
        self.lengths = lengths[self.order]
        self.live = np.count_nonzero(lengths[:, None] > np.arange(steps), axis=0)
        self._dead = lengths <= np.arange(steps)[:, None]

    def sorted(self, array: Any, axis: int) -> Any:
        """The rows along an axis, longest first."""
        return array.take(self.order, axis)

    def whole(self, array: Any) -> Any:
        """The reverse, of an array (longest, B, ...) over time: (steps, B, ...), with zeros where no row lives."""
        made = np.empty((self.steps, *array.shape[1:]), array.dtype)
        np.take(array, self.back, 1, out=made[: self.longest])
        made[self._dead] = 0
        return made


def over_live_rows(over: Over, x: Tensor, state: Any, ragged: Ragged, reverse: bool) -> tuple[Any, Tensor]:
    """`over(x, state, first)`, which runs steps from `first` on, for rows of these lengths: (state, outputs).

    Stretches of time in which the same rows live are run one after another.
    """
    steps, batch_size = x.shape[:2]
    order, back, live = ragged.order, ragged.back, ragged.live
    state = map_leaves(lambda part: part[order], state)
    ends = [t + 1 for t in range(steps) if t + 1 == steps or live[t + 1] != live[t]]
    stretches = [(a, b, int(live[a])) for a, b in zip([0, *ends], ends) if live[a]]
    if not stretches:
        outputs, now = over(x[:0], state, 0)
        return map_leaves(lambda part: part[back], now), map_leaves(lambda y: pad(y, {0: (0, steps)}), outputs)
    x, run = x[:, order], _backwards if reverse else _forwards
    parts, final = run(over, x, state, stretches)

    def whole(*ys: Tensor) -> Tensor:
        padded = [pad(y, {1: (0, batch_size - y.shape[1])}) for y in ys]
        made: Tensor = pad(concat(padded), {0: (0, steps - ragged.longest)})
        return made[:, back]

    return map_leaves(lambda part: part[back], final), map_leaves(whole, *parts)


def _forwards(over: Over, x: Tensor, state: Any, stretches: list[Stretch]) -> tuple[list[Tensor], Any]:
    """Outputs of each stretch, and the final state: rows leave when they end."""
    outputs, ended = [], []
    for a, b, rows in stretches:
        ended.append(map_leaves(lambda part, n=rows: part[n:], state))
        state = map_leaves(lambda part, n=rows: part[:n], state)
        y, state = over(x[a:b, :rows], state, a)
        outputs.append(y)
    return outputs, map_leaves(lambda *parts: concat(parts), state, *reversed(ended))


def _backwards(over: Over, x: Tensor, state: Any, stretches: list[Stretch]) -> tuple[list[Tensor], Any]:
    """The same from the end: rows join where they end."""
    outputs, now, before = [], map_leaves(lambda part: part[:0], state), 0
    for a, b, rows in reversed(stretches):
        now = map_leaves(lambda old, new, i=before, n=rows: concat([old, new[i:n]]), now, state)
        y, now = over(x[a:b, :rows], now, a)
        outputs.append(y)
        before = rows
    return outputs[::-1], map_leaves(lambda old, new: concat([old, new[before:]]), now, state)
