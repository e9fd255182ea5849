"""Cells, and what runs them over time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.pytree import map_leaves
from tinygrad_rnn.errors import ArgumentError, ShapeError

nn = tg.nn

CELLS = {
    "tanh": lambda i, h, **k: nn.RNNCell(i, h, **k),
    "relu": lambda i, h, **k: nn.RNNCell(i, h, nonlinearity="relu", **k),
    "lstm": lambda i, h, **k: nn.LSTMCell(i, h, **k),
    "gru": lambda i, h, **k: nn.GRUCell(i, h, **k),
}
LAYERS = {
    "tanh": lambda *a, **k: nn.RNN(*a, **k),
    "relu": lambda *a, nonlinearity="relu", **k: nn.RNN(*a, nonlinearity=nonlinearity, **k),
    "lstm": lambda *a, **k: nn.LSTM(*a, **k),
    "gru": lambda *a, **k: nn.GRU(*a, **k),
}
every_cell = pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


class Inner(NamedTuple):
    fast: Any
    slow: Any


class Memory(NamedTuple):
    inner: Inner
    count: Any


class Nested(nn.Cell):
    """A user's own cell, its state a nest of named and plain tuples, one part of another width."""

    def __init__(self, dtype="float64"):
        self.mix = nn.Linear(3, 2, dtype=dtype)

    def initial_state(self, batch_size):
        return (
            Memory(Inner(self.zeros(batch_size, 2), self.zeros(batch_size, 2)), (self.zeros(batch_size, 1),)),
            self.zeros(batch_size, 2),
        )

    def step(self, x, state):
        memory, last = state
        fast = tg.tanh(self.mix(x) + last)
        slow = 0.9 * memory.inner.slow + 0.1 * fast
        (count,) = memory.count
        return fast * slow, (Memory(Inner(fast, slow), (count + 1.0,)), memory.inner.fast)


def leaves(nest):
    return [leaf for part in nest for leaf in leaves(part)] if isinstance(nest, (tuple, list)) else [nest]


def agree(a, b):
    for x, y in zip(leaves(a), leaves(b)):
        e = 1e-12 if x.dtype == np.float64 else 1e-6  # BLAS rounds by shape and layout
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=e, atol=e)
    assert len(leaves(a)) == len(leaves(b))


def by_hand(cell, x, state, reverse=False):
    outputs = {}
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        outputs[t], state = cell.step(x[t], state)
    return tg.stack([outputs[t] for t in range(len(x))]), state


def with_parameters(module, owners):
    """The module as a function of x, the state's leaves and its parameters; `owners` names where each parameter is."""

    def f(x, *rest):
        for (owner, name), parameter in zip(owners, rest):
            setattr(owner, name, parameter)
        found = module(x, tuple(rest[len(owners) :]) if len(rest) > len(owners) + 1 else rest[-1])
        return leaves(found)

    return f


# --- Cells ---


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_cells_by_gradcheck(make, bias):
    cell = make(2, 2, bias=bias, dtype="float64")
    owners = [(cell, name) for name, _ in cell.named_parameters()]
    x = tg.randn(2, 2, dtype="float64", requires_grad=True)
    parameters = [tg.tensor(p, requires_grad=True) for p in cell.parameters()]
    count = len(leaves(cell.initial_state(2)))
    states = [tg.randn(2, 2, dtype="float64", requires_grad=True) for _ in range(count)]
    f = with_parameters(cell, owners)
    assert tg.gradcheck(f, [x, *parameters, *states], atol=1e-7, rtol=1e-6)
    assert tg.gradgradcheck(f, [x, *parameters, *states], atol=1e-6, rtol=1e-5)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_cells_are_their_equations():
    rng = np.random.default_rng(1)
    x, h, c = (rng.standard_normal((4, 3)) for _ in range(3))
    for name, make in CELLS.items():
        cell = make(3, 3, dtype="float64")
        w = {n: p.numpy() for n, p in cell.named_parameters()}
        u, v = x @ w["weight_ih"].T + w["bias_ih"], h @ w["weight_hh"].T + w["bias_hh"]
        part = [slice(3 * k, 3 * k + 3) for k in range(4)]
        if name == "lstm":
            i, f, g, o = ((u + v)[:, p] for p in part)
            memory = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            expected = [sigmoid(o) * np.tanh(memory), memory]
            got = cell(tg.tensor(x), (tg.tensor(h), tg.tensor(c)))
            assert isinstance(got, nn.LSTMState)
        elif name == "gru":
            r, z = sigmoid(u + v)[:, part[0]], sigmoid(u + v)[:, part[1]]
            expected = [(1 - z) * np.tanh(u[:, part[2]] + r * v[:, part[2]]) + z * h]
            got = (cell(tg.tensor(x), tg.tensor(h)),)
        else:
            expected = [np.tanh(u + v) if name == "tanh" else np.maximum(u + v, 0)]
            got = (cell(tg.tensor(x), tg.tensor(h)),)
        for a, b in zip(got, expected):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-12, atol=1e-14)


