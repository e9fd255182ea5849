"""Dtypes: what a tensor is made as, and that float32 is never silently widened."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import DtypeError, ShapeError, TinygradError

F32, F64, I64, BOOL = (np.dtype(name) for name in ("float32", "float64", "int64", "bool"))


@pytest.fixture
def double():
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


# --- Making tensors ---

MADE = [
    (1.5, "default"),
    (3, I64),
    (True, BOOL),
    ([1.0, 2.0], "default"),
    ([1, 2], I64),
    ([1, 2.0], "default"),
    ([True, False], BOOL),
    ([[True], [2]], I64),
    ([True, 1.5], "default"),
    ([], "default"),
    ([[], []], "default"),
    ((1.0, (2.0)), "default"),
    (np.array([1.0]), F64),
    (np.array([1.0], np.float32), F32),
    (np.array(1.0), F64),
    (np.array([1], np.int32), np.dtype("int32")),
    (np.array([1], np.uint8), np.dtype("uint8")),
    (np.array([True]), BOOL),
    (np.zeros((2, 0)), F64),
    (tg.tensor([1], dtype="float64"), F64),
    (tg.tensor([1.0], dtype="float32"), F32),
]


@pytest.mark.parametrize(("data", "expected"), MADE, ids=[repr(d)[:40] for d, _ in MADE])
@pytest.mark.parametrize("default", ["float32", "float64"])
def test_the_dtype_of_a_new_tensor(data, expected, default):
    tg.set_default_dtype(default)
    try:
        made = tg.tensor(data)
        assert made.dtype == (np.dtype(default) if isinstance(expected, str) else expected)
        assert made.shape == np.shape(data)
        source = data._array if isinstance(data, tg.Tensor) else data
        assert not isinstance(source, np.ndarray) or not np.shares_memory(made._array, source)
        for dtype in ("float32", F64, np.int64, bool):
            assert tg.tensor(data, dtype=dtype).dtype == np.dtype(dtype)
    finally:
        tg.set_default_dtype("float32")


def test_a_list_of_numpy_scalars_has_one_dtype_whatever_their_order():
    a, b = tg.tensor([np.float64(1.0), 2.0]), tg.tensor([2.0, np.float64(1.0)])
    assert a.dtype == b.dtype


def test_factories_make_the_default_dtype():
    made = [
        lambda **k: tg.zeros(2, **k), lambda **k: tg.ones((2, 1), **k), lambda **k: tg.full((2,), 1.5, **k),
        lambda **k: tg.arange(0.0, 1.0, 0.5, **k), lambda **k: tg.linspace(0, 1, 3, **k), lambda **k: tg.eye(2, **k),
        lambda **k: tg.randn(2, **k), lambda **k: tg.rand(2, 2, **k), lambda **k: tg.tensor([1.0], **k),
    ]  # fmt: skip
    for make in made:
        assert make().dtype == F32
        assert make(dtype="float64").dtype == F64
        x = make(requires_grad=True)
        assert x.requires_grad
        assert x.is_leaf
    assert tg.arange(3).dtype == I64
    assert tg.full((2,), 3).dtype == I64
    assert tg.full((), 0.1, dtype="float64").item() == 0.1
    assert tg.full((2,), True).dtype == BOOL
    for dtype in (F32, F64, I64):
        assert tg.zeros_like(tg.zeros(2, dtype=dtype)).dtype == dtype
        assert tg.ones_like(np.zeros(2, dtype)).dtype == dtype


def test_the_default_dtype_switch(double):
    assert tg.get_default_dtype() == F64
    assert tg.zeros(2).dtype == F64
    assert tg.tanh(tg.tensor([1, 2])).dtype == F64
    assert (tg.tensor([1]) * 0.5).dtype == F64
    assert (tg.tensor([1.0], dtype="float32") * 0.5).dtype == F32
    for wrong in ("int64", "float16", complex):
        with pytest.raises(DtypeError):
            tg.set_default_dtype(wrong)
    assert tg.get_default_dtype() == F64


class Convertible:
    def __array__(self, dtype=None, copy=None):
        return np.array([1j])


UNSUPPORTED = {
    "float16": np.ones(2, np.float16),
    "longdouble": np.ones(2, np.longdouble),
    "complex": np.ones(2, complex),
    "complex number": 1j,
    "complex numpy number": np.complex64(1j),
    "string": "abc",
    "numpy string": np.str_("abc"),
    "bytes": b"abc",
    "list of strings": ["a", "b"],
    "object": object(),
    "none": None,
    "list with none": [1.0, None],
    "set": {1.0},
    "dict": {"a": 1.0},
    "function": np.tanh,
    "date": np.array(["2020-01-01"], "M8[D]"),
    "record": np.zeros(2, [("a", "f4")]),
    "huge int": 2**80,
    "array of objects": np.array([1.0, None]),
    "converts to complex": Convertible(),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_no_number_is_refused_by_a_clear_error(name):
    data = UNSUPPORTED[name]
    with pytest.raises(DtypeError, match="tensor"):
        tg.tensor(data)
    if isinstance(data, np.ndarray):
        with pytest.raises(DtypeError):
            tg.from_numpy(data)


@pytest.mark.parametrize("name", [n for n in UNSUPPORTED if n != "huge int"])
def test_operators_refuse_it_too(name):
    data = UNSUPPORTED[name]
    x = tg.tensor([1.0, 2.0])
    for operation in (
        lambda: x + data,
        lambda: tg.maximum(x, data),
        lambda: tg.matmul(x, data),
        lambda: tg.where(x > 0.0, data, x),
        lambda: tg.concat([x, data]),
    ):
        with pytest.raises((DtypeError, ShapeError)):
            operation()


def test_ragged_lists_unknown_dtypes_and_foreign_types():
    with pytest.raises(ShapeError, match="unequal lengths"):
        tg.tensor([[1.0], [1.0, 2.0]])
    for dtype in ("float16", "complex64", "object", "nonsense", "U3"):
        with pytest.raises(DtypeError):
            tg.tensor([1.0], dtype=dtype)
        with pytest.raises((DtypeError, TypeError)):
            tg.zeros(2, dtype=dtype)
        with pytest.raises((DtypeError, TypeError)):
            tg.ones(2).astype(dtype)
    with pytest.raises(DtypeError, match="not an array"):
        tg.from_numpy([1.0])


# --- What operations make ---

UNARY = ["negative", "abs", "sign", "square", "sqrt", "exp", "log", "sin", "cos", "tanh", "sigmoid", "relu", "softplus",
         "erf", "sum", "mean", "max", "min", "logsumexp", "softmax", "log_softmax", "squeeze"]  # fmt: skip
BINARY = ["add", "subtract", "multiply", "divide", "power", "maximum", "minimum"]
COMPARISONS = ["greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "logical_and", "logical_or"]
SCALARS = [2.5, 3, True, np.float64(2.5), np.float32(2.5), np.int64(3), np.bool_(True), 0.25]


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_tensor_keep_the_floating_dtype(name):
    function = getattr(tg, name)
    for dtype in (F32, F64):
        for shape in ((2, 3), ()):
            x = tg.tensor(np.full(shape, 0.5), dtype=dtype, requires_grad=True)
            y = function(x)
            assert y.dtype == dtype
            y.sum().backward()
            assert x.grad.dtype == dtype


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_functions_of_integers_and_truth_give_integers_or_the_default_dtype(name, dtype):
    if dtype == "bool" and name in ("negative", "sign"):
        return  # NumPy has no such loop, and refuses
    for default in ("float32", "float64"):
        tg.set_default_dtype(default)
        try:
            y = getattr(tg, name)(tg.tensor(np.ones((2, 3)), dtype=dtype))
        finally:
            tg.set_default_dtype("float32")
        assert y.dtype.kind in "iub" or y.dtype == np.dtype(default)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
def test_a_number_takes_the_tensors_dtype(name, scalar):
    function = getattr(tg, name)
    for dtype, shape in itertools.product((F32, F64), ((3,), ())):
        x = tg.tensor(np.full(shape, 1.5), dtype=dtype, requires_grad=True)
        for y in (function(x, scalar), function(scalar, x)):
            assert y.dtype == dtype
            x.grad = None
            y.sum().backward()
            assert x.grad.dtype == dtype
        value = float(np.asarray(scalar, dtype))
        with np.errstate(all="ignore"):
            expected = getattr(np, name)(x.numpy(), np.asarray(value, dtype))
        np.testing.assert_allclose(function(x, scalar), expected, rtol=1e-6)


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
def test_python_operators_with_numbers_on_either_side(scalar):
    x = tg.tensor([1.5, 2.0], requires_grad=True)
    for y in (x + scalar, scalar + x, x - scalar, scalar - x, x * scalar, scalar * x, x / scalar, scalar / x):
        assert isinstance(y, tg.Tensor)
        assert y.dtype == F32
        assert y.requires_grad
    for y in (x > scalar, scalar > x, x == scalar, scalar == x, x <= scalar):
        assert isinstance(y, tg.Tensor)
        assert y.dtype == BOOL
    for y in (tg.where(x > 1.7, scalar, x), tg.clip(x, scalar, None), tg.clip(x, None, scalar)):
        assert y.dtype == F32
    assert (2.0**x).dtype == (x**scalar).dtype == F32
    buffer = tg.tensor([1.0, 2.0])
    buffer += scalar
    buffer *= scalar
    buffer[0] = scalar
    assert buffer.dtype == F32


@pytest.mark.parametrize("name", [*BINARY, "stack", "concat", "where"])
def test_two_dtypes_meet(name):
    function = {
        "stack": lambda a, b: tg.stack([a, b]),
        "concat": lambda a, b: tg.concat([a, b]),
        "where": lambda a, b: tg.where(tg.tensor([True, False, True]), a, b),
    }.get(name) or getattr(tg, name)
    table = {(F32, F32): F32, (F32, F64): F64, (F64, F64): F64}
    table |= {(F32, other): F32 for other in (I64, BOOL, np.dtype("int8"), np.dtype("uint64"))}
    table |= {(F64, other): F64 for other in (I64, BOOL)}
    for (one, other), expected in table.items():
        for first, second in ((one, other), (other, one)):
            a, b = tg.tensor(np.ones(3), dtype=first), tg.tensor(np.ones(3), dtype=second)
            for t in (a, b):
                t.requires_grad = t.dtype.kind == "f"
            y = function(a, b)
            assert y.dtype == expected, (first, second)
            y.sum().backward()
            for t in (a, b):
                assert (t.grad is None) == (t.dtype.kind != "f")
                assert t.grad is None or t.grad.dtype == t.dtype


@pytest.mark.parametrize("function", [tg.matmul, tg.linear])
def test_a_product_of_two_dtypes_is_refused_and_one_with_integers_is_floating(function):
    single, double = tg.ones(2, 2, dtype=F32), tg.ones(2, 2, dtype=F64)
    for a, b in ((single, double), (double, single), (single, np.ones((2, 2)))):
        with pytest.raises(DtypeError, match="float32 and float64 meet"):
            function(a, b)
    assert function(single, tg.ones(2, 2, dtype=I64)).dtype == F32


def test_numbers_that_an_integer_dtype_cannot_hold_are_refused():
    with pytest.raises(DtypeError, match="300 is no int8"):
        tg.tensor(np.array([1], np.int8)) + 300
    with pytest.raises(DtypeError, match="-1 is no uint8"):
        tg.tensor(np.array([1], np.uint8)) + -1


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_give_truth(name):
    x = tg.tensor([0.0, 1.5], requires_grad=True)
    for other in (1.5, 1, True, np.float64(1.5), tg.tensor([0, 1]), tg.tensor([True, False])):
        for y in (getattr(tg, name)(x, other), getattr(tg, name)(other, x)):
            assert y.dtype == BOOL
            assert not y.requires_grad


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "maximum", "minimum", "negative", "abs", "square"])
def test_integers_stay_integers_and_exact(name):
    a, b = np.array([2**60 + 1, -3]), np.array([5, 7])
    function = getattr(tg, name)
    operands = (a,) if name in ("negative", "abs", "square") else (a, b)
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(*operands)
    got = function(*map(tg.tensor, operands))
    assert got.dtype == I64
    np.testing.assert_array_equal(got, expected)


def test_an_integer_power_is_of_one_dtype_whatever_the_exponent():
    x = tg.tensor([2, 3])
    assert (x**2).dtype == (x**3).dtype


def test_lists_beside_float64_keep_their_digits():
    x = tg.tensor([1.0, 1.0], dtype="float64")
    np.testing.assert_array_equal(x * [0.1, 0.2], [0.1, 0.2])
    np.testing.assert_array_equal([0.1, 0.2] * x, [0.1, 0.2])
    assert (tg.tensor([1.0, 1.0]) * [0.1, 0.2]).dtype == F32


def test_other_functions_keep_float32():
    x = tg.tensor(np.full((4, 3), 0.5), dtype="float32", requires_grad=True)
    index = tg.tensor([0, 2])
    for y in (
        x[1:], x[index], x[x > 0.1], tg.take(x, index), tg.embedding(x, index), x.T, x.mT, x.reshape(-1),
        tg.broadcast_to(x, (2, 4, 3)), tg.expand_dims(x, 1), tg.permute_dims(x, (1, 0)), *tg.split(x, 2),
        tg.dropout(x, 0.3), tg.linear(x, x), tg.linear(x, x, x[:, 0]), x @ x.T, tg.cross_entropy(x, [0, 1, 2, 0]),
        tg.cross_entropy(x, [0, 1, 2, 0], weight=[0.1, 0.2, 0.3], label_smoothing=0.1),
        tg.cross_entropy(x, [0, 1, 2, 0], weight=np.array([0.1, 0.2, 0.3])), tg.mse_loss(x, tg.zeros(4, 3)),
        tg.mean(x, (0, 1)), tg.sum(x, 0, True), x.detach(), tg.clip(x, 0, 1), tg.where(True, x, 0),
    ):  # fmt: skip
        assert y.dtype == F32
        if y.requires_grad:
            x.grad = None
            y.sum().backward()
            assert x.grad.dtype == F32


def test_astype_and_its_gradient():
    x = tg.tensor([1.25, -2.5], dtype="float32", requires_grad=True)
    y = x.astype("float64")
    assert y.dtype == F64
    (y * y).sum().backward()
    assert x.grad.dtype == F32
    np.testing.assert_array_equal(x.grad, [2.5, -5.0])
    assert x.astype("float32") is x
    assert x.astype(int).dtype == I64
    x.grad = None
    (x * x).backward(np.array([1.0, 2.0], np.float64))
    assert x.grad.dtype == F32


def test_numpy_functions_and_arrays_on_the_left():
    x = tg.tensor([0.5, 1.0], requires_grad=True)
    for y in (np.sin(x), np.tanh(x), np.maximum(x, 0.7), np.float64(2.0) * x, np.multiply(2.0, x), np.absolute(x)):
        assert isinstance(y, tg.Tensor)
        assert y.dtype == F32
        assert y.requires_grad
    array = np.ones(2, np.float32)
    for y in (array + x, array @ x, array / x, array > x, array - x):
        assert isinstance(y, tg.Tensor)
    with pytest.raises((TypeError, TinygradError)):
        array += x
    np.testing.assert_array_equal(np.asarray(x), x.numpy())
    assert not np.asarray(x).flags.writeable
    assert np.array(x, dtype=np.float64).dtype == F64
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0] = 1.0
