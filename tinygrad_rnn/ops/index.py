"""Indexing. Its gradient is a patch: it costs what was indexed, and meets the whole array once, when that is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DtypeError, ShapeError
from ..kernels import gather
from ..kernels.runtime import pool as memory
from .declare import Array, Refusal, call, opaque, shape
from .op import Piece, normalized_axes


class Patch(Piece):
    """A gradient that is zero but at `key`, where it is `g`."""

    __slots__ = ("g", "key")

    def __init__(self, g: Any, key: Any) -> None:
        self.g, self.key = g, key

    @property
    def size(self) -> int:  # type: ignore[override]
        found: int = self.g.size
        return found

    @staticmethod
    def made(pieces: Sequence[Patch], shape: tuple[int, ...]) -> Any:
        return patched([piece.g for piece in pieces], tuple([piece.key for piece in pieces]), shape)


@shape(
    view=True,
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
def getitem(x: Array, key: Any) -> Any:
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
    linear=True,
    samples=lambda r: [
        call([r(3), r(3)], keys=(0, 2), shape=(4, 3)),
        call([r(2, 3)], keys=(np.array([1, 1]),), shape=(4, 3)),
    ],
)
def patched(patches: Sequence[Array], keys: Any, shape: Any) -> Any:
    """Zeros of `shape` with each patch added at its key."""
    out = memory.zeros(shape, patches[0].dtype)
    for patch, key in zip(patches, keys):
        gather.add_at(out, key, patch)
    return out


@patched.vjp("patches")
def _(g, keys):
    return [getitem(g, key) for key in keys]


def _within(name: str, index: Any, size: int, *, negative: bool = True) -> Any:
    """The index itself, where its numbers are within an axis of that size; `negative` ones count from the end."""
    _integers(name, index)
    low = -size if negative else 0
    if index.size and (index.min() < low or index.max() >= size):
        raise ArgumentError(
            f"{name}: an index is out of range",
            expected=f"0 to {size - 1}",
            got=int(index.max() if index.max() >= size else index.min()),
        )
    return index


def _integers(name: str, index: Any) -> None:
    if index.dtype.kind not in "iu":
        raise DtypeError(f"{name}: an index must be of integers", got=index.dtype)


@shape(
    linear=("x",),
    samples=lambda r: [
        call(r(4, 3), np.array([3, 0, 0])),
        call(r(4, 3), np.array([[1, -1]]), axis=1),
        call(r(4, 3), np.array(2)),
        call(r(2, 4, 3), np.array([], dtype=int), axis=1),
    ],
    refusals=lambda r: [
        Refusal(call(r(4, 3), np.array([4])), ArgumentError, "out of range"),
        Refusal(call(r(4, 3), np.array([-5])), ArgumentError, "out of range"),
        Refusal(call(r(0, 3), np.array([0])), ArgumentError, "out of range"),
        Refusal(call(r(4, 3), np.array([0.5])), DtypeError, "integers"),
        Refusal(call(r(4, 3), np.array([True])), DtypeError, "integers"),
        Refusal(call(r(4, 3), np.array([0]), axis=2), ShapeError, "no such axis"),
        Refusal(call(r(), np.array([0])), ShapeError, "no entries"),
    ],
)
def take(x: Array, index: Array, axis: int = 0) -> Any:
    """The entries `index` of x along one axis (not, as NumPy's without one, of all), which the index's axes replace.

    Negative entries count from the end.

    Raises:
        ArgumentError: for an index out of range.
        DtypeError: for an index that is not of integers.
    """
    return x[(*(slice(None),) * axis, _within("take", index, x.shape[axis]))]


@take.prepare
def _(arrays, settings):
    x = arrays[0]
    if not x.ndim:
        raise ShapeError("take: a number has no entries", expected="at least one axis", got=x.shape)
    return {"axis": normalized_axes("take", settings["axis"], x.ndim, several=False)}


@take.vjp("x")
def _(g, index, axis):
    return Patch(g, (*(slice(None),) * axis, np.array(index)))


@shape(
    linear=("weight",),
    samples=lambda r: [call(r(5, 3), np.array([[0, 4], [4, 2]])), call(r(5, 3), np.array(1))],
    refusals=lambda r: [
        Refusal(call(r(5, 3), np.array([5])), ArgumentError, "out of range"),
        Refusal(call(r(5, 3), np.array([-1])), ArgumentError, "out of range"),
        Refusal(call(r(5, 3), np.array([1.0])), DtypeError, "integers"),
        Refusal(call(r(5), np.array([1])), ShapeError, "table"),
    ],
)
def embedding(weight: Array, index: Array) -> Any:
    """Row index[...] of weight (V, E) for each entry: shape (*index.shape, E).

    Raises:
        ArgumentError: for an index that is not from 0 to V - 1.
        DtypeError: for an index that is not of integers.
        ShapeError: for a weight that is no table.
    """
    if weight.ndim != 2:
        raise ShapeError("embedding: the weight is no table", expected="(V, E)", got=weight.shape)
    rows = np.asarray(_within("embedding", index, len(weight), negative=False))
    made = memory.empty((*rows.shape, weight.shape[1]), weight.dtype)
    return np.take(weight, rows, 0, out=made, mode="clip")  # "raise" would take a detour, and all are within


@embedding.vjp("weight")
def _(g, index):
    return Patch(g, (np.array(index),))


@shape(
    linear=("x",),
    symbol="take along",
    samples=lambda r: [
        call(r(3, 4), np.array([[0, 3, 3], [1, 1, -4], [2, 2, 2]])),
        call(r(3, 4), np.array([[0], [-1]]), axis=0),
        call(r(1, 4), np.array([[3], [0]]), axis=1),
        call(r(2, 3, 4), np.array([[[2], [0]]]), axis=-2),
        call(r(2, 3), np.array([5, -6, 5]), axis=None),
        call(r(), np.array([0, 0]), axis=None),
        call(r(0, 3), np.zeros((0, 2), int)),
        call(r(2, 3), np.zeros((2, 0), int)),
    ],
    refusals=lambda r: [
        Refusal(call(r(3, 4), np.array([[4]])), ArgumentError, "out of range"),
        Refusal(call(r(3, 4), np.array([[0.5]])), DtypeError, "integers"),
        Refusal(call(r(3, 4), np.array([0, 1])), ShapeError, "as many axes"),
        Refusal(call(r(3, 4), np.array([[0], [0]])), ShapeError, "broadcast"),
        Refusal(call(r(3, 4), np.array([[0]]), axis=2), ShapeError, "no such axis"),
        Refusal(call(r(3, 4), np.array([[0]]), axis=None), ShapeError, "one axis"),
    ],
)
def take_along_axis(x: Array, index: Array, axis: Any = -1) -> Any:
    """x[..., index[..., i, ...], ...] at each place ... i ... of the index, as NumPy's take_along_axis.

    x and index have as many axes, and all but `axis` broadcast; negative indices count from the end. Without an axis
    x is taken as flat, and the index has one.

    Raises:
        ShapeError: where the shapes do not fit.
        ArgumentError: for an index out of range.
        DtypeError: for an index that is not of integers.
    """
    if axis is None:
        if index.ndim != 1:
            raise ShapeError("take_along_axis: the index of a flat x has one axis", got=f"index {index.shape}")
        return x.reshape(-1)[_within("take_along_axis", index, x.size)]
    return x[_places(x.shape, index, axis)]


def _places(x_shape: tuple[int, ...], index: Any, axis: int) -> tuple[Any, ...]:
    """The index along `axis`, and beside it every place along the other axes."""
    if index.ndim != len(x_shape) or not x_shape:
        raise ShapeError(
            "take_along_axis: x and index must have as many axes, one at least", got=f"x {x_shape}, index {index.shape}"
        )
    axis = normalized_axes("take_along_axis", axis, len(x_shape), several=False)
    key = list(np.indices((*x_shape[:axis], 1, *x_shape[axis + 1 :]), sparse=True))
    key[axis] = _within("take_along_axis", index, x_shape[axis])
    try:
        np.broadcast_shapes(*[part.shape for part in key])
    except ValueError:
        raise ShapeError(
            f"take_along_axis: the sizes do not broadcast, but for axis {axis}", got=f"x {x_shape}, index {index.shape}"
        ) from None
    return tuple(key)


@take_along_axis.vjp("x")
def _(g, index, x_shape, axis):
    index = np.array(index)
    if axis is None:
        return patched([g], ((index,),), (math.prod(x_shape),)).reshape(x_shape)
    return Patch(g, _places(x_shape, index, axis))


@opaque(
    symbol="one-hot",
    samples=lambda r: [
        call(np.array([[0, 2], [1, 0]])),
        call(np.array(1), num_classes=3, dtype="float32"),
        call(np.array([1, 0], np.uint8), num_classes=-1),
        call(np.zeros((2, 0), int), num_classes=4, dtype="bool"),
    ],
    refusals=lambda r: [
        Refusal(call(np.array([0, 3]), num_classes=3), ArgumentError, "out of range"),
        Refusal(call(np.array([0, -1])), ArgumentError, "out of range"),
        Refusal(call(np.array([0, -1]), num_classes=3), ArgumentError, "out of range"),
        Refusal(call(np.zeros(0, int)), ArgumentError, "how many"),
        Refusal(call(np.zeros(0, int), num_classes=0), ArgumentError, "how many"),
        Refusal(call(np.array([0, 1]), num_classes=2.0), DtypeError, "whole number"),
        Refusal(call(np.array([0.5])), DtypeError, "integers"),
        Refusal(call(np.array([1]), dtype="complex64"), DtypeError, "dtype"),
    ],
)
def one_hot(index: Array, num_classes: Any = None, dtype: Any = "int64") -> Any:
    """1 at place index[...] of a new last axis of size `num_classes`, 0 elsewhere, as PyTorch's one_hot; no gradient.

    Where `num_classes` is None or -1 it is the largest index + 1.

    Raises:
        ArgumentError: for an index that is negative or too large, and for an empty one without `num_classes`.
        DtypeError: for an index that is not of integers, or an unknown dtype.
    """
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    if wanted.kind not in "biu" and wanted not in (np.float32, np.float64):
        raise DtypeError("one_hot: no such dtype", expected="float32, float64, bool, or integers", got=dtype)
    _integers("one_hot", index)
    classes = -1 if num_classes is None else num_classes
    if not isinstance(classes, (int, np.integer)):
        raise DtypeError("one_hot: num_classes is a whole number", got=repr(num_classes))
    if not index.size and classes < 1:
        raise ArgumentError("one_hot: an empty index does not tell how many classes there are", hint="num_classes=")
    if classes == -1:
        classes = int(index.max()) + 1
    at = _within("one_hot", index, int(classes), negative=False).astype(np.int64)
    made = np.zeros((*index.shape, classes), wanted)
    np.put_along_axis(made, at[..., None], 1, axis=-1)
    return made
