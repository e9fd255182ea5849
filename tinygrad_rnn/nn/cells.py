"""Cells: nothing but equations. A cell is one step; it knows no time.

In each, x is (B, I), a state (B, H), the weights are PyTorch's in name, layout and gate order, and the named values
are what pictures and telemetry show.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..autograd.create import zeros
from ..autograd.tensor import Tensor, as_tensor
from ..errors import ArgumentError, ShapeError
from ..ops.contract import linear
from ..ops.elementwise import relu, sigmoid, tanh
from ..ops.shape import split
from . import init
from .module import Module, Parameter
from .nest import map_nest, structure


class Cell(Module):
    """Base class of cells: define `initial_state` and `step`.

    `step(x, state)` takes x (B, I) and a state (any nest of tuples of tensors) and returns (output (B, H), new state).
    Called, a cell returns the new state alone, as PyTorch's do.
    """

    input_size: int
    hidden_size: int

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step."""
        return self.zeros(batch_size, self.hidden_size)

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        """One step: (output, new state)."""
        raise TypeError(f"{type(self).__name__} does not define step(x, state)")

    def zeros(self, batch_size: int, n: int) -> Tensor:
        """State of shape (batch_size, n), zero, in the parameters' dtype."""
        first = next(iter(self.parameters()), None)
        return zeros(batch_size, n, dtype=first.dtype if first is not None else None)

    def fitted(self, state: Any, batch_size: int) -> Any:
        """The state given, in the nest that `initial_state` makes; that itself where None.

        Raises:
            ShapeError: where nest or shapes differ; broadcasting a state is mostly a mistake.
        """
        zero = self.initial_state(batch_size)
        if state is None:
            return zero
        if structure(state) != structure(zero):
            name = type(self).__name__
            raise ShapeError(f"{name}: the state does not fit", expected=structure(zero), got=structure(state))
        return map_nest(lambda _, given: as_tensor(given), zero, state)

    def forward(self, x: Any, state: Any = None) -> Any:
        x = as_tensor(x)
        if x.ndim == 1:
            batched = map_nest(lambda part: as_tensor(part).expand_dims(0), state) if state is not None else None
            return map_nest(lambda part: part.squeeze(0), self.forward(x.expand_dims(0), batched))
        if x.ndim != 2:
            raise ShapeError(f"{type(self).__name__}: x is one step", expected="(B, I) or (I,)", got=x.shape)
        return self.step(x, self.fitted(state, x.shape[0]))[1]

    def extra_repr(self) -> str:
        return ", ".join(str(vars(self)[name]) for name in ("input_size", "hidden_size") if name in vars(self))


class _GatedCell(Cell):
    """Parameters of `gates` gates, stacked: weight_ih (gates H, I), weight_hh (gates H, H), biases (gates H,).

    Uniform in +-1/sqrt(H), as in PyTorch.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: Any = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        if input_size < 1 or hidden_size < 1:
            raise ArgumentError(
                f"{type(self).__name__}: sizes are at least 1",
                got=f"input_size={input_size}, hidden_size={hidden_size}",
            )
        self.input_size, self.hidden_size = input_size, hidden_size
        bound = 1.0 / math.sqrt(hidden_size)

        def drawn(*shape: int) -> Parameter:
            return Parameter(init.uniform_(zeros(shape, dtype=dtype), -bound, bound, rng))

        rows = self.gates * hidden_size
        self.weight_ih, self.weight_hh = drawn(rows, input_size), drawn(rows, hidden_size)
        self.bias_ih = drawn(rows) if bias else None
        self.bias_hh = drawn(rows) if bias else None


class RNNCell(_GatedCell):
    """The simple recurrent cell (Elman 1990):

    h' = tanh(W_ih x + b_ih + W_hh h + b_hh)          or relu in place of tanh
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: Any = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype, rng=rng)
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError("RNNCell: no such nonlinearity", expected="tanh | relu", got=repr(nonlinearity))
        self.nonlinearity = nonlinearity

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        activation = tanh if self.nonlinearity == "tanh" else relu
        mixed = linear(x, self.weight_ih, self.bias_ih) + linear(state, self.weight_hh, self.bias_hh)
        hidden = activation(mixed).named("hidden")
        return hidden, hidden


class LSTMState(NamedTuple):
    """The hidden state, which is the output, and the cell state, which is the memory; each (B, H)."""

    hidden: Any
    cell: Any


class LSTMCell(_GatedCell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000):

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)        input gate: what is written
    f = sigmoid(W_if x + b_if + W_hf h + b_hf)        forget gate: what is kept
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)           candidate: what could be written
    o = sigmoid(W_io x + b_io + W_ho h + b_ho)        output gate: what is shown
    c' = f c + i g
    h' = o tanh(c')
    """

    gates = 4

    def initial_state(self, batch_size: int) -> LSTMState:
        zero = self.zeros(batch_size, self.hidden_size)
        return LSTMState(zero, zero)

    def step(self, x: Any, state: Any) -> tuple[Any, LSTMState]:
        hidden, cell = state
        gates = linear(x, self.weight_ih, self.bias_ih) + linear(hidden, self.weight_hh, self.bias_hh)
        i, f, g, o = split(gates, 4, axis=-1)
        input_gate = sigmoid(i).named("input_gate")
        forget_gate = sigmoid(f).named("forget_gate")
        candidate = tanh(g).named("candidate")
        output_gate = sigmoid(o).named("output_gate")
        cell = (forget_gate * cell + input_gate * candidate).named("cell")
        hidden = (output_gate * tanh(cell)).named("hidden")
        return hidden, LSTMState(hidden, cell)


class GRUCell(_GatedCell):
    """Gated recurrent unit (Cho et al. 2014; reset after the product, as in cuDNN and PyTorch):

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        reset gate: how much of the past the candidate sees
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)        update gate: how much of the past is kept
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))       candidate
    h' = (1 - z) n + z h
    """

    gates = 3

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        hidden = state
        input_r, input_z, input_n = split(linear(x, self.weight_ih, self.bias_ih), 3, axis=-1)
        hidden_r, hidden_z, hidden_n = split(linear(hidden, self.weight_hh, self.bias_hh), 3, axis=-1)
        reset_gate = sigmoid(input_r + hidden_r).named("reset_gate")
        update_gate = sigmoid(input_z + hidden_z).named("update_gate")
        candidate = tanh(input_n + reset_gate * hidden_n).named("candidate")
        hidden = ((1.0 - update_gate) * candidate + update_gate * hidden).named("hidden")
        return hidden, hidden
