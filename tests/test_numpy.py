"""NumPy's functions on tensors: ours where we have one, NumPy's on plain arrays where not."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ShapeError

CALLS = {
    "sin": lambda x: np.sin(x),
    "absolute": lambda x: np.absolute(x),
    "abs": lambda x: np.abs(x),
    "add": lambda x: np.add(x, 1.0),
    "sum": lambda x: np.sum(x),
    "sum of an axis": lambda x: np.sum(x, axis=0, keepdims=True),
    "mean": lambda x: np.mean(x, 1),
    "var": lambda x: np.var(x, correction=1),
    "std": lambda x: np.std(x, axis=-1),
    "max": lambda x: np.max(x, axis=0),
    "amin": lambda x: np.amin(x),
    "prod": lambda x: np.prod(x, axis=1),
    "cumsum": lambda x: np.cumsum(x, axis=1),
    "concatenate": lambda x: np.concatenate([x, x], axis=1),
    "stack": lambda x: np.stack([x, x]),
    "transpose": lambda x: np.transpose(x),
    "reshape": lambda x: np.reshape(x, (-1,)),
    "squeeze": lambda x: np.squeeze(np.expand_dims(x, 0)),
    "broadcast_to": lambda x: np.broadcast_to(x, (2, 3, 4)),
    "flip": lambda x: np.flip(x, 0),
    "roll": lambda x: np.roll(x, 2),
    "pad": lambda x: np.pad(x, 1),
    "repeat": lambda x: np.repeat(x, 2, axis=0),
    "tril": lambda x: np.tril(x, -1),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, x),
    "outer": lambda x: np.outer(x, x),
    "matmul": lambda x: np.matmul(x, x.T),
    "where": lambda x: np.where(x > 0.0, x, 0.0),
    "clip": lambda x: np.clip(x, -0.5, 0.5),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[0], [1], [2]]), axis=1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_same_value_and_a_gradient(name):
    a = np.random.default_rng(0).normal(size=(3, 4))
    x = tg.tensor(a, requires_grad=True)
    y = CALLS[name](x)
    assert isinstance(y, tg.Tensor)
    np.testing.assert_allclose(y.numpy(), CALLS[name](a), rtol=1e-13)
    y.sum().backward()
    assert x.grad is not None


def test_what_only_numpy_has_works_on_arrays():
    x = tg.tensor(np.array([[3.0, 4.0]]), requires_grad=True)
    assert np.linalg.norm(x) == 5.0
    assert np.median([x, x]) == 3.5
    assert np.split(x, [1], axis=1)[0].shape == (1, 1)  # NumPy's places, where ours are sizes
    np.testing.assert_array_equal(np.take(x, [1]), [4.0])  # over all elements, where ours is along an axis
    assert np.shape(x) == (1, 2)
    assert np.argmax(x).item() == 1
    assert not np.any(tg.zeros(2)).item()
    with pytest.raises(ValueError, match="read-only"):
        np.copyto(x, 0.0)


def test_what_our_functions_do_not_take_is_an_error():
    with pytest.raises(TypeError):
        np.sum(tg.ones(3), where=[True, False, True])
    with pytest.raises(TypeError):
        np.sum(tg.ones(3), out=np.zeros(()))
    with pytest.raises(TypeError):
        np.floor(tg.ones(3))  # no gradient, and an array would hide that


def test_grad_takes_what_fits():
    x = tg.ones(2, requires_grad=True)
    x.grad = np.array([1.0, 2.0])
    assert isinstance(x.grad, tg.Tensor)
    assert x.grad.dtype == np.float32
    x.grad = [3.0, 4.0]
    x.sum().backward()
    np.testing.assert_array_equal(x.grad, [4.0, 5.0])
    with pytest.raises(ShapeError, match="does not fit"):
        x.grad = np.ones(3)
    x.grad = None
    assert x.grad is None


def test_every_function_that_numpy_or_torch_has_as_a_method_is_one():
    methods = [
        "abs",
        "add",
        "all",
        "any",
        "argmax",
        "argmin",
        "astype",
        "clip",
        "cos",
        "cumsum",
        "divide",
        "erf",
        "exp",
        "expm1",
        "flip",
        "log",
        "log1p",
        "log_softmax",
        "logical_and",
        "logical_not",
        "logical_or",
        "logical_xor",
        "logsumexp",
        "matmul",
        "max",
        "maximum",
        "mean",
        "min",
        "minimum",
        "multiply",
        "negative",
        "outer",
        "prod",
        "reciprocal",
        "relu",
        "repeat",
        "reshape",
        "roll",
        "rsqrt",
        "sigmoid",
        "sign",
        "sin",
        "softmax",
        "sqrt",
        "square",
        "squeeze",
        "std",
        "subtract",
        "sum",
        "take",
        "tan",
        "tanh",
        "tril",
        "triu",
        "var",
        "isnan",
        "isinf",
        "isfinite",
        "split",
        "greater",
        "greater_equal",
        "less",
        "less_equal",
        "not_equal",
    ]
    x = tg.ones(2)
    missing = [name for name in methods if not callable(getattr(x, name, None))]
    assert not missing
