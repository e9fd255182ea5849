"""A machine that runs phases on NumPy as the kernels do: chunk by chunk, prologue, loop and epilogue. Nothing compiled.

Where the numbers lie, two kinds of memory say: arrays by key (`scheduled`: only phases and their order are the
compiler's), or the bytes behind a laid-out table (`Laid`: strides, addresses and the records of the table are too).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...ir.interpret import matrix_of
from ...ir.loops import Accumulate, Begin, Entry, Function, Literal, Load, Loop, Operation, Store
from ...ir.nodes import Kth, Lookup, Product
from ...ir.program import Direction, Key
from ...kernels.runtime import table as records
from ...kernels.runtime.table import BODIES, PHASE, Address, Gemm, Head, Kind, Panels, Phase, Side, Slot, Target
from ..passes.levels import Level
from ..passes.schedule import RowPhase, Schedule
from .layout import Layout

#: (slot, first, width): so many numbers of each row of a slot, from the first on, as a view that can be written.
View = Callable[[int, int, int], Any]

#: The same behind (step in the order of the run, step within the chunk, rows).
Memory = Callable[[int, int, int, int, int, int], Any]

#: Steps of a chunk, where no table says: few, so that short runs have several.
CHUNK = 4


class Rows(NamedTuple):
    """A function on rows."""

    level: int
    function: Function

    def do(self, view: View, dtype: Any) -> None:
        """What it stores."""
        values: dict[str, Any] = {}
        for entry in self.function.entries:
            if isinstance(entry, Loop):
                for one in entry.entries:
                    _entry(one, entry.width, values, view, dtype)
            else:
                _entry(entry, 1, values, view, dtype)


class Multiply(NamedTuple):
    """Rows times a matrix."""

    level: int
    source: int
    target: int
    matrix: Any
    accumulate: bool

    def do(self, view: View, dtype: Any) -> None:
        """The product, or the product added."""
        inner, width = self.matrix.shape
        with np.errstate(all="ignore"):
            made, target = view(self.source, 0, inner) @ self.matrix, view(self.target, 0, width)
            target[...] = target + made if self.accumulate else made


class Find(NamedTuple):
    """Rows of a matrix, looked up."""

    level: int
    source: int
    target: int
    rows: Callable[[Any], Any]

    def do(self, view: View, dtype: Any) -> None:
        """The rows whose numbers the source holds."""
        found = self.rows(view(self.source, 0, 1)[:, 0].astype(np.intp))
        view(self.target, 0, found.shape[1])[...] = found


class Largest(NamedTuple):
    """The k-th largest of a row."""

    level: int
    source: int
    target: int
    k: int
    width: int

    def do(self, view: View, dtype: Any) -> None:
        """It; NaN comes first."""
        order = np.sort(view(self.source, 0, self.width), -1)[:, ::-1]
        view(self.target, 0, 1)[...] = order[:, self.k - 1 : self.k]


Work = Rows | Multiply | Find | Largest


def drive(work: Sequence[Work], memory: Memory, dtype: Any, live: Sequence[int], chunk: int) -> None:
    """All steps of the phases, in the order in which the kernels' `drive` takes them; so many rows live at each."""

    def level(wanted: Level, start: int, steps: Iterable[int]) -> None:
        for one in work:
            for step in steps if one.level == wanted else ():
                if live[step]:
                    one.do(functools.partial(memory, step, step - start, live[step]), dtype)

    for start in range(0, len(live), chunk):
        together = range(start, min(start + chunk, len(live)))
        level(Level.PROLOGUE, start, together)
        for step in together:
            level(Level.LOOP, start, (step,))
        level(Level.EPILOGUE, start, together)


def _entry(entry: Entry, width: int, values: dict[str, Any], view: View, dtype: Any) -> None:
    """One entry of a function, for all rows, and for all numbers of a loop's row at once."""
    match entry:
        case Literal():
            values[entry.name] = np.asarray(entry.value, dtype)
        case Load():
            loaded = view(entry.at.slot, entry.at.offset, width if entry.along else 1).copy()
            values[entry.name] = loaded > 0 if entry.boolean else loaded
        case Operation():
            with np.errstate(all="ignore"):
                made = np.asarray(entry.primitive.reference(*[values[name] for name in entry.operands]))
            values[entry.name] = made if made.dtype.kind == "b" else made.astype(dtype)
        case Begin():
            start = {"sum": 0.0, "max": -np.inf, "min": np.inf}[entry.reduction]
            values[entry.name] = np.asarray(start, dtype)
        case Accumulate():
            join = {"sum": np.add, "max": np.maximum, "min": np.minimum}[entry.reduction]
            term = np.asarray(values[entry.term])
            every = np.broadcast_to(term, (len(term) if term.ndim else 1, width))
            with np.errstate(all="ignore"):
                values[entry.name] = join(values[entry.name], join.reduce(every, axis=1, keepdims=True, dtype=dtype))
        case Store():
            target = view(entry.at.slot, entry.at.offset, width if entry.along else 1)
            target[...] = target + values[entry.name] if entry.add else values[entry.name]


