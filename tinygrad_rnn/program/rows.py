"""Functions on rows, as kernel text: all that lies between two matrix products, in as few loops as can be.

A loop runs along the row; a new one begins only where a reduction must be known first. In a loop all is loaded, then
computed, then stored. What is joined is stored part by part; what is sliced is computed where it is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..kernels.runtime.table import Head, Slot
from .step import Value


class At(NamedTuple):
    """Where a value lies: a place of the table, and how many numbers behind its start."""

    place: int
    offset: int = 0


class Store(NamedTuple):
    """A value that is put to a place, or added to what lies there."""

    value: Value
    at: At
    add: bool = False


class TooWide(Exception):
    """A value must lie in memory before it can be used so."""

    def __init__(self, value: Value) -> None:
        super().__init__(value.name)
        self.value = value


class Rows:
    """The text of one function, and the sizes that it wants in its table.

    Args:
        name: the function's.
        stores: what it shall do.
        loads: where values lie already.
        dtype: "float32" or "float64".
        numbers: the sizes of all functions of a table, one after another; this one's are added.
        scopes: for each place that is written, a number; the others share scope 0.
        laid: values that must lie in memory before anything is made of them.
    """

    def __init__(
        self,
        name: str,
        stores: Sequence[Store],
        loads: Mapping[int, At],
        dtype: str,
        numbers: list[int],
        scopes: Mapping[int, int],
        laid: Container[int] = (),
    ) -> None:
        self.name, self.loads, self.numbers, self.dtype = name, dict(loads), numbers, dtype
        self.scopes = scopes
        self.count = max(scopes.values(), default=0) + 1
        self.sources: dict[str, None] = {}
        self._depths: dict[int, int] = {}
        self.scalars: dict[int, str] = {}
        self.body: list[str] = []
        self.head: dict[str, str] = {}
        self._costly: dict[tuple[int, int], int] = {}
        self._loop = 0
        self.made = 0
        self.laid = {
            s.value.number: s.at
            for s in stores
            if not s.add and (s.value.operator == "join" or s.value.number in laid) and s.value.number not in loads
        }
        self._write([flat for store in stores for flat in _flat(store)])

    # --- The order of things ---

    def _depth(self, value: Value) -> int:
        """How many reductions must be known, one after another, before the value can be."""
        found = self._depths.get(value.number)
        if found is None:
            if value.number in self.loads:
                found = 0
            else:
                found = max((self._depth(operand) for operand in value.operands), default=0)
                found += value.operator == "reduce" or value.number in self.laid
            self._depths[value.number] = found
        return found

    def _write(self, stores: list[Store]) -> None:
        reductions: dict[int, Value] = {}
        stack = [store.value for store in stores]
        while stack:
            value = stack.pop()
            if value.number in self.loads or value.number in reductions:
                continue
            if value.operator == "reduce":
                reductions[value.number] = value
            stack.extend(value.operands)
        due = [self._depth(store.value) - (store.value.number in self.laid) for store in stores]
        for depth in range(max(due, default=0) + 1):
            here = [store for store, when in zip(stores, due) if when == depth]
            along = [value for value in reductions.values() if self._depth(value) == depth + 1]
            widths = dict.fromkeys([s.value.width for s in here] + [r.operands[0].width for r in along])
            for width in widths:
                self._one_loop(
                    width,
                    [store for store in here if store.value.width == width],
                    [value for value in along if value.operands[0].width == width],
                )
            self.loads.update({n: at for n, at in self.laid.items() if self._depths.get(n) == depth + 1})

    def _one_loop(self, width: int, stores: list[Store], reductions: list[Value]) -> None:
        self._loop += 1
        if width == 1:
            for store in stores:
                self._put(self.body, self._scalar(store.value), store, None)
            for value in reductions:
                self.scalars[value.number] = self._scalar(value.operands[0])
            return
        lines: list[str] = []
        locals_: dict[tuple[int, int], str] = {}
        totals = []
        made = [self._element(store.value, 0, width, lines, locals_) for store in stores]
        for value in reductions:
            term = self._element(value.operands[0], 0, width, lines, locals_)
            total = self._name("r")
            start = {"sum": "ZERO", "max": "ZERO - np.inf", "min": "ZERO + np.inf"}[value.setting]
            self.body.append(f"{total} = like({start}, ZERO)")
            if value.setting == "sum":
                lines.append(f"{total} = summed({total}, {term})")
            else:
                sign = ">" if value.setting == "max" else "<"
                lines.append(f"{total} = {total} if {total} {sign} {term} or {total} != {total} else {term}")
            totals.append((value, total))
        for store, name in zip(stores, made):
            self._put(lines, name, store, "j")
        limit = self._number(width)
        self.body.append(f"for j in range({limit}):")
        self.body += [f"    {line}" for line in lines]
        for value, total in totals:
            self.scalars[value.number] = total
        self.loads.update({store.value.number: store.at for store in stores if not store.add})

    # --- Values ---

    def _element(
        self, value: Value, offset: int, width: int, lines: list[str], known: dict[tuple[int, int], str]
    ) -> str:
        """The name of element `offset` + j of a value, in a loop over `width` of them."""
        if value.width == 1:
            return self._scalar(value)
        key = (value.number, offset)
        if key in known:
            return known[key]
        at = self.loads.get(value.number)
        if at is not None:
            text = self._load(value, at, offset, "j")
        elif value.operator == "slice":
            return self._element(value.operands[0], offset + value.setting, width, lines, known)
        elif value.operator == "spread":
            return self._scalar(value.operands[0])
        elif value.operator == "map":
            operands = [self._element(operand, offset, width, lines, known) for operand in value.operands]
            text = self._called(value, operands)
            if value.setting.costly and self._costly.setdefault(key, self._loop) != self._loop:
                raise TooWide(value)
        elif value.operator == "join":
            for part, start in zip(value.operands, value.setting):
                if start <= offset and offset + width <= start + part.width:
                    return self._element(part, offset - start, width, lines, known)
            raise TooWide(value)
        else:
            raise TooWide(value)
        name = self._name("t")
        lines.append(f"{name} = {text}")
        known[key] = name
        return name

    def _scalar(self, value: Value) -> str:
        """The name of a value that is one number a row."""
        found = self.scalars.get(value.number)
        if found is not None:
            return found
        at = self.loads.get(value.number)
        if at is not None:
            text = self._load(value, at, 0, None)
        elif value.operator == "number":
            text = f"like({_literal(value.setting)}, ZERO)"
        elif value.operator == "slice":
            whole = self.loads.get(value.operands[0].number)
            if whole is None:
                raise TooWide(value.operands[0])
            text = self._load(value, whole, value.setting, None)
        elif value.operator == "map":
            text = self._called(value, [self._scalar(operand) for operand in value.operands])
        else:
            raise TooWide(value)
        name = self._name("u")
        self.body.append(f"{name} = {text}")
        self.scalars[value.number] = name
        return name

    def _called(self, value: Value, operands: list[str]) -> str:
        self.sources.update(dict.fromkeys(value.setting.sources))
        text: str = value.setting.text.format(*operands)
        return text

    # --- Memory ---

    def _name(self, letter: str) -> str:
        self.made += 1
        return f"{letter}_{self.made}"

    def _number(self, size: int) -> str:
        """A size, out of the table."""
        self.numbers.append(size)
        name = f"n_{len(self.numbers)}"
        self.head[name] = f"number(table, NUMBERS + {len(self.numbers) - 1})"
        return name

    def _base(self, place: int) -> str:
        at = len(Head) + len(Slot) * place
        self.head[f"q_{place}"] = f"origin(table, {at}, step, within, part)"
        self.head[f"s_{place}"] = f"number(table, {at + Slot.ROW})"
        return f"p_{place}"

    def _index(self, offset: int, j: str | None) -> str:
        if not offset:
            return j or "0"
        return self._number(offset) + (f" + {j}" if j else "")

    def _load(self, value: Value, at: At, offset: int, j: str | None) -> str:
        base = self._base(at.place)
        scope = self.scopes.get(at.place, 0)
        text = f"load(ZERO, {base}, {self._index(at.offset + offset, j)}, {scope}, {self.count})"
        return f"({text} > ZERO)" if value.boolean else text

    def _put(self, lines: list[str], name: str, store: Store, j: str | None) -> None:
        base, index = self._base(store.at.place), self._index(store.at.offset, j)
        scope = f"{self.scopes[store.at.place]}, {self.count}"
        if store.add:
            name = f"load(ZERO, {base}, {index}, {scope}) + {name}"
        elif store.value.boolean:
            name = f"like(1.0 if {name} else 0.0, ZERO)"
        elif store.value.operator == "number":
            name = f"like({name}, ZERO)"
        lines.append(f"store({name}, {base}, {index}, {scope})")

    def text(self) -> str:
        """The function, and before it what it calls."""
        places = sorted({int(name[2:]) for name in self.head if name.startswith("q_")})
        lines = [f"def {self.name}(table, step, within, first, last, part):"]
        lines += [f"    {name} = {text}" for name, text in self.head.items()]
        lines += ["    for row in range(first, last):"]
        lines += [f"        p_{place} = q_{place} + row * s_{place}" for place in places]
        lines += [f"        {line}" for line in self.body]
        return "\n".join(lines) + "\n"


def _flat(store: Store) -> Iterator[Store]:
    """A join as stores of its parts, and of zeros between them."""
    value, at = store.value, store.at
    if value.operator != "join":
        yield store
        return
    for part, start in zip(value.operands, value.setting):
        yield from _flat(Store(part, At(at.place, at.offset + start), store.add))


def _literal(value: float) -> str:
    return repr(value) if math.isfinite(value) else f"{'-' * (value < 0.0)}np.{abs(value)!r}"
