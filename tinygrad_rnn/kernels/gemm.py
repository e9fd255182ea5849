"""Large matrix products on our own threads: those of a BLAS spin for long, and slow down all that comes after."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from .. import settings
from .runtime import threads
from .runtime.interpreter import BLOCK, WIDE, interpreter
from .runtime.pool import Block, empty
from .runtime.table import Address, Entry, Gemm, Head, Kind, Panels, Side, Slot, Target, phase

_A, _B, _MADE, _WORK = Address(("a", 0)), Address(("b", 0)), Address(("made", 0)), Address(("work", 0))


class Sealed(NamedTuple):
    """The table of a product of one size and layout, made once.

    Attributes:
        table: as long as addresses are bases.
        numbers: the same with zeros for addresses; which stand at `a`, `b`, `made` and `work`.
        work: how many bytes of memory it takes.
        jobs: in how many shards each job is done.
        function: the address of what runs it.
    """

    table: list[Entry]
    numbers: Any
    a: int
    b: int
    made: int
    work: tuple[int, ...]
    room: int
    jobs: tuple[int, int, int]
    function: int


def multiplied(a: Any, b: Any) -> Any:
    """a (m, k) @ b (k, n), or None where NumPy must do it: for other dtypes and strides, and with the jit off.

    Numbers along rows of `a` are summed one after another, in each row in the same order whatever m is.
    """
    (rows, inner), columns, size = a.shape, b.shape[1], a.itemsize
    if not settings.jit_enabled or a.dtype != b.dtype or a.dtype.char not in "fd" or 0 in (rows, inner, columns):
        return None
    if size not in b.strides or size not in a.strides or not (a.dtype.isnative and a.flags.aligned and b.flags.aligned):
        return None
    if a.strides[1] != size and b.strides[1] != size:
        return None
    shards = min(settings.get_num_threads(), rows)
    one = sealed(rows, inner, columns, size, a.strides, b.strides, shards)
    made, work = empty((rows, columns), a.dtype), Block(one.room)
    table = one.numbers.copy()
    table[one.a], table[one.b], table[one.made] = a.ctypes.data, b.ctypes.data, made.ctypes.data
    for i in one.work:
        table[i] = work.address
    threads.run(one.function, table.ctypes.data, one.jobs, shards)
    return made


@functools.lru_cache(maxsize=256)
def sealed(
    rows: int, inner: int, columns: int, size: int, a: tuple[int, int], b: tuple[int, int], shards: int
) -> Sealed:
    """The table of a product (rows, inner) @ (inner, columns) of numbers of `size` bytes, with strides `a` and `b`.

    Rows of `a` are in one piece, or else its columns and the rows of `b`.
    """
    compiled, lanes = interpreter(size), 64 // size
    first = len(Head) + 2 * len(Slot)  # of what stands behind the head and both slots
    head: dict[str, Entry] = dict.fromkeys([entry.name.lower() for entry in Head], 0)
    head |= {"steps": 1, "chunk": 1, "tiles": compiled.tiles}
    if a[1] == size:
        room = ((columns + lanes) * inner + 1024) * size
        slots = _slot(_A, a[0]) + _slot(_MADE, columns * size)
        rest = phase(Kind.PRODUCT, 1, source=0, target=1, panels=_WORK, inner=inner, width=columns, accumulate=0)
        head |= {"rows": rows, "phases": first, "phase_count": 1, "panels": first + len(rest), "panel_count": 1}
        rest += Panels.filled(
            source=_B, row=b[0], column=b[1], inner=inner, width=columns, target=_WORK, above=0, left=0,
            total_inner=inner, total_width=columns,
        )  # fmt: skip
        jobs = shards, shards, 0
    else:  # a sum over rows of what stands side by side: a gradient of weights
        shard = -(-(BLOCK * (WIDE + columns + lanes) * size + 4096) // 64) * 64
        room = shard * shards
        slots = _slot(_A, a[1]) + _slot(_B, b[0])
        rest = Gemm.filled(lefts=1, rights=1)
        rest += Side.filled(slot=1, columns=columns) + Side.filled(slot=0, columns=rows)
        rest += Target.filled(address=_MADE, row=columns * size)
        head |= {"rows": inner, "gemms": first, "gemm_end": first + len(rest), "shards": _WORK, "shard": shard}
        jobs = 0, 0, shards
    table = Head.filled(**head) + slots + rest
    numbers = np.array([0 if isinstance(entry, Address) else entry for entry in table], np.int64)
    work = tuple([i for i, entry in enumerate(table) if entry is _WORK])
    places = table.index(_A), table.index(_B), table.index(_MADE)
    return Sealed(table, numbers, *places, work, room, jobs, compiled.work)


def _slot(address: Address, row: int) -> list[Entry]:
    return Slot.filled(address=address, step=0, within=0, row=row, shard=0)
