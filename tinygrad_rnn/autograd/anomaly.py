"""The first NaN or infinity: which op, which numbers, whose line, and where in a recurrent net."""

from __future__ import annotations

import linecache
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import AnomalyError
from .tape import Node, Watcher, input_names, thread

_PACKAGE = __name__.partition(".")[0]


class detect_anomaly(Watcher):
    """Inside, the first NaN or infinity in forward or backward is an error that tells where it comes from.

    An op may pass on an infinity that it was given (a mask of minus infinity is no accident), but no NaN. Every
    operation is looked at, so this is for finding an error, not for training. A backward run inside tells the line of
    the forward pass too, where that ran inside as well. NumPy's own warnings are off inside. Holds for this thread.

    Raises:
        AnomalyError: naming the op, the shapes and ranges of what it was given, the user's line that called it and,
            inside a recurrent layer, the layer and the time step.

    >>> import tinygrad_rnn as tg
    >>> with tg.detect_anomaly():
    ...     tg.log(tg.tensor([1.0, 0.0]))
    Traceback (most recent call last):
    tinygrad_rnn.errors.AnomalyError: log: -inf in the result, 1 of 2 elements, the first at [1]
      expected finite numbers
      got x (2,) float32 from 0 to 1
      hint: look at ...
    """

    def __init__(self) -> None:
        self.lines: weakref.WeakKeyDictionary[Node, str] = weakref.WeakKeyDictionary()
        self.backward = False  # while a backward that is recorded runs: gradients are looked at, not each operation
        self._before: list[tuple[detect_anomaly | None, np.errstate]] = []

    def __enter__(self) -> detect_anomaly:
        quiet = np.errstate(all="ignore")
        quiet.__enter__()
        self._before.append((thread.state.anomaly, quiet))
        thread.state.anomaly = self
        return super().__enter__()

    def __exit__(self, *trouble: object) -> None:
        thread.state.anomaly, quiet = self._before.pop()
        quiet.__exit__(None, None, None)
        super().__exit__(*trouble)

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        """Look at an operation's output."""
        self.lines[node] = calling_line()
        trouble = None if self.backward else _trouble(y, [x._array for x in inputs if x is not None])
        if trouble is not None:
            assert node.op is not None
            names = input_names(node.op, len(inputs))
            given = [f"{name} {_range(x._array)}" for name, x in zip(names, inputs) if x is not None]
            raise AnomalyError(
                f"{node.title}: {trouble}".format(where="the result"),
                expected="finite numbers",
                got=", ".join(given),
                hint=f"look at {self.lines[node]}",
            )

    def see_gradient(self, node: Node, i: int | None, part: Any, g: Any) -> None:
        """Look at the gradient `part` that `node` sends to its input i, or (None) starts with, given its own g."""
        array = np.asarray(part)
        trouble = _trouble(array, [] if i is None else [np.asarray(g)])
        if trouble is None:
            return
        if i is None:
            what, got = "the gradient that starts it", f"a gradient {_range(array)}"
        else:
            assert node.op is not None
            name = input_names(node.op, i + 1)[i]
            what, got = f"the gradient for {name}", f"{_range(array)}; the incoming gradient is {_range(np.asarray(g))}"
        line = self.lines.get(node)
        trouble_line = f"backward of {node.title}: {trouble}".format(where=what)
        if node.place is not None:
            trouble_line += f", in {node.place}"
        raise AnomalyError(
            trouble_line,
            expected="finite numbers",
            got=got,
            hint=f"look at {line}" if line else "run the forward pass inside detect_anomaly() too, to see its line",
        )


def _trouble(y: np.ndarray[Any, Any], given: Sequence[np.ndarray[Any, Any]]) -> str | None:
    """What is wrong with y, in words, with a place for where; None where it holds nothing new that is not finite."""
    if y.dtype.kind != "f":
        return None
    bad = np.isnan(y)
    if not bad.any():
        bad = np.isinf(y)
        if not bad.any() or any(a.dtype.kind == "f" and np.isinf(a).any() for a in given):
            return None
    first = tuple(int(n) for n in np.argwhere(bad)[0])
    name = "NaN" if np.isnan(y[first]) else str(y[first])
    at = f", the first at {list(first)}" if first else ""
    came = any(a.dtype.kind == "f" and np.isnan(a).any() for a in given)
    return f"{name} in {{where}}, {int(bad.sum())} of {y.size} elements{at}" + (", as it was given NaN" if came else "")


def _range(a: np.ndarray[Any, Any]) -> str:
    """An array's shape, dtype and range."""
    text = f"{a.shape} {a.dtype}"
    finite = a[np.isfinite(a)]
    if finite.size:
        low, high = f"{finite.min():.4g}", f"{finite.max():.4g}"
        text += f" from {low} to {high}" if low != high else f" of {low}"
    strange = a.size - finite.size
    return text + (f" and {strange} not finite" if strange else "")


def calling_line() -> str:
    """The innermost line outside this library that is being run; with it the cell's equation, where one is."""
    frame: Any = sys._getframe(1)
    equation = ""
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if name is not None and name != _PACKAGE and not name.startswith(f"{_PACKAGE}."):
            return _shown(frame) + equation
        if not equation and name is not None and name.startswith(f"{_PACKAGE}.nn."):
            equation = f" (in {_shown(frame)})"
        frame = frame.f_back
    return equation.strip(" ()")


def _shown(frame: Any) -> str:
    file, number = frame.f_code.co_filename, frame.f_lineno
    return f"{file}:{number}: {linecache.getline(file, number, frame.f_globals).strip()}"
