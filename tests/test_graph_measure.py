"""Numbers on the graph: statistics against NumPy, gradients against finite differences, and what is made of them."""

from __future__ import annotations

import gc
import re
from itertools import pairwise

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.errors import ArgumentError, GraphError
from tinygrad_rnn.nn import GRU, LSTM, RNN
from tinygrad_rnn.viz import colour, measure
from tinygrad_rnn.viz.measure import Statistics

STEPS = 12


def net_and_loss(make, engine="auto", steps=STEPS, hidden=3):
    tg.manual_seed(1)
    net = make(2, hidden, dtype="float64")
    x = tg.randn(steps, 2, 2, dtype="float64")
    with tg.engine(engine):
        outputs, _ = net(x)
        return net, x, (outputs[-1] ** 2).sum()


def put(parameter, array):
    with tg.no_grad():
        parameter.copy_(array)


def of_step(picture, label, step):
    (node,) = [n for n in picture.graph.nodes if n.label == label and n.step == step]
    return node


def differences(f, at, step=1e-5):
    """The gradient of a function of an array."""
    found = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        ends = []
        for sign in (1.0, -1.0):
            moved = at.copy()
            moved[i] += sign * step
            ends.append(f(moved))
        found[i] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize("level", ["op", "gate"])
@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
def test_the_painted_norm_is_that_of_finite_differences(make, engine, level):
    net, x, loss = net_and_loss(make, engine)
    picture = tg.viz.graph(loss, level=level, fold=None, color="grad", module=net)
    for t in (0, 4, STEPS - 2):
        with tg.no_grad():
            _, state = net(x[: t + 1])
        state = state if isinstance(state, tuple) else (state,)
        hidden, *rest = [np.asarray(part) for part in state]

        def end(*parts, t=t):
            given = tuple(tg.tensor(part) for part in parts)
            with tg.no_grad():
                outputs, _ = net(x[t + 1 :], given if len(given) > 1 else given[0])
            return float(np.sum(np.asarray(outputs[-1]) ** 2))

        exact = np.linalg.norm(differences(lambda h, rest=rest, end=end: end(h, *rest), hidden))
        assert of_step(picture, "hidden", t).gradient.norm == pytest.approx(exact, rel=1e-4)
        if rest:  # the cell state goes on by itself, and through the output gate
            (cell,) = rest
            gate = hidden / np.tanh(cell)
            exact = np.linalg.norm(differences(lambda c, gate=gate, end=end: end(gate * np.tanh(c), c), cell))
            assert of_step(picture, "cell", t).gradient.norm == pytest.approx(exact, rel=1e-4)


def test_a_contracting_rnn_halves_the_gradient_at_each_step_back():
    net, x, _ = net_and_loss(RNN, hidden=6)
    weight = np.asarray(net.weight_hh_l0)
    put(net.weight_hh_l0, 0.5 * weight / np.linalg.norm(weight, 2))
    loss = net(x)[0][-1].sum()
    picture = tg.viz.graph(loss, level="gate", fold=None, color="grad", module=net)
    norms = [of_step(picture, "hidden", t).gradient.norm for t in range(STEPS)]
    for before, after in pairwise(norms):
        assert 0.0 < before <= 0.5 * after


def test_an_open_forget_gate_keeps_the_gradient_of_the_cell_state():
    net, x, _ = net_and_loss(LSTM, steps=40)
    put(net.weight_hh_l0, np.zeros(net.weight_hh_l0.shape))
    bias = np.asarray(net.bias_ih_l0).copy()
    bias[3:6] = 8.0
    put(net.bias_ih_l0, bias)
    loss = net(x)[0][-1].sum()
    picture = tg.viz.graph(loss, level="cell", fold=None, color="grad", module=net)
    gates = tg.viz.graph(loss, level="gate", fold=None, color="grad", module=net)
    norms = [of_step(gates, "cell", t).gradient.norm for t in range(40)]
    assert max(norms) < 10 * min(norms)
    assert picture.stats["steps"] == 40


def test_the_gradients_that_are_there_stay():
    net, x, loss = net_and_loss(LSTM)
    (net(x)[0].sum()).backward()
    before = {name: np.asarray(p.grad).copy() for name, p in net.named_parameters()}
    tg.viz.graph(loss, color="grad", module=net)
    for name, p in net.named_parameters():
        np.testing.assert_array_equal(np.asarray(p.grad), before[name])
    loss.backward()  # and nothing was freed
    picture = tg.viz.graph(net(x)[0].sum(), module=net)
    shown = {n.name: n.gradient.norm for n in picture.graph.of_kind("parameter")}
    for name, p in net.named_parameters():  # without colours, what backward() has left
        assert shown[name] == pytest.approx(np.linalg.norm(np.asarray(p.grad)))


