"""What `record` keeps: the same from both engines, what the equations give, and nothing in the way of training."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.autograd.tape import thread
from tinygrad_rnn.errors import ArgumentError

STEPS, ROWS, FEATURES, HIDDEN = 12, 3, 4, 5
NETS = {
    "lstm": (lambda: nn.LSTM(FEATURES, HIDDEN, dtype="float64"), ("input_gate", "forget_gate", "candidate", "cell")),
    "gru": (lambda: nn.GRU(FEATURES, HIDDEN, dtype="float64"), ("reset_gate", "update_gate", "candidate", "hidden")),
    "rnn": (lambda: nn.RNN(FEATURES, HIDDEN, dtype="float64"), ("hidden",)),
    "minimal": (lambda: nn.Recurrent(nn.MinimalGatedCell(FEATURES, HIDDEN, dtype="float64")), ("hidden",)),
    "zoneout": (
        lambda: nn.Recurrent(nn.Zoneout(nn.LSTMCell(FEATURES, HIDDEN, dtype="float64"), 0.0)), ("forget_gate",),
    ),
    "pieces": (
        lambda: nn.Recurrent(nn.LSTMCell(FEATURES, HIDDEN, dtype="float64"), checkpoint=4), ("forget_gate",),
    ),
}  # fmt: skip


def sequence(steps=STEPS):
    return tg.randn(steps, ROWS, FEATURES, dtype="float64")


def recorded(net, x, names, engine, **named):
    with tg.engine(engine), tg.record(*names) as r:
        outputs, state = net(x, **named)
    return r, outputs, state


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [12, 0, 7]])
@pytest.mark.parametrize("name", NETS)
def test_both_engines_keep_what_is_named(name, lengths, reverse):
    make, names = NETS[name]
    net = make()
    if name in ("lstm", "gru", "rnn"):
        net = nn.Recurrent(net.cells[0])
    net.reverse = reverse
    if name == "pieces" and lengths is not None:
        net.checkpoint = None  # rows of different lengths are not cut into pieces
    x = sequence()
    eager, plain, _ = recorded(net, x, names, "eager", lengths=lengths)
    auto, outputs, _ = recorded(net, x, names, "auto", lengths=lengths)
    np.testing.assert_allclose(np.asarray(outputs), np.asarray(plain), rtol=1e-10, atol=1e-12)
    for one in names:
        assert auto[one].shape == (STEPS, ROWS, HIDDEN)
        np.testing.assert_allclose(auto[one], eager[one], rtol=1e-10, atol=1e-12)
        if lengths is not None:
            for row, length in enumerate(lengths):
                assert not auto[one][length:, row].any() and (length == 0 or auto[one][:length, row].any())


def test_the_gates_are_those_of_the_equations():
    net, x = nn.LSTM(FEATURES, HIDDEN, dtype="float64"), sequence()
    r, _, (_, last) = recorded(net, x, ("input_gate", "forget_gate", "candidate", "output_gate", "cell"), "auto")
    w, u, b, d = (np.asarray(p) for p in net.parameters())
    h = c = np.zeros((ROWS, HIDDEN))
    for t in range(STEPS):
        i, f, g, o = np.split(np.asarray(x)[t] @ w.T + b + h @ u.T + d, 4, axis=1)
        i, f, g, o = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-f)), np.tanh(g), 1 / (1 + np.exp(-o))
        c = f * c + i * g
        h = o * np.tanh(c)
        for name, value in (("input_gate", i), ("forget_gate", f), ("candidate", g), ("output_gate", o), ("cell", c)):
            np.testing.assert_allclose(r[name][t], value, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.asarray(last)[0], c, rtol=1e-9)


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_gradients_are_as_without_it(engine):
    net, x = nn.GRU(FEATURES, HIDDEN, 2, dtype="float64"), sequence()

    def gradients(record):
        net.zero_grad()
        if record:
            _, outputs, _ = recorded(net, x, ("update_gate", "hidden"), engine)
        else:
            with tg.engine(engine):
                outputs, _ = net(x)
        (outputs * outputs).sum().backward()
        return [np.asarray(p.grad).copy() for p in net.parameters()]

    before, during, after = gradients(False), gradients(True), gradients(False)
    for a, b, c in zip(before, during, after):
        np.testing.assert_allclose(b, a, rtol=1e-10)
        np.testing.assert_array_equal(c, a)


def test_layers_and_directions():
    net, x = nn.LSTM(FEATURES, HIDDEN, 2, bidirectional=True, dtype="float64"), sequence()
    r, outputs, _ = recorded(net, x, ("hidden",), "auto")
    both = np.concatenate([r.of("hidden", 1, False), r.of("hidden", 1, True)], axis=-1)
    np.testing.assert_allclose(both, np.asarray(outputs), rtol=1e-12)
    with pytest.raises(ArgumentError, match="several layers have 'hidden'"):
        r["hidden"]
    with pytest.raises(ArgumentError, match="several layers"):
        r["hidden", 1]
    one, _, _ = recorded(nn.LSTM(FEATURES, HIDDEN, 2, dtype="float64"), x, ("hidden",), "auto")
    assert one["hidden", 0].shape == one["hidden", 1].shape and not np.array_equal(one["hidden", 0], one["hidden", 1])


def test_a_cell_of_ones_own_and_a_stream():
    class Leaky(nn.Cell):
        def __init__(self):
            self.input_size = self.hidden_size = FEATURES
            self.rate = nn.Parameter(np.zeros(FEATURES))

        def step(self, x, state):
            rate = tg.sigmoid(self.rate + 0.0 * x).named("rate")
            state = (state + rate * (x - state)).named("level")
            return state, state

    layer, x = nn.Recurrent(Leaky()), sequence()
    r, outputs, _ = recorded(layer, x, ("rate", "level"), "auto")
    np.testing.assert_allclose(r["rate"], 0.5)
    np.testing.assert_array_equal(r["level"], np.asarray(outputs))
    state = None
    for t in range(3):
        with tg.record("level") as r:
            _, state = layer.step(x[t], state)
        np.testing.assert_allclose(r["level"][0], np.asarray(outputs)[t], rtol=1e-12)


def test_saturation_and_time_constants():
    net, x = nn.LSTM(FEATURES, HIDDEN, dtype="float64"), sequence()
    with tg.no_grad():
        net.weight_ih_l0.copy_(np.zeros((4 * HIDDEN, FEATURES)))
        net.weight_hh_l0.copy_(np.zeros((4 * HIDDEN, HIDDEN)))
        bias = np.zeros(4 * HIDDEN)
        forget = np.array([0.5, 0.9, 0.99, 0.96, 0.04])
        bias[HIDDEN : 2 * HIDDEN] = np.log(forget / (1 - forget))
        bias[2 * HIDDEN : 3 * HIDDEN] = np.arctanh(np.array([0.5, 0.95, -0.95, 0.0, 0.89]))
        net.bias_ih_l0.copy_(bias)
        net.bias_hh_l0.copy_(np.zeros(4 * HIDDEN))
    for lengths in (None, [12, 3, 7]):
        r, _, _ = recorded(net, x, ("forget_gate", "candidate"), "auto", lengths=lengths)
        np.testing.assert_allclose(r.time_constant("forget_gate"), -1 / np.log(forget), rtol=1e-9)
        np.testing.assert_array_equal(r.saturation("forget_gate"), [0, 0, 1, 1, 1])
        np.testing.assert_array_equal(r.saturation("candidate"), [0, 1, 1, 0, 0])
    with pytest.raises(ArgumentError, match="no gate"):
        r.time_constant("candidate")


def test_a_gate_that_never_closes_remembers_for_ever():
    net = nn.Recurrent(nn.MinimalGatedCell(FEATURES, HIDDEN, dtype="float64"))
    r, _, _ = recorded(net, sequence(), ("forget_gate",), "auto")
    (where,) = r.values
    r.values[where] = np.ones_like(r.values[where])
    np.testing.assert_array_equal(r.time_constant(), np.inf)


def test_limits_are_those_of_a_gate_or_of_tanh_or_as_said():
    net, x = nn.RNN(FEATURES, HIDDEN, dtype="float64"), sequence()
    r, _, _ = recorded(net, x, ("hidden",), "auto")
    (where,) = r.values
    r.values[where] = np.broadcast_to([0.02, 0.5, 0.92, 0.97, 1.0], (STEPS, ROWS, HIDDEN)).copy()
    np.testing.assert_array_equal(r.saturation("hidden"), [1, 0, 0, 1, 1])
    np.testing.assert_array_equal(r.saturation("hidden", limits=(-1.0, 1.0)), [0, 0, 1, 1, 1])
    r.values[where] = r.values[where] * 3.0
    with pytest.raises(ArgumentError, match="no such limits"):
        r.saturation("hidden")
    np.testing.assert_array_equal(r.saturation("hidden", limits=(0.0, 6.0)), [1, 0, 0, 0, 0])


def test_two_nets_are_not_mixed_up():
    one, two, x = nn.RNN(FEATURES, HIDDEN, dtype="float64"), nn.RNN(FEATURES, HIDDEN, dtype="float64"), sequence()
    with tg.record("hidden") as r:
        one(x)
        outputs, _ = one(2.0 * x)
    np.testing.assert_array_equal(r["hidden"], np.asarray(outputs))  # the same layer: the last time
    with tg.record("hidden") as r:
        one(x)
        two(x)
    with pytest.raises(ArgumentError, match="2 layers of different nets have 'hidden'"):
        r["hidden"]


def test_one_record_twice():
    net, x, r = nn.RNN(FEATURES, HIDDEN, dtype="float64"), sequence(), tg.record("hidden")
    with r:
        with r:
            net(x)
        net(x)
    kept = dict(r.values)
    net(2.0 * x)
    assert r.values == kept and thread.state.recorder is None


def test_what_is_refused():
    for names in ((), (3,)):
        with pytest.raises(ArgumentError, match="which values"):
            tg.record(*names)
    r, _, _ = recorded(nn.RNN(FEATURES, HIDDEN, dtype="float64"), sequence(), ("forget_gate", "hidden"), "auto")
    with pytest.raises(ArgumentError, match="no layer had 'forget_gate'"):
        r["forget_gate"]


def test_it_ends_with_its_block_and_holds_for_its_thread():
    net, x = nn.RNN(FEATURES, HIDDEN, dtype="float64"), sequence()
    with tg.record("hidden") as outer:
        with tg.record("hidden") as inner:
            net(x)
        assert inner.values and not outer.values
        other = threading.Thread(target=lambda: net(x))
        other.start()
        other.join()
        assert not outer.values
        with pytest.raises(ZeroDivisionError), tg.record("hidden"):
            raise ZeroDivisionError
        net(x)
    assert outer.values
    kept = dict(outer.values)
    net(x * 2)
    assert outer.values == kept
