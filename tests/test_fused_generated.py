"""Random cells: fused equals eager, for equations that nobody chose."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

import tinygrad_rnn as tg
from tinygrad_rnn import settings as library
from tinygrad_rnn.autograd.pytree import leaves

pytestmark = pytest.mark.skipif(not library.jit_enabled, reason="nothing is compiled here")

#: Each cell is compiled, which takes a second or two: a few here, hundreds where they are asked for.
CELLS = int(os.environ.get("TINYGRAD_RNN_GENERATED_CELLS", "12"))

WIDTH = 5

UNARY = {
    "tanh": tg.tanh,
    "sigmoid": tg.sigmoid,
    "softplus": tg.softplus,
    "relu": tg.relu,
    "sin": tg.sin,
    "abs": tg.abs,
    "bump": lambda a: tg.exp(-(a * a)),
    "flat": lambda a: a / tg.sqrt(1.0 + a * a),
    "half": lambda a: 0.5 * a - 0.1,
    "reshaped": lambda a: tg.tanh(a.reshape(a.shape[0], 1, WIDTH)).reshape(a.shape),
    "centred": lambda a: a - a.mean(-1, keepdims=True),
    "softmax": lambda a: (
        tg.exp(a - a.max(-1, keepdims=True)) / tg.exp(a - a.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "norm": lambda a: a / tg.sqrt((a * a).mean(-1, keepdims=True) + 0.1),
    "stretched": lambda a: (a.sum(-1, keepdims=True) * 0.2).broadcast_to(a.shape),
}
BINARY = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "gated": lambda a, b: tg.sigmoid(a) * b,
    "larger": tg.maximum,
    "chosen": lambda a, b: tg.where(a > b, a * b, b),
    "crossed": lambda a, b: tg.concat([b[:, 2:], a[:, :2]], -1),
    "scored": lambda a, b: a * tg.tanh((a * b).sum(-1, keepdims=True)),
}
#: With a parameter of the shape given.
WITH = {
    "product": ((WIDTH, WIDTH), lambda a, b, w: a @ w),
    "linear": ((WIDTH, WIDTH), lambda a, b, w: tg.linear(a, w, w[0])),
    "joined": ((2 * WIDTH, WIDTH), lambda a, b, w: tg.concat([a, b], -1) @ w),
    "split": ((WIDTH, 2 * WIDTH), lambda a, b, w: tg.multiply(*tg.split(a @ w, 2, -1))),
    "peephole": ((WIDTH,), lambda a, b, w: a + w * b),
    "derived": ((WIDTH,), lambda a, b, w: a * tg.exp(w) + w),
}
NAMES = [*UNARY, *BINARY, *WITH]


@some.composite
def cells(draw):
    carries = draw(some.integers(1, 3))
    count = draw(some.integers(1, 25))
    lines = []
    for i in range(count):
        known = carries + 1 + i
        # Mostly what was made just now, so that long chains come about.
        places = some.one_of(some.integers(max(known - 3, 0), known - 1), some.integers(0, known - 1))
        lines.append((draw(some.sampled_from(NAMES)), draw(places), draw(places), draw(some.integers(0, 2))))
    total = carries + 1 + count
    last = some.integers(max(total - 6, 0), total - 1)
    return carries, lines, [draw(last) for _ in range(carries)], draw(some.integers(0, total - 1))


def step_of(cell, parameters, gain):
    """The step; contractive where `gain` is below 1, as every new state is so many times a tanh."""
    _, lines, new, output = cell

    def step(carry, x):
        values = [*carry, x]
        for name, i, j, number in lines:
            a, b = values[i], values[j]
            if name in UNARY:
                made = UNARY[name](a)
            elif name in BINARY:
                made = BINARY[name](a, b)
            else:
                made = WITH[name][1](a, b, parameters[name, number])
            values.append(made)
        return tuple(gain * tg.tanh(values[i]) for i in new), values[output]

    return step


class Case:
    """A cell with numbers for all that it takes, and what it makes of them."""

    def __init__(self, cell, steps, batch_size, reverse, seed, gain):
        rng = np.random.default_rng(seed)
        names = sorted({(name, number) for name, _, _, number in cell[1] if name in WITH})
        self.cell, self.reverse, self.gain, self.names = cell, reverse, gain, names
        self.arrays = [rng.standard_normal(WITH[name][0]) * 0.3 for name, _ in names]
        self.arrays += [rng.standard_normal((batch_size, WIDTH)) * 0.3 for _ in range(cell[0])]
        self.arrays.append(rng.standard_normal((steps, batch_size, WIDTH)))
        self.weights = [rng.standard_normal((batch_size, WIDTH)) for _ in range(cell[0])]
        self.weights.append(rng.standard_normal((steps, batch_size, WIDTH)))

    def made(self, engine, arrays=None):
        """The outputs, and the gradients of all that the cell takes."""
        given = [tg.tensor(a, requires_grad=True) for a in arrays or self.arrays]
        parameters, count = dict(zip(self.names, given)), len(self.names)
        step, init, x = step_of(self.cell, parameters, self.gain), tuple(given[count:-1]), given[-1]
        outputs = list(leaves(tg.scan(step, init, x, reverse=self.reverse, engine=engine)))
        loss = sum((y * tg.tensor(w)).sum() for y, w in zip(outputs, self.weights))
        gradients = tg.grad(loss, given, allow_unused=True)
        return [y.numpy() for y in outputs], [None if g is None else g.numpy() for g in gradients]


run = settings(max_examples=CELLS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
numbers = given(cells(), some.integers(1, 12), some.integers(1, 6), some.booleans(), some.integers(0, 2**32 - 1))


@run
@numbers
def test_generated_cells_agree(cell, steps, batch_size, reverse, seed):
    case = Case(cell, steps, batch_size, reverse, seed, 0.5)
    (values, gradients), (own_values, own_gradients) = case.made("fused"), case.made("eager")
    for fused, eager in zip(values, own_values):
        assert np.abs(fused - eager).max() <= 1e-12 * np.abs(eager).max()
    largest = max((np.abs(g).max() for g in own_gradients if g is not None), default=0.0)
    for fused, eager in zip(gradients, own_gradients):
        if eager is None:
            assert fused is None or not fused.any()
        else:
            assert fused is not None
            assert np.abs(fused - eager).max() <= 1e-10 * max(np.abs(eager).max(), 1e-3 * largest)


@run
@numbers
def test_cells_that_amplify_differ_no_more_than_a_last_bit_makes_them(cell, steps, batch_size, reverse, seed):
    """What rounding does to such a cell is seen by running it on numbers that differ in the last bit, five times."""
    case, rng = Case(cell, steps, batch_size, reverse, seed, 2.0), np.random.default_rng(seed)
    eager, fused = ([*values, *gradients] for values, gradients in (case.made("eager"), case.made("fused")))
    spread = [0.0] * len(eager)
    for _ in range(5):
        near = [np.nextafter(a, np.where(rng.random(a.shape) < 0.5, -np.inf, np.inf)) for a in case.arrays]
        for i, (one, other) in enumerate(zip(eager, itertools.chain(*case.made("eager", near)))):
            if one is not None:
                spread[i] = max(spread[i], np.abs(one - other).max())
    for one, other, moved in zip(eager, fused, spread):
        if one is None:
            assert other is None or not other.any()
        else:
            assert np.abs(one - other).max() <= 10 * moved + 1e-12 * np.abs(one).max()
