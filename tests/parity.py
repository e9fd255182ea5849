"""Our result beside PyTorch's: values and gradients of one function on the same arrays."""

from __future__ import annotations

import numpy as np
import torch

import tinygrad_rnn as tg


def agree(ours, theirs, e, what=""):
    """max|a - b| <= e max|b|, infinities and NaN in the same places."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert a.shape == b.shape, what
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=what)
    np.testing.assert_array_equal(a[np.isinf(b)], b[np.isinf(b)], err_msg=what)
    finite = np.isfinite(b)
    error = np.max(np.abs(a[finite] - b[finite]), initial=0.0)
    assert error <= e * np.max(np.abs(b[finite]), initial=0.0), f"{what}: {error}"


def compare(ours, theirs, *arrays, seed=0):
    """Run both on copies of the arrays; floating ones require a gradient. Compare values and gradients."""
    mine = [tg.tensor(a, requires_grad=np.asarray(a).dtype.kind == "f") for a in arrays]
    other = [torch.tensor(np.array(a)) for a in arrays]
    for t in other:
        t.requires_grad_(t.is_floating_point())
    with np.errstate(all="ignore"):
        y, z = ours(*mine), theirs(*other)
        several = isinstance(z, (list, tuple))
        for one, two in zip(y if several else [y], z if several else [z]):
            agree(one, two.detach().numpy(), 1e-12, "value")
            assert one.requires_grad == two.requires_grad
        first, second = (y[-1], z[-1]) if several else (y, z)
        if not second.requires_grad:
            return
        g = np.random.default_rng(seed).normal(size=first.shape)
        first.backward(g)
        second.backward(torch.tensor(g))
    for i, (a, b) in enumerate(zip(mine, other)):
        assert (a.grad is None) == (b.grad is None), f"gradient {i}"
        if b.grad is not None:
            agree(a.grad, b.grad.numpy(), 1e-10, f"gradient {i}")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)
