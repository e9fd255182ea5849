"""Graphs that nobody wrote, and broadcasting in all corners, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg

torch = pytest.importorskip("torch")
from parity import agree, compare, normal  # noqa: E402 - it imports torch

pytestmark = pytest.mark.parity
F = torch.nn.functional


def linear(m, *operands):
    return tg.linear(*operands) if m is tg else F.linear(*operands)


STEPS = [
    ("add", lambda m, a, b: a + b), ("sub", lambda m, a, b: a - b), ("mul", lambda m, a, b: a * b),
    ("div", lambda m, a, b: a / (b * b + 1.0)), ("max", lambda m, a, b: m.maximum(a, b)),
    ("min", lambda m, a, b: m.minimum(a, b)), ("self", lambda m, a, b: a * a + a), ("tanh", lambda m, a, b: m.tanh(a)),
    ("sigmoid", lambda m, a, b: m.sigmoid(a) * b), ("exp", lambda m, a, b: m.exp(m.tanh(a))),
    ("relu", lambda m, a, b: m.relu(a)), ("abs", lambda m, a, b: m.abs(a)), ("row", lambda m, a, b: a[1:2] + b),
    ("column", lambda m, a, b: a[:, -1:] * b), ("rows twice", lambda m, a, b: a[[2, 0, 2]] + b[[1, 1, 0]]),
    ("flat", lambda m, a, b: a.reshape((9,))[:9].reshape((3, 3)) - b), ("turn", lambda m, a, b: a.T + b),
    ("matmul", lambda m, a, b: a @ b.T * 0.3), ("total", lambda m, a, b: a.sum() * 0.1 + b),
    ("mean", lambda m, a, b: a.mean(-1, True) + b), ("where", lambda m, a, b: m.where(a > b, a, b * 0.5)),
    ("softmax", lambda m, a, b: m.softmax(a, -1) + b), ("logsumexp", lambda m, a, b: m.logsumexp(a, 0) + b),
    ("join", lambda m, a, b: m.concat([a[:1], b[1:]])), ("pile", lambda m, a, b: m.stack([a[0], b[1], a[2]])),
    ("product", lambda m, a, b: a @ b * 0.3), ("linear", lambda m, a, b: linear(m, a, b, b[0]) * 0.3),
    ("detach", lambda m, a, b: a.detach() * b), ("write", None), ("number", lambda m, a, b: 0.5 - a * 2.0),
]  # fmt: skip


def play(m, leaves, program):
    """Run a program on either library: each step takes two earlier values; a write changes a fresh constant."""
    values = list(leaves)
    for step, i, j in program:
        a, b = values[i % len(values)], values[j % len(values)]
        function = STEPS[step][1]
        if function is None:
            constant = b.detach() * 1.0
            view = constant[1:]
            constant[0] = 0.25
            view += 0.5
            made = a + constant
        else:
            made = function(m, a, b)
        values.append(made)
    return values


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    program=st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 40), st.integers(0, 40)), max_size=25),
    needs=st.tuples(*[st.booleans()] * 3),
    twice=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_graphs(program, needs, twice, seed):
    arrays = [normal(3, 3, seed=seed + i) for i in range(3)]
    ours = play(tg, [tg.tensor(a, requires_grad=n) for a, n in zip(arrays, needs)], program)
    theirs = play(torch, [torch.tensor(a, requires_grad=n) for a, n in zip(arrays, needs)], program)
    for one, other in zip(ours, theirs):
        agree(one, other.detach().numpy(), 1e-9)
        assert one.requires_grad == other.requires_grad
    first = sum((v * v).sum() * (0.5 + i) for i, v in enumerate(ours[-6:]))
    second = sum((v * v).sum() * (0.5 + i) for i, v in enumerate(theirs[-6:]))
    if not second.requires_grad or not 1e-6 < float(second.detach()) < 1e6:
        return
    for again in range(1 + twice):
        first.backward(retain_graph=not again)
        second.backward(retain_graph=not again)
    for one, other in zip(ours[:3], theirs[:3]):
        assert (one.grad is None) == (other.grad is None)
        if other.grad is not None:
            agree(one.grad, other.grad.numpy(), 1e-8)
    if twice:
        return
    hessian_product(ours, theirs, program, arrays, needs)


def hessian_product(ours, theirs, program, arrays, needs):
    """The same graph anew, and the derivative of the gradient's square."""
    found = []
    for m, old in ((tg, ours), (torch, theirs)):
        leaves = [m.tensor(a, requires_grad=n) for a, n in zip(arrays, needs)]
        wanted = [t for t, n in zip(leaves, needs) if n]
        last = play(m, leaves, program)[-1]
        if not last.requires_grad:
            return
        grad = tg.grad if m is tg else torch.autograd.grad
        first = [g for g in grad((last * last).sum(), wanted, create_graph=True, allow_unused=True) if g is not None]
        loss = sum((g * g).sum() for g in first if g.requires_grad)
        if isinstance(loss, int):
            return
        found.append(grad(loss, wanted, allow_unused=True))
        assert old[-1].shape == last.shape
    for one, other in zip(*found):
        nothing = np.zeros((3, 3))
        a = nothing if one is None else one.numpy()
        b = nothing if other is None else other.detach().numpy()
        if np.max(np.abs(b)) < 1e8:
            agree(a + 1.0, b + 1.0, 1e-7)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_broadcasting_in_all_corners(data):
    sizes = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=4)
    whole = data.draw(sizes)

    def reduced():
        shape = [1 if data.draw(st.booleans()) else n for n in whole]
        return tuple(shape[data.draw(st.integers(0, len(shape))) :])

    a, b, c = (np.array(normal(*reduced(), seed=i)) for i in range(3))
    name = data.draw(st.sampled_from(["add", "multiply", "maximum", "divide", "subtract"]))
    compare(
        lambda x, y, z: tg.where(x > 0.0, getattr(tg, name)(x, y), z),
        lambda x, y, z: torch.where(x > 0.0, getattr(torch, name)(x, y), z),
        a,
        b,
        c,
    )