@every_cell
def test_cells_unbatched_without_a_state_and_with_arrays(make):
    cell, x = make(3, 2), np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    whole = cell(tg.tensor(x))
    agree(whole, cell(x, cell.initial_state(4)))
    state = map_leaves(lambda t: t[1], whole)
    agree(map_leaves(lambda t: t[1], cell(x, whole)), cell(tg.tensor(x[1]), state))
    agree(cell(x[1], state), cell(x[1], map_leaves(lambda t: t.numpy(), state)))
    assert all(leaf.shape == (2,) for leaf in leaves(cell(x[1])))


@every_cell
def test_cells_refuse_what_does_not_fit(make):
    cell = make(3, 2)
    two = len(leaves(cell.initial_state(1))) == 2
    with pytest.raises(ShapeError, match="number of features"):
        cell(tg.zeros(4, 2))
    for shape in [(), (2, 4, 3)]:
        with pytest.raises(ShapeError, match="Cell: x is one step"):
            cell(tg.zeros(shape))
    for wrong in [tg.zeros(1, 2), tg.zeros(4, 3), tg.zeros(2), (tg.zeros(4, 2),) * 3]:
        with pytest.raises(ShapeError, match="Cell: the state does not fit"):
            cell(tg.zeros(4, 3), (wrong, tg.zeros(4, 2)) if two else wrong)
    for sizes in [(0, 2), (2, 0), (-1, 2)]:
        with pytest.raises(ArgumentError, match="at least 1"):
            make(*sizes)


def test_only_two_nonlinearities():
    for refuse in (lambda: nn.RNNCell(2, 2, nonlinearity="sin"), lambda: nn.RNN(2, 2, nonlinearity="sin")):
        with pytest.raises(ArgumentError, match=r"tanh \| relu"):
            refuse()


def test_a_cell_without_a_step_says_so_and_a_user_s_cell_prints():
    with pytest.raises(TypeError, match="does not define step"):
        nn.Cell().step(None, None)
    assert "Nested" in repr(nn.Recurrent(Nested()))


def test_zeros_have_the_parameters_dtype():
    cell = Nested("float32")
    assert cell.zeros(3, 2).dtype == np.float32
    assert cell.astype("float64").zeros(3, 2).dtype == np.float64
    assert nn.Cell().zeros(3, 2).shape == (3, 2)


# --- Over time ---


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([*CELLS.values(), lambda i, h, dtype: Nested(dtype)]),
    steps=st.integers(1, 6),
    batch=st.integers(0, 3),
    reverse=st.booleans(),
    batch_first=st.booleans(),
    given_state=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_recurrent_is_the_loop_by_hand(make, steps, batch, reverse, batch_first, given_state, seed):
    rng = np.random.default_rng(seed)
    cell = make(3, 2, dtype="float64")
    layer = nn.Recurrent(cell, batch_first=batch_first, reverse=reverse)
    x = tg.randn(steps, batch, 3, dtype="float64", rng=rng)
    zero = cell.initial_state(batch)
    state = map_leaves(lambda t: tg.randn(t.shape, dtype="float64", rng=rng), zero) if given_state else None
    expected, final = by_hand(cell, x, zero if state is None else state, reverse)
    outputs, got = layer(x.permute_dims((1, 0, 2)) if batch_first else x, state)
    agree(outputs.permute_dims((1, 0, 2)) if batch_first else outputs, expected)
    agree(got, final)
    assert outputs.shape == ((batch, steps, 2) if batch_first else (steps, batch, 2))
    if batch:
        one = map_leaves(lambda t: t[0], state) if given_state else None
        alone, end = layer(x[:, 0], one)
        agree([alone, end], [expected[:, 0], map_leaves(lambda t: t[0], final)])


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_through_time_by_gradcheck(reverse):
    layer = nn.Recurrent(Nested(), reverse=reverse)
    x = tg.randn(3, 2, 3, dtype="float64", requires_grad=True)
    h = tg.randn(2, 2, dtype="float64", requires_grad=True)
    weight = tg.tensor(layer.cell.mix.weight, requires_grad=True)
    zeros = layer.cell.initial_state(2)

    def f(x, h, weight):
        layer.cell.mix.weight = weight
        return leaves(layer(x, (zeros[0], h)))

    assert tg.gradcheck(f, [x, h, weight], atol=1e-7, rtol=1e-6)
    assert tg.gradgradcheck(f, [x, h, weight], atol=1e-6, rtol=1e-5)


