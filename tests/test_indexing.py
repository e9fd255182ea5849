"""Indexing: every kind of index against NumPy, the gradient against a plain scatter-add, and what it costs."""

from __future__ import annotations

import array

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import DtypeError, ShapeError, TinygradError
from tinygrad_rnn.kernels import gather
from tinygrad_rnn.kernels.runtime import pool

SHAPE = (4, 3, 5)
INDICES = {
    "int": 2,
    "negative int": -1,
    "numpy int": np.int64(3),
    "uint8 scalar": np.uint8(1),
    "two ints": (1, -2),
    "all ints": (1, 2, 3),
    "slice": slice(1, 3),
    "open slice": slice(None, 2),
    "negative step": (slice(None, None, -2), slice(3, 0, -1)),
    "slice past the end": slice(2, 100),
    "empty slice": slice(3, 1),
    "everything": slice(None),
    "ellipsis": (..., 1),
    "ellipsis in the middle": (0, ..., slice(1, 4, 2)),
    "none": None,
    "none and ints": (None, 1, None, ..., None),
    "empty tuple": (),
    "list": [0, 2, 2, 0, 0],
    "list of bools": [True, False, True, True],
    "empty list": [],
    "array": np.array([3, 3, -1, 0]),
    "array 2-D": np.array([[0, 1], [1, 1]]),
    "array without axes": np.array(2),
    "empty array": np.zeros((0, 2), int),
    "int8 array": np.array([3, 3, -4], np.int8),
    "uint8 array": np.array([3, 3, 0], np.uint8),
    "uint64 array": np.array([3, 3, 0], np.uint64),
    "read-only array": np.broadcast_to(np.array([1]), (3,)),
    "two arrays": (np.array([0, 0, 3]), np.array([1, 1, 2])),
    "two lists": ([0, 0, 3], [1, 1, 2]),
    "two tuples": ((0, 0, 3), (1, 1, 2)),
    "tuple and slice": ((0, 0), slice(1, 3)),
    "arrays broadcast": (np.array([[0], [0]]), np.array([1, 1, 2])),
    "arrays apart": (np.array([0, 0]), slice(None), np.array([4, 4])),
    "array after slice": (slice(None), np.array([2, 2, 0])),
    "array after ellipsis": (..., np.array([4, 4, 4])),
    "array and int": (np.array([1, 1]), 2),
    "array and none": (None, np.array([1, 1])),
    "range": range(0, 4, 2),
    "mask": np.array([True, False, True, False]),
    "mask of all axes": np.arange(60).reshape(SHAPE) % 7 == 0,
    "mask of two axes": np.arange(12).reshape(4, 3) % 2 == 0,
    "mask and int": (np.array([True, False, True, True]), 1),
    "mask and array": (np.array([True, False, True, False]), np.array([1, 1])),
    "mask of nothing": np.zeros(SHAPE, bool),
    "mask after slice": (slice(None), np.array([True, False, True])),
    "true": True,
    "false": False,
    "sequence of another kind": array.array("q", [0, 0, 1]),
}


def plain(key):
    return key.numpy() if isinstance(key, tg.Tensor) else key


