"""Initialisers for recurrent cells: the numbers, in cells, layers, models and wrappers, and what they are good for."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, GraphError

nn, init = tg.nn, tg.nn.init
H = 6


class Model(nn.Module):
    """Cells in every kind of place."""

    def __init__(self):
        self.embedding = nn.Embedding(5, 3)
        self.lstm = nn.LSTM(3, H, 2, bidirectional=True)
        self.projected = nn.LSTM(2 * H, H, proj_size=2)
        self.parts = nn.ModuleList([nn.GRU(2, H), nn.Sequential(nn.Recurrent(nn.MinimalGatedCell(H, H)), tg.tanh)])
        self.wrapped = nn.Recurrent(nn.Zoneout(nn.VariationalDropout(nn.WeightDropout(nn.CoupledLSTMCell(H, H)))))
        self.both = nn.Bidirectional(nn.LearnedState(nn.LayerNormLSTMCell(H, H)), nn.PeepholeLSTMCell(H, H))
        self.simple = nn.TruncatedBPTT(nn.Stacked([nn.RNNCell(2 * H, H, nonlinearity="relu"), nn.IndRNNCell(H, H)]), 3)
        self.cell, self.head = nn.GRUCell(H, H, reset_after=False), nn.Linear(H, 5)


def cells(module):
    return [part for part in module.modules() if isinstance(part, nn.Cell) and hasattr(part, "weight_hh")]


def gates(cell, of):
    """A parameter's rows by gate."""
    return dict(zip(cell.gates, np.split(getattr(cell, of).numpy(), len(cell.gates))))


def changed(module, initialise):
    """The names of the parameters that the initialiser changes; each stays the parameter that it was."""
    before = {name: (id(p), p.numpy().copy(), p.dtype) for name, p in module.named_parameters()}
    initialise(module)
    now = dict(module.named_parameters())
    assert {name: (id(p), p.dtype) for name, p in now.items()} == {n: (i, d) for n, (i, _, d) in before.items()}
    assert all(p.is_leaf and p.requires_grad for p in now.values())
    return {name for name, p in now.items() if not np.array_equal(p.numpy(), before[name][1])}


def named(module, start):
    return {name for name, _ in module.named_parameters() if name.split(".")[-1].startswith(start)}


# --- orthogonal_recurrent_ ---


@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_every_gate_s_recurrent_matrix_becomes_orthogonal_and_nothing_else_changes(gain):
    model = Model()
    single = {"simple.layer.layers.1.cell.weight_hh"}  # that of IndRNN is no matrix
    assert changed(model, lambda m: init.orthogonal_recurrent_(m, gain)) == named(model, "weight_hh") - single
    seen = []
    for cell in cells(model):
        for matrix in gates(cell, "weight_hh").values() if cell.weight_hh.ndim == 2 else ():
            np.testing.assert_allclose(matrix.T @ matrix, gain**2 * np.eye(matrix.shape[1]), atol=1e-6)
            seen.append(matrix)
    assert len(seen) == 4 * 5 + 3 + 2 + 3 + 4 + 4 + 1 + 3
    assert len({matrix[0].tobytes() for matrix in seen}) == len(seen), "each is drawn for itself"


def test_the_same_generator_gives_the_same_numbers_in_float64_too():
    for initialise in (init.orthogonal_recurrent_, lambda m, rng: init.chrono_(m, 50, rng)):
        layers = [nn.LSTM(3, H, 2, dtype="float64") for _ in range(3)]
        for layer, seed in zip(layers, (1, 1, 2)):
            layer.load_state_dict(layers[0].state_dict())
            initialise(layer, rng=np.random.default_rng(seed))
        first, same, other = (np.concatenate([p.numpy().ravel() for p in m.parameters()]) for m in layers)
        assert first.dtype == np.float64
        np.testing.assert_array_equal(first, same)
        assert not np.array_equal(first, other)


# --- forget_bias_ ---


def test_forget_gates_biases_become_the_value_and_nothing_else_changes():
    model = Model()
    both, before = ("bias_ih", "bias_hh"), copy.deepcopy(model)
    names = changed(model, lambda m: init.forget_bias_(m, 1.5))
    assert names == {n for n in named(model, "bias_") if n.startswith(("lstm", "projected", "both"))}
    found = 0
    for cell, old in zip(cells(model), cells(before)):
        lstm = isinstance(cell, nn.LSTMCell) and not isinstance(cell, nn.CoupledLSTMCell)
        for of in [of for of in both if getattr(cell, of) is not None]:
            for gate, bias in gates(cell, of).items():
                forget = lstm and gate == "forget_gate"
                expected = (1.5 if of == "bias_ih" else 0.0) if forget else gates(old, of)[gate]
                np.testing.assert_array_equal(bias, np.broadcast_to(expected, bias.shape))
                found += forget
    assert found == 2 * 6 + 1  # layer normalisation has one bias
    init.forget_bias_(model)
    assert set(model.lstm.bias_ih_l1_reverse.numpy()[H : 2 * H]) == {1.0}


