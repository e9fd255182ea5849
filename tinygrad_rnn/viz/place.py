"""The built-in layout: where everything stands, without any program. It takes time linear in the nodes.

Time gives the columns and the grid the rows, so there is nothing to search for: a row is as high as its highest node,
a column as wide as its widest row. What belongs to no step, such as a loss, stands above, in rows by what depends on
what; what all steps are made of stands below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import words
from .layout import Band, Grid, is_given
from .nodes import Edge, Lane, Node
from .view import View

#: Letters of chips, in points.
CHIP = 9.0

#: Room around a node's words, between nodes, between rows, between columns, and
#: from one layer or net to the next.
_INSIDE, _BESIDE, _ROW, _COLUMN, _LAYER, _NET = 10.0, 10.0, 20.0, 64.0, 30.0, 60.0

#: Between a node and a chip that stands below it.
_UNDER = 8.0

#: How wide letters are, in parts of their size, where they are not as wide as most.
_WIDTHS = dict.fromkeys("iljI.,:;'|!()[]/ ftr-", 0.32) | dict.fromkeys("mwMW@%", 0.88) | {"…": 1.0, "×": 0.58}


class Box(NamedTuple):
    """A rectangle; x and y of its upper left corner, y from above."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


class Frame(NamedTuple):
    """A box around what belongs together: "time", "cell" or "parameters"."""

    kind: str
    box: Box
    title: str


