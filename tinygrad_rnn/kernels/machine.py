"""What runs a program over time: matrix products, loops over rows, and the order in which they come.

All of it is one compiled text for each dtype; programs differ in the table that they hand over, and in the functions on
rows that it names. A table is an array of integers:

    0 steps          1 steps a chunk    2 rows             3 places of the phases     4 their number
    5 places of the grams               6 their number     7 places of the packs      8 their number
    9 address of how many rows live at each step, or 0      10 scratch memory, 11 of how many bytes for each part
    12 address of `tiles`
    16, 21, ...      places: where an array stands (address, bytes a step, a step within the chunk, a row, a part)

The work is split by rows, each part running all steps on its own, so nothing waits until the last step.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .jit import library

if TYPE_CHECKING:  # what the kernel's text has around it
    KIND: Any = None
    LANES = PANEL = ROWS = SIZE = WIDEST = 0
    call: Any = None
    like: Any = None
    load: Any = None
    move: Any = None
    multiply_tile: Any = None
    store: Any = None
    turn_tile: Any = None

    def number(table: int, index: int) -> int: ...
    def origin(table: int, index: int, step: int, within: int, part: int) -> int: ...
    def write(table: int, index: int, value: int) -> None: ...


#: Entries of a table before its places, and of each place.
HEAD, PLACE = 16, 5
#: Entries of a phase, a gram and a pack.
PHASE, GRAM, PACK = 8, 2, 10
#: Steps of the inner axis that a gram takes at a time.
BLOCK = 256
#: Columns of its left side that it gathers at a time.
WIDE = 128


def address(table: int, place: int, step: int, within: int, row: int, part: int) -> int:
    at = HEAD + PLACE * place
    return origin(table, at, step, within, part) + row * number(table, at + 3)


def tiles(
    rows: int, columns: int, a: int, a_row: int, a_step: int, b: int, inner: int, c: int, c_row: int, onto: int,
    back: int,
) -> None:  # fmt: skip
    """c (rows, columns) = a @ b, or added onto c. Of b, one panel lies behind another, as `packs` leaves them.

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
                          there, c_row, last, onto != 0)  # fmt: skip
            left -= taken
            here += taken * a_row
            there += taken * c_row


def multiply(table: int, phase: int, part: int, start: int, begin: int, end: int, first: int, last: int) -> None:
    """c = a @ packed for the rows first to last - 1 of the steps begin to end - 1."""
    a_place, c_place, packed = number(phase, 2), number(phase, 3), number(phase, 4)
    inner, columns, onto = number(phase, 5), number(phase, 6), number(phase, 7)
    a_row = number(table, HEAD + PLACE * a_place + 3)
    c_row = number(table, HEAD + PLACE * c_place + 3)
    a_next = number(table, HEAD + PLACE * a_place + 1) + number(table, HEAD + PLACE * a_place + 2)
    c_next = number(table, HEAD + PLACE * c_place + 1) + number(table, HEAD + PLACE * c_place + 2)
    live = number(table, 9)
    rows = last - first
    if live == 0 and (rows == 1 or (a_next == rows * a_row and c_next == rows * c_row)):
        if rows == 1:
            a_row, c_row = a_next, c_next
        rows *= end - begin  # all of it is one product
        end = begin + 1
    for step in range(begin, end):
        if live != 0:
            rows = min(last, number(live, step)) - first
        a = address(table, a_place, step, step - start, first, part)
        c = address(table, c_place, step, step - start, first, part)
        call(number(table, 12), rows, columns, a, a_row, SIZE, packed, inner, c, c_row, onto, begin % 2)


