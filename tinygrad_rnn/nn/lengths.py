"""Lengths of the rows of a batch, as they are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DtypeError, ShapeError


def checked_lengths(lengths: Any, steps: int, batch_size: int, name: str) -> np.ndarray[Any, Any]:
    """The lengths as an int64 array (B,).

    Raises:
        DtypeError: where they are no integers.
        ShapeError: where they are not one a row, below 0, or longer than x.
    """
    try:
        found = np.asarray(lengths)
    except ValueError:
        raise ShapeError(f"{name}: one length for each row", expected=(batch_size,), got=repr(lengths)[:60]) from None
    if found.dtype.kind not in "iu" and found.size:
        raise DtypeError(f"{name}: lengths are whole numbers", expected="integers", got=found.dtype)
    if found.shape != (batch_size,):
        raise ShapeError(f"{name}: one length for each row", expected=(batch_size,), got=found.shape)
    wrong = np.flatnonzero((found < 0) | (found > steps))
    if wrong.size:
        row = int(wrong[0])
        raise ShapeError(
            f"{name}: the length of row {row} does not fit", expected=f"0 to {steps}, the steps of x", got=found[row]
        )
    return found.astype(np.int64)
