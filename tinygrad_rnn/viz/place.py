"""The built-in layout: where everything stands, without any program. It takes time linear in the nodes.

Time gives the columns and the grid the rows, so there is nothing to search for: a row is as high as its highest node,
a column as wide as its widest row. What belongs to no step, such as a loss, stands above, in rows by what depends on
what; what all steps are made of stands below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import words
from .layout import Grid, is_given
from .nodes import Graph, Node

#: Sizes in points: letters of titles, of what stands below them and of chips.
TITLE, BELOW, CHIP = 12.0, 10.0, 9.0

#: Room around a node's words, between nodes, between rows, between columns, and from one layer to the next.
_INSIDE, _BESIDE, _ROW, _COLUMN, _LAYER = 10.0, 10.0, 20.0, 64.0, 30.0

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
    """Where the nodes of a graph, its frames and the marks of its axis of time stand.

    Args:
        graph: at any level, folded or not.
        chips: for nodes by id the parameters whose chip stands beside them.
        parameters: the true nodes of parameters, in a column of their own.
        uses: for each of these how often it is used.

    Attributes:
        boxes: for each node, and each chip as "chip " and its node.
        frames: from the outermost.
        columns: for each node of a step where its column begins and ends.
        axis: words below the columns: x of the middle, y, and the words.
        width, height: of all.
    """

    def __init__(
        self, graph: Graph, chips: dict[str, list[Node]], parameters: Sequence[Node], uses: dict[str, int]
    ) -> None:
        self.graph, self.grid, self.chips = graph, Grid(graph), chips
        self.boxes: dict[str, Box] = {}
        self.frames: list[Frame] = []
        self.columns: dict[str, tuple[float, float]] = {}
        self.axis: list[tuple[float, float, str]] = []
        self.width = self.height = 0.0
        columns = self._columns()
        self._after: dict[str, list[str]] = {}
        for edge in graph.edges:
            self._after.setdefault(edge.source, []).append(edge.target)
        outside = self._outside({node.id for _, nodes in columns for node in nodes})
        rows = self._rows(columns, outside)
        self._place(columns, rows, outside)
        self._parameters(parameters, uses)

    # --- Who stands where ---

    def _columns(self) -> list[tuple[str, list[Node]]]:
        """The columns from left to right: initial states of layers that run forward, the steps, those of the others."""
        grid = self.grid
        rolled = None in grid.columns
        first = [node for node in grid.before if not node.reverse or rolled]
        last = [node for node in grid.before if node.reverse and not rolled]
        found = [("start", first)] if first else []
        for step, nodes in grid.columns.items():
            folded = next((node for node in nodes if node.kind == "ellipsis"), None)
            name = "every step" if step is None else f"step {step + 1}"
            found.append((f"{folded.name}\n{folded.settings}, same parameters" if folded else name, nodes))
        return [*found, *([("start of reverse", last)] if last else [])]

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

    def _rows(self, columns: list[tuple[str, list[Node]]], outside: dict[str, int]) -> dict[str, int]:
        """For each node the number of its row, from below: what is given, the layers one above another, the rest."""
        given = {node.id for _, nodes in columns for node in nodes if is_given(node)}
        low = -min([0, *outside.values()])
        numbers = {row: i for i, row in enumerate(sorted(set(self.grid.rows.values())), start=low + bool(given))}
        top = low + len(numbers) + bool(given)
        rows = {id: depth + (top if depth >= 0 else low) for id, depth in outside.items()}
        for _, nodes in columns:
            for node in nodes:
                rows[node.id] = (
                    low if node.id in given else numbers.get(self.grid.rows.get(node.id, (0, False, 0)), low)
                )
        self._layers = {number: row[:2] for row, number in numbers.items()}
        return rows

    # --- Where that is ---

    def _place(self, columns: list[tuple[str, list[Node]]], rows: dict[str, int], outside: dict[str, int]) -> None:
        sizes = {id: _size(self.graph[id]) for id in rows}
        heights: dict[int, float] = {}
        for id, row in rows.items():
            heights[row] = max(heights.get(row, 0.0), sizes[id][1])
        y, middles = 0.0, {}
        for row in sorted(heights, reverse=True):  # from above
            middles[row] = y + heights[row] / 2
            between = self._layers.get(row) != self._layers.get(row - 1)
            y += heights[row] + _ROW + (_LAYER if between else 0.0)
        self.height = y
        takers = {edge.target for edge in self.graph.edges if edge.kind == "recurrent"}
        x = 0.0
        for name, nodes in columns:
            cells: dict[int, list[str]] = {}
            # What takes a state stands where that enters, and a chip away from there.
            for node in sorted(nodes, key=lambda node: (node.id in takers) == node.reverse):
                chip = [f"chip {node.id}"] if node.id in self.chips else []
                sizes.update((id, _chip_size(self.chips[node.id])) for id in chip)
                cells.setdefault(rows[node.id], []).extend([*chip, node.id] if node.reverse else [node.id, *chip])
            halves = [_halves(ids, sizes) for ids in cells.values()]
            left, right = (max(half[side] for half in halves) for side in (0, 1))
            for row, ids in cells.items():
                self._line(ids, sizes, x + left, middles[row])
            self.columns.update((node.id, (x, x + left + right)) for node in nodes)
            self._frame(name, nodes)
            self.axis.append((x + left, y, name))
            x += left + right + _COLUMN
        self.width = max(x - _COLUMN, 0.0)
        lines: dict[int, list[str]] = {}
        for id in outside:
            chip = [f"chip {id}"] if id in self.chips else []
            sizes.update((one, _chip_size(self.chips[id])) for one in chip)
            lines.setdefault(rows[id], []).extend([id, *chip])
        middle = max([self.width / 2, *[_halves(ids, sizes)[0] for ids in lines.values()]])
        for row, ids in lines.items():
            self._line(ids, sizes, middle, middles[row])
        self.width = max([self.width, *[box.x + box.width for box in self.boxes.values()]])

    def _line(self, ids: Sequence[str], sizes: dict[str, tuple[float, float]], x: float, y: float) -> None:
        """Nodes side by side, around a middle; chips at the ends hang over."""
        x -= _halves(ids, sizes)[0]
        for id in ids:
            width, height = sizes[id]
            self.boxes[id] = Box(x, y - height / 2, width, height)
            x += width + _BESIDE

    def _frame(self, name: str, nodes: Iterable[Node]) -> None:
        """Around a step, and inside of it around each layer's cell of more than one node."""
        cells: dict[tuple[int, bool], list[Node]] = {}
        for node in nodes:
            if node.layer is not None and not is_given(node):
                cells.setdefault((node.layer, node.reverse), []).append(node)
        several = len(self.graph.layers) > 1
        for (layer, reverse), members in cells.items():
            if len(members) > 1 and "start" not in name:
                title = (members[0].cell or "").removesuffix("Cell") + (f", layer {layer}" if several else "")
                box = self._around([*members], 9.0, 16.0)
                self.frames.append(Frame("cell", box, title + (", reverse" if reverse else "")))

    def _around(self, nodes: Sequence[Node], margin: float, above: float) -> Box:
        found = [self.boxes[id] for node in nodes for id in (node.id, f"chip {node.id}") if id in self.boxes]
        left, upper = min(box.x for box in found), min(box.y for box in found)
        right, lower = max(box.x + box.width for box in found), max(box.y + box.height for box in found)
        return Box(left - margin, upper - above, right - left + 2 * margin, lower - upper + above + margin)

    def _parameters(self, parameters: Sequence[Node], uses: dict[str, int]) -> None:
        """The true nodes of parameters, in columns at the right, no higher than the picture."""
        if not parameters:
            return
        x = self.width + 2 * _COLUMN if self.boxes else 0.0
        left, y, widest, lowest = x, 0.0, 0.0, 0.0
        for node in parameters:
            width = 2 * _INSIDE + max(
                letters(text, size) for text, size, _ in words.parameter_lines(node, uses[node.id])
            )
            if y and y + 40.0 > max(self.height, 200.0):
                x, y, widest = x + widest + _BESIDE, 0.0, 0.0
            self.boxes[node.id] = Box(x, y, width, 40.0)
            widest, y = max(widest, width), y + 40.0 + _BESIDE
            lowest = max(lowest, y - _BESIDE)
        shared = len(self.grid.columns) > 1 and all(uses[node.id] > 1 for node in parameters)
        title = "parameters" + (", shared by all steps" if shared else "")
        room = max(x + widest - left, letters(title, 11.0))
        self.frames.append(Frame("parameters", Box(left - 10.0, -24.0, room + 20.0, lowest + 34.0), title))
        self.width, self.height = left + room + 10.0, max(self.height, lowest + 10.0)


