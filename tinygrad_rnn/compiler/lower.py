"""A trace as a program over rows: each operation in the few forms that kernels have.

What is made of fixed values only (of parameters, of constants) stays outside, and is done before the loop. That rows do
not mix is derived here, operation by operation: axis 0 of a row value is the batch, and stays so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..autograd.tape import Node, thread
from ..autograd.tensor import Tensor
from ..ops.op import Elementwise
from ..ops.shape import permute_dims
from ..program.step import Step, Value
from .forms import Fixed, Lone, Mask, Recipe, Row, Tall, Total, Turned
from .rules import RULES
from .trace import NotFused, Trace, Traced


class Lowering:
    """The program of one step, and of its gradient, as it is put together.

    Attributes:
        step: the values over rows.
        fixtures: tensors from outside, or recipes.
        vectors, matrices, per_row: for each of those that the program uses, its number among the fixtures.
        bound: for fixtures that are tensors of what the step is made of, the place there.
        masks: of random ops, each an input ("mask", i) of the step.
        sums, grams: values summed over all rows, and pairs of values whose products are.
        totals: ("sum", i), ("gram", i), or recipes.
    """

    def __init__(self, rows: int, dtype: np.dtype[Any], keys: Mapping[int, tuple[str, int]]) -> None:
        self.rows, self.dtype = rows, dtype
        self.step = Step()
        self.fixtures: list[Any] = []
        self.tensors: list[Any] = []  # of the fixtures, as the trace made them
        self.vectors: list[int] = []
        self.matrices: list[int] = []
        self.per_row: list[int] = []
        self.bound: dict[int, int] = {}
        self.masks: list[Mask] = []
        self.sums: list[Value] = []
        self.grams: list[tuple[Value, Value]] = []
        self.totals: list[Any] = []
        #: For whole numbers that the step makes, what they are below; and what those given must be below.
        self.below: dict[int, int] = {}
        self.limits: list[tuple[tuple[str, int], int]] = []
        self.known: dict[int, Any] = {}
        self._counts: dict[int, Fixed] = {}
        self.values_only = not thread.state.enabled
        self._keys = keys
        self._numbers: dict[str, Fixed] = {}
        self.numbers: dict[int, bool | int | float] = {}  # of the traces, by the clock numbers of their leaves
        self.plain: dict[int, float] = {}  # fixtures that are such numbers

    # --- What is known ---

    def know(self, node: Node, found: Any) -> None:
        """Remember what a value of the trace is, by the node that made it."""
        self.known[node.order] = found

    def of(self, tensor: Any) -> Any:
        """What a tensor is: as known, or else something fixed from outside."""
        if tensor.node is None:
            tensor.node = Node.leaf(tensor._array)
        found = self.known.get(tensor.node.order)
        if found is None:
            found = self.fixed(tensor, tensor)
            self.know(tensor.node, found)
            if tensor.node.order in self.numbers:
                self.plain[found.number] = float(self.numbers[tensor.node.order])
        return found

    def fixed(self, made: Any, tensor: Any) -> Fixed:
        """A new fixture."""
        self.fixtures.append(made)
        self.tensors.append(tensor)
        return Fixed(len(self.fixtures) - 1)

    def run(self, trace: Trace) -> None:
        """Lower every operation."""
        self.numbers.update(trace.numbers)
        for one in trace.done:
            operands = [None if x is None else self.of(x) for x in one.inputs]
            drawn = self._keys.get(one.settings["key"]) if one.op.random else None
            if drawn is None and all(x is None or isinstance(x, Fixed) for x in operands):
                made: Any = self.fixed(
                    Recipe(one.op, tuple(operands), one.settings),
                    Tensor(one.made, one.node, one.node.wanted != () and True in one.node.wanted),
                )
            else:
                try:
                    made = self._lowered(one, operands)
                except NotFused as trouble:
                    raise NotFused(f"{one.op.name}: {trouble}", one.where) from None
                if (
                    isinstance(made, Row)
                    and one.node.label
                    and made.value.label is None
                    and made.value.operator == "map"
                ):
                    made.value.label = one.node.label
            self.know(one.node, made)

    # --- Operations ---

    def _lowered(self, one: Traced, operands: list[Any]) -> Any:
        if any(isinstance(x, (Total, Turned, Tall)) for x in operands):
            return self._outside(one, operands)
        if any(isinstance(x, Lone) for x in operands):
            raise NotFused("it takes an x without a batch axis")
        if not one.op.whole_numbers and any(x is not None and x.dtype.kind in "iu" for x in one.inputs):
            raise NotFused("whole numbers are looked up in a table, or passed on, and no more")
        if isinstance(one.op, Elementwise):
            return self._elementwise(one, operands)
        rule = RULES.get(one.op.name)
        if rule is None:
            raise NotFused("no kernel form is known for it")
        return rule(self, one, operands)

    def _elementwise(self, one: Traced, operands: list[Any]) -> Row:
        op = one.op
        assert isinstance(op, Elementwise)
        shape = one.made.shape
        values = {}
        for name, x, tensor in zip(op.inputs, operands, one.inputs):
            given = one.settings.get(name)
            if given is None or isinstance(given, np.ndarray):
                values[name] = self.beside(x, tensor, shape)
            else:
                values[name] = self.numeral(float(given))
        return Row(self.expression(op.expression, values), shape[1:])

    def expression(self, expression: Any, values: dict[str, Value]) -> Value:
        """An expression on values."""
        found: dict[int, Value] = {}
        for e in expression.schedule():
            if e.primitive is not None:
                found[id(e)] = self.step.map(e.primitive, *[found[id(operand)] for operand in e.operands])
            else:
                found[id(e)] = values[e.name] if e.name is not None else self.step.constant(float(e.value or 0))
        return found[id(expression)]

    def numeral(self, number: float) -> Value:
        """A number of the user's: in the kernel's text where it is a plain one, else handed over."""
        is_plain = number in _PLAIN and not (number == 0.0 and math.copysign(1.0, number) < 0.0)
        return self.step.constant(number) if is_plain else self.given(number)

    def given(self, number: float) -> Value:
        """A number that is handed over, so that another compiles nothing."""
        found = self._numbers.get(number.hex())
        if found is None:
            tensor = Tensor(np.asarray(number, self.dtype))
            found = self._numbers[number.hex()] = self.fixed(tensor, tensor)
        return self.vector(found, 1)

    def vector(self, fixed: Fixed, width: int) -> Value:
        """A fixture as the same values for all rows."""
        if fixed.number not in self.vectors:
            self.vectors.append(fixed.number)
        return self.step.vector(self.vectors.index(fixed.number), width)

    def beside(self, x: Any, tensor: Any, shape: tuple[int, ...]) -> Value:
        """An operand as a value that goes with a row tensor of this shape."""
        if not shape or shape[0] != self.rows:
            raise NotFused("its result is not one row for each row of the batch")
        features = shape[1:]
        if isinstance(x, Row):
            if len(x.shape) != len(features):
                raise NotFused("the batch axis of its inputs is not the same")
            if x.value.width == 1 or x.shape == features:
                return x.value
            raise NotFused(f"{x.shape} is broadcast to {features} in part")
        array = tensor._array
        own = array.shape
        if array.dtype.kind == "f" and array.dtype != self.dtype:
            raise NotFused(f"{array.dtype} meets {self.dtype}")
        if array.size == 1 and self.constant(x):
            return self.numeral(self.plain.get(x.number, float(array.reshape(()))))
        if array.dtype.kind not in "f":
            raise NotFused(f"a fixed value of {array.dtype}")
        if array.size == 1:
            return self.vector(x, 1)
        if len(own) == len(shape) and own[0] == self.rows and self.rows > 1:
            if own[1:] != features and math.prod(own[1:]) != 1:
                raise NotFused(f"{own} is broadcast to {shape} in part")
            if x.number not in self.per_row:
                self.per_row.append(x.number)
            return self.step.input(("row", self.per_row.index(x.number)), math.prod(own[1:]))
        bare = own[1:] if len(own) == len(shape) else own
        if math.prod(bare) == math.prod(features) and bare == features[len(features) - len(bare) :]:
            return self.vector(x, array.size)
        raise NotFused(f"{own} is broadcast to {shape} in part")

    def constant(self, x: Fixed) -> bool:
        """Whether a fixture is a plain number, or made of such alone."""
        made = self.fixtures[x.number]
        if isinstance(made, Recipe):
            return all(operand is None or self.constant(operand) for operand in made.operands)
        return x.number in self.plain

    def counted(self, width: int) -> Value:
        """The numbers 0, 1, ..., width - 1."""
        if width > exact(self.dtype):
            raise NotFused(f"whole numbers up to {width} are not exact in {self.dtype}")
        found = self._counts.get(width)
        if found is None:
            tensor = Tensor(np.arange(width, dtype=self.dtype))
            found = self._counts[width] = self.fixed(tensor, tensor)
        return self.vector(found, width)

    def mask(self, key: int, p: float | None, width: int) -> Value:
        """What `dropped` multiplies by, or with p None what `noisy` adds."""
        mask = Mask(*self._keys.get(key, ("fixed", key)), p, width)
        if mask not in self.masks:
            self.masks.append(mask)
        return self.step.input(("mask", self.masks.index(mask)), width)

    def full(self, row: Row) -> Value:
        """The value with all numbers of a row."""
        return row.value if row.value.width == row.size else self.step.spread(row.value, row.size)

    def matrix(self, x: Any) -> int:
        """The number of a fixture among the matrices."""
        if not isinstance(x, Fixed) or self.tensors[x.number].ndim != 2:
            raise NotFused("it is no product of rows with a fixed matrix")
        if self.tensors[x.number].dtype != self.dtype:
            raise NotFused(f"{self.tensors[x.number].dtype} meets {self.dtype}")
        if x.number not in self.matrices:
            self.matrices.append(x.number)
        return self.matrices.index(x.number)

    def product(self, x: Row, weight: Any, turned: bool, width: int) -> Value:
        """x @ weight, or its transpose; a matrix that is itself the transpose of another is read as that one."""
        made = self.fixtures[weight.number] if isinstance(weight, Fixed) else None
        if isinstance(made, Recipe) and made.op is permute_dims.op and made.settings["axes"] in (None, (1, 0)):
            return self.product(x, made.operands[0], not turned, width)
        return self.step.product(self.full(x), self.matrix(weight), turned, width)

    def rowed(self, x: Any) -> Row:
        """An operand that must be rows."""
        if not isinstance(x, Row):
            raise NotFused("rows meet a fixed value here in a way that has no kernel form")
        return x

    # --- What leaves the loop ---

    def _outside(self, one: Traced, operands: list[Any]) -> Any:
        name, first = one.op.name, operands[0]
        if isinstance(first, Tall) and name == "permute_dims":
            return Turned(tuple([self.full(row) for row in first.rows]))
        if isinstance(first, Tall) and name == "sum" and one.settings["axis"] == (0,) and not one.settings["keepdims"]:
            return self.added([self.summed(self.full(row)) for row in first.rows])
        if isinstance(first, Turned) and name == "matmul" and isinstance(operands[1], (Row, Tall)):
            rows = operands[1].rows if isinstance(operands[1], Tall) else (operands[1],)
            if len(rows) == len(first.values) and all(len(row.shape) == 1 for row in rows):
                pairs = zip(first.values, map(self.full, rows))
                return self.added([self.total(("gram", self._gram(left, right))) for left, right in pairs])
        elif self._linear(one, operands):
            same = one.made.dtype == one.inputs[0].dtype and one.made.shape == one.inputs[0].shape
            if same and name in ("astype", "reshape", "broadcast_to"):
                return first
            made = self.totals[first.number] if isinstance(first, Total) else None
            if name == "permute_dims" and isinstance(made, tuple) and made[0] == "gram":
                left, right = self.grams[made[1]]
                return self.total(("gram", self._gram(right, left)))
            return self.total(Recipe(one.op, tuple(operands), one.settings))
        raise NotFused("a sum over all rows goes on into something that is not linear")

    def _linear(self, one: Traced, operands: list[Any]) -> bool:
        """Whether it is linear in the totals among its operands, the others fixed."""
        others = any(isinstance(x, (Row, Turned, Tall)) for x in operands)
        return not others and one.op.linear_in([None if x is None else isinstance(x, Total) for x in operands])

    def added(self, totals: list[Total]) -> Total:
        """The sum of several."""
        made = totals[0]
        for other in totals[1:]:
            made = self.total(Recipe("add", (made, other), {}))
        return made

    def _gram(self, left: Value, right: Value) -> int:
        if (left, right) not in self.grams:
            self.grams.append((left, right))
        return self.grams.index((left, right))

    def total(self, made: Any) -> Total:
        """A new total."""
        if made not in self.totals if not isinstance(made, Recipe) else True:
            self.totals.append(made)
        return Total(self.totals.index(made) if not isinstance(made, Recipe) else len(self.totals) - 1)

    def reshaped(self, total: Total, shape: tuple[int, ...]) -> Total:
        """The same numbers in another shape."""
        return self.total(Recipe("reshape", (total,), {"shape": shape}))

    def summed(self, value: Value) -> Total:
        """The sum of a value over all rows and steps."""
        if value not in self.sums:
            self.sums.append(value)
        return self.total(("sum", self.sums.index(value)))


def exact(dtype: np.dtype[Any]) -> int:
    """Up to which number all whole ones are exact."""
    return 1 << (np.finfo(dtype).nmant + 1)


#: Numbers that stand in a kernel's text.
_PLAIN = frozenset({0.0, 0.5, 1.0, 2.0, 3.0, 4.0, -0.5, -1.0, -2.0, math.inf, -math.inf})