def test_the_state_comes_back_in_the_nest_of_the_cell_however_it_was_given():
    layer = nn.Recurrent(Nested())
    x = tg.randn(3, 2, 3, dtype="float64")
    z = [tg.randn(2, n, dtype="float64") for n in (2, 2, 1, 2)]
    named = (Memory(Inner(z[0], z[1]), (z[2],)), z[3])
    for given_state in [named, (((z[0], z[1]), (z[2],)), z[3]), [[[z[0], z[1]], [z[2]]], z[3]]]:
        outputs, (memory, last) = layer(x, given_state)
        agree(outputs, layer(x, named)[0])
        assert isinstance(memory, Memory)
        assert isinstance(memory.inner, Inner)
        assert type(memory.count) is tuple
        assert last.shape == (2, 2)
    alone = layer(x[:, 0])[1]
    assert isinstance(alone[0].inner, Inner)
    assert alone[0].count[0].shape == (1,)


@pytest.mark.parametrize("form", [tuple, list, lambda parts: nn.LSTMState(*parts)])
@pytest.mark.parametrize("unbatched", [False, True])
def test_an_lstm_takes_its_state_as_tuple_list_or_arrays(form, unbatched):
    layer = nn.LSTM(3, 2, 2)
    x, shape = (tg.randn(4, 3), (2, 2)) if unbatched else (tg.randn(4, 5, 3), (2, 5, 2))
    h, c = tg.randn(shape), tg.randn(shape)
    expected = layer(x, (h, c))
    agree(expected, layer(x, form([h, c])))
    agree(expected, layer(x, form([h.numpy(), c.numpy()])))
    assert isinstance(expected[1], nn.LSTMState)
    assert expected[1].hidden.shape == shape


class Failing(nn.RNNCell):
    def step(self, x, state):
        self.calls = getattr(self, "calls", 0) + 1
        return super().step(x if self.calls < 3 else x[:, :1], state)


def test_errors_inside_a_step_name_cell_layer_direction_and_step():
    with pytest.raises(ShapeError, match=r"linear(.|\n)*in Failing layer 0 step 2$"):
        nn.Recurrent(Failing(3, 3))(tg.zeros(5, 2, 3))
    with pytest.raises(ShapeError, match=r"in Failing layer 0 reverse step 2$"):
        nn.Recurrent(Failing(3, 3), reverse=True)(tg.zeros(5, 2, 3))
    stacked = nn.Stacked([nn.Recurrent(nn.GRUCell(3, 3)), nn.Recurrent(Failing(3, 3))])
    with pytest.raises(ShapeError, match=r"in Failing layer 1 step 2$") as caught:
        stacked(tg.zeros(5, 2, 3))
    assert "\n" not in caught.value.one_line
    with tg.Tape() as tape:
        tg.tanh(tg.ones(1))
    assert tape.nodes[0].place is None, "an error leaves no place behind"


@every_layer
def test_layers_refuse_what_does_not_fit(make):
    layer = make(3, 2, 2)
    two = isinstance(layer, nn.LSTM)
    cases = [
        (tg.zeros(4, 5, 2), None, "number of features"),
        (tg.zeros(4, 2), None, "number of features"),
        (tg.zeros(3), None, "is a sequence"),
        (tg.zeros(1, 4, 5, 3), None, "is a sequence"),
        (tg.zeros(4, 5, 3), (1, 5, 2), "state does not fit"),
        (tg.zeros(4, 5, 3), (2, 1, 2), "state does not fit"),
        (tg.zeros(4, 5, 3), (2, 5, 3), "state does not fit"),
        (tg.zeros(4, 5, 3), (2, 2), "state does not fit"),
        (tg.zeros(4, 3), (2, 1, 2), "state does not fit"),
    ]
    for x, shape, says in cases:
        state = None if shape is None else (tg.zeros(2, 5, 2), tg.zeros(shape)) if two else tg.zeros(shape)
        with pytest.raises(ShapeError, match=says):
            layer(x, state)
    with pytest.raises(ShapeError, match="state does not fit"):
        layer(tg.zeros(4, 5, 3), tg.zeros(2, 5, 2) if two else (tg.zeros(2, 5, 2),) * 2)
    with pytest.raises(ArgumentError, match="num_layers is a whole number, at least 1"):
        make(3, 2, 0)


