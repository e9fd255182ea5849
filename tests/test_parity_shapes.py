"""Shapes, contractions and indexing against PyTorch: values and gradients, at the edges as well."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, ShapeError

torch = pytest.importorskip("torch")
from parity import agree, compare, normal  # noqa: E402 - it imports torch

pytestmark = pytest.mark.parity
F = torch.nn.functional


# --- Shapes ---


def times(*numbers):
    return torch.tensor(numbers)


SHAPES = {
    "reshape": (lambda t: tg.reshape(t, (4, -1)), lambda t: t.reshape(4, -1)),
    "permute_dims": (lambda t: tg.permute_dims(t, (2, 0, 1)), lambda t: t.permute(2, 0, 1)),
    "T": (lambda t: t[0].T, lambda t: t[0].T),
    "mT": (lambda t: t.mT, lambda t: t.mT),
    "expand_dims": (lambda t: tg.expand_dims(t, -1), lambda t: t.unsqueeze(-1)),
    "squeeze": (lambda t: tg.squeeze(t[:1]), lambda t: t[:1].squeeze()),
    "squeeze axis": (lambda t: tg.squeeze(t[:1], 0), lambda t: t[:1].squeeze(0)),
    "broadcast_to": (lambda t: tg.broadcast_to(t, (5, 2, 3, 4)), lambda t: t.expand(5, 2, 3, 4)),
    "concat": (lambda t: tg.concat([t, t, t[:, :1]], axis=1), lambda t: torch.concat([t, t, t[:, :1]], 1)),
    "stack": (lambda t: tg.stack([t, t * 2.0], axis=-1), lambda t: torch.stack([t, t * 2.0], -1)),
    "split": (lambda t: tg.split(t, [1, 3], axis=2), lambda t: torch.split(t, [1, 3], 2)),
    "split even": (lambda t: tg.split(t, 2, axis=2), lambda t: torch.split(t, 2, 2)),
    "take": (lambda t: tg.take(t, [1, 1, 0], axis=1), lambda t: t[:, [1, 1, 0]]),
    "astype": (lambda t: t.astype("float32").astype("float64"), lambda t: t.float().double()),
    "flip": (lambda t: tg.flip(t, (0, -1)), lambda t: torch.flip(t, (0, -1))),
    "flip one": (lambda t: t.flip(1), lambda t: t.flip(1)),
    "flip all": (lambda t: tg.flip(t), lambda t: t.flip(0, 1, 2)),
    "flip none": (lambda t: tg.flip(t, ()), lambda t: t.flip(())),
    "roll": (lambda t: tg.roll(t, 2, -1), lambda t: torch.roll(t, 2, -1)),
    "roll flat": (lambda t: tg.roll(t, -5), lambda t: torch.roll(t, -5)),
    "roll two": (lambda t: t.roll((1, -7), (0, 2)), lambda t: t.roll((1, -7), (0, 2))),
    "roll one axis twice": (lambda t: tg.roll(t, (1, 1), (2, 2)), lambda t: torch.roll(t, (1, 1), (2, 2))),
    "repeat": (lambda t: tg.repeat(t, 3, axis=1), lambda t: torch.repeat_interleave(t, 3, 1)),
    "repeat flat": (lambda t: tg.repeat(t, 2), lambda t: torch.repeat_interleave(t, 2)),
    "repeat each": (lambda t: t.repeat([2, 0, 1], -2), lambda t: torch.repeat_interleave(t, times(2, 0, 1), 1)),
    "tril": (lambda t: tg.tril(t), torch.tril),
    "tril above": (lambda t: t.tril(1), lambda t: t.tril(1)),
    "triu": (lambda t: tg.triu(t), torch.triu),
    "triu below": (lambda t: t.triu(-1), lambda t: t.triu(-1)),
    "pad": (
        lambda t: tg.pad(t, ((0, 0), (1, 2), (3, 0)), constant_values=0.5),
        lambda t: F.pad(t, (3, 0, 1, 2), value=0.5),
    ),
    "pad edge": (lambda t: tg.pad(t, {-1: (2, 5)}, mode="edge"), lambda t: F.pad(t, (2, 5), mode="replicate")),
    "pad reflect": (lambda t: tg.pad(t, {2: (2, 3)}, mode="reflect"), lambda t: F.pad(t, (2, 3), mode="reflect")),
    "pad wrap": (lambda t: tg.pad(t, {2: (4, 3)}, mode="wrap"), lambda t: F.pad(t, (4, 3), mode="circular")),
}


@pytest.mark.parametrize("layout", ["plain", "transposed", "strided"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name, layout):
    ours, theirs = SHAPES[name]
    if layout == "plain":
        compare(ours, theirs, normal(2, 3, 4))
    elif layout == "transposed":
        compare(lambda t: ours(tg.permute_dims(t, (2, 0, 1))), lambda t: theirs(t.permute(2, 0, 1)), normal(3, 4, 2))
    else:
        compare(lambda t: ours(t[::2, :, 1::2]), lambda t: theirs(t[::2, :, 1::2]), normal(4, 3, 8))


EDGES = {
    "flip of a number": (lambda t: tg.flip(t), lambda t: t.flip(()), ()),
    "flip of nothing": (lambda t: tg.flip(t, 1), lambda t: t.flip(1), (2, 0)),
    "roll of a number": (lambda t: tg.roll(t, 3), lambda t: torch.roll(t, 3), ()),
    "roll of nothing": (lambda t: tg.roll(t, 1, 0), lambda t: torch.roll(t, 1, 0), (0, 2)),
    "repeat of a number": (lambda t: tg.repeat(t, 3), lambda t: torch.repeat_interleave(t, 3), ()),
    "repeat of nothing": (lambda t: tg.repeat(t, 2, 1), lambda t: torch.repeat_interleave(t, 2, 1), (2, 0)),
    "repeat no times": (lambda t: tg.repeat(t, 0, 0), lambda t: torch.repeat_interleave(t, 0, 0), (2, 3)),
    "tril of nothing": (lambda t: tg.tril(t), torch.tril, (2, 0, 3)),
    "triu past the corner": (lambda t: tg.triu(t, 7), lambda t: torch.triu(t, 7), (2, 3)),
    "tril past the corner": (lambda t: tg.tril(t, -7), lambda t: torch.tril(t, -7), (2, 3)),
    "pad of nothing": (lambda t: tg.pad(t, 1), lambda t: F.pad(t, (1, 1, 1, 1)), (0, 2)),
    "pad by nothing": (lambda t: tg.pad(t, 0, mode="wrap"), lambda t: F.pad(t, (0, 0), mode="circular"), (1, 2, 3)),
}


@pytest.mark.parametrize("name", EDGES)
def test_shapes_at_the_edges(name):
    ours, theirs, shape = EDGES[name]
    compare(ours, theirs, normal(*shape) if shape else np.array(0.7))


def test_an_infinite_gradient_stays_in_the_triangle():
    for ours, theirs in ((tg.tril, torch.tril), (tg.triu, torch.triu)):
        x, z = tg.tensor(normal(3, 3), requires_grad=True), torch.tensor(normal(3, 3), requires_grad=True)
        g = np.where(np.eye(3) > 0, np.inf, np.nan)
        ours(x).backward(g)
        theirs(z).backward(torch.tensor(g))
        agree(x.grad, z.grad.numpy(), 0.0)


def test_pieces_of_negative_size_are_refused():
    for sections in ([5, -1], -2, 0):
        with pytest.raises(ShapeError):
            tg.split(tg.ones(4), sections)


# --- Contractions ---


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (4, 2)), ((4,), (4,)), ((4,), (4, 2)), ((3, 4), (4,)), ((5, 3, 4), (4,)), ((4,), (5, 4, 2)),
     ((5, 1, 3, 4), (2, 4, 2)), ((1, 3, 4), (5, 4, 2)), ((2, 0), (0, 3)), ((0, 3), (3, 2)), ((1, 1), (1, 1)),
     ((3, 1), (1, 3)), ((0, 2, 3), (3, 4))],
)  # fmt: skip
def test_matmul(a, b):
    compare(tg.matmul, torch.matmul, normal(*a), normal(*b, seed=1))


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 2), (1, 1), (0, 2), (4, 0)])
def test_linear(leading, inputs, outputs):
    x, weight, bias = normal(*leading, inputs), normal(outputs, inputs, seed=1), normal(outputs, seed=2)
    compare(tg.linear, F.linear, x, weight, bias)
    compare(tg.linear, F.linear, x, weight)


def linear(m, *operands):
    return tg.linear(*operands) if m is tg else F.linear(*operands)


def test_a_weight_used_in_every_way_gets_the_gradient_of_all():
    """Products with one weight are gathered into one, whatever their kind and order."""

    def both(m):
        def run(x, w, b):
            y = x @ w + linear(m, x, w, b) + linear(m, x[0], w, b) + x[1] @ w + linear(m, m.stack([x, x * 2.0]), w)[1]
            y = y + m.tanh(y) @ w + (m.stack([y, y]) @ w).sum(0) + y @ (w * 2.0) + w.sum() + (w @ w)[:1] + b[:1]
            return linear(m, y, w[[1, 0, 2, 2]], b) @ w

        return run

    compare(both(tg), both(torch), normal(3, 4), normal(4, 4, seed=1), normal(4, seed=2))


@pytest.mark.parametrize(("a", "b"), [((3,), (4,)), ((1,), (1,)), ((0,), (3,)), ((3,), (0,))])
def test_outer(a, b):
    compare(tg.outer, torch.outer, normal(*a), normal(*b, seed=1))
    compare(lambda x, y: x[::-2].outer(y), lambda x, y: x.flip(0)[::2].outer(y), normal(*a), normal(*b, seed=1))


def test_outer_flattens_as_numpy_does():
    for a, b in ((normal(2, 3), normal(4)), (np.array(2.0), normal(3)), (normal(2, 2), np.array(1.5))):
        np.testing.assert_array_equal(tg.outer(tg.tensor(a), tg.tensor(b)), np.outer(a, b))
        np.testing.assert_array_equal(tg.outer(tg.tensor(a), b.tolist()), np.outer(a, b))


# --- Indexing ---


def test_embedding():
    for index in ([[0, 4], [4, 4]], 1, np.zeros((0, 2), int)):
        compare(lambda i, w: tg.embedding(w, i), F.embedding, np.array(index), normal(5, 3))


@pytest.mark.parametrize(
    ("shape", "index", "axis"),
    [
        ((3, 4), [[0, 3, 3], [1, 1, -4], [2, 2, 2]], 1),
        ((3, 4), [[0], [-1], [0]], -1),
        ((3, 4), [[2, 0, -1, 1]], 0),
        ((3, 4), [[2], [0]], 0),
        ((1, 4), [[3, 3], [0, 1]], 1),
        ((2, 3, 4), [[[1]], [[0]]], 1),
        ((3, 4), [5, 11, 5, 0], None),
        ((3,), [2, 2, 2], 0),
        ((0, 4), np.zeros((0, 2), int), 1),
        ((3, 4), np.zeros((3, 0), int), 1),
        ((3, 0), np.zeros((3, 0), int), 1),
    ],
)
def test_take_along_axis(shape, index, axis):
    def theirs(index, x):
        return torch.take_along_dim(x, index, axis)

    index = np.array(index)
    compare(lambda i, x: tg.take_along_axis(x, i, axis), theirs, index, normal(*shape))
    turned = normal(*shape[::-1])
    compare(
        lambda i, x: tg.take_along_axis(x.T, i, axis),
        lambda i, x: theirs(i, x.permute(*range(x.ndim)[::-1]).contiguous()),
        index,
        turned,
    )


@pytest.mark.parametrize("classes", [-1, 3, 5])
@pytest.mark.parametrize("index", [[0, 2, 1], [[2, 2], [0, 1]], 2, [2]])
def test_one_hot(index, classes):
    wanted = F.one_hot(torch.tensor(index), classes).numpy()
    for ours in (
        tg.one_hot(index, classes),
        tg.one_hot(tg.tensor(index), classes),
        tg.one_hot(np.array(index, "u1"), classes),
    ):
        assert ours.dtype == wanted.dtype
        np.testing.assert_array_equal(ours, wanted)
    if classes == -1:
        np.testing.assert_array_equal(tg.one_hot(index), wanted)
    for dtype in ("float32", "float64", "bool", "int8"):
        made = tg.one_hot(index, classes, dtype=dtype)
        assert made.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize(
    ("index", "classes"), [([], -1), ([], 0), ([0, 2], 2), ([0, 2], 0), ([0, 2], -2), ([0, -1], 3)]
)
def test_what_one_hot_refuses_torch_refuses_too(index, classes):
    with pytest.raises(RuntimeError):
        F.one_hot(torch.tensor(index, dtype=torch.int64), classes)
    with pytest.raises(ArgumentError):
        tg.one_hot(np.array(index, np.int64), classes)
    assert tg.one_hot(np.zeros((2, 0), int), 3).shape == F.one_hot(torch.zeros((2, 0), dtype=torch.int64), 3).shape
