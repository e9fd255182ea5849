"""Reductions against PyTorch: values and gradients of every order, over ties, zeros, infinities and nothing at all."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tinygrad_rnn as tg

torch = pytest.importorskip("torch")
from parity import agree, compare, normal  # noqa: E402 - it imports torch

pytestmark = pytest.mark.parity

INF, NAN = np.inf, np.nan

TIES = np.array([[1.0, 3.0, 3.0, -1.0], [2.0, 2.0, 2.0, 2.0], [0.0, -0.0, -5.0, -5.0]])


def torch_axes(function):
    def call(x, axis, keepdims):
        return function(x, tuple(range(x.ndim)) if axis is None else axis, keepdims)

    return call


def torch_prod(x, axes, keepdims):
    """Torch takes one axis at a time."""
    for axis in sorted((a % x.ndim for a in (axes if isinstance(axes, tuple) else (axes,))), reverse=True):
        x = torch.prod(x, axis, keepdims)
    return x


REDUCTIONS = {
    "sum": torch_axes(torch.sum),
    "mean": torch_axes(torch.mean),
    "var": torch_axes(lambda x, axes, keepdims: torch.var(x, axes, correction=0, keepdim=keepdims)),
    "std": torch_axes(lambda x, axes, keepdims: torch.std(x, axes, correction=0, keepdim=keepdims)),
    "max": torch_axes(torch.amax),
    "min": torch_axes(torch.amin),
    "prod": torch_axes(torch_prod),
    "logsumexp": torch_axes(torch.logsumexp),
    "any": torch_axes(torch.any),
    "all": torch_axes(torch.all),
}


def compare_orders(ours, theirs, x, orders=2, e=1e-10):
    """Derivatives of the weighted sum of f, of the weighted sum of its gradient, and so on."""
    a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    with np.errstate(all="ignore"):
        y, z = ours(a), theirs(b)
        for order in range(1, orders + 1):
            w = np.random.default_rng(order).normal(size=y.shape)
            y = tg.grad((y * w).sum(), a, create_graph=True)
            z = torch.autograd.grad((z * torch.tensor(w)).sum(), b, create_graph=True)[0]
            agree(y, z.detach().numpy(), e, f"derivative {order}")
            if not z.requires_grad:  # torch knows that it is constant
                return


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


@pytest.mark.parametrize("axis", [None, 1, (0, 2)])
@pytest.mark.parametrize("name", ["var", "std", "prod", "logsumexp"])
def test_derivatives_of_reductions_to_the_third_order(name, axis):
    compare_orders(
        lambda t: getattr(tg, name)(t, axis=axis), lambda t: REDUCTIONS[name](t, axis, False), normal(2, 3, 4), 3
    )


@pytest.mark.parametrize("name", [name for name in REDUCTIONS if name not in ("max", "min")])
def test_reductions_of_nothing(name):
    for shape, axis in (((0, 3), 0), ((3, 0), (0, 1)), ((0,), None), ((2, 0, 3), 2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of degrees of freedom
            compare(
                lambda t, a=axis: getattr(tg, name)(t, axis=a),
                lambda t, a=axis: REDUCTIONS[name](t, a, False),
                np.zeros(shape),
            )


@pytest.mark.parametrize("row", [[INF, 1.0], [-INF, 1.0], [INF, INF], [INF, -INF], [1e300, -1e300], [NAN, 1.0]])
def test_reductions_of_infinities(row):
    x = np.array(row)
    for name in REDUCTIONS:
        if name != "prod":  # its gradients are better than torch's, below
            compare(lambda t, n=name: getattr(tg, n)(t, axis=0), lambda t, n=name: REDUCTIONS[n](t, 0, False), x)


def test_max_with_an_infinite_gradient_is_infinite_at_the_maximum_only():
    x = tg.tensor([1.0, 2.0, 0.0], requires_grad=True)
    tg.max(x).backward(np.inf)
    np.testing.assert_array_equal(x.grad, [0.0, INF, 0.0])


# --- Spread ---

ROWS = [[1.0], [2.0, 2.0], [1.0, 2.0], [1.0, 2.0, 4.0], [], [1e8, 1e8 + 1, 1e8 + 2], [1e-200, 2e-200]]


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("correction", [0, 1, 2, 3, 0.5, -1])
@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("name", ["var", "std"])
def test_spread_with_every_correction(name, row, correction):
    x = np.array(row)
    ours, theirs = getattr(tg, name), getattr(torch, name)
    if len(row) >= correction or not row:
        compare(lambda t: ours(t, 0, correction), lambda t: theirs(t, 0, correction=correction), x)
        return
    # More than there are elements: the value is torch's, the gradient that of an infinite value.
    t = tg.tensor(x, requires_grad=True)
    y = ours(t, 0, correction)
    agree(y, theirs(torch.tensor(x), 0, correction=correction).numpy(), 0.0)
    y.backward()
    assert not np.isfinite(t.grad.numpy()).any()


def test_equal_numbers_have_no_spread_whatever_they_are():
    for value in (0.1, 1 / 3, 1e8 + 0.3, -7e-9):
        for dtype in ("float32", "float64"):
            x = tg.tensor(np.full((3, 7), value), dtype=dtype, requires_grad=True)
            spread = tg.std(x, axis=1)
            np.testing.assert_array_equal(spread, 0.0)
            np.testing.assert_array_equal(tg.var(x), 0.0)
            g = tg.grad(spread.sum(), x, create_graph=True)
            np.testing.assert_array_equal(g, 0.0)
            np.testing.assert_array_equal(tg.grad((g * normal(3, 7)).sum(), x), 0.0)


def test_a_row_without_spread_leaves_the_second_derivatives_of_the_others_right():
    compare_orders(lambda t: tg.std(t, axis=1), lambda t: torch.std(t, 1, correction=0), TIES)
    compare_orders(lambda t: tg.var(t, axis=0), lambda t: torch.var(t, 0, correction=0), TIES)


# --- Products ---

ZEROS = {
    "none": [2.0, 3.0, -4.0, 0.5, 7.0],
    "one": [2.0, 0.0, -4.0, 0.5, 7.0],
    "two": [0.0, 3.0, -4.0, -0.0, 7.0],
    "three": [0.0, 3.0, 0.0, 0.5, 0.0],
    "all": [0.0] * 4,
    "a lone one": [0.0],
}


@pytest.mark.parametrize("row", ZEROS)
def test_derivatives_of_a_product_whatever_the_number_of_zeros(row):
    x = np.array(ZEROS[row])
    compare_orders(tg.prod, torch.prod, x, 3)
    columns = np.stack([x, x[::-1], np.arange(1.0, len(x) + 1)])
    compare_orders(lambda t: tg.prod(t, axis=1), lambda t: torch.prod(t, 1), columns, 3)
    compare_orders(lambda t: tg.prod(t, axis=(1, 0), keepdims=True), lambda t: torch_prod(t, (0, 1), True), columns, 3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 31, 32, 33])
def test_products_of_every_length(n):
    x = np.random.default_rng(n).uniform(0.5, 1.5, (2, n, 3))
    x[0, n // 2, 1] = x[1, 0, 0] = 0.0
    compare_orders(lambda t: tg.prod(t, axis=1), lambda t: torch.prod(t, 1), x)
    compare_orders(lambda t: tg.prod(t, axis=(2, 0)), lambda t: torch_prod(t, (0, 2), False), x)


def test_a_product_with_an_infinity_has_the_others_as_its_gradient_where_torch_has_nan():
    x = tg.tensor(np.array([INF, 2.0, 3.0]), requires_grad=True)
    y = tg.prod(x)
    assert y.item() == INF
    y.backward()
    np.testing.assert_array_equal(x.grad, [6.0, INF, INF])


# --- Running sums ---


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 3), (3, 0), (1,), ()])
def test_cumsum(shape):
    x = normal(*shape) if shape else np.array(0.5)
    for axis in (*range(-len(shape), len(shape)),) or (0, -1):
        compare(lambda t, a=axis: tg.cumsum(t, axis=a), lambda t, a=axis: torch.cumsum(t, a), x)
    compare(tg.cumsum, lambda t: torch.cumsum(t.ravel(), 0), x)
    compare_orders(lambda t: tg.cumsum(t * t), lambda t: torch.cumsum((t * t).ravel(), 0), x)


def test_cumsum_of_infinities():
    compare(lambda t: tg.cumsum(t, 0), lambda t: torch.cumsum(t, 0), np.array([1.0, INF, 2.0, -INF, 1.0]))
    compare(lambda t: tg.cumsum(t, 0), lambda t: torch.cumsum(t, 0), np.array([1.0, NAN, 2.0]))


# --- Integers and truth ---


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_reductions_of_integers(dtype):
    a = np.array([[1, 0, 7], [1, 1, 120]]).astype(dtype)
    x = tg.tensor(a)
    for name in ("sum", "prod", "cumsum", "max", "min"):
        for axis in (None, 0, 1):
            expected = getattr(np, name)(a, axis=axis)
            got = getattr(tg, name)(x, axis=axis)
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
    for name in ("mean", "var", "std"):
        got = getattr(tg, name)(x, axis=1)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, getattr(np, name)(a, axis=1), rtol=1e-6)
    assert tg.prod(tg.tensor([2**31, 2**31])).item() == 2**62


def test_the_mean_of_integers_and_truth():
    np.testing.assert_allclose(tg.mean(tg.tensor([True, False, False, False])), 0.25)
    np.testing.assert_allclose(tg.mean(tg.tensor(np.full(300, 7, np.uint8))), 7.0)


def test_any_and_all():
    rows = [[0.0, 1.0], [0.0, -0.0], [NAN, 1.0], [INF, 2.0]]
    for x in (np.array(rows), np.array(rows) > 0.5, np.array([[1, 2], [0, 3]]), np.zeros((0, 2)), np.array(2.0)):
        for axis in (None, *range(-x.ndim, x.ndim)):
            for name in ("any", "all"):
                compare(
                    lambda t, n=name, a=axis: getattr(tg, n)(t, axis=a),
                    lambda t, n=name, a=axis: REDUCTIONS[n](t, a, False),
                    x,
                )


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_places_of_extremes(name):
    for axis in (0, -1):
        for x in (TIES, np.array([[1.0, NAN, -2.0], [NAN, -INF, INF]])):
            for keepdims in (False, True):
                compare(
                    lambda t, a=axis, k=keepdims: getattr(tg, name)(t, axis=a, keepdims=k),
                    lambda t, a=axis, k=keepdims: getattr(torch, name)(t, a, k),
                    x,
                )
    np.testing.assert_array_equal(getattr(tg, name)(tg.tensor(TIES)), getattr(np, name)(TIES))  # over all, as both


# --- Sums of exponentials ---


def test_logsumexp_of_nothing_but_minus_infinity_has_a_gradient_of_zero_where_torch_has_nan():
    x = tg.tensor(np.full(3, -INF), requires_grad=True)
    tg.logsumexp(x).backward()
    np.testing.assert_array_equal(x.grad, 0.0)


def test_a_masked_row_of_logsumexp_leaves_the_others_right():
    x = np.array([[-INF, -INF, -INF], [-INF, 1.0, 2.0], [1e300, 0.0, -1e300], [1e3, 1e3, 1e3]])
    compare_orders(lambda t: tg.logsumexp(t, axis=1)[1:], lambda t: torch.logsumexp(t[1:], 1), x, 3)
    compare_orders(lambda t: tg.logsumexp(t, axis=1)[1:], lambda t: torch.logsumexp(t, 1)[1:], np.maximum(x, -1e300), 3)
    t = tg.tensor(x, requires_grad=True)
    first = tg.grad(tg.logsumexp(t, axis=1).sum(), t, create_graph=True)
    second = tg.grad((first * normal(4, 3)).sum(), t)
    np.testing.assert_array_equal(first[0], 0.0)
    np.testing.assert_array_equal(second[0], 0.0)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (4,), (2, 0), (1, 1), ()])
def test_softmax_and_log_softmax(shape):
    for scale in (1.0, 1e3, 1e300):
        for axis in (0, -1) if shape else (0,):
            x = scale * normal(*shape) if shape else np.array(scale)
            for name in ("softmax", "log_softmax"):
                ours = lambda t, n=name, a=axis: getattr(tg, n)(t, axis=a)  # noqa: E731 - two of a kind
                theirs = lambda t, n=name, a=axis: getattr(torch, n)(t, a)  # noqa: E731
                compare(ours, theirs, x)
                compare_orders(ours, theirs, x)
    compare(tg.softmax, lambda t: torch.softmax(t, -1), np.array([-INF, 1.0, 2.0]))
    compare(tg.log_softmax, lambda t: torch.log_softmax(t, -1), np.array([-INF, 1.0, 2.0]))


@pytest.mark.parametrize("row", [[INF, 1.0], [-INF, -INF], [INF, -INF], [NAN, 1.0], [-1e300, -1e300], [1e300, -1e300]])
def test_softmax_of_infinities(row):
    for name in ("softmax", "log_softmax"):
        compare(getattr(tg, name), lambda t, n=name: getattr(torch, n)(t, -1), np.array(row))


def test_reductions_are_methods_too():
    x = tg.tensor(TIES)
    for name in (*REDUCTIONS, "cumsum", "argmax", "argmin", "softmax", "log_softmax"):
        np.testing.assert_array_equal(getattr(x, name)(axis=1), getattr(tg, name)(x, axis=1))