def test_recurrent_and_stacked_refuse_what_does_not_fit():
    layer = nn.Recurrent(nn.RNNCell(3, 2))
    for shape in [(3,), (1, 2, 3, 4), ()]:
        with pytest.raises(ShapeError, match="is a sequence"):
            layer(tg.zeros(shape))
    with pytest.raises(ShapeError, match=r"number of features(.|\n)*in RNNCell layer 0$"):
        layer(tg.zeros(4, 5, 2))
    with pytest.raises(ShapeError, match="one state for each layer"):
        nn.Stacked([layer])(tg.zeros(4, 5, 3), [None, None])


@every_layer
@pytest.mark.parametrize("batch_first", [False, True])
def test_layers_are_cells_one_above_another(make, batch_first):
    layer = make(3, 2, 3, batch_first=batch_first, dtype="float64")
    stacked = nn.Stacked([nn.Recurrent(cell, batch_first=batch_first) for cell in layer.cells])
    x = tg.randn(4, 5, 3, dtype="float64")
    outputs, state = layer(x)
    expected, states = stacked(x)
    agree(outputs, expected)
    for i in range(3):
        agree(map_leaves(lambda part, i=i: part[i], state), states[i])
    again = stacked(x, states)
    agree(layer(x, state)[0], again[0])


@every_layer
def test_parameter_names_are_pytorch_s_and_attributes_lead_to_them(make):
    layer = make(3, 2, 2)
    names = [f"{p}_{of}_l{i}" for i in range(2) for p in ("weight", "bias") for of in ("ih", "hh")]
    assert [name for name, _ in layer.named_parameters()] == names
    assert [name for name, _ in make(3, 2, 1, bias=False).named_parameters()] == ["weight_ih_l0", "weight_hh_l0"]
    assert layer.weight_hh_l1 is layer.cells[1].weight_hh
    with pytest.raises(AttributeError, match="weight_hh_l2"):
        _ = layer.weight_hh_l2
    x = tg.randn(3, 1, 3)
    layer.weight_ih_l0 = nn.Parameter(tg.zeros(layer.weight_ih_l0.shape))
    same_everywhere = layer(x)[0]
    agree(same_everywhere, layer(tg.zeros(3, 1, 3))[0])
    assert dict(layer.named_parameters())["weight_ih_l0"] is layer.cells[0].weight_ih


def test_dropout_acts_between_layers_only_and_is_drawn_from_rng():
    layer = nn.RNN(2, 50, 2, dropout=1.0)
    bottom = layer.cells[1]
    x = tg.randn(4, 3, 2)
    alone = nn.Recurrent(bottom)(tg.zeros(4, 3, 50))[0]
    agree(layer(x)[0], alone)
    agree(layer(x)[1][0], nn.Recurrent(layer.cells[0])(x)[1])  # neither its input nor its state is dropped
    runs = [nn.GRU(2, 8, 2, dropout=0.5, rng=np.random.default_rng(2))(x)[0] for _ in range(2)]
    agree(*runs)
    with pytest.warns(UserWarning, match="no effect"):
        nn.LSTM(2, 3, dropout=0.5)


def test_float32_stays_float32():
    for make in LAYERS.values():
        layer = make(3, 2, 2)
        outputs, state = layer(tg.randn(4, 5, 3))
        outputs.sum().backward()
        every = [outputs, *leaves(state), *[p.grad for p in layer.parameters()]]
        assert {t.dtype for t in every} == {np.dtype(np.float32)}


def test_a_long_sequence_neither_recurses_nor_is_kept_by_the_state():
    layer = nn.GRU(1, 2)
    _, state = layer(tg.randn(1500, 1, 1))
    state.sum().backward()
    assert np.isfinite(layer.weight_hh_l0.grad.numpy()).all()
    detached = state.detach()
    assert detached.node is None
    assert layer(tg.randn(2, 1, 1), detached)[0].shape == (2, 1, 2)
