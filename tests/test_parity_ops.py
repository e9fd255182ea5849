"""Every function that PyTorch has too, against PyTorch: values and gradients, at the edges as well."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ShapeError

torch = pytest.importorskip("torch")
from parity import agree, compare, normal  # noqa: E402 - it imports torch

pytestmark = pytest.mark.parity
F = torch.nn.functional

INF, NAN = np.inf, np.nan


def positive(*shape):
    return np.random.default_rng(1).uniform(0.1, 3.0, size=shape)


POINTS = np.array([-3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 40.0])
POSITIVE = np.array([0.0, 1e-300, 0.25, 1.0, 9.0, 1e300])
EVERYWHERE = np.array([*POINTS, -1e4, 1e4, INF, -INF])

ELEMENTWISE = {
    "negative": (torch.negative, EVERYWHERE),
    "abs": (torch.abs, EVERYWHERE),
    "sign": (torch.sign, EVERYWHERE),
    "square": (torch.square, EVERYWHERE),
    "sqrt": (torch.sqrt, np.array([*POSITIVE, INF, -1.0])),
    "exp": (torch.exp, EVERYWHERE),
    "log": (torch.log, np.array([*POSITIVE, INF, -1.0])),
    "sin": (torch.sin, POINTS),
    "cos": (torch.cos, POINTS),
    "tanh": (torch.tanh, EVERYWHERE),
    "sigmoid": (torch.sigmoid, EVERYWHERE),
    "relu": (torch.relu, EVERYWHERE),
    "softplus": (lambda x: torch.logaddexp(x, torch.zeros_like(x)), np.array([*POINTS, -700.0, 700.0])),
    "erf": (torch.erf, EVERYWHERE),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    theirs, points = ELEMENTWISE[name]
    compare(getattr(tg, name), theirs, points)
    for point in points:  # each alone, so that a large gradient hides no small one
        compare(getattr(tg, name), theirs, np.array(point))


BINARY = {
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "power": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
PAIRS = np.array([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", BINARY)
def test_two_operands_at_every_pair_of_special_points(name):
    for a in PAIRS:
        for b in PAIRS:
            compare(getattr(tg, name), BINARY[name], np.array([a]), np.array([b]))
    compare(getattr(tg, name), BINARY[name], positive(2, 1, 3), positive(4, 1))
    compare(getattr(tg, name), BINARY[name], np.array([INF, -INF, 1.0]), np.array([2.0, 2.0, 2.0]))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5, -0.5, 0.0, 1.0, 2.0])
def test_power_with_a_number(exponent):
    for base in (-2.0, 0.0, 0.5, 3.0):
        compare(lambda x: x**exponent, lambda x: x**exponent, np.array(base))
    for base in (0.0, 2.0, 3):
        compare(lambda x, b=base: b**x, lambda x, b=base: b**x, np.array([0.0, 1.0, 2.5]))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0])
def test_second_derivative_of_power_at_zero(exponent):
    x, z = tg.tensor(np.zeros(1), requires_grad=True), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    with np.errstate(all="ignore"):
        first = tg.grad(tg.power(x, exponent).sum(), x, create_graph=True)
        second = tg.grad(first.sum(), x, allow_unused=True) if first.requires_grad else None
    other = torch.autograd.grad((z**exponent).sum(), z, create_graph=True)[0]
    wanted = torch.autograd.grad(other.sum(), z, allow_unused=True)[0] if other.requires_grad else None
    agree(first, other.detach().numpy(), 1e-12)
    agree(0.0 if second is None else second.numpy()[0], 0.0 if wanted is None else wanted.item(), 1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (None, 1.0), (0.0, None), (1.0, 0.0), (1.0, 1.0), (-INF, INF)])
def test_clip(low, high):
    x = np.array([-2.0, 0.0, 0.5, 1.0, 2.0, INF, -INF])
    compare(lambda t: tg.clip(t, low, high), lambda t: torch.clamp(t, low, high), x)
    bounds = [np.array(b) for b in (low, high) if b is not None]

    def pair(given):
        given = list(given)
        return [given.pop(0) if b is not None else None for b in (low, high)]

    compare(lambda t, *g: tg.clip(t, *pair(g)), lambda t, *g: torch.clamp(t, *pair(g)), x, *bounds)


def test_where_and_comparisons():
    a, b = np.array([1.0, 2.0, NAN, INF]), np.array([1.0, 3.0, 1.0, INF])
    names = ["greater", "greater_equal", "less", "less_equal", "not_equal", "logical_and", "logical_or"]
    for name in names:
        compare(getattr(tg, name), getattr(torch, name), a, b)
    compare(tg.equal, torch.eq, a, b)
    compare(tg.isnan, torch.isnan, a)
    compare(tg.logical_not, torch.logical_not, np.array([0.0, 1.0, NAN]))
    compare(tg.where, torch.where, np.array([[True], [False]]), normal(3), normal(2, 1))


TIES = np.array([[1.0, 3.0, 3.0, -1.0], [2.0, 2.0, 2.0, 2.0], [0.0, -0.0, -5.0, -5.0]])


def torch_axes(function):
    def call(x, axis, keepdims):
        return function(x, tuple(range(x.ndim)) if axis is None else axis, keepdims)

    return call


REDUCTIONS = {
    "sum": torch_axes(torch.sum),
    "mean": torch_axes(torch.mean),
    "max": torch_axes(torch.amax),
    "min": torch_axes(torch.amin),
    "logsumexp": torch_axes(torch.logsumexp),
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1), (1,)])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, axis, keepdims):
    for x in (TIES, normal(3, 4), normal(2, 3, 4), 1e3 * normal(2, 3)):
        compare(
            lambda t: getattr(tg, name)(t, axis=axis, keepdims=keepdims),
            lambda t: REDUCTIONS[name](t, axis, keepdims),
            x,
        )


@pytest.mark.parametrize("row", [[INF, 1.0], [-INF, 1.0], [INF, INF], [INF, -INF], [1e300, -1e300]])
def test_reductions_of_infinities(row):
    x = np.array(row)
    for name in ("sum", "mean", "max", "min", "logsumexp"):
        compare(lambda t, n=name: getattr(tg, n)(t, axis=0), lambda t, n=name: REDUCTIONS[n](t, 0, False), x)


def test_logsumexp_of_nothing_but_minus_infinity_has_a_gradient_of_zero_where_torch_has_nan():
    x = tg.tensor(np.full(3, -INF), requires_grad=True)
    tg.logsumexp(x).backward()
    np.testing.assert_array_equal(x.grad, 0.0)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (4,), (2, 0), (1, 1), ()])
def test_softmax_and_log_softmax(shape):
    for scale in (1.0, 1e3, 1e300):
        for axis in (0, -1) if shape else (0,):
            x = scale * normal(*shape) if shape else np.array(scale)
            compare(lambda t, a=axis: tg.softmax(t, axis=a), lambda t, a=axis: torch.softmax(t, a), x)
            compare(lambda t, a=axis: tg.log_softmax(t, axis=a), lambda t, a=axis: torch.log_softmax(t, a), x)
    compare(tg.softmax, lambda t: torch.softmax(t, -1), np.array([-INF, 1.0, 2.0]))
    compare(tg.log_softmax, lambda t: torch.log_softmax(t, -1), np.array([-INF, 1.0, 2.0]))


def test_the_mean_of_integers_and_truth():
    np.testing.assert_allclose(tg.mean(tg.tensor([True, False, False, False])), 0.25)
    np.testing.assert_allclose(tg.mean(tg.tensor(np.full(300, 7, np.uint8))), 7.0)


def test_argmax():
    compare(lambda t: tg.argmax(t, axis=0), lambda t: torch.argmax(t, 0), TIES)
    compare(lambda t: tg.argmax(t, axis=-1), lambda t: torch.argmax(t, -1), TIES)
    np.testing.assert_array_equal(tg.argmax(tg.tensor(TIES)), np.argmax(TIES))  # over all, as NumPy and torch


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
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    ours, theirs = SHAPES[name]
    compare(ours, theirs, normal(2, 3, 4))


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


def test_embedding():
    for index in ([[0, 4], [4, 4]], 1, np.zeros((0, 2), int)):
        compare(lambda i, w: tg.embedding(w, i), F.embedding, np.array(index), normal(5, 3))


def test_transcendental_gradients_of_gradients():
    for name in ("tanh", "sigmoid", "erf", "exp", "sin", "softplus"):
        a = normal(7)
        x, z = tg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
        g = tg.grad(getattr(tg, name)(x).sum(), x, create_graph=True)
        h = torch.autograd.grad(ELEMENTWISE[name][0](z).sum(), z, create_graph=True)[0]
        second, wanted = tg.grad((g * g).sum(), x), torch.autograd.grad((h * h).sum(), z)[0]
        agree(second, wanted.numpy(), 1e-10, name)


def test_max_with_an_infinite_gradient_is_infinite_at_the_maximum_only():
    x = tg.tensor([1.0, 2.0, 0.0], requires_grad=True)
    tg.max(x).backward(np.inf)
    np.testing.assert_array_equal(x.grad, [0.0, INF, 0.0])


def test_pieces_of_negative_size_are_refused():
    for sections in ([5, -1], -2, 0):
        with pytest.raises(ShapeError):
            tg.split(tg.ones(4), sections)


# --- Losses ---

LOGITS = {
    "one": ((5,), ()),
    "batch": ((4, 5), (4,)),
    "sequence": ((3, 5, 6), (3, 6)),
    "image": ((2, 5, 2, 3), (2, 2, 3)),
    "no rows": ((0, 5), (0,)),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", ["none", "some", "class", "all"])
@pytest.mark.parametrize("kind", LOGITS)
def test_cross_entropy(kind, ignore, weighted, reduction, smoothing):
    shape, labels = LOGITS[kind]
    target = np.random.default_rng(3).integers(0, 5, labels)
    ignore_index = 2 if ignore == "class" else -100
    if ignore in ("some", "all"):
        target = np.where((np.arange(target.size).reshape(labels) % 2 == 0) | (ignore == "all"), -100, target)
    weight = np.array([0.2, 1.0, 0.0, 3.0, 0.5]) if weighted else None
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": smoothing}
    ours = {**options, "weight": weight}
    theirs = {**options, "weight": torch.tensor(weight) if weighted else None}
    for scale in (1.0, 1e3):
        compare(
            lambda t, k: tg.cross_entropy(k, t, **ours),
            lambda t, k: F.cross_entropy(k, t, **theirs),
            np.array(target),
            scale * normal(*shape),
        )


@pytest.mark.parametrize("extreme", [[1e4, -1e4, 0.0], [1e300, -1e300, 0.0], [-INF, 0.0, 1.0], [0.0, 0.0, 0.0]])
def test_cross_entropy_of_extreme_logits(extreme):
    logits = np.array([extreme, extreme[::-1], extreme])
    compare(lambda t, k: tg.cross_entropy(k, t), lambda t, k: F.cross_entropy(k, t), np.array([0, 1, 2]), logits)


def test_cross_entropy_without_warnings_where_the_mean_is_of_nothing():
    assert np.isnan(tg.cross_entropy(tg.tensor(np.ones((2, 3))), [-100, -100]).item())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(reduction):
    for shape in ((3, 4), (), (1,)):
        compare(
            lambda a, b: tg.mse_loss(a, b, reduction=reduction),
            lambda a, b: F.mse_loss(a, b, reduction=reduction),
            normal(*shape) if shape else np.array(0.3),
            normal(*shape, seed=1) if shape else np.array(0.5),
        )