def test_parameters_show_their_norm_and_that_of_their_gradient():
    net, _, loss = net_and_loss(GRU)
    grads = tg.grad(loss, list(net.parameters()), retain_graph=True)
    picture = tg.viz.graph(loss, level="gate", color="grad", module=net)
    nodes = {node.name: node for node in picture.graph.of_kind("parameter")}
    for (name, p), g in zip(net.named_parameters(), grads):
        assert nodes[name].seen.values.norm == pytest.approx(np.linalg.norm(np.asarray(p)))
        assert nodes[name].gradient.norm == pytest.approx(np.linalg.norm(np.asarray(g)))
        assert f"norm {nodes[name].seen.values.norm:.3g}  gradient {nodes[name].gradient.norm:.2g}" in picture.source


def test_the_ellipsis_says_the_smallest_and_the_largest_gradient_inside():
    net, _, loss = net_and_loss(LSTM, steps=20)
    whole = tg.viz.graph(loss, level="gate", fold=None, color="grad", module=net)
    inside = [
        of_step(whole, label, step).gradient.norm for label in ("hidden", "cell") for step in range(2, 19)
    ]  # fmt: skip
    for level in ("op", "gate"):
        folded = tg.viz.graph(loss, level=level, color="grad", module=net)
        (ellipsis,) = [node for node in folded.graph.of_kind("ellipsis") if node.layer is not None]
        assert ellipsis.within == pytest.approx((min(inside), max(inside)))
        assert f"gradient {min(inside):.1e}" in folded.source and f"to {max(inside):.1e}" in folded.source
        svg = folded.to_bytes("svg", "builtin").decode()
        assert f"gradient {min(inside):.1e}" in svg and f"to {max(inside):.1e}" in svg


# --- Values ---


def test_statistics_are_those_of_numpy():
    a = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    s = Statistics.of(a)
    wide = a.astype(np.float64)
    np.testing.assert_allclose(
        [s.mean, s.std, s.min, s.max, s.norm], [wide.mean(), wide.std(), wide.min(), wide.max(), np.linalg.norm(wide)]
    )
    assert (s.size, s.nan, s.inf, s.trouble) == (35, 0, 0, "")
    a[0, 0], a[1, 1], a[2, 2] = np.nan, np.inf, -np.inf
    s = Statistics.of(a)
    assert (s.nan, s.inf, s.trouble) == (1, 2, "NaN")
    assert s.max == a[np.isfinite(a)].max()
    assert Statistics.of(np.full(3, np.inf)).trouble == "inf" and Statistics.of(np.zeros(0)).norm == 0.0


def test_what_was_watched_is_in_the_graph():
    net = LSTM(2, 4)
    x = tg.randn(9, 3, 2)
    with tg.viz.watch():
        outputs, _ = net(x)
    picture = tg.viz.graph(outputs, level="gate", fold=None, color="value", module=net)
    for t in range(9):
        node = of_step(picture, "hidden", t)
        assert node.seen.values == Statistics.of(np.asarray(outputs[t]))
        np.testing.assert_array_equal(np.float32(node.seen.units), np.asarray(outputs[t])[0])
    tip = f"norm {of_step(picture, 'hidden', 0).seen.values.norm:.3e}"
    assert tip in picture.source and tip in picture.to_bytes("svg", "builtin").decode()


def test_saturation_is_the_share_of_units_without_a_derivative():
    y = tg.tensor([[-9.0, -1.0, 0.0, 1.0, 2.0, 9.0, 9.0, 9.0]], requires_grad=True)
    with tg.viz.watch():
        gate = tg.sigmoid(y).named("gate")
        other = tg.tanh(gate)
    picture = tg.viz.graph(other, level="op", color="saturation")
    shares = {node.name: node.seen.saturated for node in picture.graph.of_kind("op")}
    assert shares == {"sigmoid": 4 / 8, "tanh": 0.0}
    assert picture.view.scale.fill(next(n for n in picture.graph.nodes if n.name == "sigmoid")) == colour.at(0.5)


def test_what_is_watched_is_forgotten_with_its_graph():
    gc.collect()
    before = len(measure._seen)
    with tg.viz.watch():
        y = tg.tanh(tg.ones(3, requires_grad=True))
    assert len(measure._seen) == before + 1
    del y
    gc.collect()
    assert len(measure._seen) == before


