"""Whole numbers inside a fused scan: symbols drawn at each step and looked up again, places, truth values."""

from __future__ import annotations

import numpy as np
import pytest
from test_fused import tensor

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.autograd.pytree import leaves
from tinygrad_rnn.errors import ArgumentError, FusionError
from tinygrad_rnn.kernels import random as draw
from tinygrad_rnn.ops.reduce import kth

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")

SYMBOLS = 7


class Writer:
    """A cell, a table and scores, which write on from a symbol."""

    def __init__(self, cell, dtype, temperature=1.0, rng=None, top_k=None):
        self.cell = cell(4, 6, dtype=dtype, rng=np.random.default_rng(0))
        self.table = tensor(1, SYMBOLS, 4, dtype=dtype).detach()
        self.scores = tensor(2, 6, SYMBOLS, dtype=dtype)
        self.temperature, self.rng, self.top_k = temperature, rng, top_k

    def __call__(self, carry, _):
        symbol, state = carry
        output, state = self.cell.step(tg.embedding(self.table, symbol), state)
        symbol = tg.categorical(output @ self.scores, self.temperature, self.top_k, self.rng)
        return (symbol, state), (symbol, output)


def written(engine, cell, dtype, batch_size, temperature, steps=40, top_k=None):
    writer = Writer(cell, dtype, temperature, np.random.default_rng(5), top_k)
    first = tg.tensor(np.arange(batch_size) % SYMBOLS)
    with tg.no_grad():
        state = writer.cell.initial_state(batch_size)
        return list(leaves(tg.scan(writer, (first, state), tg.arange(steps), engine=engine)))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("batch_size", [1, 5, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", [tg.nn.LSTMCell, tg.nn.GRUCell, tg.nn.RNNCell])
def test_both_engines_write_the_same(cell, dtype, batch_size, temperature):
    fused, eager = (written(engine, cell, dtype, batch_size, temperature) for engine in ("fused", "eager"))
    for one, other in zip(fused, eager):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert np.allclose(one.numpy(), other.numpy(), atol=1e-4 if dtype == "float32" else 1e-11, rtol=0.0)
    symbols = fused[-2].numpy()
    assert symbols.dtype == np.int64 and symbols.min() >= 0 and symbols.max() < SYMBOLS
    assert temperature == 0.0 or len(np.unique(symbols)) > 4


@pytest.mark.parametrize("top_k", [1, 2, 3, SYMBOLS, SYMBOLS + 1])
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_engines_draw_among_the_largest(batch_size, top_k, dtype):
    fused, eager = (written(e, tg.nn.GRUCell, dtype, batch_size, 2.0, top_k=top_k) for e in ("fused", "eager"))
    for one, other in zip(fused, eager):
        assert np.allclose(one.numpy(), other.numpy(), atol=1e-4 if dtype == "float32" else 1e-11, rtol=0.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_the_kth_largest_of_a_row_whatever_it_holds(k, dtype):
    """Equal numbers, infinities and NaN too; and its gradient."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 4, 8)).round(1)
    x[1, 0, 2:5], x[2, 0], x[3, 1, ::2], x[4, 2, 1], x[5, 3, :3] = 0.5, 0.0, -np.inf, np.inf, np.nan
    x[6, 1], weights = -np.inf, rng.standard_normal((9, 4, 1))
    found = {}
    for engine in ("fused", "eager"):
        given = tg.tensor(x, dtype=dtype, requires_grad=True)
        _, ys = tg.scan(lambda h, x: (h, kth(x, k) + h), tg.zeros(4, 1, dtype=dtype), given, engine=engine)
        found[engine] = ys.numpy(), tg.grad(ys, given, tg.tensor(weights, dtype=dtype)).numpy()
    for one, other in zip(*found.values()):
        np.testing.assert_allclose(one, other, atol=1e-12 if dtype == "float64" else 1e-6, rtol=0.0)


def test_gradients_go_through_what_is_not_whole():
    gradients = {}
    for engine in ("fused", "eager"):
        writer = Writer(tg.nn.GRUCell, "float64", rng=np.random.default_rng(5))
        state = tensor(3, 2, 6)
        _, (_, outputs) = tg.scan(writer, (tg.tensor([1, 4]), state), tg.arange(12), engine=engine)
        gradients[engine] = tg.grad((outputs * outputs).sum(), [state, writer.scores], allow_unused=True)
        assert gradients[engine][1] is None  # a drawn symbol passes none on
    assert np.allclose(gradients["fused"][0].numpy(), gradients["eager"][0].numpy(), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_draws_without_compiled_loops(dtype):
    keys = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    made, reference = np.empty((4, 1000), dtype), np.empty((4, 1000), dtype)
    draw.gumbels(keys, made)
    draw.gumbels_reference(keys, reference)
    assert np.allclose(made, reference, rtol=0.0, atol=1e-6 if dtype == "float32" else 1e-13)


def test_noise_is_standard_gumbel():
    noise = np.empty((10, 10000))
    draw.gumbels(np.arange(10, dtype=np.uint64), noise)
    for x in (-1.5, -0.5, 0.0, 0.5, 1.5, 4.0):
        share = np.exp(-np.exp(-x))
        assert abs((noise <= x).mean() - share) < 5.0 * np.sqrt(share * (1.0 - share) / noise.size)


def test_places_agree_with_numpy():
    x = np.random.default_rng(0).integers(0, 3, (9, 4, 5)).astype(float)  # many are equal: the first counts
    x[3, 1, 2] = x[3, 1, 4] = np.nan
    x[4, 2] = -np.inf
    x[5, 0, 3] = np.inf

    def places(count, x):
        return count + 1.0, (tg.argmax(x, -1), tg.argmax(x, 1, keepdims=True))

    _, (one, kept) = tg.scan(places, tg.zeros(4, dtype="float64"), tg.tensor(x), engine="fused")
    assert one.dtype == kept.dtype == np.int64
    assert np.array_equal(one.numpy(), np.argmax(x, -1))
    assert np.array_equal(kept.numpy(), np.argmax(x, -1, keepdims=True))


def test_truth_values_stay_what_they_are():
    def above(h, x):
        return tg.tanh(h + x), h > x

    x, init = tensor(1, 9, 3, 4), tensor(2, 3, 4)
    fused, eager = (tg.scan(above, init, x, engine=engine)[1] for engine in ("fused", "eager"))
    assert fused.dtype == eager.dtype == np.bool_
    assert np.array_equal(fused.numpy(), eager.numpy())


@pytest.mark.parametrize("count", [1, 5, 300])
@pytest.mark.parametrize("ways", ["it alone", "times a weight", "turned", "as linear"])
def test_what_is_looked_up_is_multiplied(ways, count):
    """With gradients the product is taken at each step; without, a small table may be multiplied before."""
    table, init, weight = tensor(1, count, 4).detach(), tensor(2, 3, 4), tensor(3, 4, 4)
    symbols = tg.tensor(np.random.default_rng(0).integers(0, count, (12, 3)), dtype="int32")

    def read(h, symbol):
        row = tg.embedding(table, symbol)
        if ways == "as linear":
            row = tg.linear(row, weight, weight[0])
        elif ways != "it alone":
            row = row @ (weight.T if ways == "turned" else weight)
        h = tg.tanh(0.5 * h + row + row * row)
        return h, h

    def run(engine):
        return list(leaves(tg.scan(read, init, symbols, engine=engine)))

    def gradients(engine):
        wanted = [init] if ways == "it alone" else [init, weight]
        return [*run(engine), *tg.grad(sum((y * y).sum() for y in run(engine)), wanted)]

    with tg.no_grad():
        alone = run("fused"), run("eager")
    for found, expected in (alone, (gradients("fused"), gradients("eager"))):
        for one, other in zip(found, expected):
            assert np.allclose(one.numpy(), other.numpy(), rtol=0.0, atol=1e-11)


def test_symbols_given_are_looked_up():
    table, init = tensor(1, SYMBOLS, 4), tensor(2, 3, 4)
    symbols = np.random.default_rng(0).integers(0, SYMBOLS, (12, 3))

    def read(h, symbol):
        return tg.tanh(0.5 * h + tg.embedding(table, symbol)), (h, symbol)

    def run(engine, symbols):
        return list(leaves(tg.scan(read, init, tg.tensor(symbols), engine=engine)))

    with tg.no_grad():
        for fused, eager in zip(run("fused", symbols), run("eager", symbols)):
            assert fused.dtype == eager.dtype
            assert np.allclose(fused.numpy(), eager.numpy(), rtol=0.0, atol=1e-12)
        for wrong in (SYMBOLS, -1):
            symbols[7, 1] = wrong
            for engine, error in (("fused", FusionError), ("auto", ArgumentError), ("eager", ArgumentError)):
                with pytest.raises(error, match=r"beyond the table|out of range"):
                    run(engine, symbols)
    with pytest.raises(FusionError, match="looks up, for all steps"):
        run("fused", symbols % SYMBOLS)


def counting(carry, x):
    return (carry[0] + 1, tg.tanh(carry[1])), carry[1]


def placed(carry, x):
    return carry, carry * x


def too_far(carry, _):
    symbol, h = carry
    return (tg.argmax(tg.concat([h, h], 1), 1), tg.tanh(h + tg.embedding(TABLE, symbol))), h


TABLE = tg.tensor(np.random.default_rng(0).standard_normal((5, 4)))

REFUSED = {
    "arithmetic on whole numbers": (counting, lambda: (tg.tensor([1, 2]), tensor(1, 2, 4)), "no more"),
    "the number of a step": (placed, lambda: tensor(1, 2, 4), "without a batch axis"),
    "a symbol beyond the table": (too_far, lambda: (tg.tensor([1, 2]), tensor(1, 2, 4)), "beyond the table"),
    "not exact": (
        lambda carry, _: (carry, carry[1]),
        lambda: (tg.tensor([1, 2**60 + 1]), tensor(1, 2, 4)),
        "not exact",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    step, init, says = REFUSED[name]
    with pytest.raises(FusionError, match=says):
        tg.scan(step, init(), tg.arange(12), engine="fused")
