"""A graph as plain data: nodes, edges, and the one way to make it coarser.

Nothing here knows Graphviz, colours or positions; a picture is a view of this.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from .measure import Seen, Statistics

#: The cells of one layer and direction, and pass: 0 for what was asked for, 1 for its gradient, and so on.
Lane = tuple[int, int, bool]

#: The net, where several are compared, and the time step; None where time is rolled up.
Column = tuple[str, int | None]


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
        derivative: 0 for what was asked for, n for what the n-th recorded backward did about it.
        net: which of several nets it belongs to, where they are compared.
        value: the id of the named value that it alone feeds, directly or through others, or its own.
        operands: the ids of its inputs in the op's order; None for one that is no node.
        numbers: for each input the number that it is, in words; None for one that is a value.
        settings: the op's settings in words, such as an index.
        formula: what it computes from its neighbours.
        members: the ids of the ops that it stands for, in the order they ran.
        trains: for a parameter, whether it learns.
        seen: what `watch` saw of its value; for a group, of the value that it makes.
        gradient: statistics of the gradient of the result with respect to that value.
        within: for an ellipsis the smallest and the largest norm of the gradients of states inside.
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
    derivative: int = 0
    net: str = ""
    seen: Seen | None = None
    gradient: Statistics | None = None
    within: tuple[float, float] | None = None

    def changed(self, **fields: Any) -> Node:
        """The same with other fields: `dataclasses.replace`, for tens of thousands."""
        made = object.__new__(Node)
        made.__dict__.update(self.__dict__, **fields)
        return made

    @property
    def lane(self) -> Lane:
        """What it shares with the cells of its layer; gradients stand above, those of the last layer first."""
        layer = self.layer or 0
        return self.derivative, -layer if self.derivative % 2 else layer, self.reverse

    @property
    def column(self) -> Column:
        """What it shares with all that happens at its time."""
        return self.net, self.step

    @property
    def leftward(self) -> bool:
        """Whether its states come from the right: time runs backward, or a gradient through time that runs forward."""
        return self.reverse != bool(self.derivative % 2)


class Edge(NamedTuple):
    """That `target` uses `source`.

    Attributes:
        source, target: ids of nodes.
        kind: "data", "recurrent" (from one step to another) or "parameter".
        name: the state that a recurrent edge carries: "hidden", "cell".
        times: how many uses it stands for.
    """

    source: str
    target: str
    kind: str = "data"
    name: str = ""
    times: int = 1


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

    @cached_property
    def order(self) -> dict[str, int]:
        """The number of each node, in the order they came to be."""
        return {node.id: i for i, node in enumerate(self.nodes)}

    @cached_property
    def _layers_of(self) -> dict[tuple[str, str | None], set[int]]:
        found: dict[tuple[str, str | None], set[int]] = {}
        for node in self.nodes:
            if node.layer is not None:
                found.setdefault((node.net, node.cell), set()).add(node.layer)
        return found

    def is_one_of_several(self, node: Node) -> bool:
        """Whether there are several layers of a node's kind of cell."""
        return len(self._layers_of.get((node.net, node.cell), ())) > 1

    def of_kind(self, *kinds: str) -> list[Node]:
        """The nodes of these kinds."""
        return [node for node in self.nodes if node.kind in kinds]

    @property
    def nets(self) -> list[str]:
        """The nets there are; one without a name where none are compared."""
        return list(dict.fromkeys(node.net for node in self.nodes)) or [""]

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
                found[edge.source] += edge.times
        return found

    @cached_property
    def shared(self) -> frozenset[str]:
        """The ids of the parameters that several steps use."""
        steps: dict[str, set[Column]] = {}
        for edge in self.edges:
            if edge.kind == "parameter":
                steps.setdefault(edge.source, set()).add(self[edge.target].column)
        return frozenset(id for id, found in steps.items() if len(found) > 1)

    def plain(self) -> dict[str, Any]:
        """The graph as dictionaries, lists, strings and numbers, ready for JSON."""
        return {"nodes": [asdict(node) for node in self.nodes], "edges": [edge._asdict() for edge in self.edges]}


def beside(graphs: Mapping[str, Graph]) -> Graph:
    """Several graphs as one, each under its name: the nodes' `net`, and the beginning of their ids."""

    def renamed(node: Node, net: str) -> Node:
        name = _named(net)
        return replace(
            node,
            id=name(node.id),
            net=net,
            value=node.value and name(node.value),
            operands=tuple(id if id is None else name(id) for id in node.operands),
            members=tuple(map(name, node.members)),
        )

    nodes = [renamed(node, net) for net, graph in graphs.items() for node in graph.nodes]
    edges = [
        edge._replace(source=_named(net)(edge.source), target=_named(net)(edge.target))
        for net, graph in graphs.items()
        for edge in graph.edges
    ]
    return Graph(tuple(nodes), tuple(edges))


def _named(net: str) -> Callable[[str], str]:
    return lambda id: f"{net} {id}"


def merged(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Edges between the same nodes that carry the same thing as one, with their counts added."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for edge in edges:
        key = (edge.source, edge.target, edge.kind, edge.name)
        counts[key] = counts.get(key, 0) + edge.times
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
    edges = (edge._replace(source=into[edge.source], target=into[edge.target]) for edge in graph.edges)
    kept = (edge for edge in edges if edge.source != edge.target or (loops and edge.kind == "recurrent"))
    return Graph(tuple(nodes), merged(kept))


def members_of(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The ops that nodes stand for."""
    return tuple(id for node in nodes for id in (node.members or ((node.id,) if node.kind == "op" else ())))
