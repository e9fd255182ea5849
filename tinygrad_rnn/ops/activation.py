"""Activations. Tanh, sigmoid, softplus and relu stand among the elementwise ops.

Where a slope jumps, the derivative is the one PyTorch takes.
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import ArgumentError
from ..kernels import scalar
from .declare import Array, Refusal, call, composite, elementwise
from .elementwise import abs, clip, erf, exp, expm1, sigmoid, where

SQRT_HALF = math.sqrt(0.5)
NORMAL_PEAK = 1.0 / math.sqrt(2.0 * math.pi)


@elementwise(symbol="leaky ReLU")
def leaky_relu(x: Array, negative_slope: Array = 0.01) -> Any:
    """x where x > 0, else negative_slope * x; the derivative at 0 is negative_slope."""
    return scalar.where(x > 0.0, x, x * negative_slope)


@leaky_relu.vjp("x")
def _(g, x, negative_slope):
    return where(x > 0.0, g, g * negative_slope)


@leaky_relu.vjp("negative_slope")
def _(g, x):
    return where(x > 0.0, 0.0, g) * where(x > 0.0, 0.0, x)


@elementwise(symbol="ELU")
def elu(x: Array, alpha: Array = 1.0) -> Any:
    """x where x > 0, else alpha (e^x - 1); the derivative at 0 is alpha, the second derivative there 0."""
    return scalar.where(x <= 0.0, alpha * scalar.expm1(scalar.where(x <= 0.0, x, 0.0)), x)


@elu.vjp("x")
def _(g, x, alpha):
    # The inner choice keeps e^x from overflowing where it is not looked at.
    return where(x <= 0.0, g * (alpha * exp(where(x < 0.0, x, 0.0))), g)


@elu.vjp("alpha")
def _(g, x):
    return where(x <= 0.0, g, 0.0) * expm1(where(x <= 0.0, x, 0.0))


@elementwise(symbol="SiLU", domain=(-4.0, 4.0))
def silu(x: Array) -> Any:
    """x sigmoid(x), also called swish.

    As PyTorch's it is NaN at minus infinity, and its derivative at both infinities.
    """
    return x * scalar.sigmoid(x)


@silu.vjp("x")
def _(g, x):
    s = sigmoid(x)
    return g * (s * (1.0 + x * (1.0 - s)))


@elementwise()
def softsign(x: Array) -> Any:
    """x / (1 + |x|). As PyTorch's it is NaN at both infinities, and its derivative too."""
    return x / (1.0 + scalar.absolute(x))


@softsign.vjp("x")
def _(g, x, y):
    scale = 1.0 + abs(x)
    return where(y == y, g / (scale * scale), y)


@elementwise(symbol="hard σ", domain=(-4.0, 4.0), saturates=(0.0, 1.0))
def hard_sigmoid(x: Array) -> Any:
    """x / 6 + 1/2 held between 0 and 1; the derivative at -3 and 3, where it bends, is 0."""
    return scalar.minimum(scalar.maximum(x + 3.0, 0.0), 6.0) / 6.0


@hard_sigmoid.vjp("x")
def _(g, x):
    return where((x > -3.0) & (x < 3.0), g / 6.0, 0.0)


# --- GELU (Hendrycks and Gimpel 2016): x times the chance that a normal number is below x ---


@elementwise(symbol="GELU", domain=(-4.0, 4.0))
def gelu_erf(x: Array) -> Any:
    """x Phi(x) with the normal distribution Phi(x) = (1 + erf(x / sqrt(2))) / 2."""
    return 0.5 * x * (1.0 + scalar.erf(x * SQRT_HALF))


@gelu_erf.vjp("x")
def _(g, x):
    density = NORMAL_PEAK * exp(-0.5 * (x * x))
    return g * (0.5 * (1.0 + erf(x * SQRT_HALF)) + x * density)


# (1 + tanh(u)) / 2 is sigmoid(2u), which keeps its digits in the tail; here 2u = x (SLOPE + CUBIC x²). Beyond FAR that
# is 0 or 1 to the last digit, so u stops there: a larger x would only make it overflow.
SLOPE = 2.0 * math.sqrt(2.0 / math.pi)
CUBIC = 0.044715 * SLOPE
FAR = 40.0


@elementwise(symbol="GELU", domain=(-4.0, 4.0))
def gelu_tanh(x: Array) -> Any:
    """x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x³), within 5e-4 of `gelu_erf`."""
    near = scalar.minimum(scalar.maximum(x, -FAR), FAR)
    return x * scalar.sigmoid(near * (SLOPE + CUBIC * (near * near)))


@gelu_tanh.vjp("x")
def _(g, x):
    near = clip(x, -FAR, FAR)
    square = near * near
    s = sigmoid(near * (SLOPE + CUBIC * square))
    return g * (s + x * (s * (1.0 - s)) * (SLOPE + 3.0 * CUBIC * square))


_GELUS = {"none": gelu_erf, "tanh": gelu_tanh}


@composite(
    samples=lambda r: [call(r(3, 4)), call(r(3, 4), approximate="tanh"), call(r()), call(r(2, 0), approximate="tanh")],
    refusals=lambda r: [Refusal(call(r(2, 3), approximate="erf"), ArgumentError, "no such approximation")],
)
def gelu(x: Array, approximate: str = "none") -> Any:
    """x Phi(x), where Phi is the normal distribution: x times the chance that a normal number is below x.

    As PyTorch's it is NaN at minus infinity, and its derivative at both infinities.

    Args:
        x: a tensor of any shape; integers become the default floating dtype.
        approximate: "none" computes Phi by `erf`; "tanh" takes (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))) / 2 for it.

    Raises:
        ArgumentError: for another `approximate`.
    """
    if approximate not in _GELUS:
        raise ArgumentError("gelu: no such approximation", expected=" | ".join(_GELUS), got=repr(approximate))
    return _GELUS[approximate](x)
