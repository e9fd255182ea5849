"""How each operation on rows is lowered: products, shapes, pieces and reductions; `lower` does the elementwise ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.nodes import Input, Lookup, Node
from ...kernels import scalar
from ...ops.shape import permute_dims
from .forms import CapturedConstant, DeferredOp, Row, RowConcatenated, Transposed
from .lowering import Lowering
from .trace import NotFused, Traced

Rule = Callable[[Lowering, Traced, list[Any]], Any]

#: Rows of a table that may be multiplied anew at each run, instead of a product at each step.
SMALL_TABLE = 256

#: Pieces that a view may take a row in.
MOST_RUNS = 64

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
    operands = (CapturedConstant(table), weight, *[None] * (len(one.inputs) - 2))
    product = one.op.call([None if o is None else low.tensors[o.number] for o in operands], dict(one.settings))
    return low.step.lookup(index, low.matrix(low.capture(DeferredOp(one.op, operands, one.settings), product)), width)


def transposed(low: Lowering, one: Traced, operands: list[Any]) -> Transposed | None:
    """Rows as columns, where that is what a view makes of them."""
    x = low.rowed(operands[0])
    is_transposed = one.op is permute_dims.op and one.settings["axes"] in (None, (1, 0)) and len(x.shape) == 1
    return Transposed((low.full(x),)) if is_transposed else None


def viewed(low: Lowering, one: Traced, operands: list[Any]) -> Any:
    """Any view of rows: which elements it shows is seen from what its rule makes of their numbers."""
    columns_of_rows = transposed(low, one, operands)
    if columns_of_rows is not None:
        return columns_of_rows
    x = low.rowed(operands[0])
    numbers = np.arange(low.rows * x.size).reshape(low.rows, *x.shape)
    shown = np.asarray(one.op.forward([numbers], one.settings))
    columns = _columns(low, shown, x.size)
    if x.value.width == 1:
        return Row(x.value, shown.shape[1:])
    parts = [(low.step.slice(x.value, (start,), (size,)), at) for start, size, at in _runs(columns)]
    return Row(low.step.join(parts, (columns.size,)), shown.shape[1:])


def _columns(low: Lowering, shown: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """The elements of a row that each row shows, in order, of elements numbered through all rows of this size."""
    if shown.shape[:1] != (low.rows,):
        raise NotFused("its result is not one row for each row of the batch")
    if not shown.size:
        raise NotFused("it takes nothing")
    rows = shown.reshape(low.rows, -1)
    if not np.array_equal(rows, rows[0] + size * np.arange(low.rows)[:, None]) or rows[0].max() >= size:
        raise NotFused("a row of its result is not made of the same row of the batch")
    columns: np.ndarray[Any, Any] = rows[0]
    return columns


def _runs(columns: np.ndarray[Any, Any]) -> list[tuple[int, int, int]]:
    """Columns as runs of neighbours: where each starts, how long it is, and its place among them."""
    ends = np.flatnonzero(np.diff(columns) != 1) + 1
    starts = [0, *ends.tolist()]
    if len(starts) > MOST_RUNS:
        raise NotFused(f"it takes features with more than {MOST_RUNS} gaps")
    return [(int(columns[a]), b - a, a) for a, b in zip(starts, [*starts[1:], columns.size])]


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


@_rule("patched")
def _patched(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    rows, *shape = one.settings["shape"]
    if any(isinstance(key[0], np.ndarray) for key in one.settings["keys"] if isinstance(key, tuple) and key):
        raise NotFused("a gradient goes to a table; take what it looks up, for all steps, before the scan")
    if rows != low.rows:
        raise NotFused("it makes no rows")
    size = math.prod(shape)
    numbers = np.arange(rows * size).reshape(rows, *shape)
    parts = []
    for x, key in zip(operands, one.settings["keys"]):
        whole = low.full(low.rowed(x))
        runs = _runs(_columns(low, np.asarray(numbers[key]), size))
        parts += [(low.step.slice(whole, (at,), (count,)), start) for start, count, at in runs]
    layers: list[list[tuple[Node, int]]] = []
    for part in sorted(parts, key=lambda part: part[1]):
        for layer in layers:
            if layer[-1][1] + layer[-1][0].width <= part[1]:
                layer.append(part)
                break
        else:
            layers.append([part])
    joined = [low.step.join(layer, (size,)) for layer in layers]
    made = joined[0]
    for other in joined[1:]:
        made = low.step.map(scalar.add, made, other)
    return Row(made, tuple(shape))


@_rule("concat")
def _concat(low: Lowering, one: Traced, operands: list[Any]) -> Any:
    if one.settings["axis"] == 0 and all(isinstance(x, Row) and len(x.shape) == 1 for x in operands):
        return RowConcatenated(tuple(operands))
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
        total = low.total(DeferredOp("sum", (low.reshaped(total, x.shape),), {"axis": below}))
        return low.reshaped(total, one.made.shape)
    if tuple(axis for axis in axes if axis and x.shape[axis - 1] != 1) != tuple(
        axis for axis in features if x.shape[axis - 1] != 1
    ):
        raise NotFused("it goes along some of the features only" if 0 not in axes else "it mixes rows")
    return Row(reduced(x), one.made.shape[1:])