class Places:
    """Where the nodes of a view, its frames and the marks of its axis of time stand.

    Attributes:
        boxes: for each node, and each chip as "chip " and its node.
        frames: from the outermost.
        columns: for each node of a step where its column begins and ends.
        outside: what stands in no column, by its row there: from 0 upward above the columns, from -1 downward below.
        tops: for each node of a step with other layers above it where its column ends above.
        axis: words below the columns: x of the middle, y, and the words.
        width, height: of all.
    """

    def __init__(self, view: View) -> None:
        graph = view.graph
        self.view, self.graph, self.grid, self.chips = view, graph, Grid(graph), view.chips
        self.boxes: dict[str, Box] = {}
        self.frames: list[Frame] = []
        self.columns: dict[str, tuple[float, float]] = {}
        self.tops: dict[str, float] = {}
        self._boxes_of: dict[tuple[float, float], list[Box]] = {}
        self.axis: list[tuple[float, float, str]] = []
        self.width = self.height = 0.0
        columns = self.grid.bands
        #: Nodes of rows where states leave: their chips stand below, out of the way.
        leaving = {self.grid.rows.get(edge.source) for edge in view.recurrent if graph[edge.source].kind != "ellipsis"}
        self._below = {id for id in self.chips if id in self.grid.rows and self.grid.rows[id] in leaving}
        self._after: dict[str, list[str]] = {}
        for edge in graph.edges:
            self._after.setdefault(edge.source, []).append(edge.target)
        outside = self.outside = self._outside({node.id for band in columns for node in band.nodes})
        rows = self._rows(columns, outside)
        self._place(columns, rows, outside)
        self._parameters()

    # --- Who stands where ---

    def _outside(self, inside: set[str]) -> dict[str, int]:
        """What stands in no column, by how many others of its kind it is made of, one behind another; what the steps
        are made of counts from -1 downward."""
        depth = {node.id: 0 for node in self.graph.nodes if node.id not in inside and node.kind != "parameter"}
        after: dict[str, list[str]] = {id: [] for id in depth}
        waiting = dict.fromkeys(depth, 0)
        for edge in self.graph.edges:
            if edge.source in depth and edge.target in depth and edge.source != edge.target:
                after[edge.source].append(edge.target)
                waiting[edge.target] += 1
        ready = [id for id, count in waiting.items() if not count]
        for id in ready:  # grows as it goes
            for target in after[id]:
                depth[target] = max(depth[target], depth[id] + 1)
                waiting[target] -= 1
                if not waiting[target]:
                    ready.append(target)
        made, before = set(inside), {edge.source for edge in self.graph.edges if edge.target in inside}
        for id in [*inside, *ready]:
            if id in made:
                made.update(self._after.get(id, ()))
        for id in reversed(ready):
            if id not in made and (id in before or any(depth[target] < 0 for target in after[id])):
                depth[id] = min([-1, *[depth[target] - 1 for target in after[id] if depth[target] < 0]])
        return depth

    def _rows(self, columns: list[Band], outside: dict[str, int]) -> dict[str, int]:
        """For each node the number of its row, from below: what is given, the layers one above another, the rest."""
        given = {node.id for band in columns for node in band.nodes if is_given(node)}
        low = -min([0, *outside.values()])
        numbers = {row: i for i, row in enumerate(sorted(set(self.grid.rows.values())), start=low + bool(given))}
        top = low + len(numbers) + bool(given)
        rows = {id: depth + (top if depth >= 0 else low) for id, depth in outside.items()}
        for band in columns:
            for node in band.nodes:
                row = self.grid.rows.get(node.id)
                rows[node.id] = low if node.id in given or row is None else numbers[row]
        self._layers = {number: row[0] for row, number in numbers.items()}
        return rows

    # --- Where that is ---

    def _place(self, columns: list[Band], rows: dict[str, int], outside: dict[str, int]) -> None:
        sizes = {id: room(words.lines(self.graph[id], self.view.trouble(self.graph[id]))) for id in rows}
        heights: dict[int, float] = {}
        hanging: dict[int, float] = {}
        for id, row in rows.items():
            heights[row] = max(heights.get(row, 0.0), sizes[id][1])
            if id in self._below:
                hanging[row] = max(hanging.get(row, 0.0), _chip_size(self.chips[id], self.view)[1] + _UNDER)
        y, middles = 0.0, {}
        for row in sorted(heights, reverse=True):  # from above
            middles[row] = y + heights[row] / 2
            between = self._layers.get(row) != self._layers.get(row - 1)
            y += heights[row] + hanging.get(row, 0.0) + _ROW + (_LAYER if between else 0.0)
        self.height = y
        takers = {edge.target for edge in self.graph.edges if edge.kind == "recurrent"}
        x, net = 0.0, columns[0].net if columns else ""
        for band in columns:
            x, net = x + (_NET if band.net != net else 0.0), band.net
            name, nodes = band.words, band.nodes
            cells: dict[int, list[str]] = {}
            # What takes a state stands where that enters, and a chip away from there.
            for node in sorted(nodes, key=lambda node: (node.id in takers) == node.leftward):
                chip = [f"chip {node.id}"] if node.id in self.chips and node.id not in self._below else []
                sizes.update((id, _chip_size(self.chips[node.id], self.view)) for id in chip)
                cells.setdefault(rows[node.id], []).extend([*chip, node.id] if node.leftward else [node.id, *chip])
            halves = [_halves(ids, sizes) for ids in cells.values()]
            hung = [_chip_size(self.chips[node.id], self.view)[0] + _UNDER for node in nodes if node.id in self._below]
            left, right = (max([half[side] for half in halves] + hung) for side in (0, 1))
            for row, ids in cells.items():
                self._line(ids, sizes, x + left, middles[row])
            for node in nodes:
                if node.id in self._below:  # beside the way of what comes from below
                    box, (width, height) = self.boxes[node.id], _chip_size(self.chips[node.id], self.view)
                    aside = -width - _UNDER if node.leftward else _UNDER
                    self.boxes[f"chip {node.id}"] = Box(
                        box.middle[0] + aside, box.y + box.height + _UNDER, width, height
                    )
            self.columns.update((node.id, (x, x + left + right)) for node in nodes)
            self._boxes_of[x, x + left + right] = [self.boxes[node.id] for node in nodes]
            highest = max((node.lane for node in nodes if not is_given(node)), default=(0, 0, False))
            top = min(self.boxes[node.id].y for node in nodes) - _ROW
            self.tops.update((node.id, top) for node in nodes if node.lane < highest and not is_given(node))
            if not band.is_start:
                self._frame(nodes)
            self.axis.append((x + left, y, name))
            x += left + right + _COLUMN
        self.width = max(x - _COLUMN, 0.0)
        lines: dict[int, list[list[str]]] = {}
        for id in outside:
            chip = [f"chip {id}"] if id in self.chips else []
            sizes.update((one, _chip_size(self.chips[id], self.view)) for one in chip)
            lines.setdefault(rows[id], []).append([id, *chip])
        below: dict[str, list[str]] = {}
        for edge in self.graph.edges:
            if edge.kind == "data":
                below.setdefault(edge.target, []).append(edge.source)
        for row in sorted(lines):
            found = [
                [self.boxes[id].middle[0] for id in below.get(ids[0], ()) if id in self.boxes] for ids in lines[row]
            ]
            wanted = [sum(xs) / len(xs) if xs else self.width / 2 for xs in found]
            for ids, x in zip(lines[row], _apart(wanted, [_halves(ids, sizes) for ids in lines[row]])):
                self._line(ids, sizes, x, middles[row])
        self.width = max([self.width, *[box.x + box.width for box in self.boxes.values()]])

    def _line(self, ids: Sequence[str], sizes: dict[str, tuple[float, float]], x: float, y: float) -> None:
        """Nodes side by side, around a middle; chips at the ends hang over."""
        x -= _halves(ids, sizes)[0]
        for id in ids:
            width, height = sizes[id]
            self.boxes[id] = Box(x, y - height / 2, width, height)
            x += width + _BESIDE

    def around(self, edge: Edge) -> float | None:
        """Where an edge inside a cell passes what stands between its ends; None where nothing stands in its way."""
        source, target = self.boxes[edge.source], self.boxes[edge.target]
        column = self.columns.get(edge.source)
        if column is None or self.columns.get(edge.target) != column:
            return None
        low, high = sorted((source.middle[0], target.middle[0]))
        between = [
            box
            for box in self._boxes_of[column]
            if target.y + target.height < box.y + box.height / 2 < source.y
            and box.x < high + 3.0
            and low - 3.0 < box.x + box.width
        ]
        if not between:
            return None
        left, right = min(box.x for box in between) - 8.0, max(box.x + box.width for box in between) + 8.0
        return right if right - source.middle[0] <= source.middle[0] - left else left

    def _frame(self, nodes: Iterable[Node]) -> None:
        """Around a step, and inside of it around each layer's cell of more than one node."""
        cells: dict[Lane, list[Node]] = {}
        for node in nodes:
            if node.layer is not None and not is_given(node):
                cells.setdefault(node.lane, []).append(node)
        for members in cells.values():
            if len(members) > 1:
                self.frames.append(Frame("cell", self._around(members, 9.0, 16.0), words.frame(members[0], self.graph)))

    def _around(self, nodes: Sequence[Node], margin: float, above: float) -> Box:
        found = [self.boxes[id] for node in nodes for id in (node.id, f"chip {node.id}") if id in self.boxes]
        left, upper = min(box.x for box in found), min(box.y for box in found)
        right, lower = max(box.x + box.width for box in found), max(box.y + box.height for box in found)
        return Box(left - margin, upper - above, right - left + 2 * margin, lower - upper + above + margin)

    def _parameters(self) -> None:
        """The true nodes of parameters, in columns at the right, no higher than the picture."""
        parameters = self.view.parameters
        if not parameters:
            return
        sizes = [room(words.parameter_lines(node, self.view.uses[node.id])) for node in parameters]
        tallest = max(height for _, height in sizes) + _BESIDE
        stacks = math.ceil(len(parameters) / max(int(max(self.height, 200.0) / tallest), 1))
        each = math.ceil(len(parameters) / stacks)
        x = left = self.width + _COLUMN if self.boxes else 0.0
        widest = lowest = 0.0
        for i, (node, (width, height)) in enumerate(zip(parameters, sizes)):
            if i and i % each == 0:
                x, widest = x + widest + _BESIDE, 0.0
            self.boxes[node.id] = Box(x, i % each * tallest, width, height)
            widest, lowest = max(widest, width), max(lowest, i % each * tallest + height)
        title = "parameters" + (", shared by all steps" if self.view.share(parameters) else "")
        across = max(x + widest - left, letters(title, 11.0))
        self.frames.append(Frame("parameters", Box(left - 10.0, -24.0, across + 20.0, lowest + 34.0), title))
        self.width, self.height = left + across + 10.0, max(self.height, lowest + 10.0)


