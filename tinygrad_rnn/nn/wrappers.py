"""Wrappers: cells that change how another cell runs, whatever its equations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.create import ones_like, zeros
from ..autograd.pytree import alike, leaves, map_leaves, skeleton, structure, unflatten
from ..autograd.tensor import as_tensor, tensor
from ..compiler.scan import trial
from ..errors import ArgumentError, ShapeError
from ..ops.elementwise import where
from ..ops.random import dropout, dropped, fresh_key
from .cell import Cell, seeing
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

    def with_attribute(self, name: str, value: Any) -> Cell:
        made = copy.copy(self)
        made.cell = self.cell.with_attribute(name, value)
        return made

    @property
    def innermost(self) -> Cell:
        """The cell inside all wrappers."""
        return self.cell.innermost if isinstance(self.cell, Wrapper) else self.cell


class Zoneout(Wrapper):
    """Each part of the state keeps its old value with probability p (Krueger et al. 2017, eq. 2 and 3).

    s' = s or step(s), the first with probability p   in training, for each element
    s' = p s + (1 - p) step(s)                        else: the expectation

    An output that is a part of the state (as an LSTM's hidden) is that part.

    Args:
        cell: any cell.
        p: one probability for all of the state, or a pytree of them, as the state: `LSTMState(hidden=0.05, cell=0.5)`.
        rng: a numpy.random.Generator.
    """

    def __init__(self, cell: Cell, p: Any = 0.1, rng: Rng = None) -> None:
        super().__init__(cell)
        self.p, self.rng = map_leaves(lambda one: _probability(one, "Zoneout", "p"), p), rng

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        output, new = self.cell.step(x, state)
        p = self.p if isinstance(self.p, (tuple, list, dict)) else map_leaves(lambda _: self.p, state)
        if skeleton(p) != skeleton(state):
            raise ArgumentError("Zoneout: p is no pytree as the state", expected=skeleton(state), got=skeleton(p))
        if not alike(new, state):
            raise ShapeError(
                f"{self.cell.title}: the step returned another state than it was given",
                expected=structure(state),
                got=structure(new),
            )
        kept = map_leaves(self._kept, p, state, new)
        where = [i for i, part in enumerate(leaves(new)) if part is output]
        return (list(leaves(kept))[where[0]] if where else output), unflatten(new, leaves(kept))

    def _kept(self, p: float, old: Any, new: Any) -> Any:
        if not p or new.dtype.kind != "f":
            return new
        if not self.training:
            return old if p == 1.0 else p * old + (1.0 - p) * new
        return where(dropout(ones_like(new), p, True, self.rng) > 0.0, new, old)

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

    _keys: tuple[int, int] | None = None  # of the masks, where they are drawn
    _calls_seen: bool | None = None  # whether the cell does, where that is known

    def __init__(self, cell: Cell, dropout: float = 0.0, recurrent_dropout: float = 0.0, rng: Rng = None) -> None:
        super().__init__(cell)
        self.dropout = _probability(dropout, "VariationalDropout", "dropout")
        self.recurrent_dropout = _probability(recurrent_dropout, "VariationalDropout", "recurrent_dropout")
        self.rng = rng

    def for_sequence(self) -> Cell:
        if self._keys is not None:
            return self
        made: Any = copy.copy(self)
        made.cell = self.cell.for_sequence()
        size = getattr(made.cell, "input_size", None)
        made._calls_seen = None
        if self.training and self.recurrent_dropout and size is not None:
            state = map_leaves(as_tensor, made.cell.initial_state(1))
            made._calls_seen = made._looks(zeros(1, size, dtype=leaves(state)[0].dtype), state)
        # A number is a function of key and place, so a key is a mask: rows that end early leave the others' alone.
        made._keys = (fresh_key(self.rng), fresh_key(self.rng)) if self.training else (0, 0)
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
        calls_seen = self._looks(x, state) if self._calls_seen is None else self._calls_seen
        if calls_seen:
            return self._masked(lambda hidden: dropped(hidden, self.recurrent_dropout, key_h)).step(x, state)
        first, *others = leaves(state)
        return self.cell.step(x, unflatten(state, iter([dropped(first, self.recurrent_dropout, key_h), *others])))

    def _masked(self, mask: Callable[[Any], Any]) -> Cell:
        """The cell, with a mask on what it sees of the past."""
        cell: Cell = seeing(self.cell, lambda seen: lambda hidden: seen(mask(hidden)))
        return cell

    def _looks(self, x: Any, state: Any) -> bool:
        """Whether a step of the cell calls `seen`: it is tried."""
        used: list[Any] = []

        def noting(hidden: Any) -> Any:
            used.append(hidden)
            return hidden

        with trial():
            self._masked(noting).step(x, state)
        return bool(used)

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
        known = dict(self.innermost.named_parameters())
        for name in self.names:
            if name not in known:
                raise ArgumentError(
                    f"WeightDropout: {cell.title} has no parameter {name!r}", expected=f"names among {list(known)}"
                )

    def for_sequence(self) -> Cell:
        if self._drawn:
            return self
        made: Any = copy.copy(self)
        made._drawn, made.cell = True, self.cell.for_sequence()
        for name in self.names if self.training else ():
            owner, _, last = name.rpartition(".")
            weight = getattr(dict(made.innermost.named_modules())[owner], last)
            made.cell = made.cell.with_attribute(name, dropout(weight, self.p, True, self.rng))
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
            setattr(self, f"initial_{i}", Parameter(tensor(part[0])))

    def initial_state(self, batch_size: int) -> Any:
        zero = self.cell.initial_state(batch_size)
        learned = (getattr(self, f"initial_{i}").broadcast_to(part.shape) for i, part in enumerate(leaves(zero)))
        return unflatten(zero, learned)


def _probability(p: Any, name: str, argument: str) -> float:
    if not isinstance(p, (int, float, np.number)) or not 0.0 <= p <= 1.0:
        raise ArgumentError(f"{name}: {argument} is not a probability", expected=f"0 <= {argument} <= 1", got=p)
    return float(p)
