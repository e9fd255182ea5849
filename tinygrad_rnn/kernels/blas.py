"""Matrix products: small ones by NumPy's BLAS on one thread, large ones on our own. Transposed operands are not copied.

OpenBLAS's workers spin for some 25 ms after each product, and where anything else wants the processor a product with
them takes many times as long: they are never started.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .codegen.jit import lock
from .gemm import multiplied

#: Products of up to this many multiplications are NumPy's; our own threads take larger ones.
SMALL = 2**20

#: Up to this many rows of x, weight @ x.T takes less time than x @ weight.T.
FEW = 128


def matmul(a: Any, b: Any) -> Any:
    """a @ b over the last two axes, the others broadcast."""
    if a.ndim > b.ndim == 2 and a.flags.c_contiguous:  # one product instead of many, each with the same matrix
        return matmul(a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[1])
    if a.ndim == b.ndim == 2 and a.shape[0] * b.size > SMALL:
        made = multiplied(a, b)
        if made is not None:
            return made
    return _alone(a, b)


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias, for x (..., I), weight (O, I) and bias (O,) or None.

    One product whatever the leading axes. Of few rows, the weight comes first, and the result is a transposed array:
    OpenBLAS is up to twice as fast so, and each block of the outputs (each gate) lies in one piece.
    """
    if x.ndim == 2 and x.shape[0] <= FEW:
        turned = matmul(weight, x.T)
        if bias is not None:
            np.add(turned, bias[:, None], out=turned)
        return turned.T
    leading, inner = x.shape[:-1], x.shape[-1]
    flat = x if x.ndim == 2 else x.reshape(math.prod(leading), inner)
    out = matmul(flat, weight.T)
    if bias is not None:
        np.add(out, bias, out=out)
    return out if x.ndim == 2 else out.reshape(*leading, weight.shape[0])


def _alone(a: Any, b: Any) -> Any:
    """The product on one thread; the number of BLAS threads is then what it was."""
    threads = _blas_threads()
    if threads is None:
        return np.matmul(a, b)
    number = threads.get()
    if number == 1:
        return np.matmul(a, b)
    threads.set(1)
    try:
        return np.matmul(a, b)
    finally:
        threads.set(number)


class _Threads(NamedTuple):
    """The two functions of NumPy's BLAS that read and set its number of threads."""

    get: Callable[[], int]
    set: Callable[[int], None]


@functools.cache
def _blas_threads() -> _Threads | None:
    """NumPy's OpenBLAS, called directly, as threadpoolctl's own calls cost far more; None for another BLAS."""
    import threadpoolctl

    with lock:  # it walks the loaded libraries
        libraries = threadpoolctl.ThreadpoolController().lib_controllers
    for found in libraries:
        if found.internal_api == "openblas" and "numpy" in found.filepath:
            for prefix, suffix in itertools.product(("scipy_", ""), ("64_", "", "_64")):  # as wheels name them
                get = getattr(found.dynlib, f"{prefix}openblas_get_num_threads{suffix}", None)
                set = getattr(found.dynlib, f"{prefix}openblas_set_num_threads{suffix}", None)
                if get is not None and set is not None:
                    return _Threads(get, set)
    return None
