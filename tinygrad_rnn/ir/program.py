"""A program: one step as data, in the direction of time and back, with all that a run over time needs.

Every stage of the compiler takes a program and returns one; `interpret` says what each means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .nodes import Captured, Draw, Input, Node

#: Names a piece of memory: ("carry", 0), ("next", 0), ("x", 0), ("scratch", 3), ...
Key = tuple[str, int]


class Wanted(NamedTuple):
    """A node that a step shall leave somewhere; with `add`, its sum over rows and steps."""

    node: Node
    key: Key
    add: bool = False


class Gemm(NamedTuple):
    """A weight-gradient GEMM: left.T @ right, summed over rows and steps at once. No `left` is a column of ones."""

    left: Node | None
    right: Node
    key: Key


@dataclass(frozen=True)
class Direction:
    """What a step does on its way through time, or back.

    Attributes:
        given: for nodes that lie in memory, by number, where. What is ("carry", i) was left as ("next", i) by the step
            before.
        wanted: what is left in memory.
        gemms: what is summed over all steps behind the loop.
    """

    given: Mapping[int, Key]
    wanted: tuple[Wanted, ...]
    gemms: tuple[Gemm, ...] = ()

    @property
    def carried(self) -> set[int]:
        """The numbers of the nodes that are the carry."""
        return {number for number, (name, _) in self.given.items() if name == "carry"}

    @property
    def next_carry(self) -> list[Node]:
        """The next carry."""
        return [w.node for w in self.wanted if w.key[0] == "next"]

    def targets(self) -> Iterator[Node]:
        """All nodes that something is wanted of."""
        yield from [w.node for w in self.wanted]
        for gemm in self.gemms:
            yield from (gemm.right,) if gemm.left is None else (gemm.left, gemm.right)


@dataclass(frozen=True)
class Program:
    """A step and, where one is wanted, its gradient.

    Attributes:
        forward, backward: both ways; the second takes the steps in the other order.
        saved: what the first leaves for the second, as ("saved", i).
    """

    forward: Direction
    backward: Direction | None = None
    saved: tuple[Node, ...] = ()


#: What the gradient of a step calls what the step calls so.
BACKWARD = {"carry": "state", "carry gradient": "carry", "output gradient": "dy"}


def given_of(nodes: Iterable[Node], backward: bool) -> dict[int, Key]:
    """Where inputs, captured vectors and random numbers lie, among nodes, in one direction.

    Random numbers are counted in the order in which they were made.
    """
    given: dict[int, Key] = {}
    draws = 0
    for node in nodes:
        if isinstance(node, Input):
            name, i = node.source
            if backward or "gradient" not in name:
                given[node.number] = BACKWARD.get(name, name) if backward else name, i
        elif isinstance(node, Captured):
            given[node.number] = "vector", node.index
        elif isinstance(node, Draw):
            given[node.number] = "mask", draws
            draws += 1
    return given
