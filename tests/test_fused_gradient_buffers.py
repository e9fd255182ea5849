"""Gradients of weights, however a step takes them, go where they belong; each is memory of its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_fused import agree, both, tensor

import tinygrad_rnn as tg
from tinygrad_rnn import settings

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")

#: What is (4, 4) of some weight, and the weight's shape.
TAKEN = {
    "whole": ((4, 4), lambda w: w),
    "turned": ((4, 4), lambda w: tg.permute_dims(w, (1, 0))),
    "columns, the rest unused": ((4, 9), lambda w: w[:, 3:7]),
    "rows, the rest unused": ((6, 4), lambda w: w[1:5]),
    "every second column": ((4, 8), lambda w: w[:, ::2]),
    "columns backwards": ((4, 4), lambda w: w[:, ::-1]),
    "rows backwards": ((4, 4), lambda w: w[::-1]),
    "flipped": ((4, 4), lambda w: tg.flip(w, 0)),
    "flipped both ways, turned": ((4, 4), lambda w: tg.flip(w).T),
    "of a turned one": ((7, 4), lambda w: tg.permute_dims(w, (1, 0))[:, 2:6]),
    "in another shape": ((16,), lambda w: w.reshape(4, 4)),
    "a page": ((3, 4, 4), lambda w: w[1]),
    "picked rows, one twice": ((5, 4), lambda w: w[np.array([0, 3, 3, 1])]),
    "computed": ((4, 4), lambda w: tg.tanh(w) * 2.0),
    "a part and the whole": ((4, 4), lambda w: w + w[:1]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TAKEN)
def test_one_weight(name, dtype):
    shape, taken = TAKEN[name]
    w, b, x, h = (tensor(i, *s, dtype=dtype) for i, s in enumerate([shape, (4,), (9, 3, 4), (3, 4)]))

    def step(h, x):
        h = tg.tanh(h @ taken(w) * 0.3 + x + b)
        return h, h

    both(lambda engine: tg.scan(step, h, x, engine=engine), [w, b, x, h], 1e-10 if dtype == "float64" else 1e-5)


USES = {
    "disjoint": (slice(0, 4), slice(4, 8)),
    "with a gap": (slice(0, 4), slice(5, 9)),
    "that overlap": (slice(0, 4), slice(2, 6)),
    "that are the same": (slice(1, 5), slice(1, 5)),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("linear", [False, True])
def test_two_parts_of_weights_and_biases(name, rows, linear):
    """`linear` has its sums over rows beside the left side of its products, `@` beside the right."""
    one, two = USES[name]
    w, b, x, h = tensor(0, 9, 4) if linear else tensor(0, 4, 9), tensor(1, 9), tensor(2, 9, rows, 4), tensor(3, rows, 4)

    def product(a, part):
        return tg.linear(a, w[part], b[part]) if linear else a @ w[:, part] + b[part]

    def step(h, x):
        h = tg.sigmoid(product(h, one)) * tg.tanh(product(x, two))
        return h, h

    both(lambda engine: tg.scan(step, h, x, engine=engine), [w, b, x, h])


def test_each_gradient_is_memory_of_its_own():
    w, u, b, x, h = (tensor(i, *s) for i, s in enumerate([(4, 8), (4, 4), (8,), (9, 3, 4), (3, 4)]))

    def step(h, x):
        gates = x @ w + b
        h = tg.tanh(gates[:, :4] + h @ u + gates[:, 4:] @ u)
        return h, h

    found = tg.grad(tg.scan(step, h, x, engine="fused")[1].sum(), [w, u, b, x, h])
    for one, other in itertools.combinations(found, 2):
        assert not np.shares_memory(one.numpy(), other.numpy())
    again = tg.grad(tg.scan(step, h, x, engine="eager")[1].sum(), [w, u, b, x, h])
    agree(found, again, 1e-10)


def test_a_leaf_inside_and_outside_of_a_run():
    """Gradients add up: with what was there, with what comes past the run, and seen by hooks as one."""
    made = []
    for engine in ("fused", "eager"):
        w, x, h = tensor(0, 4, 4), tensor(1, 9, 3, 4), tensor(2, 3, 4)
        w.grad, seen = tg.ones_like(w), []
        x.register_hook(lambda g, seen=seen: seen.append(g.numpy()))

        def step(h, x, w=w):
            h = tg.tanh(h @ w + x)
            return h, h

        for _ in range(2):
            outputs = tg.scan(step, tg.sin(h), x, engine=engine)[1]
            ((outputs * outputs).sum() + (w * w * 3.0).sum() + (x * x).sum() + h.sum()).backward()
        assert len(seen) == 2
        made.append([w.grad, x.grad, h.grad, *map(tg.tensor, seen)])
    agree(*made, 1e-10)


SAME = ("nothing", "frozen", "an attribute more")


class Scaled(tg.nn.Cell):
    def initial_state(self, batch_size):
        return tg.zeros(batch_size, 4, dtype="float64")

    def __init__(self):
        self.input_size = self.hidden_size = 4
        self.weight, self.scale, self.inner = tg.nn.Parameter(tensor(0, 4, 4)), 0.5, {"shift": 1.0, "on": [True]}

    def step(self, x, state):
        new = tg.tanh(x + state @ self.weight * self.scale + self.inner["shift"])
        return (new if self.inner["on"][0] else x), new


CHANGES = {
    "nothing": lambda cell: None,
    "a number": lambda cell: setattr(cell, "scale", 0.25),
    "a number of another type": lambda cell: setattr(cell, "scale", 1),
    "something deep inside": lambda cell: cell.inner["on"].__setitem__(0, False),
    "values in place": lambda cell: cell.weight.detach().copy_(tensor(5, 4, 4).detach()),
    "another parameter": lambda cell: setattr(cell, "weight", tg.nn.Parameter(tensor(5, 4, 4))),
    "loaded": lambda cell: cell.load_state_dict({"weight": tensor(5, 4, 4).detach()}),
    "frozen": lambda cell: setattr(cell.weight, "requires_grad", False),
    "the dtype, twice": lambda cell: cell.astype("float32").astype("float64"),
    "a function for a parameter": lambda cell: setattr(cell, "weight", tg.tanh(cell.weight)),
    "an attribute more": lambda cell: setattr(cell, "more", 3.0),
    "the step": lambda cell: setattr(cell, "step", lambda x, state: (x * 2.0, tg.sin(state + x))),
}


class Plain(Scaled):
    """All that it holds is seen at a glance."""

    def __init__(self):
        self.input_size = self.hidden_size = 4
        self.weight, self.scale = tg.nn.Parameter(tensor(0, 4, 4)), 0.5

    def step(self, x, state):
        new = tg.tanh(x + state @ self.weight * self.scale)
        return new, new


def test_a_parameter_that_was_frozen_gets_gradients_again():
    cell, x = Plain(), tensor(1, 9, 3, 4)
    layer = tg.nn.Recurrent(cell, engine="fused")
    for needs in (False, True, False):
        cell.weight.requires_grad, cell.weight.grad = needs, None
        layer(x)[0].sum().backward()
        assert (cell.weight.grad is not None) == needs


@pytest.mark.parametrize("cell", [Plain, Scaled])
@pytest.mark.parametrize("name", CHANGES)
def test_a_cell_that_changes_between_calls(name, cell):
    """Two calls before, so that what is kept of the first is used."""
    if cell is Plain and name == "something deep inside":
        pytest.skip("there is nothing deep inside of a plain cell")
    cell, x = cell(), tensor(1, 9, 3, 4)
    layer = tg.nn.Recurrent(cell)

    def run(engine):
        with tg.engine(engine):
            outputs = layer(x)[0]
        wanted = [x, *[p for p in [cell.weight] if p.requires_grad]]
        found = tg.grad((outputs * outputs).sum(), wanted, allow_unused=True)
        return [outputs, *[tg.zeros_like(t) if g is None else g for t, g in zip(wanted, found)]]

    before = [run("fused") for _ in range(2)]
    agree(*before, 0.0)
    CHANGES[name](cell)
    for _ in range(2):
        now = run("fused")
        agree(now, run("eager"), 1e-10)
    assert np.array_equal(before[0][0].numpy(), now[0].numpy()) == (name in SAME) or name == "the dtype, twice"
