"""`verify` finds what is wrong with a cell, and says where."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings as library
from tinygrad_rnn.errors import ArgumentError
from tinygrad_rnn.ops.declare import elementwise
from tinygrad_rnn.ops.op import REGISTRY

nn = tg.nn


@elementwise()
def crooked_sigmoid(x):
    """A gate whose derivative forgets the factor y."""
    return 1.0 / (1.0 + tg.exp(-x))


@crooked_sigmoid.vjp("x")
def _(g, y):
    return g * (1.0 - y)


@elementwise()
def cut_square(x):
    """x², its derivative right, and the derivative of that not: it is cut from the tape."""
    return x * x


@cut_square.vjp("x")
def _(g, x):
    return g * 2.0 * (x.detach() if isinstance(x, tg.Tensor) else x)


for name in ("crooked_sigmoid", "cut_square"):  # what goes through the registry finds only what is right
    del REGISTRY[name]


class Sound(nn.Cell):
    """A cell with nothing wrong: h' = tanh(W [x, h] + b)."""

    def __init__(self, input_size=2, hidden_size=3):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.mix = nn.Linear(input_size + hidden_size, hidden_size)

    def mixed(self, x, state):
        return self.mix(tg.concat([x, state], axis=-1))

    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state))
        return hidden, hidden


class WrongDerivative(Sound):
    def step(self, x, state):
        hidden = tg.tanh(crooked_sigmoid(self.mixed(x, state)))
        return hidden, hidden


class WrongSecondDerivative(Sound):
    def step(self, x, state):
        hidden = tg.tanh(cut_square(self.mixed(x, state)))
        return hidden, hidden


class CutFromTheTape(Sound):
    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state.detach()))
        return hidden, hidden


class ReadsItsNeighbour(Sound):
    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state) + 0.1 * tg.roll(state, 1, 0))
        return hidden, hidden


class NormalisedOverTheBatch(Sound):
    def step(self, x, state):
        mixed = self.mixed(x, state)
        hidden = tg.tanh(mixed - mixed.mean(0, keepdims=True))
        return hidden, hidden


class CountsStepsForAllRows(Sound):
    """Its second state is of no row, so that with lengths the padding moves it."""

    def initial_state(self, batch_size):
        return self.zeros(batch_size, self.hidden_size), tg.zeros((), dtype=self.mix.weight.dtype)

    def step(self, x, state):
        hidden, count = state
        hidden = tg.tanh(self.mixed(x, hidden)) / (count + 1.0)
        return hidden, (hidden, count + 1.0)


class LeaksThroughPadding(Sound):
    """The number of rows that are still live gets into the state."""

    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state) / x.shape[0])
        return hidden, hidden


class DropsInEvaluation(Sound):
    def step(self, x, state):
        hidden = tg.dropout(tg.tanh(self.mixed(x, state)), 0.5)
        return hidden, hidden


class DrawsFromElsewhere(Sound):
    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state))
        if self.training:
            hidden = hidden * (np.random.default_rng().random(hidden.shape) < 0.5).astype(hidden.dtype)
        return hidden, hidden


class RemembersInPython(Sound):
    """What goes on from step to step is not in the state."""

    def step(self, x, state):
        before = getattr(self, "before", None)
        hidden = tg.tanh(self.mixed(x, state))
        if before is not None and before.shape == hidden.shape:
            hidden = hidden + 0.1 * before
        self.before = hidden.detach()
        return hidden, hidden


class AnotherNest(Sound):
    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state))
        return hidden, (hidden, hidden)


class AnotherShape(Sound):
    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state))
        return hidden, tg.concat([hidden, hidden], axis=-1)


class OneOutput(Sound):
    def step(self, x, state):
        return tg.tanh(self.mixed(x, state))


class Float32State(Sound):
    def initial_state(self, batch_size):
        return tg.zeros(batch_size, self.hidden_size, dtype="float32")


class Widens(Sound):
    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state) * tg.tensor(np.full(self.hidden_size, 0.5)))
        return hidden, hidden.astype(state.dtype)


class WritesIntoItsState(Sound):
    def step(self, x, state):
        hidden = tg.tanh(self.mixed(x, state.detach() + 0.0))
        state.detach()[0] = 0.0
        return hidden, hidden


class UnusedParameter(Sound):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(tg.ones(3))


class Fails(Sound):
    def step(self, x, state):
        return self.mix(x), state


#: What is planted, the examination that must find it, and what that must say.
FAULTS = [
    (WrongDerivative, "first derivatives", "suspect the vjp of crooked_sigmoid"),
    (WrongDerivative, "first derivatives in training", "suspect the vjp of crooked_sigmoid"),
    (WrongSecondDerivative, "second derivatives", "gradcheck"),
    (CutFromTheTape, "first derivatives", "the state"),
    (ReadsItsNeighbour, "rows are independent", "when row 0 is given other numbers: the output at step 0, row 1"),
    (NormalisedOverTheBatch, "rows are independent", "another row changes"),
    (CountsStepsForAllRows, "one step: an output, and a state as it was given", r"part 1 .* is \(\)"),
    (LeaksThroughPadding, "padding does not leak", "a row of 2 steps, padded to 4, gives something else than alone"),
    (DropsInEvaluation, "evaluation gives the same each time", r"the output at step 0, row \d"),
    (DrawsFromElsewhere, "training gives the same from the same random numbers", "drawn through tg"),
    (RemembersInPython, "evaluation gives the same each time", "all that goes on from step to step is in the state"),
    (AnotherNest, "one step: an output, and a state as it was given", r"expected \*\ngot \(\*, \*\)"),
    (AnotherShape, "one step: an output, and a state as it was given", r"changes its shape\nexpected \(3, 3\)"),
    (OneOutput, "one step: an output, and a state as it was given", "returns Tensor"),
    (Float32State, "one step: an output, and a state as it was given", "self.zeros"),
    (Widens, "float32 stays float32", "the output is float64"),
    (WritesIntoItsState, "what is given stays as it is", "step changes the state in place"),
    (UnusedParameter, "every parameter has a gradient", "gain does not reach"),
    (Fails, "one step: an output, and a state as it was given", "linear"),
]


