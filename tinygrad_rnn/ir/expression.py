"""Symbols.

A rule called on them returns the expression that it computes, which can be printed, emitted and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..kernels import scalar
from ..kernels.scalar import Primitive


class Expression:
    """A symbol, a constant, or a primitive applied to expressions.

    >>> g, y = Expression.symbol("g"), Expression.symbol("y")
    >>> print(g * (1 - y * y))
    g * (1 - y * y)
    """

    __slots__ = ("name", "operands", "primitive", "value")

    def __init__(
        self,
        primitive: Primitive | None = None,
        operands: tuple[Expression, ...] = (),
        name: str | None = None,
        value: float | None = None,
    ) -> None:
        self.primitive, self.operands, self.name, self.value = primitive, operands, name, value

    @classmethod
    def symbol(cls, name: str) -> Expression:
        """An input called `name`."""
        return cls(name=name)

    @classmethod
    def of(cls, operand: Any) -> Expression:
        """`operand` itself where it is an expression, else the constant.

        Raises:
            TypeError: for what is no number.
        """
        if isinstance(operand, Expression):
            return operand
        if not isinstance(operand, (bool, int, float, np.number, np.bool_)):
            raise TypeError(f"{type(operand).__name__} is no number; what a rule uses must be one of its inputs")
        return cls(value=float(operand) if isinstance(operand, np.generic) else operand)

    def apply_primitive(self, primitive: Primitive, operands: Sequence[Any]) -> Expression:
        """What a primitive called on expressions calls."""
        return Expression(primitive, tuple(Expression.of(operand) for operand in operands))

    def __bool__(self) -> bool:
        raise TypeError("a symbol is neither true nor false: a branch would be decided once, for all elements")

    def schedule(self) -> Iterator[Expression]:
        """Every distinct expression below and including this one, operands first. A shared one comes once."""
        seen: set[int] = set()
        stack: list[tuple[Expression, bool]] = [(self, False)]
        while stack:
            expression, ready = stack.pop()
            if id(expression) in seen:
                continue
            if ready or not expression.operands:
                seen.add(id(expression))
                yield expression
            else:
                stack.append((expression, True))
                stack.extend((operand, False) for operand in reversed(expression.operands))

    def evaluate(self, values: dict[str, Any]) -> Any:
        """The value for arrays given by symbol, by the primitives' references; like kernels they warn of nothing."""
        found: dict[int, Any] = {}
        with np.errstate(all="ignore"):
            for e in self.schedule():
                if e.primitive is not None:
                    found[id(e)] = e.primitive.reference(*[found[id(operand)] for operand in e.operands])
                else:
                    found[id(e)] = values[e.name] if e.name is not None else e.value
        return found[id(self)]

    def __str__(self) -> str:
        if self.primitive is None:
            return self.name if self.name is not None else repr(self.value)
        parts = [str(operand) for operand in self.operands]
        mark = _INFIX.get(self.primitive.name)
        if mark is None:
            return f"{self.primitive.name}({', '.join(parts)})"
        wrapped = [
            f"({part})"
            if operand.primitive is not None
            and _RANK.get(operand.primitive.name, 9) < _RANK[self.primitive.name] + (n > 0)
            else part
            for n, (operand, part) in enumerate(zip(self.operands, parts))
        ]
        return f"{mark}{wrapped[0]}" if len(parts) == 1 else f" {mark} ".join(wrapped)

    __repr__ = __str__


_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "negative": "-", "power": "**",
    "greater": ">", "greater_equal": ">=", "less": "<", "less_equal": "<=", "equal": "==", "not_equal": "!=",
}  # fmt: skip
_RANK = {"add": 2, "subtract": 2, "multiply": 3, "divide": 3, "negative": 4, "power": 5} | dict.fromkeys(
    ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"), 1
)


def _operator(primitive: Primitive, *, swapped: bool = False) -> Callable[..., Expression]:
    def operator(self: Expression, *others: Any) -> Expression:
        operands = (*others, self) if swapped else (self, *others)
        return self.apply_primitive(primitive, operands)

    return operator


for _name, _primitive in {
    "add": scalar.add, "sub": scalar.subtract, "mul": scalar.multiply, "truediv": scalar.divide, "pow": scalar.power,
}.items():  # fmt: skip
    setattr(Expression, f"__{_name}__", _operator(_primitive))
    setattr(Expression, f"__r{_name}__", _operator(_primitive, swapped=True))
for _name, _primitive in {
    "neg": scalar.negative, "abs": scalar.absolute, "gt": scalar.greater, "ge": scalar.greater_equal, "lt": scalar.less,
    "le": scalar.less_equal, "eq": scalar.equal, "ne": scalar.not_equal, "and": scalar.logical_and, "or":
    scalar.logical_or,
    "invert": scalar.logical_not,
}.items():  # fmt: skip
    setattr(Expression, f"__{_name}__", _operator(_primitive))
Expression.__hash__ = object.__hash__  # type: ignore[method-assign]
