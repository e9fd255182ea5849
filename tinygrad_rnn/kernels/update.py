"""The optimizers' updates: one pass over each parameter, all arrays flat and written in place.

`c` holds an update's numbers in float64, in the order its docstring gives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .jit import loop

if TYPE_CHECKING:
    like: Any = None  # kernel files import it from intrinsics.py


def _adam_twin(p: Any, g: Any, m: Any, v: Any, c: Any) -> None:
    step, beta1, beta2, root, eps, l2, decay = map(float, c)
    p *= 1.0 - decay
    g = g + l2 * p
    m[...] = g - beta1 * (g - m) if beta1 <= 0.5 else m + (1.0 - beta1) * (g - m)
    v *= beta2
    v += (1.0 - beta2) * g * g
    p -= step * m / (np.sqrt(v) / root + eps)


@loop("void(F[::1],F[::1],F[::1],F[::1],f8[::1])", twin=_adam_twin)
def adam(p: Any, g: Any, m: Any, v: Any, c: Any) -> None:
    """c: lr / (1 - beta1^t), beta1, beta2, sqrt(1 - beta2^t), eps, L2 factor, lr * decoupled decay."""
    step, beta1, beta2, root = like(c[0], p[0]), like(c[1], p[0]), like(c[2], p[0]), like(c[3], p[0])
    eps, l2, keep = like(c[4], p[0]), like(c[5], p[0]), like(1.0 - c[6], p[0])
    near = c[1] <= 0.5  # from the nearer end, as torch.lerp: the other way cancels digits
    rest1, rest2 = like(1.0 - c[1], p[0]), like(1.0 - c[2], p[0])
    for i in range(p.shape[0]):
        kept = p[i] * keep
        slope = g[i] + l2 * kept
        m[i] = slope - beta1 * (slope - m[i]) if near else m[i] + rest1 * (slope - m[i])
        v[i] = beta2 * v[i] + rest2 * slope * slope
        p[i] = kept - step * m[i] / (math.sqrt(v[i]) / root + eps)


def _sgd_twin(p: Any, g: Any, b: Any, c: Any) -> None:
    lr, momentum, dampening, l2, nesterov, first = map(float, c)
    g = g + l2 * p
    if momentum:
        b[...] = g if first else momentum * b + (1.0 - dampening) * g
        g = g + momentum * b if nesterov else b
    p -= lr * g


@loop("void(F[::1],F[::1],F[::1],f8[::1])", twin=_sgd_twin)
def sgd(p: Any, g: Any, b: Any, c: Any) -> None:
    """c: lr, momentum, dampening, L2 factor, nesterov (0 or 1), first step (0 or 1).

    B, the momentum buffer, may be empty.
    """
    lr, momentum, rest = like(c[0], p[0]), like(c[1], p[0]), like(1.0 - c[2], p[0])
    l2, nesterov, first = like(c[3], p[0]), c[4] != 0.0, c[5] != 0.0
    if b.shape[0] == 0:
        for i in range(p.shape[0]):
            p[i] -= lr * (g[i] + l2 * p[i])
        return
    for i in range(p.shape[0]):
        slope = g[i] + l2 * p[i]
        b[i] = slope if first else momentum * b[i] + rest * slope
        p[i] -= lr * (slope + momentum * b[i] if nesterov else b[i])


def _rmsprop_twin(p: Any, g: Any, v: Any, a: Any, b: Any, c: Any) -> None:
    lr, alpha, eps, l2, momentum = map(float, c)
    g = g + l2 * p
    v *= alpha
    v += (1.0 - alpha) * g * g
    spread = v
    if a.size:
        a[...] = g - alpha * (g - a) if alpha <= 0.5 else a + (1.0 - alpha) * (g - a)
        spread = v - a * a
    g = g / (np.sqrt(spread) + eps)
    if momentum:
        b[...] = momentum * b + g
        g = b
    p -= lr * g


@loop("void(F[::1],F[::1],F[::1],F[::1],F[::1],f8[::1])", twin=_rmsprop_twin)
def rmsprop(p: Any, g: Any, v: Any, a: Any, b: Any, c: Any) -> None:
    """c: lr, alpha, eps, L2 factor, momentum. a (mean gradient) and b (momentum) may be empty."""
    lr, alpha, rest = like(c[0], p[0]), like(c[1], p[0]), like(1.0 - c[1], p[0])
    eps, l2, momentum = like(c[2], p[0]), like(c[3], p[0]), like(c[4], p[0])
    centered, moving, near = a.shape[0] > 0, b.shape[0] > 0, c[1] <= 0.5
    for i in range(p.shape[0]):
        slope = g[i] + l2 * p[i]
        v[i] = alpha * v[i] + rest * slope * slope
        spread = v[i]
        if centered:
            a[i] = slope - alpha * (slope - a[i]) if near else a[i] + rest * (slope - a[i])
            spread = v[i] - a[i] * a[i]
        step = slope / (math.sqrt(spread) + eps)
        if moving:
            b[i] = momentum * b[i] + step
            step = b[i]
        p[i] -= lr * step