def test_what_is_not_finite_has_a_colour_and_a_word():
    x = tg.tensor([0.0, 1.0], requires_grad=True)
    with tg.viz.watch(), np.errstate(all="ignore"):
        low = tg.log(x).named("low")  # -inf
        lost = (low * 0.0).named("lost")  # NaN
        loss = lost.sum()
    picture = tg.viz.graph(loss, level="op", color="value")
    svg = picture.to_bytes("svg", "builtin").decode()
    for text in (svg, picture.source):
        assert text.count(colour.STRANGE) >= 3
        assert "NaN" in text and "inf" in text
    assert "1 NaN" in svg and "1 infinite" in svg
    words = {node.label: picture.view.trouble(node) for node in picture.graph.nodes if node.label}
    assert words == {"low": "inf", "lost": "NaN"}


# --- Colours ---


def test_the_ramp_goes_from_pale_to_dark():
    light = []
    for part in np.linspace(0.0, 1.0, 33):
        red, green, blue = (int(colour.at(part)[k : k + 2], 16) for k in (1, 3, 5))
        light.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    assert all(b < a for a, b in pairwise(light))
    assert (colour.at(0.0), colour.at(1.0)) == (colour.RAMP[0], colour.RAMP[-1])


def test_edges_are_as_wide_and_nodes_as_dark_as_gradients_are_large():
    net, _, loss = net_and_loss(RNN)
    picture = tg.viz.graph(loss, level="gate", fold=None, color="grad", module=net)
    edges = [e for e in picture.view.recurrent if picture.graph[e.source].step is not None]
    norms = [picture.graph[edge.source].gradient.norm for edge in edges]
    widths = [picture.view.edge(edge)[1] for edge in edges]
    parts = [picture.view.scale.part(picture.graph[edge.source]) for edge in edges]
    assert np.all(np.argsort(norms) == np.argsort(widths)) and np.all(np.argsort(norms) == np.argsort(parts))
    assert all(0.0 <= part <= 1.0 for part in parts)
    svg = picture.to_bytes("svg", "builtin").decode()
    drawn = [float(w) for w in re.findall(r'stroke-width="([\d.]+)"><title>hidden state', svg)]
    assert sorted(drawn) == [
        pytest.approx(w, abs=0.051) for w in sorted([picture.view.edge(e)[1] for e in picture.view.recurrent])
    ]
    for power in (int(picture.view.scale.low), int(picture.view.scale.high)):
        assert power < 10
    assert f"1e{int(picture.view.scale.low)}" in svg and f"1e{int(picture.view.scale.low)}" in picture.source


def test_a_gradient_of_zero_is_as_pale_as_it_gets():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = (x * 0.0).named("nothing")
    picture = tg.viz.graph((y * y).sum(), level="op", color="grad")
    (node,) = [node for node in picture.graph.nodes if node.label == "nothing"]
    assert node.gradient.norm == 0.0 and picture.view.scale.part(node) == 0.0


def test_colours_that_cannot_be_had():
    _, _, loss = net_and_loss(RNN)
    with pytest.raises(ArgumentError, match="no such color"):
        tg.viz.graph(loss, color="pink")
    for what in ("value", "saturation"):
        with pytest.raises(ArgumentError, match=r"watch\(\)"):
            tg.viz.graph(loss, color=what)
    with tg.Tape() as tape:
        tg.ones(2) * tg.ones(2)
    with pytest.raises(GraphError, match="no gradient flows"):
        tg.viz.graph(tape, color="grad")
    loss.backward()
    with pytest.raises(GraphError, match="freed"):
        tg.viz.graph(loss, color="grad")
    for engine in ("eager", "auto"):
        net, _, loss = net_and_loss(RNN, engine)
        put(net.weight_hh_l0, np.ones((3, 3)))
        with pytest.raises(GraphError, match="changed in place"):
            tg.viz.graph(loss, color="grad")


@pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")
def test_a_sequence_whose_values_are_gone_is_one_node():
    net, _, loss = net_and_loss(LSTM)
    loss.backward()
    picture = tg.viz.graph(loss, module=net)
    (fused,) = [node for node in picture.graph.nodes if node.name == "fused"]
    assert fused.settings == f"{STEPS} steps" and fused.cell == "LSTMCell"
    assert "LSTM fused" in picture.source and "LSTM fused" in picture.to_bytes("svg", "builtin").decode()
