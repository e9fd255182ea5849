"""Where all memory of a run lies, and the table that tells the kernels: made once for a size of run.

What comes from outside, and each block of memory that a run takes, is a *base*: its address is filled in at each run.
Until then an address is a base and an offset.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..kernels import threads
from ..kernels.machine import BLOCK, GRAM, HEAD, PACK, WIDE, machine, relocation
from ..program.step import Block
from .plan import Key, Plan, Product

#: Multiplications below which one thread does all: waking another takes longer.
SMALL = 3_000_000

#: Rows that are worked on at once before and after the steps.
TOGETHER = 256

#: The blocks of memory that a run takes: one that is free after it, and one that its gradient needs.
WORK: Key = ("work", 0)
SAVED: Key = ("saved", 0)

#: How many rows live at each step.
LIVE: Key = ("live", 0)


@dataclass(frozen=True, slots=True)
class Address:
    """So many bytes behind a base, or before it: an array that is read backwards begins at its end."""

    base: Key
    offset: int = 0

    def __add__(self, more: int) -> Address:
        return Address(self.base, self.offset + more)


class Spot(NamedTuple):
    """Some numbers of a block that are read or written around a run: offset in bytes, and shape."""

    offset: int
    shape: tuple[int, ...]


class Gram(NamedTuple):
    """A sum of products over all steps: where its left side lies and its columns, and right sides likewise, with where
    the sum goes and the bytes of a row there."""

    left: tuple[Key, int]
    columns: int
    partners: list[tuple[tuple[Key, int], int, Key, int]]


class Layout:
    """One kind of run: so many steps and rows, on so many threads; `ragged` where rows end at different steps.

    Attributes:
        sizes: bytes of each block that the run takes.
        spots: what lies in one of them and is read or written around the run.
        parts: on how many threads it runs.
    """

    def __init__(self, steps: int, rows: int, dtype: np.dtype[Any], most: int, ragged: bool) -> None:
        self.steps, self.rows, self.dtype, self.ragged = steps, rows, dtype, ragged
        self._most = most
        self.sizes: dict[Key, int] = {}
        self.spots: dict[Key, Spot] = {}
        self._at: dict[Key, tuple[Address, int, int, int, int]] = {}

    # --- Memory ---

    def room(self, block: Key, *shape: int) -> Address:
        """The address of new room for an array in a block."""
        offset = self.sizes.get(block, 0)
        self.sizes[block] = offset + -(-math.prod(shape) * self.dtype.itemsize // 64) * 64
        return Address(block, offset)

    def spot(self, key: Key, address: Address, *shape: int) -> None:
        """Name what is read or written around the run."""
        self.spots[key] = Spot(address.offset, shape)

    def over_time(self, key: Key, address: Address, width: int, first: int, forwards: bool) -> None:
        """An array (steps, rows, width) whose first step in the order of the run is at index `first`."""
        row = width * self.dtype.itemsize
        self.strided(key, address, self.rows * row, row, first, forwards)

    def strided(self, key: Key, address: Address, step: int, row: int, first: int, forwards: bool) -> None:
        """The same with strides in bytes."""
        self._at[key] = address + first * step, step if forwards else -step, 0, row, 0

    def same(self, key: Key, address: Address, row: int = 0) -> None:
        """An array that is the same at all steps."""
        self._at[key] = address, 0, 0, row, 0

    # --- The table ---

    def seal(
        self,
        plan: Plan,
        functions: Mapping[str, int],
        strides: Sequence[tuple[int, int]],
        grams: Sequence[Gram] = (),
    ) -> None:
        """All is placed: make the table. `strides` are those of the matrices."""
        size, rows, steps, lanes = self.dtype.itemsize, self.rows, self.steps, 64 // self.dtype.itemsize
        products = [p for p in plan.phases if isinstance(p, Product) and p.value.operator == "product"]
        work = sum(p.inner * p.width for p in products) + sum(g.columns * w for g in grams for _, w, *_ in g.partners)
        parts = 1 if work * steps * rows < SMALL or rows < 2 else min(self._most, rows)
        chunk = max(min(TOGETHER * parts // rows, steps), min(4, steps))
        for i, (width, lasting) in enumerate(plan.scratch):
            step = rows * width * size if lasting else 0
            address = self.room(WORK, chunk if lasting else 1, rows, width)
            self._at["scratch", i] = address, 0, step, width * size, 0
        packed: dict[tuple[Block, ...], Address] = {}
        packs: list[int | Address] = []
        for p in products:
            if p.setting not in packed:
                target = packed[p.setting] = self.room(WORK, (p.width + lanes) * p.inner + 1024)
                for number, turned, above, left, inner, width in p.setting:
                    row, column = strides[number][::-1] if turned else strides[number]
                    packs += [Address(("matrix", number)), row, column, inner, width]
                    packs += [target, above, left, p.inner, p.width]
        phases: list[int | Address] = []
        for phase in plan.phases:
            if isinstance(phase, Product) and phase.value.operator == "lookup":
                number, _ = phase.setting
                phases += [2, phase.level, phase.source, phase.target, Address(("matrix", number)), *strides[number]]
                phases.append(phase.width)
            elif isinstance(phase, Product) and phase.value.operator == "kth":
                phases += [3, phase.level, phase.source, phase.target, phase.setting, phase.inner, 0, 0]
            elif isinstance(phase, Product):
                phases += [1, phase.level, phase.source, phase.target, packed[phase.setting], phase.inner, phase.width]
                phases.append(int(phase.onto))
            else:
                phases += [0, phase.level, functions[phase.name], 0, 0, 0, 0, 0]
        jobs: list[int | Address] = []
        panels = 0
        shared: dict[Any, list[Gram]] = {}
        for gram in grams:
            shared.setdefault(tuple([(right, width) for right, width, *_ in gram.partners]), []).append(gram)
        for rights, several in shared.items():
            jobs += [len(several), len(rights)]
            for right, width in rights:
                jobs += [plan.place(*right), width]
            for gram in several:
                jobs += [plan.place(*gram.left), gram.columns]
                for *_, key, row in gram.partners:
                    jobs += [Address(key), row]
            panels = max(panels, sum(width + lanes for _, width in rights))
        room = -(-(BLOCK * (WIDE + panels) * size + 4096) // 64) * 64 if grams else 0
        scratch = self.room(WORK, parts * room // size) if grams else 0
        table: list[int | Address] = [0] * HEAD
        for key, offset in plan.places:
            first, *moves = self._at[key]
            table += [first + offset * size, *moves]
        table += plan.numbers
        table[:5] = [steps, chunk, rows, len(table), len(phases) // 8]
        table += phases
        table[5:7] = [len(table), len(jobs) // GRAM]
        table += jobs
        table[7:9] = [len(table), len(packs) // PACK]
        table += packs
        self._table = self.room(WORK, -(-8 * len(table) // size)).offset
        compiled = machine(size)
        table[9:13] = [Address(LIVE) if self.ragged else 0, scratch, room, compiled.tiles]
        self._work = compiled.work
        self._jobs = parts, parts, parts if grams else 0
        self.parts = parts
        addresses = [(i, entry) for i, entry in enumerate(table) if isinstance(entry, Address)]
        self._order = list(dict.fromkeys(entry.base for _, entry in addresses))
        bases = {key: i for i, key in enumerate(self._order)}
        pattern = [len(table), len(addresses)]
        pattern += [entry.offset if isinstance(entry, Address) else entry for entry in table]
        for i, entry in addresses:
            pattern += [i, bases[entry.base]]
        self._pattern = array("q", pattern)
        self._relocate = relocation().relocate

    def run(self, addresses: Mapping[Key, int]) -> None:
        """Run the kernels, with the addresses of the bases."""
        bases = array("q", [addresses[key] for key in self._order])
        table = addresses[WORK] + self._table
        self._relocate(self._pattern.buffer_info()[0], bases.buffer_info()[0], table)
        threads.run(self._work, table, self._jobs, self.parts)
