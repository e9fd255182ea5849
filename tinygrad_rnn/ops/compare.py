"""Comparisons and logic: truth values, without a gradient. NaN counts as true, and is equal to nothing."""

from __future__ import annotations

from typing import Any

from ..kernels import scalar
from .declare import Array, elementwise


@elementwise(symbol=">", integers=True)
def greater(a: Array, b: Array) -> Any:
    """a > b."""
    return scalar.greater(a, b)


@elementwise(symbol="≥", integers=True)
def greater_equal(a: Array, b: Array) -> Any:
    """a >= b."""
    return scalar.greater_equal(a, b)


@elementwise(symbol="<", integers=True)
def less(a: Array, b: Array) -> Any:
    """a < b."""
    return scalar.less(a, b)


@elementwise(symbol="≤", integers=True)
def less_equal(a: Array, b: Array) -> Any:
    """a <= b."""
    return scalar.less_equal(a, b)


@elementwise(symbol="=", integers=True)
def equal(a: Array, b: Array) -> Any:
    """a == b."""
    return scalar.equal(a, b)


@elementwise(symbol="≠", integers=True)
def not_equal(a: Array, b: Array) -> Any:
    """a != b."""
    return scalar.not_equal(a, b)


@elementwise(symbol="∧", integers=True)
def logical_and(a: Array, b: Array) -> Any:
    """True where both are nonzero."""
    return scalar.logical_and(a, b)


@elementwise(symbol="∨", integers=True)
def logical_or(a: Array, b: Array) -> Any:
    """True where either is nonzero."""
    return scalar.logical_or(a, b)


@elementwise(symbol="⊻", integers=True)
def logical_xor(a: Array, b: Array) -> Any:
    """True where exactly one of the two is nonzero."""
    return scalar.logical_xor(a, b)


@elementwise(symbol="¬", integers=True)
def logical_not(x: Array) -> Any:
    """True where x is zero."""
    return scalar.logical_not(x)


@elementwise(symbol="NaN?", integers=True)
def isnan(x: Array) -> Any:
    """True where x is not a number."""
    return scalar.isnan(x)


@elementwise(symbol="∞?", integers=True)
def isinf(x: Array) -> Any:
    """True where x is infinity or minus infinity."""
    return scalar.isinf(x)


@elementwise(symbol="finite?", integers=True)
def isfinite(x: Array) -> Any:
    """True where x is neither infinite nor NaN."""
    return scalar.isfinite(x)
