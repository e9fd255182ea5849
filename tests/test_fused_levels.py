"""What is computed step by step and read behind the steps, for many at once, is there for each of them."""

from __future__ import annotations

import numpy as np
import pytest
from test_fused import CELLS, both, tensor

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.autograd.pytree import leaves, map_leaves

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


@pytest.mark.parametrize("reverse", [False, True])
def test_a_value_that_two_products_take(reverse):
    """One of them makes the next carry, the other an output."""
    u, v = tensor(1, 4, 4), tensor(2, 4, 4)

    def step(h, x):
        z = tg.sin(h) * x
        return tg.tanh(z @ u), z @ v

    x, h = tensor(3, 9, 3, 4), tensor(4, 3, 4)
    both(lambda engine: tg.scan(step, h, x, reverse=reverse, engine=engine), [x, h, u, v])
    values = [tg.no_grad()(tg.scan)(step, h, x, reverse=reverse, engine=engine)[1] for engine in ("fused", "eager")]
    assert np.abs(values[0].numpy() - values[1].numpy()).max() < 1e-12


def test_a_product_read_behind_the_loop():
    """In the backward run: what arrives at x is a product behind the loop, and a loop over what a product made."""
    w, u = tensor(1, 4, 4), tensor(2, 8, 4)

    def step(h, x):
        soft = tg.exp(x) / tg.exp(x).sum(-1, keepdims=True)
        h = tg.tanh(tg.concat([h, soft], -1) @ u * 0.3 + tg.tanh(x @ w))
        return h, h

    x, h = tensor(3, 9, 3, 4), tensor(4, 3, 4)
    both(lambda engine: tg.scan(step, h, x, engine=engine), [x, h, w, u])


@pytest.mark.parametrize("frozen", ["weights", "all"])
@pytest.mark.parametrize("name", [name for name in CELLS if name != "learned"])
def test_frozen_cells(name, frozen):
    tg.manual_seed(0)
    cell, x = CELLS[name](4, 6, "float64"), tensor(1, 9, 3, 4)
    state = map_leaves(lambda part: tensor(2, *part.shape), cell.initial_state(3))
    for parameter in cell.parameters():
        parameter.requires_grad = frozen == "weights" and parameter.ndim == 1
    given = [x, *leaves(state), *[p for p in cell.parameters() if p.requires_grad]]
    both(lambda engine: tg.nn.Recurrent(cell, engine=engine)(x, state), given)
