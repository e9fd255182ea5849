"""Large matrix products on our own threads: those of a BLAS spin for long, and slow down all that comes after."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import settings
from .runtime import threads
from .runtime.interpreter import BLOCK, WIDE, interpreter
from .runtime.pool import Block, empty
from .runtime.table import Entry, Gemm, Head, Kind, Panels, Side, Slot, Target, phase


def multiplied(a: Any, b: Any) -> Any:
    """a (m, k) @ b (k, n), or None where NumPy must do it: for other dtypes and strides, and with the jit off.

    Numbers along rows of `a` are summed one after another, in each row in the same order whatever m is.
    """
    (rows, inner), columns, size = a.shape, b.shape[1], a.itemsize
    if not settings.jit_enabled or a.dtype != b.dtype or a.dtype.char not in "fd" or 0 in (rows, inner, columns):
        return None
    if size not in b.strides or size not in a.strides or not (a.dtype.isnative and a.flags.aligned and b.flags.aligned):
        return None
    shards = min(settings.get_num_threads(), rows)
    compiled, lanes = interpreter(size), 64 // size
    made = empty((rows, columns), a.dtype)
    first = len(Head) + 2 * len(Slot)  # of what stands behind the head and both slots
    if a.strides[1] == size:
        work = Block(((columns + lanes) * inner + 1024) * size)
        slots = _slot(a.ctypes.data, a.strides[0]) + _slot(made.ctypes.data, columns * size)
        rest = phase(Kind.PRODUCT, 1, source=0, target=1, panels=work.address, inner=inner, width=columns, accumulate=0)
        packed = first + len(rest)
        rest += Panels.filled(
            source=b.ctypes.data, row=b.strides[0], column=b.strides[1], inner=inner, width=columns,
            target=work.address, above=0, left=0, total_inner=inner, total_width=columns,
        )  # fmt: skip
        head = Head.filled(
            steps=1, chunk=1, rows=rows, phases=first, phase_count=1, gemms=0, gemm_end=0, panels=packed, panel_count=1,
            live=0, shards=0, shard=0, tiles=compiled.tiles,
        )  # fmt: skip
        jobs = shards, shards, 0
    elif b.strides[1] == size:  # a sum over rows of what stands side by side: a gradient of weights
        room = -(-(BLOCK * (WIDE + columns + lanes) * size + 4096) // 64) * 64
        work = Block(room * shards)
        slots = _slot(a.ctypes.data, a.strides[1]) + _slot(b.ctypes.data, b.strides[0])
        rest = Gemm.filled(lefts=1, rights=1)
        rest += Side.filled(slot=1, columns=columns) + Side.filled(slot=0, columns=rows)
        rest += Target.filled(address=made.ctypes.data, row=columns * size)
        head = Head.filled(
            steps=1, chunk=1, rows=inner, phases=0, phase_count=0, gemms=first, gemm_end=first + len(rest), panels=0,
            panel_count=0, live=0, shards=work.address, shard=room, tiles=compiled.tiles,
        )  # fmt: skip
        jobs = 0, 0, shards
    else:
        return None
    table = np.array(head + slots + rest, np.int64)
    threads.run(compiled.work, table.ctypes.data, jobs, shards)
    return made


def _slot(address: int, row: int) -> list[Entry]:
    return Slot.filled(address=address, step=0, within=0, row=row, shard=0)
