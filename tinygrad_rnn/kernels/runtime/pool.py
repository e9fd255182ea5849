"""Memory for large arrays that come and go at each step of training.

Memory fresh from the system is mapped page by page as it is first written, which takes longer than the writing: a
fused forward pass of an LSTM spent a third of its time so. Here memory is used again once the last array that looks at
it is gone.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, Literal

import numpy as np

#: Arrays below this many bytes come from NumPy, which keeps small ones itself.
SMALL = 1 << 17

#: How many bytes may lie unused.
LIMIT = 1 << 29

_ALIGNED = 64
_free: dict[int, list[tuple[np.ndarray[Any, Any], int]]] = {}
_unused = 0


def address_of(array: Any) -> int:
    """Where an array's numbers begin."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # a quarter of the time of `array.ctypes`
    except (TypeError, ValueError):  # read-only, empty, or with gaps
        return int(array.ctypes.data)


def readable(array: Any, dtype: np.dtype[Any], along: Literal["all", "rows", "either"] = "all") -> Any:
    """`array` itself where kernels can read it where it lies, else a copy, contiguous.

    Kernels add strides of any sign and size to an address, but read numbers of this machine's own byte order that are
    aligned to their size (LLVM is told so), and some of them side by side.

    Args:
        array: to read.
        dtype: what kernels take its numbers for.
        along: what lies side by side: all numbers, those of each row (along the last axis), or those along either axis
            of a matrix.
    """
    flags = array.flags
    if array.dtype == dtype and flags.aligned:
        if flags.c_contiguous:
            return array
        if along == "rows" and (array.shape[-1] == 1 or array.strides[-1] == array.itemsize):
            return array
        if along == "either" and array.itemsize in array.strides:
            return array
    return copied(array, dtype)


class Block:
    """A piece of memory; when nothing refers to it any more, it is free to be another's.

    Arrays of `array` do not keep it: whoever makes them does.
    """

    __slots__ = ("__array_interface__", "__weakref__", "address", "memory", "start")
    __array_interface__: dict[str, Any]

    def __init__(self, count: int) -> None:
        global _unused
        unit = 1 << max(count.bit_length() - 4, 12)  # sizes in steps of at most an eighth
        size = (count + _ALIGNED + unit - 1) // unit * unit
        try:
            self.memory, address = _free[size].pop()
            _unused -= size
        except (KeyError, IndexError):
            self.memory = np.empty(size, np.uint8)
            address = address_of(self.memory)
        self.start = -address % _ALIGNED
        self.address = address + self.start

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """What lies so many bytes behind its start."""
        return np.ndarray(shape, dtype, self.memory, self.start + offset)

    def __del__(self) -> None:
        global _unused
        size = self.memory.size
        if _unused + size <= LIMIT:
            _unused += size
            _free.setdefault(size, []).append((self.memory, self.address - self.start))


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array of this shape, not initialised."""
    count = math.prod(shape) * dtype.itemsize
    if count < SMALL:
        return np.empty(shape, dtype)
    block = Block(count)
    block.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (block.address, False)}
    return np.asarray(block)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array of zeros."""
    if math.prod(shape) * dtype.itemsize < SMALL:
        return np.zeros(shape, dtype)
    made = empty(shape, dtype)
    made.fill(0)
    return made


def copied(array: Any, dtype: np.dtype[Any] | None = None) -> Any:
    """A copy, contiguous."""
    made = empty(array.shape, array.dtype if dtype is None else dtype)
    made[...] = array
    return made
