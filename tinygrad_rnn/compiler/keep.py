"""What the forward run keeps for the gradient, and what is computed again."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable

from ..program.step import Value
from .order import PHASES


def chosen(wanted: Iterable[Value], given: Container[int], forward: int) -> list[Value]:
    """Of what the values wanted are made of, all that one costly function cannot bring back.

    Args:
        wanted: the values of the backward run.
        given: numbers of those that lie in memory then.
        forward: the first number that is not of the forward run.
    """
    needed: dict[int, Value] = {}
    seen: set[int] = set()
    stack = list(wanted)
    while stack:
        value = stack.pop()
        if value.number in seen or value.number in given:
            continue
        seen.add(value.number)
        if value.number < forward:
            needed[value.number] = value
        else:
            stack += value.operands
    kept: dict[int, Value] = {}

    def cost(value: Value) -> float:
        if value.number in given or value.number in kept:
            return 0
        if value.operator in PHASES or value.operator == "reduce":
            return math.inf
        own = value.operator == "map" and value.setting.costly
        return own + sum(map(cost, value.operands))

    for number in sorted(needed):
        if cost(needed[number]) > 1:
            kept[number] = needed[number]
    return list(kept.values())
