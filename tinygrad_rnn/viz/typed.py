"""What can be typed after the options of the commands, and the functions of files that they run."""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentError, TinygradError
from .fold import chosen_steps

#: The library's own layers, by what is typed.
CELLS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}


def steps(text: str) -> int | str:
    if "," in text or "-" in text.strip("-"):
        try:
            chosen_steps(text)
        except ArgumentError as trouble:
            raise argparse.ArgumentTypeError(trouble.one_line) from None
        return text
    return positive(text)


def cells(text: str) -> list[str]:
    found = text.split(",")
    strange = [cell for cell in found if cell not in CELLS]
    if strange or len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(CELLS)}, each once, got {text!r}")
    return found


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return number


def head_and_tail(text: str) -> str | tuple[int, int]:
    if text == "auto":
        return text
    head, comma, tail = text.partition(",")
    if not (comma and head.isdecimal() and tail.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEAD,TAIL such as 2,1, got {text!r}")
    return int(head), int(tail)


def returned(
    source: str,
    tool: str,
    inside: contextlib.AbstractContextManager[Any],
    then: Callable[[Any], Any] = lambda found: found,
) -> Any:
    """What a function of a file returns: FILE.py:FUNCTION, called inside a context; or what `then` makes of it.

    Raises:
        ArgumentError: where there is no such function, or it fails: with its error, and the line.
    """
    path, _, name = source.rpartition(":")
    if not path or not name:
        raise ArgumentError(f"{tool}: no such function", expected="--from FILE.py:FUNCTION", got=source)
    folder = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, folder)  # as where a file is run
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the picture's
            function = runpy.run_path(path, run_name="graph").get(name)
            if not callable(function):
                raise ArgumentError(f"{tool}: {path} has no function {name}")
            with inside:
                found = function()
            return then(found)
    except (TinygradError, OSError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as trouble:
        where = _where(trouble, path)
        raise ArgumentError(
            f"{tool}: {name} failed: {type(trouble).__name__}: {trouble}", hint=f"look at {where}" if where else None
        ) from None
    finally:
        sys.path.remove(folder)


def _where(trouble: BaseException, path: str) -> str:
    """The line of a user's file where it went wrong; "" where it was no line of theirs."""
    if isinstance(trouble, SyntaxError):
        return f"{trouble.filename}:{trouble.lineno}"
    lines = [f"{at.filename}:{at.lineno}" for at in traceback.extract_tb(trouble.__traceback__)]
    own = [line for line in lines if not line.startswith((__file__, "<frozen"))]
    return own[-1] if own else ""
