"""Functions on rows as text for Numba: what `loops` says, a line an entry.

Sizes are no part of the text: each is read from the table, so that a cell of another width compiles nothing.
"""

from __future__ import annotations

import math

from ..kernels.runtime.table import Head, Slot
from .loops import Accumulate, At, Begin, Entry, Function, Literal, Load, Loop, Operation, Store

_BEGIN = {"sum": "ZERO", "max": "ZERO - np.inf", "min": "ZERO + np.inf"}


def printed(function: Function, numbers: list[int]) -> str:
    """The function's text. The sizes that it reads from the table are put behind `numbers`, those of the others."""
    return _Printer(function, numbers).text()


def sources(function: Function) -> dict[str, None]:
    """The texts of the scalar functions that it calls, each once."""
    primitives = dict.fromkeys([entry.primitive for entry in function.every() if isinstance(entry, Operation)])
    return dict.fromkeys([source for primitive in primitives for source in primitive.sources])


class _Printer:
    def __init__(self, function: Function, numbers: list[int]) -> None:
        self.function, self.numbers = function, numbers
        self.head: dict[str, str] = {}
        self.slots: dict[int, None] = {}
        # Each slot that is written has a scope of its own, and the others share scope 0: see `pointers`.
        written = sorted({entry.at.slot for entry in function.every() if isinstance(entry, Store)})
        self.scopes = {slot: i + 1 for i, slot in enumerate(written)}

    def text(self) -> str:
        body: list[str] = []
        for entry in self.function.entries:
            if isinstance(entry, Loop):
                lines = [f"    {self.line(one)}" for one in entry.entries]
                body += [f"for j in range({self.number(entry.width)}):", *lines]
            else:
                body.append(self.line(entry))
        lines = [f"def {self.function.name}(table, step, within, first, last, part):"]
        lines += [f"    {name} = {text}" for name, text in self.head.items()]
        lines += ["    for row in range(first, last):"]
        lines += [f"        p_{slot} = q_{slot} + row * s_{slot}" for slot in sorted(self.slots)]
        lines += [f"        {line}" for line in body]
        return "\n".join(lines) + "\n"

    def line(self, entry: Entry) -> str:
        match entry:
            case Literal():
                return f"{entry.name} = like({_literal(entry.value)}, ZERO)"
            case Load():
                text = f"load(ZERO, {self.address(entry.at, entry.along)})"
                return f"{entry.name} = ({text} > ZERO)" if entry.boolean else f"{entry.name} = {text}"
            case Operation():
                return f"{entry.name} = {entry.primitive.text.format(*entry.operands)}"
            case Begin():
                return f"{entry.name} = like({_BEGIN[entry.reduction]}, ZERO)"
            case Accumulate(total, "sum", term):
                return f"{total} = summed({total}, {term})"
            case Accumulate(total, reduction, term):
                sign = ">" if reduction == "max" else "<"
                return f"{total} = {total} if {total} {sign} {term} or {total} != {total} else {term}"
            case Store():
                name, address = entry.name, self.address(entry.at, entry.along)
                if entry.add:
                    name = f"load(ZERO, {address}) + {name}"
                elif entry.boolean:
                    name = f"like(1.0 if {name} else 0.0, ZERO)"
                return f"store({name}, {address})"

    def address(self, at: At, along: bool) -> str:
        """Base, index and scope of what lies there."""
        slot = at.slot
        if slot not in self.slots:
            self.slots[slot] = None
            entry = len(Head) + len(Slot) * slot
            self.head[f"q_{slot}"] = f"origin(table, {entry}, step, within, part)"
            self.head[f"s_{slot}"] = f"number(table, {entry + Slot.ROW})"
        index = ["j"] if along else []
        if at.offset or not along:
            index.insert(0, self.number(at.offset) if at.offset else "0")
        return f"p_{slot}, {' + '.join(index)}, {self.scopes.get(slot, 0)}, {len(self.scopes) + 1}"

    def number(self, size: int) -> str:
        """A size, out of the table."""
        self.numbers.append(size)
        name = f"n_{len(self.numbers)}"
        self.head[name] = f"number(table, NUMBERS + {len(self.numbers) - 1})"
        return name


def _literal(value: float) -> str:
    return repr(value) if math.isfinite(value) else f"{'-' * (value < 0.0)}np.{abs(value)!r}"
