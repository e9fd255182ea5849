"""How things look: colours that colour-blind readers can tell apart (Okabe and Ito 2008), and text made safe."""

from __future__ import annotations

import math
from typing import Any

from .nodes import Node

INK, FAINT, RULE = "#1F2933", "#616E7C", "#9AA5B1"
FONT = "Arial"  # one name: for a list graphviz-pure has no widths

#: Recurrent edges, by the state that they carry. Others take the rest in turn.
STATES = {"cell": "#D55E00", "hidden": "#0072B2"}
OTHERS = ("#009E73", "#AA4499", "#8A6D00")
#: The same where time runs backward.
REVERSED = {"#D55E00": "#8A3D00", "#0072B2": "#56B4E9"}

#: Fill and border.
INPUT = ("#E6F5F0", "#009E73")
PARAMETER = ("#FBF1F7", "#B0578D")
PLAIN = ("#FFFFFF", "#52606D")
GATE = ("#F1F4F7", "#52606D")
TINTS = {"cell": "#FCEBDD", "hidden": "#E1EFF8"}
CONSTANT = ("#FFFFFF", RULE)
GRADIENT = ("#F3EEF9", "#6B4E9B")


def states(names: list[str]) -> dict[str, str]:
    """A colour for each state."""
    free = iter(OTHERS * (1 + len(names)))
    return {name: STATES.get(name) or next(free) for name in names}


def paint(node: Node, colours: dict[str, str]) -> tuple[str, str]:
    """Fill and border of a node."""
    if node.kind == "parameter":
        return PARAMETER
    if node.kind == "input":
        return INPUT
    if node.kind == "constant":
        return CONSTANT
    if node.derivative:
        return GRADIENT
    if node.label in colours:
        return TINTS.get(node.label or "", "#FFFFFF"), colours[node.label or ""]
    return GATE if node.kind == "group" and node.label else PLAIN


def quoted(text: str, readings: int = 1) -> str:
    """Text as a DOT string that shows exactly this text, where dot replaces escapes as often as `readings` says."""
    safe = clean(text).replace("&", "&amp;").replace("\\", "\\" * 2**readings).replace('"', '\\"')
    return '"' + safe.replace("\n", "\\n") + '"'


def tooltip(text: str) -> str:
    """The attribute of that name, in which dot replaces escapes twice."""
    return f"tooltip={quoted(text, readings=2)}"


def identifier(text: str) -> str:
    """Text as the DOT name of a node: a backslash is itself there, but may not end the string."""
    return '"' + clean(text).replace("\\", "∖").replace('"', '\\"').replace("\n", " ") + '"'


def markup(text: str) -> str:
    """Text inside an HTML-like label, where dot replaces \\N and the like as it does in a plain one."""
    safe = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return safe.replace("\\", "\\\\").replace("\n", "<br/>")


def clean(text: str) -> str:
    """Without what XML forbids."""
    return "".join(
        c for c in text if c in "\n\t" or (ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF and ord(c) != 127)
    )


def in_json(value: Any) -> Any:
    """The same as JSON has it: text without what XML forbids, and numbers that are not finite as text."""
    if isinstance(value, dict):
        return {in_json(name): in_json(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_json(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return clean(value) if isinstance(value, str) else value


def subscript(number: int) -> str:
    """A number in subscript digits."""
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def small(text: str, colour: str = FAINT) -> str:
    """Text in small letters, inside an HTML-like label."""
    return f'<font point-size="10" color="{colour}">{markup(text)}</font>'
