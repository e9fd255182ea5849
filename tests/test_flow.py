"""How gradients flow back through time: against a backward for each pair of steps, and against theory."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import cli, nn
from tinygrad_rnn.errors import ArgumentError
from tinygrad_rnn.viz import flow_page

T, B, I, H = 12, 2, 3, 4


class Both(NamedTuple):
    """A state within a state."""

    lstm: Any
    mean: Any


class Sum(nn.Cell):
    """Its output is no part of its state."""

    def __init__(self, size=I):
        self.input_size, self.hidden_size = size, H
        self.weight = nn.Parameter(tg.randn(H, size, dtype="float64"))
        self.out = nn.Parameter(tg.randn(H, H, dtype="float64"))

    def step(self, x, state):
        gate = tg.sigmoid(x @ self.weight.T + state).named("gate")
        return tg.tanh(state @ self.out), gate * state + tg.tanh(x @ self.weight.T)


CELLS = {
    "rnn": lambda: nn.RNN(I, H, dtype="float64"),
    "lstm": lambda: nn.LSTM(I, H, dtype="float64"),
    "gru": lambda: nn.GRU(I, H, dtype="float64"),
    "peephole": lambda: nn.Recurrent(nn.PeepholeLSTMCell(I, H, dtype="float64")),
    "own": lambda: nn.Recurrent(Sum()),
    "two layers": lambda: nn.LSTM(I, H, 2, dtype="float64"),
    "three cells": lambda: nn.Stacked([nn.GRU(I, H, dtype="float64"), Sum(H), nn.RNNCell(H, H, dtype="float64")]),
}


def loss(y, t):
    return (y * y).sum() * (0.5 + 0.1 * t) + y.sum()


def cells_of(layer):
    if isinstance(layer, nn.Stacked):
        return [cell for inside in layer.layers for cell in cells_of(inside)]
    return [layer.cell] if isinstance(layer, nn.Recurrent) else layer.cells


def unrolled(layer, x):
    """Outputs and states after every step, on one tape."""
    cells, outputs, states = cells_of(layer), [], []
    state = [cell.initial_state(x.shape[1]) for cell in cells]
    for y in x:
        for i, cell in enumerate(cells):
            y, state[i] = cell.step(y, state[i])
        outputs.append(y)
        states.append([part for own in state for part in (own if isinstance(own, tuple) else (own,))])
    return outputs, states


def parameters_of(layer):
    """By the names that a flow gives them."""
    cells = cells_of(layer)
    found = [(f"layer {i}.{name}", p) for i, cell in enumerate(cells, 1) for name, p in cell.named_parameters()]
    return found if len(cells) > 1 else [*cells[0].named_parameters()]


def gradient(value, of):
    g = tg.grad(value, of, allow_unused=True, retain_graph=True) if value.requires_grad and of.requires_grad else None
    return np.zeros(of.shape) if g is None else np.asarray(g)


@pytest.mark.parametrize("name", CELLS)
def test_the_matrix_is_that_of_a_backward_for_each_pair(name):
    layer, x = CELLS[name](), tg.randn(T, B, I, dtype="float64")
    flow = tg.viz.flow(layer, x, loss, at="all")
    outputs, states = unrolled(layer, x)
    for i, part in enumerate(flow.parts):
        exact = np.zeros((T, T))
        for t in range(T):
            value = loss(outputs[t], t)
            for k in range(t + 1):
                exact[t, k] = np.linalg.norm(gradient(value, states[k][i]))
        np.testing.assert_allclose(flow.matrix(part), exact, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("at", ["last", "all"])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_and_shares(name, at):
    layer, x = CELLS[name](), tg.randn(T, B, I, dtype="float64")
    flow = tg.viz.flow(layer, x, loss, at=at)
    outputs, states = unrolled(layer, x)
    value = sum(loss(outputs[t], t) for t in (range(T) if at == "all" else [T - 1]))
    for i, part in enumerate(flow.parts):
        exact = [np.linalg.norm(gradient(value, states[k][i])) for k in range(T)]
        np.testing.assert_allclose(flow.norms(part), exact, rtol=1e-10, atol=1e-13)
    assert len(parameters_of(layer)) == len(flow.sums)
    for parameter, p in parameters_of(layer):
        np.testing.assert_allclose(flow.sums[parameter], gradient(value, p), rtol=1e-9, atol=1e-12)
        assert flow.shares[parameter].shape == (T,)
    assert len(list(flow.rows())) == T


def test_what_flows_directly_through_an_lstm_is_the_product_of_its_forget_gates():
    layer, x = nn.LSTM(I, H, dtype="float64"), tg.randn(T, B, I, dtype="float64")
    flow = tg.viz.flow(layer, x)
    with tg.engine("eager"), tg.record("forget_gate", "output_gate", "cell") as r:
        outputs, _ = layer(x)
    last = np.asarray(outputs)[-1] * r["output_gate"][-1] * (1 - np.tanh(r["cell"][-1]) ** 2)
    for k in range(T):
        direct = last * np.prod(r["forget_gate"][k + 1 :], axis=0)
        np.testing.assert_allclose(flow.through("cell")[0][k], np.linalg.norm(direct), rtol=1e-9)
    direct, gated = flow.through("cell")
    assert direct[-1] == pytest.approx(flow.norms("cell")[-1]) and gated[-1] == pytest.approx(0.0, abs=1e-15)
    assert gated[0] > 0


def test_nothing_flows_directly_from_layer_to_layer():
    layer, x = nn.LSTM(I, H, 2, dtype="float64"), tg.randn(T, B, I, dtype="float64")
    flow = tg.viz.flow(layer, x)
    assert list(flow.parts) == ["hidden 1", "cell 1", "hidden 2", "cell 2"]
    upper = tg.viz.flow(nn.Recurrent(layer.cells[1]), nn.Recurrent(layer.cells[0])(x)[0].detach())
    for of in (lambda f, part: f.norms(part), lambda f, part: f.through(part)[0], lambda f, part: f.matrix(part)):
        for part in ("hidden", "cell"):
            np.testing.assert_allclose(of(flow, f"{part} 2"), of(upper, part), rtol=1e-10, atol=1e-14)
    direct, gated = flow.through("cell 1")
    assert not direct.any() and (gated > 0.0).all()


@pytest.mark.parametrize("name", ["lstm", "two layers"])
def test_a_state_is_where_it_starts(name):
    layer, x = CELLS[name](), tg.randn(T, B, I, dtype="float64")
    state = tuple(nn.LSTMState(*tg.randn(2, B, H, dtype="float64")) for _ in layer.cells)
    given = state if len(state) > 1 else state[0]
    flow, zero = tg.viz.flow(layer, x, state=given), tg.viz.flow(layer, x)
    with tg.no_grad():
        begin = [np.stack([np.asarray(part) for part in parts]) for parts in zip(*state)]
        outputs, _ = layer(x, nn.LSTMState(*[tg.tensor(part) for part in begin]))
    last = next(part for part in reversed(flow.parts) if part.startswith("hidden"))
    np.testing.assert_allclose(flow.norms(last)[-1], np.linalg.norm(np.asarray(outputs)[-1]), rtol=1e-12)
    assert not np.allclose(flow.norms(last), zero.norms(last))


@pytest.mark.parametrize("part", ["hidden", "cell"])
def test_singular_values_are_those_of_the_derivative_on_one_tape(part):
    layer, x = nn.LSTM(I, H, dtype="float64"), tg.randn(T, 1, I, dtype="float64")
    flow = tg.viz.flow(layer, x)
    _, states = unrolled(layer, x)
    i = list(flow.parts).index(part)
    for k, t in ((3, 3), (3, 4), (0, 7)):
        units = [gradient(states[t][i][0, unit], states[k][i])[0] for unit in range(H)]
        exact = np.linalg.svd(np.array(units), compute_uv=False)
        np.testing.assert_allclose(flow.singular_values(t, k, part)[0], exact, rtol=1e-9)


def test_what_vanishes_keeps_its_norm_and_what_explodes_is_said():
    cell = nn.RNNCell(1, 1, nonlinearity="relu", dtype="float64")
    with tg.no_grad():
        for p in cell.parameters():
            p.copy_(np.zeros(p.shape))
        cell.bias_ih.copy_(np.ones(1))
        cell.weight_hh.copy_(np.full((1, 1), 0.1))
    x = tg.zeros(251, 1, 1, dtype="float64")
    flow = tg.viz.flow(nn.Recurrent(cell), x, lambda y, t: y.sum())
    np.testing.assert_allclose(np.log10(flow.norms()[0]), -250.0, rtol=1e-12)
    assert flow_page.summary({"": flow})[1][3] == "0.100"
    with tg.no_grad():
        cell.weight_hh.copy_(np.full((1, 1), 1e3))
        cell.bias_ih.copy_(np.full(1, 1e-300))
    flow = tg.viz.flow(
        nn.Recurrent(cell), tg.zeros(121, 1, 1, dtype="float64"), state=tg.full((1, 1), 1e-300, dtype="float64")
    )
    assert flow.norms()[0] == np.inf and flow.norms()[-1] < 1e100
    assert flow_page.to_csv({"": flow}).count("inf") > 1
    if importlib.util.find_spec("matplotlib"):
        assert flow_page.to_bytes({"": flow}, "svg")
    with tg.no_grad():
        cell.weight_hh.copy_(np.full((1, 1), np.nan))
    assert np.isnan(tg.viz.flow(nn.Recurrent(cell), x[:3]).norms()).all()  # and no trouble
    assert np.isnan(flow.singular_values(120, 0)).all() and np.isfinite(flow.singular_values(9, 0)).all()


def test_a_direction_that_the_first_step_loses_takes_the_last_place():
    cell, (a, b, d) = nn.RNNCell(2, 2, nonlinearity="relu", dtype="float64"), (0.9, 0.5, 0.2)
    with tg.no_grad():
        cell.weight_hh.copy_(np.array([[a, b], [0.0, d]]))
        cell.weight_ih.copy_(np.eye(2))
        for p in (cell.bias_ih, cell.bias_hh):
            p.copy_(np.zeros(2))
    x = np.ones((400, 1, 2))
    x[0, 0, 0] = -1.0  # the first unit is off once
    exponents = tg.viz.flow(nn.Recurrent(cell), tg.tensor(x)).exponents
    assert exponents[0] == pytest.approx(np.log(a), abs=0.02) and exponents[1] == -np.inf


def test_what_is_named_as_a_state_is_one_on_its_way():
    """A projected LSTM makes its state from what the LSTM calls hidden; the cell state's way is open all the same."""
    layer, x = nn.LSTM(I, H, proj_size=2, dtype="float64"), tg.randn(T, B, I, dtype="float64")
    flow = tg.viz.flow(layer, x)
    with tg.record("forget_gate", "output_gate", "cell") as r:
        outputs, _ = layer(x)
    back = np.asarray(outputs)[-1] @ np.asarray(layer.weight_hr_l0)
    last = back * r["output_gate"][-1] * (1 - np.tanh(r["cell"][-1]) ** 2)
    for k in range(T):
        direct = last * np.prod(r["forget_gate"][k + 1 :], axis=0)
        np.testing.assert_allclose(flow.through("cell")[0][k], np.linalg.norm(direct), rtol=1e-9)


