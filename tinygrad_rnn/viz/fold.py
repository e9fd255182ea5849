"""Folding: of many steps the first and the last are drawn, and one node stands for those between."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from ..errors import ArgumentError
from .nodes import Graph, Node, contract, members_of

#: "auto" draws up to this many steps as they are; more as the first two and the last.
MOST_STEPS = 6
HEAD, TAIL = 2, 1


def fold(graph: Graph, how: Any) -> Graph:
    """The graph with the steps between the first and the last contracted, one ellipsis a layer.

    Args:
        graph: at any level.
        how: "auto", None for every step, or (head, tail): how many steps to draw at the beginning and at the end.

    Raises:
        ArgumentError: for anything else.
    """
    hidden = set(hidden_steps(graph.steps, how))
    if not hidden:
        return graph

    def key(node: Node) -> Hashable | None:
        if node.step not in hidden:
            return None
        return ("x", None, False) if node.kind == "input" else ("ellipsis", node.layer, node.reverse)

    def join(found: Hashable, members: list[Node]) -> Node:
        assert isinstance(found, tuple)
        first = members[0]
        steps = sorted({node.step for node in members if node.step is not None})
        return replace(
            Node(first.id, "ellipsis", steps_in_words(steps)),
            label=found[0] if found[0] == "x" else None,
            cell=first.cell,
            layer=found[1],
            reverse=found[2],
            step=steps[0],
            settings=f"{len(steps)} steps",
            members=members_of(members),
        )

    return contract(graph, key, join)


def hidden_steps(steps: list[int], how: Any) -> list[int]:
    """The steps that are not drawn one by one."""
    if how is None:
        return []
    if how == "auto":
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


def steps_in_words(steps: list[int]) -> str:
    """Steps as a reader counts them, from 1."""
    return f"step {steps[0] + 1}" if len(steps) == 1 else f"steps {steps[0] + 1} to {steps[-1] + 1}"
