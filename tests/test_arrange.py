"""Flip, roll, repeat, pad, tril, triu and take_along_axis against NumPy; the gradient by where each element went."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import DtypeError, GraphError, ShapeError, TinygradError


def check(function, reference, a, outside=-1):
    """Value, gradient and second derivative, where `reference` moves elements and sets the others to `outside`."""
    places = reference(np.arange(a.size, dtype=np.int64).reshape(a.shape))
    inside = places != outside
    expected = reference(a)
    x = tg.tensor(a, requires_grad=True)
    y = function(x)
    assert y.shape == expected.shape
    assert y.dtype == a.dtype
    np.testing.assert_array_equal(y.numpy()[inside], expected[inside])
    g = np.random.default_rng(0).normal(size=y.shape)

    def scattered(values):
        return np.bincount(places[inside], values[inside], minlength=a.size).reshape(a.shape)

    (first,) = tg.grad(y, [x], g, create_graph=True)
    np.testing.assert_allclose(first, scattered(g), rtol=1e-13, atol=1e-14)
    again = function(x)
    (cubic,) = tg.grad((again * again * again).sum(), [x], create_graph=True)
    weights = g.ravel()[: a.size] if g.size >= a.size else np.ones(a.size)
    counts = scattered(np.ones(y.shape))
    second = tg.grad((cubic * tg.tensor(weights.reshape(a.shape))).sum(), x)
    np.testing.assert_allclose(second, 6.0 * counts * a * weights.reshape(a.shape), rtol=1e-12, atol=1e-13)


def arrays(rng):
    shape = tuple(rng.integers(0, 5, rng.integers(0, 4)))
    a = rng.normal(size=shape)
    return a if rng.random() < 0.5 else np.array(rng.normal(size=shape[::-1])).T


def some_axes(rng, ndim):
    """None, an axis or a tuple of axes, some of them negative."""
    axes = tuple(int(axis) - ndim * int(rng.integers(2)) for axis in rng.permutation(ndim)[: rng.integers(0, ndim + 1)])
    return None if ndim == 0 or rng.random() < 0.2 else axes if rng.random() < 0.6 else int(rng.integers(-ndim, ndim))


@pytest.mark.parametrize("seed", range(60))
def test_flip(seed):
    rng = np.random.default_rng(seed)
    a = arrays(rng)
    axis = some_axes(rng, a.ndim)
    check(lambda x: tg.flip(x, axis), lambda x: np.flip(x, axis), a)


@pytest.mark.parametrize("seed", range(100))
def test_roll(seed):
    rng = np.random.default_rng(seed)
    a = arrays(rng)
    axis = some_axes(rng, a.ndim)
    several = len(axis) if isinstance(axis, tuple) else int(rng.integers(1, 4))
    shift = int(rng.integers(-9, 10)) if rng.random() < 0.5 else tuple(rng.integers(-9, 10, several).tolist())
    if isinstance(axis, tuple) and len(axis) == 1 and rng.random() < 0.5:
        axis = axis * 2
        shift = 3
    check(lambda x: tg.roll(x, shift, axis), lambda x: np.roll(x, shift, axis), a)


@pytest.mark.parametrize("seed", range(100))
def test_repeat(seed):
    rng = np.random.default_rng(seed)
    a = arrays(rng)
    axis = None if a.ndim == 0 or rng.random() < 0.3 else int(rng.integers(-a.ndim, a.ndim))
    size = a.size if axis is None else a.shape[axis]
    repeats = [int(rng.integers(0, 4)), rng.integers(0, 4, size), rng.integers(0, 4, size).tolist(), [2]][seed % 4]
    reference = np.array(repeats, np.int64)
    check(lambda x: tg.repeat(x, repeats, axis), lambda x: np.repeat(x, reference, axis), a)


MODES = ["constant", "edge", "reflect", "symmetric", "wrap"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(40))
def test_pad(mode, seed):
    rng = np.random.default_rng(seed)
    a = arrays(rng)
    if mode != "constant":
        a = np.array(rng.normal(size=tuple(n + 1 for n in a.shape)))
    widths = [
        int(rng.integers(0, 4)), tuple(rng.integers(0, 7, 2).tolist()), rng.integers(0, 3, (a.ndim, 2)),
        [(2,)] * a.ndim or 0, {-1: 2, 0: (0, 1)} if a.ndim > 1 else 1,
    ][seed % 5]  # fmt: skip

    def reference(x):
        width = widths
        if isinstance(width, dict):  # NumPy takes these since 2.3
            width = [(0, 1), *[(0, 0)] * (a.ndim - 2), (2, 2)]
        named = {"constant_values": -1} if mode == "constant" and x.dtype.kind == "i" else {}
        return np.pad(x, width, mode=mode, **named) if a.ndim else x

    check(lambda x: tg.pad(x, widths, mode), reference, a)


@pytest.mark.parametrize("values", [0, 1.5, -np.inf, (1.0, 2.0), ((1.0,), (2.0,)), ((1, 2), (3, 4)), np.array([3.0])])
def test_the_value_of_a_border(values):
    a = np.arange(6.0).reshape(2, 3)
    x = tg.tensor(a, requires_grad=True)
    y = tg.pad(x, ((1, 2), (0, 3)), constant_values=values)
    np.testing.assert_array_equal(y, np.pad(a, ((1, 2), (0, 3)), constant_values=values))
    y.backward(np.full(y.shape, np.inf))
    np.testing.assert_array_equal(x.grad, np.full((2, 3), np.inf))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("k", [-9, -1, 0, 1, 2, 9])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (2, 3, 4), (1, 2, 0, 3), (0, 0)])
def test_triangles(shape, k, upper):
    ours, theirs = (tg.triu, np.triu) if upper else (tg.tril, np.tril)
    a = np.random.default_rng(0).normal(size=shape)
    mask = theirs(np.ones(shape), k) > 0
    check(lambda x: ours(x, k), lambda x: np.where(mask, x, -1), a)
    np.testing.assert_array_equal(ours(tg.tensor(a), k), theirs(a, k))


@pytest.mark.parametrize("seed", range(60))
def test_take_along_axis(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 4, rng.integers(1, 4)).tolist())
    axis = int(rng.integers(-len(shape), len(shape)))
    a = rng.normal(size=shape)
    index = rng.integers(-shape[axis], shape[axis], [int(rng.integers(0, 5)) if i == axis % len(shape) else
                                                     n if n > 1 and rng.random() < 0.5 else 1 if n > 1 else
                                                     int(rng.integers(1, 4)) for i, n in enumerate(shape)])  # fmt: skip
    check(lambda x: tg.take_along_axis(x, index, axis), lambda x: np.take_along_axis(x, index, axis), a)
    flat = rng.integers(-a.size, a.size, 5)
    check(lambda x: tg.take_along_axis(x, flat, None), lambda x: np.take_along_axis(x, flat, None), a)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "float32"])
def test_every_dtype_is_kept(dtype):
    a = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    x = tg.tensor(a)
    made = {
        tg.flip: (np.flip, ()), tg.roll: (np.roll, (2,)), tg.repeat: (np.repeat, (2,)), tg.pad: (np.pad, (1,)),
        tg.tril: (np.tril, ()), tg.triu: (np.triu, ()),
        tg.take_along_axis: (np.take_along_axis, (np.array([[0], [1]]), 1)),
    }  # fmt: skip
    for ours, (theirs, arguments) in made.items():
        y = ours(x, *arguments)
        assert y.dtype == a.dtype
        np.testing.assert_array_equal(y, theirs(a, *arguments))
    assert tg.pad(x, 1, "edge").dtype == a.dtype


def test_a_border_that_the_dtype_cannot_hold_is_refused():
    for values in (0.5, 300, -1, np.inf):
        with pytest.raises(DtypeError):
            tg.pad(tg.tensor(np.zeros(3, np.uint8)), 1, constant_values=values)
    with pytest.raises(GraphError, match="no gradient"):
        tg.pad(tg.ones(3), 1, constant_values=tg.tensor(1.0, requires_grad=True))
    np.testing.assert_array_equal(tg.pad(tg.zeros(1), 1, constant_values=tg.tensor(2.0)), [2.0, 0.0, 2.0])


def test_flip_is_a_view():
    x = tg.tensor([1.0, 2.0, 3.0])
    y = tg.flip(x)
    x[0] = 7.0
    np.testing.assert_array_equal(y, [3.0, 2.0, 7.0])


CHANGING = {
    "permute_dims": (lambda x, s: tg.permute_dims(x[None], s), [1, 2, 0]),
    "roll": (lambda x, s: tg.roll(x, s, [0, 1]), [1, 2]),
    "flip": (lambda x, s: tg.flip(x, s), [0, 1]),
    "repeat": (lambda x, s: tg.repeat(x, s, 0), [1, 2, 0]),
    "repeat array": (lambda x, s: tg.repeat(x, s, 0), np.array([1, 2, 0])),
    "pad": (lambda x, s: tg.pad(x, s), np.array([1, 2])),
    "pad edge": (lambda x, s: tg.pad(x, s, "edge"), [1, 2]),
    "take": (lambda x, s: tg.take_along_axis(x, s, 1), np.array([[1, 2, 1, 0]])),
}


@pytest.mark.parametrize("name", CHANGING)
def test_changing_an_argument_after_forward_changes_no_gradient(name):
    function, argument = CHANGING[name]
    gradients = []
    for change in (False, True):
        setting = argument.copy()
        x = tg.tensor(np.arange(9.0).reshape(3, 3), requires_grad=True)
        y = function(x, setting)
        if change:
            setting[0], setting[-1] = setting[-1], 1 - setting[0]
        y.backward(np.arange(y.size).reshape(y.shape))
        gradients.append(x.grad.numpy())
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: tg.pad(x, ((1, 2), (3,))),
        lambda x: tg.pad(x, {0: (1, 2, 3)}),
        lambda x: tg.pad(x, {0: 1.5}),
        lambda x: tg.pad(x, None),
        lambda x: tg.pad(x, 1, constant_values=((1, 2), (3, 4), (5, 6))),
        lambda x: tg.pad(x, 1, constant_values="a"),
        lambda x: tg.pad(x, 1, constant_values=None),
        lambda x: tg.pad(x, 1, mode=["edge"]),
        lambda x: tg.repeat(x, [[1], [1, 2]]),
        lambda x: tg.repeat(x, None),
        lambda x: tg.repeat(x, [1, 2], 1.5),
        lambda x: tg.roll(x, None),
        lambda x: tg.roll(x, [[1, 2]], (0, 1)),
        lambda x: tg.roll(x, 1, "a"),
        lambda x: tg.flip(x, "a"),
        lambda x: tg.flip(x, 0.5),
        lambda x: tg.tril(x, None),
        lambda x: tg.take_along_axis(x, [[0.0]], 0),
        lambda x: tg.take_along_axis(x, [[True]], 0),
        lambda x: tg.one_hot(x),
        lambda x: tg.one_hot([1], 2, dtype="float16"),
        lambda x: tg.one_hot([1], 2, dtype="nonsense"),
        lambda x: tg.one_hot([True]),
        lambda x: tg.one_hot([1], "2"),
    ],
)
def test_nonsense_is_refused_by_a_clear_error(wrong):
    with pytest.raises(TinygradError):
        wrong(tg.ones(2, 3))


def test_split_of_nothing_into_nothing():
    assert tg.split(tg.zeros(0, 2), []) == ()
    with pytest.raises(ShapeError):
        tg.split(tg.zeros(1, 2), [])
