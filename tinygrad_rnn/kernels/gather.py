"""Rows taken and rows added: the gradient of an embedding costs the rows that were looked up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .codegen.jit import loop


@loop("void(F[:,::1],i8[::1],F[:,::1])", reference=lambda rows, index, out: np.add.at(out, index, rows))
def scatter_add(rows: Any, index: Any, out: Any) -> None:
    """out[index[n]] += rows[n] for every n, in order, repeated indices adding up. `index` holds no negative numbers."""
    for n in range(index.shape[0]):
        source, target = rows[n], out[index[n]]
        for j in range(target.shape[0]):
            target[j] += source[j]


def add_at(out: Any, key: Any, values: Any) -> None:
    """out[key] += values in place, repeated integer indices adding up, for any key that NumPy takes."""
    keys = key if isinstance(key, tuple) else (key,)
    arrays = [np.asarray(k) for k in keys if isinstance(k, (np.ndarray, list))]
    masks = [k for k in arrays if k.dtype == bool]
    if len(masks) == len(arrays):
        out[key] += values
    elif not masks and len(arrays) == len(keys) <= out.ndim and out.size and out.flags.c_contiguous:
        sizes, rest = out.shape[: len(keys)], out.shape[len(keys) :]
        several = np.broadcast_arrays(*arrays)
        index = np.ravel_multi_index(several, sizes, mode="wrap").ravel()  # -1 is the last
        rows = np.broadcast_to(np.asarray(values, out.dtype), (*several[0].shape, *rest))
        row = math.prod(rest)
        scatter_add(rows.reshape(index.size, row), index, out.reshape(math.prod(sizes), row))
    else:
        np.add.at(out, key, values)