def letters(text: str, size: float) -> float:
    """About how wide a line of text is."""
    return size * sum(_WIDTHS.get(c, 0.7 if c.isupper() else 1.0 if ord(c) > 0x2E80 else 0.56) for c in text)


def _size(node: Node) -> tuple[float, float]:
    lines = words.lines(node)
    width = max(letters(text, size) * (1.06 if strong else 1.0) for text, size, strong in lines)
    return max(width + 2 * _INSIDE, 30.0), 12.0 + sum(size + 3.0 for _, size, _ in lines)


def _chip_size(parameters: Sequence[Node]) -> tuple[float, float]:
    lines = words.chip_lines(parameters)
    return max(letters(line, CHIP) for line in lines) + 10.0, 8.0 + len(lines) * (CHIP + 2.0)


def _halves(ids: Sequence[str], sizes: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """How far a line of nodes reaches to the left and to the right of the middle of those that are no chips."""
    whole = _across([sizes[id] for id in ids])
    before = sizes[ids[0]][0] + _BESIDE if ids[0].startswith("chip ") else 0.0
    behind = sizes[ids[-1]][0] + _BESIDE if ids[-1].startswith("chip ") else 0.0
    half = (whole - before - behind) / 2
    return before + half, behind + half


def _across(sizes: Sequence[tuple[float, float]]) -> float:
    return sum(width for width, _ in sizes) + _BESIDE * max(len(sizes) - 1, 0)
