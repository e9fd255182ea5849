"""Where all memory of a run lies, and the table that tells the kernels: made once for a size of run.

What comes from outside, and each block of memory that a run takes, is a *base*: its address is filled in at each run.
Until then an address is a base and an offset.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...ir.nodes import Block, Kth, Lookup, Product
from ...ir.program import Key
from ...kernels.runtime import threads
from ...kernels.runtime.interpreter import BLOCK, WIDE, interpreter, patching
from ...kernels.runtime.table import Address, Entry, Gemm, Head, Kind, Panels, Side, Slot, Target, phase, template
from ..front.trace import NotFused
from ..passes.schedule import RowPhase, Schedule

#: Multiplications below which one thread does all: waking another takes longer.
SMALL = 3_000_000

#: Rows that are worked on at once before and after the steps.
TOGETHER = 256

#: The blocks of memory that a run takes: one that is free after it, and one that its gradient needs.
WORK: Key = ("work", 0)
SAVED: Key = ("arena", 0)

#: Called before each run, where there is one: with the layout, the addresses of the bases, the arrays that lie there,
#: and arrays in which the others lie. Tests put an audit here.
inspect: Callable[[Layout, Mapping[Key, int], Mapping[Key, Any], Sequence[Any]], None] | None = None

#: How many rows live at each step.
LIVE: Key = ("live", 0)


class Region(NamedTuple):
    """Some numbers of a block that are read or written around a run: offset in bytes, and shape."""

    offset: int
    shape: tuple[int, ...]


class WeightGemm(NamedTuple):
    """A sum of products over all steps: where its left side lies and its columns, and right sides likewise, with where
    the sum goes and the bytes of a row there."""

    left: tuple[Key, int]
    columns: int
    partners: list[tuple[tuple[Key, int], int, Key, int]]


class Layout:
    """One kind of run: so many steps and rows, on so many threads; `ragged` where rows end at different steps.

    Attributes:
        sizes: bytes of each block that the run takes.
        regions: what lies in one of them and is read or written around the run.
        shards: on how many threads it runs.
        rooms: of each array in those blocks, the block, the offset and the bytes.
        table: as long as addresses are bases and offsets; plan, functions: what it was made of.
    """

    def __init__(self, steps: int, rows: int, dtype: np.dtype[Any], most: int, ragged: bool) -> None:
        self.steps, self.rows, self.dtype, self.ragged = steps, rows, dtype, ragged
        self._most = most
        self.sizes: dict[Key, int] = {}
        self.regions: dict[Key, Region] = {}
        self._slots: dict[Key, tuple[Address, int, int, int]] = {}
        self.rooms: list[tuple[Key, int, int]] = []

    # --- Memory ---

    def room(self, block: Key, *shape: int) -> Address:
        """The address of new room for an array in a block."""
        offset = self.sizes.get(block, 0)
        size = math.prod(shape) * self.dtype.itemsize
        self.sizes[block] = offset + -(-size // 64) * 64
        self.rooms.append((block, offset, size))
        return Address(block, offset)

    def region(self, key: Key, address: Address, *shape: int) -> None:
        """Name what is read or written around the run."""
        self.regions[key] = Region(address.offset, shape)

    def over_time(self, key: Key, address: Address, width: int, first: int, forwards: bool) -> None:
        """An array (steps, rows, width) whose first step in the order of the run is at index `first`."""
        row = width * self.dtype.itemsize
        self.strided(key, address, self.rows * row, row, first, forwards)

    def strided(self, key: Key, address: Address, step: int, row: int, first: int, forwards: bool) -> None:
        """The same with strides in bytes."""
        self._slots[key] = address + first * step, step if forwards else -step, 0, row

    def same(self, key: Key, address: Address, row: int = 0) -> None:
        """An array that is the same at all steps."""
        self._slots[key] = address, 0, 0, row

    # --- The table ---

    def seal(
        self,
        plan: Schedule,
        functions: Mapping[str, int],
        strides: Sequence[tuple[int, int]],
        gradients: Sequence[WeightGemm] = (),
    ) -> None:
        """All is placed: make the table. `strides` are those of the matrices."""
        size, rows, steps = self.dtype.itemsize, self.rows, self.steps
        self._lanes = 64 // size  # of the widest vectors there are
        products = [p for p in plan.phases if not isinstance(p, RowPhase) and isinstance(p.node, Product)]
        work = sum(p.inner * p.width for p in products)
        work += sum(gradient.columns * width for gradient in gradients for _, width, *_ in gradient.partners)
        self.shards = shards = 1 if work * steps * rows < SMALL or rows < 2 else min(self._most, rows)
        chunk = max(min(TOGETHER * shards // rows, steps), min(4, steps))
        for i, (width, lasting) in enumerate(plan.scratch):
            address = self.room(WORK, chunk if lasting else 1, rows, width)
            self._slots["scratch", i] = address, 0, rows * width * size if lasting else 0, width * size
        panels, packed = self._panels(products, strides)
        phases = self._phases(plan, functions, strides, packed)
        gemms, shard = self._gemms(plan, gradients)
        slots: list[Entry] = []
        for key, offset in plan.places:
            at, step, within, row = self._slots[key]
            slots += Slot.filled(address=at + offset * size, step=step, within=within, row=row, shard=0)
        compiled = interpreter(size)
        first = len(Head) + len(slots) + len(plan.numbers)
        ends = list(itertools.accumulate((first, len(phases), len(gemms))))
        head = Head.filled(
            steps=steps, chunk=chunk, rows=rows, phases=first, phase_count=len(plan.phases), gemms=ends[1],
            gemm_end=ends[2], panels=ends[2], panel_count=len(panels) // len(Panels),
            live=Address(LIVE) if self.ragged else 0, shard=shard, tiles=compiled.tiles,
            shards=self.room(WORK, shards * shard // size) if gradients else 0,
        )  # fmt: skip
        self.plan, self.functions = plan, functions
        self.table = [*head, *slots, *plan.numbers, *phases, *gemms, *panels]
        self._table = self.room(WORK, -(-8 * len(self.table) // size)).offset
        self._work = compiled.work
        self._jobs = shards, shards, shards if gradients else 0
        self._template, self._order = template(self.table)
        self._patch = patching().patch

    def _panels(
        self, products: Sequence[Any], strides: Sequence[tuple[int, int]]
    ) -> tuple[list[Entry], dict[tuple[Block, ...], Address]]:
        """What packs the matrices of products, and where the panels of each lie."""
        panels: list[Entry] = []
        packed: dict[tuple[Block, ...], Address] = {}
        for p in products:
            if p.node.blocks in packed:
                continue
            target = packed[p.node.blocks] = self.room(WORK, (p.width + self._lanes) * p.inner + 1024)
            for number, transposed, above, left, inner, width in p.node.blocks:
                row, column = strides[number][::-1] if transposed else strides[number]
                panels += Panels.filled(
                    source=Address(("matrix", number)), row=row, column=column, inner=inner, width=width,
                    target=target, above=above, left=left, total_inner=p.inner, total_width=p.width,
                )  # fmt: skip
        return panels, packed

    def _phases(
        self,
        plan: Schedule,
        functions: Mapping[str, int],
        strides: Sequence[tuple[int, int]],
        packed: Mapping[Any, Address],
    ) -> list[Entry]:
        made: list[Entry] = []
        for one in plan.phases:
            if isinstance(one, RowPhase):
                made += phase(Kind.ROWS, one.level, function=functions[one.name])
                continue
            node = one.node
            if isinstance(node, Lookup):
                row, column = strides[node.matrix]
                made += phase(
                    Kind.LOOKUP, one.level, source=one.source, target=one.target,
                    matrix=Address(("matrix", node.matrix)), row=row, column=column, width=one.width,
                )  # fmt: skip
            elif isinstance(node, Kth):
                made += phase(Kind.KTH, one.level, source=one.source, target=one.target, k=node.k, width=one.inner)
            elif isinstance(node, Product):
                made += phase(
                    Kind.PRODUCT, one.level, source=one.source, target=one.target, panels=packed[node.blocks],
                    inner=one.inner, width=one.width, accumulate=int(one.accumulate),
                )  # fmt: skip
            else:
                raise NotFused(f"no kernel multiplies {node!r}")
        return made

    def _gemms(self, plan: Schedule, gradients: Sequence[WeightGemm]) -> tuple[list[Entry], int]:
        """The weight gradients, those of the same right sides together, and the bytes in which a shard gathers them."""
        made: list[Entry] = []
        panels = 0
        together: dict[Any, list[WeightGemm]] = {}
        for gradient in gradients:
            together.setdefault(tuple([(right, width) for right, width, *_ in gradient.partners]), []).append(gradient)
        for rights, several in together.items():
            made += Gemm.filled(lefts=len(several), rights=len(rights))
            for right, width in rights:
                made += Side.filled(slot=plan.slot(*right), columns=width)
            for gradient in several:
                made += Side.filled(slot=plan.slot(*gradient.left), columns=gradient.columns)
                for *_, key, row in gradient.partners:
                    made += Target.filled(address=Address(key), row=row)
            panels = max(panels, sum(width + self._lanes for _, width in rights))
        return made, -(-(BLOCK * (WIDE + panels) * self.dtype.itemsize + 4096) // 64) * 64 if gradients else 0

    def run(self, addresses: Mapping[Key, int]) -> None:
        """Run the kernels, with the addresses of the bases."""
        bases = array("q", [addresses[key] for key in self._order])
        table = addresses[WORK] + self._table
        self._patch(self._template.buffer_info()[0], bases.buffer_info()[0], table)
        threads.run(self._work, table, self._jobs, self.shards)
