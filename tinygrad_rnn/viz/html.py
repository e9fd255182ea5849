"""The picture as a page: one HTML file in plain JavaScript that works offline and fetches nothing.

The page holds the whole graph at each level as data; the scripts in `page/` fold, open, lay out and draw it. What is
the same at every step is said once, as a stamp. Before they run, and where no script may, the page shows the picture
of the built-in layout.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

from . import colour, style, words
from .colour import Scale, measured
from .layout import is_given
from .levels import at_level
from .nodes import Graph, Node
from .place import Places, room
from .svg import to_svg
from .view import View

#: The parts of the script, which are one in the page.
SCRIPTS = ("state", "visible", "grid", "draw", "charts", "page")

#: Heat maps show at most so many units of a layer.
MOST_UNITS = 64


def to_html(view: View, ops: Graph, level: str, hidden: Sequence[int], color: str, totals: str) -> str:
    """The page of a picture.

    Args:
        view: what is shown at first, and where no script runs.
        ops: the graph of all operations.
        level: that of the view.
        hidden: the steps that are folded at first.
        color: what colours mean at first.
        totals: how much there is, in words.
    """
    here = files(__package__) / "page"
    page = (here / "page.html").read_text(encoding="utf-8")
    found = style.in_json(_data(view, ops, level, hidden, color, totals))
    data = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    parts = {
        "title": words.escaped(view.caption[0]),
        "style": (here / "page.css").read_text(encoding="utf-8"),
        "picture": to_svg(view),
        "data": data.replace("<", "\\u003c"),  # a label may hold the end of a script
        "script": "\n".join((here / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
    }
    for name, text in parts.items():
        before, mark, after = page.partition(f"<!--{name}-->")
        assert mark, name
        page = before + text + after
    return page


def _data(view: View, ops: Graph, level: str, hidden: Sequence[int], color: str, totals: str) -> dict[str, Any]:
    gates, cells = at_level(ops, "gate"), at_level(ops, "cell")
    graphs = {"op": at_level(ops, "op"), "gate": gates, "layer": at_level(ops, "layer")}
    stamps = _Stamps(view)
    cell_of = {
        member: i
        for i, node in enumerate(cells.nodes)
        for member in node.members
        if node.kind == "group" and node.step is not None
    }
    levels = {name: stamps.level(graph) for name, graph in graphs.items()}
    levels["gate"]["cell"] = [
        cell_of.get(node.members[0]) if node.kind in ("group", "op") and node.members else None for node in gates.nodes
    ]
    levels["cell"] = stamps.level(cells)
    known = [what for what in colour.COLOURS[1:] if any(measured(n, what) or _share(n, what) for n in gates.nodes)]
    result = (ops.nodes[-1].label or "").replace("_", " ")
    scales = {what: Scale.of(gates.nodes, what, result) for what in known}
    names = list(dict.fromkeys(e.name for graph in graphs.values() for e in graph.edges if e.kind == "recurrent"))
    return {
        "caption": view.caption,
        "totals": totals,
        "level": level,
        "color": color,
        "hidden": list(hidden),
        "steps": ops.steps,
        "nets": ops.nets,
        "lanes": [list(lane) for lane in stamps.lanes],
        "states": {name: [tint, style.REVERSED.get(tint, tint)] for name, tint in style.states(names).items()},
        "scales": {what: {"low": s.low, "high": s.high, "title": s.title} for what, s in scales.items()},
        "ramp": colour.RAMP,
        "strange": colour.STRANGE,
        "parameter": style.PARAMETER,
        "params": view.params != "none",
        "short": view.short,
        "zero": colour.ZERO,
        "shared": sorted(ops.shared),
        "uses": view.uses,
        "stamps": stamps.all,
        "levels": levels,
        "units": _units(gates),
    }


def _share(node: Node, what: str) -> bool:
    return what == "saturation" and node.seen is not None and node.seen.saturated is not None


class _Stamps:
    """Nodes as columns of numbers, and what many of them share."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.all: list[dict[str, Any]] = []
        self.number: dict[str, int] = {}
        self.lanes: list[tuple[int, int, bool]] = []

    def level(self, graph: Graph) -> dict[str, Any]:
        """One level: nodes as parallel lists, and edges between them by number."""
        places, number = Places(replace(self.view, graph=graph)), {node.id: i for i, node in enumerate(graph.nodes)}
        grid, outside = places.grid, places.outside
        starts = {node.id for node in grid.before}
        self.lanes = sorted({*self.lanes, *[lane for lane, _ in grid.rows.values()]})
        self.nets = graph.nets
        kinds = ("data", "recurrent", "parameter")
        nodes = graph.nodes
        return {
            "id": [style.clean(node.id) for node in nodes],
            "stamp": [
                self._stamp(graph, node, grid.rows.get(node.id, (None, outside.get(node.id, 0))), node.id in starts)
                for node in nodes
            ],
            "step": [node.step for node in nodes],
            "net": [self.nets.index(node.net) for node in nodes],
            "value": _numbers(node.seen.values if node.seen else None for node in nodes),
            "grad": _numbers(node.gradient for node in nodes),
            "saturation": [_short(node.seen.saturated) if node.seen else None for node in nodes],
            "edges": [
                [number[e.source], number[e.target], kinds.index(e.kind), e.name * (e.kind == "recurrent"), e.times]
                for e in graph.edges
            ],
        }  # fmt: skip

    def _stamp(self, graph: Graph, node: Node, row: tuple[Any, int], start: bool) -> int:
        lines = words.parameter_lines(node, self.view.uses.get(node.id, 0)) if node.kind == "parameter" else (
            words.lines(node)
        )  # fmt: skip
        width, height = room(lines)
        if node.kind == "input" and node.step is not None:
            lines = [(node.name, 12.0, True), *lines[1:]]  # the page counts
        fill, border = style.paint(node, self.view.states)
        made = {
            "kind": node.kind,
            "name": (node.label or node.name or node.formula).replace("_", " "),
            "lines": [[style.clean(text), size, int(strong)] for text, size, strong in lines],
            "w": round(width, 1),
            "h": round(height, 1),
            "lane": list(row[0]) if row[0] is not None else list(node.lane) if node.layer is not None else None,
            "depth": row[1],
            "given": is_given(node),
            "start": start,
            "leftward": node.leftward,
            "fill": fill,
            "border": border,
            "dashed": bool(node.derivative) or not node.trains,
            "frame": words.frame(node, graph) if node.layer is not None else "",
            "gate": node.label or "",
            "shape": f"{words.shape(node)} {node.dtype or ''}".strip(),
            "formula": node.formula,
            "made": f"{len(node.members)} operations: {node.settings}" if len(node.members) > 1 else (
                f"{node.name} {node.settings}".strip()
            ),
        }  # fmt: skip
        key = json.dumps(made)
        if key not in self.number:
            self.number[key] = len(self.all)
            self.all.append(made)
        return self.number[key]