@pytest.mark.parametrize("layers", [1, 2])
def test_learned_states_are_where_it_starts(layers):
    layer, x = nn.LSTM(I, H, layers, learned_state=True, dtype="float64"), tg.randn(T, B, I, dtype="float64")
    with tg.no_grad():
        for name in ("initial_hidden", "initial_cell"):
            getattr(layer, name).copy_(np.random.default_rng(1).standard_normal((layers, H)))
    flow, outputs = tg.viz.flow(layer, x), layer(x)[0]
    last = [part for part in flow.parts if part.startswith("hidden")][-1]
    np.testing.assert_allclose(flow.norms(last)[-1], np.linalg.norm(np.asarray(outputs)[-1]), rtol=1e-10)


def test_a_stack_takes_the_learned_states_of_what_is_inside():
    lower, upper = nn.LSTM(I, H, learned_state=True, dtype="float64"), nn.GRU(H, H, dtype="float64")
    with tg.no_grad():
        lower.initial_cell.copy_(np.random.default_rng(1).standard_normal((1, H)))
    stack, x = nn.Stacked([lower, upper]), tg.randn(T, B, I, dtype="float64")
    last = np.asarray(stack(x)[0])[-1]
    np.testing.assert_allclose(tg.viz.flow(stack, x).norms("hidden 2")[-1], np.linalg.norm(last), rtol=1e-10)


