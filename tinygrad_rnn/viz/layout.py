"""The grid: time from left to right, layers from bottom to top, and in a layer rows by what depends on what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .nodes import Column, Edge, Graph, Lane, Node

#: The cells of a layer, and the depth inside: the same at every step.
Row = tuple[Lane, int]


class Band(NamedTuple):
    """A column: the start of time, or a step, or the steps folded to one.

    Attributes:
        name: the same in every picture of a net.
        words: what stands below it.
        net: whose it is, where several are compared.
        is_start: whether it holds initial states only.
        nodes: what stands in it, in the order it came to be.
    """

    name: str
    words: str
    net: str
    is_start: bool
    nodes: list[Node]


class Grid:
    """Where the nodes of a graph stand; positions themselves are Graphviz's.

    Attributes:
        bands: the columns from left to right, with those of initial states: those of layers that run forward stand
            first, those of the others last.
        columns: the time steps drawn, in order, each with its nodes in the order they came to be; the step is None for
            the one column of a net whose time is rolled up. Where nets are compared, one comes after another.
        rows: for each node of a layer its row.
        before: the initial states, which stand left of the first step.
        under: for initial states that one node takes, all but the first: which of them stands above.
        inputs: what the steps are given from outside, in order of time.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        inside = [node for node in graph.nodes if node.layer is not None or node.step is not None]
        self.before = [node for node in inside if node.step is None and node.label]
        first = {node.id for node in self.before}
        self.columns: dict[Column, list[Node]] = {}
        for node in sorted(inside, key=lambda node: -1 if node.step is None else node.step):
            if node.id not in first:
                self.columns.setdefault(node.column, []).append(node)
        order = {net: i for i, net in enumerate(graph.nets)}
        self.columns = dict(sorted(self.columns.items(), key=lambda item: order[item[0][0]]))
        self.inputs = [node for nodes in self.columns.values() for node in nodes if is_given(node)]
        cells = [n for n in inside if n.layer is not None and not is_given(n) and n.id not in first]
        self.rows = _rows(cells, graph.edges)
        made: dict[tuple[object, ...], Row] = {(n.net, n.lane, n.label): self.rows[n.id] for n in cells if n.label}

        taker = {edge.source: self.rows[edge.target] for edge in graph.edges if edge.target in self.rows}
        self.bands = list(self._bands())
        self.under: dict[str, str] = {}
        last: dict[Lane, str] = {}
        for node in self.before:  # beside the value that it is the first of, else beside who takes it
            row = made.get((node.net, node.lane, node.label))
            if row is None and node.id in taker:
                row, above = taker[node.id], last.get(node.lane)
                if above is not None and graph[above].net == node.net:
                    row, self.under[node.id] = (row[0], self.rows[above][1] - 1), above
                last[node.lane] = node.id
            if row is not None:
                self.rows[node.id] = row

    def _bands(self) -> Iterator[Band]:
        for net in self.graph.nets:
            title, name = (f"{net}, ", f"{net} ") if net else ("", "")
            rolled = (net, None) in self.columns
            starts: list[list[Node]] = [[], []]
            for node in self.before:
                if node.net == net:
                    starts[node.leftward and not rolled].append(node)
            if starts[0]:
                yield Band(f"{name}start", f"{title}start", net, True, starts[0])
            for column, nodes in self.columns.items():
                if column[0] == net:
                    folded = next((node for node in nodes if node.kind == "ellipsis"), None)
                    words = "every step" if rolled else f"step {(nodes[0].step or 0) + 1}"
                    words = f"{folded.name}\n{folded.settings}" if folded is not None else words
                    yield Band(f"{name}step {column[1]}", title + words, net, False, nodes)
            if starts[1]:
                yield Band(f"{name}end", f"{title}start of reverse", net, True, starts[1])

    def between(self, edge: Edge) -> list[Row]:
        """The rows that an edge crosses on its way, from its source on."""
        if edge.source not in self.rows or edge.target not in self.rows:
            return []
        (lane, start), (to_lane, end) = self.rows[edge.source], self.rows[edge.target]
        if lane != to_lane:
            return []
        depths = range(start - 1, end, -1) if start > end else range(start + 1, end)
        return [(lane, depth) for depth in depths]


def is_given(node: Node) -> bool:
    """Whether a node is what a step, or the steps folded away, are given from outside."""
    return node.kind == "input" or (node.kind == "ellipsis" and node.layer is None)


def _rows(nodes: list[Node], edges: tuple[Edge, ...]) -> dict[str, Row]:
    """Depth: one more than that of the deepest operand of the same step; without one, just below its first use.

    A folded cell is one node and stands in the row where the results of a drawn one leave.
    """
    at = {node.id: (node.lane, node.column) for node in nodes}
    before: dict[str, list[str]] = {id: [] for id in at}
    after: dict[str, list[str]] = {id: [] for id in at}
    for edge in edges:
        if edge.source in at and edge.source != edge.target and at[edge.source] == at.get(edge.target):
            before[edge.target].append(edge.source)
            after[edge.source].append(edge.target)
    depth: dict[str, int] = {}
    waiting = {id: len(sources) for id, sources in before.items()}
    ready = [id for id, count in waiting.items() if not count]
    for id in ready:  # grows as it goes
        depth[id] = max((depth[source] + 1 for source in before[id]), default=0)
        for target in after[id]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    for id in at:
        if not before[id] and after[id]:
            depth[id] = min(depth[target] for target in after[id]) - 1
    top: dict[tuple[str, Lane], int] = {}
    for id, (lane, (net, _)) in at.items():
        top[net, lane] = max(top.get((net, lane), 0), depth[id])
    folded = {node.id for node in nodes if node.kind == "ellipsis"}
    return {id: (lane, top[net, lane] if id in folded else depth[id]) for id, (lane, (net, _)) in at.items()}
