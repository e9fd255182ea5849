"""Random cells: fused equals eager, for equations that nobody chose."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

import tinygrad_rnn as tg
from tinygrad_rnn import settings as library
from tinygrad_rnn.autograd.nest import leaves

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


def step_of(cell, parameters):
    """The step, and how often it mixes: contractive, as every new state is half a tanh."""
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
        return tuple(0.5 * tg.tanh(values[i]) for i in new), values[output]

    return step


@settings(max_examples=CELLS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cells(), some.integers(1, 12), some.integers(1, 6), some.booleans(), some.integers(0, 2**32 - 1))
def test_generated_cells_agree(cell, steps, batch_size, reverse, seed):
    rng = np.random.default_rng(seed)

    def tensor(*shape, scale=1.0):
        return tg.tensor(rng.standard_normal(shape) * scale, requires_grad=True)

    names = sorted({(name, number) for name, _, _, number in cell[1] if name in WITH})
    parameters = {key: tensor(*WITH[key[0]][0], scale=0.3) for key in names}
    init = tuple(tensor(batch_size, WIDTH, scale=0.3) for _ in range(cell[0]))
    x = tensor(steps, batch_size, WIDTH)
    weights = [rng.standard_normal((batch_size, WIDTH)) for _ in init] + [rng.standard_normal(x.shape)]
    made = {}
    for engine in ("fused", "eager"):
        outputs = list(leaves(tg.scan(step_of(cell, parameters), init, x, reverse=reverse, engine=engine)))
        loss = sum((y * tg.tensor(w)).sum() for y, w in zip(outputs, weights))
        gradients = tg.grad(loss, [x, *init, *parameters.values()], allow_unused=True)
        made[engine] = [y.numpy() for y in outputs], [None if g is None else g.numpy() for g in gradients]
    for fused, eager in zip(made["fused"][0], made["eager"][0]):
        assert np.abs(fused - eager).max() <= 1e-12 * np.abs(eager).max()
    largest = max((np.abs(g).max() for g in made["eager"][1] if g is not None), default=0.0)
    for fused, eager in zip(made["fused"][1], made["eager"][1]):
        if eager is None:
            assert fused is None or not fused.any()
        else:
            assert fused is not None
            assert np.abs(fused - eager).max() <= 1e-10 * max(np.abs(eager).max(), 1e-3 * largest)