def lookup(table: int, phase: int, part: int, start: int, begin: int, end: int, first: int, last: int) -> None:
    """c = matrix[a], a row for each number, for the rows first to last - 1 of the steps begin to end - 1."""
    a_place, c_place, matrix = number(phase, 2), number(phase, 3), number(phase, 4)
    row, column, columns = number(phase, 5), number(phase, 6), number(phase, 7)
    live = number(table, 9)
    for step in range(begin, end):
        stop = last if live == 0 else min(last, number(live, step))
        for i in range(first, stop):
            a = address(table, a_place, step, step - start, i, part)
            c = address(table, c_place, step, step - start, i, part)
            source = matrix + int(load(KIND, a, 0, 0, 2)) * row
            for j in range(columns):
                store(load(KIND, source + j * column, 0, 0, 2), c, j, 1, 2)


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


def largest(table: int, phase: int, part: int, start: int, begin: int, end: int, first: int, last: int) -> None:
    """c = the k-th largest number of a, for the rows first to last - 1 of the steps begin to end - 1."""
    a_place, c_place, k, count = number(phase, 2), number(phase, 3), number(phase, 4), number(phase, 5)
    live = number(table, 9)
    for step in range(begin, end):
        stop = last if live == 0 else min(last, number(live, step))
        for i in range(first, stop):
            found = kth(address(table, a_place, step, step - start, i, part), count, k)
            store(found, address(table, c_place, step, step - start, i, part), 0, 1, 2)


def level(table: int, wanted: int, part: int, start: int, begin: int, end: int, first: int, last: int) -> None:
    """The phases of one level, in order: products, and functions on rows."""
    live = number(table, 9)
    for i in range(number(table, 4)):
        phase = table + 8 * (number(table, 3) + PHASE * i)
        if number(phase, 1) != wanted:
            continue
        if number(phase, 0) == 1:
            multiply(table, phase, part, start, begin, end, first, last)
        elif number(phase, 0) == 2:
            lookup(table, phase, part, start, begin, end, first, last)
        elif number(phase, 0) == 3:
            largest(table, phase, part, start, begin, end, first, last)
        else:
            for step in range(begin, end):
                stop = last if live == 0 else min(last, number(live, step))
                if stop > first:
                    call(number(phase, 2), table, step, step - start, first, stop, part)


def drive(table: int, part: int, first: int, last: int) -> None:
    """All steps for the rows first to last - 1: in chunks, what does not wait for the step before is done at once."""
    steps, chunk = number(table, 0), number(table, 1)
    for start in range(0, steps, chunk):
        end = min(start + chunk, steps)
        for wanted in range(3):
            if wanted == 1:
                for step in range(start, end):
                    level(table, wanted, part, start, step, step + 1, first, last)
            else:
                level(table, wanted, part, start, start, end, first, last)


def pack(source: int, row: int, column: int, inner: int, width: int, target: int, along: int) -> None:
    """Columns of a matrix (inner, width), row after row in whole vectors, `along` bytes from one row to the next.

    What fills the last vector is anything.
    """
    if column == SIZE:
        whole = width // LANES * LANES
        for _ in range(inner):
            for j in range(0, whole, LANES):
                move(KIND, LANES, source + j * SIZE, target + j * SIZE)
            for j in range(whole, width):
                store(load(KIND, source, j, 0, 2), target, j, 1, 2)
            source += row
            target += along
    else:
        for j in range(0, width, LANES):
            for k in range(0, inner, LANES):
                turn_tile(KIND, LANES, source + j * column + k * row, column, min(LANES, width - j),
                          min(LANES, inner - k), target + k * along + j * SIZE, along)  # fmt: skip


