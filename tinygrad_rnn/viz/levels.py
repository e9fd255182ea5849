"""The levels: op, gate, cell, layer. Each is the one before, contracted by a key.

Gate level rests on one idea. The frontier of an op is the set of named values that it feeds with no named value in
between. An op whose frontier is one value of its own step helps to make that value and belongs to it; ops of a step
with the same larger frontier are what its gates share. A frontier can only shrink along an edge, so no two groups ever
feed each other, and a named value reaches another in the contraction exactly where it does on the tape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace

from .formula import formula
from .nodes import Graph, Node, contract, members_of

#: From the finest to the coarsest.
LEVELS = ("op", "gate", "cell", "layer")

Key = Callable[[Node], Hashable | None]


def at_level(graph: Graph, level: str) -> Graph:
    """The graph of ops at one of `LEVELS`."""
    if level == "op":
        return with_values(graph)
    direct = with_values(without_detours(graph))
    key = {"gate": gate, "cell": cell, "layer": layer}[level]

    def join(found: Hashable, members: list[Node]) -> Node:
        return _joined(direct, level, found, members)

    return contract(direct, key(direct), join, loops=level == "layer")


def without_detours(graph: Graph) -> Graph:
    """Steps that are stacked and then taken out one by one, taken directly; slices of the input as the inputs.

    A layer stacks its outputs, the next one takes them out again: drawn as it ran, every step of the lower layer would
    seem to feed every step of the upper one.
    """
    nodes, made = graph.by_id, _after_steps(graph)
    instead: dict[str, tuple[str, ...]] = {}
    taken: dict[tuple[str, int], str] = {}
    for node in graph.nodes:
        source = nodes.get(node.operands[0] or "") if node.name == "getitem" else None
        index = _whole_number(node.settings)
        if source is None or index is None:
            continue
        elements = _elements(nodes, source, index)
        if elements:
            instead[node.id] = elements
        elif node.step is not None and source.step is None and source.kind != "parameter" and source.id not in made:
            first = taken.setdefault((source.id, index), node.id)
            if first == node.id:
                nodes[node.id] = replace(node, kind="input", name="x", symbol="", operands=(source.id,))
            else:  # as where two directions read the same
                instead[node.id] = (first,)

    def ends(id: str) -> list[str]:
        return [end for element in instead[id] for end in ends(element)] if id in instead else [id]

    edges = [
        edge._replace(source=end)
        for edge in graph.edges
        if edge.target not in instead
        for end in dict.fromkeys(ends(edge.source))
    ]
    # What only fed what is gone, goes too; so does data of which nothing but single steps is used.
    read, still = {edge.source for edge in graph.edges}, {edge.source for edge in edges}
    beyond = {edge.source for edge in edges if nodes[edge.target].kind != "input"}
    data = {id for id, node in nodes.items() if node.kind == "input" and node.step is None}
    gone = {*instead, *(read - still), *(data & read - beyond)}
    while True:  # what joined the stacks first, then the stacks
        fed = {edge.source for edge in edges if edge.target not in gone}
        more = {edge.source for edge in edges if edge.target in gone} - fed - gone
        more = {id for id in more if nodes[id].name in ("stack", "concat", "expand_dims")}
        if not more:
            break
        gone |= more
    kept = [
        replace(node, operands=tuple(ends(id)[0] if id is not None else None for id in node.operands))
        for id, node in nodes.items()
        if id not in gone
    ]
    return Graph(tuple(kept), tuple(edge for edge in edges if edge.source not in gone and edge.target not in gone))


def _elements(nodes: dict[str, Node], source: Node, index: int) -> tuple[str, ...]:
    """What was put at an index of a stack; of several, where they were joined side by side. Empty for other nodes."""
    if source.name == "stack" and source.settings == "axis=0":
        element = source.operands[index]
        return (element,) if element is not None else ()
    if source.name == "expand_dims" and source.settings == "axis=0" and index == 0:
        return tuple(id for id in source.operands if id is not None)
    if source.name == "concat" and source.settings != "axis=0":
        parts = [_elements(nodes, nodes[id], index) if id is not None else () for id in source.operands]
        return tuple(id for part in parts for id in part) if all(parts) else ()
    return ()


def _after_steps(graph: Graph) -> set[str]:
    """The ids of what steps have a part in."""
    found = {node.id for node in graph.nodes if node.step is not None}
    for edge in sorted(graph.edges, key=lambda edge: graph.order[edge.target]):
        if edge.source in found:
            found.add(edge.target)
    return found


def _whole_number(settings: str) -> int | None:
    inside = settings.removeprefix("[").removesuffix("]")
    return int(inside) if inside.removeprefix("-").isdigit() else None


def with_values(graph: Graph) -> Graph:
    """The graph with `value` filled in: the named value that each op alone feeds."""
    frontiers, nodes = frontier(graph), graph.by_id

    def value(node: Node) -> str | None:
        if node.kind != "op":
            return None
        found = frontiers[node.id]
        only = next(iter(found)) if len(found) == 1 else None
        if node.label:
            return node.id
        return only if only is not None and _place(nodes[only]) == _place(node) else None

    return Graph(tuple(node.changed(value=value(node)) for node in graph.nodes), graph.edges)


def frontier(graph: Graph) -> dict[str, frozenset[str]]:
    """For each node the named values that it feeds with no named value in between."""
    labelled = {node.id for node in graph.nodes if node.label and node.kind == "op"}
    after: dict[str, list[str]] = {}
    for edge in graph.edges:
        after.setdefault(edge.source, []).append(edge.target)
    found: dict[str, frozenset[str]] = {}
    for node in reversed(graph.nodes):
        parts = [frozenset((id,)) if id in labelled else found.get(id, frozenset()) for id in after.get(node.id, ())]
        found[node.id] = frozenset().union(*parts)
    return found


def gate(graph: Graph) -> Key:
    """One node a named value and step, and one for what the gates of a step share."""
    frontiers = frontier(graph)

    def key(node: Node) -> Hashable | None:
        if node.kind != "op":
            return None
        if node.value is not None:
            return ("value", node.value)
        return ("shared", _place(node), frontiers[node.id]) if node.step is not None else None

    return key


def cell(graph: Graph) -> Key:
    """One node a step of each layer."""
    finer = gate(graph)
    return lambda node: ("cell", _place(node)) if node.kind == "op" and node.step is not None else finer(node)


def layer(graph: Graph) -> Key:
    """One node a layer: the net rolled up again, its recurrent edges as loops."""
    finer = gate(graph)

    def key(node: Node) -> Hashable | None:
        if node.step is None:
            return finer(node)
        return ("layer" if node.kind == "op" else node.kind, node.net, node.layer, node.lane)

    return key


def _title(node: Node) -> str:
    return (node.cell or "cell").removesuffix("Cell")


def _place(node: Node) -> Hashable:
    return (node.column, node.cell, node.layer, node.lane)


def _joined(graph: Graph, level: str, found: Hashable, members: list[Node]) -> Node:
    """The node that stands for `members` at a level."""
    assert isinstance(found, tuple)
    last, kind = members[-1], found[0]
    ops = Counter(node.name for node in members if node.kind == "op")
    common = replace(
        last,
        id=members[0].id,
        members=members_of(members),
        operands=(),
        label=None,
        settings=", ".join(name if count == 1 else f"{name} ×{count}" for name, count in ops.items()),
    )
    if kind == "value":
        made = graph[found[1]]
        name = (made.label or made.name).replace("_", " ")
        text = formula(graph, {node.id for node in members}, made)
        return replace(
            common,
            kind="group",
            name=name,
            label=made.label,
            symbol="",
            formula=text,
            value=made.id,
            shape=made.shape,
            dtype=made.dtype,
            seen=made.seen,
            gradient=made.gradient,
        )
    if kind == "shared":
        inside = {node.id for node in members}
        outputs = dict.fromkeys(
            edge.source for edge in graph.edges if edge.source in inside and edge.target not in inside
        )
        texts = dict.fromkeys(formula(graph, inside, graph[id]) for id in outputs)
        if last.derivative:
            return replace(common, kind="group", name=f"gradient of {_title(last)}", symbol="", value=None)
        return replace(common, kind="group", name="", symbol="", formula=", ".join(texts), value=None)
    if kind in ("input", "constant"):
        return replace(common, kind=kind, name=last.name, step=None)
    name = _title(last)
    step = last.step if level == "cell" else None
    if last.derivative:
        name = f"gradient of {name}"
    shown = next((node for node in reversed(members) if node.label and node.kind == "op"), last)
    made = replace(common, kind="group", name=name, symbol="", step=step, value=None)
    if level == "layer":  # of many values there is no one number
        return replace(made, seen=None, gradient=None)
    return replace(made, seen=shown.seen, gradient=shown.gradient)
