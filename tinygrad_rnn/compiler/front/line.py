"""Which line of a user's code is running."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

#: The folder of the library.
LIBRARY = str(Path(__file__).parent.parent.parent)


def line_of(frame: Any) -> str:
    """The file and line of a frame."""
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def users_line() -> str:
    """The innermost line of code that is not the library's own, or else of a cell's step."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name, function = frame.f_code.co_filename, frame.f_code.co_name
        if not name.startswith((LIBRARY, "<tinygrad_rnn")) or function == "step":
            return line_of(frame)
        frame = frame.f_back
    return ""
