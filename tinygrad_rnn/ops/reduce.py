"""Reductions.

Along an axis, several, or all (None), where the result drops them or, with `keepdims`, keeps them as size 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShapeError
from .declare import Array, Refusal, call, reduction
from .elementwise import exp, where
from .shape import astype, broadcast_to


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


@reduction(symbol="Σ", samples=lambda r: [*_axes(r), call(r(0, 3), axis=0)], refusals=_bad)
def sum(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum along `axis`."""
    return np.sum(x, axis=axis, keepdims=keepdims)


@sum.vjp("x")
def _(g, x_shape):
    return broadcast_to(g, x_shape)


@reduction(integers=False, samples=_axes, refusals=_bad)
def mean(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean along `axis`; of nothing, NaN."""
    with np.errstate(invalid="ignore"):
        return np.sum(x, axis=axis, keepdims=keepdims) / x.dtype.type(_count(x.shape, axis))


@mean.vjp("x")
def _(g, x_shape, axis):
    return broadcast_to(g / max_of_one(_count(x_shape, axis)), x_shape)


def max_of_one(n: int) -> int:
    return n if n > 1 else 1


def _count(shape: tuple[int, ...], axis: tuple[int, ...]) -> int:
    count = 1
    for i in axis:
        count *= shape[i]
    return count


def _some(name: str, x: Any, axis: tuple[int, ...]) -> None:
    if _count(x.shape, axis) == 0:
        raise ShapeError(
            f"{name}: nothing to choose from", expected="a size of 1 or more", got=f"{x.shape} along {axis}"
        )


def _share(g: Any, x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    """The gradient spread evenly over the elements that reach the extreme value."""
    reached = x == y
    return where(reached, g / sum(astype(reached, g.dtype), axis, True), 0.0)


@reduction(symbol="max", samples=_axes, refusals=_bad_or_empty)
def max(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element along `axis`, NaN if one is; the gradient is shared evenly by equal ones (PyTorch's amax)."""
    _some("max", x, axis)
    return np.max(x, axis=axis, keepdims=keepdims)


@max.vjp("x")
def _(g, x, y, axis):
    return _share(g, x, y, axis)


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


@reduction(integers=False, samples=_axes, refusals=_bad)
def logsumexp(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(e^x)) along `axis`, without overflow; of nothing, minus infinity."""
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
    return g * where(y == -np.inf, 0.0, exp(x - where(y == -np.inf, 0.0, y)))


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
    if x.size == 0:
        return x.copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        shifted = x - np.max(x, axis=axis, keepdims=True)
        return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


@log_softmax.vjp("x")
def _(g, y, axis):
    return g - exp(y) * sum(g, axis, True)


@reduction(
    samples=lambda r: [call(r(3, 4)), call(r(2, 3, 4), axis=-2), call(r(2, 3), axis=1, keepdims=True), call(r())],
    refusals=lambda r: [*_bad_or_empty(r), Refusal(call(r(2, 3, 4), axis=(0, 1)), ShapeError, "one axis, or all")],
)
def argmax(x: Array, axis: Any = None, keepdims: bool = False) -> Any:
    """The index of the first largest element along one axis, or (None) among all elements in order; no gradient."""
    _some("argmax", x, axis)
    if len(axis) not in (1, x.ndim):
        raise ShapeError("argmax: one axis, or all", expected="an int or None", got=axis)
    return np.argmax(x, axis=axis[0] if len(axis) == 1 else None, keepdims=keepdims)
