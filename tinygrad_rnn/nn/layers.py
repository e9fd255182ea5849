"""RNN, LSTM and GRU as PyTorch has them: stacked cells, with its parameter names and layouts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..autograd.create import zeros
from ..autograd.pytree import leaves, map_leaves, unflatten
from ..autograd.tensor import Tensor
from ..errors import ArgumentError
from ..ops.shape import stack
from .cell import Cell, GatedCell, check_sizes, check_switches, fitting
from .cells import GRUCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .module import Module, Parameter
from .recurrent import Bidirectional, Lengths, OverTime, Recurrent, Stacked


class Layers(OverTime):
    """Cells of one kind in `num_layers` layers, each in one direction or both.

    The parameters' names are PyTorch's: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`,
    `weight_ih_l0_reverse`, ..., `weight_ih_l1`, ...
    """

    #: Makes one cell, from the sizes of its input and its state.
    make: Callable[..., GatedCell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        learned_state: bool = False,
        checkpoint: str | int | None = None,
        engine: str = "auto",
        dtype: Any = None,
        rng: np.random.Generator | None = None,
        **of_cell: Any,
    ) -> None:
        name = type(self).__name__
        check_sizes(name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        check_switches(
            name, bias=bias, batch_first=batch_first, bidirectional=bidirectional, learned_state=learned_state
        )
        if not 0.0 <= dropout <= 1.0:
            raise ArgumentError(f"{name}: not a probability", expected="0 <= dropout <= 1", got=dropout)
        if dropout and num_layers == 1:
            warnings.warn(
                "dropout acts between layers, and there is one layer: it has no effect", UserWarning, stacklevel=3
            )
        self._cells: dict[str, GatedCell] = {}
        self.num_layers, self.batch_first, self.bidirectional = num_layers, batch_first, bidirectional
        size, layers = input_size, []
        for i in range(num_layers):
            there = type(self).make(size, hidden_size, bias, dtype=dtype, rng=rng, **of_cell)
            self._cells[f"l{i}"] = there
            layer: OverTime = Recurrent(there, checkpoint=checkpoint, engine=engine)
            size = there.output_size
            if bidirectional:
                back = type(self).make(there.input_size, hidden_size, bias, dtype=dtype, rng=rng, **of_cell)
                self._cells[f"l{i}_reverse"] = back
                layer = Bidirectional(layer, Recurrent(back, reverse=True, checkpoint=checkpoint, engine=engine))
                size *= 2
            layers.append(layer)
        self._stack = Stacked(layers, dropout, rng)
        self.bias, self.proj_size = bias, of_cell.get("proj_size", 0)
        self.input_size, self.hidden_size = input_size, hidden_size
        self._learned: list[str] = []
        if learned_state:
            zero = self.cells[0].initial_state(1)
            names = getattr(type(zero), "_fields", ("hidden",))
            for part, of in zip(leaves(zero), names):
                self._learned.append(f"initial_{of}")
                first = zeros(len(self.cells), part.shape[1], dtype=part.dtype)
                super().__setattr__(f"initial_{of}", Parameter(first))

    @property
    def dropout(self) -> float:
        """The probability with which an output is dropped before the next layer, in training."""
        return self._stack.dropout

    @dropout.setter
    def dropout(self, p: float) -> None:
        self._stack.dropout = p

    @property
    def cells(self) -> list[GatedCell]:
        """The cells: lowest layer first, in each the forward direction first."""
        return list(self._cells.values())

    def _named_tensors(self, chosen: Callable[[Module], Iterable[tuple[str, Tensor]]]) -> Iterator[tuple[str, Tensor]]:
        for suffix, cell in self._cells.items():
            for name, tensor in cell._named_tensors(chosen):
                yield f"{name}_{suffix}", tensor
        yield from chosen(self)  # what a subclass adds
        for name, child in self.named_children():
            for below, tensor in child._named_tensors(chosen) if child is not self._stack else ():
                yield f"{name}.{below}", tensor

    def _owner(self, name: str) -> tuple[Cell | None, str]:
        """The cell that holds the parameter of that name, and its name there."""
        stem, _, suffix = name.rpartition("_l")
        cell = vars(self).get("_cells", {}).get(f"l{suffix}")
        return (cell, stem) if cell is not None and stem in vars(cell) else (None, name)

    def __setattr__(self, name: str, value: Any) -> None:
        cell, stem = self._owner(name)
        if cell is not None:
            setattr(cell, stem, value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        cell, stem = self._owner(name)
        if cell is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(cell, stem)

    def own_states(self, batch_size: int) -> list[Any] | None:
        """The learned states that the layers inside start from where none is given; None where none is learned."""
        if not self._learned:
            return None
        learned = (getattr(self, name).expand_dims(1) for name in self._learned)
        zero = stacked_state([cell.initial_state(batch_size) for cell in self.cells])
        first = unflatten(zero, (part.broadcast_to(of.shape) for part, of in zip(learned, leaves(zero))))
        return self._by_layer(first, batch_size)

    def _by_layer(self, state: Any, batch_size: int) -> list[Any]:
        """A state as the layers inside take it: with both directions a pair for each."""
        each = self._unstacked(state, batch_size)
        return [tuple(each[2 * i : 2 * i + 2]) if self.bidirectional else each[i] for i in range(self.num_layers)]

    def run(self, x: Tensor, state: Any, lengths: Lengths) -> tuple[Any, Any]:
        # Inside, the states are those of the cells, one after another; outside, theirs stacked.
        given = self.own_states(x.shape[1]) if state is None else self._by_layer(state, x.shape[1])
        outputs, states = self._stack.run(x, given, lengths)
        return outputs, stacked_state([one for pair in states for one in pair] if self.bidirectional else list(states))

    @property
    def reads(self) -> bool | None:
        return None if self.bidirectional else False

    def numbered(self, layer: int) -> int:
        return self._stack.numbered(layer)

    def with_batch(self, state: Any) -> Any:
        return map_leaves(lambda part: part.expand_dims(1), state)

    def without_batch(self, state: Any) -> Any:
        return map_leaves(lambda part: part.squeeze(1), state)

    def _unstacked(self, state: Any, batch_size: int) -> list[Any]:
        """A pytree of (layers, B, H) as a list of pytrees."""
        zero = stacked_state([cell.initial_state(batch_size) for cell in self.cells])
        state = fitting(state, zero, type(self).__name__)
        return [map_leaves(lambda part, i=i: part[i], state) for i in range(len(self.cells))]

    def extra_repr(self) -> str:
        both = ", bidirectional=True" if self.bidirectional else ""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}{both}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def stacked_state(states: list[Any]) -> Any:
    """Pytrees of (B, H), one a layer, as one pytree of (layers, B, H)."""
    if len(states) == 1:
        return map_leaves(lambda part: part.expand_dims(0), states[0])
    return map_leaves(lambda *parts: stack(parts), *states)


class RNN(Layers):
    """Simple recurrent layers; see `RNNCell` for the equation.

    Args:
        input_size: features of x, I.
        hidden_size: features of the state and the output, H.
        num_layers: layers one above another, L.
        nonlinearity: "tanh" or "relu".
        bias: whether there are bias_ih and bias_hh.
        batch_first: x and output are (B, T, ...) instead of (T, B, ...).
        dropout: probability with which an output is dropped before the next layer, in training.
        bidirectional: each layer has a second cell that reads in reverse; outputs are side by side. D = 2, else 1.
        learned_state: the initial state is learned (`initial_hidden`, (L D, H)) where none is given.
        checkpoint: memory for time, as in `tg.scan`.
        engine: how it runs, as in `tg.engine`: "auto", "eager" or "fused".
        dtype: float32 or float64; the default dtype where None.
        rng: a numpy.random.Generator for the parameters and dropout.

    `layer(x, state=None, lengths=None)` takes x (T, B, I), or (T, I) without a batch, a state (L D, B, H), and lengths
    (B,); it returns the last layer's outputs (T, B, D H) and the final state. See `OverTime`.
    """

    make = RNNCell


class LSTM(Layers):
    """Long short-term memory layers; see `LSTMCell` for the equations.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, checkpoint, engine, dtype,
            rng: as for `RNN`.
        learned_state: the initial state is learned (`initial_hidden`, `initial_cell`) where none is given.
        proj_size: where not 0, the output and the hidden state are projected to so many features P (see
            `ProjectedLSTMCell`), with weights `weight_hr_l0`, ...

    `layer(x, state=None, lengths=None)` takes x (T, B, I), or (T, I) without a batch, a state (h, c) of (L D, B, P or
    H) and (L D, B, H), and lengths (B,); it returns the last layer's outputs (T, B, D P or D H) and the final (h, c).
    See `OverTime`.
    """

    @staticmethod
    def make(input_size: int, hidden_size: int, bias: bool, *, proj_size: int = 0, **named: Any) -> GatedCell:
        if proj_size:
            return ProjectedLSTMCell(input_size, hidden_size, proj_size, bias, **named)
        return LSTMCell(input_size, hidden_size, bias, **named)


class GRU(Layers):
    """Gated recurrent unit layers; see `GRUCell` for the equations.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, learned_state, checkpoint,
            engine, dtype, rng: as for `RNN`.
        reset_after: whether the reset gate acts after the product, as in PyTorch and cuDNN, or before it, as in Cho et
            al. 2014.

    `layer(x, state=None, lengths=None)` takes x (T, B, I), or (T, I) without a batch, a state (L D, B, H), and lengths
    (B,); it returns the last layer's outputs (T, B, D H) and the final state. See `OverTime`.
    """

    make = GRUCell
