"""How each operation on rows is lowered: products, shapes, pieces and reductions; `lower` does the elementwise ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.nodes import Input, Lookup, Node
from ..kernels import scalar
from .forms import Fixed, Recipe, Row, Tall, Turned
from .trace import NotFused, Traced

if TYPE_CHECKING:
    from .lower import Lowering

Rule = Callable[["Lowering", Traced, list[Any]], Any]

#: Rows of a table that may be multiplied anew at each run, instead of a product at each step.
SMALL_TABLE = 256

#: How to lower an operation on rows that is not elementwise, by the operation's name.
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


@_rule("linear")
def _linear(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    x, (width, _) = low.rowed(operands[0]), one.inputs[1].shape
    if len(x.shape) != 1:
        raise NotFused("it multiplies rows of several axes")
    made = _multiplied_before(low, one, x, operands[1], width)
    made = made or low.product(x, operands[1], True, width)
    if operands[2] is not None:
        made = low.step.map(scalar.add, made, low.vector(operands[2], width))
    return Row(made, (width,))


@_rule("matmul")
def _matmul(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    x = low.rowed(operands[0])
    if len(x.shape) != 1:
        raise NotFused("it multiplies rows of several axes")
    width = one.inputs[1].shape[-1]
    made = _multiplied_before(low, one, x, operands[1], width)
    return Row(made or low.product(x, operands[1], False, width), (width,))


def _multiplied_before(low: Lowering, one: Traced, x: Row, weight: Any, width: int) -> Node | None:
    """What is looked up in a small table and multiplied, looked up in the table's product; else None."""
    if not isinstance(x.value, Lookup) or not low.values_only:
        return None
    low.matrix(weight)  # refuses what is none
    index, table = x.value.operands[0], low.matrices[x.value.matrix]
    if len(low.tensors[table]._array) > SMALL_TABLE:
        return None
    operands = (Fixed(table), weight, *[None] * (len(one.inputs) - 2))
    product = one.op.call([None if o is None else low.tensors[o.number] for o in operands], dict(one.settings))
    return low.step.lookup(index, low.matrix(low.fixed(Recipe(one.op, operands, one.settings), product)), width)


@_rule("permute_dims")
def _permute(low: Lowering, one: Traced, operands: list[Any]) -> Turned:
    x = low.rowed(operands[0])
    if len(x.shape) != 1 or one.settings["axes"] not in (None, (1, 0)):
        raise NotFused("it moves the batch axis")
    return Turned((low.full(x),))


