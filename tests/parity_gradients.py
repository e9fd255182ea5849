"""Our results beside PyTorch's, several of them: values, gradients for a random cotangent, gradients of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg

torch = pytest.importorskip("torch")
from parity import agree  # noqa: E402 - it imports torch


def same_dtype(ours: Any, theirs: Any, what: str) -> None:
    assert f"torch.{ours.dtype}" == str(theirs.dtype), f"{what}: {ours.dtype}, not {theirs.dtype}"


def plain(g: Any, like: Any) -> Any:
    """A gradient as an array; where nothing depends on an input, one library says None and the other 0."""
    if g is None:
        return np.zeros(like.shape)
    return (
        g.detach().clone().numpy() if isinstance(g, torch.Tensor) else g
    )  # the clone of a symbolic zero is a real one


def compare_values(ours: Sequence[Any], theirs: Sequence[Any], e: float) -> None:
    """Results one by one: dtype, value, and whether a gradient flows."""
    assert len(ours) == len(theirs), f"{len(ours)} results, not {len(theirs)}"
    for y, z in zip(ours, theirs):
        same_dtype(y, z, "value")
        agree(y, z.detach().numpy(), e, "value")
        assert y.requires_grad == z.requires_grad, f"requires_grad is not {z.requires_grad}"


def compare_gradients(
    ours: tuple[Sequence[Any], Sequence[Any]],
    theirs: tuple[Sequence[Any], Sequence[Any]],
    rng: np.random.Generator,
    e: float,
    second: bool,
    finite: bool = False,
) -> int:
    """(results, inputs) of both, the inputs in the same order; how many gradients were compared.

    `finite`: where the second gradient of torch is NaN, ours is finite on purpose.
    """
    (ys, x), (zs, x_torch) = ours, theirs
    ys, zs = [y for y in ys if y.requires_grad], [z for z in zs if z.requires_grad]
    kept = [i for i, t in enumerate(x_torch) if t.requires_grad]
    x, x_torch = [x[i] for i in kept], [x_torch[i] for i in kept]
    if not zs or not kept:
        return 0
    starts = [rng.normal(size=y.shape).astype(y.dtype) for y in ys]
    g = [tg.tensor(start, requires_grad=second) for start in starts]
    g_torch = [torch.tensor(start, requires_grad=second) for start in starts]
    first = tg.grad(ys, x, g, create_graph=second, allow_unused=True)
    first_torch = torch.autograd.grad(zs, x_torch, g_torch, create_graph=second, allow_unused=True)
    for i, a, b in zip(kept, first, first_torch):
        assert (a is None) == (b is None), f"gradient {i} is {a}, not {b}"
        if b is not None:
            same_dtype(a, b, f"gradient {i}")
            agree(a, plain(b, b), e, f"gradient {i}")
    if second:
        _compare_second([*x, *g], [*x_torch, *g_torch], first, first_torch, rng, e, finite)
    return sum(b is not None for b in first_torch)


def _compare_second(x: Any, x_torch: Any, first: Any, first_torch: Any, rng: Any, e: float, finite: bool) -> None:
    """The gradient of sum(random * gradient) in the inputs, and in the gradient that came in."""
    ours, theirs = [], []
    for a, b in zip(first, first_torch):
        if b is None:
            continue
        weight = rng.normal(size=a.shape).astype(a.dtype)
        if a.requires_grad:
            ours.append((a, tg.tensor(weight)))
        if b.requires_grad:
            theirs.append((b, torch.tensor(weight)))
    found = tg.grad(*_seeded(x, ours), allow_unused=True) if ours else [None] * len(x)
    wanted = torch.autograd.grad(*_seeded(x_torch, theirs), allow_unused=True) if theirs else [None] * len(x)
    arrays = [plain(b, like) for b, like in zip(wanted, x_torch)]
    # What cancels leaves a rounding error in torch, of this size at most; ours may be exactly 0 there.
    residue = 1e-15 * max(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)) for b in arrays)
    for i, (a, b, like) in enumerate(zip(found, arrays, x_torch)):
        a = np.asarray(plain(a, like))
        if finite:
            assert np.all(np.isfinite(a[np.isnan(b)])), f"second gradient {i} is not finite"
            b = np.where(np.isnan(b), a, b)
        agree(a, np.where((a == 0.0) & (np.abs(b) <= residue), 0.0, b), e, f"second gradient {i}")


def _seeded(x: Any, pairs: Any) -> tuple[list[Any], Any, list[Any]]:
    return [g for g, _ in pairs], x, [weight for _, weight in pairs]
