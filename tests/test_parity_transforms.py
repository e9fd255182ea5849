"""Transforms of functions against torch.func and torch.autograd.functional; the Hessian of a recurrent net."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg

torch = pytest.importorskip("torch")
from parity import agree, normal  # noqa: E402 - it imports torch

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")]
functional = torch.autograd.functional


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_hessian_of_a_two_layer_net_in_all_weights(kind):
    steps, batch, inputs, hidden = 4, 2, 2, 3
    x, target = normal(steps, batch, inputs), normal(steps, batch, hidden, seed=1)
    theirs = getattr(torch.nn, kind)(inputs, hidden, num_layers=2).double()
    ours = getattr(tg.nn, kind)(inputs, hidden, num_layers=2, dtype="float64")
    ours.load_state_dict(theirs.state_dict())
    names = [name for name, _ in ours.named_parameters()]
    assert names == [name for name, _ in theirs.named_parameters()]
    zeros = tg.zeros(2, batch, hidden, dtype="float64")  # without parameters the layer does not know their dtype
    x_torch, target_torch = torch.tensor(x), torch.tensor(target)

    def loss_torch(*weights):
        output, _ = torch.func.functional_call(theirs, dict(zip(names, weights)), (x_torch,))
        return ((output - target_torch) ** 2).mean()

    def loss_ours(*weights):
        for name, weight in zip(names, weights):
            setattr(ours, name, weight)
        output, _ = ours(tg.tensor(x), (zeros, zeros) if kind == "LSTM" else zeros)
        return ((output - tg.tensor(target)) ** 2).mean()

    weights = [p.detach().clone() for p in theirs.parameters()]
    expected = functional.hessian(loss_torch, tuple(weights))
    found = tg.hessian(loss_ours, [tg.tensor(w.numpy()) for w in weights])
    sizes = [w.numel() for w in weights]

    def joined(blocks, value):
        return np.block([[value(b).reshape(m, n) for b, n in zip(row, sizes)] for row, m in zip(blocks, sizes)])

    whole, wanted = joined(found, np.asarray), joined(expected, lambda b: b.numpy())
    assert whole.shape == (sum(sizes),) * 2
    assert np.max(np.abs(wanted)) > 1e-3
    agree(whole, wanted, 1e-8)
    np.testing.assert_allclose(whole, whole.T, atol=1e-12)
    v = [normal(*w.shape, seed=i) for i, w in enumerate(weights)]
    product = tg.hvp(loss_ours, [tg.tensor(w.numpy()) for w in weights], [tg.tensor(a) for a in v])
    flat = np.concatenate([np.asarray(p).ravel() for p in product])
    agree(flat, wanted @ np.concatenate([a.ravel() for a in v]), 1e-8)


def network(m):
    def run(x, w):
        h = m.tanh(x @ w)
        return m.exp(-(h * h)) @ w.T, (h * x[:, :1]).sum(0)

    return run


def test_jacobian_vjp_and_jvp():
    arrays = normal(3, 2), normal(2, 4, seed=1)
    ours, theirs = [tg.tensor(a) for a in arrays], tuple(torch.tensor(a) for a in arrays)
    for row, expected in zip(tg.jacobian(network(tg), ours), functional.jacobian(network(torch), theirs)):
        for a, b in zip(row, expected):
            agree(a, b.numpy(), 1e-12)
    gs = normal(3, 2, seed=2), normal(4, seed=3)
    ys, pullback = tg.vjp(network(tg), *ours)
    values, expected = functional.vjp(network(torch), theirs, tuple(torch.tensor(g) for g in gs))
    for a, b in zip([*ys, *pullback(*[tg.tensor(g) for g in gs])], [*values, *expected]):
        agree(a, b.numpy(), 1e-12)
    vs = normal(3, 2, seed=4), normal(2, 4, seed=5)
    ys, tangents = tg.jvp(network(tg), ours, [tg.tensor(v) for v in vs])
    values, expected = torch.func.jvp(network(torch), theirs, tuple(torch.tensor(v) for v in vs))
    for a, b in zip([*ys, *tangents], [*values, *expected]):
        agree(a, b.numpy(), 1e-12)