# --- chrono_ (Tallec and Ollivier 2018) ---


def uniform(values, low, high):
    """From the uniform distribution: 999 samples in 1000 have a Kolmogorov and Smirnov distance like theirs."""
    n, found = len(values), (np.sort(values) - low) / (high - low)
    steps = np.arange(n + 1) / n
    assert max(np.max(steps[1:] - found), np.max(found - steps[:-1])) < 1.95 / np.sqrt(n)


@pytest.mark.parametrize("longest", [3, 100, 1000.5])
def test_chrono_biases_are_logarithms_of_uniform_times_and_input_gates_take_the_opposite(longest):
    layer = nn.LSTM(1, 300, 2, bidirectional=True, dtype="float64")
    before = copy.deepcopy(layer)
    names = changed(layer, lambda m: init.chrono_(m, longest))
    assert names == named(layer, "bias")
    drawn = []
    for cell, old in zip(layer.cells, before.cells):
        bias, past = gates(cell, "bias_ih"), gates(cell, "bias_hh")
        np.testing.assert_array_equal(bias["input_gate"], -bias["forget_gate"])
        assert not past["forget_gate"].any()
        assert not past["input_gate"].any()
        for of in ("bias_ih", "bias_hh"):
            np.testing.assert_array_equal(getattr(cell, of).numpy()[600:], getattr(old, of).numpy()[600:])
        drawn.append(bias["forget_gate"])
    uniform(np.exp(np.concatenate(drawn)), 1.0, longest - 1.0)
    assert len({part[0] for part in drawn}) == 4


