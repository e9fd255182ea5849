"""The fused engine agrees with the eager one: values, gradients, second derivatives."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.autograd.pytree import leaves, map_leaves

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")

CELLS = {
    "rnn": lambda n, h, dtype: tg.nn.RNNCell(n, h, dtype=dtype),
    "relu rnn": lambda n, h, dtype: tg.nn.RNNCell(n, h, nonlinearity="relu", bias=False, dtype=dtype),
    "lstm": lambda n, h, dtype: tg.nn.LSTMCell(n, h, dtype=dtype),
    "projected": lambda n, h, dtype: tg.nn.ProjectedLSTMCell(n, h, max(h // 2, 1), dtype=dtype),
    "peephole": lambda n, h, dtype: tg.nn.PeepholeLSTMCell(n, h, dtype=dtype),
    "coupled": lambda n, h, dtype: tg.nn.CoupledLSTMCell(n, h, dtype=dtype),
    "layer norm": lambda n, h, dtype: tg.nn.LayerNormLSTMCell(n, h, dtype=dtype),
    "gru": lambda n, h, dtype: tg.nn.GRUCell(n, h, dtype=dtype),
    "gru before": lambda n, h, dtype: tg.nn.GRUCell(n, h, reset_after=False, dtype=dtype),
    "minimal": lambda n, h, dtype: tg.nn.MinimalGatedCell(n, h, dtype=dtype),
    "independent": lambda n, h, dtype: tg.nn.IndRNNCell(n, h, dtype=dtype),
    "learned": lambda n, h, dtype: tg.nn.LearnedState(tg.nn.GRUCell(n, h, dtype=dtype)),
}
SIZES = [(5, 3, 4, 6), (1, 1, 3, 2), (9, 20, 5, 33), (30, 2, 3, 5)]


def tensor(seed, *shape, dtype="float64"):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype, requires_grad=True)


def weighted(nest):
    """A number that depends on every element of a nest."""
    parts = list(leaves(nest))
    return sum(
        (part * tg.tensor(np.random.default_rng(i).standard_normal(part.shape), dtype=part.dtype)).sum()
        for i, part in enumerate(parts)
    )


def agree(found, expected, tolerance=1e-10):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.max(np.abs(a.numpy() - b.numpy()), initial=0.0) <= tolerance * np.max(
            np.abs(b.numpy()), initial=1e-300
        )


def both(run, parameters, tolerance=1e-10):
    """run(engine) gives outputs; values and gradients of both engines agree."""
    made = []
    for engine in ("fused", "eager"):
        outputs = run(engine)
        assert [y.requires_grad for y in leaves(outputs)]
        made.append([*leaves(outputs), *tg.grad(weighted(outputs), parameters, allow_unused=True)])
        assert all(g is not None for g in made[-1])
    agree(*made, tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_agrees(name, size, reverse):
    steps, batch_size, inputs, hidden = size
    tg.manual_seed(0)
    cell = CELLS[name](inputs, hidden, "float64")
    x = tensor(1, steps, batch_size, inputs)
    state = map_leaves(lambda part: tensor(2, *part.shape), cell.initial_state(batch_size))
    both(
        lambda engine: tg.nn.Recurrent(cell, reverse=reverse, engine=engine)(x, state),
        [x, *leaves(state), *(p for n, p in cell.named_parameters() if not n.startswith("initial"))],
        1e-10 if hidden > 2 or name != "layer norm" else 1e-7,  # over two numbers, deviations divide by nearly nothing
    )


@pytest.mark.parametrize("name", CELLS)
def test_float32_agrees(name):
    tg.manual_seed(0)
    cell, x = CELLS[name](7, 20, "float32"), tensor(1, 12, 9, 7, dtype="float32")
    both(lambda engine: tg.nn.Recurrent(cell, engine=engine)(x)[0], [x, *cell.parameters()], 1e-4)


@pytest.mark.parametrize("name", ["lstm", "gru before", "layer norm", "learned"])
def test_lengths_agree(name):
    tg.manual_seed(0)
    cell, x = CELLS[name](4, 6, "float64"), tensor(1, 9, 5, 4)
    lengths = np.array([3, 9, 0, 7, 9])
    for reverse in (False, True):
        both(
            lambda engine, reverse=reverse: tg.nn.Recurrent(cell, reverse=reverse, engine=engine)(x, lengths=lengths),
            [x, *cell.parameters()],
        )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "lengths", [[3, 9, 0, 7, 9, 1], [9] * 6, [0, 0, 0, 0, 0, 4], [1, 2, 3, 4, 5, 6], [5, 5, 5, 2, 2, 2]]
)
def test_any_lengths_are_one_run(lengths, reverse):
    """Values, gradients to first and second order; padding is never read; other lengths trace nothing."""
    tg.manual_seed(0)
    cell, made = tg.nn.Zoneout(CELLS["lstm"](4, 6, "float64"), 0.3), {}
    state = map_leaves(lambda part: tensor(2, *part.shape), cell.initial_state(6))
    for engine in ("fused", "eager"):
        layer = tg.nn.Recurrent(cell, reverse=reverse, engine=engine)
        tg.manual_seed(3)
        made[engine] = found = []
        for those in ([2, 2, 9, 1, 0, 8], lengths):
            padded = np.array(those) <= np.arange(9)[:, None]
            x = tensor(1, 9, 6, 4).numpy().copy()
            x[padded] = np.nan
            x = tg.tensor(x, requires_grad=True)
            outputs, given = layer(x, state, lengths=those), [x, *leaves(state), *cell.parameters()]
            assert np.all(outputs[0].numpy()[padded] == 0)
            first = tg.grad(weighted(outputs), given, create_graph=True)
            assert np.all(first[0].numpy()[padded] == 0)
            found += [*leaves(outputs), *first, *tg.grad(sum((g * g).sum() for g in first), given)]
        assert engine == "eager" or len(layer._known.programs) == 1
    agree(made["fused"], made["eager"])


@pytest.mark.parametrize("name", ["lstm", "minimal", "layer norm"])
def test_second_derivatives_agree(name):
    tg.manual_seed(0)
    cell, x = CELLS[name](3, 4, "float64"), tensor(1, 4, 2, 3)
    made = []
    for engine in ("fused", "eager"):
        outputs, _ = tg.nn.Recurrent(cell, engine=engine)(x)
        first = tg.grad(weighted(outputs), [x, *cell.parameters()], create_graph=True)
        made.append(tg.grad(sum((g * g).sum() for g in first), [x, *cell.parameters()]))
    agree(*made)


def test_layers_in_both_directions_agree():
    x = tensor(1, 10, 4, 3)
    layers = {
        engine: tg.nn.LSTM(3, 5, 2, bidirectional=True, dtype="float64", rng=np.random.default_rng(0), engine=engine)
        for engine in ("fused", "eager")
    }
    layers["fused"].load_state_dict(layers["eager"].state_dict())
    made = []
    for layer in layers.values():
        outputs = layer(x)
        made.append([*leaves(outputs), *tg.grad(weighted(outputs), [x, *layer.parameters()])])
    agree(*made)


RANDOM = {
    "zoneout": lambda cell: tg.nn.Zoneout(cell, 0.3),
    "zoneout, a generator": lambda cell: tg.nn.Zoneout(cell, 0.3, np.random.default_rng(5)),
    "variational": lambda cell: tg.nn.VariationalDropout(cell, 0.2, 0.4),
    "weights": lambda cell: tg.nn.WeightDropout(cell, 0.5),
    "all of them": lambda cell: tg.nn.Zoneout(tg.nn.VariationalDropout(tg.nn.WeightDropout(cell, 0.5), 0.2, 0.4), 0.3),
    "always": lambda cell: tg.nn.Zoneout(tg.nn.VariationalDropout(cell, 1.0, 0.0), 1.0),
}


class NoisyCell(tg.nn.Cell):
    """Masks at every step: of the input, of the state, and one used twice; from two generators."""

    def __init__(self, n, h, dtype):
        self.input_size, self.hidden_size, self.rng = n, h, np.random.default_rng(1)
        self.linear = tg.nn.Linear(n, h, dtype=dtype)

    def initial_state(self, batch_size):
        return tg.zeros(batch_size, self.hidden_size, dtype="float64")

    def step(self, x, state):
        x = tg.dropout(x, 0.3, self.training)
        masked = tg.dropout(state, 0.5, self.training, self.rng)
        new = tg.tanh(self.linear(x) + masked * masked + tg.dropout(state * 0.1, 0.1, self.training))
        return new + masked, new


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("cell_name", ["lstm", "gru"])
def test_random_masks_are_those_of_single_steps(cell_name, name, reverse):
    x = tensor(1, 11, 5, 4)
    layers = {}
    for engine in ("fused", "eager"):
        tg.manual_seed(0)
        layers[engine] = tg.nn.Recurrent(
            RANDOM[name](CELLS[cell_name](4, 6, "float64")), reverse=reverse, engine=engine
        )
    made = {engine: [] for engine in layers}
    for engine, layer in layers.items():
        tg.manual_seed(7)
        for _ in range(3):  # another sequence has other masks, the same program
            outputs = layer(x)
            made[engine] += [*leaves(outputs), *tg.grad(weighted(outputs), [x, *layer.parameters()])]
        made[engine].append(tg.rand(3))  # both have drawn equally often
    agree(made["fused"], made["eager"])
    programs = layers["fused"]._known.programs
    assert len(programs) == 1
    assert name == "always" or not np.array_equal(
        made["fused"][0].numpy(), made["fused"][len(made["fused"]) // 3].numpy()
    )


def test_masks_of_a_users_own_cell_and_their_second_derivative():
    x, made = tensor(1, 9, 3, 4), []
    for engine in ("fused", "eager"):
        tg.manual_seed(0)
        cell = NoisyCell(4, 6, "float64")
        layer = tg.nn.Recurrent(cell, engine=engine)
        outputs, _ = layer(x)
        first = tg.grad(weighted(outputs), [x, *cell.parameters()], create_graph=True)
        made.append([outputs, *first, *tg.grad(sum((g * g).sum() for g in first), [x, *cell.parameters()])])
    agree(*made)


def test_parameters_that_change_between_runs():
    x = tensor(1, 9, 3, 4)

    class Scaled(tg.nn.Cell):
        def __init__(self):
            self.input_size = self.hidden_size = 4
            self.scale, self.weight = tg.nn.Parameter(tensor(2, 4).detach()), tg.nn.Parameter(tensor(3, 4, 4).detach())

        def step(self, x, state):
            new = tg.tanh((x + state * tg.exp(self.scale)) @ (self.weight * self.scale) * self.scale)
            return new, new

    cell, made = Scaled(), {"fused": [], "eager": []}
    for engine, found in made.items():
        layer = tg.nn.Recurrent(cell, engine=engine)
        for turn in range(3):
            cell.scale, cell.weight = (
                tg.nn.Parameter(tensor(turn, 4).detach()),
                tg.nn.Parameter(tensor(9, 4, 4).detach()),
            )
            with tg.no_grad():
                cell.weight *= 0.5
            outputs = layer(x)
            found += [*leaves(outputs), *tg.grad(weighted(outputs), [x, *cell.parameters()])]
    agree(made["fused"], made["eager"])


def test_what_a_tensor_is_made_of_counts_once():
    """A tensor from outside, what it is made of, and what the step makes of both: each path once."""
    raw = tensor(2, 4)
    made = []
    x = tensor(1, 9, 3, 4)
    for engine in ("fused", "eager"):
        derived = tg.exp(raw) * 0.5

        def step(h, x, derived=derived):
            h = tg.tanh(x + h * derived + raw * tg.sigmoid(derived) + tg.square(raw))
            return h, h * raw

        outputs = tg.scan(step, tg.zeros(3, 4, dtype="float64"), x, engine=engine)
        made.append([*leaves(outputs), *tg.grad(weighted(outputs), [x, raw, derived])])
    agree(*made)


def test_hooks_see_gradients_once_and_not_while_compiling():
    seen = []
    weight = tensor(2, 4, 4)
    weight.register_hook(lambda g: seen.append(g.shape))

    def step(h, x):
        h = tg.tanh(x + h @ weight)
        return h, h

    ys = tg.scan(step, tg.zeros(3, 4, dtype="float64"), tensor(1, 9, 3, 4), engine="fused")[1]
    assert not seen
    ys.sum().backward()
    assert seen == [(4, 4)]


# --- What a step may do ---

W = tensor(5, 4, 4)
B = tensor(6, 4)


def twice(h, x):
    return tg.tanh(h @ W + (x @ W) @ W), h


def closed_over(h, x):
    return tg.tanh(h @ tg.tanh(W) + B * x), h + B


def unused(carry, x):
    return (tg.sigmoid(x @ W), carry[0] * 2.0), carry[1]


def unchanged(carry, x):
    h, memory = carry
    return (tg.tanh(h @ W + memory + x), memory), h


def swapped(carry, x):
    return (carry[1] * 0.5, tg.tanh(carry[0] + x @ W)), carry


def joined(h, x):
    return tg.tanh(tg.concat([x, h], 1) @ tg.concat([W, W * 0.5], 0) + B), h[:, 1:3]


def normal(h, x):
    z = tg.concat([h, x], -1)
    z = (z - z.mean(-1, keepdims=True)) / (z.max(1, keepdims=True) - z.min(1, keepdims=True) + 1.0)
    return tg.tanh(z[:, 2:6] + x.sum(1, keepdims=True) * 0.3), z


def branching(h, x):
    return tg.where(x > 0.0, tg.tanh(h @ W), tg.maximum(h, 0.37) * x), tg.where(h < x, h, 1.0)


def several(h, x):
    return tg.tanh(h.reshape(-1, 2, 2).reshape(-1, 4) + x), h.expand_dims(1) * x.reshape(-1, 1, 4)


STEPS = {
    "a parameter twice": (twice, "h"),
    "closed-over tensors": (closed_over, "h"),
    "a carry never used": (unused, "hh"),
    "a carry returned unchanged": (unchanged, "hh"),
    "a carry that changes place": (swapped, "hh"),
    "inputs side by side": (joined, "h"),
    "rows normalised": (normal, "h"),
    "conditions": (branching, "h"),
    "several axes": (several, "h"),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 11])
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("name", STEPS)
def test_every_step_agrees(name, batch_size, steps, reverse):
    step, nest = STEPS[name]
    init = [tensor(i, batch_size, 4) for i in range(len(nest))]
    x = tensor(9, steps, batch_size, 4)
    made = []
    for engine in ("fused", "eager"):
        outputs = tg.scan(step, tuple(init) if len(init) > 1 else init[0], x, reverse=reverse, engine=engine)
        found = tg.grad(weighted(outputs), [x, *init, W, B], allow_unused=True)
        made.append([*leaves(outputs), *[tg.zeros(1, dtype="float64") if g is None else g for g in found]])
    agree(*made)


def test_what_needs_no_gradient_gives_none():
    x, init = tg.ones(9, 2, 4, dtype="float64"), tg.zeros(2, 4, dtype="float64")
    for engine in ("fused", "eager"):
        carry, ys = tg.scan(lambda h, x: (tg.tanh(h + x), (h @ W, x * 2.0)), init, x, engine=engine)
        assert [carry.requires_grad, *[y.requires_grad for y in ys]] == [False, True, False], engine
        with tg.no_grad():
            carry, ys = tg.scan(twice, init, x, engine=engine)
        assert not carry.requires_grad and not ys.requires_grad


def test_a_program_is_made_anew_where_an_attribute_changes():
    cell = tg.nn.LSTMCell(3, 4, dtype="float64")
    fused, eager = (tg.nn.Recurrent(cell, engine=engine) for engine in ("fused", "eager"))
    x = tensor(1, 9, 2, 3)
    agree([fused(x)[0]], [eager(x)[0]])
    cell.weight_hh = tg.nn.Parameter(cell.weight_hh.detach() * 2.0)
    agree([fused(x)[0]], [eager(x)[0]])
    cell.bias_ih.requires_grad = False
    cell.bias_hh = None
    agree([fused(x)[0]], [eager(x)[0]])
    with tg.no_grad():
        cell.weight_ih.copy_(cell.weight_ih * 0.5)  # the memory is read at each run
    agree([fused(x)[0]], [eager(x)[0]])
