"""The grammar of the intermediate form: what one step is made of.

A node is an array (B, *shape): `shape` are its axes behind the batch, and no row knows of another. Operands of a `Map`
broadcast as NumPy's do behind the batch. A node is known by itself: equal ones are one because `Builder` makes them so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..kernels.scalar import Primitive


class Block(NamedTuple):
    """A captured matrix (inner, width), or its transpose, as part of a larger one: its first row and column there."""

    matrix: int
    transposed: bool
    above: int
    left: int
    inner: int
    width: int

    @property
    def name(self) -> str:
        return f"w{self.matrix}{'.T' if self.transposed else ''}"


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Node:
    """Attributes: `number` in the order of making, above those of all operands; `dtype` a NumPy name, or "bool"."""

    number: int
    shape: tuple[int, ...]
    dtype: str
    operands: tuple[Node, ...]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        return f"%{self.number}"

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()

    def __repr__(self) -> str:
        return f"{self.name} = {text(self)}"


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Input(Node):  # what is given at each step: ("carry", 0), ("x", 1), ...
    source: tuple[str, int]


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Captured(Node):  # a captured vector, the same for all rows and steps
    index: int


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Const(Node):
    value: float


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Map(Node):  # a primitive on each element
    primitive: Primitive


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Reduce(Node):  # "sum", "max" or "min" along axes, which stay with size 1
    reduction: str
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Slice(Node):  # the first index taken along each axis; how many says the shape
    starts: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Join(Node):  # operands side by side along an axis, each at its offset
    axis: int
    offsets: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Broadcast(Node):  # repeated to the shape
    pass


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Reshape(Node):  # the same numbers in the shape
    pass


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Transpose(Node):
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Product(Node):  # the last axis times a matrix made of captured ones; columns that no block fills are anything
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Contract(Node):  # of two row values, as einsum says behind the batch: "ij,jk->ik"
    subscripts: str


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Lookup(Node):  # rows of a captured matrix, at the numbers that the operand holds
    matrix: int


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class ScatterAdd(Node):  # of (numbers, rows): each row added to that with its number, of zeros
    pass


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Kth(Node):  # the k-th largest along the last axis, which stays with size 1
    k: int


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Draw(Node):
    """Random numbers: 0 with probability p, else 1 / (1 - p); with p None, standard Gumbel noise.

    `origin` says what `key` is: the number of one among those drawn by a "step", or for the "sequence", or "fixed".
    """

    origin: str
    key: int
    p: float | None


#: Nodes that take whole rows out of memory.
WHOLE_ROWS = (Product, Contract, Lookup, ScatterAdd, Kth)


def text(node: Node) -> str:
    """What a node is made of, in one line."""
    operands = ", ".join([operand.name for operand in node.operands])
    match node:
        case Input(source=(name, index)):
            return f"{name} {index}"
        case Captured():
            return f"v{node.index}"
        case Const():
            return repr(node.value)
        case Map():
            return f"{node.primitive.name}({operands})"
        case Slice():
            ends = [start + size for start, size in zip(node.starts, node.shape)]
            return f"{operands}[{', '.join([f'{start}:{end}' for start, end in zip(node.starts, ends)])}]"
        case Product(blocks=(block,)):
            return f"{operands} @ {block.name}"
        case Product():
            beside: dict[int, list[str]] = {}
            for block in node.blocks:
                beside.setdefault(block.above, []).append(block.name)
            return f"{operands} @ [{'; '.join([', '.join(row) for row in beside.values()])}]"
        case Lookup():
            return f"w{node.matrix}[{operands}]"
        case Reduce():
            return f"{node.reduction}({operands})"
        case Transpose() | Contract():
            return f"{node.kind}({operands}, {node.axes if isinstance(node, Transpose) else node.subscripts})"
        case Kth():
            return f"kth({operands}, {node.k})"
        case Draw():
            return f"draw {node.key} of the {node.origin}"
        case _:
            return f"{node.kind}({operands})"


def reachable(nodes: Iterable[Node], known: Container[int] = ()) -> list[Node]:
    """All that these are made of, and themselves, in the order of making; what is `known` is not followed."""
    found: dict[int, Node] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node.number not in found:
            found[node.number] = node
            if node.number not in known:
                stack.extend(node.operands)
    return [found[number] for number in sorted(found)]


def listed(nodes: Iterable[Node], names: Mapping[str, str], labels: Mapping[int, str]) -> Iterator[str]:
    """A line for each node. `names` are those of captured vectors and matrices: "v0", "w0", ..."""
    for node in nodes:
        line = re.sub(r"\b[vw]\d+\b", lambda found: names.get(found[0], found[0]), repr(node))
        size = "x".join(map(str, node.shape)) or "1"
        label = f"  # {labels[node.number]}" if node.number in labels else ""
        yield f"{line.ljust(42)} {size}{label}"
