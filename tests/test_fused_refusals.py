"""What cannot be fused is refused in words, and runs eagerly where nobody insists."""

from __future__ import annotations

import numpy as np
import pytest
from test_fused import tensor, twice

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.errors import ArgumentError, FusionError

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


def reads(h, x):
    return (h if h.sum().item() > 1e9 else tg.tanh(h + x)), h


def decides(h, x):
    return (h if (h > 1e9).any() else tg.tanh(h + x)), h


def sums_up(h, x):
    return tg.tanh(tg.cumsum(h, 1) + x), h


def mixes_rows(h, x):
    return tg.tanh(h - h.mean(0, keepdims=True) + x), h


def draws(h, x):
    return tg.tanh(h * tg.rand(3, 4, dtype="float64") + x), h


class Counting:
    def __init__(self):
        self.count = 0.0

    def __call__(self, h, x):
        self.count += 1.0
        return tg.tanh(h * self.count + x), h


COUNT = tg.zeros(1)


def hooked(h, x):
    h = tg.tanh(h + x)
    if h.requires_grad:
        h.register_hook(lambda g: g * 2.0)
    return h, h


def writes(h, x):
    with tg.no_grad():
        COUNT[0] = 1.0
    return tg.tanh(h + x), h


REFUSED = {
    "reading a value": (lambda: reads, "reads values.*test_fused_refusals.py, line"),
    "a branch on a value": (lambda: decides, "reads values.*test_fused_refusals.py, line"),
    "an op without a form": (lambda: sums_up, "cumsum: .*test_fused_refusals.py, line"),
    "rows that mix": (lambda: mixes_rows, "mean: it mixes rows.*test_fused_refusals.py, line"),
    "random numbers": (lambda: draws, "random"),
    "a number that changes": (Counting, "changes what it reads: count.*test_fused_refusals.py, line"),
    "a hook": (lambda: hooked, "hook.*test_fused_refusals.py, line"),
    "a write": (lambda: writes, "in place"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    make, says = REFUSED[name]
    x, init = tensor(1, 9, 3, 4), tensor(2, 3, 4)
    with pytest.raises(FusionError, match=says):
        tg.scan(make(), init, x, engine="fused")
    tg.manual_seed(3)
    _, auto = tg.scan(make(), init, x)  # runs eagerly then, as if nothing had been tried
    tg.manual_seed(3)
    _, eager = tg.scan(make(), init, x, engine="eager")
    if name != "a number that changes":  # what a step does besides computing happens when it is tried
        assert np.array_equal(auto.numpy(), eager.numpy())


def test_engines_by_name():
    x, init = tensor(1, 9, 3, 4), tensor(2, 3, 4)
    for name in ("Eager", None, 1):
        for refused in (
            lambda name=name: tg.scan(twice, init, x, engine=name),
            lambda name=name: tg.engine(name).__enter__(),
            lambda name=name: tg.nn.GRU(3, 4, engine=name),
        ):
            with pytest.raises(ArgumentError, match="engine"):
                refused()
    with tg.engine("fused"), pytest.raises(FusionError):
        tg.scan(sums_up, init, x)
    with tg.engine("fused"):
        tg.scan(sums_up, init, x, engine="eager")
