"""What runs a program over time: matrix products, loops over rows, and the order in which they come.

All of it is one compiled text for each dtype; programs differ in the table (`table.py`) that they hand over, and in the
functions on rows that it names. The work is split by rows, each shard running all steps on its own, so nothing waits
until the last step.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..codegen.jit import library
from .packing import pack, pack_all
from .table import (
    PHASE,
    Gemm,
    Head,
    Kind,
    Kth,
    Lookup,
    Patch,
    Phase,
    Product,
    RowLoop,
    Side,
    Slot,
    Target,
    Template,
    names,
)

if TYPE_CHECKING:  # what the kernel's text has around it
    KIND: Any = None
    LANES = PANEL = ROWS = SIZE = WIDEST = 0
    call: Any = None
    like: Any = None
    load: Any = None
    multiply_tile: Any = None
    store: Any = None

    def number(table: int, index: int) -> int: ...
    def origin(table: int, index: int, step: int, within: int, shard: int) -> int: ...
    def write(table: int, index: int, value: int) -> None: ...


#: Rows that a weight gradient sums at a time.
BLOCK = 256
#: Columns of its left side that it gathers at a time.
WIDE = 128


def address(table: int, slot: int, step: int, within: int, row: int, shard: int) -> int:
    at = len(Head) + len(Slot) * slot
    return origin(table, at, step, within, shard) + row * number(table, at + Slot.ROW)


def tiles(
    rows: int, columns: int, a: int, a_row: int, a_step: int, b: int, inner: int, c: int, c_row: int, accumulate: int,
    back: int,
) -> None:  # fmt: skip
    """c (rows, columns) = a @ b, or added onto c. Of b, one panel lies behind another, as `pack_all` leaves them.

    A single row goes from the last panel to the first where `back` says so: what was read last is still near.
    """
    vectors = (columns + LANES - 1) // LANES
    wide = 2 * PANEL if rows == 1 else PANEL
    groups = (vectors - 1) // wide + 1
    if rows == 1 and groups > 1 and vectors - (groups - 1) * wide <= WIDEST - wide:
        groups -= 1  # a narrow one at the end goes with the one before
    for i in range(groups):
        group = groups - 1 - i if rows == 1 and back != 0 else i
        column = group * wide * LANES
        width = columns - column if group == groups - 1 else wide * LANES
        several = (width + LANES - 1) // LANES
        last, left, here, there = width - (several - 1) * LANES, rows, a, c + column * SIZE
        while left > 0:
            taken = ROWS if left >= ROWS else 4 if left >= 4 else 1
            multiply_tile(KIND, ROWS, LANES, taken, several, here, a_row, a_step, b + column * inner * SIZE, inner,
                          there, c_row, last, accumulate != 0)  # fmt: skip
            left -= taken
            here += taken * a_row
            there += taken * c_row


def multiply(table: int, phase: int, shard: int, start: int, begin: int, end: int, first: int, last: int) -> None:
    """A `Product` for the rows first to last - 1 of the steps begin to end - 1."""
    source, target, panels = number(phase, Product.SOURCE), number(phase, Product.TARGET), number(phase, Product.PANELS)
    inner, columns = number(phase, Product.INNER), number(phase, Product.WIDTH)
    accumulate = number(phase, Product.ACCUMULATE)
    from_slot, to_slot = len(Head) + len(Slot) * source, len(Head) + len(Slot) * target
    a_row, c_row = number(table, from_slot + Slot.ROW), number(table, to_slot + Slot.ROW)
    a_next = number(table, from_slot + Slot.STEP) + number(table, from_slot + Slot.WITHIN)
    c_next = number(table, to_slot + Slot.STEP) + number(table, to_slot + Slot.WITHIN)
    live = number(table, Head.LIVE)
    rows = last - first
    if live == 0 and (rows == 1 or (a_next == rows * a_row and c_next == rows * c_row)):
        if rows == 1:
            a_row, c_row = a_next, c_next
        rows *= end - begin  # all of it is one product
        end = begin + 1
    for step in range(begin, end):
        if live != 0:
            rows = min(last, number(live, step)) - first
        a = address(table, source, step, step - start, first, shard)
        c = address(table, target, step, step - start, first, shard)
        call(number(table, Head.TILES), rows, columns, a, a_row, SIZE, panels, inner, c, c_row, accumulate, begin % 2)


def lookup(table: int, phase: int, shard: int, start: int, begin: int, end: int, first: int, last: int) -> None:
    """A `Lookup` for the rows first to last - 1 of the steps begin to end - 1."""
    source, target, matrix = number(phase, Lookup.SOURCE), number(phase, Lookup.TARGET), number(phase, Lookup.MATRIX)
    row, column, columns = number(phase, Lookup.ROW), number(phase, Lookup.COLUMN), number(phase, Lookup.WIDTH)
    live = number(table, Head.LIVE)
    for step in range(begin, end):
        stop = last if live == 0 else min(last, number(live, step))
        for i in range(first, stop):
            a = address(table, source, step, step - start, i, shard)
            c = address(table, target, step, step - start, i, shard)
            found = matrix + int(load(KIND, a, 0, 0, 2)) * row
            for j in range(columns):
                store(load(KIND, found + j * column, 0, 0, 2), c, j, 1, 2)


def kth(numbers: int, count: int, k: int) -> Any:
    """The k-th largest of some numbers, each of several that are equal counted; NaN is larger than any."""
    lowest, found = like(-np.inf, KIND), 0
    bound, least = lowest, like(np.nan, KIND)
    for j in range(count):
        x = load(KIND, numbers, j, 0, 2)
        found += x != x
    infinite = True
    while found < k:
        least = lowest
        for j in range(count):  # of what is left, the largest, and how often
            x = load(KIND, numbers, j, 0, 2)
            if x > least and (x < bound or infinite):
                least = x
        for j in range(count):
            found += load(KIND, numbers, j, 0, 2) == least
        bound, infinite = least, False
    return least


def largest(table: int, phase: int, shard: int, start: int, begin: int, end: int, first: int, last: int) -> None:
    """A `Kth` for the rows first to last - 1 of the steps begin to end - 1."""
    source, target = number(phase, Kth.SOURCE), number(phase, Kth.TARGET)
    k, width = number(phase, Kth.K), number(phase, Kth.WIDTH)
    live = number(table, Head.LIVE)
    for step in range(begin, end):
        stop = last if live == 0 else min(last, number(live, step))
        for i in range(first, stop):
            found = kth(address(table, source, step, step - start, i, shard), width, k)
            store(found, address(table, target, step, step - start, i, shard), 0, 1, 2)


def level(table: int, wanted: int, shard: int, start: int, begin: int, end: int, first: int, last: int) -> None:
    """The phases of one level, in order."""
    live = number(table, Head.LIVE)
    for i in range(number(table, Head.PHASE_COUNT)):
        phase = table + 8 * (number(table, Head.PHASES) + PHASE * i)
        if number(phase, Phase.LEVEL) != wanted:
            continue
        kind = number(phase, Phase.KIND)
        phase += 8 * len(Phase)
        if kind == Kind.PRODUCT:
            multiply(table, phase, shard, start, begin, end, first, last)
        elif kind == Kind.LOOKUP:
            lookup(table, phase, shard, start, begin, end, first, last)
        elif kind == Kind.KTH:
            largest(table, phase, shard, start, begin, end, first, last)
        else:
            for step in range(begin, end):
                stop = last if live == 0 else min(last, number(live, step))
                if stop > first:
                    call(number(phase, RowLoop.FUNCTION), table, step, step - start, first, stop, shard)


def drive(table: int, shard: int, first: int, last: int) -> None:
    """All steps for the rows first to last - 1: in chunks, what does not wait for the step before is done at once."""
    steps, chunk = number(table, Head.STEPS), number(table, Head.CHUNK)
    for start in range(0, steps, chunk):
        end = min(start + chunk, steps)
        for wanted in range(3):
            if wanted == 1:
                for step in range(start, end):
                    level(table, wanted, shard, start, step, step + 1, first, last)
            else:
                level(table, wanted, shard, start, start, end, first, last)


def copied(source: int, row: int, count: int, width: int, target: int) -> None:
    """Some numbers of each of `count` rows, `row` bytes apart; in the target in whole vectors, filled up with zeros."""
    padded = (width + LANES - 1) // LANES * LANES
    for _ in range(count):
        for j in range(width):
            store(load(KIND, source, j, 0, 2), target, j, 1, 2)
        for j in range(width, padded):
            store(KIND, target, j, 1, 2)
        target += padded * SIZE
        source += row


def gathered(table: int, slot: int, step: int, row: int, count: int, start: int, width: int, target: int) -> None:
    """The same of `count` live rows from (step, row) on, of the array of a slot: so many numbers from `start` on."""
    live, every = number(table, Head.LIVE), number(table, Head.ROWS)
    for _ in range(count):
        rows = every if live == 0 else number(live, step)
        while row >= rows:
            row, step = 0, step + 1
            rows = every if live == 0 else number(live, step)
        copied(address(table, slot, step, 0, row, 0) + start * SIZE, 0, 1, width, target)
        target += (width + LANES - 1) // LANES * LANES * SIZE
        row += 1


def direction(table: int, slot: int) -> int:
    """Whether all rows of all steps of a slot follow one another: 1, or -1 for steps from the last to the first; 2
    where they are one and the same row, and 0 where none of it holds."""
    at = len(Head) + len(Slot) * slot
    along, row = number(table, at + Slot.STEP), number(table, at + Slot.ROW)
    every = row * number(table, Head.ROWS)
    if row == 0 and along == 0:
        return 2
    if number(table, Head.LIVE) != 0:
        return 0
    return 1 if number(table, Head.STEPS) == 1 or along == every else -1 if along == -every else 0


def course(table: int, job: int) -> int:
    """The direction that all sides of a weight gradient have, or 0."""
    lefts, rights = number(job, Gemm.LEFTS), number(job, Gemm.RIGHTS)
    side = job + 8 * len(Gemm)
    found = direction(table, number(side, Side.SLOT))
    for _ in range(1, rights):
        side += 8 * len(Side)
        if direction(table, number(side, Side.SLOT)) != found:
            return 0
    side += 8 * len(Side)
    for _ in range(lefts):
        along = direction(table, number(side, Side.SLOT))
        if along != found and along != 2:
            return 0
        side += 8 * (len(Side) + rights * len(Target))
    return found


def weight_gradient(table: int, job: int, shard: int, shards: int, total: int) -> None:
    """c (m, n) = the sum over all live rows of a^T b, for every a and every b, the left and right sides of a `Gemm`.

    Where rows follow one another, a is read where it lies.
    """
    lefts, rights = number(job, Gemm.LEFTS), number(job, Gemm.RIGHTS)
    live, every = number(table, Head.LIVE), number(table, Head.ROWS)
    tile = number(table, Head.SHARDS) + shard * number(table, Head.SHARD)
    panels = tile + BLOCK * WIDE * SIZE
    along = course(table, job)
    begin = number(table, Head.STEPS) - 1 if along < 0 else 0
    step, row, done = 0, 0, 0
    while done < total:
        count = min(BLOCK, total - done)
        panel = panels
        right = job + 8 * len(Gemm)
        for _ in range(rights):
            slot, columns = number(right, Side.SLOT), number(right, Side.COLUMNS)
            for start in range(0, columns, PANEL * LANES):
                width = min(columns - start, PANEL * LANES)
                if along != 0:
                    b = address(table, slot, begin, 0, done, 0) + start * SIZE
                    copied(b, number(table, len(Head) + len(Slot) * slot + Slot.ROW), count, width, panel)
                else:
                    gathered(table, slot, step, row, count, start, width, panel)
                panel += count * ((width + LANES - 1) // LANES * LANES) * SIZE
            right += 8 * len(Side)
        left = right
        for _ in range(lefts):
            slot, columns = number(left, Side.SLOT), number(left, Side.COLUMNS)
            each = (columns + shards * ROWS - 1) // (shards * ROWS) * ROWS
            last = min((shard + 1) * each, columns)
            for column in range(shard * each, last, WIDE):
                wide = min(WIDE, last - column)
                a, a_step = tile, (wide + LANES - 1) // LANES * LANES * SIZE
                if along != 0:
                    a = address(table, slot, begin, 0, done, 0) + column * SIZE
                    a_step = number(table, len(Head) + len(Slot) * slot + Slot.ROW)
                else:
                    gathered(table, slot, step, row, count, column, wide, tile)
                panel = panels
                for i in range(rights):
                    target = left + 8 * (len(Side) + len(Target) * i)
                    columns = number(job + 8 * (len(Gemm) + len(Side) * i), Side.COLUMNS)
                    c, c_row = number(target, Target.ADDRESS), number(target, Target.ROW)
                    call(number(table, Head.TILES), wide, columns, a, SIZE, a_step, panel, count, c + column * c_row,
                         c_row, done, 0)  # fmt: skip
                    panel += count * ((columns + LANES - 1) // LANES * LANES) * SIZE
            left += 8 * (len(Side) + len(Target) * rights)
        done += count
        row += count
        rows = every if live == 0 else number(live, step)
        while done < total and row >= rows:
            row -= rows
            step += 1
            rows = every if live == 0 else number(live, step)


def weight_gradients(table: int, shard: int, shards: int) -> None:
    """All of them."""
    live, total = number(table, Head.LIVE), 0
    if live == 0:
        total = number(table, Head.STEPS) * number(table, Head.ROWS)
    else:
        for step in range(number(table, Head.STEPS)):
            total += number(live, step)
    job, end = table + 8 * number(table, Head.GEMMS), table + 8 * number(table, Head.GEMM_END)
    while job < end:
        weight_gradient(table, job, shard, shards, total)
        lefts, rights = number(job, Gemm.LEFTS), number(job, Gemm.RIGHTS)
        job += 8 * (len(Gemm) + rights * len(Side) + lefts * (len(Side) + rights * len(Target)))


def work(table: int, job: int, shard: int, shards: int) -> None:
    """One shard of one job: pack the matrices, run all steps, or sum the weight gradients over all steps."""
    if job == 0:
        pack_all(table, shard, shards)
    elif job == 1:
        rows = number(table, Head.ROWS)
        each = (rows + shards - 1) // shards
        if rows > 4 * shards:
            each = (each + 3) // 4 * 4
        first, last = min(shard * each, rows), min((shard + 1) * each, rows)
        if first < last:
            drive(table, shard, first, last)
    else:
        weight_gradients(table, shard, shards)


def patch(template: int, bases: int, table: int) -> None:
    """Write the table that a template stands for, with the addresses of its bases."""
    entries, patches = number(template, Template.ENTRIES), number(template, Template.PATCHES)
    first = template + 8 * len(Template)
    for i in range(entries):
        write(table, i, number(first, i))
    first += 8 * entries
    for _ in range(patches):
        entry, base = number(first, Patch.ENTRY), number(first, Patch.BASE)
        write(table, entry, number(table, entry) + number(bases, base))
        first += 8 * len(Patch)


#: Gives `patch`, compiled.
patching = library("patching", (patch,), names(), ("patch",))


def vectors() -> tuple[int, int]:
    """Bytes of a vector, and rows of a tile, that make the most of this machine's registers."""
    import llvmlite.binding

    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 8
    if features.get("avx"):
        return 32, 4
    return 16, 8 if features.get("neon") else 4


class Interpreter(NamedTuple):
    """Addresses of compiled functions: what `threads.run` wants, and what a table points to."""

    work: int
    tiles: int


@functools.cache
def interpreter(size: int) -> Interpreter:
    """The compiled functions for floats of so many bytes."""
    width, rows = vectors()
    constants = {
        "KIND": f"np.float{size * 8}(0.0)", "SIZE": size, "LANES": width // size, "ROWS": rows,
        "BLOCK": BLOCK, "WIDE": WIDE, **names(),
    }  # fmt: skip
    inner = library(f"tiles_{size}", (tiles,), constants)()
    functions = (
        address, multiply, lookup, kth, largest, level, drive, pack, pack_all, copied, gathered, direction, course,
        weight_gradient, weight_gradients, work,
    )  # fmt: skip
    return Interpreter(library(f"interpreter_{size}", functions, constants)().work.address, inner.tiles.address)
