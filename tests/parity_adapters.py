"""Torch's calls said in our words: functions with torch's signatures that call ours.

They get what a sample of torch's holds, with our tensors in place of torch's. What our function cannot express they
pass over, by raising `PassedOver` with a reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import tinygrad_rnn as tg


class PassedOver(Exception):
    """A sample that our function cannot express, with the reason."""


def our(name: str) -> Callable[..., Any]:
    """Our function of that name, which takes what torch's takes. Looked up when called, so that a missing one fails."""
    return lambda *args, **kwargs: getattr(tg, name)(*args, **kwargs)


# --- Elementwise ---


def with_alpha(name: str) -> Callable[..., Any]:
    def adapter(x: Any, other: Any, *, alpha: float = 1) -> Any:
        return getattr(tg, name)(x, other if alpha == 1 else other * alpha)

    return adapter


def rsub(x: Any, other: Any, *, alpha: float = 1) -> Any:
    return other - (x if alpha == 1 else x * alpha)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return tg.where(x * beta > threshold, x, tg.softplus(x * beta) / beta)


# --- Reductions ---


def reducing(name: str) -> Callable[..., Any]:
    """Torch means all axes by `dim=()`, where the Array API means none."""

    def adapter(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        x = x if dtype is None else x.astype(dtype)
        return getattr(tg, name)(x, axis=None if dim == () else dim, keepdims=keepdim)

    return adapter


def spread(*names: str) -> Callable[..., Any]:
    """var, std, and their fellows that give the mean too."""

    def adapter(
        x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = 1
    ) -> Any:
        if isinstance(dim, bool):  # var(x, unbiased)
            dim, unbiased = None, dim
        correction = 0 if not unbiased else 1 if correction is None else correction
        settings = {"axis": dim, "keepdims": keepdim}
        made = [getattr(tg, names[0])(x, correction=correction, **settings)]
        return [*made, *[getattr(tg, name)(x, **settings) for name in names[1:]]] if len(names) > 1 else made[0]

    return adapter


def along(name: str) -> Callable[..., Any]:
    def adapter(x: Any, dim: int, *, dtype: Any = None) -> Any:
        return getattr(tg, name)(x if dtype is None else x.astype(dtype), axis=dim)

    return adapter


def best(name: str) -> Callable[..., Any]:
    """max and min along an axis give the place too."""

    def adapter(x: Any, dim: int, keepdim: bool = False) -> Any:
        settings = {"axis": dim, "keepdims": keepdim}
        return getattr(tg, name)(x, **settings), getattr(tg, f"arg{name}")(x, **settings)

    return adapter


def softmin(x: Any, dim: int, *, dtype: Any = None) -> Any:
    return tg.softmax(-(x if dtype is None else x.astype(dtype)), axis=dim)


# --- Shapes ---

NOT_OF_SIZE_1 = "torch leaves an axis alone that is not of size 1; here it is refused, as by NumPy"
LEGACY_EMPTY = "torch concatenates an empty 1-D tensor with one of any rank"


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    end = end_dim % max(x.ndim, 1)
    return tg.reshape(x, (*x.shape[:start_dim], -1, *x.shape[end + 1 :]))


def unflatten(x: Any, dim: int, sizes: Any) -> Any:
    dim %= x.ndim
    whole = x.shape[dim] // (math.prod(sizes) or 1)
    sizes = [-whole if size == -1 else size for size in sizes]  # the product of the others had a factor of -1
    return tg.reshape(x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


def movedim(x: Any, source: Any, destination: Any) -> Any:
    axes = [0] * x.ndim
    for i, j in zip(source, destination):
        axes[j] = i
    return tg.permute_dims(x, tuple(axes))


def transpose(x: Any, dim0: int, dim1: int) -> Any:
    axes = list(range(x.ndim))
    if axes:
        axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return tg.permute_dims(x, tuple(axes))


def squeeze(x: Any, dim: Any = None) -> Any:
    if dim is not None:
        several = dim if isinstance(dim, tuple) else (dim,)
        if x.ndim and any(x.shape[i] != 1 for i in several):
            raise PassedOver(NOT_OF_SIZE_1)
    return tg.squeeze(x, dim)


def expand(x: Any, sizes: Any) -> Any:
    extra = len(sizes) - x.ndim
    return tg.broadcast_to(x, tuple(x.shape[i - extra] if n == -1 else n for i, n in enumerate(sizes)))


def cat(tensors: Any, dim: int = 0) -> Any:
    if len({t.ndim for t in tensors}) > 1:
        raise PassedOver(LEGACY_EMPTY)
    return tg.concat(tensors, axis=dim)


def split(x: Any, size: Any, dim: int = 0) -> Any:
    """Torch's number is the size of a piece, of which the last may be smaller; ours is how many there are."""
    whole = x.shape[dim]
    if isinstance(size, int):
        size = [min(size, whole - start) for start in range(0, whole, size)]
    return tg.split(x, list(size), axis=dim)


def chunk(x: Any, chunks: int, dim: int = 0) -> Any:
    return split(x, -(-x.shape[dim] // chunks), dim)


def tensor_split(x: Any, places: Any, dim: int = 0) -> Any:
    whole = x.shape[dim]
    places = places.numpy().tolist() if isinstance(places, tg.Tensor) else places
    if isinstance(places, int):
        sizes = [whole // places + (i < whole % places) for i in range(places)]
    else:
        bounds = [0, *[min(p if p >= 0 else p + whole, whole) for p in places], whole]
        sizes = [b - a for a, b in itertools.pairwise(bounds)]
    return tg.split(x, sizes, axis=dim)


def roll(x: Any, shifts: Any, dims: Any = None) -> Any:
    return tg.roll(x, shifts, axis=dims)


def repeat_interleave(x: Any, repeats: Any, dim: Any = None, *, output_size: Any = None) -> Any:
    return tg.repeat(x, repeats, axis=dim)


def pad(x: Any, pairs: Any, mode: str = "constant", value: float = 0.0) -> Any:
    """Torch names the last axis first, and only the axes that grow. A negative width cuts, for "circular" first."""
    widths = [(0, 0)] * x.ndim
    for i in range(len(pairs) // 2):
        widths[-1 - i] = (pairs[2 * i], pairs[2 * i + 1])
    settings = {"constant_values": value} if mode == "constant" else {"mode": PAD_MODES[mode]}

    def cut(y: Any) -> Any:
        return y[tuple(slice(max(-low, 0), n - max(-high, 0)) for n, (low, high) in zip(y.shape, widths))]

    def grown(y: Any) -> Any:
        return tg.pad(y, [(max(low, 0), max(high, 0)) for low, high in widths], **settings)

    return grown(cut(x)) if mode == "circular" else cut(grown(x))


PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


# --- Indexing ---

NO_AXIS = "torch takes a number for a tensor of one axis"
EMPTY_INDEX = "torch lets an empty index have any number of axes"


def before(x: Any, dim: int) -> tuple[slice, ...]:
    return (slice(None),) * (dim % x.ndim)


def narrow(x: Any, dim: int, start: Any, length: int) -> Any:
    return x[(*before(x, dim), slice(int(start), int(start) + length))]


def unbind(x: Any, dim: int = 0) -> Any:
    return [x[(*before(x, dim), i)] for i in range(x.shape[dim])]


def take(x: Any, index: Any) -> Any:
    return tg.take(tg.reshape(x, (-1,)), index)


def index_select(x: Any, dim: int, index: Any) -> Any:
    if x.ndim == 0:
        raise PassedOver(NO_AXIS)
    return tg.take(x, index, axis=dim)


def take_along_dim(x: Any, index: Any, dim: Any = None) -> Any:
    if dim is None:
        x, index, dim = tg.reshape(x, (-1,)), tg.reshape(index, (-1,)), 0
    return tg.take_along_axis(x, index, axis=dim)


def gather(x: Any, dim: int, index: Any) -> Any:
    if x.ndim == 0:
        raise PassedOver(NO_AXIS)
    if x.ndim != index.ndim:
        raise PassedOver(EMPTY_INDEX)
    return tg.take_along_axis(x, index, axis=dim)


def one_hot(index: Any, num_classes: int = -1) -> Any:
    return tg.one_hot(index, int(index.numpy().max()) + 1 if num_classes == -1 else num_classes)


# --- Losses and random ---

NO_BETA = "beta = 0 is the absolute error, not a Huber loss"
RANDOM = "what is dropped is drawn by a generator of its own"


def ctc_loss(x: Any, *args: Any, **settings: Any) -> Any:
    return tg.ctc_loss(tg.log_softmax(x), *args, **settings)


def smooth_l1_loss(x: Any, target: Any, *, beta: float = 1.0, **settings: Any) -> Any:
    if not beta:
        raise PassedOver(NO_BETA)
    return tg.huber_loss(x, target, delta=beta, **settings) / beta


def dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    if training and 0.0 < p < 1.0:
        raise PassedOver(RANDOM)
    return tg.dropout(x, p, training)
