"""Rows taken and rows added: the gradient of an embedding costs the rows that were looked up."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import loop


@loop("void(F[:,::1],i8[::1],F[:,::1])", twin=lambda rows, index, out: np.add.at(out, index, rows))
def scatter_add(rows: Any, index: Any, out: Any) -> None:
    """out[index[n]] += rows[n] for every n, in order, repeated indices adding up. `index` holds no negative numbers."""
    for n in range(index.shape[0]):
        row = index[n]
        for j in range(out.shape[1]):
            out[row, j] += rows[n, j]


def add_at(out: Any, key: Any, values: Any) -> None:
    """out[key] += values in place, repeated integer indices adding up, for any key that NumPy takes."""
    keys = key if isinstance(key, tuple) else (key,)
    arrays = [k for k in keys if isinstance(k, (np.ndarray, list))]
    if not arrays or all(np.asarray(k).dtype == bool for k in arrays):
        out[key] += values
    elif len(keys) == 1 and out.ndim and out.flags.c_contiguous:
        index = np.asarray(keys[0]).ravel().astype(np.int64, copy=False)
        row = int(np.prod(out.shape[1:]))
        index = np.where(index < 0, index + len(out), index)
        scatter_add(np.asarray(values, out.dtype).reshape(index.size, row), index, out.reshape(len(out), row))
    else:
        np.add.at(out, key, values)