@pytest.mark.parametrize(("cell", "what", "says"), FAULTS, ids=lambda v: getattr(v, "__name__", None))
def test_a_planted_fault_is_found(cell, what, says):
    report = nn.verify(cell())
    assert not report
    assert what in report.wrong, report
    assert re.search(says, report.wrong[what]), report.wrong[what]
    assert f"WRONG  {what}" in str(report)


def test_nothing_is_found_where_nothing_is_wrong():
    report = nn.verify(Sound())
    assert report, report
    assert "nothing wrong" in str(report)
    assert not report.wrong
    assert len(report.findings) == 15


def test_a_fault_inside_a_wrapper_is_found():
    assert "first derivatives" in nn.verify(nn.Zoneout(WrongDerivative())).wrong
    assert "rows are independent" in nn.verify(nn.LearnedState(ReadsItsNeighbour())).wrong


def test_the_cell_its_modes_and_the_generators_stay_as_they_were():
    rng = np.random.default_rng(5)
    cell = nn.Zoneout(nn.VariationalDropout(nn.LSTMCell(2, 3, rng=rng), 0.3, 0.3), 0.2, rng=rng)
    cell.cell.eval()
    before = {name: np.array(p) for name, p in cell.named_parameters()}
    places = rng.bit_generator.state
    tg.manual_seed(3)
    assert nn.verify(cell)
    assert rng.bit_generator.state == places
    drawn = tg.randn(4)
    tg.manual_seed(3)
    np.testing.assert_array_equal(drawn, tg.randn(4))
    assert (cell.training, cell.cell.training) == (True, False)
    for name, p in cell.named_parameters():
        assert p.grad is None
        assert p.dtype == np.float32
        np.testing.assert_array_equal(p, before[name])


def test_it_takes_cells_and_must_know_the_size_of_x():
    with pytest.raises(ArgumentError, match="examines a cell"):
        nn.verify(nn.Linear(2, 3))
    cell = Sound()
    del cell.input_size
    with pytest.raises(ArgumentError, match="input_size"):
        nn.verify(cell)
    assert nn.verify(cell, input_size=2)


def test_a_large_cell_is_examined_along_a_few_directions_and_a_wrong_derivative_still_shows():
    assert nn.verify(nn.LSTMCell(24, 48))
    wrong = nn.verify(WrongDerivative(24, 48)).wrong
    assert "suspect the vjp of crooked_sigmoid" in wrong["first derivatives"]
    assert "second derivatives" in nn.verify(WrongSecondDerivative(24, 48)).wrong


class Symbols(nn.Cell):
    """Takes numbers of a table."""

    def __init__(self):
        self.input_size, self.hidden_size = 1, 3
        self.table, self.mix = nn.Embedding(5, 3), nn.Linear(3, 3)

    def step(self, x, state):
        hidden = tg.tanh(self.mix(state) + self.table(x[:, 0]))
        return hidden, hidden


class Standardised(nn.Cell):
    """The variance in the state stays positive, where it starts so."""

    def __init__(self):
        self.input_size = self.hidden_size = 3
        self.rate = nn.Parameter(tg.full(3, 0.1))

    def initial_state(self, batch_size):
        return self.zeros(batch_size, 3), self.zeros(batch_size, 3) + 1.0

    def step(self, x, state):
        mean, variance = state
        distance = x - mean
        mean, variance = mean + self.rate * distance, variance + self.rate * (distance * distance - variance)
        return distance / tg.sqrt(variance), (mean, variance)


class StraightThrough(Sound):
    def step(self, x, state):
        soft = tg.tanh(self.mixed(x, state))
        hard = soft + (tg.sign(soft) - soft).detach()
        return hard, soft


def test_symbols_states_with_a_domain_and_surrogate_gradients():
    assert nn.verify(Symbols(), x=np.arange(5).reshape(5, 1))
    assert nn.verify(Standardised())
    assert "first derivatives" in nn.verify(StraightThrough()).wrong
    assert nn.verify(StraightThrough(), surrogate=True)
    with pytest.raises(ArgumentError, match="examples"):
        nn.verify(Symbols(), x=3)


@pytest.mark.skipif(not library.jit_enabled, reason="nothing is compiled here")
def test_an_engine_that_computes_something_else_is_found(monkeypatch):
    from tinygrad_rnn.compiler.front import guards

    monkeypatch.setattr(guards.Moment, "look", lambda self, roots, keep: self._last[1] if self._last else self.first)
    keep = guards.Known.remember

    def remembering(self, probe, kind, made):
        moment = keep(self, probe, kind, made)
        moment.first = probe.reads
        return moment

    monkeypatch.setattr(guards.Known, "remember", remembering)
    cell = type("Scaled", (Sound,), {"mixed": scaled})()
    cell.scale = 0.7
    report = nn.verify(cell)
    assert "scale" in report.wrong["compiled, it sees what changes between two calls"]


def scaled(self, x, state):
    return self.scale * self.mix(tg.concat([x, state], axis=-1))
