"""Products of one kind made one: a cell costs the same whether its weights stand in one matrix or in several.

    x @ U, x @ V      ->   parts of x @ [U, V]        those that share what they multiply
    x @ U + y @ V     ->   [x, y] @ [U; V]            those that are summed

Both only where they can be done at the same time: nothing waits for what it did not wait for before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Sequence

from ..kernels import scalar
from ..program.step import ALIGNED, Block, Step, Value
from .order import Order, When

#: For values by number, how each is made from the values that others have become.
Changes = dict[int, Callable[[dict[int, Value]], Value]]


def merged(
    step: Step, roots: Sequence[Value], leading: Sequence[Value], given: Container[int], carried: Iterable[int]
) -> dict[int, Value]:
    """For each root, by number, the value that takes its place.

    Args:
        step: where values are made.
        roots: the values wanted.
        leading: those among them that are the next carry.
        given: numbers of those that lie in memory; they stay what they are.
        carried: numbers of those that are the carry.
    """
    became = {value.number: value for value in roots}
    for changes in (_summed, _sharing):
        now, ahead = [became[v.number] for v in roots], [became[v.number] for v in leading]
        order = Order(now, given, carried, ahead)
        new = _rebuilt(step, order, given, changes(step, order, given, now, ahead))
        became = {number: new[value.number] for number, value in became.items()}
    return became


def _rebuilt(step: Step, order: Order, given: Container[int], changes: Changes) -> dict[int, Value]:
    """All values again, by their old numbers."""
    new: dict[int, Value] = {}
    for value in order.every:
        if value.number in changes:
            new[value.number] = changes[value.number](new)
        elif value.number in given or not value.operands:
            new[value.number] = value
        else:
            new[value.number] = step.again(value, tuple([new[operand.number] for operand in value.operands]))
    return new


def _terms(value: Value, order: Order, given: Container[int]) -> list[Value]:
    """What a sum is the sum of, where nothing else uses the sums inside it."""
    terms, stack = [], [value]
    while stack:
        one = stack.pop()
        inside = one is value or (order.uses[one.number] == 1 and one.number not in given)
        if inside and one.operator == "map" and one.setting is scalar.add:
            stack += reversed(one.operands)
        else:
            terms.append(one)
    return terms


def _summed(step: Step, order: Order, given: Container[int], roots: Sequence[Value], _: Sequence[Value]) -> Changes:
    """Products that are summed, of operands that are not in memory yet and so can be put side by side."""
    starts = {p.number: start for _, start, p in order.products if p.operator == "product"}
    changes: Changes = {}
    inner: set[int] = set()
    for value in reversed(order.every):
        if value.number in given or value.number in inner or value.setting is not scalar.add:
            continue
        groups: dict[tuple[When, int], list[Value]] = {}
        terms = _terms(value, order, given)
        for term in terms:
            if term.number in starts and order.uses[term.number] == 1 and not _in_memory(term.operands[0], given):
                groups.setdefault((starts[term.number], term.width), []).append(term)
        several = [group for group in groups.values() if len({p.operands[0].number for p in group}) == len(group) > 1]
        stack = [value]
        while stack:  # the sums inside are not made any more
            one = stack.pop()
            if one is value or one.number not in {term.number for term in terms}:
                inner.add(one.number)
                stack += one.operands
        if several:
            changes[value.number] = functools.partial(_one_below_another, step, terms, several)
    return changes


def _one_below_another(step: Step, terms: list[Value], several: list[list[Value]], new: dict[int, Value]) -> Value:
    """The sum of terms, those of each group as one product."""
    left = [new[term.number] for term in terms if not any(term in group for group in several)]
    for group in several:
        parts, blocks, above = [], [], 0
        for product in group:
            operand = new[product.operands[0].number]
            parts.append((operand, above))
            blocks += [block._replace(above=block.above + above) for block in product.setting]
            above += operand.width
        left.append(step.by_blocks(step.join(parts, above), tuple(blocks), group[0].width))
    return functools.reduce(lambda a, b: step.map(scalar.add, a, b), left)


def _sharing(
    step: Step, order: Order, given: Container[int], roots: Sequence[Value], leading: Sequence[Value]
) -> Changes:
    """Products that share their operand; not those that can be added onto the rest of the next carry where it lies."""
    onto = {term.number for value in leading for term in _terms(value, order, given)}
    groups: dict[tuple[When, int], list[Value]] = {}
    for _, start, product in order.products:
        if product.operator == "product" and product.number not in onto:
            groups.setdefault((start, product.operands[0].number), []).append(product)
    wanted = {value.number for value in roots}
    changes: Changes = {}
    for group in groups.values():
        if len(group) == 1 or all(product.number in wanted for product in group):
            continue
        blocks: list[Block] = []
        lefts, end = [], 0
        for product in group:
            lefts.append(-(-end // ALIGNED) * ALIGNED)
            blocks += [block._replace(left=block.left + lefts[-1]) for block in product.setting]
            end = lefts[-1] + product.width
        for product, left in zip(group, lefts):
            changes[product.number] = functools.partial(_part, step, product, tuple(blocks), end, left)
    return changes


def _part(step: Step, product: Value, blocks: tuple[Block, ...], width: int, left: int, new: dict[int, Value]) -> Value:
    """A product as some columns of one that is made of these blocks."""
    return step.slice(step.by_blocks(new[product.operands[0].number], blocks, width), left, product.width)


def _in_memory(value: Value, given: Container[int]) -> bool:
    return value.number in given or (value.operator == "slice" and _in_memory(value.operands[0], given))
