"""Reductions.

Along an axis, several, or all (None), where the result drops them or, with `keepdims`, keeps them as size 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..kernels import softmax as rows
from ..kernels.runtime import pool as memory
from .declare import Array, Refusal, call, opaque, reduction
from .elementwise import exp, where
from .op import normalized_axes
from .shape import astype, broadcast_to, concat, permute_dims, reshape, stack


def _axes(r: Any) -> list[Any]:
    return [
        call(r(3, 4)),
        call(r(3, 4), axis=0),
        call(r(2, 3, 4), axis=(0, -1), keepdims=True),
        call(r(2, 3, 4), axis=1),
        call(r()),
        call(r(2, 1, 3), axis=1, keepdims=True),
    ]


def _axis(r: Any) -> list[Any]:
    return [call(r(3, 4)), call(r(2, 3, 4), axis=0), call(r(2, 3, 4), axis=-2), call(r(2, 1))]


def _bad(r: Any) -> list[Refusal]:
    return [Refusal(call(r(3, 4), axis=2), ShapeError, "no such axis")]


def _bad_or_empty(r: Any) -> list[Refusal]:
    return [*_bad(r), Refusal(call(r(0, 4), axis=0), ShapeError, "nothing")]


@reduction(linear=True, symbol="Σ", samples=lambda r: [*_axes(r), call(r(0, 3), axis=0)], refusals=_bad)
def sum(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum along `axis`."""
    return np.sum(x, axis=axis, keepdims=keepdims)


@sum.vjp("x")
def _(g, x_shape):
    return broadcast_to(g, x_shape)


