"""Where all memory of a run lies, and the table that tells the kernels: made once for a size of run.

What comes from outside, and each block of memory that a run takes, is a *base*: its address is filled in at each run.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ir.nodes import Block, Kth, Lookup, Product
from ..ir.program import Key
from ..kernels import threads
from ..kernels.machine import BLOCK, GRAM, HEAD, PACK, WIDE, machine, relocation
from .passes.schedule import RowPhase, Schedule
from .trace import NotFused

#: Multiplications below which one thread does all: waking another takes longer.
SMALL = 3_000_000

#: Rows that are worked on at once before and after the steps.
TOGETHER = 256

#: The blocks of memory that a run takes: one that is free after it, and one that its gradient needs.
WORK: Key = ("work", 0)
SAVED: Key = ("saved", 0)

#: How many rows live at each step.
LIVE: Key = ("live", 0)

#: An address that is not known yet is the number of its base times this, and an offset.
_BASE = 1 << 48


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
        self._bases: dict[Key, int] = {}
        self._at: dict[Key, tuple[int, int, int, int, int]] = {}

    # --- Memory ---

    def base(self, key: Key) -> int:
        """The address of what is filled in under this name."""
        return self._bases.setdefault(key, len(self._bases) + 1) * _BASE

    def room(self, block: Key, *shape: int) -> int:
        """The address of new room for an array in a block."""
        offset = self.sizes.get(block, 0)
        self.sizes[block] = offset + -(-math.prod(shape) * self.dtype.itemsize // 64) * 64
        return self.base(block) + offset

    def spot(self, key: Key, address: int, *shape: int) -> None:
        """Name what is read or written around the run."""
        self.spots[key] = Spot(address % _BASE, shape)

    def over_time(self, key: Key, address: int, width: int, first: int, forwards: bool, row: int | None = None) -> None:
        """An array (steps, rows, width) whose first step in the order of the run is at index `first`."""
        row = width * self.dtype.itemsize if row is None else row
        step = self.rows * row
        self.strided(key, address, step, row, first, forwards)

    def strided(self, key: Key, address: int, step: int, row: int, first: int, forwards: bool) -> None:
        """The same with strides in bytes."""
        self._at[key] = address + first * step, step if forwards else -step, 0, row, 0

    def same(self, key: Key, address: int, row: int = 0) -> None:
        """An array that is the same at all steps."""
        self._at[key] = address, 0, 0, row, 0

    # --- The table ---

    def seal(
        self,
        plan: Schedule,
        functions: Mapping[str, int],
        strides: Sequence[tuple[int, int]],
        grams: Sequence[Gram] = (),
    ) -> None:
        """All is placed: make the table. `strides` are those of the matrices."""
        size, rows, steps, lanes = self.dtype.itemsize, self.rows, self.steps, 64 // self.dtype.itemsize
        products = [
            (p, p.node.blocks) for p in plan.phases if not isinstance(p, RowPhase) and isinstance(p.node, Product)
        ]
        work = sum(p.inner * p.width for p, _ in products) + sum(
            g.columns * w for g in grams for _, w, *_ in g.partners
        )
        parts = 1 if work * steps * rows < SMALL or rows < 2 else min(self._most, rows)
        chunk = max(min(TOGETHER * parts // rows, steps), min(4, steps))
        for i, (width, lasting) in enumerate(plan.scratch):
            step = rows * width * size if lasting else 0
            address = self.room(WORK, chunk if lasting else 1, rows, width)
            self._at["scratch", i] = address, 0, step, width * size, 0
        packed: dict[tuple[Block, ...], int] = {}
        packs: list[int] = []
        for p, blocks in products:
            if blocks not in packed:
                target = packed[blocks] = self.room(WORK, (p.width + lanes) * p.inner + 1024)
                for number, turned, above, left, inner, width in blocks:
                    row, column = strides[number][::-1] if turned else strides[number]
                    packs += [self.base(("matrix", number)), row, column, inner, width]
                    packs += [target, above, left, p.inner, p.width]
        phases: list[int] = []
        for phase in plan.phases:
            if isinstance(phase, RowPhase):
                phases += [0, phase.level, functions[phase.name], 0, 0, 0, 0, 0]
                continue
            node, ends = phase.node, [phase.level, phase.source, phase.target]
            if isinstance(node, Lookup):
                phases += [2, *ends, self.base(("matrix", node.matrix)), *strides[node.matrix], phase.width]
            elif isinstance(node, Kth):
                phases += [3, *ends, node.k, phase.inner, 0, 0]
            elif isinstance(node, Product):
                phases += [1, *ends, packed[node.blocks], phase.inner, phase.width, int(phase.accumulate)]
            else:
                raise NotFused(f"no kernel multiplies {node!r}")
        jobs: list[int] = []
        panels = 0
        shared: dict[Any, list[Gram]] = {}
        for gram in grams:
            shared.setdefault(tuple([(right, width) for right, width, *_ in gram.partners]), []).append(gram)
        for rights, several in shared.items():
            jobs += [len(several), len(rights)]
            for right, width in rights:
                jobs += [plan.slot(*right), width]
            for gram in several:
                jobs += [plan.slot(*gram.left), gram.columns]
                for *_, key, row in gram.partners:
                    jobs += [self.base(key), row]
            panels = max(panels, sum(width + lanes for _, width in rights))
        room = -(-(BLOCK * (WIDE + panels) * size + 4096) // 64) * 64 if grams else 0
        scratch = self.room(WORK, parts * room // size) if grams else 0
        table = [0] * HEAD
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
        self._table = self.room(WORK, -(-8 * len(table) // size)) % _BASE
        compiled = machine(size)
        table[9:13] = [self.base(LIVE) if self.ragged else 0, scratch, room, compiled.tiles]
        self._work = compiled.work
        self._jobs = parts, parts, parts if grams else 0
        self.parts = parts
        places = [i for i, entry in enumerate(table) if entry >= _BASE]  # no address that is known is so large
        pattern = [len(table), len(places), *[entry % _BASE if entry >= _BASE else entry for entry in table]]
        for i in places:
            pattern += [i, table[i] // _BASE - 1]
        self._pattern = array("q", pattern)
        self._relocate = relocation().relocate
        self._order = list(self._bases)

    def run(self, addresses: Mapping[Key, int]) -> None:
        """Run the kernels, with the addresses of the bases."""
        bases = array("q", [addresses[key] for key in self._order])
        table = addresses[WORK] + self._table
        self._relocate(self._pattern.buffer_info()[0], bases.buffer_info()[0], table)
        threads.run(self._work, table, self._jobs, self.parts)
