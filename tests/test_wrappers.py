"""Wrappers do what their papers say: in training, in evaluation, around any cell, in each other, in any layer."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.pytree import leaves, map_leaves, unflatten
from tinygrad_rnn.autograd.tape import is_grad_enabled
from tinygrad_rnn.errors import ArgumentError, TinygradError

nn = tg.nn
N = 4


class Memory(NamedTuple):
    fast: Any
    slow: Any


class Own(nn.Cell):
    """A user's cell: its state a nest of named and plain tuples, its output no part of it, without a call of `seen`."""

    def __init__(self, n=N):
        self.mix = nn.Sequential(nn.Linear(n, n, dtype="float64"), tg.tanh)
        self.last = nn.Linear(n, n, dtype="float64")
        self.input_size = self.hidden_size = n

    def initial_state(self, batch_size):
        part = self.zeros(batch_size, self.hidden_size)
        return Memory(part, (part,)), self.zeros(batch_size, 1)

    def step(self, x, state):
        (fast, (slow,)), count = state
        new = tg.tanh(self.last(self.mix(x + fast)) + slow)
        return new * slow, (Memory(new, (0.9 * slow + 0.1 * new,)), count + 1.0)


class Seen(nn.Cell):
    """Carries its state on, and notes what it sees: input, past, weight."""

    def __init__(self, n=40, hidden_size=None):
        self.input_size, self.hidden_size = n, hidden_size or n
        self.weight_hh, self.noted = nn.Parameter(tg.ones(n, n)), []

    def step(self, x, state):
        past = self.seen(state)
        if is_grad_enabled():  # else it is only tried
            self.noted.append((x.numpy(), past.numpy(), self.weight_hh.numpy()))
        return past, state

    def over(self, wrapped, steps=4, rows=30):
        """What it sees of ones, when it runs wrapped: (T, B, n), (T, B, n), (T, n, n)."""
        self.noted.clear()
        nn.Recurrent(wrapped)(tg.ones(steps, rows, self.input_size), tg.ones(rows, self.hidden_size))
        return list(zip(*self.noted))


class Pass(nn.Cell):
    """The new state is the input."""

    input_size = hidden_size = N

    def step(self, x, state):
        return x, x


KINDS = ["RNN", "LSTM", "PeepholeLSTM", "CoupledLSTM", "LayerNormLSTM", "GRU", "MinimalGated", "IndRNN"]
CELLS = {kind: lambda kind=kind: getattr(nn, f"{kind}Cell")(N, N, dtype="float64") for kind in KINDS}
CELLS["ProjectedLSTM"] = lambda: nn.ProjectedLSTMCell(N, N, N - 1, dtype="float64")
CELLS["GRU reset before"] = lambda: nn.GRUCell(N, N, reset_after=False, dtype="float64")
CELLS["own"] = Own
every_cell = pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)


def some(cell, rows=3):
    """Random x and state."""
    x = tg.randn(rows, cell.input_size, dtype="float64")
    return x, map_leaves(lambda part: tg.randn(part.shape, dtype="float64"), cell.initial_state(rows))


def agree(a, b, e=1e-12):
    a, b = list(leaves(a)), list(leaves(b))
    assert len(a) == len(b)
    for x, y in zip(a, b):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=e, atol=e)


def about(hits, p):
    """As many are true as happens with probability p, within five deviations."""
    hits = np.asarray(hits)
    np.testing.assert_allclose(hits.mean(), p, rtol=0, atol=5 * np.sqrt(p * (1 - p) / hits.size))


# --- Zoneout (Krueger et al. 2017, eq. 2 to 4) ---


@every_cell
@pytest.mark.parametrize("one", [True, False], ids=["one p", "a nest of p"])
def test_zoneout_takes_each_element_old_or_new_with_its_probability(make, one):
    cell = make()
    state = some(cell, 60)[1]
    each = ([0.3] * 3 if one else [0.2, 0.6, 0.45])[: len(list(leaves(state)))]
    zoneout = nn.Zoneout(cell, 0.3 if one else unflatten(state, iter(each)), rng=np.random.default_rng(1))
    kept = [[] for _ in each]
    for _ in range(8):
        x, _ = some(cell, 60)
        output, new = cell.step(x, state)
        shown, got = zoneout.step(x, state)
        assert type(got) is type(new)
        for i, (was, to, now) in enumerate(zip(*(map(np.asarray, leaves(s)) for s in (state, new, got)))):
            old = np.isclose(now, was, rtol=0, atol=1e-13)
            assert (old | np.isclose(now, to, rtol=0, atol=1e-13)).all()
            kept[i].append(old[np.abs(was - to) > 1e-9])
        parts = [i for i, part in enumerate(leaves(new)) if part is output]
        agree(shown, list(leaves(got))[parts[0]] if parts else output)
        state = got
    for found, p in zip(kept, each):
        about(np.concatenate(found), p)


