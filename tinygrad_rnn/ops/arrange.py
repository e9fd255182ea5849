"""Arranging: elements turned round, moved on, repeated, padded, or left out."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import numpy as np

from ..errors import ArgumentError, DtypeError, GraphError, ShapeError
from .declare import Array, Refusal, call, shape
from .index import Patch, getitem, patched
from .op import normalized_axes
from .reduce import sum
from .shape import reshape

MODES = ("constant", "edge", "reflect", "symmetric", "wrap")


def _whole(what: str, number: Any) -> int:
    try:
        return operator.index(number)
    except TypeError:
        raise DtypeError(f"{what} is a whole number", got=repr(number)) from None


def _whole_numbers(what: str, numbers: Any) -> Any:
    """Whole numbers, nested or not, as an array of their own."""
    try:
        found = np.array(numbers)
    except ValueError:
        raise ShapeError(f"{what}: the rows of this list have unequal lengths", got=repr(numbers)) from None
    if found.dtype.kind not in "iu" and found.size:
        raise DtypeError(f"{what} is a whole number", got=repr(numbers))
    return found.astype(np.int64)


# --- Turned round, moved on ---


@shape(
    view=True,
    samples=lambda r: [
        call(r(2, 3)),
        call(r(2, 3), axis=-1),
        call(r(2, 3, 4), axis=(0, 2)),
        call(r(0, 3), axis=1),
        call(r()),
    ],
    refusals=lambda r: [
        Refusal(call(r(2, 3), axis=2), ShapeError, "no such axis"),
        Refusal(call(r(2, 3), axis=(1, -1)), ShapeError, "twice"),
    ],
)
def flip(x: Array, axis: Any = None) -> Any:
    """The elements of x in reverse order along one axis, several, or all (None); a view."""
    return np.flip(x, axis) if x.ndim else x[...]  # a number would be copied


@flip.prepare
def _(arrays, settings):
    return {"axis": normalized_axes("flip", settings["axis"], arrays[0].ndim)}


@flip.vjp("x")
def _(g, axis):
    return flip(g, axis)


@shape(
    linear=True,
    samples=lambda r: [
        call(r(2, 3), shift=2),
        call(r(2, 3), shift=-1, axis=-1),
        call(r(2, 3, 4), shift=(1, -6), axis=(0, 2)),
        call(r(2, 5), shift=(1, 1, 3), axis=(1, 0, 1)),
        call(r(2, 3), shift=1, axis=(0, 1)),
        call(r(0, 3), shift=1, axis=0),
        call(r(), shift=1),
    ],
    refusals=lambda r: [
        Refusal(call(r(2, 3), shift=1, axis=2), ShapeError, "no such axis"),
        Refusal(call(r(), shift=1, axis=0), ShapeError, "no such axis"),
        Refusal(call(r(2, 3), shift=(1, 2), axis=(0, 1, 1)), ShapeError, "as many shifts"),
        Refusal(call(r(2, 3), shift=0.5), DtypeError, "whole number"),
    ],
)
def roll(x: Array, shift: Any, axis: Any = None) -> Any:
    """The elements of x moved on by `shift` places along an axis; what leaves at the end comes in at the front.

    Both may be tuples, as in NumPy: an axis named twice moves by the sum. Without an axis all elements move, in
    row-major order.
    """
    return np.roll(x, shift, axis)


@roll.prepare
def _(arrays, settings):
    shift, axis = settings["shift"], settings["axis"]
    shifts = [_whole("roll: a shift", each) for each in (shift if np.ndim(shift) else [shift])]
    if axis is None:
        return {"shift": int(np.sum(shifts, dtype=np.int64)), "axis": None}
    axes = list(axis) if isinstance(axis, (tuple, list)) else [axis]
    shifts, axes = shifts * (len(axes) if len(shifts) == 1 else 1), axes * (len(shifts) if len(axes) == 1 else 1)
    if len(shifts) != len(axes):
        raise ShapeError("roll: there are not as many shifts as axes", got=f"shift {shift} with axis {axis}")
    ndim = arrays[0].ndim
    if axes and not ndim:
        raise ShapeError("roll: no such axis", expected="None: a number has no axes", got=axis)
    return {"shift": tuple(shifts), "axis": tuple(normalized_axes("roll", a, ndim, several=False) for a in axes)}


@roll.vjp("x")
def _(g, shift, axis):
    return roll(g, -shift if axis is None else tuple(-each for each in shift), axis)


# --- Repeated ---


@shape(
    linear=True,
    samples=lambda r: [
        call(r(2, 3), repeats=2),
        call(r(2, 3), repeats=3, axis=-1),
        call(r(2, 3), repeats=[1, 0, 2], axis=1),
        call(r(3, 2, 2), repeats=np.array([0, 2, 1]), axis=0),
        call(r(2, 2), repeats=[1, 2, 0, 3]),
        call(r(2, 3), repeats=[2], axis=1),
        call(r(2, 3), repeats=0, axis=0),
        call(r(0, 3), repeats=2, axis=1),
        call(r(), repeats=3),
    ],
    refusals=lambda r: [
        Refusal(call(r(2, 3), repeats=2, axis=2), ShapeError, "no such axis"),
        Refusal(call(r(2, 3), repeats=[1, 2], axis=1), ShapeError, "each of 3"),
        Refusal(call(r(2, 3), repeats=[[1, 2, 3]], axis=1), ShapeError, "each of 3"),
        Refusal(call(r(2, 3), repeats=-1), ArgumentError, "negative"),
        Refusal(call(r(2, 3), repeats=[1, -1, 1], axis=1), ArgumentError, "negative"),
        Refusal(call(r(2, 3), repeats=1.5), DtypeError, "whole number"),
    ],
)
def repeat(x: Array, repeats: Any, axis: Any = None) -> Any:
    """Each element of x `repeats` times in a row along an axis, as NumPy's repeat (PyTorch's repeat_interleave).

    `repeats` is one number for all or one for each entry along the axis. Without an axis x is taken as flat.
    """
    return np.repeat(x, repeats, axis)


@repeat.prepare
def _(arrays, settings):
    x, repeats, axis = arrays[0], _whole_numbers("repeat: how often", settings["repeats"]), settings["axis"]
    axis = None if axis is None or not x.ndim else normalized_axes("repeat", axis, x.ndim, several=False)
    entries = x.size if axis is None else x.shape[axis]
    if repeats.shape not in ((), (1,), (entries,)):
        raise ShapeError(f"repeat: one number, or one for each of {entries}", got=f"shape {repeats.shape}")
    if (repeats < 0).any():
        raise ArgumentError("repeat: no negative number of times", expected="0 or more", got=int(repeats.min()))
    return {"repeats": int(repeats.item()) if repeats.size == 1 else repeats, "axis": axis}


@repeat.vjp("x")
def _(g, x_shape, repeats, axis):
    flat = (math.prod(x_shape),) if axis is None else x_shape
    at = axis or 0
    if isinstance(repeats, int):
        return reshape(sum(reshape(g, (*flat[: at + 1], repeats, *flat[at + 1 :])), at + 1), x_shape)
    source = np.repeat(np.arange(flat[at]), repeats)
    return Patch(g, np.unravel_index(source, x_shape) if axis is None else (*(slice(None),) * at, source))


# --- Padded ---


@shape(
    samples=lambda r: [
        call(r(2, 3), pad_width=1),
        call(r(2, 3), pad_width=((1, 0), (2, 3)), constant_values=1.5),
        call(r(2, 3), pad_width=[(0, 2)], constant_values=((1.0, 2.0), (3.0, 4.0))),
        call(r(2, 3), pad_width={-1: (1, 2)}),
        call(r(2, 3), pad_width=((1,), (2,)), mode="edge"),
        call(r(4, 3), pad_width=((2, 1), (0, 2)), mode="reflect"),
        call(r(4, 3), pad_width=((0, 0), (2, 1)), mode="symmetric"),
        call(r(4, 3, 2), pad_width=(3, 5), mode="wrap"),
        call(r(2, 1), pad_width=((0, 5), (2, 0)), mode="reflect"),
        call(r(0, 3), pad_width=((0, 0), (1, 1)), mode="edge"),
        call(r(0, 3), pad_width=2),
        call(r(), pad_width=2),
    ],
    refusals=lambda r: [
        Refusal(call(r(2, 3), pad_width=((1, 2), (3, 4), (5, 6))), ShapeError, "pair for each axis"),
        Refusal(call(r(2, 3), pad_width={2: 1}), ShapeError, "no such axis"),
        Refusal(call(r(2, 3), pad_width=-1), ArgumentError, "negative"),
        Refusal(call(r(2, 3), pad_width=1.0), DtypeError, "whole number"),
        Refusal(call(r(2, 3), pad_width=1, mode="mean"), ArgumentError, "mode"),
        Refusal(call(r(0, 3), pad_width=1, mode="wrap"), ShapeError, "nothing"),
        Refusal(call(np.zeros(3, int), pad_width=1, constant_values=0.5), DtypeError, "int64"),
    ],
)
def pad(x: Array, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Any:
    """x with a border, as NumPy's pad.

    Args:
        x: a tensor.
        pad_width: how wide: one number; (before, after); one such pair for each axis; or a dict from axis to either.
        mode: "constant", the value given; "edge", the element at the edge; "reflect" and "symmetric", a mirror image,
            without and with the edge itself; "wrap", the other end. The last four may reach further than x is long.
        constant_values: the value of the border, in the forms of `pad_width` (but no dict). It gets no gradient.

    Raises:
        ShapeError: for widths that do not fit the axes, or a border that copies from an axis of size 0.
        ArgumentError, DtypeError: for a negative width, an unknown mode, a value that x's dtype cannot hold.
    """
    if mode == "constant":
        return np.pad(x, pad_width or 0, constant_values=constant_values)
    for axis, (before, after) in enumerate(pad_width):
        if before or after:
            x = x.take(_sources(x.shape[axis], before, after, mode), axis)
    return x


@pad.prepare
def _(arrays, settings):
    x, mode, values = arrays[0], settings["mode"], settings["constant_values"]
    if mode not in MODES:
        raise ArgumentError("pad: no such mode", expected=" | ".join(MODES), got=repr(mode))
    if getattr(values, "requires_grad", False):
        raise GraphError("pad: constant_values get no gradient", hint="tg.concat, or tg.where with a mask")
    values, widths = np.array(values), _widths(settings["pad_width"], x.ndim)
    with np.errstate(invalid="ignore"):
        fits = values.dtype.kind in "biuf" and (x.dtype.kind == "f" or np.array_equal(values.astype(x.dtype), values))
    if not fits:
        raise DtypeError(f"pad: {values.tolist()!r} is no {x.dtype}", hint='x.astype("float32") holds other numbers')
    for size, width in zip(x.shape, widths):
        if mode != "constant" and size == 0 and any(width):
            raise ShapeError(f"pad: nothing to copy for mode {mode!r}", expected="a size of 1 or more", got=x.shape)
    values = _pairs("values", values, x.ndim) if values.ndim else values.item()
    return {"pad_width": widths, "mode": mode, "constant_values": values}


def _widths(pad_width: Any, ndim: int) -> tuple[tuple[int, int], ...]:
    if isinstance(pad_width, dict):
        each: list[Any] = [(0, 0)] * ndim
        for axis, width in pad_width.items():
            at = normalized_axes("pad", axis, ndim, several=False)
            (each[at],) = _pairs("widths", _whole_numbers("pad: a width", width), 1)
        pad_width = each or 0
    found = _pairs("widths", _whole_numbers("pad: a width", pad_width), ndim)
    if any(width < 0 for pair in found for width in pair):
        raise ArgumentError("pad: a width is negative", expected="0 or more", got=pad_width, hint="x[1:-1] cuts")
    return found


def _pairs(what: str, given: Any, ndim: int) -> tuple[tuple[Any, Any], ...]:
    """(before, after) for each axis."""
    try:
        pairs = np.broadcast_to(given, (ndim, 2)).tolist()
    except ValueError:
        raise ShapeError(
            f"pad: the {what} do not fit",
            expected=f"a number, a pair, or a pair for each axis of {ndim}",
            got=given.tolist(),
        ) from None
    return tuple((before, after) for before, after in pairs)


@functools.lru_cache(maxsize=256)
def _sources(size: int, before: int, after: int, mode: Any) -> Any:
    """Where along an axis of that size each entry of the padded one comes from."""
    sources = np.pad(np.arange(size), (before, after), mode=mode)
    sources.flags.writeable = False
    return sources


@pad.vjp("x")
def _(g, x_shape, pad_width, mode):
    inner = tuple(slice(before, before + size) for (before, _), size in zip(pad_width, x_shape))
    if mode == "constant":
        return getitem(g, inner)
    for axis, (before, after) in enumerate(pad_width):
        if before or after:
            g = _folded(g, axis, inner[axis], _sources(x_shape[axis], before, after, mode))
    return g


def _folded(g: Any, axis: int, inner: slice, sources: Any) -> Any:
    """g without the border along an axis, which is added to what it was copied from."""
    leading = (slice(None),) * axis
    border = [part for part in (slice(0, inner.start), slice(inner.stop, g.shape[axis])) if part.start < part.stop]
    keys = [(*leading, slice(None)), *[(*leading, sources[part]) for part in border]]
    parts = [getitem(g, (*leading, part)) for part in (inner, *border)]
    return patched(parts, tuple(keys), (*g.shape[:axis], inner.stop - inner.start, *g.shape[axis + 1 :]))


# --- Left out ---


def _triangles(r: Any) -> list[Any]:
    return [call(r(3, 4)), call(r(2, 4, 3), k=1), call(r(3, 3), k=-2), call(r(2, 2), k=9), call(r(2, 0, 3))]


def _no_triangles(r: Any) -> list[Refusal]:
    return [
        Refusal(call(r(3)), ShapeError, "matrix"),
        Refusal(call(r(3, 3), k=0.5), DtypeError, "whole number"),
    ]


def _matrix(name: str, x: Any, k: Any) -> int:
    if x.ndim < 2:
        raise ShapeError(f"{name}: a matrix has two axes", expected="(..., M, N)", got=x.shape)
    return _whole(f"{name}: a diagonal", k)


@shape(linear=True, samples=_triangles, refusals=_no_triangles)
def tril(x: Array, k: int = 0) -> Any:
    """The matrices (..., M, N) with zeros above diagonal k; 0 is the main one, 1 the next above it."""
    return np.tril(x, _matrix("tril", x, k))


@tril.vjp("x")
def _(g, k):
    return tril(g, k)


@shape(linear=True, samples=_triangles, refusals=_no_triangles)
def triu(x: Array, k: int = 0) -> Any:
    """The matrices (..., M, N) with zeros below diagonal k; 0 is the main one, 1 the next above it."""
    return np.triu(x, _matrix("triu", x, k))


@triu.vjp("x")
def _(g, k):
    return triu(g, k)
