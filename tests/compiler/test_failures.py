"""Where the compiler itself fails, the eager engine runs, and says so; nothing internal reaches a user."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.compiler import program as build
from tinygrad_rnn.compiler.runtime import executable as compiled
from tinygrad_rnn.errors import FusionError

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


class Broken(Exception):
    pass


def breaking(*arguments, **named):
    raise Broken("a fault")


def run(layer, x):
    layer.zero_grad() if hasattr(layer, "zero_grad") else None
    y, _ = layer(x)
    (y * y).sum().backward()
    return [y.numpy(), *[p.grad.numpy() for p in layer.parameters()]]


FAULTS = {
    "planning": (build, "Schedule"),
    "the gradient's program": (build, "differentiate"),
    "laying out the forward run": (compiled.Compiled, "_forward"),
    "laying out the backward run": (compiled.Compiled, "_backward"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_auto_is_the_eager_engine_then(name, monkeypatch):
    layer, x = tg.nn.GRU(3, 4, dtype="float64", rng=np.random.default_rng(0)), tg.randn(9, 2, 3, dtype="float64")
    with tg.engine("eager"):
        expected = run(layer, x)
    monkeypatch.setattr(*FAULTS[name], breaking)
    for _ in range(2):
        for a, b in zip(run(layer, x), expected):
            assert np.abs(a - b).max() <= 1e-12


@pytest.mark.parametrize("name", [name for name in FAULTS if "backward" not in name])
def test_fused_says_so_with_the_cause(name, monkeypatch):
    layer, x = tg.nn.GRU(3, 4, engine="fused"), tg.randn(9, 2, 3)
    monkeypatch.setattr(*FAULTS[name], breaking)
    for _ in range(2):
        with pytest.raises(FusionError, match="the compiler failed") as found:
            layer(x)
        assert isinstance(found.value.__cause__, Broken)


def test_explain_says_so(monkeypatch):
    monkeypatch.setattr(*FAULTS["planning"], breaking)
    said = str(tg.explain(tg.nn.GRU(3, 4), tg.randn(9, 2, 3)))
    assert "runs eagerly" in said and "the compiler failed, which is a fault of its own: Broken: a fault" in said
