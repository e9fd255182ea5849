"""How matrices are packed: panel after panel, each a few vectors wide, as the inner loop of a product reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .table import Head, Panels

if TYPE_CHECKING:  # what the kernel's text has around it
    KIND: Any = None
    LANES = PANEL = SIZE = 0
    load: Any = None
    move: Any = None
    store: Any = None
    turn_tile: Any = None

    def number(table: int, index: int) -> int: ...


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


def pack_all(table: int, shard: int, shards: int) -> None:
    """All matrices of products, panel after panel: what `multiply_tile` reads as b."""
    turn = 0
    for i in range(number(table, Head.PANEL_COUNT)):
        job = table + 8 * (number(table, Head.PANELS) + len(Panels) * i)
        source, row, column = number(job, Panels.SOURCE), number(job, Panels.ROW), number(job, Panels.COLUMN)
        inner, width, target = number(job, Panels.INNER), number(job, Panels.WIDTH), number(job, Panels.TARGET)
        above, left = number(job, Panels.ABOVE), number(job, Panels.LEFT)
        total, columns = number(job, Panels.TOTAL_INNER), number(job, Panels.TOTAL_WIDTH)
        for start in range(left // (PANEL * LANES) * PANEL * LANES, left + width, PANEL * LANES):
            if turn % shards == shard:
                first, last = max(start, left), min(start + PANEL * LANES, left + width)
                along = (min(columns - start, PANEL * LANES) + LANES - 1) // LANES * LANES * SIZE
                panel = target + start * total * SIZE + above * along + (first - start) * SIZE
                pack(source + (first - left) * column, row, column, inner, last - first, panel, along)
            turn += 1
