"""Elementwise ops: y[i] = f(x[i]), inputs broadcast against each other.

Each takes tensors of any shape, float32 or float64, Python numbers or arrays, and returns a tensor of the broadcast
shape. Where a derivative does not exist the value is PyTorch's, and the declaration says which.
"""

from __future__ import annotations

import math
from typing import Any

from ..kernels import scalar
from .declare import Array, elementwise

TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)


# --- Arithmetic ---


@elementwise(symbol="+", integers=True, linear=True)
def add(a: Array, b: Array) -> Any:
    """a + b."""
    return a + b


@add.vjp("a", "b")
def _(g):
    return g


@elementwise(symbol="-", integers=True, linear=True)
def subtract(a: Array, b: Array) -> Any:
    """a - b."""
    return a - b


@subtract.vjp("a")
def _(g):
    return g


@subtract.vjp("b")
def _(g):
    return -g


@elementwise(symbol="×", integers=True, linear=("a", "b"))
def multiply(a: Array, b: Array) -> Any:
    """a * b."""
    return a * b


@multiply.vjp("a")
def _(g, b):
    return g * b


@multiply.vjp("b")
def _(g, a):
    return g * a


@elementwise(symbol="÷", domain=(0.5, 2.0), linear=("a",))
def divide(a: Array, b: Array) -> Any:
    """a / b; integers become the default floating dtype."""
    return a / b


@divide.vjp("a")
def _(g, b):
    return g / b


@divide.vjp("b")
def _(g, b, y):
    return -g * (y / b)


@elementwise(symbol="−x", integers=True, linear=True)
def negative(x: Array) -> Any:
    """-x."""
    return -x


@negative.vjp("x")
def _(g):
    return -g


@elementwise(symbol="|x|", integers=True)
def abs(x: Array) -> Any:
    """|x|; the derivative at 0 is 0."""
    return scalar.absolute(x)


@abs.vjp("x")
def _(g, x):
    return g * sign(x)


@elementwise(integers=True)
def sign(x: Array) -> Any:
    """-1, 0 or 1; NaN stays NaN. The derivative is 0 everywhere."""
    return scalar.sign(x)


@sign.vjp("x")
def _(g):
    return 0.0


@elementwise(symbol="x²", integers=True)
def square(x: Array) -> Any:
    """x * x."""
    return x * x


@square.vjp("x")
def _(g, x):
    return g * (2.0 * x)


@elementwise(symbol="√", domain=(0.1, 3.0))
def sqrt(x: Array) -> Any:
    """Square root; the derivative at 0 is infinite."""
    return scalar.sqrt(x)


@sqrt.vjp("x")
def _(g, y):
    return g / (2.0 * y)


@elementwise(symbol="1/√", domain=(0.3, 3.0))
def rsqrt(x: Array) -> Any:
    """1 / sqrt(x): of 0 infinity, of -0.0 minus infinity, of a negative number NaN."""
    return 1.0 / scalar.sqrt(x)


@rsqrt.vjp("x")
def _(g, y):
    return g * (-0.5 * (y * y * y))


@elementwise(symbol="1/x", domain=(0.5, 2.0))
def reciprocal(x: Array) -> Any:
    """1 / x; integers become the default floating dtype."""
    return 1.0 / x


@reciprocal.vjp("x")
def _(g, y):
    return -g * (y * y)


@elementwise(symbol="xᵇ", domain=(0.3, 2.0), integers=True)
def power(a: Array, b: Array) -> Any:
    """a ** b. Where b is 0 the derivative in a is 0; where a is 0 and b >= 0 the derivative in b is 0."""
    return a**b


@power.vjp("a")
def _(g, a, b):
    # The inner choice keeps infinity out of the derivative of this: where it is masked, 0 times it would be NaN.
    return where(b == 0.0, 0.0, g * (b * a ** where(b == 0.0, 1.0, b - 1.0)))


@power.vjp("b")
def _(g, a, b, y):
    flat = (a == 0.0) & (b >= 0.0)
    return where(flat, 0.0, g * (y * log(where(flat, 1.0, a))))


# --- Exponentials and friends ---


@elementwise(symbol="eˣ")
def exp(x: Array) -> Any:
    """e ** x."""
    return scalar.exp(x)


@exp.vjp("x")
def _(g, y):
    return g * y


@elementwise(symbol="eˣ−1")
def expm1(x: Array) -> Any:
    """e ** x - 1, with all its digits where x is small."""
    return scalar.expm1(x)


@expm1.vjp("x")
def _(g, y):
    return g * (y + 1.0)


