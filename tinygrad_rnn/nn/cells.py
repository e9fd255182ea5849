"""Cells: nothing but equations.

In each, x is (B, I), a state (B, H), the weights are PyTorch's in name, layout and gate order, and the named values
are what pictures and telemetry show. A product of two vectors is elementwise.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from ..autograd.create import zeros
from ..errors import ArgumentError
from ..ops.contract import linear
from ..ops.elementwise import relu, sigmoid, tanh
from ..ops.shape import split
from . import init
from .cell import GatedCell
from .dense import LayerNorm
from .module import Parameter

ACTIVATIONS = {"tanh": tanh, "relu": relu}


class RNNCell(GatedCell):
    """The simple recurrent cell (Elman 1990):

    h' = tanh(W_ih x + b_ih + W_hh h + b_hh)          or relu in place of tanh
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", **named: Any
    ) -> None:
        super().__init__(input_size, hidden_size, bias, **named)
        self.nonlinearity = _known(nonlinearity, "RNNCell")

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        activation = ACTIVATIONS[self.nonlinearity]
        mixed = linear(x, self.weight_ih, self.bias_ih) + linear(self.seen(state), self.weight_hh, self.bias_hh)
        hidden = activation(mixed).named("hidden")
        return hidden, hidden


def _known(nonlinearity: str, name: str) -> str:
    if nonlinearity not in ACTIVATIONS:
        raise ArgumentError(f"{name}: no such nonlinearity", expected=" | ".join(ACTIVATIONS), got=repr(nonlinearity))
    return nonlinearity


class LSTMState(NamedTuple):
    """The hidden state, which is the output, and the cell state, which is the memory; each (B, H)."""

    hidden: Any
    cell: Any


class LSTMCell(GatedCell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000):

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)        input gate: what is written
    f = sigmoid(W_if x + b_if + W_hf h + b_hf)        forget gate: what is kept
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)           candidate: what could be written
    o = sigmoid(W_io x + b_io + W_ho h + b_ho)        output gate: what is shown
    c' = f c + i g
    h' = o tanh(c')
    """

    gates: ClassVar[tuple[str, ...]] = ("input_gate", "forget_gate", "candidate", "output_gate")
    keeps: ClassVar[dict[str, int]] = {"forget_gate": 1, "input_gate": -1}

    def initial_state(self, batch_size: int) -> LSTMState:
        return LSTMState(self.zeros(batch_size, self.output_size), self.zeros(batch_size, self.hidden_size))

    def step(self, x: Any, state: Any) -> tuple[Any, LSTMState]:
        hidden, cell = state
        gates = linear(x, self.weight_ih, self.bias_ih) + linear(self.seen(hidden), self.weight_hh, self.bias_hh)
        i, f, g, o = split(gates, 4, axis=-1)
        input_gate = sigmoid(i).named("input_gate")
        forget_gate = sigmoid(f).named("forget_gate")
        candidate = tanh(g).named("candidate")
        output_gate = sigmoid(o).named("output_gate")
        cell = (forget_gate * cell + input_gate * candidate).named("cell")
        hidden = (output_gate * tanh(cell)).named("hidden")
        return hidden, LSTMState(hidden, cell)


class ProjectedLSTMCell(LSTMCell):
    """LSTM with a recurrent projection to `proj_size` P features (Sak et al. 2014, section 2.2):

    i, f, g, o, c' as in `LSTMCell`, of h (B, P)
    h' = W_hr (o tanh(c'))                            what is shown, made smaller
    """

    def __init__(self, input_size: int, hidden_size: int, proj_size: int, bias: bool = True, **named: Any) -> None:
        if not 0 < proj_size < hidden_size:
            raise ArgumentError(
                f"{type(self).__name__}: a projection makes the hidden state smaller",
                expected=f"0 < proj_size < hidden_size = {hidden_size}",
                got=proj_size,
            )
        self.proj_size = proj_size
        super().__init__(input_size, hidden_size, bias, **named)
        self.weight_hr = self.drawn(proj_size, hidden_size)

    @property
    def output_size(self) -> int:
        return self.proj_size

    def step(self, x: Any, state: Any) -> tuple[Any, LSTMState]:
        shown, (_, cell) = super().step(x, state)
        hidden = linear(shown, self.weight_hr).named("projection")
        return hidden, LSTMState(hidden, cell)


class PeepholeLSTMCell(LSTMCell):
    """LSTM whose gates see the memory itself, each unit its own (Gers and Schmidhuber 2000; Graves 2013, eq. 7 to 11):

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi + p_i c)
    f = sigmoid(W_if x + b_if + W_hf h + b_hf + p_f c)
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)
    c' = f c + i g
    o = sigmoid(W_io x + b_io + W_ho h + b_ho + p_o c')
    h' = o tanh(c')
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **named: Any) -> None:
        super().__init__(input_size, hidden_size, bias, **named)
        self.peephole_input = self.drawn(hidden_size)
        self.peephole_forget = self.drawn(hidden_size)
        self.peephole_output = self.drawn(hidden_size)

    def step(self, x: Any, state: Any) -> tuple[Any, LSTMState]:
        hidden, cell = state
        gates = linear(x, self.weight_ih, self.bias_ih) + linear(self.seen(hidden), self.weight_hh, self.bias_hh)
        i, f, g, o = split(gates, 4, axis=-1)
        input_gate = sigmoid(i + self.peephole_input * cell).named("input_gate")
        forget_gate = sigmoid(f + self.peephole_forget * cell).named("forget_gate")
        candidate = tanh(g).named("candidate")
        cell = (forget_gate * cell + input_gate * candidate).named("cell")
        output_gate = sigmoid(o + self.peephole_output * cell).named("output_gate")
        hidden = (output_gate * tanh(cell)).named("hidden")
        return hidden, LSTMState(hidden, cell)


