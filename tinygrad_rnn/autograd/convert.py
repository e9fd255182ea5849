"""Foreign data as arrays for tensors, and tensors as NumPy's functions want them. A tensor is known by its `_array`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import settings
from ..errors import DtypeError, GraphError, ShapeError
from ..ops import COMPOSITES, REGISTRY
from ..settings import FLOAT32, FLOAT64
from .tape import read, thread

#: Where NumPy has a function under another name.
_NUMPY_NAMES = {"abs": "absolute", "concat": "concatenate", "permute_dims": "transpose", "max": "amax", "min": "amin"}
_ALLOWED = "float32, float64, bool, or integers"


def checked_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype as this machine writes it, where it is one that tensors may have."""
    dtype = dtype.newbyteorder("=")
    if dtype.kind in "biu":
        return dtype
    if dtype == FLOAT32:
        return FLOAT32
    if dtype == FLOAT64:
        return FLOAT64
    raise DtypeError(
        "tensor: this dtype is not supported", expected=_ALLOWED, got=dtype, hint='.astype("float32") first'
    )


def array_of(data: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """A fresh array of `data`. In a list NumPy scalars count as Python numbers: only arrays bring a dtype."""
    arrays: list[np.ndarray[Any, Any]] = []
    source = _unwrapped(np.asarray(data) if isinstance(data, np.generic) else data, arrays)
    try:
        array = np.array(source, dtype=dtype)
    except ValueError as trouble:
        if "inhomogeneous" in str(trouble):
            raise ShapeError("tensor: the rows have unequal lengths", got=str(trouble).split(". ")[-1]) from None
        raise DtypeError("tensor: the data are no numbers", expected=_ALLOWED, got=str(trouble)) from None
    except TypeError as trouble:
        raise DtypeError("tensor: the data are no numbers", expected=_ALLOWED, got=str(trouble)) from None
    if dtype is None and not arrays and array.dtype.kind == "f":
        array = array.astype(settings.default_dtype)
    wanted = checked_dtype(array.dtype)
    return array if array.dtype is wanted else array.astype(wanted)


def _unwrapped(data: Any, arrays: list[np.ndarray[Any, Any]], listed: bool = False) -> Any:
    """`data` without tensors and NumPy scalars; the arrays met are noted."""
    if hasattr(data, "_array"):
        if listed and data._requires_grad and thread.state.enabled:
            raise GraphError(
                "tensor: a list would cut the tensors in it from what they were made of",
                got=f"one {data.shape} that requires a gradient",
                hint="tg.stack([...]), or x.detach() where no gradient is wanted",
            )
        read(data)
        data = data._array
    elif hasattr(data, "detach"):  # PyTorch's
        data = data.detach().cpu().numpy()
    if isinstance(data, np.ndarray):
        arrays.append(data)
        return data
    if isinstance(data, np.generic):
        return data.item()
    return [_unwrapped(part, arrays, True) for part in data] if isinstance(data, (list, tuple)) else data


def plain_index(key: Any) -> Any:
    """An index without tensors: copies, so that a later write to one does not move what the tape remembers."""
    if isinstance(key, int):
        return key
    if isinstance(key, slice):
        try:
            return slice(*[p if p is None else operator.index(p) for p in (key.start, key.stop, key.step)])
        except TypeError:
            raise DtypeError("indexing: a slice is of whole numbers", got=repr(key)) from None
    if isinstance(key, tuple):
        return tuple([plain_index(list(part) if isinstance(part, tuple) else part) for part in key])
    if hasattr(key, "_array"):
        read(key)
        return key._array.copy()
    if key is None or key is Ellipsis or isinstance(key, (np.generic, str)):
        return key
    try:
        array = np.array(key)
    except ValueError:
        raise DtypeError("indexing: the rows of this list have unequal lengths", got=repr(key)) from None
    return array.astype(np.int64) if array.size == 0 and not isinstance(key, np.ndarray) else array


@functools.cache
def numpy_functions() -> dict[Any, Callable[..., Any]]:
    """NumPy's functions and ufuncs that this library has too, where a call means the same.

    `split` takes places there and sizes here, and `take` without an axis takes from all elements there.
    """
    ours = {name: composite.rule for name, composite in COMPOSITES.items()}
    ours |= {name: op.function for name, op in REGISTRY.items() if op.own}
    ours |= {theirs: ours[name] for name, theirs in _NUMPY_NAMES.items()}
    names = [name for name in ours if hasattr(np, name) and name not in ("split", "take", "astype")]
    return {getattr(np, name): ours[name] for name in names}


def arrays_of(data: Any) -> Any:
    """Arguments for NumPy: tensors as read-only arrays."""
    if isinstance(data, (list, tuple)):
        return type(data)(arrays_of(part) for part in data)
    return data.data if hasattr(data, "_array") else data
