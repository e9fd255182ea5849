"""A graph as plain data: nodes, edges, and the one way to make it coarser.

Nothing here knows Graphviz, colours or positions; a picture is a view of this.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Node:
    """One thing in the graph.

    Attributes:
        id: its name among the nodes; the same in every run.
        kind: "op", "input", "initial" (a state before the first step), "parameter", "constant" (given, and no gradient
            flows to it), "group" (several ops contracted to one), "ellipsis" (steps folded away).
        name: the op's name, the parameter's, or what the node is in words.
        symbol: the op's sign in pictures.
        label: the name given by `Tensor.named`; for a state, that of the value it is the first of.
        shape, dtype: the value's; None where the tape does not know them.
        cell, layer, reverse, step: where it ran; steps count from 0.
        value: the id of the named value that it alone feeds, directly or through others, or its own.
        operands: the ids of its inputs in the op's order; None for one that is no node.
        numbers: for each input the number that it is, in words; None for one that is a value.
        settings: the op's settings in words, such as an index.
        formula: what it computes from its neighbours.
        members: the ids of the ops that it stands for, in the order they ran.
        trains: for a parameter, whether it learns.
    """

    id: str
    kind: str
    name: str
    symbol: str = ""
    label: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    cell: str | None = None
    layer: int | None = None
    reverse: bool = False
    step: int | None = None
    value: str | None = None
    operands: tuple[str | None, ...] = ()
    numbers: tuple[str | None, ...] = ()
    settings: str = ""
    formula: str = ""
    members: tuple[str, ...] = ()
    trains: bool = True


@dataclass(frozen=True)
class Edge:
    """That `target` uses `source`.

    Attributes:
        source, target: ids of nodes.
        kind: "data", "recurrent" (from one step to another) or "parameter".
        name: the state that a recurrent edge carries: "hidden", "cell".
        count: how many uses it stands for.
    """

    source: str
    target: str
    kind: str = "data"
    name: str = ""
    count: int = 1


@dataclass(frozen=True)
class Graph:
    """Nodes in the order they came to be, and the edges between them."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def __getitem__(self, id: str) -> Node:
        return self.by_id[id]

    @cached_property
    def by_id(self) -> dict[str, Node]:
        """Nodes by id."""
        return {node.id: node for node in self.nodes}

    def of_kind(self, *kinds: str) -> list[Node]:
        """The nodes of these kinds."""
        return [node for node in self.nodes if node.kind in kinds]

    @property
    def steps(self) -> list[int]:
        """The time steps there are, in order."""
        return sorted({node.step for node in self.nodes if node.step is not None})

    @property
    def layers(self) -> list[int]:
        """The layers there are, in order."""
        return sorted({node.layer for node in self.nodes if node.layer is not None})

    def uses(self) -> dict[str, int]:
        """For each parameter's id, how many ops use it."""
        found = {node.id: 0 for node in self.of_kind("parameter")}
        for edge in self.edges:
            if edge.kind == "parameter":
                found[edge.source] += edge.count
        return found

    def plain(self) -> dict[str, Any]:
        """The graph as dictionaries, lists, strings and numbers, ready for JSON."""
        return {"nodes": [asdict(node) for node in self.nodes], "edges": [asdict(edge) for edge in self.edges]}


def merged(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Edges between the same nodes that carry the same thing as one, with their counts added."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for edge in edges:
        key = (edge.source, edge.target, edge.kind, edge.name)
        counts[key] = counts.get(key, 0) + edge.count
    return tuple(Edge(*key, count) for key, count in counts.items())


def contract(
    graph: Graph,
    key: Callable[[Node], Hashable | None],
    join: Callable[[Hashable, list[Node]], Node],
    *,
    loops: bool = False,
) -> Graph:
    """Nodes of equal key as one node; every level and every fold is made by this.

    Args:
        graph: what to make coarser.
        key: of a node; None leaves it as it is.
        join: the node that stands for the nodes of a key.
        loops: whether recurrent edges inside a joined node stay, as a loop.
    """
    groups: dict[Hashable, list[Node]] = {}
    for node in graph.nodes:
        found = key(node)
        groups.setdefault(("alone", node.id) if found is None else found, []).append(node)
    into: dict[str, str] = {}
    nodes = []
    for found, members in groups.items():
        alone = isinstance(found, tuple) and found[0] == "alone"
        node = members[0] if alone else join(found, members)
        nodes.append(node)
        into.update((member.id, node.id) for member in members)
    edges = (replace(edge, source=into[edge.source], target=into[edge.target]) for edge in graph.edges)
    kept = (edge for edge in edges if edge.source != edge.target or (loops and edge.kind == "recurrent"))
    return Graph(tuple(nodes), merged(kept))


def members_of(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The ops that nodes stand for."""
    return tuple(id for node in nodes for id in (node.members or ((node.id,) if node.kind == "op" else ())))