def test_a_state_that_is_given_is_a_number_and_no_history():
    layer, x = nn.Recurrent(nn.GRUCell(I, H, dtype="float64")), tg.randn(T, B, I, dtype="float64")
    outputs, state = layer(x)
    flow, plain = tg.viz.flow(layer, x, state=state), tg.viz.flow(layer, x, state=state.detach())
    for name, total in plain.sums.items():
        np.testing.assert_array_equal(flow.sums[name], total)
    outputs.sum().backward()  # its graph is as it was


def test_a_learned_state_of_a_cell_has_its_gradient_at_the_first_step():
    layer, x = nn.Recurrent(nn.LearnedState(nn.GRUCell(I, H, dtype="float64"))), tg.randn(T, B, I, dtype="float64")
    flow, outputs = tg.viz.flow(layer, x), layer(x)[0]
    value = (outputs[-1] * outputs[-1]).sum() * 0.5
    for name, p in layer.cell.named_parameters():
        np.testing.assert_allclose(flow.sums[name], gradient(value, p), rtol=1e-9, atol=1e-12)
        if name.startswith("initial"):
            assert flow.shares[name][0] > 0.0 and not flow.shares[name][1:].any()


def test_the_batch_comes_first_where_the_layer_says_so():
    x = tg.randn(T, B, I, dtype="float64")
    layer = nn.GRU(I, H, batch_first=True, dtype="float64")
    flow = tg.viz.flow(layer, tg.permute_dims(x, (1, 0, 2)))
    np.testing.assert_allclose(flow.matrix(), tg.viz.flow(nn.Recurrent(layer.cells[0]), x).matrix(), rtol=1e-10)


