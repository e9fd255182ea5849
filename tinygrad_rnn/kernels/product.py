"""Large matrix products on our own threads: those of a BLAS spin for long, and slow down all that comes after."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import settings
from . import threads
from .machine import BLOCK, HEAD, WIDE, machine
from .memory import Block, empty


def multiplied(a: Any, b: Any) -> Any:
    """a (m, k) @ b (k, n), or None where NumPy must do it: for other dtypes and strides, and with the jit off.

    Numbers along rows of `a` are summed one after another, in each row in the same order whatever m is.
    """
    (rows, inner), columns, size = a.shape, b.shape[1], a.itemsize
    if not settings.jit_enabled or a.dtype != b.dtype or a.dtype.char not in "fd" or 0 in (rows, inner, columns):
        return None
    if size not in b.strides or size not in a.strides or not (a.dtype.isnative and a.flags.aligned and b.flags.aligned):
        return None
    parts = min(settings.get_num_threads(), rows)
    compiled, lanes = machine(size), 64 // size
    made = empty((rows, columns), a.dtype)
    table = [0] * HEAD
    if a.strides[1] == size:
        work = Block(((columns + lanes) * inner + 1024) * size)
        table[:5] = [1, 1, rows, HEAD + 10, 1]
        table += [a.ctypes.data, 0, 0, a.strides[0], 0, made.ctypes.data, 0, 0, columns * size, 0]
        table += [1, 0, 0, 1, work.address, inner, columns, 0]
        table[7:9] = [len(table), 1]
        table += [b.ctypes.data, *b.strides, inner, columns, work.address, 0, 0, inner, columns]
        jobs = parts, parts, 0
    elif b.strides[1] == size:  # a sum over rows of what stands side by side: a gradient of weights
        room = -(-(BLOCK * (WIDE + columns + lanes) * size + 4096) // 64) * 64
        work = Block(room * parts)
        table[:3] = [1, 1, inner]
        table += [a.ctypes.data, 0, 0, a.strides[1], 0, b.ctypes.data, 0, 0, b.strides[0], 0]
        table[5:7] = [len(table), 4]
        table += [1, 1, 1, columns, 0, rows, made.ctypes.data, columns * size]
        table[10:12] = [work.address, room]
        jobs = 0, 0, parts
    else:
        return None
    table[12] = compiled.tiles
    numbers = np.array(table, np.int64)
    threads.run(compiled.work, numbers.ctypes.data, jobs, parts)
    return made
