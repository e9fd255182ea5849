"""What a drawn program is made of: lines, what they capture from Python, and the one who draws them."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Capture:
    """Something that a step reads from Python.

    Attributes:
        make: the expression that makes it.
        others: expressions that make other values of it, to change it to.
        kind: "number", "flag", "tensor", "tensors" (a list of them), "array", "function" or "object".
    """

    make: str
    others: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Line:
    """One operation: `text` with `$v0` for operands, `$c0` for captures and `$n` for the line's number.

    Attributes:
        operands: which values it takes.
        width: features of what it makes.
        definitions: text at the top of the module; functions named `..._$n` there may be replaced between calls.
        observed: expressions of Python state that it changes, to be compared afterwards.
        replacement: the earlier value of the same width that takes its place where it is left out; None where none can.
        form: the name of what drew it.
    """

    form: str
    text: str
    operands: tuple[int, ...]
    width: int
    captures: tuple[Capture, ...] = ()
    definitions: tuple[str, ...] = ()
    observed: tuple[str, ...] = ()
    replacement: int | None = None


@dataclass(frozen=True)
class Structure:
    """A step without its circumstances.

    Values are numbered: the carries, the inputs, then one for each line.
    """

    carries: tuple[int, ...]
    inputs: tuple[int, ...]
    lines: tuple[Line, ...]
    new: tuple[int, ...]
    outputs: tuple[int, ...]
    gain: float
    batch: int | None
    dtype: str

    @property
    def widths(self) -> list[int]:
        """Features of every value."""
        return [*self.carries, *self.inputs, *[line.width for line in self.lines]]

    @property
    def given(self) -> int:
        """How many values there are before the first line."""
        return len(self.carries) + len(self.inputs)


def filled(text: str, **names: Any) -> str:
    """The text with `$name` replaced, where the name is known."""
    return string.Template(text).safe_substitute(names)


@dataclass
class Drawer:
    """Draws one line: a form asks it for operands, captures and numbers.

    With `plain` nothing rare: a program that holds one operation without a kernel form tests little else.
    """

    chance: random.Random
    widths: Sequence[int]
    batch: int | None
    plain: bool = False
    operands: list[int] = field(default_factory=list)
    captures: list[Capture] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)

    def value(self, accept: Callable[[int], bool] = lambda width: True) -> str:
        """An operand, mostly one made just now; raises LookupError where none has such a width."""
        fitting = [i for i, width in enumerate(self.widths) if accept(width)]
        if not fitting:
            raise LookupError
        recent = fitting[-3:] if self.chance.random() < 0.6 else fitting
        self.operands.append(self.chance.choice(recent))
        return f"$v{len(self.operands) - 1}"

    def like(self, operand: str) -> str:
        """Another operand of the same width."""
        width = self.of(operand)
        return self.value(lambda other: other == width)

    def of(self, operand: str) -> int:
        """The width of an operand."""
        return self.widths[self.operands[int(operand[2:])]]

    def width(self) -> int:
        """A width to make."""
        return self.chance.choice((1, 2, 3, 4, 4, 5))

    def pick(self, *choices: Any) -> Any:
        """One of them."""
        return self.chance.choice(choices)

    def either(self, common: Sequence[str], rare: Sequence[str]) -> str:
        """One of the common, or of the rare where those may come."""
        return self.chance.choice(common if self.plain or self.chance.random() < 0.6 else rare)

    def capture(self, make: str, *others: str, kind: str = "tensor") -> str:
        """Something read from Python."""
        self.captures.append(Capture(make, others, kind))
        return f"$c{len(self.captures) - 1}"

    def number(self, *choices: str) -> str:
        """A number read from Python."""
        first, *others = self.chance.sample(choices, len(choices))
        return self.capture(first, *others, kind="number")

    def tensor(self, *shape: int) -> str:
        """A tensor of one of many sorts, learned or not."""
        sizes = ", ".join(map(str, shape))
        kinds = ["learned"] * 6 + ["frozen", "constant", "leaf", "view", "transposed", "offset"]
        if len(shape) < 2:
            kinds = [kind for kind in kinds if kind != "transposed"]
        kind = self.chance.choice(kinds)
        return self.capture(f"{kind}({sizes})", f"{kind}({sizes})", f"learned({sizes})", f"constant({sizes})")

    def define(self, text: str) -> None:
        """Text at the top of the module."""
        self.definitions.append(text)

    def observe(self, expression: str) -> None:
        """Python state to compare after each call."""
        self.observed.append(expression)


Form = Callable[[Drawer], "tuple[str, int]"]

#: Every form by its name, with how often it comes.
ORDINARY: dict[str, tuple[Form, float]] = {}
UNUSUAL: dict[str, tuple[Form, float]] = {}
IMPURE: dict[str, tuple[Form, float]] = {}

#: Forms that few compilers of steps know.
RARE_FORMS = frozenset({
    "grown", "looked_up", "outer_products", "own_opaque", "gradient_inside", "rows_mixed", "value_read", "caught",
    "written_in_place", "hooked", "tensor_of_the_batch", "axis_read", "split",
})  # fmt: skip


def enter(table: dict[str, tuple[Form, float]], weight: float = 1.0) -> Callable[[Form], Form]:
    """Enter a form in a table."""

    def entered(form: Form) -> Form:
        table[form.__name__] = form, weight
        return form

    return entered


def drawn_line(
    chance: random.Random,
    table: dict[str, tuple[Form, float]],
    widths: Sequence[int],
    batch: int | None,
    plain: bool = False,
) -> Line:
    """A line of one of the forms in the table."""
    names, weights = list(table), [weight for _, weight in table.values()]
    while True:
        name = chance.choices(names, weights)[0]
        if plain and name in RARE_FORMS:
            continue
        drawer = Drawer(chance, widths, batch, plain)
        try:
            text, width = table[name][0](drawer)
        except LookupError:
            continue
        same = [i for i in (*drawer.operands, *reversed(range(len(widths)))) if widths[i] == width]
        return Line(
            name, text, tuple(drawer.operands), width, tuple(drawer.captures), tuple(drawer.definitions),
            tuple(drawer.observed), same[0] if same else None,
        )  # fmt: skip
