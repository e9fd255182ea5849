"""The words on nodes: labels as Graphviz's HTML-like markup, tooltips and the caption as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from . import style
from .colour import is_dark
from .measure import Statistics
from .nodes import Graph, Node
from .style import markup, small
from .view import View


def shape(node: Node) -> str:
    """The shape, or nothing where the tape does not know it."""
    return str(node.shape) if node.shape is not None else ""


def escaped(text: str) -> str:
    """Text inside XML or HTML."""
    return escape(style.clean(text))


def document(title: str, style: str, body: str) -> str:
    """A page of HTML that fetches nothing; `title` is plain text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""


#: A line of a label: the words, their size in points, and whether they are bold.
Line = tuple[str, float, bool]


def lines(node: Node, trouble: str = "") -> list[Line]:
    """What a node is, and small below it what it computes, or its shape; and a word for what is not finite."""
    if node.kind == "ellipsis":
        norms = [] if node.within is None else [f"gradient {node.within[0]:.1e}", f"to {node.within[1]:.1e}"]
        return [("· · ·", 20.0, False), *[(line, 10.0, False) for line in norms]]
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
    found = [(title, 12.0, strong), *([(below, 10.0, False)] if below else [])]
    return [*found, (trouble, 12.0, True)] if trouble else found


def label(node: Node, faint: str = style.FAINT, trouble: str = "") -> str:
    """The lines of a node as markup."""
    found = lines(node, trouble)
    if node.kind == "ellipsis":
        return "<br/>".join(['<font point-size="20">· · ·</font>', *[small(text) for text, _, _ in found[1:]]])
    return _marked(found, faint)


def parameter_lines(node: Node, uses: int) -> list[Line]:
    """Of the one true node of a parameter: its name, and how large it is and how often it is used."""
    used = f"×{uses} uses" if uses > 1 else ("1 use" if uses else "not used")
    parts = [shape(node), used, "" if node.trains else "frozen"]
    norms = [f"norm {node.seen.values.norm:.3g}" if node.seen is not None else ""]
    norms += [f"gradient {node.gradient.norm:.2g}" if node.gradient is not None else ""]
    below = ["  ".join(part for part in several if part) for several in (parts, norms)]
    return [(node.name, 12.0, True), *[(line, 10.0, False) for line in below if line]]


def parameter(node: Node, uses: int, faint: str = style.FAINT) -> str:
    """The same as markup."""
    return _marked(parameter_lines(node, uses), faint)


def _marked(several: list[Line], faint: str) -> str:
    found = []
    for text, size, strong in several:
        part = (markup(text) or " ") if size > 10.0 else small(text, faint)
        found.append(f"<b>{part}</b>" if strong else part)
    return "<br/>".join(found)


def frame(node: Node, graph: Graph) -> str:
    """The title of the frame around a node's cell."""
    title = (node.cell or "").removesuffix("Cell")
    title += f", layer {node.layer}" if graph.is_one_of_several(node) else ""
    return title + (", reverse" if node.reverse else "") + (", gradient" if node.derivative else "")


def chip_lines(nodes: Sequence[Node], short: dict[str, str]) -> list[str]:
    """The short names of the parameters that one node uses, two a line."""
    names = [short[node.id] for node in nodes]
    return ["  ".join(names[i : i + 2]) for i in range(0, len(names), 2)]


def chip(nodes: Sequence[Node], short: dict[str, str]) -> str:
    """The label of a chip."""
    text = markup(chr(10).join(chip_lines(nodes, short)))
    return f'<font point-size="9" color="{style.PARAMETER[1]}">{text}</font>'


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
        *numbers(node),
    ]
    return "\n".join(dict.fromkeys(line for line in lines if line))


def numbers(node: Node) -> list[str]:
    """What was measured, in words."""
    found = []
    if node.seen is not None:
        found.append(f"value: {_in_words(node.seen.values)}")
        if node.seen.saturated is not None:
            found.append(f"saturated: {node.seen.saturated:.0%} of units")
    if node.gradient is not None:
        found.append(f"gradient: {_in_words(node.gradient)}")
    if node.within is not None:
        found.append(f"gradients of the states inside: norms from {node.within[0]:.3e} to {node.within[1]:.3e}")
    return found


def _in_words(of: Statistics) -> str:
    words = f"norm {of.norm:.3e}, mean {of.mean:.3g}, std {of.std:.3g}, from {of.min:.3g} to {of.max:.3g}"
    strange = [f"{count} {name}" for count, name in ((of.nan, "NaN"), (of.inf, "infinite")) if count]
    return ", ".join([words, *strange])


def caption(view: View) -> str:
    """The title, a legend of edges and colours, and the totals."""
    first, *rest = view.caption
    legend = [
        f'<font color="{colour}"><b>{"- - ►" if dashed else "──►"}</b></font> {markup(text)}'
        for colour, text, dashed in view.legend()
    ]
    rows = [f'<font point-size="15"><b>{markup(first)}</b></font>', "     ".join(legend)]
    cells = "".join(f"<tr><td>{row}</td></tr>" for row in rows if row)
    if view.scale is not None:
        marks = "".join(
            f'<td bgcolor="{colour}" width="34"><font point-size="9" '
            f'color="{"#FFFFFF" if is_dark(colour) else style.INK}">{markup(text) or " "}</font></td>'
            for colour, text in view.scale.marks()
        )
        bar = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="3"><tr><td>{markup(view.scale.title)}'
        cells += f"<tr><td>{bar}  </td>{marks}</tr></table></td></tr>"
    cells += "".join(f"<tr><td>{small(row)}</td></tr>" for row in rest)
    return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="3"><tr><td> </td></tr>{cells}</table>'
