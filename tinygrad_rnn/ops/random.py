"""Random ops. A call takes one key, and every number is a function of (key, element).

A replayed call draws the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..kernels import draw
from .op import Array, call, opaque

_generator = np.random.default_rng()


def manual_seed(n: int) -> None:
    """Start the library's random numbers anew from the whole number n >= 0."""
    global _generator
    _generator = np.random.default_rng(n)


def generator(rng: np.random.Generator | None = None) -> np.random.Generator:
    """The generator given, or the library's own."""
    return _generator if rng is None else rng


@opaque(symbol="dropout", samples=lambda r: [call(r(4, 5), p=0.4, key=7), call(r(0, 2), p=0.4, key=7)])
def dropped(x: Array, p: float = 0.5, key: int = 0) -> Any:
    """x / (1 - p) where the uniform number of (key, element) is at least p, else 0."""
    kept = draw.uniform(key, x.size).reshape(x.shape) >= p
    return np.where(kept, x * x.dtype.type(1.0 / (1.0 - p) if p < 1.0 else 0.0), x.dtype.type(0))


@dropped.vjp("x")
def _(g, p, key):
    return dropped(g, p, key)


def dropout(x: Array, p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None) -> Any:
    """Each element 0 with probability p, else divided by 1 - p; x itself where not training (Srivastava et al. 2014).

    Raises:
        ArgumentError: for a p outside 0 to 1.
    """
    if not 0.0 <= p <= 1.0:
        raise ArgumentError("dropout: not a probability", expected="0 <= p <= 1", got=p)
    if not training or p == 0.0:
        return x
    return dropped(x, p, int(generator(rng).integers(2**63)))
