"""The cells' equations in torch, on one row: w the parameters by name; of a new state, the first part is the output."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

import tinygrad_rnn as tg

torch = pytest.importorskip("torch", reason="parity needs the extra `parity`")
nn, tanh, sigmoid, relu = tg.nn, torch.tanh, torch.sigmoid, torch.relu


def mixed(w, name, v):
    """W v + b, of the input or of the hidden state."""
    return w[f"weight_{name}"] @ v + w.get(f"bias_{name}", 0.0)


def elman(w, x, h):
    return (tanh(mixed(w, "ih", x) + mixed(w, "hh", h)),)


def rectified(w, x, h):
    return (relu(mixed(w, "ih", x) + mixed(w, "hh", h)),)


def lstm(w, x, h, c):
    i, f, g, o = (mixed(w, "ih", x) + mixed(w, "hh", h)).chunk(4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def projected(w, x, h, c):
    h, c = lstm(w, x, h, c)
    return w["weight_hr"] @ h, c


def peephole(w, x, h, c):
    i, f, g, o = (mixed(w, "ih", x) + mixed(w, "hh", h)).chunk(4)
    i, f = sigmoid(i + w["peephole_input"] * c), sigmoid(f + w["peephole_forget"] * c)
    c = f * c + i * tanh(g)
    return sigmoid(o + w["peephole_output"] * c) * tanh(c), c


def coupled(w, x, h, c):
    i, g, o = (mixed(w, "ih", x) + mixed(w, "hh", h)).chunk(3)
    c = (1.0 - sigmoid(i)) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def normalised(w, name, a):
    a = a - a.mean()
    return a / torch.sqrt((a * a).mean() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def layer_norm(w, x, h, c):
    gates = normalised(w, "norm_ih", w["weight_ih"] @ x) + normalised(w, "norm_hh", w["weight_hh"] @ h)
    i, f, g, o = (gates + w.get("bias_ih", 0.0)).chunk(4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(normalised(w, "norm_cell", c)), c


def gru(w, x, h):
    (ri, zi, ni), (rh, zh, nh) = mixed(w, "ih", x).chunk(3), mixed(w, "hh", h).chunk(3)
    r, z = sigmoid(ri + rh), sigmoid(zi + zh)
    return ((1.0 - z) * tanh(ni + r * nh) + z * h,)


def gates_of_hidden(w, count):
    """W_hh and b_hh, gate by gate."""
    bias = w["bias_hh"].chunk(count) if "bias_hh" in w else [0.0] * count
    return zip(w["weight_hh"].chunk(count), bias)


def gru_before(w, x, h):
    (ri, zi, ni), ((wr, br), (wz, bz), (wn, bn)) = mixed(w, "ih", x).chunk(3), gates_of_hidden(w, 3)
    r, z = sigmoid(ri + wr @ h + br), sigmoid(zi + wz @ h + bz)
    return ((1.0 - z) * tanh(ni + wn @ (r * h) + bn) + z * h,)


def minimal(w, x, h):
    (fi, ni), ((wf, bf), (wn, bn)) = mixed(w, "ih", x).chunk(2), gates_of_hidden(w, 2)
    f = sigmoid(fi + wf @ h + bf)
    return ((1.0 - f) * h + f * tanh(ni + wn @ (f * h) + bn),)


def independent(w, x, h):
    return (relu(mixed(w, "ih", x) + w["weight_hh"] * h),)


def independent_tanh(w, x, h):
    return (tanh(mixed(w, "ih", x) + w["weight_hh"] * h),)


class Memory(NamedTuple):
    fast: Any
    slow: Any


class Own(nn.Cell):
    """A user's: the state is a nest of parts of other widths, and x must not be 0."""

    def __init__(self, input_size, hidden_size, bias=True, *, dtype=None):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.mix = nn.Linear(input_size + hidden_size, hidden_size, bias=bias, dtype=dtype)
        self.decay = nn.Parameter(tg.ones(hidden_size, dtype=dtype))

    def initial_state(self, batch_size):
        fast, slow = (self.zeros(batch_size, self.hidden_size) for _ in range(2))
        return Memory(fast, slow), [self.zeros(batch_size, 1)]

    def step(self, x, state):
        (fast, slow), (count,) = state
        x = x * tg.log((x * x).sum(axis=-1, keepdims=True))
        slow = self.decay * slow + fast * count
        fast = tg.tanh(self.mix(tg.concat([x, slow], axis=-1)))
        return fast, (Memory(fast, slow), [count + fast.sum(axis=-1, keepdims=True) + 1.0])


def own(w, x, fast, slow, count):
    x = x * torch.log((x * x).sum())
    slow = w["decay"] * slow + fast * count
    fast = tanh(w["mix.weight"] @ torch.cat([x, slow]) + w.get("mix.bias", 0.0))
    return fast, slow, count + fast.sum() + 1.0


CELLS = {
    "tanh": (nn.RNNCell, {}, elman),
    "relu": (nn.RNNCell, {"nonlinearity": "relu"}, rectified),
    "lstm": (nn.LSTMCell, {}, lstm),
    "projected": (nn.ProjectedLSTMCell, {"proj_size": 1}, projected),
    "peephole": (nn.PeepholeLSTMCell, {}, peephole),
    "coupled": (nn.CoupledLSTMCell, {}, coupled),
    "layer_norm": (nn.LayerNormLSTMCell, {}, layer_norm),
    "gru": (nn.GRUCell, {}, gru),
    "gru_before": (nn.GRUCell, {"reset_after": False}, gru_before),
    "minimal": (nn.MinimalGatedCell, {}, minimal),
    "independent": (nn.IndRNNCell, {}, independent),
    "independent_tanh": (nn.IndRNNCell, {"nonlinearity": "tanh"}, independent_tanh),
    "own": (Own, {}, own),
}


def by_rows(step, w, x, states, lengths, reverse):
    """Each row alone over its own steps: outputs (T, B, H), 0 behind its end, and the final state."""
    outputs, final = [], []
    for row, length in enumerate(lengths):
        state, made = [part[row] for part in states], [torch.zeros_like(states[0][row])] * len(x)
        for t in reversed(range(length)) if reverse else range(length):
            state = step(w, x[t, row], *state)
            made[t] = state[0]
        outputs.append(torch.stack(made))
        final.append(state)
    return torch.stack(outputs, 1), [torch.stack(parts) for parts in zip(*final)]
