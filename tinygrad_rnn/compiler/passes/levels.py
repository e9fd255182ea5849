"""What depends on what in a step, and when each node can be had: before the loop, in it, or after it."""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable

from ...ir.nodes import WHOLE_ROWS, Node, reachable


class Level(enum.IntEnum):
    """Where something is done.

    What does not depend on the carry is hoisted into the prologue, for a chunk of steps at once; what the next carry
    depends on is done in the loop, step by step; what nothing waits for is sunk into the epilogue, for the chunk at
    once.
    """

    PROLOGUE = 0
    LOOP = 1
    EPILOGUE = 2


#: When something is done: (level, stage); a row function of a stage comes before its products.
When = tuple[int, float]


class Order:
    """The order of what some nodes are made of.

    Args:
        targets: the nodes wanted.
        given: numbers of those that lie in memory.
        carried: numbers of those that are the carry.
        roots: the nodes that the next carry is, or is made of.

    Attributes:
        every: all that the targets are made of, up to what is given.
        depends: numbers of those that depend on the carry.
        when: for each by number, when it can be had.
        phases: all that take whole rows, with their level and when they are done.
        uses: for each by number, how many others use it, or want it.
    """

    def __init__(
        self, targets: Iterable[Node], given: Container[int], carried: Iterable[int], roots: Iterable[Node]
    ) -> None:
        targets = list(targets)
        self.every = reachable(targets, given)
        self.depends = set(carried)
        self.uses: dict[int, int] = {}
        self.when: dict[int, When] = {}
        self.phases: list[tuple[Level, When, Node]] = []
        feeds = {node.number for node in reachable(roots, given)}
        for node in self.every:
            if node.number in given or not node.operands:
                self.when[node.number] = (0, 0)
                continue
            if any(operand.number in self.depends for operand in node.operands):
                self.depends.add(node.number)
            ready = max([self.when[operand.number] for operand in node.operands])
            if isinstance(node, WHOLE_ROWS):
                if node.number not in self.depends:
                    level = Level.PROLOGUE
                else:
                    level = Level.LOOP if node.number in feeds else Level.EPILOGUE
                start = max((int(level), 0), ready)
                self.phases.append((level, start, node))
                ready = (int(level), start[1] + 1)
            self.when[node.number] = ready
            for operand in node.operands:
                self.uses[operand.number] = self.uses.get(operand.number, 0) + 1
        for node in targets:
            self.uses[node.number] = self.uses.get(node.number, 0) + 1
