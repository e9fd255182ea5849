"""The few machine-level operations that Numba lacks; kernel files import them, nothing else does.

Importing this module imports Numba, so it is imported only where a kernel is compiled.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

# Position of the exponent in the bits of a float, and its bias (IEEE 754).
_LAYOUT: dict[Any, tuple[int, int, Any]] = {
    types.float32: (23, 127, types.int32),
    types.float64: (52, 1023, types.int64),
}


@intrinsic
def like(typingctx: Any, value: Any, x: Any) -> Any:
    """`value` in the type of `x`: a plain literal would be a float64 and widen the whole kernel."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], signature.args[0], signature.return_type)

    return x(value, x), codegen


@intrinsic
def pick(typingctx: Any, x: Any, single: Any, double: Any) -> Any:
    """A constant of the type of `x`: `single` where `x` is a float32, `double` where it is a float64."""
    chosen = 1 if x == types.float32 else 2

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[chosen], signature.args[chosen], signature.return_type)

    return x(x, single, double), codegen


@intrinsic
def is_single(typingctx: Any, x: Any) -> Any:
    """True where `x` is a float32: a constant, so the branch not taken costs nothing."""
    single = x == types.float32

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.boolean, single)

    return types.boolean(x), codegen


@intrinsic(prefer_literal=True)
def exponent(typingctx: Any, x: Any, n: Any) -> Any:
    """The bits that add `n` to a float's exponent, for `power_of_two`, as an integer as wide as `x`."""
    shift, bias, integer = _LAYOUT[x]
    value = (n.literal_value + bias) << shift if isinstance(n, types.IntegerLiteral) else None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(integer, value)

    return (integer(x, n), codegen) if value is not None else None


@intrinsic
def power_of_two(typingctx: Any, shifted: Any, rise: Any) -> Any:
    """2**(k + n), where `shifted` is k plus the rounding constant 1.5 * 2**23 (2**52) and `rise` is `exponent(x, n)`.

    The low bits of `shifted` hold k; moved to the exponent's place they make the power without converting to integer.
    """
    shift, _, integer = _LAYOUT[shifted]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = context.get_value_type(integer)
        k = builder.shl(builder.bitcast(args[0], whole), whole(shift))
        return builder.bitcast(builder.add(k, args[1]), context.get_value_type(signature.return_type))

    return shifted(shifted, integer), codegen
