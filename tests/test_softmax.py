"""The kernels of log-probabilities beside plain NumPy in higher precision, at the widths where vectors end."""

import numpy as np
import pytest

import tinygrad_rnn as tg

WIDTHS = (1, 2, 15, 16, 17, 31, 65, 200)


def expected(x):
    x = x.astype(np.longdouble)
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = x - x.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", WIDTHS)
def test_log_softmax_of_rows(width, dtype):
    x = np.random.default_rng(width).normal(0, 5, (7, width)).astype(dtype)
    made = tg.log_softmax(tg.tensor(x)).numpy()
    close = np.finfo(dtype).eps * (8 + 2 * np.abs(expected(x)))
    assert made.dtype == dtype and np.all(np.abs(made - expected(x)) <= close)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", WIDTHS)
def test_gradient_of_rows(width, dtype):
    r = np.random.default_rng(width)
    x, g = (r.normal(0, 2, (7, width)).astype(dtype) for _ in range(2))
    leaf = tg.tensor(x, requires_grad=True)
    tg.log_softmax(leaf).backward(tg.tensor(g))
    exact = g - np.exp(expected(x)) * g.astype(np.longdouble).sum(-1, keepdims=True)
    close = np.finfo(dtype).eps * 8 * (1 + np.abs(g).sum(-1, keepdims=True))
    assert np.all(np.abs(leaf.grad.numpy() - exact) <= close)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 16, 18])
def test_what_is_not_finite(special, place):
    x = np.random.default_rng(0).normal(size=(3, 19))
    x[1, place] = special
    x[2] = special
    assert np.allclose(tg.log_softmax(tg.tensor(x)).numpy(), expected(x).astype(float), equal_nan=True)


def test_along_another_axis():
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    made = tg.log_softmax(tg.tensor(x), 1).numpy()
    assert np.allclose(made, expected(x.swapaxes(1, 2)).swapaxes(1, 2).astype(float), rtol=1e-14, atol=1e-14)
