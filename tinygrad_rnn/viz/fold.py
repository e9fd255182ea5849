"""Folding: of many steps the first and the last are drawn, and a node stands for those between."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from ..errors import ArgumentError
from .nodes import Graph, Node, contract, members_of

#: "auto" draws up to this many steps as they are; more as the first two and the last.
MOST_STEPS = 6
HEAD, TAIL = 2, 1

#: No sequence has more steps.
_LAST = 10_000_000


def fold(graph: Graph, hidden: Iterable[int], ops: Graph) -> Graph:
    """The graph with hidden steps contracted: an ellipsis for each layer, and for each run of neighbours among them.

    Args:
        graph: at any level.
        hidden: the steps that are not drawn, as `hidden_steps` gives them.
        ops: the graph of all operations, whose states' gradients an ellipsis tells of.
    """
    run_of = _runs(hidden, graph.steps)
    if not run_of:
        return graph
    states = {edge.source for edge in ops.edges if edge.kind == "recurrent"}
    norms = {id: statistics.norm for id in states if (statistics := ops[id].gradient) is not None}
    used = _parameters_of_steps(graph)

    def key(node: Node) -> Hashable | None:
        if node.step not in run_of:
            return None
        lane = None if node.kind == "input" else node.lane
        return node.net, run_of[node.step], lane

    def join(found: Hashable, members: list[Node]) -> Node:
        first = members[0]
        steps = sorted({node.step for node in members if node.step is not None})
        inside = [norms[id] for id in members_of(members) if id in norms]
        given = first.kind == "input"
        parameters = [used.get((first.net, step), frozenset()) for step in steps]
        same = bool(parameters[0]) and all(found == parameters[0] for found in parameters)
        return Node(
            first.id,
            "ellipsis",
            steps_in_words(steps),
            label="x" if given else None,
            cell=first.cell,
            layer=None if given else first.layer,
            reverse=first.reverse and not given,
            step=steps[0],
            derivative=0 if given else first.derivative,
            net=first.net,
            settings=f"{len(steps)} step{'s' if len(steps) > 1 else ''}" + (", same parameters" if same else ""),
            members=members_of(members),
            within=(min(inside), max(inside)) if inside else None,
        )

    return contract(graph, key, join)


def _runs(hidden: Iterable[int], steps: list[int]) -> dict[int, int]:
    """For each hidden step the first of the neighbours that are hidden with it."""
    hidden, found = set(hidden), {}
    before: int | None = None
    for step in steps:
        if step in hidden:
            before = found[step] = step if before is None else before
        else:
            before = None
    return found


def _parameters_of_steps(graph: Graph) -> dict[tuple[str, int | None], frozenset[str]]:
    found: dict[tuple[str, int | None], set[str]] = {}
    for edge in graph.edges:
        if edge.kind == "parameter":
            found.setdefault(graph[edge.target].column, set()).add(edge.source)
    return {column: frozenset(ids) for column, ids in found.items()}


def hidden_steps(steps: list[int], how: Any, shown: str | Iterable[int] | None = None) -> list[int]:
    """The steps that are not drawn one by one.

    Args:
        steps: all steps, from 0.
        how: "auto", None for every step, or (head, tail): how many steps to draw at the beginning and at the end.
        shown: the steps to draw, counted from 1 as in the picture: "1,2,50-52", or several numbers; `how` is not
            looked at then.

    Raises:
        ArgumentError: for anything else.
    """
    if shown is not None:
        wanted = chosen_steps(shown)
        beyond = sorted(wanted - {step + 1 for step in steps})
        if beyond:
            raise ArgumentError(
                f"graph: there is no step {beyond[0]}", expected=f"1 to {len(steps)}", got=str(shown)
            )  # fmt: skip
        return [step for step in steps if step + 1 not in wanted]
    if how is None:
        return []
    if isinstance(how, str) and how == "auto":
        if len(steps) <= MOST_STEPS:
            return []
        head, tail = HEAD, TAIL
    else:
        try:
            head, tail = (int(count) for count in how)
        except (TypeError, ValueError):
            head = tail = -1
        if head < 0 or tail < 0:
            raise ArgumentError("graph: no such fold", expected='"auto", None or (head, tail)', got=repr(how))
    return steps[head : len(steps) - tail]


def chosen_steps(shown: str | Iterable[int]) -> set[int]:
    """The numbers that "1,2,50-52" names.

    Raises:
        ArgumentError: for text that names none.
    """
    found: set[int] = set()
    if not isinstance(shown, (str, Iterable)):
        raise ArgumentError("graph: no such steps", expected='text such as "1,2,50-52", or numbers', got=repr(shown))
    for part in shown.split(",") if isinstance(shown, str) else map(str, shown):
        first, dash, last = part.strip().partition("-")
        whole = first.isdecimal() and (last.isdecimal() or not dash)
        if not whole or not 1 <= int(first) <= int(last or first) <= _LAST:
            raise ArgumentError("graph: no such steps", expected="numbers and ranges such as 1,2,50-52", got=part)
        found.update(range(int(first), int(last or first) + 1))
    return found


def steps_in_words(steps: list[int]) -> str:
    """Steps as a reader counts them, from 1."""
    return f"step {steps[0] + 1}" if len(steps) == 1 else f"steps {steps[0] + 1} to {steps[-1] + 1}"
