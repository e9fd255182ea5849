"""The graph as text in Graphviz's DOT language. The same graph gives the same bytes.

Two things that dot does not say. It minds an invisible edge that orders two nodes of a rank only where the edge stands
in the very cluster of both; between clusters it ignores it, so the columns are kept in order by an axis of time that
lies outside of them. And an edge that crosses ranks without ranking them wanders: the hidden state's way down to the
next step is therefore laid out, one point a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from . import style, words
from .layout import Grid, Row, is_given
from .nodes import Edge, Lane, Node
from .style import identifier, quoted, tooltip
from .view import View

PARAMS = ("ghost", "once", "none")

_HEAD = f"""\
  graph [rankdir=BT newrank=true remincross=false nodesep=0.2 ranksep=0.36 pad=0.25 bgcolor="#FFFFFF" labelloc=b
    fontname="{style.FONT}" fontsize=12 fontcolor="{style.INK}"]
  node [shape=box style="rounded,filled" margin="0.14,0.055" height=0.36 width=0.4 penwidth=1.2
    fontname="{style.FONT}" fontsize=12 fontcolor="{style.INK}" color="{style.INK}" fillcolor="#FFFFFF"]
  edge [color="{style.RULE}" penwidth=1.1 arrowsize=0.6
    fontname="{style.FONT}" fontsize=10 fontcolor="{style.FAINT}"]"""

_TIME_FRAME = 'label="" style=rounded color="#E4E7EB" margin=10'
_CELL_FRAME = (
    f'style="rounded,filled" color="#CBD2D9" fillcolor="#FAFBFC" labelloc=t labeljust=l fontcolor="{style.FAINT}" '
    "fontsize=11 margin=9"
)
_PARAMETER_FRAME = (
    f'style="rounded,dashed" color="{style.PARAMETER[1]}" labelloc=t fontcolor="{style.PARAMETER[1]}" '
    "fontsize=11 margin=10"
)

_GRADIENT = 'style="rounded,filled,dashed" '
_POINT = 'shape=point width=0 height=0 label="" style=invis'

#: A column of parameters has at least this many.
_SHORTEST = 4

#: Names of the clusters around something, from the outermost.
Path = tuple[str, ...]


def to_dot(view: View) -> str:
    """The DOT text of a graph."""
    return _Drawing(view).text()


class _Drawing:
    """Statements by the cluster they stand in."""

    def __init__(self, view: View) -> None:
        self.view, self.graph, self.grid = view, view.graph, Grid(view.graph)
        self.nodes = view.graph.by_id
        self.statements: dict[Path, list[str]] = {(): []}
        self.path_of: dict[str, Path] = {}
        self.beside: dict[str, list[str]] = {}
        self.joined: set[tuple[str, str]] = set()
        self.parameters, recurrent = view.parameters, view.recurrent
        straight = " splines=line" if view.straight else ""
        self.statements[()].append(f"{_HEAD}\n  graph [label=<{words.caption(view)}>{straight}]")
        self._place_nodes()
        self._parameters()
        self._axis()
        ways = self._ways(recurrent)
        self._chips(view.chips, {end for edge in recurrent for end in self._ends_in_one_row(edge)})
        self._edges(view.params == "once")
        for pair, edges in _parallel(recurrent).items():
            self._recurrent(edges, ways.get(pair, []) or self._crossed(edges[0], ways))
        self._order_rows(ways)

    def text(self) -> str:
        return "digraph tinygrad_rnn {\n" + "\n".join(self._block((), "  ")) + "\n}\n"

    def _block(self, path: Path, indent: str) -> list[str]:
        lines = [indent + line.strip() if path else line for line in self.statements[path]]
        for inner in self.statements:
            if len(inner) == len(path) + 1 and inner[: len(path)] == path:
                lines += [f"{indent}subgraph {identifier(f'cluster {inner[-1]}')} {{"]
                lines += [*self._block(inner, indent + "  "), f"{indent}}}"]
        return lines

    # --- Saying things ---

    def _cluster(self, path: Path, attributes: str) -> None:
        if path not in self.statements:
            self.statements[path] = [attributes]

    def _node(self, id: str, path: Path, attributes: str) -> None:
        self.path_of[id] = path
        self.statements[path].append(f"  {identifier(id)} [{attributes}]")

    def _edge(self, source: str, target: str, attributes: str = "") -> None:
        """An edge, in the innermost cluster that holds both ends."""
        self.joined.add((source, target))
        path: Path = ()
        for one, other in zip(self.path_of[source], self.path_of[target]):
            if one != other:
                break
            path = (*path, one)
        shown = f" [{attributes}]" if attributes else ""
        self.statements[path].append(f"  {identifier(source)} -> {identifier(target)}{shown}")

    def _same_rank(self, ids: Iterable[str]) -> None:
        self.statements[()].append(f"  {{rank=same; {'; '.join(map(identifier, ids))}}}")

    # --- Nodes ---

    def _place_nodes(self) -> None:
        for band in self.grid.bands:
            path = (band.name,)
            self._cluster(path, _TIME_FRAME)
            together = Counter(node.lane for node in band.nodes if not is_given(node))
            for node in band.nodes:
                if band.is_start or is_given(node) or together[node.lane] == 1 or node.layer is None:
                    self._draw(node, path)
                    continue
                frame = (*path, f"{band.name} lane {' '.join(map(str, node.lane))}")
                self._cluster(frame, f"label={quoted(words.frame(node, self.graph))} {_CELL_FRAME}")
                self._draw(node, frame)
        for node in self.graph.nodes:
            if node.id not in self.path_of and node.kind != "parameter":
                self._draw(node, ())

    def _draw(self, node: Node, path: Path) -> None:
        (fill, line), (ink, faint) = self.view.paint(node), self.view.ink(node)
        look = 'shape=plain style="" ' if node.kind == "ellipsis" else ""
        look += f'fontcolor="{ink}" ' if ink != style.INK else ""
        look += _GRADIENT if node.derivative and node.kind != "ellipsis" else ""
        colours = f'{look}fillcolor="{fill}" color="{line}"'
        text = words.label(node, faint, self.view.trouble(node))
        self._node(node.id, path, f"label=<{text}> {colours} {tooltip(words.tooltip(node))}")

    def _chips(self, used: dict[str, list[Node]], crowded: set[str]) -> None:
        """A chip stands beside the node that uses it, away from where states enter; below if one passes there."""
        fill, line = style.PARAMETER
        for id, parameters in used.items():
            chip = f"chip {id}"
            names = ", ".join(parameter.name for parameter in parameters)
            self._node(
                chip,
                self.path_of[id],
                f"label=<{words.chip(parameters, self.view.short)}> {tooltip(self.view.same(names, parameters))} "
                f'style="rounded,filled,dashed" height=0.2 margin="0.07,0.03" penwidth=1 '
                f'fillcolor="{fill}" color="{line}"',
            )
            look = f'style=dashed color="{line}" penwidth=0.9'
            if id in crowded or id not in self.grid.rows:
                self._edge(chip, id, look)
                continue
            # The tail of an edge inside a rank stands left. Where time runs backward, states come from the right.
            back = self.nodes[id].leftward
            left, right = self.beside[id] = [chip, id] if back else [id, chip]
            self._edge(left, right, look if back else f"dir=back {look}")

    def _parameters(self) -> None:
        title = "parameters" + ("\nshared by all steps" if self.view.share(self.parameters) else "")
        for node in self.parameters:
            self._cluster(("parameters",), f"label={quoted(title)} {_PARAMETER_FRAME}")
            (fill, line), (ink, faint) = self.view.paint(node), self.view.ink(node)
            look = "" if node.trains else 'style="rounded,filled,dashed" '
            look += f'fontcolor="{ink}" ' if ink != style.INK else ""
            text = words.parameter(node, self.view.uses.get(node.id, 0), faint)
            self._node(
                node.id,
                ("parameters",),
                f'label=<{text}> {look}fillcolor="{fill}" color="{line}" {tooltip(words.tooltip(node))}',
            )
        height = self.stack_height = max(_SHORTEST, len(set(self.grid.rows.values())))
        stacks = [self.parameters[i : i + height] for i in range(0, len(self.parameters), height)]
        for stack in stacks:
            for above, below in pairwise(stack):
                self._edge(below.id, above.id, "style=invis")
        for left, right in pairwise(stacks):
            self._same_rank((left[0].id, right[0].id))
            self._edge(left[0].id, right[0].id, "style=invis")

    # --- Edges ---

    def _edges(self, parameters: bool) -> None:
        for edge in self.graph.edges:
            if edge.kind == "data":
                self._edge(edge.source, edge.target, self._count(edge))
            elif edge.kind == "parameter" and parameters:
                look = f'constraint=false style=dashed color="{style.PARAMETER[1]}" penwidth=0.8'
                self._edge(edge.source, edge.target, look)

    def _count(self, edge: Edge) -> str:
        """How many uses an edge stands for: at its head, as a label in the middle would double all ranks."""
        if edge.times == 1:
            return "weight=3" if is_given(self.nodes[edge.source]) else ""
        ends = self.nodes[edge.source], self.nodes[edge.target]
        steps = any(node.step is None for node in ends) and not any(node.kind == "ellipsis" for node in ends)
        return (f'headlabel=" ×{edge.times} " ' if steps else "") + f"{tooltip(f'×{edge.times}')}"

    def _ways(self, edges: list[Edge]) -> dict[tuple[str, str], list[str]]:
        """The points that recurrent edges go through, one in each row between their ends, in the source's column."""
        ways: dict[tuple[str, str], list[str]] = {}
        for edge in edges:
            if (edge.source, edge.target) in ways:
                continue
            points = ways[edge.source, edge.target] = []
            for row in self.grid.between(edge):
                point = f"way {edge.source} {edge.target} {row[1]}"
                self._node(point, self.path_of[edge.source], _POINT)
                self.grid.rows[point] = row
                points.append(point)
        return ways

    def _crossed(self, edge: Edge, ways: dict[tuple[str, str], list[str]]) -> list[str]:
        """The points of other states that an edge inside a row meets on its way: it goes through them, not around."""
        if not self._ends_in_one_row(edge):
            return []
        rows, column = self.grid.rows, self.path_of[edge.source]
        met = [point for (start, _), points in ways.items() if self.path_of[start] == column for point in points]
        return [point for point in met if rows[point] == rows[edge.source]]

    def _recurrent(self, edges: list[Edge], points: list[str]) -> None:
        """Edges from one node to another that carry states: one line with a colour each."""
        source, target = edges[0].source, edges[0].target
        back = self.nodes[target].leftward
        drawn = [self.view.edge(edge) for edge in edges]
        colours, width = [colour for colour, _ in drawn], max(width for _, width in drawn)
        names = " and ".join(f"{edge.name} state" for edge in edges)
        look = f'color="{":".join(colours)}" penwidth={round(width, 2)} {tooltip(names)}'
        leave, enter = ("w", "e") if back else ("e", "w")
        if source == target:
            times = "every step"
            self._edge(source, target, f"{look} label={quoted(f' {names} {times}')} tailport=e headport=e")
            return
        stops = [source, *points, target]
        for start, end in pairwise(stops):
            inside = self.path_of[start] == self.path_of[end]
            # Inside a column an edge down is written upward: dot keeps the order of a row only around such edges.
            down = inside and self.grid.rows[start] > self.grid.rows[end]
            arrow = ("dir=back" if down else "dir=forward") + " arrowsize=0.75" if end == target else "dir=none"
            level = inside and self.grid.rows[start] == self.grid.rows[end]  # straight only without ports
            leaves = "" if level else f"{'head' if down else 'tail'}port={leave}"
            first = leaves if start == source else f"{'head' if down else 'tail'}clip=false"
            last = f"{'tail' if down else 'head'}{f'port={enter}' if end == target else 'clip=false'}"
            tail, head = (end, start) if down else (start, end)
            self._edge(tail, head, f"{look} {arrow} {first} {last}{'' if inside else ' constraint=false'}")

    def _ends_in_one_row(self, edge: Edge) -> tuple[str, ...]:
        rows = self.grid.rows
        return (edge.source, edge.target) if rows.get(edge.source) == rows.get(edge.target) else ()

    # --- The grid ---

    def _order_rows(self, ways: dict[tuple[str, str], list[str]]) -> None:
        """Each row on one rank; in each column gates in the order they ran, then the points of states that leave."""
        first = {node.id for node in self.grid.before}
        passing = {point for points in ways.values() for point in points}
        if self.grid.inputs:
            self._same_rank(node.id for node in self.grid.inputs)
        rows: dict[Row, list[str]] = {}
        for id, row in self.grid.rows.items():
            rows.setdefault(row, []).append(id)
        ends: dict[Lane, list[str]] = {}  # of each lane a node of its lowest row and one of its highest
        for (lane, _), ids in sorted(rows.items()):
            ends[lane] = [ends.get(lane, ids)[0], ids[0]]
        for lane, (_, top) in ends.items():
            above = ends.get((*lane[:2], True))
            if above is not None and not lane[2]:  # the other direction reads the same: only this lifts it
                self._edge(top, above[0], "style=invis")
        for ((derivative, _, reverse), _), ids in sorted(rows.items()):
            back = reverse != bool(derivative % 2)
            self._same_rank(end for id in ids for end in self.beside.get(id, [id]))
            columns: dict[Path, list[str]] = {}
            for id in sorted(ids, key=lambda id: (id not in first, (id in passing) != back)):
                columns.setdefault(self.path_of[id], []).append(id)
            for members in columns.values():
                for left, right in pairwise([end for id in members for end in self.beside.get(id, [id])]):
                    if (left, right) not in self.joined:
                        self._edge(left, right, "style=invis")

    def _axis(self) -> None:
        """The axis of time below the picture. It is written first, as dot begins its search from the order it reads."""
        head, *outside = self.statements[()]
        self.statements[()] = [head]
        columns = {f"time {band.name.removeprefix('step ')}": (band.words, band.nodes) for band in self.grid.bands}
        nets = {f"time {band.name.removeprefix('step ')}": band.net for band in self.grid.bands}
        if self.parameters:
            columns["time parameters"] = (" ", self.parameters)  # a space is no word
        # Every column stands on the ground, which is where dot takes hold of a cluster.
        ground = {node.id for node in self.grid.inputs}
        if not ground and self.grid.rows:
            lowest = min(self.grid.rows.values())
            ground = {id for id, row in self.grid.rows.items() if row == lowest}
        feet: list[str] = []
        for id, (text, nodes) in columns.items():
            self._node(
                id, (), f'label={quoted(text)} shape=plain style="" fontcolor="{style.FAINT}" group={quoted(id)}'
            )
            foot = next((node.id for node in nodes if node.id in ground), None)
            if id == "time parameters":
                foot = self.parameters[: self.stack_height][-1].id
            if foot is None:
                foot = f"foot {id}"
                self._node(foot, self.path_of[nodes[0].id][:1], _POINT)
            feet.append(foot)
            for node in nodes:
                if node.id in self.grid.under:  # nothing else tells dot how high this row is
                    lower = [other.id for other in nodes if other.lane < node.lane and other.id not in self.grid.under]
                    self._edge(lower[-1] if lower else foot, node.id, "style=invis")
                    self._edge(node.id, self.grid.under[node.id], "style=invis")
            # Ends of one group: dot counts a crossing of such an edge a thousandfold, so no column leaves its place.
            self.statements[()].append(f"  {identifier(foot)} [group={quoted(id)}]")
            self._edge(id, foot, "style=invis weight=100")
        if feet:
            self._same_rank(feet)
        for left, right in zip(columns, list(columns)[1:]):
            hidden = right == "time parameters" or nets.get(left) != nets.get(right)
            self._edge(left, right, "style=invis" if hidden else f'color="{style.RULE}" arrowsize=0.5')
        if columns:
            self._same_rank(columns)
        targets = {edge.target for edge in self.graph.edges}
        for node in self.graph.nodes:  # what stands outside the steps lies above the axis as well
            if columns and self.path_of.get(node.id) == () and node.id not in targets:
                self._edge(next(iter(columns)), node.id, "style=invis weight=0")
        self.statements[()] += outside


def _parallel(edges: list[Edge]) -> dict[tuple[str, str], list[Edge]]:
    found: dict[tuple[str, str], list[Edge]] = {}
    for edge in edges:
        found.setdefault((edge.source, edge.target), []).append(edge)
    return found