KEPT = {  # the gate, and the sign with which it stands in the share of the memory that is kept
    "GRUCell": ("update_gate", 1), "MinimalGatedCell": ("forget_gate", -1), "CoupledLSTMCell": ("input_gate", -1),
    "PeepholeLSTMCell": ("forget_gate", 1), "LayerNormLSTMCell": ("forget_gate", 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_chrono_opens_what_keeps_and_closes_what_overwrites(kind):
    cell, (gate, sign) = getattr(nn, kind)(2, 2000, dtype="float64"), KEPT[kind]
    others = {name: value.copy() for name, value in gates(cell, "bias_ih").items()}
    init.chrono_(cell, 40)
    bias = gates(cell, "bias_ih")
    uniform(np.exp(sign * bias[gate]), 1.0, 39.0)
    assert cell.bias_hh is None or not gates(cell, "bias_hh")[gate].any()
    for name in set(bias) - {gate, "input_gate"}:
        np.testing.assert_array_equal(bias[name], others[name])


def test_chrono_goes_through_models_and_takes_2_as_the_shortest():
    model = Model()
    names = changed(model, lambda m: init.chrono_(m, 20))
    inside = ("lstm", "projected", "parts", "wrapped", "both", "cell")
    assert names == {n for n in named(model, "bias_") if n.startswith(inside)}
    init.chrono_(model, 2)
    assert not model.lstm.bias_ih_l0.numpy()[: 2 * H].any()
    for longest in (1, 1.99, 0, -3, float("nan")):
        with pytest.raises(ArgumentError, match=r"^chrono_: "):
            init.chrono_(model, longest)


# --- identity_ (Le et al. 2015) ---


def test_an_identity_network_carries_its_state_on_unchanged():
    for layer in (nn.RNN(3, H, nonlinearity="relu"), nn.Recurrent(nn.Zoneout(nn.IndRNNCell(3, H), 0.0))):
        init.identity_(layer)
        first = tg.tensor(np.abs(np.random.default_rng(0).standard_normal((2, H))), "float32")
        outputs, _ = layer(tg.zeros(50, 2, 3), first.expand_dims(0) if isinstance(layer, nn.RNN) else first)
        np.testing.assert_array_equal(outputs.numpy(), np.broadcast_to(first.numpy(), (50, 2, H)))


def test_identity_scales_and_leaves_inputs_weights_and_cells_with_gates_alone():
    model = Model()
    names = changed(model, lambda m: init.identity_(m, 0.25))
    assert names == {"simple.layer.layers.0.cell.weight_hh", "simple.layer.layers.0.cell.bias_ih",
                     "simple.layer.layers.0.cell.bias_hh", "simple.layer.layers.1.cell.weight_hh",
                     "simple.layer.layers.1.cell.bias_ih"}  # fmt: skip
    simple, single = (layer.cell for layer in model.simple.layer.layers)
    np.testing.assert_array_equal(simple.weight_hh.numpy(), 0.25 * np.eye(H))
    np.testing.assert_array_equal(single.weight_hh.numpy(), np.full(H, 0.25))
    assert not any(p.numpy().any() for p in (simple.bias_ih, simple.bias_hh, single.bias_ih))
    init.identity_(nn.RNN(3, H, bias=False))


# --- What they are good for ---


def kept(cell, steps):
    """The share of the memory that is left after steps without input, unit by unit."""
    state = cell.initial_state(1)
    single = not isinstance(state, tuple)
    start = tg.ones(1, cell.hidden_size)
    x = tg.zeros(steps, 1, cell.input_size)
    _, end = nn.Recurrent(cell)(x, start if single else nn.LSTMState(tg.zeros(1, cell.output_size), start))
    return (end if single else end.cell).numpy()[0]


@pytest.mark.parametrize("kind", ["LSTMCell", *KEPT])
def test_chrono_gives_units_memories_of_1_to_the_longest_steps(kind):
    cell = getattr(nn, kind)(1, 300)
    for name, parameter in cell.named_parameters():
        if not name.startswith("norm"):
            init.zeros_(parameter)
    init.chrono_(cell, 100)
    steps = -1 / np.log(kept(cell, 1))  # until 1 / e is left
    assert 1.4 < steps.min() < 5
    assert 85 < steps.max() < 100
    uniform(kept(cell, 1) / (1 - kept(cell, 1)), 1.0, 99.0)


def test_chrono_and_forget_biases_let_gradients_through_that_a_network_as_drawn_loses():
    for initialise, least in ((lambda c: init.chrono_(c, 1000), 0.8), (lambda c: init.forget_bias_(c, 4.0), 0.3)):
        cell, through = nn.LSTMCell(2, 50), []
        for _ in range(2):
            start = tg.zeros(1, 50, requires_grad=True)
            _, end = nn.Recurrent(cell)(tg.randn(30, 1, 2), nn.LSTMState(tg.zeros(1, 50), start))
            end.cell.sum().backward()
            through.append(start.grad.numpy().mean())
            initialise(cell)
        assert through[0] < 1e-5
        assert through[1] > least


# --- Refusals ---


REFUSED = {
    "orthogonal_recurrent_": (init.orthogonal_recurrent_, [nn.Linear(2, 2), nn.IndRNNCell(2, 2), nn.Sequential()]),
    "forget_bias_": (init.forget_bias_, [nn.GRU(2, 2), nn.MinimalGatedCell(2, 2), nn.CoupledLSTMCell(2, 2),
                                         nn.RNN(2, 2), nn.LSTM(2, 2, bias=False), nn.Linear(2, 2)]),
    "chrono_": (lambda m: init.chrono_(m, 9), [nn.RNN(2, 2), nn.IndRNNCell(2, 2), nn.GRU(2, 2, bias=False),
                                               nn.Embedding(2, 2)]),
    "identity_": (init.identity_, [nn.LSTM(2, 2), nn.GRU(2, 2), nn.MinimalGatedCell(2, 2), nn.LayerNorm(2)]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_modules_without_such_cells_are_refused_and_stay_as_they_are(name):
    initialise, modules = REFUSED[name]
    for module in modules:
        before = {n: p.numpy().copy() for n, p in module.named_parameters()}
        with pytest.raises(ArgumentError, match=rf"^{name}: no cell in it has (.|\n)*got {type(module).__name__}"):
            initialise(module)
        for n, p in module.named_parameters():
            np.testing.assert_array_equal(p.numpy(), before[n])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_module_is_refused_in_words(name):
    for thing in (nn.GRUCell(2, 2).weight_hh, None):
        with pytest.raises(ArgumentError, match=f"^{name}: "):
            REFUSED[name][0](thing)


def test_a_user_s_cell_need_not_have_biases():
    class Own(nn.Cell):
        hidden_size = H

        def __init__(self):
            self.weight_hh = nn.Parameter(tg.zeros(H, H))

        def step(self, x, state):
            hidden = tg.tanh(x + state @ self.weight_hh.T)
            return hidden, hidden

    cell = Own()
    init.identity_(cell, 2.0)
    np.testing.assert_array_equal(cell.weight_hh.numpy(), 2.0 * np.eye(H))
    init.orthogonal_recurrent_(cell)
    np.testing.assert_allclose(cell.weight_hh.numpy() @ cell.weight_hh.numpy().T, np.eye(H), atol=1e-6)
    for initialise in (init.forget_bias_, lambda m: init.chrono_(m, 9)):
        with pytest.raises(ArgumentError, match="no cell in it has"):
            initialise(cell)


def test_writing_where_backward_still_needs_the_old_values_is_noticed():
    layer = nn.LSTM(2, H)
    loss = layer(tg.randn(3, 1, 2))[0].sum()
    init.orthogonal_recurrent_(layer)
    with pytest.raises(GraphError, match="changed in place"):
        loss.backward()