def packs(table: int, part: int, parts: int) -> None:
    """All matrices of products, panel after panel: what `multiply_tile` reads as b.

    A job is a matrix, where it begins in the larger one that is multiplied with (`above`, `left`: the latter a whole
    number of vectors), and the size of that.
    """
    turn = 0
    for i in range(number(table, 8)):
        job = table + 8 * (number(table, 7) + PACK * i)
        source, row, column, inner = number(job, 0), number(job, 1), number(job, 2), number(job, 3)
        width, target, above, left = number(job, 4), number(job, 5), number(job, 6), number(job, 7)
        total, columns = number(job, 8), number(job, 9)
        for start in range(left // (PANEL * LANES) * PANEL * LANES, left + width, PANEL * LANES):
            if turn % parts == part:
                first, last = max(start, left), min(start + PANEL * LANES, left + width)
                along = (min(columns - start, PANEL * LANES) + LANES - 1) // LANES * LANES * SIZE
                panel = target + start * total * SIZE + above * along + (first - start) * SIZE
                pack(source + (first - left) * column, row, column, inner, last - first, panel, along)
            turn += 1


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


def gathered(table: int, place: int, step: int, row: int, count: int, start: int, width: int, target: int) -> None:
    """The same of `count` live rows from (step, row) on, of an array at a place: so many numbers from `start` on."""
    live, every = number(table, 9), number(table, 2)
    for _ in range(count):
        rows = every if live == 0 else number(live, step)
        while row >= rows:
            row, step = 0, step + 1
            rows = every if live == 0 else number(live, step)
        copied(address(table, place, step, 0, row, 0) + start * SIZE, 0, 1, width, target)
        target += (width + LANES - 1) // LANES * LANES * SIZE
        row += 1


def direction(table: int, place: int) -> int:
    """Whether all rows of all steps at a place follow one another: 1, or -1 for steps from the last to the first; 2
    where they are one and the same row, and 0 where none of it holds."""
    at = HEAD + PLACE * place
    steps, along, row = number(table, 0), number(table, at + 1), number(table, at + 3)
    if row == 0 and along == 0:
        return 2
    if number(table, 9) != 0:
        return 0
    return 1 if steps == 1 or along == row * number(table, 2) else -1 if along == -row * number(table, 2) else 0


def course(table: int, job: int) -> int:
    """The direction that all sides of a job have, or 0."""
    lefts, partners = number(job, 0), number(job, 1)
    found = direction(table, number(job + 8 * GRAM, 0))
    for i in range(1, partners):
        if direction(table, number(job + 8 * GRAM * (i + 1), 0)) != found:
            return 0
    for i in range(lefts):
        side = direction(table, number(job + 8 * GRAM * (1 + partners + i * (1 + partners)), 0))
        if side != found and side != 2:
            return 0
    return found


def gram(table: int, job: int, part: int, parts: int, total: int) -> None:
    """c (m, n) = the sum over all live rows of a^T b, for every a and every b of a job.

    A job says how many a and b there are. Then follow each b: its place and columns; and each a: the same, and for
    each b where c lies, and its bytes a row. Where rows follow one another, a is read where it lies.
    """
    lefts, partners = number(job, 0), number(job, 1)
    live, every = number(table, 9), number(table, 2)
    tile = number(table, 10) + part * number(table, 11)
    panels = tile + BLOCK * WIDE * SIZE
    along = course(table, job)
    begin = number(table, 0) - 1 if along < 0 else 0
    step, row, done = 0, 0, 0
    while done < total:
        count = min(BLOCK, total - done)
        panel = panels
        for i in range(partners):
            place, columns = number(job + 8 * GRAM * (i + 1), 0), number(job + 8 * GRAM * (i + 1), 1)
            for start in range(0, columns, PANEL * LANES):
                width = min(columns - start, PANEL * LANES)
                if along != 0:
                    b = address(table, place, begin, 0, done, 0) + start * SIZE
                    copied(b, number(table, HEAD + PLACE * place + 3), count, width, panel)
                else:
                    gathered(table, place, step, row, count, start, width, panel)
                panel += count * ((width + LANES - 1) // LANES * LANES) * SIZE
        entry = job + 8 * GRAM * (1 + partners)
        for _ in range(lefts):
            place, columns = number(entry, 0), number(entry, 1)
            each = (columns + parts * ROWS - 1) // (parts * ROWS) * ROWS
            last = min((part + 1) * each, columns)
            for column in range(part * each, last, WIDE):
                wide = min(WIDE, last - column)
                a, a_step = tile, (wide + LANES - 1) // LANES * LANES * SIZE
                if along != 0:
                    a = address(table, place, begin, 0, done, 0) + column * SIZE
                    a_step = number(table, HEAD + PLACE * place + 3)
                else:
                    gathered(table, place, step, row, count, column, wide, tile)
                panel = panels
                for i in range(partners):
                    columns = number(job + 8 * GRAM * (i + 1), 1)
                    c, c_row = number(entry + 8 * GRAM * (i + 1), 0), number(entry + 8 * GRAM * (i + 1), 1)
                    call(number(table, 12), wide, columns, a, SIZE, a_step, panel, count, c + column * c_row, c_row,
                         done, 0)  # fmt: skip
                    panel += count * ((columns + LANES - 1) // LANES * LANES) * SIZE
            entry += 8 * GRAM * (1 + partners)
        done += count
        row += count
        rows = every if live == 0 else number(live, step)
        while done < total and row >= rows:
            row -= rows
            step += 1
            rows = every if live == 0 else number(live, step)


def work(table: int, job: int, part: int, parts: int) -> None:
    """One part of one job: pack the matrices, run all steps, or sum the products over all steps."""
    if job == 0:
        packs(table, part, parts)
    elif job == 1:
        rows = number(table, 2)
        each = (rows + parts - 1) // parts
        if rows > 4 * parts:
            each = (each + 3) // 4 * 4
        first, last = min(part * each, rows), min((part + 1) * each, rows)
        if first < last:
            drive(table, part, first, last)
    else:
        live, total = number(table, 9), 0
        if live == 0:
            total = number(table, 0) * number(table, 2)
        else:
            for step in range(number(table, 0)):
                total += number(live, step)
        i = 0
        while i < number(table, 6):
            head = table + 8 * (number(table, 5) + GRAM * i)
            gram(table, head, part, parts, total)
            i += 1 + number(head, 1) + number(head, 0) * (1 + number(head, 1))


def relocate(pattern: int, bases: int, table: int) -> None:
    """Make a table of its pattern: the numbers of entries and of addresses among these; the entries; for each address
    where it stands, and which base it is to be added to."""
    entries, addresses = number(pattern, 0), number(pattern, 1)
    for i in range(entries):
        write(table, i, number(pattern, 2 + i))
    for i in range(addresses):
        where = number(pattern, 2 + entries + 2 * i)
        write(table, where, number(table, where) + number(bases, number(pattern, 3 + entries + 2 * i)))


#: Opens the door to `relocate`.
relocation = library("relocation", (relocate,), {}, ("relocate",))


def _vectors() -> tuple[int, int]:
    """Bytes of a vector, and rows of a tile, that make the most of this machine's registers."""
    import llvmlite.binding

    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 8
    if features.get("avx"):
        return 32, 4
    return 16, 8 if features.get("neon") else 4


class Machine(NamedTuple):
    """Addresses of compiled functions: what `threads.run` wants, and entry 12 of a table."""

    work: int
    tiles: int


@functools.cache
def machine(size: int) -> Machine:
    """The compiled functions for floats of so many bytes."""
    width, rows = _vectors()
    constants = {
        "KIND": f"np.float{size * 8}(0.0)", "SIZE": size, "LANES": width // size, "ROWS": rows,
        "HEAD": HEAD, "PLACE": PLACE, "PHASE": PHASE, "GRAM": GRAM, "PACK": PACK, "BLOCK": BLOCK, "WIDE": WIDE,
    }  # fmt: skip
    inner = library(f"tiles_{size}", (tiles,), constants)()
    functions = (
        address,
        multiply,
        lookup,
        kth,
        largest,
        level,
        drive,
        pack,
        packs,
        copied,
        gathered,
        direction,
        course,
        gram,
        work,
    )
    return Machine(library(f"machine_{size}", functions, constants)().work.address, inner.tiles.address)
