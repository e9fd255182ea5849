"""Products of one kind made one: a cell costs the same whether its weights stand in one matrix or in several.

    x @ U, x @ V      ->   parts of x @ [U, V]        those that share what they multiply
    x @ U + y @ V     ->   [x, y] @ [U; V]            those that are summed

Both only where they can be done at the same time: nothing waits for what it did not wait for before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from ...ir.builder import Builder
from ...ir.nodes import Block, Map, Node, Product, Slice
from ...ir.program import Direction, Program
from ...kernels import scalar
from .levels import Order, When

#: Matrices side by side start at multiples of this many columns: no vector of any machine then holds parts of two.
ALIGNED = 16

#: For nodes by number, how each is made from the nodes that others have become.
Changes = dict[int, Callable[[dict[int, Node]], Node]]


def merge(program: Program, builder: Builder) -> Program:
    """The program with fewer, larger products, in both directions."""
    backward = None if program.backward is None else _merged(program.backward, builder)
    return replace(program, backward=backward, forward=_merged(program.forward, builder))


def _merged(direction: Direction, builder: Builder) -> Direction:
    given = direction.given
    for changes in (_summed, _sharing):
        order = Order(direction.targets(), given, direction.carried, direction.next_carry)
        new = _rebuilt(builder, order, given, changes(builder, order, direction))
        direction = Direction(
            given,
            tuple([w._replace(node=new[w.node.number]) for w in direction.wanted]),
            tuple([
                gemm._replace(left=gemm.left and new[gemm.left.number], right=new[gemm.right.number])
                for gemm in direction.gemms
            ]),
        )  # fmt: skip
    return direction


def _rebuilt(builder: Builder, order: Order, given: Container[int], changes: Changes) -> dict[int, Node]:
    """All nodes again, by their old numbers."""
    new: dict[int, Node] = {}
    for node in order.every:
        if node.number in changes:
            new[node.number] = changes[node.number](new)
        elif node.number in given or not node.operands:
            new[node.number] = node
        else:
            new[node.number] = builder.again(node, tuple([new[operand.number] for operand in node.operands]))
    return new


def is_sum(node: Node) -> bool:
    """Whether a node adds two others."""
    return isinstance(node, Map) and node.primitive is scalar.add


def terms_of(node: Node, order: Order, given: Container[int]) -> tuple[list[Node], list[Node]]:
    """What a sum is the sum of, and the sums inside it, which nothing else uses."""
    terms, sums, stack = [], [], [node]
    while stack:
        one = stack.pop()
        inside = one is node or order.uses[one.number] == 1
        if inside and is_sum(one) and one.number not in given:
            sums.append(one)
            stack += reversed(one.operands)
        else:
            terms.append(one)
    return terms, sums


def _summed(builder: Builder, order: Order, direction: Direction) -> Changes:
    """Products that are summed, of operands that are not in memory yet and so can be put side by side."""
    given = direction.given
    starts = {node.number: start for _, start, node in order.phases if isinstance(node, Product)}
    changes: Changes = {}
    inner: set[int] = set()
    for node in reversed(order.every):
        if node.number in given or node.number in inner or not is_sum(node):
            continue
        groups: dict[tuple[When, int], list[Product]] = {}
        terms, sums = terms_of(node, order, given)
        inner.update([one.number for one in sums])  # they are not made any more
        for term in terms:
            alone = term.number in starts and order.uses[term.number] == 1
            if isinstance(term, Product) and alone and not _in_memory(term.operands[0], given):
                groups.setdefault((starts[term.number], term.width), []).append(term)
        several = [group for group in groups.values() if len({p.operands[0].number for p in group}) == len(group) > 1]
        if several:
            changes[node.number] = functools.partial(_one_below_another, builder, terms, several)
    return changes


def _one_below_another(builder: Builder, terms: list[Node], several: list[list[Product]], new: dict[int, Node]) -> Node:
    """The sum of terms, those of each group as one product."""
    grouped = {product.number for group in several for product in group}
    left = [new[term.number] for term in terms if term.number not in grouped]
    for group in several:
        parts, blocks, above = [], [], 0
        for product in group:
            operand = new[product.operands[0].number]
            parts.append((operand, above))
            blocks += [block._replace(above=block.above + above) for block in product.blocks]
            above += operand.width
        left.append(builder.by_blocks(builder.join(parts, (above,)), tuple(blocks), group[0].width))
    return functools.reduce(lambda a, b: builder.map(scalar.add, a, b), left)


def _sharing(builder: Builder, order: Order, direction: Direction) -> Changes:
    """Products that share their operand; not those that can be added onto the rest of the next carry where it lies."""
    given = direction.given
    added = {term.number for node in direction.next_carry for term in terms_of(node, order, given)[0]}
    groups: dict[tuple[When, int], list[Product]] = {}
    for _, start, product in order.phases:
        if isinstance(product, Product) and product.number not in added:
            groups.setdefault((start, product.operands[0].number), []).append(product)
    wanted = {node.number for node in direction.targets()}
    changes: Changes = {}
    for group in groups.values():
        if len(group) == 1 or all(product.number in wanted for product in group):
            continue
        whole = _SideBySide(builder, group)
        changes.update({product.number: functools.partial(whole.part, product) for product in group})
    return changes


class _SideBySide:
    """One product in place of several that share their operand."""

    def __init__(self, builder: Builder, group: Sequence[Product]) -> None:
        self.builder = builder
        self.lefts: dict[int, int] = {}
        self.made: Product | None = None
        blocks: list[Block] = []
        end = 0
        for product in group:
            left = self.lefts[product.number] = -(-end // ALIGNED) * ALIGNED
            blocks += [block._replace(left=block.left + left) for block in product.blocks]
            end = left + product.width
        self.blocks, self.width = tuple(blocks), end

    def part(self, product: Product, new: dict[int, Node]) -> Node:
        """One of them as some columns of the whole."""
        if self.made is None:
            self.made = self.builder.by_blocks(new[product.operands[0].number], self.blocks, self.width)
        return self.builder.slice(self.made, (self.lefts[product.number],), product.shape)


def _in_memory(node: Node, given: Container[int]) -> bool:
    while isinstance(node, Slice) and node.number not in given:
        node = node.operands[0]
    return node.number in given
