"""A program under construction: equal nodes are one, and what is plainly nothing is left out."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from ..kernels import scalar
from ..kernels.scalar import Primitive
from .nodes import (
    Block,
    Broadcast,
    Captured,
    Const,
    Contract,
    Draw,
    Input,
    Join,
    Kth,
    Lookup,
    Map,
    Node,
    Product,
    Reduce,
    Reshape,
    ScatterAdd,
    Slice,
    Transpose,
)

N = TypeVar("N", bound=Node)


class Builder:
    """Makes nodes, and says which there are.

    Attributes:
        dtype: of all that are no truth values.
        nodes: all, in the order of making.
        labels: names given to some, by their numbers.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.nodes: list[Node] = []
        self.labels: dict[int, str] = {}
        self._known: dict[Any, Any] = {}

    def _made(
        self, kind: type[N], shape: tuple[int, ...], operands: tuple[Node, ...], *own: Any, dtype: str | None = None
    ) -> N:
        key = (kind, own, shape, tuple([operand.number for operand in operands]))
        found: N | None = self._known.get(key)
        if found is None:
            found = self._known[key] = kind(len(self.nodes), shape, dtype or self.dtype, operands, *own)
            self.nodes.append(found)
        return found

    def again(self, node: Node, operands: tuple[Node, ...]) -> Node:
        """The same as a node, of other operands, which have the shapes of its own."""
        if operands == node.operands:
            return node
        made: Node
        if isinstance(node, Slice):
            made = self.slice(operands[0], node.starts, node.shape)
        elif isinstance(node, Join):
            made = self.join(zip(operands, node.offsets), node.shape, node.axis)
        else:
            own = [getattr(node, field.name) for field in dataclasses.fields(node)[4:]]
            made = self._made(type(node), node.shape, operands, *own, dtype=node.dtype)
        if node.number in self.labels and type(made) is type(node):
            self.labels.setdefault(made.number, self.labels[node.number])
        return made

    # --- What is given ---

    def input(self, source: tuple[str, int], shape: tuple[int, ...], dtype: str | None = None) -> Input:
        """What is given at each step: ("carry", 0), ("x", 1), ..."""
        return self._made(Input, shape, (), source, dtype=dtype)

    def captured(self, index: int, shape: tuple[int, ...]) -> Captured:
        """A captured vector."""
        return self._made(Captured, shape, (), index)

    def constant(self, value: float) -> Const:
        """A number, which goes with any shape."""
        key = (Const, value, math.copysign(1.0, value))  # zeros of both signs are equal, and two
        found: Const | None = self._known.get(key)
        if found is None:
            found = self._known[key] = Const(len(self.nodes), (), self.dtype, (), value)
            self.nodes.append(found)
        return found

    def draw(self, origin: str, key: int, p: float | None, shape: tuple[int, ...]) -> Draw:
        """Random numbers."""
        return self._made(Draw, shape, (), origin, key, p)

    # --- Element by element ---

    def map(self, primitive: Primitive, *operands: Node) -> Node:
        """A primitive on each element."""
        first = operands[0]
        if all(isinstance(operand, Const) for operand in operands):
            with np.errstate(all="ignore"):
                return self.constant(float(primitive.reference(*[operand.value for operand in operands])))  # type: ignore[attr-defined]
        if primitive is scalar.multiply:
            for one, other in (operands, operands[::-1]):
                if isinstance(one, Const) and one.value == 1.0:
                    return other
        if primitive is scalar.divide and isinstance(operands[1], Const) and operands[1].value == 1.0:
            return first
        if primitive is scalar.where and isinstance(first, Const):
            return operands[1] if first.value else operands[2]
        shape = first.shape
        if any(operand.shape != shape for operand in operands):
            shape = np.broadcast_shapes(*[operand.shape for operand in operands])
        return self._made(Map, shape, operands, primitive, dtype="bool" if primitive.boolean else None)

    # --- Where numbers stand ---

    def slice(self, node: Node, starts: tuple[int, ...], shape: tuple[int, ...]) -> Node:
        """Some numbers of each row: along each axis so many from a start on."""
        while True:
            if not any(starts) and math.prod(shape) == node.width:
                return node
            if isinstance(node, Slice):
                starts = tuple([a + b for a, b in zip(starts, node.starts)])
                node = node.operands[0]
                continue
            part = _part(node, starts, shape) if isinstance(node, Join) else None
            if part is None:
                return self._made(Slice, shape, (node,), starts, dtype=node.dtype)
            node, starts = part

    def join(self, parts: Iterable[tuple[Node, int]], shape: tuple[int, ...], axis: int = 0) -> Node:
        """Nodes side by side along an axis, each at its offset, none over another; zeros where there is none."""
        placed: list[tuple[Node, int]] = sorted(parts, key=lambda part: part[1])
        first, size = placed[0][0], shape[axis]
        if len(placed) == 1 and first.width == math.prod(shape):
            return first
        if isinstance(first, Slice) and not any(first.starts) and first.operands[0].shape == shape:
            whole, end = first.operands[0], 0
            for part, offset in placed:
                same = isinstance(part, Slice) and part.operands[0] is whole and part.starts[axis] == offset == end
                if not same or part.shape != _along(shape, axis, part.shape[axis]):
                    break
                end += part.shape[axis]
            if end == size:
                return whole
        filled: list[tuple[Node, int]] = []
        end = 0
        for part, offset in placed:
            filled += self._zeros(shape, axis, end, offset)
            filled.append((part, offset))
            end = offset + (part.shape[axis] if part.shape else 1)
        filled += self._zeros(shape, axis, end, size)
        offsets = tuple([offset for _, offset in filled])
        return self._made(Join, shape, tuple([part for part, _ in filled]), axis, offsets, dtype=first.dtype)

    def _zeros(self, shape: tuple[int, ...], axis: int, start: int, end: int) -> list[tuple[Node, int]]:
        size = _along(shape, axis, end - start)
        return [(self.broadcast(self.constant(0.0), size), start)] if end > start else []

    def broadcast(self, node: Node, shape: tuple[int, ...]) -> Node:
        """Repeated to a shape; a single number is left as it is where one is wanted."""
        if node.shape == shape or node.width == math.prod(shape) == 1:
            return node
        return self._made(Broadcast, shape, (node,), dtype=node.dtype)

    def reshape(self, node: Node, shape: tuple[int, ...]) -> Node:
        """The same numbers in another shape."""
        return node if node.shape == shape else self._made(Reshape, shape, (node,), dtype=node.dtype)

    def transpose(self, node: Node, axes: tuple[int, ...]) -> Node:
        """Axes behind the batch in another order."""
        if axes == tuple(range(len(axes))):
            return node
        return self._made(Transpose, tuple([node.shape[axis] for axis in axes]), (node,), axes, dtype=node.dtype)

    # --- Whole rows ---

    def product(self, node: Node, matrix: int, transposed: bool, width: int) -> Product:
        """node @ matrix, or its transpose."""
        inner = node.shape[-1] if node.shape else 1
        return self.by_blocks(node, (Block(matrix, transposed, 0, 0, inner, width),), width)

    def by_blocks(self, node: Node, blocks: tuple[Block, ...], width: int) -> Product:
        """node @ a matrix made of these blocks; columns that none of them fills are anything."""
        return self._made(Product, (*node.shape[:-1], width), (node,), blocks)

    def contract(self, subscripts: str, left: Node, right: Node) -> Contract:
        """Two row values as einsum says, behind the batch: "ij,jk->ik"."""
        terms, made = subscripts.split("->")
        sizes = {
            letter: size
            for term, node in zip(terms.split(","), (left, right))
            for letter, size in zip(term, node.shape, strict=True)
        }
        return self._made(Contract, tuple([sizes[letter] for letter in made]), (left, right), subscripts)

    def lookup(self, index: Node, matrix: int, width: int) -> Lookup:
        """matrix[index], a row for each number; the last axis, of size 1, becomes the row."""
        return self._made(Lookup, (*index.shape[:-1], width), (index,), matrix)

    def scatter_add(self, index: Node, rows: Node, count: int) -> ScatterAdd:
        """`count` rows of zeros, to which each of `rows` (n, ...) is added where its `index` (n,) says."""
        return self._made(ScatterAdd, (count, *rows.shape[1:]), (index, rows))

    def kth(self, node: Node, k: int) -> Kth:
        """The k-th largest number along the last axis."""
        return self._made(Kth, (*node.shape[:-1], 1), (node,), k)

    def reduce(self, reduction: str, node: Node, axes: tuple[int, ...] | None = None) -> Reduce:
        """sum, max or min along axes, or all; they stay with size 1."""
        axes = tuple(range(len(node.shape))) if axes is None else axes
        shape = tuple([1 if axis in axes else size for axis, size in enumerate(node.shape)]) or (1,)
        return self._made(Reduce, shape, (node,), reduction, axes)


def _along(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _part(join: Join, starts: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Node, tuple[int, ...]] | None:
    """The operand of a join that holds all of a slice, and where in it the slice starts."""
    start, axis = starts[join.axis], join.axis
    place = bisect.bisect_right(join.offsets, start) - 1
    part, offset = join.operands[place], join.offsets[place]
    if place < 0 or start + shape[axis] > offset + (part.shape[axis] if part.shape else 1):
        return None
    return part, _along(starts, axis, start - offset)
