"""Tensors filled with zeros, ones, ranges, random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import settings
from ..ops.random import generator
from ..settings import FLOAT32, FLOAT64
from .tensor import Tensor, as_tensor, tensor


def _sizes(shape: tuple[Any, ...]) -> Any:
    return shape[0] if len(shape) == 1 else shape


def _made(array: np.ndarray[Any, Any], dtype: Any, requires_grad: bool) -> Tensor:
    return tensor(array, settings.default_dtype if dtype is None else dtype, requires_grad)


def _filled(make: Callable[..., Any], shape: tuple[Any, ...], dtype: Any, requires_grad: bool) -> Tensor:
    """What NumPy makes of a shape, in the dtype wanted from the start: states are made so at every call of a layer."""
    dtype = settings.default_dtype if dtype is None else dtype
    if dtype is not FLOAT32 and dtype is not FLOAT64:
        return tensor(make(_sizes(shape)), dtype, requires_grad)
    made = Tensor(make(_sizes(shape), dtype))
    if requires_grad:
        made.requires_grad = True
    return made


def zeros(*shape: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros: `zeros(2, 3)` or `zeros((2, 3))`, of the default dtype where none is given."""
    return _filled(np.zeros, shape, dtype, requires_grad)


def ones(*shape: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones: `ones(2, 3)` or `ones((2, 3))`, of the default dtype where none is given."""
    return _filled(np.ones, shape, dtype, requires_grad)


def full(shape: Any, value: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of one value; its dtype is the value's where none is given."""
    return tensor(np.full(shape, tensor(value, dtype)._array), dtype, requires_grad)


def arange(*bounds: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """`arange(stop)`, `arange(start, stop)`, `arange(start, stop, step)`: int64 for ints, else the default dtype."""
    array = np.arange(*bounds)
    if dtype is None and array.dtype.kind == "f":
        dtype = settings.default_dtype
    return tensor(array, dtype, requires_grad)


def linspace(start: float, stop: float, num: int = 50, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """`num` evenly spaced numbers from start to stop, both included."""
    return _made(np.linspace(start, stop, num), dtype, requires_grad)


def eye(n: int, m: int | None = None, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix of zeros; m is n where None."""
    return _made(np.eye(n, m), dtype, requires_grad)


def zeros_like(x: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape, and where none is given the dtype, of x."""
    return tensor(np.zeros_like(as_tensor(x)._array), dtype, requires_grad)


def ones_like(x: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape, and where none is given the dtype, of x."""
    return tensor(np.ones_like(as_tensor(x)._array), dtype, requires_grad)


def randn(
    *shape: Any, dtype: Any = None, requires_grad: bool = False, rng: np.random.Generator | None = None
) -> Tensor:
    """Numbers from the standard normal distribution."""
    return _made(np.asarray(generator(rng).standard_normal(_sizes(shape))), dtype, requires_grad)


def rand(*shape: Any, dtype: Any = None, requires_grad: bool = False, rng: np.random.Generator | None = None) -> Tensor:
    """Numbers uniform in [0, 1)."""
    return _made(np.asarray(generator(rng).random(_sizes(shape))), dtype, requires_grad)
