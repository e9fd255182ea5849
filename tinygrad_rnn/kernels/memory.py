"""Memory for large arrays that come and go at each step of training.

Memory fresh from the system is mapped page by page as it is first written, which takes longer than the writing: a
fused forward pass of an LSTM spent a third of its time so. Here memory is used again once the last array that looks at
it is gone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: Arrays below this many bytes come from NumPy, which keeps small ones itself.
SMALL = 1 << 16

#: How many bytes may lie unused.
LIMIT = 1 << 29

_ALIGNED = 64
_free: dict[int, list[np.ndarray[Any, Any]]] = {}
_unused = 0


class _Block:
    """What owns a piece of memory; when no array has it as its base any more, the memory is free."""

    __slots__ = ("__array_interface__", "memory")

    def __init__(self, memory: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.memory = memory
        address = memory.ctypes.data
        self.__array_interface__ = {
            "version": 3, "shape": shape, "typestr": dtype.str, "data": (address + -address % _ALIGNED, False),
        }  # fmt: skip

    def __del__(self) -> None:
        global _unused
        size = self.memory.size
        if _unused + size <= LIMIT:
            _unused += size
            _free.setdefault(size, []).append(self.memory)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array of this shape, not initialised."""
    global _unused
    count = math.prod(shape) * dtype.itemsize
    if count < SMALL:
        return np.empty(shape, dtype)
    unit = 1 << max(count.bit_length() - 4, 12)  # sizes in steps of at most an eighth
    size = (count + _ALIGNED + unit - 1) // unit * unit
    try:
        memory = _free[size].pop()
        _unused -= size
    except (KeyError, IndexError):
        memory = np.empty(size, np.uint8)
    return np.asarray(_Block(memory, shape, dtype))


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array of zeros of this shape."""
    made = empty(shape, dtype)
    made[...] = 0
    return made
