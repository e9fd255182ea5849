"""Log-probabilities of rows of scores, and their gradient: each row in a few passes while it is in the cache."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .codegen.jit import loop
from .scalar import exp


class _Helper(NamedTuple):
    """A function that kernels call, as text."""

    sources: tuple[str, ...]


if TYPE_CHECKING:
    added: Any = None
    largest: Any = None

#: Where the order of additions is free, several are done at once.
_added = _Helper(
    (
        """\
@numba.njit(fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")
def added(row):
    total = row[0]
    for j in range(1, row.shape[0]):
        total += row[j]
    return total
""",
    )
)

#: Sixteen running values, then the largest of these in four steps: one after another would wait at each.
_largest = _Helper(
    (
        """\
@numba.njit(**OPTIONS)
def largest(row, part):
    whole = row.shape[0] - row.shape[0] % 16
    part[:] = row[0]
    for j in range(0, whole, 16):
        for k in range(16):
            part[k] = row[j + k] if row[j + k] > part[k] else part[k]
    for j in range(whole, row.shape[0]):
        part[j - whole] = row[j] if row[j] > part[j - whole] else part[j - whole]
    for k in range(8):
        part[k] = part[k + 8] if part[k + 8] > part[k] else part[k]
    for k in range(4):
        part[k] = part[k + 4] if part[k + 4] > part[k] else part[k]
    for k in range(2):
        part[k] = part[k + 2] if part[k + 2] > part[k] else part[k]
    return part[1] if part[1] > part[0] else part[0]
""",
    )
)


def _log_softmax_reference(x: Any, y: Any) -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        np.subtract(x, np.max(x, axis=1, keepdims=True), out=y)
        y -= np.log(np.sum(np.exp(y), axis=1, keepdims=True))


@loop("void(F[:,::1],F[:,::1])", reference=_log_softmax_reference, needs=(exp, _added, _largest))
def log_softmax(x: Any, y: Any) -> None:
    """y[n, j] = x[n, j] - log(sum over k of e^x[n, k])."""
    part = np.empty(16, x.dtype)
    for n in range(x.shape[0]):
        top = largest(x[n], part)
        for j in range(x.shape[1]):
            y[n, j] = exp(x[n, j] - top)
        total = math.log(added(y[n]))
        for j in range(x.shape[1]):
            y[n, j] = (x[n, j] - top) - total


def _pulled_reference(g: Any, y: Any, out: Any) -> None:
    with np.errstate(invalid="ignore"):
        np.subtract(g, np.exp(y) * np.sum(g, axis=1, keepdims=True), out=out)


@loop("void(F[:,::1],F[:,::1],F[:,::1])", reference=_pulled_reference, needs=(exp, _added))
def pulled(g: Any, y: Any, out: Any) -> None:
    """out[n, j] = g[n, j] - e^y[n, j] (sum over k of g[n, k])."""
    for n in range(y.shape[0]):
        total = added(g[n])
        for j in range(y.shape[1]):
            out[n, j] = g[n, j] - exp(y[n, j]) * total
