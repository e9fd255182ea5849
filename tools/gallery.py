"""The pictures of README, each from the command that stands beside it there. Run it where something drawn has changed.

python tools/gallery.py          # writes docs/images/*.svg
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from tinygrad_rnn.cli import main

HOME = Path(__file__).resolve().parent.parent
IMAGES = HOME / "docs" / "images"

_COMMAND = re.compile(r"^tinygrad-rnn (graph .*-o ([\w-]+\.svg))$", re.M)


def commands() -> dict[str, list[str]]:
    """The arguments of the commands in README that draw a picture which it shows, by the picture's name."""
    text = (HOME / "README.md").read_text(encoding="utf-8")
    found = {name: shlex.split(command) for command, name in _COMMAND.findall(text)}
    return {name: arguments for name, arguments in found.items() if f"docs/images/{name}" in text}


def draw(name: str, arguments: list[str], folder: Path) -> None:
    """One picture."""
    code = main([*arguments[:-1], str(folder / name)])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    for name, arguments in commands().items():
        draw(name, arguments, IMAGES)
        print(f"docs/images/{name}", file=sys.stderr)
