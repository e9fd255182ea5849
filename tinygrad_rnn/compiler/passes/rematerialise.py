"""What the forward run saves for the gradient; all else is computed again there."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace

from ...ir.nodes import WHOLE_ROWS, Map, Node, Reduce
from ...ir.program import Program, Wanted


def rematerialise(program: Program, forward: int) -> Program:
    """The program with what it saves; nodes from number `forward` on are the gradient's alone."""
    back = program.backward
    if back is None:
        return program
    saved = worth_saving(back.targets(), back.given, forward)
    wanted = tuple([Wanted(node, ("saved", i)) for i, node in enumerate(saved)])
    given = {**back.given, **{node.number: ("saved", i) for i, node in enumerate(saved)}}
    ahead = replace(program.forward, wanted=program.forward.wanted + wanted)
    return Program(ahead, replace(back, given=given), tuple(saved))


def worth_saving(wanted: Iterable[Node], given: Container[int], forward: int) -> list[Node]:
    """Of what the nodes wanted are made of, all that one costly function cannot bring back.

    Args:
        wanted: nodes of the backward run.
        given: numbers of those that lie in memory then.
        forward: the first number that is not of the forward run.
    """
    needed: dict[int, Node] = {}
    seen: set[int] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node.number in seen or node.number in given:
            continue
        seen.add(node.number)
        if node.number < forward:
            needed[node.number] = node
        else:
            stack += node.operands
    #: How many costly functions bring a node back, as far as that is 0, 1 or more. What is needed in two places is
    #: counted twice, which is no harm: at two it is saved.
    costs: dict[int, int] = {}
    saved: list[Node] = []
    for node in _below(needed.values(), given):
        if isinstance(node, (*WHOLE_ROWS, Reduce)):
            cost = 2
        else:
            cost = int(isinstance(node, Map) and node.primitive.costly)
            cost += sum([costs.get(operand.number, 0) for operand in node.operands])
        if cost > 1 and node.number in needed:
            saved.append(node)
            cost = 0
        costs[node.number] = min(cost, 2)
    return saved


def _below(nodes: Iterable[Node], given: Container[int]) -> list[Node]:
    """All that nodes are made of, in the order of making; nothing of what is given."""
    found: dict[int, Node] = {}
    stack = [node for node in nodes if node.number not in given]
    while stack:
        node = stack.pop()
        if node.number not in found:
            found[node.number] = node
            stack += [operand for operand in node.operands if operand.number not in given]
    return [found[number] for number in sorted(found)]
