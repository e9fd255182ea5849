"""The words on nodes: labels as Graphviz's HTML-like markup, tooltips and the caption as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from . import style
from .nodes import Node
from .style import markup, small


def shape(node: Node) -> str:
    """The shape, or nothing where the tape does not know it."""
    return str(node.shape) if node.shape is not None else ""


#: A line of a label: the words, their size in points, and whether they are bold.
Line = tuple[str, float, bool]


def lines(node: Node) -> list[Line]:
    """What a node is, and small below it what it computes, or its shape."""
    if node.kind == "ellipsis":
        return [("· · ·", 20.0, False)]
    title, below, strong = node.name, shape(node), True
    if node.kind == "input" and node.step is not None:
        title += style.subscript(node.step + 1)
    elif node.kind == "initial":
        title = (node.label or node.name).replace("_", " ") + style.subscript(0)
    elif node.kind == "group":
        title, below, strong = node.name or node.formula or node.settings, node.name and node.formula, bool(node.name)
    elif node.kind == "op":
        sign = node.settings if node.name == "getitem" else node.symbol
        title, below = (node.label.replace("_", " "), sign) if node.label else (sign, below)
        strong = bool(node.label)
    elif node.kind == "constant":
        strong = False
    return [(title, 12.0, strong), *([(below, 10.0, False)] if below else [])]


def label(node: Node) -> str:
    """The lines of a node as markup."""
    if node.kind == "ellipsis":
        return '<font point-size="20">· · ·</font>'
    return _marked(lines(node))


def parameter_lines(node: Node, uses: int) -> list[Line]:
    """Of the one true node of a parameter: its name, and how large it is and how often it is used."""
    used = f"×{uses} uses" if uses > 1 else ("1 use" if uses else "not used")
    parts = [shape(node), used, "" if node.trains else "frozen"]
    return [(node.name, 12.0, True), ("  ".join(part for part in parts if part), 10.0, False)]


def parameter(node: Node, uses: int) -> str:
    """The same as markup."""
    return _marked(parameter_lines(node, uses))


def _marked(several: list[Line]) -> str:
    (title, _, strong), *below = several
    text = f"<b>{markup(title)}</b>" if strong else markup(title)
    return "<br/>".join([text, *[small(one) for one, _, _ in below]])


def chip_lines(nodes: Sequence[Node]) -> list[str]:
    """The short names of the parameters that one node uses, two a line."""
    names = [node.name.rpartition(".")[2] for node in nodes]
    return ["  ".join(names[i : i + 2]) for i in range(0, len(names), 2)]


def chip(nodes: Sequence[Node]) -> str:
    """The label of a chip."""
    return f'<font point-size="9" color="{style.PARAMETER[1]}">{markup(chr(10).join(chip_lines(nodes)))}</font>'


def tooltip(node: Node) -> str:
    """All that is known of a node."""
    where = [node.cell or "", f"layer {node.layer}" if node.layer is not None else ""]
    where += ["reverse" if node.reverse else "", f"step {node.step + 1}" if node.step is not None else ""]
    made = (
        f"{len(node.members)} operations: {node.settings}" if len(node.members) > 1 else f"{node.name} {node.settings}"
    )
    lines = [
        (node.label or node.name or node.formula).replace("_", " "),
        node.formula,
        f"{node.shape} {node.dtype}" if node.shape is not None else "",
        " ".join(part for part in where if part),
        made.strip(),
    ]
    return "\n".join(dict.fromkeys(line for line in lines if line))


def caption(lines: list[str], colours: dict[str, str], chips: bool) -> str:
    """The title, a legend of the edges, and the totals."""
    first, *rest = lines
    legend = [f'<font color="{colour}"><b>──►</b></font> {markup(name)} state' for name, colour in colours.items()]
    if chips:
        legend.append(f'<font color="{style.PARAMETER[1]}">- - ►</font> parameters, the same at every step')
    rows = [f'<font point-size="15"><b>{markup(first)}</b></font>', "     ".join(legend), *map(small, rest)]
    cells = "".join(f"<tr><td>{row}</td></tr>" for row in rows if row)
    return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="3"><tr><td> </td></tr>{cells}</table>'
