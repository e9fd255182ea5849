"""What depends on what in a step, and when each value can be had."""

from __future__ import annotations

from collections.abc import Container, Iterable

from ..program.step import Value, reachable

#: When something is done: (level, stage); a row function of a stage comes before its products.
When = tuple[int, float]

#: Operators of values that are phases of their own: they take whole rows out of memory.
PHASES = frozenset({"product", "lookup", "kth"})


class Order:
    """The order of what some values are made of.

    There are three levels. What does not depend on the carry is done before, for a chunk of steps at once (level 0);
    what the next carry depends on is done step by step (1); what nothing waits for is done after, for the chunk at
    once (2).

    Args:
        targets: the values wanted.
        given: numbers of those that lie in memory.
        carried: numbers of those that are the carry.
        leading: the values that the next carry is, or is made of.

    Attributes:
        every: all that the targets are made of, up to what is given.
        depends: numbers of those that depend on the carry.
        when: for each by number, when it can be had.
        products: all products with their level and when they are done.
        uses: for each by number, how many others use it, or want it.
    """

    def __init__(
        self, targets: Iterable[Value], given: Container[int], carried: Iterable[int], leading: Iterable[Value]
    ) -> None:
        targets = list(targets)
        self.every = reachable(targets, given)
        self.depends = set(carried)
        self.uses: dict[int, int] = {}
        self.when: dict[int, When] = {}
        self.products: list[tuple[int, When, Value]] = []
        feeds = {value.number for value in reachable(leading, given)}
        for value in self.every:
            if value.number in given or not value.operands:
                self.when[value.number] = (0, 0)
                continue
            if any(operand.number in self.depends for operand in value.operands):
                self.depends.add(value.number)
            ready = max(self.when[operand.number] for operand in value.operands)
            if value.operator in PHASES:
                level = 0 if value.number not in self.depends else 1 if value.number in feeds else 2
                start = max((level, 0), ready)
                self.products.append((level, start, value))
                ready = (level, start[1] + 1)
            self.when[value.number] = ready
            for operand in value.operands:
                self.uses[operand.number] = self.uses.get(operand.number, 0) + 1
        for value in targets:
            self.uses[value.number] = self.uses.get(value.number, 0) + 1