def letters(text: str, size: float) -> float:
    """About how wide a line of text is."""
    return size * sum(_WIDTHS.get(c, 0.7 if c.isupper() else 1.0 if ord(c) > 0x2E80 else 0.56) for c in text)


def room(lines: list[words.Line]) -> tuple[float, float]:
    """The size of a box around lines of text."""
    width = max(letters(text, size) * (1.06 if strong else 1.0) for text, size, strong in lines)
    return max(width + 2 * _INSIDE, 30.0), 12.0 + sum(size + 3.0 for _, size, _ in lines)


def _chip_size(parameters: Sequence[Node], view: View) -> tuple[float, float]:
    lines = words.chip_lines(parameters, view.short)
    return max(letters(line, CHIP) for line in lines) + 10.0, 8.0 + len(lines) * (CHIP + 2.0)


def _halves(ids: Sequence[str], sizes: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """How far a line of nodes reaches to the left and to the right of the middle of those that are no chips."""
    whole = _across([sizes[id] for id in ids])
    before = sizes[ids[0]][0] + _BESIDE if ids[0].startswith("chip ") else 0.0
    behind = sizes[ids[-1]][0] + _BESIDE if ids[-1].startswith("chip ") else 0.0
    half = (whole - before - behind) / 2
    return before + half, behind + half


def _apart(wanted: Sequence[float], halves: Sequence[tuple[float, float]]) -> list[float]:
    """Middles near those wanted, in their order, with room for each; as much to the left as to the right."""
    found = [0.0] * len(wanted)
    end = -math.inf
    for i in sorted(range(len(wanted)), key=lambda i: (wanted[i], i)):
        left, right = halves[i]
        found[i] = max(wanted[i], end + _BESIDE + left)
        end = found[i] + right
    aside = sum(a - b for a, b in zip(found, wanted)) / len(wanted)
    return [x - aside for x in found]


def _across(sizes: Sequence[tuple[float, float]]) -> float:
    return sum(width for width, _ in sizes) + _BESIDE * max(len(sizes) - 1, 0)
