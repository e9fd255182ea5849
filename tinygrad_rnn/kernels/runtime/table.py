"""The table that tells the interpreter what to run: each record declared once, for who fills it and for who reads it.

A table is an array of 64-bit integers: a `Head`, a `Slot` for each array, and lists of records that the head points to.
Kernel texts name entries as Python does, `number(table, Head.STEPS)`; there they become the numbers that they are.
"""

from __future__ import annotations

import enum
import functools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Names a base: what comes from outside, or a block of memory that a run takes.
Base = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Address:
    """So many bytes behind a base, or before it: an array that is read backwards begins at its end."""

    base: Base
    offset: int = 0

    def __add__(self, more: int) -> Address:
        return Address(self.base, self.offset + more)


Entry = int | Address


class Record(enum.IntEnum):
    """Integers side by side, by name."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last: list[Any]) -> int:
        return count

    @classmethod
    def filled(cls, **entries: Entry) -> list[Entry]:
        """The record with these entries, each named once, in small letters."""
        if len(entries) != len(cls):
            raise TypeError(f"{cls.__name__}: {sorted(entries)} are not its entries")
        return [entries[name] for name in _names(cls)]


@functools.cache
def _names(record: type[Record]) -> tuple[str, ...]:
    return tuple([member.name.lower() for member in record])


class Head(Record):
    """What all of a table is about; lists by where they begin in the table, and how many they have."""

    STEPS = enum.auto()
    CHUNK = enum.auto()  # so many steps are worked on at once before and after the loop
    ROWS = enum.auto()
    PHASES = enum.auto()
    PHASE_COUNT = enum.auto()
    GEMMS = enum.auto()  # weight gradients
    GEMM_END = enum.auto()
    PANELS = enum.auto()
    PANEL_COUNT = enum.auto()
    LIVE = enum.auto()  # address of how many rows live at each step, or 0
    SHARDS = enum.auto()  # address of the memory in which weight gradients gather their sides, a shard for each thread
    SHARD = enum.auto()  # bytes of each
    TILES = enum.auto()  # address of `tiles`


class Slot(Record):
    """Where an array stands: its address, and bytes from one step, step within the chunk, row and shard to the next."""

    ADDRESS = enum.auto()
    STEP = enum.auto()
    WITHIN = enum.auto()
    ROW = enum.auto()
    SHARD = enum.auto()


class Kind(enum.IntEnum):
    """What a phase does: call a function on rows, multiply rows, look rows up, find the k-th largest of a row."""

    ROWS = 0
    PRODUCT = 1
    LOOKUP = 2
    KTH = 3


class Phase(Record):
    """Before the record of its kind; `LEVEL` 0 is before the loop over steps, 1 in it, 2 behind it."""

    KIND = enum.auto()
    LEVEL = enum.auto()


class RowLoop(Record):
    """Calls a compiled function (table, step, step within the chunk, first row, last row, shard)."""

    FUNCTION = enum.auto()


class Product(Record):
    """target = source @ the matrix whose panels lie at `PANELS`, or added onto the target."""

    SOURCE = enum.auto()
    TARGET = enum.auto()
    PANELS = enum.auto()
    INNER = enum.auto()
    WIDTH = enum.auto()
    ACCUMULATE = enum.auto()


class Lookup(Record):
    """target = the rows of a matrix whose numbers the source holds."""

    SOURCE = enum.auto()
    TARGET = enum.auto()
    MATRIX = enum.auto()
    ROW = enum.auto()
    COLUMN = enum.auto()
    WIDTH = enum.auto()


class Kth(Record):
    """target = the k-th largest of each row of the source."""

    SOURCE = enum.auto()
    TARGET = enum.auto()
    K = enum.auto()
    WIDTH = enum.auto()


class Gemm(Record):
    """Weight gradients left^T right for several left and right sides: behind it each right `Side`; then each left one,
    with a `Target` for each right."""

    LEFTS = enum.auto()
    RIGHTS = enum.auto()


class Side(Record):
    """Columns of an array at all steps."""

    SLOT = enum.auto()
    COLUMNS = enum.auto()


class Target(Record):
    """Where a weight gradient is written, and bytes from row to row there."""

    ADDRESS = enum.auto()
    ROW = enum.auto()


class Panels(Record):
    """A matrix to pack, (inner, width); and where it begins in the larger one that is multiplied with, whose panels lie
    at `TARGET`: below how many rows, right of how many columns (whole vectors); and the size of that."""

    SOURCE = enum.auto()
    ROW = enum.auto()
    COLUMN = enum.auto()
    INNER = enum.auto()
    WIDTH = enum.auto()
    TARGET = enum.auto()
    ABOVE = enum.auto()
    LEFT = enum.auto()
    TOTAL_INNER = enum.auto()
    TOTAL_WIDTH = enum.auto()


class Template(Record):
    """Before the entries of a table whose addresses are not known yet, and a `Patch` for each that is one."""

    ENTRIES = enum.auto()
    PATCHES = enum.auto()


class Patch(Record):
    """The entry to which the address of a base is added, by their numbers."""

    ENTRY = enum.auto()
    BASE = enum.auto()


RECORDS = (Head, Slot, Phase, RowLoop, Product, Lookup, Kth, Gemm, Side, Target, Panels, Template, Patch)
BODIES: dict[Kind, type[Record]] = {
    Kind.ROWS: RowLoop,
    Kind.PRODUCT: Product,
    Kind.LOOKUP: Lookup,
    Kind.KTH: Kth,
}

#: Integers of a phase, whatever its kind.
PHASE = len(Phase) + max(len(body) for body in BODIES.values())


def phase(kind: Kind, level: int, **entries: Entry) -> list[Entry]:
    """A phase and the record of its kind."""
    made = Phase.filled(kind=kind, level=level) + BODIES[kind].filled(**entries)
    return made + [0] * (PHASE - len(made))


def names() -> dict[str, int]:
    """What stands for a number in the text of a kernel."""
    found = {f"{kind.__name__}.{member.name}": int(member) for kind in (Kind, *RECORDS) for member in kind}
    return found | {f"len({record.__name__})": len(record) for record in RECORDS} | {"PHASE": PHASE}


def template(table: Sequence[Entry]) -> tuple[array[int], list[Base]]:
    """A table as the kernel `patch` takes it, and the bases whose addresses this wants, in order."""
    addresses = [(i, entry) for i, entry in enumerate(table) if isinstance(entry, Address)]
    bases = list(dict.fromkeys(entry.base for _, entry in addresses))
    places = {base: i for i, base in enumerate(bases)}
    made = [*Template.filled(entries=len(table), patches=len(addresses)), *table]
    for i, entry in addresses:
        made += Patch.filled(entry=i, base=places[entry.base])
    return array("q", [entry.offset if isinstance(entry, Address) else entry for entry in made]), bases
