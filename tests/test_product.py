"""Large products on our own threads: right for every layout, and the same on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.kernels.gemm import multiplied, sealed
from tinygrad_rnn.kernels.runtime import interpreter

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")

SIZES = [(1, 1, 1), (1, 7, 50), (9, 1, 3), (13, 300, 47), (8, 256, 48), (65, 257, 97), (130, 31, 1), (3, 600, 16)]


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = tg.get_num_threads()
    tg.set_num_threads(request.param)
    yield request.param
    tg.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_layout(size, dtype, threads):
    rows, inner, columns = size
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inner)).astype(dtype), rng.standard_normal((inner, columns)).astype(dtype)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    tolerance = 1e-5 if dtype == "float32" else 1e-14
    wide = np.full((rows, 2 * inner + 1), np.nan, dtype)
    wide[:, 1 : inner + 1] = a  # rows that do not follow one another, and memory that must not be read
    for left in (a, np.asfortranarray(a), wide[:, 1 : inner + 1], np.ascontiguousarray(a[::-1])[::-1]):
        for right in (b, np.asfortranarray(b), np.ascontiguousarray(b[::-1])[::-1]):
            found = multiplied(left, right)
            if found is not None:
                assert found.shape == expected.shape and found.dtype == a.dtype
                assert np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), inner**0.5)
    assert multiplied(a, b) is not None and multiplied(np.asfortranarray(a), b) is not None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [1, 15, 16, 47, 96, 97, 144, 145, 192, 193, 240, 300])
def test_single_rows_at_every_step(columns, dtype):
    """Of one row, any number of panels is multiplied at once, and every second step goes through them backwards."""
    rng = np.random.default_rng(0)
    u, x = (rng.standard_normal(shape).astype(dtype) for shape in ((columns, columns), (6, 1, columns)))
    u *= 0.5 / columns**0.5
    weight = tg.tensor(u)
    found = tg.scan(lambda h, x: (h @ weight + x,) * 2, tg.zeros(1, columns, dtype=dtype), tg.tensor(x), engine="fused")
    h = np.zeros((1, columns))
    for t in range(6):
        h = h @ u.astype(np.float64) + x[t]
        assert np.abs(found[1].numpy()[t] - h).max() <= (1e-5 if dtype == "float32" else 1e-13) * np.abs(h).max()


@pytest.mark.parametrize("vectors", [(32, 4), (16, 8), (16, 4)], ids=["256 bits", "128 bits, 8 rows", "128 bits"])
def test_machines_with_other_vectors(vectors, monkeypatch):
    """Registers as others have them: products, and a fused layer with all its gradients."""
    monkeypatch.setattr(interpreter, "vectors", lambda: vectors)
    interpreter.interpreter.cache_clear()
    sealed.cache_clear()
    try:
        test_every_layout((13, 300, 47), "float32", 2)
        cell = tg.nn.GRUCell(5, 33, dtype="float64")
        x = tg.tensor(np.random.default_rng(0).standard_normal((9, 6, 5)), requires_grad=True)
        made = {}
        for engine in ("fused", "eager"):
            outputs, _ = tg.nn.Recurrent(cell, engine=engine)(x)
            made[engine] = [outputs, *tg.grad((outputs * outputs).sum(), [x, *cell.parameters()])]
        for fused, eager in zip(*made.values()):
            assert np.abs(fused.numpy() - eager.numpy()).max() <= 1e-11 * np.abs(eager.numpy()).max()
    finally:
        interpreter.interpreter.cache_clear()
        sealed.cache_clear()


def test_what_is_left_to_numpy():
    a = np.ones((4, 6), np.float32)
    assert multiplied(a, np.ones((6, 3))) is None
    assert multiplied(a.astype(np.int64), np.ones((6, 3), np.int64)) is None
    assert multiplied(a[:, ::2], np.ones((3, 3), np.float32)) is None
    assert multiplied(a[:0], np.ones((6, 3), np.float32)) is None


def test_a_large_product_and_its_gradients_on_any_number_of_threads(threads):
    rng = np.random.default_rng(0)
    x, w = (tg.tensor(rng.standard_normal(s), dtype="float32", requires_grad=True) for s in ((600, 300), (300, 200)))
    y = x @ w
    y.sum().backward()
    wide = x.numpy().astype(np.float64) @ w.numpy().astype(np.float64)
    assert np.abs(y.numpy() - wide).max() <= 1e-5 * np.abs(wide).max()
    assert np.allclose(x.grad.numpy(), np.tile(w.numpy().sum(1), (600, 1)), atol=1e-3)
    assert np.allclose(w.grad.numpy(), np.tile(x.numpy().sum(0)[:, None], (1, 200)), atol=1e-3)
