"""Products that can be one are one, however a cell's weights are cut; and nothing else changes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_fused import both, tensor

import tinygrad_rnn as tg
from tinygrad_rnn import settings

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


def products(step, init, xs):
    """The products in the loops of the forward and of the backward run, as `explain` shows them."""
    text = str(tg.explain(lambda: tg.scan(step, init, xs)))
    assert ": fused" in text
    found = [re.findall(r"product  %\d+ = (.*?) +\d+", part) for part in text.split("6. merge, schedule")]
    return [len(part) for part in found], "\n".join([line for part in found for line in part])


def weights(count, *shape):
    return [
        tg.tensor(0.3 * np.random.default_rng(10 + i).standard_normal(shape), requires_grad=True) for i in range(count)
    ]


def separate(widths):
    """A cell with a matrix of its own for each use of x and of each of its states."""
    inputs, first, second = widths
    w, v = weights(2, inputs, first), weights(2, inputs, second)
    u, s = weights(4, first, first), weights(2, second, first)

    def step(carry, x):
        h, c = carry
        gate = tg.sigmoid(x @ w[0] + h @ u[0] + c @ s[0])
        new = tg.tanh(x @ w[1] + h @ u[1] + c @ s[1])
        kept = (gate * h) @ u[2] + (new * h) @ u[3]
        return (tg.tanh(gate * h + (1 - gate) * new + kept), tg.sin(c + x @ v[0]) * tg.sigmoid(x @ v[1])), new

    return step, [*w, *v, *u, *s]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "sizes", [(5, 3, 16, 16, 32), (9, 20, 5, 33, 17), (6, 1, 100, 7, 1), (1, 4, 2, 50, 3)], ids=str
)
def test_many_matrices_agree(sizes, reverse):
    """Widths that are a whole number of vectors, and others; all gradients."""
    steps, rows, *widths = sizes
    step, parameters = separate(widths)
    x, carry = tensor(1, steps, rows, widths[0]), (tensor(2, rows, widths[1]), tensor(3, rows, widths[2]))
    both(lambda engine: tg.scan(step, carry, x, reverse=reverse, engine=engine), [x, *carry, *parameters])


def test_they_share_a_product():
    step, _ = separate((4, 6, 3))
    (there, back), text = products(step, (tensor(2, 5, 6), tensor(3, 5, 3)), tensor(1, 9, 5, 4))
    # x @ two weights of each width, h @ two, c @ two, and the sum of two products of what the step has made
    assert there == 4, text
    assert len(re.findall(r"\[w\d+, w\d+, w\d+, w\d+\]", text)) == 1 and len(re.findall(r"\[w\d+; w\d+\]", text)) >= 1
    assert back == 4, text  # to what kept is made of; to h, to c, and to x


def test_an_lstm_in_parts_has_the_products_of_one_in_a_piece():
    counts = []
    for pieces in (1, 4):
        w, u = weights(pieces, 3, 20 // pieces), weights(pieces, 5, 20 // pieces)

        def step(carry, x, w=w, u=u):
            h, c = carry
            gates = tg.concat([x @ w + h @ u for w, u in zip(w, u)], -1)
            i, f, g, o = tg.split(gates, 4, -1)
            c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
            h = tg.sigmoid(o) * tg.tanh(c)
            return (h, c), h

        counts.append(products(step, (tensor(2, 4, 5), tensor(3, 4, 5)), tensor(1, 9, 4, 3))[0])
    assert counts[0] == counts[1] == [2, 2]


def test_what_waits_for_another_stays_apart():
    """h @ u is needed before (r h) @ v can start, and both are summed."""
    u, v = weights(2, 6, 6)

    def step(h, x):
        first = h @ u
        return tg.tanh(x + first + (tg.sigmoid(first) * h) @ v), h

    h, x = tensor(2, 5, 6), tensor(1, 9, 5, 6)
    assert products(step, h, x)[0][0] == 2
    both(lambda engine: tg.scan(step, h, x, engine=engine), [h, x, u, v])


def test_outputs_that_are_products():
    """Several of one operand, some of them outputs or the next carry themselves; one operand summed with itself."""
    a, b, c, d = weights(4, 6, 6)

    def step(h, x):
        return 0.1 * (h @ a) + 0.1 * (h @ b), (h @ c, tg.tanh(h @ d), x @ a + x @ b)

    h, x = tensor(2, 5, 6), tensor(1, 9, 5, 6)
    both(lambda engine: tg.scan(step, h, x, engine=engine), [h, x, a, b, c, d])


def test_rows_of_different_lengths():
    size = 7
    w, u = weights(3, size, size), weights(3, size, size)

    class Parts(tg.nn.Cell):
        input_size = hidden_size = size

        def initial_state(self, batch_size):
            return tg.zeros(batch_size, size, dtype="float64")

        def step(self, x, state):
            r, z, n = (x @ w + state @ u for w, u in zip(w, u))
            new = tg.tanh(n * tg.sigmoid(r))
            state = state + tg.sigmoid(z) * (new - state)
            return state, state

    x, lengths = tensor(1, 9, 5, size), np.array([3, 9, 0, 7, 9])
    both(lambda engine: tg.nn.Recurrent(Parts(), engine=engine)(x, lengths=lengths), [x, *w, *u])
