"""A step as data: values made of values, each once, over rows that do not mix.

Every value is a row of `width` numbers, the same program for each row of a batch. A value of width 1 goes with any
other, as a number does.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..kernels import scalar
from ..kernels.scalar import Primitive

#: Matrices side by side start at multiples of this many columns: no vector of any machine then holds parts of two.
ALIGNED = 16


class Block(NamedTuple):
    """A fixed matrix (inner, width), or its transpose, as part of a larger one: its first row and column there."""

    matrix: int
    turned: bool
    above: int
    left: int
    inner: int
    width: int

    @property
    def name(self) -> str:
        return f"w{self.matrix}{'.T' if self.turned else ''}"


class Value:
    """One value of a step.

    Attributes:
        operator: "input" (what is given at each step), "vector" (the same for all rows and steps), "number", "map" (a
            primitive on each element), "slice", "join" (pieces side by side, zeros between), "product" (with a fixed
            matrix), "lookup" (the row of a fixed matrix that a number gives), "kth" (the k-th largest of the row),
            "reduce" (along the row), "spread" (one number as many).
        setting: which input, vector or number, the primitive, the offset(s), the blocks of the matrix of a product, the
            matrix of a lookup, k, the kind of reduction.
        operands: the values it is made of.
        width: numbers in a row.
        number: its place in the order of making.
        label: the name given to it, if any.
    """

    __slots__ = ("label", "number", "operands", "operator", "setting", "width")

    def __init__(self, operator: str, setting: Any, operands: tuple[Value, ...], width: int, number: int) -> None:
        self.operator, self.setting, self.operands = operator, setting, operands
        self.width, self.number = width, number
        self.label: str | None = None

    @property
    def boolean(self) -> bool:
        """Whether its elements are truth values; in memory they are 1 and 0."""
        if self.operator == "map":
            return bool(self.setting.boolean)
        return self.operator in ("slice", "join", "spread") and self.operands[0].boolean

    @property
    def name(self) -> str:
        """How it is written in a program."""
        return f"%{self.number}"

    def __repr__(self) -> str:
        return f"{self.name} = {self.text()}"

    def text(self) -> str:
        """What it is made of."""
        operands = ", ".join(operand.name for operand in self.operands)
        if self.operator == "map":
            return f"{self.setting.name}({operands})"
        if self.operator == "number":
            return repr(self.setting)
        if self.operator == "slice":
            return f"{operands}[{self.setting}:{self.setting + self.width}]"
        if self.operator == "join":
            return f"join({operands})"
        if self.operator == "product":
            if len(self.setting) == 1:
                return f"{operands} @ {self.setting[0].name}"
            beside: dict[int, list[str]] = {}
            for block in self.setting:
                beside.setdefault(block.above, []).append(block.name)
            return f"{operands} @ [{'; '.join([', '.join(row) for row in beside.values()])}]"
        if self.operator == "lookup":
            return f"w{self.setting[0]}[{operands}]"
        if self.operator == "kth":
            return f"kth({operands}, {self.setting})"
        if self.operator == "reduce":
            return f"{self.setting}({operands})"
        if self.operator == "spread":
            return f"spread({operands})"
        return "{} {}".format(*self.setting) if isinstance(self.setting, tuple) else f"v{self.setting}"


class Step:
    """A program under construction: equal values are one, and what is plainly nothing is left out."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self._known: dict[Any, Value] = {}

    def _made(self, operator: str, setting: Any, operands: tuple[Value, ...], width: int) -> Value:
        key = (operator, setting, width, tuple([operand.number for operand in operands]))
        found = self._known.get(key)
        if found is None:
            found = Value(operator, setting, operands, width, len(self.values))
            self._known[key] = found
            self.values.append(found)
        return found

    def again(self, value: Value, operands: tuple[Value, ...]) -> Value:
        """The same as a value, of other operands."""
        if operands == value.operands:
            return value
        if value.operator == "slice":
            return self.slice(operands[0], value.setting, value.width)
        if value.operator == "join":
            made = self.join(zip(operands, value.setting), value.width)
        else:
            made = self._made(value.operator, value.setting, operands, value.width)
        if made.label is None and made.operator == value.operator:
            made.label = value.label
        return made

    def input(self, source: tuple[str, int], width: int) -> Value:
        """What is given at each step: ("carry", 0), ("x", 1), ..."""
        return self._made("input", source, (), width)

    def vector(self, index: int, width: int) -> Value:
        """A fixed vector."""
        return self._made("vector", index, (), width)

    def constant(self, value: float) -> Value:
        """A number."""
        return self._made("number", float(value), (), 1)

    def map(self, primitive: Primitive, *operands: Value) -> Value:
        """A primitive on each element."""
        if all(operand.operator == "number" for operand in operands):
            return self.constant(float(primitive.twin(*[operand.setting for operand in operands])))
        if primitive is scalar.multiply:
            for one, other in (operands, operands[::-1]):
                if one.operator == "number" and one.setting == 1.0:
                    return other
        if primitive is scalar.divide and operands[1].operator == "number" and operands[1].setting == 1.0:
            return operands[0]
        if primitive is scalar.where and operands[0].operator == "number":
            return operands[1] if operands[0].setting else operands[2]
        return self._made("map", primitive, operands, max(operand.width for operand in operands))

    def slice(self, value: Value, start: int, width: int) -> Value:
        """Some numbers of each row."""
        if start == 0 and width == value.width:
            return value
        if value.operator == "slice":
            return self.slice(value.operands[0], value.setting + start, width)
        if value.operator == "join":
            for part, offset in zip(value.operands, value.setting):
                if offset <= start and start + width <= offset + part.width:
                    return self.slice(part, start - offset, width)
        return self._made("slice", start, (value,), width)

    def join(self, parts: Iterable[tuple[Value, int]], width: int) -> Value:
        """Values side by side, each at its offset, none over another; zeros where there is none."""
        placed: list[tuple[Value, int]] = sorted(parts, key=lambda part: part[1])
        if len(placed) == 1 and placed[0][0].width == width:
            return placed[0][0]
        first = placed[0][0]
        if first.operator == "slice" and first.setting == 0:
            whole = first.operands[0]
            end = 0
            for part, offset in placed:
                if part.operator != "slice" or part.operands[0] is not whole or part.setting != offset or offset != end:
                    break
                end += part.width
            if end == width == whole.width:
                return whole
        filled, end = [], 0
        for part, offset in placed:
            if offset > end:
                filled.append((self.spread(self.constant(0.0), offset - end), end))
            filled.append((part, offset))
            end = offset + part.width
        if width > end:
            filled.append((self.spread(self.constant(0.0), width - end), end))
        return self._made("join", tuple([offset for _, offset in filled]), tuple([part for part, _ in filled]), width)

    def spread(self, value: Value, width: int) -> Value:
        """A number a row, as that many."""
        return value if value.width == width else self._made("spread", None, (value,), width)

    def product(self, value: Value, matrix: int, turned: bool, width: int) -> Value:
        """value @ matrix, or its transpose."""
        return self.by_blocks(value, (Block(matrix, turned, 0, 0, value.width, width),), width)

    def by_blocks(self, value: Value, blocks: tuple[Block, ...], width: int) -> Value:
        """value @ a matrix made of these blocks; columns that none of them fills are anything."""
        return self._made("product", blocks, (value,), width)

    def lookup(self, index: Value, matrix: int, width: int) -> Value:
        """matrix[index], a row for each row."""
        return self._made("lookup", (matrix, False), (index,), width)

    def kth(self, value: Value, k: int) -> Value:
        """The k-th largest number of the row."""
        return self._made("kth", k, (value,), 1)

    def reduce(self, kind: str, value: Value) -> Value:
        """sum, max or min along the row."""
        return self._made("reduce", kind, (value,), 1)


def reachable(values: Iterable[Value], known: Container[int] = ()) -> list[Value]:
    """All values that these are made of, and themselves, in the order of making; what is `known` is not followed."""
    found: dict[int, Value] = {}
    stack = list(values)
    while stack:
        value = stack.pop()
        if value.number not in found:
            found[value.number] = value
            if value.number not in known:
                stack.extend(value.operands)
    return [found[number] for number in sorted(found)]


def listed(values: Iterable[Value], names: Mapping[str, str], alone: bool = False) -> Iterator[str]:
    """A line for each value, and where they do not stand `alone`, for all that they are made of.

    `names` are those of fixed vectors and matrices: "v0", "w0", ...
    """
    for value in values if alone else reachable(values):
        text = re.sub(r"\b[vw]\d+\b", lambda found: names.get(found[0], found[0]), repr(value))
        label = f"  # {value.label}" if value.label else ""
        yield f"{text.ljust(42)} {value.width}{label}"