@reduction(linear=True, integers=False, samples=_axes, refusals=_bad)
def mean(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean along `axis`; of nothing, NaN."""
    with np.errstate(invalid="ignore"):
        return np.sum(x, axis=axis, keepdims=keepdims) / x.dtype.type(_count(x.shape, axis))


@mean.vjp("x")
def _(g, x_shape, axis):
    return broadcast_to(g / (_count(x_shape, axis) or 1), x_shape)


def _count(shape: tuple[int, ...], axis: tuple[int, ...]) -> int:
    return math.prod(shape[i] for i in axis)


# --- Spread ---


def _spreads(r: Any) -> list[Any]:
    return [*_axes(r), call(r(3, 4), axis=1, correction=1), call(r(2, 3, 4), axis=(0, 2), correction=0.5)]


def _spread_refusals(r: Any) -> list[Refusal]:
    # True in this place is meant for keepdims.
    return [*_bad(r), *[Refusal(call(r(3, 4), correction=c), ArgumentError, "is a number") for c in (True, None, "1")]]


def _freedom(name: str, shape: tuple[int, ...], axis: tuple[int, ...], correction: Any) -> float:
    """What the squares are divided by: the count less the correction, at least 0; of nothing 0."""
    if isinstance(correction, bool) or not isinstance(correction, (int, float, np.integer, np.floating)):
        raise ArgumentError(
            f"{name}: the correction is a number, taken from the count of elements",
            expected="0, or 1 for an unbiased estimate from a sample",
            got=repr(correction),
            hint="keepdims=True by its name, if that was meant",
        )
    count = _count(shape, axis)
    return float(count - correction) if count > correction and count else 0.0


def _variance(name: str, x: Any, axis: tuple[int, ...], correction: Any, keepdims: bool) -> Any:
    """Each element is taken less the first, so that the variance of equal ones is 0 to the last digit."""
    freedom = x.dtype.type(_freedom(name, x.shape, axis, correction))
    first = x[tuple(slice(1) if i in axis else slice(None) for i in range(x.ndim))]
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = x - first
        centred = shifted - np.sum(shifted, axis=axis, keepdims=True) / x.dtype.type(_count(x.shape, axis))
        return np.sum(centred * centred, axis=axis, keepdims=keepdims) / freedom


def _centred(x: Any, axis: tuple[int, ...], scale: float) -> Any:
    """(x - mean(x)) / scale; over 0 it is infinite."""
    difference = x - mean(x, axis, True)
    return difference / scale if scale else difference * np.inf


@reduction(integers=False, samples=_spreads, refusals=_spread_refusals)
def var(x: Array, axis: Any = None, correction: float = 0, keepdims: bool = False) -> Any:
    """The variance along `axis`, sum((x - mean(x))^2) / (n - correction).

    Where n - correction is 0 or less it is infinite, or NaN if all are equal; the gradient is infinite or NaN likewise
    (below 0, PyTorch's is finite and of the wrong sign).
    """
    return _variance("var", x, axis, correction, keepdims)


@var.vjp("x")
def _(g, x, axis, correction):
    return g * _centred(x, axis, _freedom("var", x.shape, axis, correction) / 2.0)


@reduction(integers=False, samples=_spreads, refusals=_spread_refusals)
def std(x: Array, axis: Any = None, correction: float = 0, keepdims: bool = False) -> Any:
    """The standard deviation along `axis`, the square root of `var`; where it is 0, its derivatives are 0."""
    return np.sqrt(_variance("std", x, axis, correction, keepdims))


@std.vjp("x")
def _(g, x, y, axis, correction):
    # The inner choice keeps the derivative of this from dividing 0 by 0 where it is masked.
    flat = y == 0.0
    freedom = _freedom("std", x.shape, axis, correction)
    return where(flat, 0.0, g / where(flat, 1.0, y)) * _centred(x, axis, freedom)


# --- Products and running sums ---


def _runs(r: Any) -> list[Any]:
    return [call(r(3, 4), axis=0), call(r(2, 3, 4), axis=-2), call(r(2, 3)), call(r()), call(r(0, 3), axis=1)]


def _products(r: Any) -> list[Any]:
    zeros = np.array([[0.0, 2.0, -1.0, 0.5], [0.0, 3.0, 0.0, -2.0], [0.0, 0.0, 0.0, 1.0]])
    return [*_axes(r), call(zeros), call(zeros, axis=0, keepdims=True), call(zeros, axis=1), call(r(0, 3), axis=0)]


@reduction(symbol="Π", samples=_products, refusals=_bad)
def prod(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The product along `axis`; of nothing, 1.

    Integers stay integers. The derivative in one element is the product of the others, found without division: it is
    right whatever the number of zeros (PyTorch's beside an infinity is NaN).
    """
    return np.prod(x, axis=axis, keepdims=keepdims)


@prod.vjp("x")
def _(g, x, axis):
    count = _count(x.shape, axis)
    if count < 2:
        return broadcast_to(g, x.shape)
    order = (*axis, *(i for i in range(len(x.shape)) if i not in axis))
    shape = tuple(x.shape[i] for i in order)
    rest = shape[len(axis) :]
    parts = _gradients_of_factors(
        reshape(permute_dims(g, order), (1, *rest)), reshape(permute_dims(x, order), (count, *rest))
    )
    return permute_dims(reshape(parts, shape), tuple(order.index(i) for i in range(len(order))))


def _gradients_of_factors(g: Any, factors: Any) -> Any:
    """The gradient of each of n `factors` (n, ...), from `g` (1, ...), that of their product.

    They are multiplied in pairs, the pairs in pairs and so on, and g comes back down this tree: 3n multiplications.
    """
    count, *rest = factors.shape
    if count == 1:
        return g
    even = count - count % 2
    left, right = factors[0:even:2], factors[1:even:2]
    pairs, odd = left * right, factors[even:]
    above = _gradients_of_factors(g, concat([pairs, odd]) if count % 2 else pairs)
    of_pairs = above[: even // 2]
    below = reshape(stack([of_pairs * right, of_pairs * left], axis=1), (even, *rest))
    return concat([below, above[even // 2 :]]) if count % 2 else below


@opaque(samples=_runs, refusals=_bad)
def cumsum(x: Array, axis: Any = None) -> Any:
    """Running sums along one axis, of x's shape, or (None) over all elements in order, of shape (x.size,).

    Integers stay integers.
    """
    y = np.cumsum(x, axis)
    return y if axis is None else y.reshape(x.shape)


@cumsum.prepare
def _(arrays, settings):
    axis = settings["axis"]
    return {"axis": None if axis is None else normalized_axes("cumsum", axis, arrays[0].ndim, several=False)}


@cumsum.vjp("x")
def _(g, x_shape, axis):
    # Element i is in the sums from i on: the running sum from the other end.
    axis = axis or 0
    ends = (*(slice(None),) * axis, slice(None, None, -1)) if len(g.shape) else ()
    return reshape(cumsum(g[ends], axis)[ends], x_shape)


# --- The extreme, and where it is ---


def _some(name: str, x: Any, axis: tuple[int, ...]) -> None:
    if _count(x.shape, axis) == 0:
        raise ShapeError(
            f"{name}: nothing to choose from", expected="a size of 1 or more", got=f"{x.shape} along {axis}"
        )


def _share(g: Any, x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    """The gradient spread evenly over the elements that reach the extreme value; NaN where that is NaN."""
    reached = x == y
    share = where(reached, g / sum(astype(reached, g.dtype), axis, True), 0.0)
    return where(y == y, share, np.nan)


@reduction(symbol="max", samples=_axes, refusals=_bad_or_empty)
def max(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element along `axis`, NaN if one is; the gradient is shared evenly by equal ones (PyTorch's amax)."""
    _some("max", x, axis)
    return np.max(x, axis=axis, keepdims=keepdims)


@max.vjp("x")
def _(g, x, y, axis):
    return _share(g, x, y, axis)


@opaque(
    symbol="k-th largest",
    integers=False,
    samples=lambda r: [call(r(4, 5), k=2), call(r(2, 3, 4), k=4), call(r(3), k=1)],
    refusals=lambda r: [Refusal(call(r(4, 5), k=6), ArgumentError, "1 to 5")],
)
def kth(x: Array, k: int) -> Any:
    """The k-th largest along the last axis, which stays, of size 1; NaN counts as larger than any.

    The gradient is shared evenly by equal ones.
    """
    size = x.shape[-1] if x.ndim else 0
    if not 1 <= k <= size:
        raise ArgumentError("kth: there are not so many", expected=f"1 to {size}", got=k)
    return np.partition(x, -k, axis=-1)[..., -k, None]


@kth.vjp("x")
def _(g, x, y):
    return _share(g, x, y, (-1,))


@reduction(symbol="min", samples=_axes, refusals=_bad_or_empty)
def min(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element along `axis`, NaN if one is.

    The gradient is shared evenly by equal ones (PyTorch's amin).
    """
    _some("min", x, axis)
    return np.min(x, axis=axis, keepdims=keepdims)


@min.vjp("x")
def _(g, x, y, axis):
    return _share(g, x, y, axis)


# --- Sums of exponentials ---


@reduction(integers=False, samples=_axes, refusals=_bad)
def logsumexp(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(e^x)) along `axis`, without overflow; of nothing, minus infinity.

    Where all are minus infinity the gradient is 0 (PyTorch's is NaN).
    """
    if x.size == 0:
        with np.errstate(divide="ignore"):
            return np.log(np.sum(x, axis=axis, keepdims=keepdims))
    top = np.max(x, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    with np.errstate(divide="ignore", over="ignore"):
        y = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return y if keepdims else np.squeeze(y, axis)


@logsumexp.vjp("x")
def _(g, x, y):
    # Where all are minus infinity the weights are those of nothing: 0, not NaN.
    return g * exp(x - where(y == -np.inf, 0.0, y))


@reduction(integers=False, samples=_axis, refusals=_bad)
def softmax(x: Array, axis: int = -1) -> Any:
    """e^x / sum(e^x) along one axis."""
    if x.size == 0:
        return x.copy()
    with np.errstate(invalid="ignore"):
        e = np.exp(x - np.max(x, axis=axis, keepdims=True))
        return e / np.sum(e, axis=axis, keepdims=True)


@softmax.vjp("x")
def _(g, y, axis):
    return y * (g - sum(g * y, axis, True))


@reduction(integers=False, samples=_axis, refusals=_bad)
def log_softmax(x: Array, axis: int = -1) -> Any:
    """x - log(sum(e^x)) along one axis."""
    return _by_rows(rows.log_softmax, axis, x)


@log_softmax.vjp("x")
def _(g, y, axis):
    return log_softmax_pull(g, y, axis)


@opaque(integers=False, samples=lambda r: [call(r(3, 4), r(3, 4), axis=1), call(r(2, 3, 4), r(2, 3, 4), axis=0)])
def log_softmax_pull(slope: Array, logs: Array, axis: int) -> Any:
    """slope - e^logs sum(slope) along one axis: how the gradient `slope` goes back through logs = log_softmax(x)."""
    return _by_rows(rows.pulled, axis, slope, logs)


@log_softmax_pull.vjp("slope")
def _(g, logs, axis):
    return g - sum(g * exp(logs), axis, True)


@log_softmax_pull.vjp("logs")
def _(g, slope, logs, axis):
    return -g * exp(logs) * sum(slope, axis, True)


def _by_rows(kernel: Any, axis: int, *arrays: Any) -> Any:
    """A kernel of rows on arrays of one shape, along an axis."""
    moved = [np.moveaxis(a, axis, -1) if a.ndim else a.reshape(1) for a in arrays]
    made = memory.empty(moved[0].shape, moved[0].dtype)
    if made.size:
        kernel(*[a.reshape(-1, made.shape[-1]) for a in moved], made.reshape(-1, made.shape[-1]))
    return np.moveaxis(made, -1, axis) if arrays[0].ndim else made.reshape(())


# --- Without a gradient ---


def _places(r: Any) -> list[Any]:
    return [call(r(3, 4)), call(r(2, 3, 4), axis=-2), call(r(2, 3), axis=1, keepdims=True), call(r())]


def _place_refusals(r: Any) -> list[Refusal]:
    return [*_bad_or_empty(r), Refusal(call(r(2, 3, 4), axis=(0, 1)), ShapeError, "one axis, or all")]


def _one_or_all(name: str, x: Any, axis: tuple[int, ...]) -> int | None:
    _some(name, x, axis)
    if len(axis) not in (1, x.ndim):
        raise ShapeError(f"{name}: one axis, or all", expected="an int or None", got=axis)
    return axis[0] if len(axis) == 1 else None


@reduction(samples=_places, refusals=_place_refusals)
def argmax(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The index of the first largest element along one axis, or (None) among all elements in order; no gradient.

    NaN counts as the largest.
    """
    return np.argmax(x, axis=_one_or_all("argmax", x, axis), keepdims=keepdims)


@reduction(samples=_places, refusals=_place_refusals)
def argmin(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The index of the first smallest element along one axis, or (None) among all elements in order; no gradient.

    NaN counts as the smallest.
    """
    return np.argmin(x, axis=_one_or_all("argmin", x, axis), keepdims=keepdims)


@reduction(samples=lambda r: [*_axes(r), call(r(0, 3), axis=0)], refusals=_bad)
def any(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """True where an element along `axis` is nonzero (NaN is); of nothing, False. No gradient."""
    return np.any(x, axis=axis, keepdims=keepdims)


@reduction(samples=lambda r: [*_axes(r), call(r(0, 3), axis=0)], refusals=_bad)
def all(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """True where every element along `axis` is nonzero (NaN is); of nothing, True. No gradient."""
    return np.all(x, axis=axis, keepdims=keepdims)
