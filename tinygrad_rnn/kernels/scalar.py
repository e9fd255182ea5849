"""Scalar mathematics: every primitive that an elementwise rule may use, with its kernel text and its NumPy reference.

A primitive called on symbols makes a larger symbol; on arrays it runs its reference. The bodies below are the text of
compiled kernels (`jit.py` writes them out): straight-line arithmetic that LLVM turns into vector code, because pip's
llvmlite has no vector `tanh` or `exp` of its own (14 ns an element by calls to libm, 0.3 ns so).

Accuracy, seen against float64 and 60-digit references: exp, sigmoid and tanh within 3 ulp in float32, denormal
results included, and to 1e-15 relative in float64.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # what kernel files import from intrinsics.py
    exponent: Any = None
    is_single: Any = None
    pick: Any = None
    power_of_two: Any = None

#: Every primitive by name.
PRIMITIVES: dict[str, Primitive] = {}


class Primitive:
    """One scalar function of a kernel.

    Args:
        name: its name, in programs and in kernel text.
        text: how a call is written in kernel text, with `{0}`, `{1}` for the operands.
        reference: the same function on NumPy arrays.
        exact: True where the reference gives the same numbers as fast, so that nothing need be compiled for it alone.
        boolean: True where the result is a truth value.
        costly: True where it costs as much as twenty that are not: worth keeping, where recomputing is the choice.
        sources: kernel texts that a call needs beside it, one a function.
    """

    __slots__ = ("boolean", "costly", "exact", "name", "reference", "sources", "text")

    def __init__(
        self,
        name: str,
        text: str,
        reference: Callable[..., Any],
        *,
        exact: bool = False,
        boolean: bool = False,
        costly: bool = False,
        sources: tuple[str, ...] = (),
    ) -> None:
        self.name, self.text, self.reference = name, text, reference
        self.exact, self.boolean, self.costly, self.sources = exact, boolean, costly, sources
        PRIMITIVES[name] = self

    def __call__(self, *operands: Any) -> Any:
        for operand in operands:
            if hasattr(operand, "apply_primitive"):
                return operand.apply_primitive(self, operands)
        return self.reference(*operands)

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


def primitive(
    reference: Callable[..., Any], needs: tuple[Primitive, ...] = (), *, costly: bool = False
) -> Callable[[Callable[..., Any]], Primitive]:
    """Make the decorated function's body the kernel text of a primitive; it may call the primitives it `needs`."""

    def declare(function: Callable[..., Any]) -> Primitive:
        lines = inspect.getsource(function).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        own = "@scalar\n" + "\n".join(lines[start:])
        sources = (*(source for other in needs for source in other.sources), own)
        name = function.__name__
        count = len(inspect.signature(function).parameters)
        call = f"{name}({', '.join(f'{{{i}}}' for i in range(count))})"
        return Primitive(name, call, reference, costly=costly, sources=sources)

    return declare


def _special(name: str) -> Callable[..., Any]:
    """A function of scipy.special, imported when first called: SciPy costs a tenth of a second."""

    def reference(x: Any) -> Any:
        import scipy.special

        return getattr(scipy.special, name)(x)

    return reference


# Arithmetic that IEEE 754 rounds exactly: NumPy's loops give the same bits at memory speed.
add = Primitive("add", "({0} + {1})", np.add, exact=True)
subtract = Primitive("subtract", "({0} - {1})", np.subtract, exact=True)
multiply = Primitive("multiply", "({0} * {1})", np.multiply, exact=True)
divide = Primitive("divide", "({0} / {1})", np.divide, exact=True)
negative = Primitive("negative", "(-{0})", np.negative, exact=True)
absolute = Primitive("absolute", "abs({0})", np.absolute, exact=True)
sqrt = Primitive("sqrt", "math.sqrt({0})", np.sqrt, exact=True)
sign = Primitive("sign", "({0} if {0} != {0} else like(({0} > 0) - ({0} < 0), {0}))", np.sign, exact=True)
floor = Primitive("floor", "math.floor({0})", np.floor, exact=True)
maximum = Primitive("maximum", "({0} if {0} > {1} or {0} != {0} else {1})", np.maximum, exact=True)
minimum = Primitive("minimum", "({0} if {0} < {1} or {0} != {0} else {1})", np.minimum, exact=True)
where = Primitive("where", "({1} if {0} else {2})", np.where)  # NumPy's guesses branches: 4 ns an element

