"""Colours for numbers: a scale of the norms of values or gradients, or of how saturated gates are.

Never colour alone: pale is small and dark is large, which survives print and any eye; widths of edges say the same, and
tooltips hold the number. What is not finite is magenta, with a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .measure import Statistics
from .nodes import Node

COLOURS = ("none", "value", "grad", "saturation")

#: From small to large: ColorBrewer's YlGnBu (Harrower and Brewer 2003), which is safe for colour-blind readers.
#: What is exactly 0 has no power of ten.
ZERO = "#DDE1E6"
RAMP = ("#FFFFD9", "#EDF8B1", "#C7E9B4", "#7FCDBB", "#41B6C4", "#1D91C0", "#225EA8", "#253494", "#081D58")
STRANGE = "#D5008F"

#: A scale has at most so many powers of ten; what is below is as pale as its end.
_DECADES = 12

_TITLES = {
    "value": "norm of the value",
    "grad": "norm of the gradient",
    "saturation": "share of units that are saturated: σ below 0.05 or above 0.95, tanh beyond ±0.9, ReLU at 0",
}


@dataclass(frozen=True)
class Scale:
    """What colours and widths mean.

    Attributes:
        what: one of `COLOURS` but "none".
        low, high: the ends, as powers of ten; of saturation, shares.
        result: the name of what gradients are of.
    """

    what: str
    low: float
    high: float
    result: str = ""

    @classmethod
    def of(cls, nodes: Iterable[Node], what: str, result: str = "") -> Scale:
        """The scale that fits these nodes: whole powers of ten around all norms. `result` is what gradients are of."""
        if what == "saturation":
            return cls(what, 0.0, 1.0)
        known = [statistics.norm for node in nodes if (statistics := measured(node, what)) is not None]
        powers = [math.log10(norm) for norm in known if norm > 0.0] or [0.0]
        high = math.ceil(max(powers))
        low = max(math.floor(min(powers)), high - _DECADES)
        return cls(what, float(min(low, high - 1)), float(high), result if what == "grad" else "")

    @property
    def title(self) -> str:
        """What is painted, in words."""
        return _TITLES[self.what] + (f" of {self.result}" if self.result else "")

    def part(self, node: Node) -> float | None:
        """Where on the scale a node is, from 0 to 1; None where there is no number for it."""
        if self.what == "saturation":
            return node.seen.saturated if node.seen is not None else None
        statistics = measured(node, self.what)
        if statistics is None:
            return None
        return self._place(statistics.norm)

    def _place(self, norm: float) -> float:
        power = math.log10(norm) if norm > 0.0 else self.low
        return min(max((power - self.low) / (self.high - self.low), 0.0), 1.0)

    def fill(self, node: Node) -> str | None:
        """The colour of a node; None where there is no number for it."""
        if self.trouble(node):
            return STRANGE
        part, statistics = self.part(node), measured(node, self.what)
        if self.what != "saturation" and statistics is not None and statistics.norm == 0.0:
            return ZERO
        return at(part) if part is not None else None

    def trouble(self, node: Node) -> str:
        """ "NaN" or "inf" where a node's numbers are not finite."""
        statistics = measured(node, "grad" if self.what == "grad" else "value")
        return statistics.trouble if statistics is not None else ""

    def width(self, node: Node) -> float | None:
        """How wide the edges are that carry a node's value on to the next step."""
        part = self.part(node) if self.what != "saturation" else None
        if node.within is not None and self.what == "grad":  # of what is folded, the largest
            part = self._place(node.within[1])
        return 0.8 + 5.2 * part if part is not None else None

    def marks(self) -> list[tuple[str, str]]:
        """Colours from one end of the scale to the other, each with what it stands for or "", and one for zero."""
        if self.what == "saturation":
            return [(at(i / 4), f"{25 * i} %") for i in range(5)]
        powers = range(int(self.low), int(self.high) + 1)
        every = max(1, math.ceil(len(powers) / 7))
        ramp = [
            (at((power - self.low) / (self.high - self.low)), f"1e{power}" if i % every == 0 else "")
            for i, power in enumerate(powers)
        ]
        return [(ZERO, "0"), *ramp, ("#FFFFFF", "none")]


def measured(node: Node, what: str) -> Statistics | None:
    """The statistics of a node's gradient, or of its value."""
    if what == "grad":
        return node.gradient
    return node.seen.values if node.seen is not None else None


def at(part: float) -> str:
    """The colour at a place on the ramp, from 0 to 1."""
    place = part * (len(RAMP) - 1)
    i = min(int(place), len(RAMP) - 2)
    mixed = (
        round(int(a, 16) + (int(b, 16) - int(a, 16)) * (place - i))
        for a, b in ((RAMP[i][k : k + 2], RAMP[i + 1][k : k + 2]) for k in (1, 3, 5))
    )
    return "#" + "".join(f"{number:02X}" for number in mixed)


def is_dark(colour: str) -> bool:
    """Whether words on this colour should be white."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140.0
