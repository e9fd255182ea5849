"""Torch's own gradcheck and gradgradcheck judge our derivatives: two ops of each of the five kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from registry import OPS, case, flat, runner

import tinygrad_rnn as tg

torch = pytest.importorskip("torch")
from torch.autograd.gradcheck import GradcheckError  # noqa: E402 - torch may be missing

pytestmark = pytest.mark.parity

#: An op of each kind and the number of one of its samples.
CHOSEN = {
    "elementwise": [("tanh", 0), ("divide", 3)],
    "reduction": [("logsumexp", 2), ("softmax", 1)],
    "shape": [("permute_dims", 0), ("concat", 0)],
    "contraction": [("matmul", 3), ("linear", 2)],
    "opaque": [("patched", 1), ("cumsum", 1)],
}


def leaves(tensors: Any) -> list[Any]:
    return [tg.tensor(t.detach().numpy(), requires_grad=True) for t in tensors]


def to_torch(tensors: Any, like: Any) -> tuple[Any, ...]:
    """Our gradients as torch's; None, where nothing depends on an input, as zeros."""
    return tuple(torch.zeros_like(t) if g is None else torch.tensor(g.numpy()) for g, t in zip(tensors, like))


def in_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of our tensors as a function of torch's, whose first and second derivatives are ours."""

    class Gradient(torch.autograd.Function):
        """(g, inputs) -> the gradients of the inputs."""

        @staticmethod
        def forward(ctx: Any, g: Any, *inputs: Any) -> Any:
            ctx.save_for_backward(g, *inputs)
            x = leaves(inputs)
            return to_torch(tg.grad(function(*x), x, g.detach().numpy(), allow_unused=True), inputs)

        @staticmethod
        def backward(ctx: Any, *weights: Any) -> Any:
            given = ctx.saved_tensors
            g, *x = leaves(given)
            first = tg.grad(function(*x), x, g, create_graph=True, allow_unused=True)
            pairs = [(f, w.detach().numpy()) for f, w in zip(first, weights) if f is not None and f.requires_grad]
            return to_torch(tg.grad([f for f, _ in pairs], [g, *x], [w for _, w in pairs], allow_unused=True), given)

    class Value(torch.autograd.Function):
        """The inputs -> the value."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            ctx.save_for_backward(*inputs)
            with tg.no_grad():
                return torch.tensor(function(*leaves(inputs)).numpy())

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return Gradient.apply(g, *ctx.saved_tensors)

    return Value.apply


@pytest.mark.parametrize(("kind", "name", "i"), [(kind, *chosen) for kind, two in CHOSEN.items() for chosen in two])
def test_torch_finds_our_derivatives_right(kind, name, i):
    (op,) = [op for op in OPS if op.name == name]
    assert op.kind == kind
    sample = case(op, i)
    arrays = flat(op, sample)
    assert all(a.size and a.dtype == np.float64 for a in arrays)
    inputs = [torch.tensor(np.array(a), requires_grad=True) for a in arrays]
    ours = in_torch(runner(op, sample))
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


def test_torch_finds_a_wrong_derivative_of_ours():
    """The bridge hides nothing: a gradient that stops at one of two factors is caught, in either check."""

    def half(x: Any) -> Any:
        return x * x.detach()

    def half_of_the_gradient(x: Any) -> Any:
        return tg.exp(x) * tg.tanh(x.detach())

    x = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(in_torch(half), [x])
    with pytest.raises(GradcheckError):
        torch.autograd.gradgradcheck(in_torch(half_of_the_gradient), [x])
