"""The grid: time from left to right, layers from bottom to top, and in a layer rows by what depends on what."""

from __future__ import annotations

from .nodes import Edge, Graph, Node

#: Layer, direction, depth: the same at every step.
Row = tuple[int, bool, int]


class Grid:
    """Where the nodes of a graph stand; positions themselves are Graphviz's.

    Attributes:
        columns: the time steps drawn, in order, each with its nodes in the order they came to be; the key is None for
            the one column of a net whose time is rolled up.
        rows: for each node of a layer its row.
        before: the initial states, which stand left of the first step.
        inputs: what the steps are given from outside, in order of time.
    """

    def __init__(self, graph: Graph) -> None:
        inside = [node for node in graph.nodes if node.layer is not None or node.step is not None]
        self.before = [node for node in inside if node.step is None and node.label]
        first = {node.id for node in self.before}
        self.columns: dict[int | None, list[Node]] = {step: [] for step in graph.steps}
        for node in inside:
            if node.id not in first:
                self.columns.setdefault(node.step, []).append(node)
        self.inputs = [node for nodes in self.columns.values() for node in nodes if is_given(node)]
        cells = [n for n in inside if n.layer is not None and not is_given(n) and n.id not in first]
        self.rows = _rows(cells, graph.edges)
        made: dict[tuple[object, ...], Row] = {(n.layer, n.reverse, n.label): self.rows[n.id] for n in cells if n.label}
        taker = {edge.source: self.rows[edge.target] for edge in graph.edges if edge.target in self.rows}
        for node in self.before:  # beside the value that it is the first of, else beside who takes it
            row = made.get((node.layer, node.reverse, node.label)) or taker.get(node.id)
            if row is not None:
                self.rows[node.id] = row

    def between(self, edge: Edge) -> list[Row]:
        """The rows that an edge crosses on its way, from its source on."""
        if edge.source not in self.rows or edge.target not in self.rows:
            return []
        (layer, reverse, start), (to_layer, to_reverse, end) = self.rows[edge.source], self.rows[edge.target]
        if (layer, reverse) != (to_layer, to_reverse):
            return []
        depths = range(start - 1, end, -1) if start > end else range(start + 1, end)
        return [(layer, reverse, depth) for depth in depths]


def is_given(node: Node) -> bool:
    """Whether a node is what a step, or the steps folded away, are given from outside."""
    return node.kind == "input" or (node.kind == "ellipsis" and node.layer is None)


def _rows(nodes: list[Node], edges: tuple[Edge, ...]) -> dict[str, Row]:
    """Depth: one more than that of the deepest operand of the same step; without one, just below its first use.

    A folded cell is one node and stands in the row where the results of a drawn one leave.
    """
    at = {node.id: (node.layer or 0, node.reverse, node.step) for node in nodes}
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
    top: dict[tuple[int, bool], int] = {}
    for id, (layer, reverse, _) in at.items():
        top[layer, reverse] = max(top.get((layer, reverse), 0), depth[id])
    folded = {node.id for node in nodes if node.kind == "ellipsis"}
    return {id: (*place[:2], top[place[:2]] if id in folded else depth[id]) for id, place in at.items()}