@_rule("reshape", "expand_dims", "squeeze", "detach")
def _same(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    if not one.made.shape or one.made.shape[0] != low.rows:
        raise NotFused("it moves the batch axis")
    return Row(low.rowed(operands[0]).value, one.made.shape[1:])


@_rule("broadcast_to")
def _broadcast(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    return Row(low.beside(operands[0], one.inputs[0], one.made.shape), one.made.shape[1:])


@_rule("astype")
def _astype(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    x = low.rowed(operands[0])
    if one.made.dtype != low.dtype:
        raise NotFused(f"it makes {one.made.dtype}")
    if one.inputs[0].dtype.kind == "b":
        return Row(low.step.map(scalar.where, x.value, low.step.constant(1.0), low.step.constant(0.0)), x.shape)
    return x


@_rule("dropped")
def _dropped(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    value = low.beside(operands[0], one.inputs[0], one.made.shape)
    mask = low.mask(one.settings["key"], one.settings["p"], math.prod(one.made.shape[1:]))
    zero, step = low.step.constant(0.0), low.step
    kept = step.map(scalar.greater, mask, zero)
    return Row(step.map(scalar.where, kept, step.map(scalar.multiply, value, mask), zero), one.made.shape[1:])


@_rule("noisy")
def _noisy(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    value, step = low.beside(operands[0], one.inputs[0], one.made.shape), low.step
    noise = low.mask(one.settings["key"], None, math.prod(one.made.shape[1:]))
    scaled = step.map(scalar.multiply, noise, low.given(float(one.settings["scale"])))
    return Row(step.map(scalar.add, value, scaled), one.made.shape[1:])


@_rule("kth")
def _kth(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    x = low.rowed(operands[0])
    if len(x.shape) != 1:
        raise NotFused("it goes along some of the features only")
    return Row(low.step.kth(low.full(x), one.settings["k"]), (1,))


@_rule("argmax")
def _argmax(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    """The least number of an element that is the largest, or NaN where one is."""

    def place(row: Row) -> Node:
        step, value = low.step, low.full(row)
        largest = step.map(scalar.equal, value, step.reduce("max", value))
        chosen = step.map(scalar.logical_or, largest, step.map(scalar.isnan, value))
        number = step.map(scalar.where, chosen, low.counted(value.width), step.constant(math.inf))
        found = step.reduce("min", number)
        low.below[found.number] = value.width
        return found

    made: Row = _along(low, one, operands, place, False)
    return made


@_rule("embedding")
def _embedding(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    """Rows of a table."""
    index, (count, width) = low.rowed(operands[1]), one.inputs[0].shape
    if index.size != 1:
        raise NotFused("it looks up several rows of the table for each of the batch")
    value = index.value
    if isinstance(value, Input):
        low.limits.append((value.source, count))
    elif low.below.get(value.number, math.inf) > count:
        raise NotFused("a number may be beyond the table")
    return Row(low.step.lookup(value, low.matrix(operands[0]), width), one.made.shape[1:])


def _span(key: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Where in a flat row of this shape an index takes numbers: offset and count."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if any(not (isinstance(p, (int, slice)) or p is None or p is Ellipsis) for p in parts):
        raise NotFused("it takes rows or features by number")
    parts = [p for p in parts if p is not None]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(shape) + 2 - len(parts))
    parts += [slice(None)] * (len(shape) + 1 - len(parts))
    if parts[0] != slice(None):
        raise NotFused("it takes some rows of the batch")
    start, count, open_ = 0, math.prod(shape), True
    inner = count
    for part, size in zip(parts[1:], shape):
        inner //= size or 1
        first, last, stride = (part % size, part % size + 1, 1) if isinstance(part, int) else part.indices(size)
        if stride != 1:
            raise NotFused("it takes features with gaps")
        if last - first == size:
            continue
        if not open_:
            raise NotFused("it takes features with gaps")
        start, count, open_ = first * inner, max(last - first, 0) * inner, last - first == 1
    return start, count


@_rule("getitem")
def _getitem(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    x = low.rowed(operands[0])
    start, count = _span(one.settings["key"], x.shape)
    if count != math.prod(one.made.shape[1:]) or one.made.shape[:1] != (low.rows,):
        raise NotFused("it moves the batch axis")
    if not count:
        raise NotFused("it takes nothing")
    return Row(x.value if x.value.width == 1 else low.step.slice(x.value, (start,), (count,)), one.made.shape[1:])


@_rule("patched")
def _patched(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    shape = one.settings["shape"][1:]
    if any(isinstance(key[0], np.ndarray) for key in one.settings["keys"] if isinstance(key, tuple) and key):
        raise NotFused("a gradient goes to a table; take what it looks up, for all steps, before the scan")
    if one.settings["shape"][:1] != (low.rows,):
        raise NotFused("it makes no rows")
    parts = []
    for x, key in zip(operands, one.settings["keys"]):
        row = low.rowed(x)
        start, count = _span(key, shape)
        if count != row.size:
            raise NotFused("a patch does not fit")
        parts.append((low.full(row), start))
    layers: list[list[tuple[Node, int]]] = []
    at = -1, 0
    for part in sorted(parts, key=lambda part: part[1]):
        # Into the first that has room; what was full for another patch at the same place is full for this one.
        i = at[1] + 1 if at[0] == part[1] else 0
        while i < len(layers) and layers[i][-1][1] + layers[i][-1][0].width > part[1]:
            i += 1
        if i == len(layers):
            layers.append([])
        layers[i].append(part)
        at = part[1], i
    joined = [low.step.join(layer, (math.prod(shape),)) for layer in layers]
    made = joined[0]
    for other in joined[1:]:
        made = low.step.map(scalar.add, made, other)
    return Row(made, shape)


@_rule("concat")
def _concat(low: Lowering, one: Traced, operands: list[Any]) -> Any:
    if one.settings["axis"] == 0 and all(isinstance(x, Row) and len(x.shape) == 1 for x in operands):
        return Tall(tuple(operands))
    if one.settings["axis"] != 1:
        raise NotFused("it joins along another axis than the first of the features")
    parts, start = [], 0
    for x, tensor in zip(operands, one.inputs):
        row = x if isinstance(x, Row) else Row(low.beside(x, tensor, tensor.shape), tensor.shape[1:])
        parts.append((low.full(row), start))
        start += row.size
    return Row(low.step.join([part for part in parts if part[0].width], (start,)), one.made.shape[1:])


@_rule("sum")
def _sum(low: Lowering, one: Traced, operands: list[Any]) -> Any:
    return _along(low, one, operands, lambda row: low.step.reduce("sum", low.full(row)), True)


@_rule("max", "min")
def _extreme(low: Lowering, one: Traced, operands: list[Any]) -> Any:
    return _along(low, one, operands, lambda row: low.step.reduce(one.op.name, low.full(row)), False)


@_rule("mean")
def _mean(low: Lowering, one: Traced, operands: list[Any]) -> Any:
    def mean(row: Row) -> Node:
        return low.step.map(scalar.divide, low.step.reduce("sum", low.full(row)), low.given(float(row.size)))

    return _along(low, one, operands, mean, False)


def _along(low: Lowering, one: Traced, operands: list[Any], reduced: Callable[[Row], Node], over_rows: bool) -> Any:
    x, axes = low.rowed(operands[0]), one.settings["axis"]
    features = tuple(range(1, len(x.shape) + 1))
    if 0 in axes and over_rows:
        total, below = low.summed(low.full(x)), tuple(axis - 1 for axis in axes if axis)
        if not below:
            return total if one.made.shape == (x.size,) else low.reshaped(total, one.made.shape)
        total = low.total(Recipe("sum", (low.reshaped(total, x.shape),), {"axis": below}))
        return low.reshaped(total, one.made.shape)
    if tuple(axis for axis in axes if axis and x.shape[axis - 1] != 1) != tuple(
        axis for axis in features if x.shape[axis - 1] != 1
    ):
        raise NotFused("it goes along some of the features only" if 0 not in axes else "it mixes rows")
    return Row(reduced(x), one.made.shape[1:])
