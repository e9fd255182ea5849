"""DOT text to picture, by whichever Graphviz there is: `dot`, or the program that `graphviz-pure` brings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import FileError, MissingError

#: What each program can write.
PURE = ("svg", "png")
FORMATS = ("svg", "png", "pdf")

#: What lays a picture out.
ENGINES = ("auto", "dot", "pure", "builtin")

#: Seconds that a layout may take.
TIMEOUT = 120.0


def program(format: str, engine: str = "auto", needed: bool = True) -> str | None:
    """The path of a program that writes `format`; None where there is none and none is needed.

    Raises:
        MissingError: where one is needed and there is none, in one line.
    """
    found = shutil.which("dot") if engine in ("auto", "dot") else None
    if found is None and engine in ("auto", "pure") and format in PURE:
        found = _pure()
    if found is None and needed:
        also = " or pip install tinygrad_rnn[viz]" if format in PURE else ""
        what = {"dot": "dot, ", "pure": "graphviz-pure, "}.get(engine, "Graphviz, ")
        rest = "svg by the engine builtin, .html, .dot and .json need nothing" if format != "svg" else (
            "the engine builtin, .html, .dot and .json need nothing"
        )  # fmt: skip
        raise MissingError(
            f"graph: {format} needs {what}which is not installed: apt install graphviz, brew install graphviz, "
            f"conda install graphviz{also} ({rest})"
        )
    return found


def _pure() -> str | None:
    """The program of the wheel, beside the interpreter where a virtual environment that is not activated keeps it."""
    beside = os.pathsep.join((os.environ.get("PATH", ""), str(Path(sys.executable).parent)))
    return shutil.which("graphviz-pure", path=beside)


class LayoutTimeout(FileError):
    """A program took too long."""


def render(by: str, source: str, format: str, timeout: float = TIMEOUT) -> bytes:
    """The picture of a DOT text, by the program at a path.

    Raises:
        LayoutTimeout: where it takes more seconds than `timeout`.
        FileError: where it fails, with what it said.
    """
    command = [by, f"-T{format}"]
    done = _run(command, source, timeout)
    if done.returncode:  # dot's curves can fail where a straight line does not
        done = _run([*command, "-Gsplines=line"], source, timeout)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise FileError(f"graph: {Path(command[0]).name} failed", got=said[0] if said else f"code {done.returncode}")
    return done.stdout


def _run(command: list[str], source: str, timeout: float) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=source.encode(), capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise LayoutTimeout(
            f"graph: the layout took more than {timeout:g} s", hint="a coarser level, a fold, or the engine builtin"
        ) from None
    except OSError as trouble:
        raise FileError(f"graph: cannot run {command[0]}: {trouble.strerror or trouble}") from None
