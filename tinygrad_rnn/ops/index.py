"""Indexing. Its gradient is a patch: it costs what was indexed, and meets the whole array once, when that is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DtypeError, ShapeError
from ..kernels import gather
from .declare import Array, Refusal, call, opaque, shape
from .op import Piece, normalized_axes


class Patch(Piece):
    """A gradient that is zero but at `key`, where it is `g`."""

    __slots__ = ("g", "key")

    def __init__(self, g: Any, key: Any) -> None:
        self.g, self.key = g, key

    @staticmethod
    def made(pieces: Sequence[Patch], shape: tuple[int, ...]) -> Any:
        return patched([piece.g for piece in pieces], tuple([piece.key for piece in pieces]), shape)


@shape(
    symbol="[ ]",
    samples=lambda r: [
        call(r(4, 3), key=1),
        call(r(4, 3), key=(slice(None, None, -2), slice(1, 3))),
        call(r(4, 3), key=(Ellipsis, None, 0)),
        call(r(4, 3), key=np.array([0, 2, 2, -1])),
        call(r(4, 3), key=(np.array([[0, 1], [3, 3]]), np.array([2, 0]))),
        call(r(4, 3), key=np.array([True, False, True, True])),
        call(r(4, 3, 2), key=(slice(None), np.array([0, 0, 2]), 1)),
        call(r(4, 3), key=slice(2, 2)),
        call(r(), key=()),
    ],
    refusals=lambda r: [
        Refusal(call(r(4, 3), key=4), ShapeError, "out of range"),
        Refusal(call(r(4, 3), key=(0, 0, 0)), ShapeError, "axes"),
        Refusal(call(r(4, 3), key=1.5), DtypeError, "no index"),
    ],
)
def getitem(x: Array, key: Any = ()) -> Any:
    """x[key], as NumPy indexes: integers, slices, `...`, None, integer arrays, boolean arrays.

    Basic ones give a view.
    """
    try:
        y = x[key]
        # NumPy copies a single element out; with an ellipsis it is a view, like every other basic index.
        return y if isinstance(y, np.ndarray) else x[(*(key if isinstance(key, tuple) else (key,)), ...)]
    except TypeError:
        raise DtypeError(
            "indexing: this is no index", expected="ints, slices, ..., None, arrays", got=repr(key)
        ) from None
    except IndexError as trouble:
        text = str(trouble)
        if "only integers" in text or "arrays used as indices" in text:
            raise DtypeError(
                "indexing: this is no index", expected="ints, slices, ..., None, arrays", got=repr(key)
            ) from None
        what = "too many axes" if "too many indices" in text else "out of range"
        raise ShapeError(f"indexing: {what}", expected=f"an index into shape {x.shape}", got=repr(key)) from None


@getitem.vjp("x")
def _(g, key):
    return Patch(g, key)


@opaque(
    samples=lambda r: [
        call([r(3), r(3)], keys=(0, 2), shape=(4, 3)),
        call([r(2, 3)], keys=(np.array([1, 1]),), shape=(4, 3)),
    ]
)
def patched(patches: Sequence[Array], keys: Any = (), shape: Any = ()) -> Any:
    """Zeros of `shape` with each patch added at its key."""
    out = np.zeros(shape, patches[0].dtype)
    for patch, key in zip(patches, keys):
        gather.add_at(out, key, patch)
    return out


@patched.vjp("patches")
def _(g, keys):
    return [getitem(g, key) for key in keys]


def _whole_numbers(name: str, index: Any, size: int) -> Any:
    if index.dtype.kind not in "iu":
        raise DtypeError(f"{name}: an index must be of integers", got=index.dtype)
    if index.size and (index.min() < -size or index.max() >= size):
        raise ArgumentError(
            f"{name}: an index is out of range",
            expected=f"0 to {size - 1}",
            got=int(index.max() if index.max() >= size else index.min()),
        )
    return index


@shape(
    samples=lambda r: [
        call(r(4, 3), np.array([3, 0, 0])),
        call(r(4, 3), np.array([[1, -1]]), axis=1),
        call(r(4, 3), np.array(2)),
        call(r(2, 4, 3), np.array([], dtype=int), axis=1),
    ],
    refusals=lambda r: [
        Refusal(call(r(4, 3), np.array([4])), ArgumentError, "out of range"),
        Refusal(call(r(4, 3), np.array([0.5])), DtypeError, "integers"),
    ],
)
def take(x: Array, index: Array, axis: int = 0) -> Any:
    """The entries `index` of x along one axis, which the index's axes replace."""
    return x[_along(x, index, axis)]


def _along(x: Any, index: Any, axis: int) -> tuple[Any, ...]:
    if not len(x.shape):
        raise ShapeError("take: a number has no entries", expected="at least one axis", got=x.shape)
    axis = normalized_axes("take", axis, len(x.shape), several=False)
    return (*(slice(None),) * axis, _whole_numbers("take", index, x.shape[axis]))


@take.vjp("x")
def _(g, index, x_shape, axis):
    return Patch(g, (*(slice(None),) * (axis % len(x_shape)), np.array(index)))


@shape(
    samples=lambda r: [call(r(5, 3), np.array([[0, 4], [4, 2]])), call(r(5, 3), np.array(1))],
    refusals=lambda r: [
        Refusal(call(r(5, 3), np.array([5])), ArgumentError, "out of range"),
        Refusal(call(r(5, 3), np.array([-1])), ArgumentError, "out of range"),
        Refusal(call(r(5), np.array([1])), ShapeError, "table"),
    ],
)
def embedding(weight: Array, index: Array) -> Any:
    """Row index[...] of weight (V, E) for each entry: shape (*index.shape, E)."""
    if weight.ndim != 2:
        raise ShapeError("embedding: the weight is no table", expected="(V, E)", got=weight.shape)
    _whole_numbers("embedding", index, weight.shape[0])
    if index.size and index.min() < 0:
        raise ArgumentError(
            "embedding: an index is out of range", expected=f"0 to {len(weight) - 1}", got=int(index.min())
        )
    return weight[index]


@embedding.vjp("weight")
def _(g, index):
    return Patch(g, (np.array(index),))