# --- Memory by key: what levels and schedule mean ---


def scheduled(
    schedule: Schedule, direction: Direction, arrays: Mapping[Key, Any], matrices: Sequence[Any], *, steps: int,
    rows: int, live: Sequence[int] | None, backwards: bool, lasts: frozenset[Key],
) -> dict[Key, Any]:  # fmt: skip
    """A direction by its phases: takes and returns what `ir.interpret.run` does."""
    dtype = np.dtype(schedule.dtype)
    alive = [rows if live is None else int(live[t]) for t in range(steps)]
    order = [*reversed(range(steps))] if backwards else [*range(steps)]
    # Of each part of the carry all states in the order of the run. A row that has not begun, or has ended, has one too.
    chains = {
        i: np.repeat(array.reshape(1, rows, -1), steps + 1, 0).astype(dtype)
        for (name, i), array in arrays.items()
        if name == "carry"
    }
    made: dict[Key, Any] = {}
    widths = {wanted.key: wanted.node.width for wanted in direction.wanted} | schedule.times
    for key, width in widths.items():
        if key[0] == "sum":
            made[key] = np.zeros((rows, width), dtype)
        elif key[0] != "next":
            made[key] = np.full((steps, rows, width), np.nan, dtype)  # seen where a store is missing
    scratch = [np.full((CHUNK if lasting else 1, rows, width), np.nan, dtype) for width, lasting in schedule.scratch]
    memory = list(schedule.places)

    def whole(key: Key, step: int, within: int) -> Any:
        """All rows of what lies under a key at a step."""
        name, i = key
        if name in ("carry", "next"):
            return chains[i][step + (name == "next")]
        if name == "scratch":
            return scratch[i][within if schedule.scratch[i][1] else 0]
        if name == "ones":
            return np.ones((rows, 1), dtype)
        if name == "vector":
            return np.broadcast_to(arrays[key].reshape(-1), (rows, arrays[key].size))
        array = made[key] if key in made else arrays[key]
        array = array if key in lasts or name == "sum" else array[order[step]]
        return array if array.ndim == 2 else array.reshape(rows, -1)

    def view(step: int, within: int, count: int, slot: int, first: int, width: int) -> Any:
        key, offset = memory[slot]
        found = whole(key, step, within)[:count, offset + first : offset + first + width]
        if found.shape[1] != width:
            raise IndexError(f"numbers {offset + first} to {offset + first + width} of {key}")
        return found

    drive([*_planned(schedule, matrices)], view, dtype, [alive[t] for t in order], CHUNK)
    for left, right, key in direction.gemms:
        left_at, right_at = schedule.gemms[key]
        made[key] = np.zeros((right.width,) if left is None else (left.width, right.width), dtype)
        for step, t in enumerate(order):
            sides = [
                whole(at[0], step, 0)[: alive[t], at[1] : at[1] + node.width]
                for at, node in ((left_at, left), (right_at, right))
                if at is not None and node is not None
            ]
            made[key] += sides[0].T @ sides[1] if len(sides) == 2 else sides[0].sum(0)
    for key in [key for key in made if key[0] == "sum" and made[key].ndim == 2]:
        made[key] = made[key].sum(0)
    ends = np.zeros(rows, int) + steps  # where each row's last state is
    if not backwards:
        ends = np.array([sum(count > row for count in alive) for row in range(rows)], int)
    for i, chain in chains.items():
        made["carry", i] = chain[ends, np.arange(rows)]
        made["next", i] = chain[1:][::-1] if backwards else chain[1:]
    return made


def _planned(schedule: Schedule, matrices: Sequence[Any]) -> Iterator[Work]:
    for one in schedule.phases:
        if isinstance(one, RowPhase):
            yield Rows(one.level, one.function)
        elif isinstance(one.node, Product):
            matrix = matrix_of(one.node, matrices, schedule.dtype)
            yield Multiply(one.level, one.source, one.target, matrix, one.accumulate)
        elif isinstance(one.node, Lookup):
            yield Find(one.level, one.source, one.target, matrices[one.node.matrix].__getitem__)
        elif isinstance(one.node, Kth):
            yield Largest(one.level, one.source, one.target, one.node.k, one.inner)
        else:
            raise TypeError(f"no phase does {one.node!r}")