def test_a_state_of_several_nests():
    class Two(nn.Cell):
        def __init__(self):
            self.input_size, self.hidden_size = I, H
            self.lstm = nn.LSTMCell(I, H, dtype="float64")

        def initial_state(self, batch_size):
            return Both(self.lstm.initial_state(batch_size), tg.zeros(batch_size, H, dtype="float64"))

        def step(self, x, state):
            y, lstm = self.lstm.step(x, state.lstm)
            mean = 0.9 * state.mean + 0.1 * y
            return mean, Both(lstm, mean)

    layer, x = nn.Recurrent(Two()), tg.randn(T, B, I, dtype="float64")
    flow = tg.viz.flow(layer, x)
    assert list(flow.parts) == ["state 1", "state 2", "state 3"]
    pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")
    for measured in (flow, tg.viz.flow(nn.GRU(I, H, 2, dtype="float64"), x)):
        assert flow_page.to_bytes({"net": measured}, "svg") == flow_page.to_bytes({"net": measured}, "svg")


def test_singular_values_and_exponents_of_a_linear_map():
    cell = nn.RNNCell(I, H, dtype="float64")
    weight = np.random.default_rng(0).standard_normal((H, H)) * 1e-3
    with tg.no_grad():
        cell.weight_hh.copy_(weight)
        for p in (cell.weight_ih, cell.bias_ih, cell.bias_hh):
            p.copy_(np.zeros(p.shape))
    flow = tg.viz.flow(nn.Recurrent(cell), tg.zeros(40, 1, I, dtype="float64"))
    exact = np.linalg.svd(np.linalg.matrix_power(weight, 3), compute_uv=False)
    np.testing.assert_allclose(flow.singular_values(5, 2)[0], exact, rtol=1e-6)
    np.testing.assert_allclose(flow.singular_values(4, 4)[0], np.ones(H))
    assert flow.exponents.sum() == pytest.approx(np.log(abs(np.linalg.det(weight))), rel=1e-9)
    largest = np.log(np.abs(np.linalg.eigvals(weight)).max())
    assert flow.exponents[0] == pytest.approx(largest, abs=0.15)  # the mean over 40 steps
    with pytest.raises(ArgumentError, match="no such steps"):
        flow.singular_values(2, 5)


def test_every_row_has_exponents_of_its_own():
    """Where one unit is off in one row, and the other in the other, each row keeps one direction."""
    cell = nn.RNNCell(2, 2, nonlinearity="relu", dtype="float64")
    with tg.no_grad():
        for p in (cell.weight_hh, cell.weight_ih):
            p.copy_(np.eye(2))
        for p in (cell.bias_ih, cell.bias_hh):
            p.copy_(np.zeros(2))
    x = np.broadcast_to([[-1.0, 1.0], [1.0, -1.0]], (10, 2, 2))
    exponents = tg.viz.flow(nn.Recurrent(cell), tg.tensor(x.copy())).exponents
    assert exponents[0] == pytest.approx(0.0, abs=1e-12) and exponents[1] == -np.inf


