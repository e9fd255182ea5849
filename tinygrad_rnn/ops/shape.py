"""Shape ops: elements move, nothing is computed. Results share memory with the input where NumPy's do."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from .declare import Array, Refusal, call, composite, shape
from .index import getitem
from .op import normalized_axes


@shape(
    view=True,
    samples=lambda r: [
        call(r(2, 6), shape=(3, 4)),
        call(r(2, 6), shape=(-1,)),
        call(r(0, 3), shape=(3, 0)),
        call(r(), shape=(1, 1)),
    ],
    refusals=lambda r: [Refusal(call(r(2, 6), shape=(5, 2)), ShapeError, "cannot hold")],
)
def reshape(x: Array, shape: Any) -> Any:
    """The same elements in row-major order in another shape; one size may be -1."""
    try:
        shape = tuple(map(operator.index, shape if isinstance(shape, (tuple, list)) else (shape,)))
    except TypeError:
        raise ShapeError("reshape: a shape is of whole numbers", got=shape) from None
    try:
        return x.reshape(shape)
    except ValueError:
        raise ShapeError(
            "reshape: the new shape cannot hold the elements",
            expected=f"{x.size} elements",
            got=f"{x.shape} -> {shape}",
        ) from None


@reshape.vjp("x")
def _(g, x_shape):
    return reshape(g, x_shape)


@shape(
    view=True,
    symbol="transpose",
    samples=lambda r: [call(r(2, 3, 4), axes=(2, 0, 1)), call(r(2, 3)), call(r(2, 3, 4), axes=(0, -1, 1))],
    refusals=lambda r: [Refusal(call(r(2, 3), axes=(0, 0)), ShapeError, "twice")],
)
def permute_dims(x: Array, axes: Any = None) -> Any:
    """Axis i of the result is axis axes[i] of x; None reverses them."""
    return np.transpose(x, axes)


@permute_dims.prepare
def _(arrays, settings):
    axes, ndim = settings["axes"], arrays[0].ndim
    if axes is None:
        return settings
    axes = axes if isinstance(axes, (tuple, list)) else (axes,)
    found = tuple([normalized_axes("permute_dims", axis, ndim, several=False) for axis in axes])
    if sorted(found) != list(range(ndim)):
        raise ShapeError(
            "permute_dims: an axis is missing or named twice", expected=f"each of {ndim} axes once", got=axes
        )
    return {"axes": found}


@permute_dims.vjp("x")
def _(g, axes):
    return permute_dims(g, None if axes is None else tuple([axes.index(i) for i in range(len(axes))]))


@shape(
    linear=True,
    samples=lambda r: [
        call(r(3), shape=(2, 3)),
        call(r(2, 1), shape=(4, 2, 5)),
        call(r(), shape=(2, 2)),
        call(r(1, 3), shape=(0, 3)),
    ],
    refusals=lambda r: [Refusal(call(r(2, 3), shape=(2, 4)), ShapeError, "does not broadcast")],
)
def broadcast_to(x: Array, shape: Any) -> Any:
    """x repeated along new axes and axes of size 1, without copying."""
    try:
        return np.broadcast_to(x, shape)
    except ValueError:
        raise ShapeError(
            "broadcast_to: the shape does not broadcast", expected=f"a shape ending like {x.shape}", got=shape
        ) from None


@broadcast_to.vjp("x")
def _(g):
    return g


@shape(
    view=True,
    samples=lambda r: [call(r(2, 3), axis=0), call(r(2, 3), axis=-1), call(r(2, 3), axis=(0, 2)), call(r(), axis=0)],
    refusals=lambda r: [Refusal(call(r(2, 3), axis=5), ShapeError, "no such axis")],
)
def expand_dims(x: Array, axis: Any) -> Any:
    """x with axes of size 1 at the places `axis` of the result."""
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    sizes = list(x.shape)
    for place in normalized_axes("expand_dims", axis, x.ndim + count):
        sizes.insert(place, 1)
    return x.reshape(sizes)  # a view, whatever the strides


@expand_dims.vjp("x")
def _(g, x_shape):
    return reshape(g, x_shape)


@shape(
    view=True,
    samples=lambda r: [call(r(1, 3, 1)), call(r(1, 3, 1), axis=-1), call(r(1, 3, 1), axis=(0, 2))],
    refusals=lambda r: [Refusal(call(r(2, 3), axis=0), ShapeError, "size 1")],
)
def squeeze(x: Array, axis: Any = None) -> Any:
    """x without the axes `axis`, which must be of size 1; None takes all that are."""
    if axis is None:
        return np.squeeze(x)
    axes = normalized_axes("squeeze", axis, x.ndim)
    if any(x.shape[i] != 1 for i in axes):
        raise ShapeError(
            "squeeze: only an axis of size 1 can go", expected=f"size 1 at axis {axis}", got=f"shape {x.shape}"
        )
    return np.squeeze(x, axes)


@squeeze.vjp("x")
def _(g, x_shape):
    return reshape(g, x_shape)


@shape(view=True, samples=lambda r: [call(r(2, 3)), call(r()), call(r(0, 3))])
def detach(x: Array) -> Any:
    """The same values, in the same memory, without a history: no gradient goes through."""
    return x[...]  # an array of its own, so that whoever knows values by their arrays can tell it from x


@shape(
    linear=True,
    promotes=True,
    samples=lambda r: [
        call([r(2, 3), r(4, 3)]),
        call([r(2, 3), r(2, 1), r(2, 0)], axis=1),
        call([r(2, 3), r(2, 2)], axis=-1),
        call([r(3)]),
    ],
    refusals=lambda r: [
        Refusal(call([r(2, 3), r(2, 2)]), ShapeError, "differ"),
        Refusal(call([]), ArgumentError, "at least one"),
    ],
)
def concat(arrays: Sequence[Array], axis: Any = 0) -> Any:
    """The arrays one after another along an existing axis; their other sizes must be equal."""
    try:
        return np.concatenate(arrays, axis)
    except ValueError:
        raise ShapeError(
            f"concat: sizes differ elsewhere than along axis {axis}",
            expected="shapes equal but for that axis",
            got=", ".join(str(a.shape) for a in arrays),
        ) from None


@concat.prepare
def _(arrays, settings):
    return {"axis": normalized_axes("concat", settings["axis"], arrays[0].ndim, several=False)}


@concat.vjp("arrays")
def _(g, arrays_shape, axis):
    return split(g, [each[axis] for each in arrays_shape], axis)


@shape(
    linear=True,
    promotes=True,
    samples=lambda r: [call([r(2, 3), r(2, 3)]), call([r(2, 3), r(2, 3), r(2, 3)], axis=-1), call([r(), r()])],
    refusals=lambda r: [Refusal(call([r(2, 3), r(2, 2)]), ShapeError, "differ")],
)
def stack(arrays: Sequence[Array], axis: Any = 0) -> Any:
    """The arrays, all of one shape, along a new axis."""
    try:
        return np.stack(arrays, axis)
    except ValueError:
        raise ShapeError("stack: the shapes differ", got=", ".join(str(a.shape) for a in arrays)) from None


@stack.prepare
def _(arrays, settings):
    return {"axis": normalized_axes("stack", settings["axis"], arrays[0].ndim + 1, several=False)}


@stack.vjp("arrays")
def _(g, axis):
    before = (slice(None),) * axis
    return [g[(*before, i)] for i in range(g.shape[axis])]


@shape(linear=True, whole_numbers=False, samples=lambda r: [call(r(2, 3), dtype="float64")])
def astype(x: Array, dtype: Any) -> Any:
    """x in another dtype; the gradient comes back in x's own."""
    return x.astype(dtype)


