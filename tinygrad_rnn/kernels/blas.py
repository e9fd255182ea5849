"""Matrix products, by NumPy's BLAS: transposed operands are passed on as such, without a copy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def matmul(a: Any, b: Any) -> Any:
    """a @ b over the last two axes, the others broadcast."""
    return np.matmul(a, b)


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias, for x (..., I), weight (O, I) and bias (O,) or None.

    One product whatever the leading axes.
    """
    leading, inner = x.shape[:-1], x.shape[-1]
    flat = x if x.ndim == 2 else x.reshape(math.prod(leading), inner)
    out = np.matmul(flat, weight.T)
    if bias is not None:
        np.add(out, bias, out=out)
    return out if x.ndim == 2 else out.reshape(*leading, weight.shape[0])