# Comparisons and logic.
greater = Primitive("greater", "({0} > {1})", np.greater, exact=True, boolean=True)
greater_equal = Primitive("greater_equal", "({0} >= {1})", np.greater_equal, exact=True, boolean=True)
less = Primitive("less", "({0} < {1})", np.less, exact=True, boolean=True)
less_equal = Primitive("less_equal", "({0} <= {1})", np.less_equal, exact=True, boolean=True)
equal = Primitive("equal", "({0} == {1})", np.equal, exact=True, boolean=True)
not_equal = Primitive("not_equal", "({0} != {1})", np.not_equal, exact=True, boolean=True)
logical_and = Primitive("logical_and", "(({0} != 0) & ({1} != 0))", np.logical_and, exact=True, boolean=True)
logical_or = Primitive("logical_or", "(({0} != 0) | ({1} != 0))", np.logical_or, exact=True, boolean=True)
logical_xor = Primitive("logical_xor", "(({0} != 0) ^ ({1} != 0))", np.logical_xor, exact=True, boolean=True)
logical_not = Primitive("logical_not", "({0} == 0)", np.logical_not, exact=True, boolean=True)
isnan = Primitive("isnan", "({0} != {0})", np.isnan, exact=True, boolean=True)
isinf = Primitive("isinf", "math.isinf({0})", np.isinf, exact=True, boolean=True)
isfinite = Primitive("isfinite", "math.isfinite({0})", np.isfinite, exact=True, boolean=True)

# Calls to libm, which NumPy's own loops beat: compiled only inside a larger expression.
log = Primitive("log", "math.log({0})", np.log, exact=True, costly=True)
log1p = Primitive("log1p", "math.log1p({0})", np.log1p, exact=True, costly=True)
expm1 = Primitive("expm1", "math.expm1({0})", np.expm1, exact=True, costly=True)
sin = Primitive("sin", "math.sin({0})", np.sin, exact=True, costly=True)
cos = Primitive("cos", "math.cos({0})", np.cos, exact=True, costly=True)
tan = Primitive("tan", "math.tan({0})", np.tan, exact=True, costly=True)
power = Primitive("power", "({0} ** {1})", np.power, exact=True, costly=True)
erf = Primitive("erf", "math.erf({0})", _special("erf"), exact=True, costly=True)


# How exp, sigmoid and tanh split x as k ln 2 + r, with k a whole number and |r| <= ln(2)/2: adding and subtracting
# 1.5 * 2**23 (2**52 in float64) rounds to a whole number in two additions. That is an identity which `reassoc` would
# fold away, so kernels are compiled without it. ln 2 is taken in two parts (Cody and Waite 1980), the first with
# enough zeros at its end that k times it is exact.


@primitive(reference=np.expm1)
def exp_tail(r):  # type: ignore[no-untyped-def]
    """e**r - 1 for |r| <= ln(2)/2: r + r**2 q(r), q interpolating at Chebyshev nodes.

    Relative error of e**r 1e-8, 2e-17.
    """
    if is_single(r):
        q = pick(r, 0.0013926213464100121, 0.0)
        q = q * r + pick(r, 0.008363202971574696, 0.0)
        q = q * r + pick(r, 0.04166655443771021, 0.0)
        q = q * r + pick(r, 0.16666576845993986, 0.0)
        q = q * r + pick(r, 0.5, 0.0)
    else:
        q = pick(r, 0.0, 2.5100424157005067e-08)
        q = q * r + pick(r, 0.0, 2.7620138719733994e-07)
        q = q * r + pick(r, 0.0, 2.7557268378684192e-06)
        q = q * r + pick(r, 0.0, 2.480152119021773e-05)
        q = q * r + pick(r, 0.0, 0.00019841269863105968)
        q = q * r + pick(r, 0.0, 0.0013888888917281794)
        q = q * r + pick(r, 0.0, 0.008333333333330051)
        q = q * r + pick(r, 0.0, 0.04166666666662399)
        q = q * r + pick(r, 0.0, 0.16666666666666669)
        q = q * r + pick(r, 0.0, 0.5000000000000001)
    return q * r * r + r