@astype.vjp("x")
def _(g, x_dtype):
    return astype(g, x_dtype)


@composite(
    samples=lambda r: [call(r(2, 6), [1, 5], axis=1), call(r(4, 3), 2), call(r(4, 3), [4, 0]), call(r(0, 3), 1)],
    refusals=lambda r: [
        Refusal(call(r(2, 6), 4, axis=1), ShapeError, "not equal"),
        Refusal(call(r(2, 6), [1, 4], axis=1), ShapeError, "add up"),
        Refusal(call(r(2, 6), 1, axis=2), ShapeError, "no such axis"),
    ],
)
def split(x: Array, sections: int | Sequence[int], axis: int = 0) -> tuple[Any, ...]:
    """x cut along an axis into pieces that share its memory.

    Args:
        x: a tensor.
        sections: a number of equal pieces, or the sizes of the pieces.
        axis: which axis to cut.

    Raises:
        ShapeError: where the sizes do not add up to the axis.

    >>> import tinygrad_rnn as tg
    >>> [piece.shape for piece in tg.split(tg.zeros(2, 6), [1, 5], axis=1)]
    [(2, 1), (2, 5)]
    """
    axis = normalized_axes("split", axis, len(x.shape), several=False)
    whole = x.shape[axis]
    if isinstance(sections, (int, np.integer)):
        if sections < 1 or whole % sections:
            raise ShapeError("split: the pieces are not equal", expected=f"a divisor of {whole}", got=sections)
        sections = [whole // sections] * int(sections)
    if sum(sections) != whole or min(sections, default=0) < 0:
        raise ShapeError("split: the sizes do not add up", expected=f"a sum of {whole}", got=list(sections))
    before, start, pieces = (slice(None),) * axis, 0, []
    for size in sections:
        pieces.append(getitem(x, (*before, slice(start, start + size))))
        start += size
    return tuple(pieces)
