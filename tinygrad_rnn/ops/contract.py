"""Contractions: sums of products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import settings
from ..errors import DtypeError, GraphError, ShapeError
from ..kernels import blas
from .declare import Array, Refusal, call, composite, contraction
from .elementwise import multiply
from .op import Piece
from .reduce import sum
from .shape import astype, concat, expand_dims, reshape, squeeze


@contraction(
    linear=("a", "b"),
    symbol="@",
    promotes=True,
    samples=lambda r: [
        call(r(3, 4), r(4, 2)),
        call(r(5, 3, 4), r(4, 2)),
        call(r(3, 4), r(5, 4, 2)),
        call(r(5, 1, 3, 4), r(2, 4, 2)),
        call(r(4), r(4)),
        call(r(4), r(2, 4, 3)),
        call(r(2, 3, 4), r(4)),
        call(r(0, 4), r(4, 2)),
        call(r(3, 0), r(0, 2)),
    ],
    refusals=lambda r: [
        Refusal(call(r(32, 64), r(128, 64)), ShapeError, "use b.T"),
        Refusal(call(r(3, 4), r(5, 6)), ShapeError, "inner sizes differ"),
        Refusal(call(r(), r(3)), ShapeError, "at least one axis"),
        Refusal(call(r(2, 3, 4), r(5, 4, 2)), ShapeError, "leading sizes"),
    ],
)
def matmul(a: Array, b: Array) -> Any:
    """Matrix product over the last two axes, the leading ones broadcast; a 1-D operand is a row (a) or a column (b)."""
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(
            "matmul: a number is no matrix", expected="at least one axis each", got=f"{a.shape} @ {b.shape}"
        )
    inner = b.shape[0] if b.ndim == 1 else b.shape[-2]
    if a.shape[-1] != inner:
        hint = "b looks transposed; use b.T" if b.ndim == 2 and b.shape[1] == a.shape[-1] else None
        raise ShapeError(
            "matmul: inner sizes differ",
            expected="a (..., M, K) @ b (..., K, N)",
            got=f"{a.shape} @ {b.shape}",
            hint=hint,
        )
    try:
        return blas.matmul(a, b)
    except ValueError:
        raise ShapeError("matmul: the leading sizes do not broadcast", got=f"{a.shape} @ {b.shape}") from None


def _rows(x: Any) -> Any:
    return x if len(x.shape) == 2 else reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _one_below_another(blocks: Sequence[Any]) -> Any:
    return _rows(blocks[0]) if len(blocks) == 1 else concat([_rows(block) for block in blocks])


class WeightGradient(Piece):
    """left.T @ right. A weight used at T steps gets one product over the rows of all of them."""

    __slots__ = ("left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right

    @staticmethod
    def made(pieces: Sequence[WeightGradient], shape: tuple[int, ...]) -> Any:
        return matmul(
            _one_below_another([piece.left for piece in pieces]).T,
            _one_below_another([piece.right for piece in pieces]),
        )


def _as_matrix(g: Any, a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> Any:
    """The gradient with the axes that 1-D operands lack."""
    if len(b_shape) == 1:
        g = expand_dims(g, -1)
    return expand_dims(g, -2) if len(a_shape) == 1 else g


@matmul.vjp("a")
def _(g, b, a_shape):
    g = _as_matrix(g, a_shape, b.shape)
    return matmul(g, expand_dims(b, 0) if len(b.shape) == 1 else b.mT)


@matmul.vjp("b")
def _(g, a, b_shape):
    if len(a.shape) == len(b_shape) == 2:
        return WeightGradient(a, g)
    g = _as_matrix(g, a.shape, b_shape)
    found = matmul(expand_dims(a, -1) if len(a.shape) == 1 else a.mT, g)
    return squeeze(found, -1) if len(b_shape) == 1 else found


@contraction(
    promotes=True,
    samples=lambda r: [
        call(r(3, 4), r(2, 4), r(2)),
        call(r(3, 4), r(2, 4)),
        call(r(5, 3, 4), r(2, 4), r(2)),
        call(r(4), r(2, 4), r(2)),
        call(r(0, 4), r(2, 4), r(2)),
    ],
    refusals=lambda r: [
        Refusal(call(r(3, 4), r(4, 2)), ShapeError, "transposed"),
        Refusal(call(r(3, 4), r(2, 5)), ShapeError, "features"),
        Refusal(call(r(3, 4), r(2, 4), r(3)), ShapeError, "bias"),
    ],
)
def linear(x: Array, weight: Array, bias: Array | None = None) -> Any:
    """x @ weight.T + bias, for x (..., I), weight (O, I) and bias (O,)."""
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        turned = weight.ndim == 2 and x.ndim and x.shape[-1] == weight.shape[0]
        raise ShapeError(
            "linear: the number of features differs",
            expected="x (..., I) with weight (O, I)",
            got=f"x {x.shape} with weight {weight.shape}",
            hint="weight looks transposed; use weight.T" if turned else None,
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ShapeError("linear: the bias does not fit", expected=f"({weight.shape[0]},)", got=bias.shape)
    return blas.affine(x, weight, bias)


class BiasGradient(Piece):
    """g, summed over rows."""

    __slots__ = ("g",)

    def __init__(self, g: Any) -> None:
        self.g = g

    @staticmethod
    def made(pieces: Sequence[BiasGradient], shape: tuple[int, ...]) -> Any:
        return sum(_one_below_another([p.g for p in pieces]), 0)


@linear.vjp("x")
def _(g, weight):
    return matmul(g, weight)


@linear.vjp("weight")
def _(g, x):
    return WeightGradient(g, x)


@linear.vjp("bias")
def _(g):
    return BiasGradient(g)


def holds_history(data: Any) -> bool:
    """Whether a tensor that requires a gradient is somewhere in nested lists."""
    if isinstance(data, (list, tuple)):
        return any(holds_history(part) for part in data)
    return bool(getattr(data, "requires_grad", False))


def of_one_dtype(name: str, operands: Sequence[Any]) -> list[Any]:
    """The operands of a product in one dtype, which numbers and lists take from tensors and arrays.

    Raises:
        DtypeError: where float32 and float64 meet, as in every product.
    """
    own = [hasattr(x, "dtype") and not isinstance(x, np.generic) for x in operands]
    for x, strong in zip(operands, own):
        if not strong and holds_history(x):
            raise GraphError(
                f"{name}: a list would cut the tensors in it from what they were made of", hint="tg.stack([...])"
            )
    arrays = [x if strong else np.asarray(x) for x, strong in zip(operands, own)]
    floating = {x.dtype for x, strong in zip(arrays, own) if strong and x.dtype.kind == "f"}
    if len(floating) > 1:
        raise DtypeError(
            f"{name}: float32 and float64 meet, and the product would silently be the slower float64",
            expected="operands of one dtype",
            got=" and ".join(str(x.dtype) for x in arrays),
            hint='x.astype("float32"); NumPy arrays are float64 unless told otherwise',
        )
    dtypes = [x.dtype for x in arrays]
    if not floating and any(dtype.kind == "f" for dtype in dtypes):
        floating = {settings.default_dtype}
    target = floating.pop() if floating else np.result_type(*dtypes) if dtypes else None
    return [x if x.dtype == target else astype(x, target) for x in arrays]


@composite(
    samples=lambda r: [call(r(3), r(2)), call(r(2, 2), r(3)), call(r(), r(2)), call(r(0), r(2))],
    refusals=lambda r: [Refusal(call(r(3), np.ones(2, np.float32)), DtypeError, "one dtype")],
)
def outer(a: Array, b: Array) -> Any:
    """a[i] b[j] for every pair of elements: shape (size of a, size of b). Shapes other than 1-D are flattened.

    Raises:
        DtypeError: where float32 and float64 meet.
    """
    a, b = of_one_dtype("outer", (a, b))
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)))