def test_what_is_refused():
    x = tg.randn(T, B, I)
    for layer in (nn.Linear(I, H), nn.LSTM(I, H, bidirectional=True), nn.Recurrent(nn.GRUCell(I, H), reverse=True)):
        with pytest.raises(ArgumentError, match=r"runs? forward"):
            tg.viz.flow(layer, x)
    with pytest.raises(ArgumentError, match="one state for each layer"):
        tg.viz.flow(nn.LSTM(I, H, 2), x, state=tg.zeros(B, H))
    with pytest.raises(ArgumentError, match="no such loss"):
        tg.viz.flow(nn.LSTM(I, H), x, at="first")
    for strange in (3, lambda y, t: 0.5, lambda y, t: y):
        with pytest.raises(ArgumentError, match="loss"):
            tg.viz.flow(nn.LSTM(I, H), x, strange)
    with pytest.raises(ArgumentError, match="a sequence"):
        tg.viz.flow(nn.LSTM(I, H), x[0])
    with pytest.raises(ArgumentError, match="no such part"):
        tg.viz.flow(nn.GRU(I, H), x).norms("cell")


# --- The command, and what it writes ---


def test_a_table_of_numbers(capsys):
    assert cli.main(["flow", "--steps", "9", "--hidden", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and [line.split()[0] for line in printed.out.splitlines()] == ["net", "RNN", "LSTM", "GRU"]


def test_files(tmp_path):
    for suffix, start in (("csv", b"net,step"), ("svg", b"<?xml"), ("png", b"\x89PNG"), ("html", b"<!doctype html>")):
        if suffix != "csv":
            pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")
        path = tmp_path / f"flow.{suffix}"
        assert cli.main(["flow", "--cells", "rnn,gru", "--steps", "9", "--hidden", "3", "-o", str(path)]) == 0
        assert path.read_bytes().startswith(start)
    rows = list(csv.DictReader((tmp_path / "flow.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * 9 and {row["net"] for row in rows} == {"RNN", "GRU"}
    flow = tg.viz.flow(*_same("RNN", 9, 3))
    np.testing.assert_allclose([float(row["gradient of hidden"]) for row in rows[:9]], flow.norms(), rtol=1e-6)


def _same(kind, steps, hidden):
    """What the command measures."""
    tg.manual_seed(0)
    layer = getattr(nn, kind)(8, hidden)
    return layer, tg.randn(steps, 4, 8)


def test_a_users_layer(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(
        "import tinygrad_rnn as tg\n\n\n"
        "def f():\n    return tg.nn.Recurrent(tg.nn.GRUCell(2, 3)), tg.randn(7, 1, 2)\n\n\n"
        "def g():\n    return 3\n\n\n"
        "class Broken(tg.nn.GRUCell):\n    def step(self, x, state):\n        return [][0]\n\n\n"
        "def h():\n    return tg.nn.Recurrent(Broken(2, 3)), tg.randn(7, 1, 2)\n\n\n"
        "def i():\n    return (*f(), lambda y, t: y.nothing)\n\n\n"
        "def j():\n    return (*f(), lambda y, t: (print('here'), y.sum())[1])\n"
    )
    assert cli.main(["flow", "--from", f"{file}:f", "--loss", "all", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert cli.main(["flow", "--from", f"{file}:j", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8  # what it prints is no part of the table
    for arguments, says in (
        (["--from", f"{file}:g"], "something else"), (["--from", f"{file}:h"], "IndexError"),
        (["--from", f"{file}:i"], "AttributeError"), (["--from", f"{file}:f", "--steps", "3"], "beside it"),
        (["--cells", "rnn,elman"], "expected some of"), (["-o", str(tmp_path / "flow.gif")], "no such format"),
        (["--steps", "0"], "from 1"), (["-o", str(tmp_path / "flow")], "no such format"),
    ):  # fmt: skip
        assert cli.main(["flow", *arguments]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and says in said.err
    assert list(tmp_path.iterdir()) == [file]


def test_without_matplotlib_there_is_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    asked = ["flow", "--cells", "rnn", "--steps", "5", "--hidden", "3"]
    assert cli.main([*asked, "-o", str(tmp_path / "flow.svg")]) == 2
    assert "tinygrad_rnn[plot]" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert cli.main([*asked, "-o", str(tmp_path / "flow.csv")]) == 0


def test_the_tool_is_the_subcommand():
    tool = Path(__file__).parent.parent / "tools" / "gradient_flow.py"
    asked = ["--steps", "5", "--hidden", "3", "--format", "csv"]
    one = subprocess.run([sys.executable, str(tool), *asked], capture_output=True, check=True).stdout
    two = subprocess.run([sys.executable, "-m", "tinygrad_rnn.cli", "flow", *asked], capture_output=True, check=True)
    assert one == two.stdout != b""