class CoupledLSTMCell(LSTMCell):
    """LSTM that forgets exactly where it writes (CIFG in Greff et al. 2017, section III):

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)        input gate
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)           candidate
    o = sigmoid(W_io x + b_io + W_ho h + b_ho)        output gate
    f = 1 - i                                         forget gate
    c' = f c + i g
    h' = o tanh(c')
    """

    gates: ClassVar[tuple[str, ...]] = ("input_gate", "candidate", "output_gate")
    keeps: ClassVar[dict[str, int]] = {"input_gate": -1}

    def step(self, x: Any, state: Any) -> tuple[Any, LSTMState]:
        hidden, cell = state
        gates = linear(x, self.weight_ih, self.bias_ih) + linear(self.seen(hidden), self.weight_hh, self.bias_hh)
        i, g, o = split(gates, 3, axis=-1)
        input_gate = sigmoid(i).named("input_gate")
        candidate = tanh(g).named("candidate")
        output_gate = sigmoid(o).named("output_gate")
        forget_gate = (1.0 - input_gate).named("forget_gate")
        cell = (forget_gate * cell + input_gate * candidate).named("cell")
        hidden = (output_gate * tanh(cell)).named("hidden")
        return hidden, LSTMState(hidden, cell)


class LayerNormLSTMCell(LSTMCell):
    """LSTM with layer normalisation (Ba et al. 2016, eq. 20 to 22); LN has a gain and a bias for each unit:

    i, f, g, o = LN(W_ih x) + LN(W_hh h) + b          over all four gates at once
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(LN(c'))
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **named: Any) -> None:
        super().__init__(input_size, hidden_size, bias, **named)
        self.bias_hh = None  # there is one bias
        self.norm_ih = LayerNorm(4 * hidden_size, dtype=self._dtype)
        self.norm_hh = LayerNorm(4 * hidden_size, dtype=self._dtype)
        self.norm_cell = LayerNorm(hidden_size, dtype=self._dtype)

    def step(self, x: Any, state: Any) -> tuple[Any, LSTMState]:
        hidden, cell = state
        gates = self.norm_ih(linear(x, self.weight_ih)) + self.norm_hh(linear(self.seen(hidden), self.weight_hh))
        i, f, g, o = split(gates if self.bias_ih is None else gates + self.bias_ih, 4, axis=-1)
        forget_gate, input_gate = sigmoid(f).named("forget_gate"), sigmoid(i).named("input_gate")
        cell = (forget_gate * cell + input_gate * tanh(g).named("candidate")).named("cell")
        output_gate = sigmoid(o).named("output_gate")
        hidden = (output_gate * tanh(self.norm_cell(cell))).named("hidden")
        return hidden, LSTMState(hidden, cell)


class GRUCell(GatedCell):
    """Gated recurrent unit (Cho et al. 2014):

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)        reset gate: how much of the past the candidate sees
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)        update gate: how much of the past is kept
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))       candidate; reset after the product, as in cuDNN and PyTorch
    n = tanh(W_in x + b_in + W_hn (r h) + b_hn)       where reset_after is False: as in the paper
    h' = (1 - z) n + z h
    """

    gates: ClassVar[tuple[str, ...]] = ("reset_gate", "update_gate", "candidate")
    keeps: ClassVar[dict[str, int]] = {"update_gate": 1}

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, reset_after: bool = True, **named: Any
    ) -> None:
        super().__init__(input_size, hidden_size, bias, **named)
        self.reset_after = reset_after

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        seen = self.seen(state)
        input_r, input_z, input_n = split(linear(x, self.weight_ih, self.bias_ih), 3, axis=-1)
        if self.reset_after:
            hidden_r, hidden_z, hidden_n = split(linear(seen, self.weight_hh, self.bias_hh), 3, axis=-1)
        else:
            hidden_r, hidden_z = split(self.recurrent(seen, 0, 2), 2, axis=-1)
        reset_gate = sigmoid(input_r + hidden_r).named("reset_gate")
        update_gate = sigmoid(input_z + hidden_z).named("update_gate")
        past = reset_gate * hidden_n if self.reset_after else self.recurrent(reset_gate * seen, 2, 3)
        candidate = tanh(input_n + past).named("candidate")
        hidden = ((1.0 - update_gate) * candidate + update_gate * state).named("hidden")
        return hidden, hidden


class MinimalGatedCell(GatedCell):
    """Minimal gated unit: one gate both forgets and updates (Zhou et al. 2016, eq. 7):

    f = sigmoid(W_if x + b_if + W_hf h + b_hf)        forget gate; an open one overwrites
    n = tanh(W_in x + b_in + W_hn (f h) + b_hn)       candidate
    h' = (1 - f) h + f n
    """

    gates: ClassVar[tuple[str, ...]] = ("forget_gate", "candidate")
    keeps: ClassVar[dict[str, int]] = {"forget_gate": -1}

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        seen = self.seen(state)
        input_f, input_n = split(linear(x, self.weight_ih, self.bias_ih), 2, axis=-1)
        forget_gate = sigmoid(input_f + self.recurrent(seen, 0, 1)).named("forget_gate")
        candidate = tanh(input_n + self.recurrent(forget_gate * seen, 1, 2)).named("candidate")
        hidden = ((1.0 - forget_gate) * state + forget_gate * candidate).named("hidden")
        return hidden, hidden


class IndRNNCell(GatedCell):
    """Independently recurrent cell: each unit sees its own past alone (Li et al. 2018, eq. 2); weight_hh is u (H,):

    h' = relu(W_ih x + u h + b_ih)                    or tanh in place of relu
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "relu", **named: Any
    ) -> None:
        super().__init__(input_size, hidden_size, bias, **named)
        self.nonlinearity = _known(nonlinearity, "IndRNNCell")
        self.bias_hh = None  # there is one bias
        self.weight_hh = Parameter(init.uniform_(zeros(hidden_size, dtype=self._dtype), rng=self._rng))

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        activation = ACTIVATIONS[self.nonlinearity]
        mixed = linear(x, self.weight_ih, self.bias_ih) + self.weight_hh * self.seen(state)
        hidden = activation(mixed).named("hidden")
        return hidden, hidden
