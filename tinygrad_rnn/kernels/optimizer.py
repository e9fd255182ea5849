"""The optimizers' updates, and what clipping needs: each one kernel over all parameters, on all threads.

A rule is written for one parameter, its arrays flat and written in place. `c` holds its numbers in float64, in the
order its docstring gives. A table tells the kernel where the arrays of all parameters lie:

    0 their number      1 integers of each entry
    2, ...              entries: elements, address of c and how many, then address and elements of each array
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import settings
from .codegen import jit
from .runtime import threads
from .runtime.pool import address_of

if TYPE_CHECKING:  # what the kernel's text has around it
    KIND: Any = None
    NUMBERS: Any = None
    array_at: Any = None
    like: Any = None
    summed: Any = None

    def number(table: int, index: int) -> int: ...


#: Elements below which one thread does all.
SMALL = 100_000


def share(table: int, n: int, i: int, shard: int, shards: int) -> Any:
    """A shard of the i-th array of the n-th parameter; of one that is empty, nothing."""
    entry = table + 8 * (2 + number(table, 1) * n)
    address, size = number(entry, 3 + 2 * i), number(entry, 4 + 2 * i)
    each = ((size + shards - 1) // shards + 15) // 16 * 16  # no line of the cache is of two
    first, last = min(shard * each, size), min((shard + 1) * each, size)
    return array_at(KIND, address, size)[first:last]


def numbers(table: int, n: int) -> Any:
    """The numbers of the n-th parameter."""
    entry = table + 8 * (2 + number(table, 1) * n)
    return array_at(NUMBERS, number(entry, 1), number(entry, 2))


class Update:
    """A rule run over all parameters.

    Args:
        every: the kernel: for each parameter of the table, the rule on the shard that is asked for.
        rule: what it calls.
        reference: the rule on plain NumPy.
    """

    def __init__(self, every: Callable[..., Any], rule: Callable[..., Any], reference: Callable[..., Any]) -> None:
        self.every, self.rule, self.reference = every, rule, reference
        self._compiled = functools.cache(self._library)

    def _library(self, size: int) -> int:
        constants = {"KIND": f"np.float{8 * size}(0.0)", "NUMBERS": "np.float64(0.0)"}
        name, functions = f"{self.rule.__name__}_{size}", (share, numbers, self.rule, self.every)
        return int(getattr(jit.library(name, functions, constants)(), self.every.__name__).address)

    def __call__(self, parameters: Sequence[tuple[Sequence[np.ndarray[Any, Any]], Any]]) -> None:
        """For each parameter its arrays, flat and contiguous (all of one dtype), and its numbers.

        Numbers that are given as an array of float64 are what the rule may write to. Where an array is not aligned to
        the size of its numbers, NumPy runs the rule.
        """
        given = [(arrays, np.asarray(c, np.float64)) for arrays, c in parameters if arrays[0].size]
        if not settings.jit_enabled or not all(array.flags.aligned for arrays, _ in given for array in arrays):
            for arrays, c in given:
                self.reference(*arrays, c)
            return
        for size, several in itertools.groupby(given, lambda one: one[0][0].itemsize):
            self._run(size, list(several))

    def _run(self, size: int, given: list[tuple[Sequence[Any], Any]]) -> None:
        table = [len(given), 3 + 2 * len(given[0][0])]
        for arrays, c in given:
            table += [arrays[0].size, address_of(c) if c.size else 0, c.size]
            for array in arrays:
                table += [address_of(array), array.size]
        known = np.array(table, np.int64)
        shards = 1 if sum(arrays[0].size for arrays, _ in given) < SMALL else settings.get_num_threads()
        threads.run(self._compiled(size), address_of(known), (shards, 0, 0), shards)


def _adam_reference(p: Any, g: Any, m: Any, v: Any, c: Any) -> None:
    step, beta1, beta2, root, eps, l2, decay = map(float, c)
    p *= 1.0 - decay
    g = g + l2 * p if l2 else g
    m[...] = g - beta1 * (g - m) if beta1 <= 0.5 else m + (1.0 - beta1) * (g - m)
    v *= beta2
    v += (1.0 - beta2) * g * g
    p -= step * m / (np.sqrt(v) / root + eps)


def _adam(p: Any, g: Any, m: Any, v: Any, c: Any) -> None:
    """c: lr / (1 - beta1^t), beta1, beta2, sqrt(1 - beta2^t), eps, L2 factor, lr * decoupled decay."""
    step, beta1, beta2, root = like(c[0], p[0]), like(c[1], p[0]), like(c[2], p[0]), like(c[3], p[0])
    eps, l2, keep = like(c[4], p[0]), like(c[5], p[0]), like(1.0 - c[6], p[0])
    decays = c[5] != 0.0
    near = c[1] <= 0.5  # from the nearer end, as torch.lerp: the other way cancels digits
    rest1, rest2 = like(1.0 - c[1], p[0]), like(1.0 - c[2], p[0])
    for i in range(p.shape[0]):
        kept = p[i] * keep
        slope = g[i] + l2 * kept if decays else g[i]  # 0 times infinity would be NaN
        m[i] = slope - beta1 * (slope - m[i]) if near else m[i] + rest1 * (slope - m[i])
        v[i] = beta2 * v[i] + rest2 * slope * slope
        p[i] = kept - step * m[i] / (math.sqrt(v[i]) / root + eps)


def _every_adam(table: int, job: int, shard: int, shards: int) -> None:
    for n in range(number(table, 0)):
        _adam(
            share(table, n, 0, shard, shards),
            share(table, n, 1, shard, shards),
            share(table, n, 2, shard, shards),
            share(table, n, 3, shard, shards),
            numbers(table, n),
        )


adam = Update(_every_adam, _adam, _adam_reference)


def _sgd_reference(p: Any, g: Any, b: Any, c: Any) -> None:
    lr, momentum, dampening, l2, nesterov, first = map(float, c)
    g = g + l2 * p if l2 else g
    if momentum:
        b[...] = g if first else momentum * b + (1.0 - dampening) * g
        g = g + momentum * b if nesterov else b
    p -= lr * g


def _sgd(p: Any, g: Any, b: Any, c: Any) -> None:
    """c: lr, momentum, dampening, L2 factor, nesterov (0 or 1), first step (0 or 1).

    B, the momentum buffer, may be empty.
    """
    lr, momentum, rest = like(c[0], p[0]), like(c[1], p[0]), like(1.0 - c[2], p[0])
    l2, decays, nesterov, first = like(c[3], p[0]), c[3] != 0.0, c[4] != 0.0, c[5] != 0.0
    if b.shape[0] == 0:
        for i in range(p.shape[0]):
            p[i] -= lr * (g[i] + l2 * p[i] if decays else g[i])
        return
    for i in range(p.shape[0]):
        slope = g[i] + l2 * p[i] if decays else g[i]
        b[i] = slope if first else momentum * b[i] + rest * slope
        p[i] -= lr * (slope + momentum * b[i] if nesterov else b[i])


def _every_sgd(table: int, job: int, shard: int, shards: int) -> None:
    for n in range(number(table, 0)):
        _sgd(
            share(table, n, 0, shard, shards),
            share(table, n, 1, shard, shards),
            share(table, n, 2, shard, shards),
            numbers(table, n),
        )


sgd = Update(_every_sgd, _sgd, _sgd_reference)


def _rmsprop_reference(p: Any, g: Any, v: Any, a: Any, b: Any, c: Any) -> None:
    lr, alpha, eps, l2, momentum = map(float, c)
    g = g + l2 * p if l2 else g
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


def _rmsprop(p: Any, g: Any, v: Any, a: Any, b: Any, c: Any) -> None:
    """c: lr, alpha, eps, L2 factor, momentum. a (mean gradient) and b (momentum) may be empty."""
    lr, alpha, rest = like(c[0], p[0]), like(c[1], p[0]), like(1.0 - c[1], p[0])
    eps, l2, momentum = like(c[2], p[0]), like(c[3], p[0]), like(c[4], p[0])
    centered, moving, near, decays = a.shape[0] > 0, b.shape[0] > 0, c[1] <= 0.5, c[3] != 0.0
    for i in range(p.shape[0]):
        slope = g[i] + l2 * p[i] if decays else g[i]
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


def _every_rmsprop(table: int, job: int, shard: int, shards: int) -> None:
    for n in range(number(table, 0)):
        _rmsprop(
            share(table, n, 0, shard, shards),
            share(table, n, 1, shard, shards),
            share(table, n, 2, shard, shards),
            share(table, n, 3, shard, shards),
            share(table, n, 4, shard, shards),
            numbers(table, n),
        )


rmsprop = Update(_every_rmsprop, _rmsprop, _rmsprop_reference)


def _scale_reference(g: Any, c: Any) -> None:
    g *= g.dtype.type(c[0])


def _scale(g: Any, c: Any) -> None:
    """c: the factor."""
    factor = like(c[0], g[0])
    for i in range(g.shape[0]):
        g[i] *= factor


def _every_scale(table: int, job: int, shard: int, shards: int) -> None:
    for n in range(number(table, 0)):
        _scale(share(table, n, 0, shard, shards), numbers(table, n))


scale = Update(_every_scale, _scale, _scale_reference)


def _squares_reference(g: Any, c: Any) -> None:
    c[0] = np.sum(np.square(g, dtype=np.float64))


def _squares(g: Any, c: Any, shard: Any) -> None:
    """c: for each thread that may take part, the sum of squares that it finds."""
    total = 0.0
    for i in range(g.shape[0]):
        wide = like(g[i], total)
        total = summed(total, wide * wide)
    c[shard] = total


def _every_squares(table: int, job: int, shard: int, shards: int) -> None:
    for n in range(number(table, 0)):
        _squares(share(table, n, 0, shard, shards), numbers(table, n), shard)


squares = Update(_every_squares, _squares, _squares_reference)
