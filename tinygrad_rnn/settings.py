"""What can be set, in one place: default dtype, threads, the switch to plain NumPy, and the cache folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ArgumentError, DtypeError

__version__ = "0.1.0"

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)

#: The dtype that Python floats and lists become.
default_dtype = FLOAT32

#: False where the environment has TINYGRAD_RNN_JIT=0: everything then runs on the NumPy references.
jit_enabled = os.environ.get("TINYGRAD_RNN_JIT", "1") != "0"

_threads: int | None = None


def floating_dtype(dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as one of the two floating dtypes, float32 or float64.

    Raises:
        DtypeError: for any other dtype.
    """
    found = np.dtype(dtype)
    if found not in (FLOAT32, FLOAT64):
        raise DtypeError("dtype: not a floating dtype of this library", expected="float32 or float64", got=found)
    checked: np.dtype[Any] = found
    return checked


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype that Python numbers and lists become: float32 (at the start) or float64."""
    global default_dtype
    default_dtype = floating_dtype(dtype)


def get_default_dtype() -> np.dtype[Any]:
    """Return the dtype that Python numbers and lists become."""
    return default_dtype


def set_num_threads(n: int) -> None:
    """Set how many threads matrix products may use, in this process: NumPy's BLAS is told the same number."""
    global _threads
    if not isinstance(n, int) or n < 1:
        raise ArgumentError("set_num_threads: not a number of threads", expected="an int of 1 or more", got=repr(n))
    import threadpoolctl

    threadpoolctl.threadpool_limits(n, user_api="blas")
    _threads = n


def get_num_threads() -> int:
    """Return the number of threads set, or where none was set the number of processors this process may use."""
    if _threads is not None:
        return _threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path:
    """Return the folder of compiled kernels: `$TINYGRAD_RNN_CACHE`, or one in the user's folder for caches.

    It need not exist. There is one for each version of this library and of Python.
    """
    given = os.environ.get("TINYGRAD_RNN_CACHE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tinygrad_rnn" / f"{__version__}-python{sys.version_info[0]}.{sys.version_info[1]}"
