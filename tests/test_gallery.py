"""README's pictures are what the commands beside them draw today."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent
GALLERY = runpy.run_path(str(HOME / "tools" / "gallery.py"))


def shape(svg):
    """What a picture shows, but for numbers that were measured, and their colours: machines round them differently."""
    svg = re.sub(r'"#[0-9A-F]{6}"', '"#"', svg)
    return re.sub(r"-?\d+\.?\d*(e[-+]\d+)?", "0", svg)


def test_every_picture_of_readme_has_a_command():
    text = (HOME / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"docs/images/([\w.-]+)", text))
    assert shown == set(GALLERY["commands"]()) == {path.name for path in (HOME / "docs" / "images").iterdir()}


@pytest.mark.parametrize("name", sorted(GALLERY["commands"]()))
def test_it_is_what_the_command_draws(name, tmp_path):
    GALLERY["draw"](name, GALLERY["commands"]()[name], tmp_path)
    made, kept = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, HOME / "docs" / "images"))
    assert shape(made) == shape(kept)