def test_zoneout_draws_anew_at_each_step_for_each_part_row_and_unit():
    cell = nn.Zoneout(nn.LSTMCell(2, 50), 0.5)
    masks, state = [], (tg.randn(40, 50), tg.randn(40, 50))
    for _ in range(3):
        new = cell.step(tg.randn(40, 2), state)[1]
        masks += [np.isclose(a, b, rtol=0, atol=1e-7) for a, b in zip(new, state)]
        state = new
    for i, mask in enumerate(masks):
        for one, other in [(mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1]), *[(mask, m) for m in masks[:i]]]:
            about(one == other, 0.5)


@every_cell
def test_zoneout_in_evaluation_is_the_expectation_and_at_0_and_1_nothing_and_all(make):
    cell = make()
    x, state = some(cell)
    _, new = cell.step(x, state)
    mixed = map_leaves(lambda old, to: 0.3 * old + 0.7 * to, state, new)
    agree(nn.Zoneout(cell, 0.3).eval().step(x, state)[1], mixed)
    agree(nn.Zoneout(cell, 0.0).step(x, state)[1], new)
    agree(nn.Zoneout(cell, 1.0).step(x, state)[1], state, 0)
    agree(nn.Zoneout(cell, 1.0).eval().step(x, state)[1], state)


def test_zoneout_leads_gradients_to_the_value_taken_and_draws_nothing_at_0():
    rng = np.random.default_rng(3)
    x, old = (tg.randn(20, 30, dtype="float64", requires_grad=True) for _ in range(2))
    new = nn.Zoneout(Pass(), 0.4, rng).step(2.0 * x, old)[1]
    kept = np.isclose(new.numpy(), old.numpy())
    new.sum().backward()
    agree([x.grad, old.grad], [np.where(kept, 0.0, 2.0), np.where(kept, 1.0, 0.0)])
    before = rng.bit_generator.state
    nn.Zoneout(Pass(), 0.0, rng).step(x, old)
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("far", [-np.inf, 1e30])
def test_zoneout_takes_the_value_itself_where_the_other_is_infinite_or_far_larger(far):
    got = nn.Zoneout(Pass(), 0.5).step(tg.full((9, N), 0.123), tg.full((9, N), far))[1].numpy()
    assert set(np.unique(got)) == {np.float32(far), np.float32(0.123)}


def test_zoneout_hides_no_part_that_a_cell_adds_to_its_state():
    class Grows(Pass):
        def step(self, x, state):
            return x, (x, x)

    with pytest.raises(TinygradError):
        nn.Zoneout(Grows(), 0.5).step(tg.ones(1, N), (tg.ones(1, N),))


# --- VariationalDropout (Gal and Ghahramani 2016, sect. 4) ---


@pytest.mark.parametrize("which, p", [(0, 0.3), (1, 0.6)], ids=["inputs", "the past"])
def test_variational_dropout_has_one_mask_a_sequence(which, p):
    cell = Seen()
    wrapped = nn.VariationalDropout(cell, *((p, 0.0) if which == 0 else (0.0, p)))
    first, second = cell.over(wrapped), cell.over(wrapped)
    mask = first[which][0]
    np.testing.assert_allclose(mask, np.where(mask != 0, 1 / (1 - p), 0), rtol=1e-6)
    about(mask == 0, p)  # with that factor, the mean is what it is without the mask
    assert all((seen == mask).all() for seen in first[which])
    assert all((seen == 1).all() for seen in first[1 - which]), "nothing else is masked"
    for one, other in [(mask, second[which][0]), (mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])]:
        about((one == 0) == (other == 0), p * p + (1 - p) ** 2)
    assert all((seen == 1).all() for seen in cell.over(wrapped.eval())[which])


@pytest.mark.parametrize("reverse", [False, True])
def test_variational_dropout_masks_live_rows_as_if_the_others_lived_and_inputs_and_past_apart(reverse):
    cell = Seen()
    layer = nn.Recurrent(nn.VariationalDropout(cell, 0.5, 0.5), reverse=reverse)
    layer(tg.ones(4, 5, 40), tg.ones(5, 40), lengths=[3, 4, 0, 4, 1])
    assert [len(x) for x, _, _ in cell.noted][-4:] == ([4, 3, 3, 2] if not reverse else [2, 3, 3, 4])
    whole = max(cell.noted, key=lambda noted: len(noted[0]))
    for x, past, _ in cell.noted:
        agree([x, past], [whole[0][: len(x)], whole[1][: len(x)]], 0)
    about((whole[0] == 0) == (whole[1] == 0), 0.5)


