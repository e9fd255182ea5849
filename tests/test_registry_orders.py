"""Backward of backward of backward: for every op, the third derivative against finite differences of the second."""

from __future__ import annotations

import numpy as np
import pytest
from registry import CASES, IDS, case, differentiable, flat, listed, runner

import tinygrad_rnn as tg
from tinygrad_rnn.errors import GraphError


def weighted(ys, rng):
    """A number made of all outputs, with fixed random weights."""
    parts = [(y * tg.tensor(rng.normal(size=y.shape))).sum() for y in ys if y.requires_grad]
    return sum(parts[1:], parts[0]) if parts else None


@pytest.mark.parametrize(("op", "i"), CASES, ids=IDS)
def test_third_derivative(op, i):
    if not differentiable(op):
        return
    sample = case(op, i)
    arrays = flat(op, sample)
    rng = np.random.default_rng(5)
    moves = [rng.normal(size=a.shape) if a.dtype.kind == "f" else None for a in arrays]

    def second(step):
        """The gradient of the gradient along fixed weights, at a point moved by `step`."""
        again = np.random.default_rng(7)
        xs = [tg.tensor(a if v is None else a + step * v, requires_grad=v is not None) for a, v in zip(arrays, moves)]
        y = weighted(listed(runner(op, sample)(*xs)), again)
        leaves = [x for x in xs if x.requires_grad]
        for _ in range(2):
            if y is None or not leaves:
                return xs, None
            found = tg.grad(y, leaves, create_graph=True, allow_unused=True)
            y = weighted([g for g in found if g is not None], again)
        return xs, y

    try:
        xs, y = second(0.0)
    except GraphError as found:
        if "first derivative only" in str(found):
            return
        raise
    if y is None:
        return  # the second derivative does not depend on the point
    leaves = [x for x in xs if x.requires_grad]
    found = tg.grad(y, leaves, allow_unused=True)
    analytic = sum(
        float(np.sum(np.asarray(g) * v)) for g, v in zip(found, [v for v in moves if v is not None]) if g is not None
    )
    steps = (1e-4, 5e-5)
    slopes = [(second(h)[1].item() - second(-h)[1].item()) / (2 * h) for h in steps]
    numerical = (4 * slopes[1] - slopes[0]) / 3  # Richardson: the error falls with the fourth power of the step
    assert abs(analytic - numerical) <= 1e-6 * (1.0 + abs(numerical))
