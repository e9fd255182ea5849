"""Random numbers as a function of (key, counter): the same wherever and whenever they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from .codegen.jit import loop


def uniform(key: int, count: int, start: int = 0) -> Any:
    """`count` float64 numbers in [0, 1), those of counters start, start + 1, ...

    The finaliser of SplitMix64 over key + counter * golden ratio (Steele, Lea and Flood 2014), twice, so that near
    keys share nothing.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        offset = _mixed(np.array([key & 0xFFFFFFFFFFFFFFFF], np.uint64))
        z = _mixed(np.arange(start, start + count, dtype=np.uint64) * golden + offset)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def gumbels_reference(keys: Any, out: Any) -> None:
    """`gumbels`, on NumPy."""
    with np.errstate(divide="ignore"):
        for key, row in zip(keys, out):
            row[...] = -np.log(-np.log(uniform(int(key), row.size)))


@loop("void(u8[::1],F[:,::1])", reference=gumbels_reference)
def gumbels(keys: Any, out: Any) -> None:
    """out[i, j] = -log(-log(u)) of the number j of `uniform(keys[i])`: standard Gumbel noise."""
    for i in range(out.shape[0]):
        offset = keys[i]
        offset = (offset ^ (offset >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        offset = (offset ^ (offset >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        offset = offset ^ (offset >> np.uint64(31))
        for j in range(out.shape[1]):
            z = np.uint64(j) * np.uint64(0x9E3779B97F4A7C15) + offset
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            out[i, j] = -np.log(-np.log(float(z >> np.uint64(11)) * 2.0**-53))


def masks_reference(keys: Any, p: float, out: Any) -> None:
    """`masks`, on NumPy."""
    for key, row in zip(keys, out):
        row[...] = np.where(uniform(int(key), row.size) >= p, 1.0 / (1.0 - p) if p < 1.0 else 1.0, 0.0)


@loop("void(u8[::1],f8,F[:,::1])", reference=masks_reference)
def masks(keys: Any, p: float, out: Any) -> None:
    """out[i, j] = 1 / (1 - p) where the number j of `uniform(keys[i])` is at least p, else 0."""
    kept = out.dtype.type(1.0 / (1.0 - p) if p < 1.0 else 1.0)
    nothing = out.dtype.type(0.0)
    for i in range(out.shape[0]):
        offset = keys[i]
        offset = (offset ^ (offset >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        offset = (offset ^ (offset >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        offset = offset ^ (offset >> np.uint64(31))
        for j in range(out.shape[1]):
            z = np.uint64(j) * np.uint64(0x9E3779B97F4A7C15) + offset
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            out[i, j] = kept if float(z >> np.uint64(11)) * 2.0**-53 >= p else nothing
