"""What an engine showed, compared with the eager one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from program_run import Seen

#: How far two numbers may lie apart, of the largest of a tensor.
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


class Difference(NamedTuple):
    """Something that an engine does otherwise; `size` of the numbers, 1 for anything else."""

    kind: str
    engine: str
    call: int
    what: str
    size: float = 1.0


def _apart(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], floor: float) -> float:
    """The largest difference, of the largest element of b; infinite where one is a number and the other is not."""
    if a.dtype.kind not in "fiub" or a.size == 0:
        return 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    both = np.isfinite(b)
    if not np.array_equal(np.where(both, 0.0, b), np.where(np.isfinite(a), 0.0, a), equal_nan=True):
        return float("inf")
    if not both.any():
        return 0.0
    return float(np.abs(a - b)[both].max() / max(np.abs(b)[both].max(), floor))


def _numbers(
    kind: str, engine: str, call: int, got: dict[str, Any], want: dict[str, Any], tolerance: float
) -> list[Difference]:
    found = []
    if got.keys() != want.keys():
        return [Difference(kind, engine, call, f"{sorted(got)} are there, not {sorted(want)}")]
    arrays = [a for a in want.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.size]
    finite = [np.abs(a[np.isfinite(a)]).max(initial=0.0) for a in arrays]
    floor = 1e-3 * max([1.0, *map(float, finite)] if kind != "value" else [10.0])
    for name, b in want.items():
        a = got[name]
        if not isinstance(b, np.ndarray):
            if isinstance(a, np.ndarray) and b is None:
                if a.any():
                    found.append(Difference(kind, engine, call, f"{name} is not None but\n{a}"))
            elif a != b:
                found.append(Difference(kind, engine, call, f"{name} is {a}, not {b}"))
        elif a is None:
            found.append(Difference(kind, engine, call, f"{name} is None, not\n{b}"))
        elif a.shape != b.shape or a.dtype != b.dtype:
            found.append(Difference(kind, engine, call, f"{name} is {a.dtype} {a.shape}, not {b.dtype} {b.shape}"))
        else:
            size = _apart(a, b, floor)
            if size > tolerance:
                found.append(
                    Difference(kind, engine, call, f"{name} is off by {size:.2g} of the largest:\n{a}\nnot\n{b}", size)
                )
    return found


def compared(engine: str, got: list[Seen], want: list[Seen], dtypes: list[str]) -> list[Difference]:
    """All that differs, call by call."""
    found: list[Difference] = []
    for i, (one, two) in enumerate(zip(got, want)):
        if one.refused:
            continue
        if one.error != two.error:
            kind = "internal error" if one.internal else "exception"
            found.append(
                Difference(
                    kind,
                    engine,
                    i,
                    f"{one.error or 'no exception'} ({one.text}), not {two.error or 'none'} ({two.text})",
                )
            )
            continue
        tolerance = TOLERANCE[dtypes[i]]
        found += _numbers("value", engine, i, one.values, two.values, tolerance)
        found += _numbers("gradient", engine, i, one.gradients, two.gradients, tolerance)
        found += _numbers("second derivative", engine, i, one.second, two.second, 100 * tolerance)
        for kind in ("needs", "state", "printed", "warned"):
            if getattr(one, kind) != getattr(two, kind):
                found.append(Difference(kind, engine, i, f"{getattr(one, kind)}\nnot\n{getattr(two, kind)}"))
    return found
