"""RNN, LSTM and GRU as PyTorch has them: stacked cells, with its parameter names and layouts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..autograd.tensor import Tensor, as_tensor
from ..errors import ArgumentError, ShapeError
from .cells import Cell, GRUCell, LSTMCell, RNNCell
from .module import Module
from .nest import map_nest
from .recurrent import Recurrent, Stacked, stacked_state, unstacked_state


class _Layers(Module):
    """Cells of one kind in `num_layers` layers.

    The parameters' names are PyTorch's: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, `weight_ih_l1`, ...
    """

    make: Callable[..., Cell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        dtype: Any = None,
        rng: np.random.Generator | None = None,
        **of_cell: Any,
    ) -> None:
        if num_layers < 1:
            raise ArgumentError(f"{type(self).__name__}: at least one layer", got=f"num_layers={num_layers}")
        if not 0.0 <= dropout <= 1.0:
            raise ArgumentError(f"{type(self).__name__}: not a probability", expected="0 <= dropout <= 1", got=dropout)
        if dropout and num_layers == 1:
            warnings.warn(
                "dropout acts between layers, and there is one layer: it has no effect", UserWarning, stacklevel=3
            )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first = batch_first
        cells = [
            type(self).make(hidden_size if i else input_size, hidden_size, bias, dtype=dtype, rng=rng, **of_cell)
            for i in range(num_layers)
        ]
        self._stack = Stacked([Recurrent(cell) for cell in cells], dropout, rng)

    @property
    def cells(self) -> list[Cell]:
        """The cells, lowest layer first."""
        return [layer.cell for layer in self._stack.layers if isinstance(layer, Recurrent)]

    def _named_tensors(self, chosen: Callable[[Module], Iterable[tuple[str, Tensor]]]) -> Iterator[tuple[str, Tensor]]:
        for i, cell in enumerate(self.cells):
            for name, tensor in chosen(cell):
                yield f"{name}_l{i}", tensor
        yield from chosen(self)  # what a subclass adds
        for name, child in self.named_children():
            for below, tensor in child._named_tensors(chosen) if child is not self._stack else ():
                yield f"{name}.{below}", tensor

    def __setattr__(self, name: str, value: Any) -> None:
        stem, _, layer = name.rpartition("_l")
        if layer.isdecimal() and int(layer) < self.num_layers and stem in vars(self.cells[int(layer)]):
            setattr(self.cells[int(layer)], stem, value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and "_l" in name:
            for known, parameter in self.named_parameters():
                if known == name:
                    return parameter
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        """Outputs of the last layer, and the state after the last step, (num_layers, B, H) or a tuple of such."""
        x = as_tensor(x)
        if x.ndim not in (2, 3):
            raise ShapeError(
                f"{type(self).__name__}: x is a sequence", expected="(T, B, I), or (T, I) without a batch", got=x.shape
            )
        if x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: the number of features differs",
                expected=f"(..., {self.input_size})",
                got=x.shape,
            )
        unbatched, turned = x.ndim == 2, x.ndim == 3 and self.batch_first
        if unbatched:
            x = x.expand_dims(1)
            state = map_nest(lambda part: as_tensor(part).expand_dims(1), state) if state is not None else None
        if turned:
            x = x.permute_dims((1, 0, 2))
        given = unstacked_state(state, self.num_layers) if state is not None else None
        outputs, states = self._stack(x, given)
        final = stacked_state(states)
        if unbatched:
            outputs, final = outputs.squeeze(1), map_nest(lambda part: part.squeeze(1), final)
        return outputs.permute_dims((1, 0, 2)) if turned else outputs, final

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class RNN(_Layers):
    """Simple recurrent layers; see `RNNCell` for the equation.

    Args:
        input_size: features of x, I.
        hidden_size: features of the state and the output, H.
        num_layers: layers one above another.
        nonlinearity: "tanh" or "relu".
        bias: whether there are bias_ih and bias_hh.
        batch_first: x and output are (B, T, ...) instead of (T, B, ...).
        dropout: probability with which an output is dropped before the next layer, in training.
        dtype: float32 or float64; the default dtype where None.
        rng: a numpy.random.Generator for the parameters and dropout.

    `layer(x, state=None)` takes x (T, B, I), or (T, I) without a batch, and a state (num_layers, B, H), zeros where
    None; it returns the last layer's outputs (T, B, H) and the final state.
    """

    make = RNNCell

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, nonlinearity: str = "tanh", **named: Any
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, nonlinearity=nonlinearity, **named)


class LSTM(_Layers):
    """Long short-term memory layers; see `LSTMCell` for the equations.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, dtype, rng: as for `RNN`.

    `layer(x, state=None)` takes x (T, B, I), or (T, I) without a batch, and a state (h, c), each (num_layers, B, H),
    zeros where None; it returns the last layer's outputs (T, B, H) and the final (h, c).
    """

    make = LSTMCell


class GRU(_Layers):
    """Gated recurrent unit layers; see `GRUCell` for the equations.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, dtype, rng: as for `RNN`.

    `layer(x, state=None)` takes x (T, B, I), or (T, I) without a batch, and a state (num_layers, B, H), zeros where
    None; it returns the last layer's outputs (T, B, H) and the final state.
    """

    make = GRUCell
