"""Wrappers: cells that change how another cell runs, whatever its equations."""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np

from ..autograd.nest import leaves, like, map_nest, skeleton
from ..errors import ArgumentError
from ..ops.random import dropout, dropped, generator
from .cell import Cell
from .module import Parameter

Rng = np.random.Generator | None


class Wrapper(Cell):
    """A cell around another: its state is that of the cell inside."""

    def __init__(self, cell: Cell) -> None:
        if not isinstance(cell, Cell):
            raise ArgumentError(f"{type(self).__name__}: this goes around a cell", got=type(cell).__name__)
        self.cell = cell

    def __getattr__(self, name: str) -> Any:
        if name in ("input_size", "hidden_size", "output_size"):
            return getattr(self.cell, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def title(self) -> str:
        return f"{type(self).__name__}({self.cell.title})"

    def initial_state(self, batch_size: int) -> Any:
        return self.cell.initial_state(batch_size)

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        return self.cell.step(x, state)

    def for_sequence(self) -> Cell:
        made = copy.copy(self)
        made.cell = self.cell.for_sequence()
        return made

    def with_attributes(self, **changed: Any) -> Cell:
        made = copy.copy(self)
        made.cell = self.cell.with_attributes(**changed)
        return made


class Zoneout(Wrapper):
    """Each part of the state keeps its old value with probability p (Krueger et al. 2017, eq. 2 and 3).

    s' = s + (1 - p) dropout(step(s) - s, p)          in training: old or new
    s' = p s + (1 - p) step(s)                        else: their expectation

    An output that is a part of the state (as an LSTM's hidden) is that part.

    Args:
        cell: any cell.
        p: one probability for all of the state, or a nest of them, as the state: `LSTMState(hidden=0.05, cell=0.5)`.
        rng: a numpy.random.Generator.
    """

    def __init__(self, cell: Cell, p: Any = 0.1, rng: Rng = None) -> None:
        super().__init__(cell)
        for one in leaves(p):
            _probability(one, "Zoneout", "p")
        self.p, self.rng = p, rng

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        output, new = self.cell.step(x, state)
        p = self.p if isinstance(self.p, (tuple, list)) else map_nest(lambda _: self.p, state)
        if skeleton(p) != skeleton(state):
            raise ArgumentError("Zoneout: p is no nest as the state", expected=skeleton(state), got=skeleton(p))
        kept = map_nest(self._kept, p, state, new)
        where = [i for i, part in enumerate(leaves(new)) if part is output]
        return (list(leaves(kept))[where[0]] if where else output), like(new, leaves(kept))

    def _kept(self, p: float, old: Any, new: Any) -> Any:
        return old + (1.0 - p) * dropout(new - old, p, self.training, self.rng) if p else new

    def extra_repr(self) -> str:
        return f"p={self.p}"


class VariationalDropout(Wrapper):
    """Dropout with one mask for a whole sequence, on inputs and on the past (Gal and Ghahramani 2016, eq. 7).

    step(m_x x, m_h h)          m_x, m_h: 0 with probability p, else 1 / (1 - p), for each row and feature

    m_h acts on what the cell's products see of the past (`Cell.seen`), and not on the memory that it carries along. In
    a cell that never calls `seen`, it acts on the whole first part of the state.

    Args:
        cell: any cell.
        dropout: p for the inputs.
        recurrent_dropout: p for the past.
        rng: a numpy.random.Generator.

    `Recurrent` draws the masks when a sequence starts. In a loop of your own, take `cell.for_sequence()` before it.
    """

    _keys: tuple[int, int] | None = None

    def __init__(self, cell: Cell, dropout: float = 0.0, recurrent_dropout: float = 0.0, rng: Rng = None) -> None:
        super().__init__(cell)
        self.dropout = _probability(dropout, "VariationalDropout", "dropout")
        self.recurrent_dropout = _probability(recurrent_dropout, "VariationalDropout", "recurrent_dropout")
        self.rng = rng

    def for_sequence(self) -> Cell:
        made: Any = super().for_sequence()
        # A number is a function of key and place, so a key is a mask: rows that end early leave the others' alone.
        first, second = (int(key) for key in generator(self.rng).integers(2**63, size=2)) if self.training else (0, 0)
        made._keys = first, second
        cell: Cell = made
        return cell

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        if not self.training:
            return self.cell.step(x, state)
        if self._keys is None:
            return self.for_sequence().step(x, state)
        key_x, key_h = self._keys
        if self.dropout:
            x = dropped(x, self.dropout, key_x)
        if not self.recurrent_dropout:
            return self.cell.step(x, state)
        used: list[Any] = []

        def masked(hidden: Any) -> Any:
            used.append(hidden)
            return dropped(hidden, self.recurrent_dropout, key_h)

        made = self.cell.with_attributes(seen=masked).step(x, state)
        if not used:
            first, *others = leaves(state)
            made = self.cell.step(x, like(state, iter([masked(first), *others])))
        return made

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}, recurrent_dropout={self.recurrent_dropout}"


class WeightDropout(Wrapper):
    """Dropout on weights, by default the recurrent matrix: one mask for a whole sequence (Merity et al. 2018, sect. 2).

    W' = m W                    m: 0 with probability p, else 1 / (1 - p), for each weight

    Args:
        cell: any cell.
        p: probability.
        names: which parameters of the cell; dots lead into modules inside it.
        rng: a numpy.random.Generator.

    `Recurrent` draws the masks when a sequence starts. In a loop of your own, take `cell.for_sequence()` before it.

    Raises:
        ArgumentError: where the cell has no such parameter.
    """

    _drawn = False

    def __init__(self, cell: Cell, p: float = 0.5, names: tuple[str, ...] = ("weight_hh",), rng: Rng = None) -> None:
        super().__init__(cell)
        self.p, self.names, self.rng = _probability(p, "WeightDropout", "p"), tuple(names), rng
        known = dict(_innermost(cell).named_parameters())
        for name in self.names:
            if name not in known:
                raise ArgumentError(
                    f"WeightDropout: {cell.title} has no parameter {name!r}", expected=f"names among {list(known)}"
                )

    def for_sequence(self) -> Cell:
        made: Any = super().for_sequence()
        if self.training:
            weights = {name: operator.attrgetter(name)(_innermost(self.cell)) for name in self.names}
            drawn = {name: dropout(weight, self.p, True, self.rng) for name, weight in weights.items()}
            made.cell = made.cell.with_attributes(**drawn)
        made._drawn = True
        cell: Cell = made
        return cell

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        if self._drawn or not self.training:
            return self.cell.step(x, state)
        return self.for_sequence().step(x, state)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class LearnedState(Wrapper):
    """A cell whose initial state is learned: parameters `initial_0`, `initial_1`, ..., the same for every row."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        for i, part in enumerate(leaves(cell.initial_state(1))):
            setattr(self, f"initial_{i}", Parameter(part[0]))

    def initial_state(self, batch_size: int) -> Any:
        zero = self.cell.initial_state(batch_size)
        learned = (getattr(self, f"initial_{i}").broadcast_to(part.shape) for i, part in enumerate(leaves(zero)))
        return like(zero, learned)


def _innermost(cell: Cell) -> Cell:
    while isinstance(cell, Wrapper):
        cell = cell.cell
    return cell


def _probability(p: Any, name: str, argument: str) -> float:
    if not isinstance(p, (int, float)) or not 0.0 <= p <= 1.0:
        raise ArgumentError(f"{name}: {argument} is not a probability", expected=f"0 <= {argument} <= 1", got=p)
    return float(p)