@pytest.mark.parametrize("name", CELLS)
def test_variational_dropout_masks_what_products_see_and_not_the_memory(name):
    cell = CELLS[name]()
    x, state = some(cell, 20)
    hidden, *memory = leaves(state)
    probe = Seen(N, hidden.shape[1])  # its masks, of the same random numbers
    nn.VariationalDropout(probe, 0.4, 0.5, np.random.default_rng(7)).step(tg.ones_like(x), tg.ones_like(hidden))
    m_x, m_h = (tg.tensor(mask, dtype="float64") for mask in probe.noted[0][:2])
    expected = cell.step(x * m_x, unflatten(state, iter([hidden * m_h, *memory])))[1]
    if name in ("GRU", "GRU reset before", "MinimalGated"):  # these carry h itself on, as far as a gate says
        rows = slice(0, N) if name == "MinimalGated" else slice(N, 2 * N)
        w_x, w_h = cell.weight_ih[rows], cell.weight_hh[rows]
        gate = tg.sigmoid((x * m_x) @ w_x.T + (hidden * m_h) @ w_h.T + cell.bias_ih[rows] + cell.bias_hh[rows])
        expected = expected + (1.0 - gate if name == "MinimalGated" else gate) * (hidden - hidden * m_h)
    wrapped = nn.VariationalDropout(cell, 0.4, 0.5, np.random.default_rng(7))
    agree(wrapped.step(x, state)[1], expected)
    agree(wrapped.eval().step(x, state), cell.step(x, state), 0)


def test_variational_dropout_runs_a_cell_that_never_calls_seen_once_a_step():
    steps = []

    class Counted(Pass):
        def step(self, x, state):
            steps.append(1)
            return super().step(x, state)

    nn.Recurrent(nn.VariationalDropout(Counted(), 0.2, 0.5))(tg.ones(5, 2, N))
    assert len(steps) <= 6  # once to see that it does not


# --- WeightDropout (Merity et al. 2018, sect. 2) ---


def test_weight_dropout_has_one_mask_a_sequence_for_all_rows_and_leaves_the_parameter_alone():
    cell, rng = Seen(), np.random.default_rng(5)
    wrapped, parameter = nn.WeightDropout(cell, 0.3, rng=rng), cell.weight_hh
    first, second = cell.over(wrapped)[2], cell.over(wrapped)[2]
    np.testing.assert_allclose(first[0], np.where(first[0] != 0, 1 / 0.7, 0), rtol=1e-6)
    about(first[0] == 0, 0.3)
    about((first[0] == 0) == (second[0] == 0), 0.58)
    assert all((weight == first[0]).all() for weight in first)
    assert cell.weight_hh is parameter
    assert (parameter.numpy() == 1).all()
    assert all((weight == 1).all() for weight in cell.over(wrapped.eval())[2])


NAMED = [("LSTM", "weight_hh"), ("IndRNN", "weight_hh"), ("GRU", "bias_hh"), ("LayerNormLSTM", "norm_hh.weight")]


@pytest.mark.parametrize("name, weight", [*NAMED, ("own", "last.weight"), ("own", "mix.0.weight")])
def test_weight_dropout_acts_on_the_weight_named_and_dropped_weights_have_no_gradient(name, weight):
    cell = CELLS[name]()
    wrapped = nn.WeightDropout(cell, 0.5, (weight,), np.random.default_rng(2))
    x = tg.randn(6, 30, N, dtype="float64")
    outputs, state = nn.Recurrent(wrapped)(x)
    (outputs.sum() + sum(part.sum() for part in leaves(state))).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in cell.named_parameters()}
    dropped = gradients.pop(weight) == 0
    assert 0 < dropped.sum() < dropped.size
    assert all(gradient.all() for gradient in gradients.values()), "the others keep theirs"
    by_hand = copy.deepcopy(cell)
    dict(by_hand.named_parameters())[weight].detach().copy_(
        np.where(dropped, 0.0, 2.0 * dict(cell.named_parameters())[weight].numpy())
    )
    agree((outputs, state), nn.Recurrent(by_hand)(x))


# --- Refusals ---


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), "0.5"])
def test_what_is_no_probability_is_refused(p):
    V, W, Z = nn.VariationalDropout, nn.WeightDropout, nn.Zoneout
    for wrap, given in [(Z, p), (Z, (0.5, p)), (V, p), (lambda cell, p: V(cell, 0.5, p), p), (W, p)]:
        with pytest.raises(ArgumentError, match=r"^(Zoneout|VariationalDropout|WeightDropout): .*probability"):
            wrap(CELLS["LSTM"](), given)


@pytest.mark.parametrize("p", [(), (0.1,), (0.1, 0.2, 0.3), (0.1, (0.2,))])
def test_a_nest_of_p_unlike_the_state_is_refused(p):
    with pytest.raises(ArgumentError, match=r"^Zoneout: p is no pytree as the state(.|\n)*expected \(\*, \*\)"):
        nn.Recurrent(nn.Zoneout(CELLS["LSTM"](), p))(tg.ones(2, 1, N, dtype="float64"))


def test_names_that_are_no_parameters_and_what_is_no_cell_are_refused():
    for names in [("weight_ho",), ("weight_hh", "norm.weight"), ("training",), "weight_hh"]:
        with pytest.raises(ArgumentError, match=r"^WeightDropout: LSTMCell has no parameter(.|\n)*'weight_hh'"):
            nn.WeightDropout(CELLS["LSTM"](), 0.5, names)
    for wrap in (nn.Zoneout, nn.VariationalDropout, nn.WeightDropout, nn.LearnedState):
        for thing in (nn.LSTM(2, 3), nn.Linear(2, 3), None):
            with pytest.raises(ArgumentError, match=f"^{wrap.__name__}: this goes around a cell"):
                wrap(thing)