# --- Memory behind a table: what the layout means ---


class Laid:
    """A laid-out run, read from its table as the kernels' interpreter reads it.

    Args:
        layout: sealed.
        memory: the bytes of each base, and which of them its address is that of. What is outside of them is refused.
    """

    def __init__(self, layout: Layout, memory: Mapping[Key, tuple[Any, int]]) -> None:
        self.layout, self.memory, self.dtype = layout, memory, layout.dtype
        self.table: list[Any] = [*layout.table]
        self.names = {address: name for name, address in layout.functions.items()}
        self.functions = {one.name: one.function for one in layout.plan.phases if isinstance(one, RowPhase)}
        self.steps = self.table[Head.STEPS]
        self.live = [self.table[Head.ROWS]] * self.steps
        if isinstance(self.table[Head.LIVE], Address):
            self.live = self.array(self.table[Head.LIVE], (self.steps,), (8,), np.dtype("int64")).tolist()

    def run(self) -> None:
        """All phases at all steps, and the weight gradients."""
        drive([*self._phases()], self.view, self.dtype, self.live, self.table[Head.CHUNK])
        self._weight_gradients()

    def array(self, at: Address, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any = None) -> Any:
        """The numbers that lie at an address."""
        data, start = self.memory[at.base]
        return np.ndarray(shape, dtype or self.dtype, data, start + at.offset, strides)

    def view(self, step: int, within: int, rows: int, slot: int, first: int, width: int) -> Any:
        """Numbers of a slot."""
        one = self._record(Slot, len(Head) + len(Slot) * slot)
        size = self.dtype.itemsize
        at = one["address"] + (step * one["step"] + within * one["within"] + first * size)
        return self.array(at, (rows, width), (one["row"], size))

    def _record(self, kind: type[records.Record], index: int) -> dict[str, Any]:
        return {member.name.lower(): self.table[index + member] for member in kind}

    def _phases(self) -> Iterator[Work]:
        matrices = self._matrices()
        for i in range(self.table[Head.PHASE_COUNT]):
            index = self.table[Head.PHASES] + PHASE * i
            kind, level = Kind(self.table[index + Phase.KIND]), self.table[index + Phase.LEVEL]
            one = self._record(BODIES[kind], index + len(Phase))
            if kind is Kind.ROWS:
                yield Rows(level, self.functions[self.names[one["function"]]])
            elif kind is Kind.PRODUCT:
                matrix = matrices[one["panels"]][: one["inner"], : one["width"]]
                yield Multiply(level, one["source"], one["target"], matrix, bool(one["accumulate"]))
            elif kind is Kind.LOOKUP:
                yield Find(level, one["source"], one["target"], functools.partial(self._rows, one))
            else:
                yield Largest(level, one["source"], one["target"], one["k"], one["width"])

    def _rows(self, one: Mapping[str, Any], numbers: Any) -> Any:
        """Rows of a matrix that is looked up in."""
        shape, strides = (one["width"],), (one["column"],)
        return np.stack([self.array(one["matrix"] + int(n) * one["row"], shape, strides) for n in numbers])

    def _matrices(self) -> dict[Address, Any]:
        """The matrices of products, by where their panels lie."""
        made: dict[Address, Any] = {}
        for i in range(self.table[Head.PANEL_COUNT]):
            one = self._record(Panels, self.table[Head.PANELS] + len(Panels) * i)
            whole = made.setdefault(one["target"], np.zeros((one["total_inner"], one["total_width"]), self.dtype))
            part = self.array(one["source"], (one["inner"], one["width"]), (one["row"], one["column"]))
            above, left = one["above"], one["left"]
            whole[above : above + one["inner"], left : left + one["width"]] = part
        return made

    def _weight_gradients(self) -> None:
        index = self.table[Head.GEMMS]
        while index < self.table[Head.GEMM_END]:
            lefts, rights = self.table[index + Gemm.LEFTS], self.table[index + Gemm.RIGHTS]
            index += len(Gemm)
            beside = [self._side(index + len(Side) * i) for i in range(rights)]
            index += len(Side) * rights
            for _ in range(lefts):
                left = self._side(index)
                index += len(Side)
                for right in beside:
                    shape = left.shape[1], right.shape[1]
                    strides = self.table[index + Target.ROW], self.dtype.itemsize
                    self.array(self.table[index + Target.ADDRESS], shape, strides)[...] = left.T @ right
                    index += len(Target)

    def _side(self, index: int) -> Any:
        """All live rows of all steps of a side."""
        slot, columns = self.table[index + Side.SLOT], self.table[index + Side.COLUMNS]
        return np.concatenate([self.view(t, 0, n, slot, 0, columns) for t, n in enumerate(self.live)])