@elementwise(domain=(0.1, 3.0))
def log(x: Array) -> Any:
    """Natural logarithm; of 0 minus infinity, of a negative number NaN."""
    return scalar.log(x)


@log.vjp("x")
def _(g, x):
    return g / x


@elementwise(symbol="log(1+x)", domain=(-0.7, 3.0))
def log1p(x: Array) -> Any:
    """log(1 + x), with all its digits where x is small; of -1 minus infinity, below NaN."""
    return scalar.log1p(x)


@log1p.vjp("x")
def _(g, x):
    return g / (x + 1.0)


@elementwise(domain=(-3.0, 3.0), saturates=(-0.9, 0.9))
def tanh(x: Array) -> Any:
    """Hyperbolic tangent, (e^x - e^-x) / (e^x + e^-x)."""
    return scalar.tanh(x)


@tanh.vjp("x")
def _(g, y):
    return g * (1.0 - y * y)


@elementwise(symbol="σ", domain=(-4.0, 4.0), saturates=(0.05, 0.95))
def sigmoid(x: Array) -> Any:
    """Logistic function, 1 / (1 + e^-x)."""
    return scalar.sigmoid(x)


@sigmoid.vjp("x")
def _(g, y):
    return g * (y * (1.0 - y))


@elementwise()
def softplus(x: Array) -> Any:
    """log(1 + e^x), without overflow."""
    return scalar.softplus(x)


@softplus.vjp("x")
def _(g, x):
    return g * sigmoid(x)


@elementwise(symbol="ReLU", saturates=(0.0, None))
def relu(x: Array) -> Any:
    """max(x, 0); the derivative at 0 is 0."""
    return scalar.maximum(x, 0.0)


@relu.vjp("x")
def _(g, x):
    return where(x > 0.0, g, 0.0)


@elementwise()
def sin(x: Array) -> Any:
    """Sine of x in radians."""
    return scalar.sin(x)


@sin.vjp("x")
def _(g, x):
    return g * cos(x)


@elementwise()
def cos(x: Array) -> Any:
    """Cosine of x in radians."""
    return scalar.cos(x)


@cos.vjp("x")
def _(g, x):
    return -g * sin(x)


@elementwise(domain=(-1.3, 1.3))
def tan(x: Array) -> Any:
    """Tangent of x in radians."""
    return scalar.tan(x)


@tan.vjp("x")
def _(g, y):
    return g * (1.0 + y * y)


@elementwise()
def erf(x: Array) -> Any:
    """Error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x."""
    return scalar.erf(x)


@erf.vjp("x")
def _(g, x):
    return g * (TWO_OVER_SQRT_PI * exp(-(x * x)))


# --- Choices ---


@elementwise(symbol="max", integers=True)
def maximum(a: Array, b: Array) -> Any:
    """The larger of a and b, NaN where either is; where they are equal, each gets half of the gradient."""
    return scalar.maximum(a, b)


@maximum.vjp("a")
def _(g, a, b):
    return where(a > b, g, where(a == b, 0.5 * g, 0.0))


@maximum.vjp("b")
def _(g, a, b):
    return where(b > a, g, where(a == b, 0.5 * g, 0.0))


@elementwise(symbol="min", integers=True)
def minimum(a: Array, b: Array) -> Any:
    """The smaller of a and b, NaN where either is; where they are equal, each gets half of the gradient."""
    return scalar.minimum(a, b)


@minimum.vjp("a")
def _(g, a, b):
    return where(a < b, g, where(a == b, 0.5 * g, 0.0))


@minimum.vjp("b")
def _(g, a, b):
    return where(b < a, g, where(a == b, 0.5 * g, 0.0))


@elementwise(integers=True, truth=("condition",))
def where(condition: Array, a: Array, b: Array) -> Any:
    """a where the condition holds, else b."""
    return scalar.where(condition, a, b)


@where.vjp("a")
def _(g, condition):
    return where(condition, g, 0.0)


@where.vjp("b")
def _(g, condition):
    return where(condition, 0.0, g)


@elementwise()
def clip(x: Array, min: Array = -math.inf, max: Array = math.inf) -> Any:
    """x held between min and max (either may be None); the derivative at a bound itself is 1.

    Max wins over a larger min.
    """
    return scalar.minimum(scalar.maximum(x, min), max)


@clip.vjp("x")
def _(g, x, min, max):
    return where((x >= min) & (x <= max), g, 0.0)


@clip.vjp("min")
def _(g, x, min, max):
    return where((x < min) & (min < max), g, 0.0)


@clip.vjp("max")
def _(g, x, min, max):
    return where((x > max) | (max < min), g, 0.0)
