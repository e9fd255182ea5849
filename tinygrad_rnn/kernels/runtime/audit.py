"""Whether all that a table makes the kernels touch is memory that they were given; tests ask before each run.

It is written from what the kernels do with the entries of a table, not from how tables are made. A kernel reaches
address + step * stride + ... for whole numbers between known ends, so the lowest and the highest of these say all.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .interpreter import BLOCK, WIDE
from .table import BODIES, PHASE, Address, Base, Entry, Gemm, Head, Kind, Panels, Phase, Record, Slot


class MemoryFault(AssertionError):
    """A table that makes kernels touch what they were not given, or write where others read."""


class Memory(NamedTuple):
    """What is handed over under a base: its address, and from where to where it lies, in bytes from there."""

    address: int
    low: int
    high: int


class Run(NamedTuple):
    """What is to be audited.

    Attributes:
        table: sealed.
        memory: of each base.
        rooms: pieces that the memory of a base is divided into: base, offset, bytes. What a kernel reaches from one
            address lies in one of them.
        size: bytes of a number; `lanes`, numbers of a vector.
        shards: on how many threads it runs.
        text, functions, numbers: source of the functions on rows, their names by address, and where in the table the
            sizes stand that they read.
    """

    table: Sequence[Entry]
    memory: Mapping[Base, Memory]
    rooms: Sequence[tuple[Base, int, int]]
    size: int
    lanes: int
    shards: int
    text: str
    functions: Mapping[int, str]
    numbers: int


class Reach(NamedTuple):
    """Bytes `low` to `high` - 1 behind an address, in each of `rows` rows, `row` bytes apart, at each step."""

    what: str
    at: Address
    low: int
    high: int
    rows: int = 1
    row: int = 0
    steps: int = 1
    step: int = 0
    chunk: int = 1
    within: int = 0
    written: bool = False

    def ends(self) -> tuple[int, int]:
        """The first and last byte, from the base on, and one more."""
        low, high = self.at.offset + self.low, self.at.offset + self.high
        for count, stride in ((self.rows, self.row), (self.steps, self.step), (self.chunk, self.within)):
            low, high = low + min(0, (count - 1) * stride), high + max(0, (count - 1) * stride)
        return low, high

    def in_rows(self) -> tuple[int, int]:
        """The same at one step, from row 0 on."""
        reach = (self.rows - 1) * self.row
        return self.low + min(0, reach), self.high + max(0, reach)

    def begin(self, step: int) -> int:
        """Where row 0 begins at a step, from the base on."""
        return self.at.offset + step * self.step + step % self.chunk * self.within


def audit(run: Run) -> None:
    """Check all of a table.

    Raises:
        MemoryFault: for the first that is wrong.
    """
    table = _Table(run)
    together = list(table.phases())
    alone = [*table.packing(), *table.weight_gradients()]
    for reach in (*(reach for several in together for reach in several), *alone):
        _inside(reach, run)
        _aligned(reach, run)
    for several in together:
        for i, one in enumerate(several):
            for other in several[:i]:
                _apart(one, other, run)
    targets = [reach for reach in alone if reach.what.startswith("weight gradient")]
    for i, one in enumerate(targets):
        for other in targets[:i]:
            _apart(one, other, run)
    every = [*alone, *[reach for several in together for reach in several]]
    _fresh({reach.at.base for reach in every if reach.written}, {reach.at.base for reach in targets}, run)


class _Table:
    """A table, read as the interpreter does."""

    def __init__(self, run: Run) -> None:
        self.run, self.table = run, run.table
        self.steps, self.rows = self.number(Head.STEPS), self.number(Head.ROWS)
        self.chunk = min(self.number(Head.CHUNK), self.steps)
        self.live = self.table[Head.LIVE]

    def number(self, index: int) -> int:
        """An entry that is no address."""
        found = self.table[index]
        if isinstance(found, Address):
            raise MemoryFault(f"entry {index} is an address, {found}, and is read as a number")
        return found

    def address(self, index: int) -> Address:
        """An entry that is one."""
        found = self.table[index]
        if not isinstance(found, Address):
            raise MemoryFault(f"entry {index} is a number, {found}, and is read as an address")
        return found

    def record(self, kind: type[Record], index: int) -> dict[str, Entry]:
        """The record at an index, by the names of its entries."""
        return {member.name.lower(): self.table[index + member] for member in kind}

    def slot(self, what: str, slot: int, first: int, last: int, written: bool = False) -> Reach:
        """Numbers `first` to `last` of each row of a slot, at all steps."""
        at = len(Head) + len(Slot) * slot
        if not slot >= 0 or at + len(Slot) > self.run.numbers:
            raise MemoryFault(f"{what}: there is no slot {slot}")
        size = self.run.size
        return Reach(
            f"{what}, slot {slot}", self.address(at), first * size, (last + 1) * size,
            self.rows, self.number(at + Slot.ROW), self.steps, self.number(at + Slot.STEP),
            self.chunk, self.number(at + Slot.WITHIN), written,
        )  # fmt: skip

    def phases(self) -> Iterator[list[Reach]]:
        """What each phase reaches."""
        if isinstance(self.live, Address):
            yield [Reach("live rows", self.live, 0, 8 * self.steps)]
        for i in range(self.number(Head.PHASE_COUNT)):
            index = self.number(Head.PHASES) + PHASE * i
            kind = Kind(self.number(index + Phase.KIND))
            yield list(self.phase(f"phase {i}, {kind.name}", kind, index + len(Phase)))

    def phase(self, what: str, kind: Kind, index: int) -> Iterator[Reach]:
        """What one of them reaches; `index` is that of its body."""
        one: dict[str, Any] = self.record(BODIES[kind], index)
        size, lanes = self.run.size, self.run.lanes
        if kind is Kind.ROWS:
            for slot, first, last, written, _ in self.accesses(self.run.functions[one["function"]]):
                yield self.slot(what, slot, first, last, written)
            return
        read, made = {
            Kind.PRODUCT: (one.get("inner"), one["width"]), Kind.LOOKUP: (1, one["width"]), Kind.KTH: (one["width"], 1),
        }[kind]  # fmt: skip
        yield self.slot(f"{what}, source", one["source"], 0, read - 1)
        yield self.slot(f"{what}, target", one["target"], 0, made - 1, True)
        if kind is Kind.PRODUCT:
            yield Reach(f"{what}, panels", one["panels"], 0, one["inner"] * -(-one["width"] // lanes) * lanes * size)
        elif kind is Kind.LOOKUP:  # that the numbers are of rows there are, the compiler sees to
            yield Reach(f"{what}, matrix", one["matrix"], 0, size, one["width"], one["column"])

    def accesses(self, name: str) -> list[Access]:
        """What a function on rows reads and writes."""
        return accesses(self.run.text, name, self.number, self.run.numbers)

    def packing(self) -> Iterator[Reach]:
        """What is read and written where matrices are packed."""
        size, lanes = self.run.size, self.run.lanes
        for i in range(self.number(Head.PANEL_COUNT)):
            one: dict[str, Any] = self.record(Panels, self.number(Head.PANELS) + len(Panels) * i)
            yield Reach(
                f"panels {i}, matrix", one["source"], 0, size,
                one["inner"], one["row"], one["width"], one["column"],
            )  # fmt: skip
            if one["column"] != size and one["row"] != size and one["inner"] > 1:
                raise MemoryFault(f"panels {i}: no numbers of the matrix lie side by side")
            if one["left"] % lanes or one["left"] + one["width"] > one["total_width"]:
                raise MemoryFault(f"panels {i}: a part that is not inside the whole")
            if one["above"] + one["inner"] > one["total_inner"]:
                raise MemoryFault(f"panels {i}: a part that is not inside the whole")
            end = one["total_inner"] * -(-one["total_width"] // lanes) * lanes * size
            yield Reach(f"panels {i}", one["target"], 0, end, written=True)

    def weight_gradients(self) -> Iterator[Reach]:
        """What is read and written where weight gradients are summed."""
        size, lanes = self.run.size, self.run.lanes
        index, end = self.number(Head.GEMMS), self.number(Head.GEMM_END)
        room = 0
        while index < end:
            lefts, rights = self.number(index + Gemm.LEFTS), self.number(index + Gemm.RIGHTS)
            index += len(Gemm)
            widths = []
            for _ in range(rights):
                slot, columns = self.number(index), self.number(index + 1)
                yield self.slot("right side", slot, 0, columns - 1)
                widths.append(columns)
                index += 2
            room = max(room, BLOCK * (WIDE + sum(-(-width // lanes) * lanes for width in widths)) * size)
            for _ in range(lefts):
                slot, columns = self.number(index), self.number(index + 1)
                yield self.slot("left side", slot, 0, columns - 1)
                index += 2
                for width in widths:
                    yield Reach(
                        f"weight gradient at {index}", self.address(index), 0, width * size,
                        columns, self.number(index + 1), written=True,
                    )  # fmt: skip
                    index += 2
        if room:
            each = self.number(Head.SHARD)
            if room > each:
                raise MemoryFault(f"a shard needs {room} bytes to gather sides, and has {each}")
            yield Reach("shards", self.address(Head.SHARDS), 0, each * self.run.shards, written=True)


def _fresh(written: set[Base], targets: set[Base], run: Run) -> None:
    """See that nothing else lies in the memory of what is written; several weight gradients may, each in its part."""
    for base in written:
        mine = run.memory[base]
        for other, memory in run.memory.items():
            if other == base or (base in targets and other in targets):
                continue
            low = max(mine.address + mine.low, memory.address + memory.low)
            if low < min(mine.address + mine.high, memory.address + memory.high):
                raise MemoryFault(f"{base} is written, and {other} lies in the same memory")


def _inside(reach: Reach, run: Run) -> None:
    low, high = reach.ends()
    if reach.rows < 1 or reach.steps < 1 or reach.high <= reach.low:
        return
    base = reach.at.base
    if base not in run.memory:
        raise MemoryFault(f"{reach.what}: {base} was not handed over")
    given = run.memory[base]
    if low < given.low or high > given.high:
        raise MemoryFault(f"{reach.what}: bytes {low} to {high} of {base}, which has {given.low} to {given.high}")
    rooms = [(offset, offset + size) for name, offset, size in run.rooms if name == base]
    if rooms and not any(first <= low and high <= last for first, last in rooms):
        raise MemoryFault(f"{reach.what}: bytes {low} to {high} of {base} are no part of one array there")


def _aligned(reach: Reach, run: Run) -> None:
    size = run.size
    strides = ((reach.rows, reach.row), (reach.steps, reach.step), (reach.chunk, reach.within))
    begin = run.memory[reach.at.base].address + reach.at.offset
    if begin % size or any(stride % size for count, stride in strides if count > 1):
        raise MemoryFault(f"{reach.what}: not aligned to {size} bytes")


def _apart(one: Reach, other: Reach, run: Run) -> None:
    """See that what one of two writes at a step is nothing that the other reaches then.

    What is of one slot may be: the kernels know it as one.
    """
    if not (one.written or other.written) or one.what == other.what or min(one.rows, other.rows) < 1:
        return
    start = run.memory[other.at.base].address - run.memory[one.at.base].address
    steps = max(one.steps, other.steps)
    for step in sorted({*range(min(steps, 9)), steps // 2, *range(max(steps - 9, 0), steps)}):
        behind = start + other.begin(step) - one.begin(step)
        low, high = one.in_rows()
        first, last = other.in_rows()
        apart = low >= behind + last or behind + first >= high
        if not apart and any(_meet(one, other, behind + k) for k in _offsets(one, other, behind)):
            raise MemoryFault(f"{one.what} and {other.what} meet at step {step}")


def _offsets(one: Reach, other: Reach, behind: int) -> Iterator[int]:
    """How far rows of the other may be moved against rows of the one."""
    if one.row == other.row:
        reach = max(one.rows, other.rows) - 1
        if one.row and reach:  # only those near by can meet
            nearest = -behind // one.row
            yield from (k * one.row for k in range(nearest - 2, nearest + 3) if -reach <= k <= reach)
            wide = max(one.high - one.low, other.high - other.low) > abs(one.row)
            if wide:
                yield from (k * one.row for k in range(-reach, reach + 1))
        else:
            yield 0
        return
    for i in range(one.rows):
        yield from (k * other.row - i * one.row for k in range(other.rows))


def _meet(one: Reach, other: Reach, behind: int) -> bool:
    return one.low < behind + other.high and behind + other.low < one.high


# --- Functions on rows ---


class Access(NamedTuple):
    """Numbers `first` to `last` of a slot that a function on rows reads or writes, and what LLVM is told of it."""

    slot: int
    first: int
    last: int
    written: bool
    scope: int


class _Anything:
    """Stands for any number and any function of numbers in the text of a function on rows."""

    def __call__(self, *arguments: Any) -> _Anything:
        return self

    def __getattr__(self, name: str) -> _Anything:
        return self

    def __bool__(self) -> bool:
        return True


def _any(*operands: Any) -> _Anything:
    return _ANYTHING


_OPERATORS = "add sub mul truediv floordiv mod pow and or xor neg pos invert lt le gt ge eq ne abs"
for _name in _OPERATORS.split():
    setattr(_Anything, f"__{_name}__", _any)
    setattr(_Anything, f"__r{_name}__", _any)
_Anything.__hash__ = object.__hash__  # type: ignore[method-assign]
_ANYTHING = _Anything()


class _Place:
    """Stands for the address of row 0 of a slot."""

    def __init__(self, slot: int) -> None:
        self.slot = slot

    def __add__(self, more: int) -> _Place:
        if more:
            raise MemoryFault("a function on rows moves in a row otherwise than by an index")
        return self


def accesses(text: str, name: str, number: Callable[[int], int], numbers: int) -> list[Access]:
    """What a function on rows reads and writes in one row: its text is run, with the ends of each loop alone.

    Where one and the same slot is touched several times, from the lowest to the highest.
    """
    found: dict[tuple[int, bool, int], list[int]] = {}

    def touched(place: _Place, index: int, scope: int, written: bool) -> None:
        found.setdefault((place.slot, written, scope), []).append(index)

    def load(kind: Any, place: _Place, index: int, scope: int, scopes: int) -> Any:
        touched(place, index, scope, False)
        return _ANYTHING

    def store(value: Any, place: _Place, index: int, scope: int, scopes: int) -> None:
        touched(place, index, scope, True)

    def ends(first: int, last: int | None = None) -> list[int]:
        """Instead of `range`: both ends; along rows, of which there are two arguments, the first."""
        return [0] if last is not None else sorted({0, first - 1}) if first > 0 else []

    def origin(table: int, index: int, *factors: int) -> _Place:
        return _Place((index - len(Head)) // len(Slot))

    known = {
        "origin": origin, "number": lambda table, index: number(index), "load": load, "store": store, "range": ends,
    }  # fmt: skip
    code = _compiled(text)[name]
    names = dict.fromkeys(code.co_names, _ANYTHING)
    function = types.FunctionType(code, {**names, **known, "NUMBERS": numbers, "__builtins__": {}})
    function(0, 0, 0, 0, 1, 0)
    scopes: dict[int, set[int]] = {}
    for place, _, scope in found:
        scopes.setdefault(place, set()).add(scope)
    if any(len(several) > 1 for several in scopes.values()):
        raise MemoryFault(f"{name}: LLVM is told that one slot is two")
    return [Access(place, min(all_), max(all_), written, scope) for (place, written, scope), all_ in found.items()]


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> dict[str, types.CodeType]:
    """The functions of a text, by name."""
    module = compile(re.sub(r"^@rows$", "", text, flags=re.M), "<functions on rows>", "exec")
    return {code.co_name: code for code in module.co_consts if isinstance(code, types.CodeType)}
