"""The kernels of a fused training step on disk: shared, found again, and mended."""

from __future__ import annotations

import pytest
from test_kernels import finish, listing, run, start, truncate

from tinygrad_rnn import settings

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")

STEP = """
import numpy as np, tinygrad_rnn as tg
tg.manual_seed(0)
layer, x = tg.nn.GRU(3, 5), tg.randn(9, 2, 3)
found = {}
for engine in ("fused", "eager"):
    layer.zero_grad()
    with tg.engine(engine):
        layer(x)[0].sum().backward()
    found[engine] = [p.grad.numpy() for p in layer.parameters()]
assert all(abs(a - b).max() < 1e-5 for a, b in zip(*found.values()))
tg.optim.clip_grad_norm_(layer.parameters(), 0.1)
tg.optim.Adam(layer.parameters()).step()
print("right")
"""

REFUSING = """
import numba.core.compiler as c, tinygrad_rnn
def refuse(*a, **k): raise SystemExit("compiled")
c.CompilerBase.compile_extra = refuse
"""


def test_two_cold_processes_and_a_third(tmp_path):
    """Two at once find what is right, whoever compiles; a third compiles nothing; what is damaged is mended."""
    cache = tmp_path / "cache"
    for out, err in [finish(one) for one in [start(STEP, cache) for _ in range(2)]]:
        assert "right" in out and err.count("Warning") <= 1, err
    assert not list(cache.rglob("*.tmp"))
    before = listing(cache)
    out, err = run(REFUSING + STEP, cache)
    assert "right" in out and err == "" and listing(cache) == before
    truncate(sorted(cache.rglob("*.nbc")))
    out, err = run(STEP, cache)
    assert "right" in out and err.count("Warning") <= 1, err
    out, err = run(REFUSING + STEP, cache)
    assert "right" in out and err == "", err
