"""Gradients held within bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..autograd.tape import writes
from ..autograd.tensor import Tensor
from ..errors import ArgumentError, GraphError
from ..kernels import optimizer as kernels
from ..settings import get_num_threads


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients together so that their common norm is at most `max_norm` (Pascanu et al. 2013).

    As PyTorch: multiplies by min(1, max_norm / (norm + 1e-6)).

    Args:
        parameters: whose `grad` is scaled, in place.
        max_norm: the largest norm left.
        norm_type: the p of the p-norm, above 0; may be infinite.
        error_if_nonfinite: raise where the norm is NaN or infinite, and change nothing.

    Returns:
        The norm before scaling, a tensor without axes.

    Raises:
        GraphError: for a norm that is not finite, if asked for.
        ArgumentError: for a norm_type that is not above 0.
    """
    if not norm_type > 0:
        raise ArgumentError("clip_grad_norm_: no such norm", expected="norm_type above 0", got=norm_type)
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = [p.grad for p in given if p.grad is not None]
    arrays = [g._array for g in grads]
    total = _euclidean(arrays) if norm_type == 2.0 else math.nan
    if not 1e-15 < total < math.inf:
        total = _norm(np.array([_norm(a, norm_type) for a in arrays]), norm_type)
    if error_if_nonfinite and not math.isfinite(total):
        raise GraphError("clip_grad_norm_: the norm of the gradients is not finite", got=total)
    factor = max_norm / (total + 1e-6)
    with np.errstate(all="ignore"):  # an infinite gradient becomes NaN
        if not factor >= 1.0:
            flat = [a.flags.c_contiguous and a.flags.writeable for a in arrays]
            kernels.scale([((a.reshape(-1),), (factor,)) for a, whole in zip(arrays, flat) if whole])
            for g, array, whole in zip(grads, arrays, flat):
                if whole:
                    writes.note(array)
                else:
                    g = g.detach()  # with create_graph a gradient has a history
                    g *= factor
        return Tensor(np.asarray(total, grads[0].dtype if grads else None))


def _euclidean(arrays: Sequence[np.ndarray[Any, Any]]) -> float:
    """The 2-norm of all together; where squares leave the range of float64, infinite, 0 or NaN."""
    found = np.zeros((len(arrays), get_num_threads()))
    kernels.squares([((np.ascontiguousarray(a).reshape(-1),), c) for a, c in zip(arrays, found)])
    return math.sqrt(float(found.sum()))


def _norm(array: np.ndarray[Any, Any], p: float) -> float:
    wide = np.abs(array.astype(np.float64))
    top = float(wide.max(initial=0.0))
    if math.isinf(p) or not 0.0 < top < math.inf:
        return top
    return top * float(((wide / top) ** p).sum() ** (1 / p))  # by parts of the largest: no power overflows