@primitive(reference=np.exp, needs=(exp_tail,), costly=True)
def exp(x):  # type: ignore[no-untyped-def]
    """e**x = 2**k (1 + tail(r)). The power is taken 64 steps nearer to 1 and the result moved there, for denormals."""
    lowest, highest = pick(x, -105.0, -746.0), pick(x, 89.0, 710.0)
    a = lowest if x < lowest else x  # comparisons this way round let NaN through
    a = highest if a > highest else a
    rounding = pick(x, 12582912.0, 6755399441055744.0)
    shifted = a * pick(x, 1.4426950408889634, 1.4426950408889634) + rounding
    k = shifted - rounding
    r = a - k * pick(x, 0.693359375, 0.6931471803691238) - k * pick(x, -0.00021219444005469057, 1.9082149292705877e-10)
    falling = x < 0
    rise = exponent(x, 64) if falling else exponent(x, -64)
    move = pick(x, 2.0**-64, 2.0**-64) if falling else pick(x, 2.0**64, 2.0**64)
    scale = power_of_two(shifted, rise)
    return (scale * exp_tail(r) + scale) * move


def _sigmoid_reference(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.where(np.greater_equal(x, 0), 1, e) / (1 + e)


@primitive(reference=_sigmoid_reference, needs=(exp_tail,), costly=True)
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e**-x), from e**-|x| so that the negative tail keeps its digits down to the denormals."""
    lowest = pick(x, -105.0, -746.0)
    a = -abs(x)
    a = lowest if a < lowest else a
    rounding = pick(x, 12582912.0, 6755399441055744.0)
    shifted = a * pick(x, 1.4426950408889634, 1.4426950408889634) + rounding
    k = shifted - rounding
    r = a - k * pick(x, 0.693359375, 0.6931471803691238) - k * pick(x, -0.00021219444005469057, 1.9082149292705877e-10)
    scale = power_of_two(shifted, exponent(x, 64))
    e = (scale * exp_tail(r) + scale) * pick(x, 2.0**-64, 2.0**-64)
    one = pick(x, 1.0, 1.0)
    return (e if x < 0 else one) / (one + e)


@primitive(reference=np.tanh, needs=(exp_tail,), costly=True)
def tanh(x):  # type: ignore[no-untyped-def]
    """u / (u + 2) with u = e**(2|x|) - 1, then the sign of x. The error of k ln 2 in one part vanishes as u grows."""
    highest = pick(x, 10.0, 20.0)
    a = abs(x)
    a = highest if a > highest else a
    a = a + a
    rounding = pick(x, 12582912.0, 6755399441055744.0)
    shifted = a * pick(x, 1.4426950408889634, 1.4426950408889634) + rounding
    r = a - (shifted - rounding) * pick(x, 0.6931471805599453, 0.6931471805599453)
    scale = power_of_two(shifted, exponent(x, 0))
    u = scale * exp_tail(r) + (scale - pick(x, 1.0, 1.0))
    return math.copysign(u / (u + pick(x, 2.0, 2.0)), x)


@primitive(reference=lambda x: np.logaddexp(x, np.zeros((), np.asarray(x).dtype)), needs=(exp,), costly=True)
def softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + e**x) = max(x, 0) + log1p(e**-|x|)."""
    zero = pick(x, 0.0, 0.0)
    return (x if x > zero or x != x else zero) + math.log1p(exp(-abs(x)))