def reference_gradient(shape, key, g):
    """Where each element went, by indexing their numbers."""
    places = np.arange(int(np.prod(shape))).reshape(shape)[key]
    return np.bincount(np.ravel(places), np.ravel(g), minlength=int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("name", INDICES)
def test_value_and_gradient_of_every_kind_of_index(name):
    key, rng = INDICES[name], np.random.default_rng(0)
    a = rng.normal(size=SHAPE)
    x = tg.tensor(a, requires_grad=True)
    y = x[key]
    expected = a[key]
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y, expected)
    g = rng.normal(size=expected.shape)
    y.backward(g)
    np.testing.assert_allclose(x.grad, reference_gradient(SHAPE, key, g), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", INDICES)
def test_double_backward_through_every_kind_of_index(name):
    key, rng = INDICES[name], np.random.default_rng(1)
    x = tg.tensor(rng.normal(size=SHAPE), requires_grad=True)
    y = x[key]
    w = tg.tensor(rng.normal(size=SHAPE))
    g = tg.grad((y * y * y).sum(), x, create_graph=True)
    second = tg.grad((g * w).sum(), x)
    counts = reference_gradient(SHAPE, key, np.ones(y.shape))
    np.testing.assert_allclose(g, counts * 3.0 * x.numpy() ** 2, rtol=1e-13)
    np.testing.assert_allclose(second, counts * 6.0 * x.numpy() * w.numpy(), rtol=1e-13)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64"])
@pytest.mark.parametrize("rows", [5, 200, 40_000])
def test_an_index_may_be_narrower_than_the_axis(dtype, rows):
    index = np.array([0, 4, 4, 1], dtype)
    for pick in (lambda x: x[index], lambda x: tg.take(x, index), lambda x: tg.embedding(x, index)):
        x = tg.tensor(np.zeros((rows, 2)), requires_grad=True)
        pick(x).sum().backward()
        np.testing.assert_array_equal(x.grad[:5], [[1, 1], [1, 1], [0, 0], [0, 0], [2, 2]])


def test_tensors_as_indices():
    a = np.arange(12.0).reshape(4, 3)
    for key in (
        tg.tensor([0, 2, 2]),
        tg.tensor(1),
        tg.tensor(a > 5),
        (tg.tensor([1, 1]), tg.tensor([0, 2])),
        (slice(None), tg.tensor([2, 2])),
    ):
        x = tg.tensor(a, requires_grad=True)
        numpy_key = tuple(map(plain, key)) if isinstance(key, tuple) else plain(key)
        np.testing.assert_array_equal(x[key], a[numpy_key])
        x[key].sum().backward()
        np.testing.assert_array_equal(x.grad, reference_gradient(a.shape, numpy_key, np.ones(a[numpy_key].shape)))
    x = tg.tensor(a)
    np.testing.assert_array_equal(x[x > 5.0], a[a > 5])
    np.testing.assert_array_equal(x[tg.tensor(1) : tg.tensor(3)], a[1:3])


@pytest.mark.parametrize(
    ("index", "key"),
    [
        (np.array([0, 1]), lambda i: i),
        ([0, 1], lambda i: i),
        (tg.tensor([0, 1]), lambda i: i),
        (np.array([0, 1]), lambda i: (slice(None), i)),
        ([0, 1], lambda i: (slice(None), i)),
        (tg.tensor([0, 1]), lambda i: (..., i)),
        (np.array([True, True, False]), lambda i: i),
        (tg.tensor([0, 1]), lambda i: slice(i[0], i[1])),
    ],
)
def test_changing_the_index_after_forward_changes_no_gradient(index, key):
    index = index.copy() if hasattr(index, "copy") else tg.tensor(index)
    x = tg.tensor(np.zeros((3, 3)), requires_grad=True)
    y = x[key(index)]
    expected = reference_gradient((3, 3), np.index_exp[key(np.array(plain(index)))], np.ones(y.shape))
    index[0], index[1] = index[1], 2
    try:
        y.sum().backward()
    except TinygradError:
        return  # refused, which is never wrong
    np.testing.assert_array_equal(x.grad, expected)


def test_basic_indexing_is_a_view_and_advanced_a_copy():
    x = tg.tensor(np.zeros((4, 3)))
    x[1][2] = 7.0
    assert x[1, 2].item() == 7.0
    one = x[1, 2]
    one += 1.0
    assert x[1, 2].item() == 8.0
    x[1, 2] = 7.0
    x[[1]][0, 0] = 5.0
    assert x[1, 0].item() == 0.0
    x[x == 7.0] = 1.0
    x[tg.tensor([0, 3]), 0] = tg.tensor([2.0, 3.0])
    np.testing.assert_array_equal(x, [[2, 0, 0], [0, 0, 1], [0, 0, 0], [3, 0, 0]])


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (4, ShapeError),
        (-5, ShapeError),
        ((0, 0, 0), ShapeError),
        (np.array([0, 4]), ShapeError),
        (np.ones(3, bool), ShapeError),
        ((..., ...), ShapeError),
        ((np.array([0, 1]), np.array([0, 1, 2])), ShapeError),
        (1.5, DtypeError),
        ("a", DtypeError),
        (np.array([0.5]), DtypeError),
        (tg.tensor([0.5]), DtypeError),
        (slice(0.5, None), DtypeError),
        ([[0], [0, 1]], TinygradError),
    ],
)
def test_what_is_no_index_is_refused(key, error):
    x = tg.zeros(4, 3)
    with pytest.raises(error):
        x[key]
    with pytest.raises(TinygradError):
        x[key] = 1.0


def count_elements(monkeypatch):
    """Count the elements that gradients of indexing allocate and add."""
    counted = {"made": 0, "added": 0}
    real_add, real_zeros = gather.add_at, pool.zeros

    def add_at(out, key, values):
        counted["added"] += np.size(values)
        return real_add(out, key, values)

    def zeros(shape, dtype):
        made = real_zeros(shape, dtype)
        counted["made"] += made.size
        return made

    monkeypatch.setattr(gather, "add_at", add_at)
    monkeypatch.setattr(pool, "zeros", zeros)
    return counted


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("cut", ["index", "iterate", "split", "take", "rows reversed"])
@pytest.mark.parametrize("steps", [5, 50])
def test_the_gradient_of_slices_costs_what_was_indexed(monkeypatch, steps, cut, create_graph):
    counted = count_elements(monkeypatch)
    x = tg.tensor(np.ones((steps, 2, 3)), requires_grad=True)
    pieces = {
        "index": lambda: [x[t] for t in range(steps)],
        "iterate": lambda: list(x),
        "split": lambda: [p.squeeze(0) for p in tg.split(x, steps)],
        "take": lambda: [tg.take(x, [t]).squeeze(0) for t in range(steps)],
        "rows reversed": lambda: [x[steps - 1 - t] for t in range(steps)],
    }[cut]()
    y = pieces[0]
    for piece in pieces[1:]:
        y = tg.tanh(y) * piece
    tg.grad(y.sum(), x, create_graph=create_graph)
    assert counted["made"] == x.size
    assert counted["added"] == x.size


def test_pieces_and_whole_gradients_meet_in_any_order():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 3))
    for order in range(6):
        x = tg.tensor(a, requires_grad=True)
        inner = x * 2.0
        uses = [lambda t: (t * t).sum(), lambda t: t[1].sum() * 3.0, lambda t: t[[0, 0, 1]].sum() * 5.0]
        first, second, third = [uses[(order + i) % 3] for i in range(3)][:: 1 if order < 3 else -1]
        (first(inner) + second(inner) + third(inner)).backward()
        expected = 8.0 * a
        expected[1] += 6.0 + 10.0
        expected[0] += 20.0
        np.testing.assert_allclose(x.grad, expected, rtol=1e-14)


def test_the_gradient_of_a_scatter_is_deterministic_and_complete():
    rng = np.random.default_rng(0)
    index = rng.integers(0, 50, (40, 30))
    g = rng.normal(size=(40, 30, 6))
    weight = tg.tensor(rng.normal(size=(50, 6)), requires_grad=True)
    tg.embedding(weight, index).backward(g)
    expected = np.zeros((50, 6))
    np.add.at(expected, index, g)
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-13, atol=1e-13)