def _numbers(several: Iterable[Any]) -> list[Any]:
    """Statistics as [norm, mean, std, min, max, NaN, infinite], or None."""
    return [None if s is None else [*map(_short, (s.norm, s.mean, s.std, s.min, s.max)), s.nan, s.inf] for s in several]


def _short(number: float | None) -> float | None:
    """A number to four digits."""
    return None if number is None else float(f"{number:.4g}")


def _units(graph: Graph) -> list[dict[str, Any]]:
    """For each named value of a layer its units over time, as bytes: from 0 to 254 between its ends, 255 for NaN."""
    found: dict[tuple[Any, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.step is not None and node.seen is not None and node.seen.units is not None and not node.derivative:
            found.setdefault((node.net, node.lane, node.label), []).append(node)
    maps = []
    for (net, _, label), nodes in found.items():
        nodes = sorted(nodes, key=lambda node: node.step or 0)
        rows = [(node.seen.units or ())[:MOST_UNITS] for node in nodes if node.seen is not None]
        numbers = [number for row in rows for number in row if number == number and abs(number) != float("inf")]
        high = max(1.0, *map(abs, numbers)) if numbers else 1.0
        low = 0.0 if all(number >= 0.0 for number in numbers) else -high
        scaled = bytes(
            round(254 * (min(max(number, low), high) - low) / (high - low)) if number == number else 255
            for row in rows for number in row
        )  # fmt: skip
        maps.append(
            {
                "net": graph.nets.index(net),
                "lane": list(nodes[0].lane),
                "gate": label,
                "frame": words.frame(nodes[0], graph),
                "units": len(rows[0]),
                "of": len((nodes[0].seen.units if nodes[0].seen else None) or ()),
                "steps": [node.step for node in nodes],
                "low": low,
                "high": high,
                "bytes": base64.b64encode(scaled).decode(),
            }
        )
    return maps
