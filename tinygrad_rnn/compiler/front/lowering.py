"""A program over rows as it is put together: what is known of each tensor of the trace, and what rules write with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from ...autograd import tape
from ...autograd.tape import thread
from ...autograd.tensor import Tensor
from ...ir.builder import Builder
from ...ir.nodes import Draw, Node
from ...ops.shape import permute_dims
from .forms import CapturedConstant, DeferredOp, Row, Total
from .trace import NotFused

T = TypeVar("T")


class Numbered(list[T]):
    """Different things, numbered in the order in which they came."""

    def __init__(self) -> None:
        self._places: dict[T, int] = {}

    def place(self, thing: T) -> int:
        """The number of a thing, which may be new."""
        found = self._places.setdefault(thing, len(self))
        if found == len(self):
            self.append(thing)
        return found


class Lowering:
    """The program of one step, and of its gradient, as it is put together.

    Attributes:
        step: the values over rows.
        captures: tensors from outside, or deferred ops.
        vectors, matrices, per_row: the numbers among the captures of those that the program uses.
        bound: for captures that are tensors of what the step is made of, the place there.
        keys: what each key of the trace draws, as the program names it.
        masks: what random ops draw, in the order of making.
        sums, gemms: values summed over all rows, and pairs of values whose products are.
        totals: ("sum", i), ("gemm", i), or deferred ops.
    """

    def __init__(self, rows: int, dtype: np.dtype[Any], keys: Mapping[int, tuple[str, int]]) -> None:
        self.rows, self.dtype = rows, dtype
        self.step = Builder(str(dtype))
        self.captures: list[Any] = []
        self.tensors: list[Any] = []  # of the captures, as the trace made them
        self._plain: list[bool] = []  # whether each is made of plain numbers alone
        self.vectors = Numbered[int]()
        self.matrices = Numbered[int]()
        self.per_row = Numbered[int]()
        self.bound: dict[int, int] = {}
        self.masks: list[Draw] = []
        self.sums = Numbered[Node]()
        self.gemms = Numbered[tuple[Node, Node]]()
        self.totals: list[Any] = []
        self._totals: dict[Any, Total] = {}  # those that are no deferred ops
        #: For whole numbers that the step makes, what they are below; and what those given must be below.
        self.below: dict[int, int] = {}
        self.limits: list[tuple[tuple[str, int], int]] = []
        self.known: dict[int, Any] = {}
        self._counts: dict[int, CapturedConstant] = {}
        self.values_only = not thread.state.enabled
        self.keys = keys
        self._numbers: dict[str, CapturedConstant] = {}
        self.numbers: dict[int, bool | int | float] = {}  # of the traces, by the clock numbers of their leaves
        self.plain: dict[int, float] = {}  # captures that are such numbers

    # --- What is known ---

    def know(self, node: tape.Node, found: Any) -> None:
        """Remember what a value of the trace is, by the node that made it."""
        self.known[node.order] = found

    def of(self, tensor: Any) -> Any:
        """What a tensor is: as known, or else something fixed from outside."""
        if tensor.node is None:
            tensor.node = tape.Node.leaf(tensor._array)
        found = self.known.get(tensor.node.order)
        if found is None:
            is_number = tensor.node.order in self.numbers
            found = self.capture(tensor, tensor, is_number)
            self.know(tensor.node, found)
            if is_number:
                self.plain[found.number] = float(self.numbers[tensor.node.order])
        return found

    def capture(self, made: Any, tensor: Any, is_number: bool = False) -> CapturedConstant:
        """A new captured constant."""
        self.captures.append(made)
        self.tensors.append(tensor)
        if isinstance(made, DeferredOp):
            plain = all(operand is None or self._plain[operand.number] for operand in made.operands)
        else:
            plain = is_number
        self._plain.append(plain)
        return CapturedConstant(len(self.captures) - 1)

    # --- Operations ---

    def expression(self, expression: Any, values: dict[str, Node]) -> Node:
        """An expression on values."""
        found: dict[int, Node] = {}
        for e in expression.schedule():
            if e.primitive is not None:
                found[id(e)] = self.step.map(e.primitive, *[found[id(operand)] for operand in e.operands])
            else:
                found[id(e)] = values[e.name] if e.name is not None else self.step.constant(float(e.value or 0))
        return found[id(expression)]

    def numeral(self, number: float) -> Node:
        """A number of the user's: in the kernel's text where it is a plain one, else handed over."""
        is_plain = number in _PLAIN and not (number == 0.0 and math.copysign(1.0, number) < 0.0)
        return self.step.constant(number) if is_plain else self.given(number)

    def given(self, number: float) -> Node:
        """A number that is handed over, so that another compiles nothing."""
        found = self._numbers.get(number.hex())
        if found is None:
            tensor = Tensor(np.asarray(number, self.dtype))
            found = self._numbers[number.hex()] = self.capture(tensor, tensor)
        return self.vector(found, 1)

    def vector(self, constant: CapturedConstant, width: int) -> Node:
        """A captured constant as the same values for all rows."""
        return self.step.captured(self.vectors.place(constant.number), (width,))

    def beside(self, x: Any, tensor: Any, shape: tuple[int, ...]) -> Node:
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
        if array.size == 1 and self._plain[x.number]:
            return self.numeral(self.plain.get(x.number, float(array.reshape(()))))
        if array.dtype.kind not in "f":
            raise NotFused(f"a fixed value of {array.dtype}")
        if array.size == 1:
            return self.vector(x, 1)
        if len(own) == len(shape) and own[0] == self.rows and self.rows > 1:
            if own[1:] != features and math.prod(own[1:]) != 1:
                raise NotFused(f"{own} is broadcast to {shape} in part")
            return self.step.input(("row", self.per_row.place(x.number)), (math.prod(own[1:]),))
        bare = own[1:] if len(own) == len(shape) else own
        if math.prod(bare) == math.prod(features) and bare == features[len(features) - len(bare) :]:
            return self.vector(x, array.size)
        raise NotFused(f"{own} is broadcast to {shape} in part")

    def counted(self, width: int) -> Node:
        """The numbers 0, 1, ..., width - 1."""
        if width > exact(self.dtype):
            raise NotFused(f"whole numbers up to {width} are not exact in {self.dtype}")
        found = self._counts.get(width)
        if found is None:
            tensor = Tensor(np.arange(width, dtype=self.dtype))
            found = self._counts[width] = self.capture(tensor, tensor)
        return self.vector(found, width)

    def mask(self, key: int, p: float | None, width: int) -> Node:
        """What `dropped` multiplies by, or with p None what `noisy` adds."""
        count = len(self.step.nodes)
        made = self.step.draw(*self.keys.get(key, ("fixed", key)), p, (width,))
        if made.number == count:
            self.masks.append(made)
        return made

    def full(self, row: Row) -> Node:
        """The value with all numbers of a row."""
        return row.value if row.value.width == row.size else self.step.broadcast(row.value, (row.size,))

    def matrix(self, x: Any) -> int:
        """The number of a captured constant among the matrices."""
        if not isinstance(x, CapturedConstant) or self.tensors[x.number].ndim != 2:
            raise NotFused("it is no product of rows with a fixed matrix")
        if self.tensors[x.number].dtype != self.dtype:
            raise NotFused(f"{self.tensors[x.number].dtype} meets {self.dtype}")
        return self.matrices.place(x.number)

    def product(self, x: Row, weight: Any, transposed: bool, width: int) -> Node:
        """x @ weight, or its transpose; a matrix that is itself the transpose of another is read as that one."""
        while isinstance(weight, CapturedConstant):
            made = self.captures[weight.number]
            if not isinstance(made, DeferredOp) or made.op is not permute_dims.op:
                break
            if made.settings["axes"] not in (None, (1, 0)):
                break
            weight, transposed = made.operands[0], not transposed
        return self.step.product(self.full(x), self.matrix(weight), transposed, width)

    def rowed(self, x: Any) -> Row:
        """An operand that must be rows."""
        if not isinstance(x, Row):
            raise NotFused("rows meet a fixed value here in a way that has no kernel form")
        return x

    # --- What leaves the loop ---

    def added(self, totals: list[Total]) -> Total:
        """The sum of several."""
        made = totals[0]
        for other in totals[1:]:
            made = self.total(DeferredOp("add", (made, other), {}))
        return made

    def total(self, made: Any) -> Total:
        """A total that is made so; what is no deferred op is one total."""
        if isinstance(made, DeferredOp):
            self.totals.append(made)
            return Total(len(self.totals) - 1)
        if made not in self._totals:
            self.totals.append(made)
            self._totals[made] = Total(len(self.totals) - 1)
        return self._totals[made]

    def reshaped(self, total: Total, shape: tuple[int, ...]) -> Total:
        """The same numbers in another shape."""
        return self.total(DeferredOp("reshape", (total,), {"shape": shape}))

    def summed(self, value: Node) -> Total:
        """The sum of a value over all rows and steps."""
        return self.total(("sum", self.sums.place(value)))


def exact(dtype: np.dtype[Any]) -> int:
    """Up to which number all whole ones are exact."""
    return 1 << (np.finfo(dtype).nmant + 1)


#: Numbers that stand in a kernel's text.
_PLAIN = frozenset({0.0, 0.5, 1.0, 2.0, 3.0, 4.0, -0.5, -1.0, -2.0, math.inf, -math.inf})
