"""What values and gradients are like, in a few numbers each: only taken when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..autograd.backward import propagate
from ..autograd.tape import Node, Watcher
from ..autograd.tensor import Tensor
from ..errors import GraphError
from ..ops.op import Limits


@dataclass(frozen=True)
class Statistics:
    """Of the elements of an array, those that are NaN or infinite left out of all but their counts.

    Attributes:
        mean, std, min, max: as NumPy's; 0 where nothing is left.
        norm: the root of the sum of squares.
        size: how many elements there are.
        nan, inf: how many of them are NaN, and infinite.
    """

    mean: float
    std: float
    min: float
    max: float
    norm: float
    size: int
    nan: int = 0
    inf: int = 0

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> Statistics:
        """The statistics of an array, summed in float64."""
        flat = np.asarray(array, np.float64).ravel()
        finite = flat[np.isfinite(flat)]
        nan = int(np.isnan(flat).sum())
        inf = flat.size - finite.size - nan
        if not finite.size:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0, flat.size, nan, inf)
        with np.errstate(over="ignore"):
            found = finite.mean(), finite.std(), finite.min(), finite.max(), np.linalg.norm(finite)
        largest = float(np.finfo(np.float64).max)  # where a sum of squares is more
        mean, std, low, high, norm = (min(float(number), largest) for number in np.nan_to_num(found, nan=largest))
        return cls(mean, std, low, high, norm, flat.size, nan, inf)

    @property
    def trouble(self) -> str:
        """A word for what is not finite; "" where all is."""
        return "NaN" if self.nan else ("inf" if self.inf else "")


@dataclass(frozen=True)
class Seen:
    """What `watch` keeps of a value.

    Attributes:
        values: its statistics.
        saturated: for the result of a squashing function the share of elements near its limits, where its derivative
            has all but gone, as the op's declaration says: a sigmoid's at 0.05 and below or 0.95 and above, a tanh's
            beyond 0.9, a relu's at 0.
        units: of a named value inside a recurrent layer the features of the first sequence.
    """

    values: Statistics
    saturated: float | None = None
    units: tuple[float, ...] | None = None


_seen: WeakKeyDictionary[Node, Seen] = WeakKeyDictionary()


def _saturated(y: np.ndarray[Any, Any], limits: Limits) -> float:
    """The share of elements at the limits or beyond."""
    low, high = limits
    below = y <= low if low is not None else np.zeros(y.shape, bool)
    return float((below | (y >= high) if high is not None else below).mean())


class watch(Watcher):
    """Inside, statistics of every value are taken, for `graph(..., color="value")` or "saturation" and for tooltips.

    Sequences run op by op inside, so this is for looking, not for training. Holds for this thread.

    >>> import tinygrad_rnn as tg
    >>> lstm = tg.nn.LSTM(4, 8)
    >>> with tg.viz.watch():
    ...     outputs, _ = lstm(tg.randn(3, 1, 4))
    >>> picture = tg.viz.graph(outputs, color="saturation", module=lstm)
    """

    def __init__(self) -> None:
        self._units: list[tuple[Node, tuple[float, ...]]] = []

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        """Measure an operation's output."""
        if y.dtype.kind not in "biuf":
            return
        limits = node.op.saturates if node.op is not None else None
        share = _saturated(y, limits) if limits is not None and y.size else None
        _seen[node] = Seen(Statistics.of(y), share)
        if node.place is not None and node.place.step is not None and y.ndim in (1, 2) and len(y):
            self._units.append((node, tuple([float(unit) for unit in (y[0] if y.ndim == 2 else y)])))

    def __exit__(self, *trouble: object) -> None:
        super().__exit__(*trouble)
        self.settle()

    def settle(self) -> None:
        """What is seen from now on is another matter."""
        for node, units in self._units:  # names are given after a value is made
            if node.label is not None:
                known = _seen[node]
                _seen[node] = Seen(known.values, known.saturated, units)
        self._units = []


def seen(node: Node) -> Seen | None:
    """What a `watch` saw of a node's value; None where none did."""
    return _seen.get(node)


def gradients(nodes: Sequence[Node], results: Sequence[Node]) -> dict[int, Statistics]:
    """Of the gradient of the sum of all elements of `results` with respect to each of `nodes`, by the clock.

    No `grad` changes, and the graph can be used again.

    Raises:
        GraphError: where no gradient flows to any result, where a backward has freed the graph, or where a value that
            is needed was changed in place.
    """
    ends = [node for node in results if node.op is None or True in node.wanted]
    if not ends:
        raise GraphError(
            "graph: no gradient flows to this result, so there is none to colour by",
            hint="requires_grad=True on what it is made from, and not under tg.no_grad()",
        )
    found: dict[int, Any] = {node.order: None for node in nodes}
    seeds = [(node, Tensor(np.ones(node.shape, node.dtype))) for node in ends]
    propagate(seeds, retain_graph=True, create_graph=False, wanted=found)
    return {order: Statistics.of(g._array) for order, g in found.items() if g is not None}
