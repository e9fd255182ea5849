"""Gradients held within bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..autograd.tensor import Tensor
from ..errors import GraphError


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients together so that their common norm is at most `max_norm` (Pascanu et al. 2013).

    As PyTorch: multiplies by min(1, max_norm / (norm + 1e-6)).

    Args:
        parameters: whose `grad` is scaled, in place.
        max_norm: the largest norm left.
        norm_type: the p of the p-norm; may be infinite.
        error_if_nonfinite: raise where the norm is NaN or infinite, and change nothing.

    Returns:
        The norm before scaling, a tensor without axes.

    Raises:
        GraphError: for a norm that is not finite, if asked for.
    """
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [p.grad for p in given if p.grad is not None]
    norms = [_norm(g._array, norm_type) for g in grads]
    total = max(norms, default=0.0) if math.isinf(norm_type) else sum(n**norm_type for n in norms) ** (1 / norm_type)
    if error_if_nonfinite and not math.isfinite(total):
        raise GraphError("clip_grad_norm_: the norm of the gradients is not finite", got=total)
    factor = max_norm / (total + 1e-6)
    if not factor >= 1.0:
        for g in grads:
            g *= factor
    return Tensor(np.asarray(total, grads[0].dtype if grads else None))


def _norm(array: np.ndarray[Any, Any], p: float) -> float:
    if p == 2.0:
        flat = array.reshape(-1)
        squares = float(np.dot(flat, flat))
        if math.isfinite(squares) and squares > 1e-30:
            return math.sqrt(squares)
    wide = np.abs(array.astype(np.float64))
    if math.isinf(p):
        return float(wide.max(initial=0.0))
    return float((wide**p).sum() ** (1 / p))
