"""A trace as a program over rows: each operation in the few forms that kernels have.

What is made of fixed values only (of parameters, of constants) stays outside, and is done before the loop. That rows do
not mix is derived here, operation by operation: axis 0 of a row value is the batch, and stays so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...autograd.tensor import Tensor
from ...ir.nodes import Map
from ...ops.op import Elementwise
from .forms import CapturedConstant, DeferredOp, Row, RowConcatenated, ScalarInput, Total, Transposed
from .lowering import Lowering
from .rules import RULES, viewed
from .trace import NotFused, Trace, Traced


def lower(low: Lowering, trace: Trace) -> None:
    """Put every operation of a trace into the program."""
    low.numbers.update(trace.numbers)
    for one in trace.done:
        operands = [None if x is None else low.of(x) for x in one.inputs]
        drawn = low.keys.get(one.settings["key"]) if one.op.random else None
        if drawn is None and all(x is None or isinstance(x, CapturedConstant) for x in operands):
            made: Any = low.capture(
                DeferredOp(one.op, tuple(operands), one.settings),
                Tensor(one.made, one.node, one.node.wanted != () and True in one.node.wanted),
            )
        else:
            try:
                made = _lowered(low, one, operands)
            except NotFused as trouble:
                raise NotFused(f"{one.op.name}: {trouble}", one.where) from None
            if isinstance(made, Row) and one.node.label and isinstance(made.value, Map):
                low.step.labels.setdefault(made.value.number, one.node.label)
        low.know(one.node, made)


def _lowered(low: Lowering, one: Traced, operands: list[Any]) -> Any:
    if any(isinstance(x, (Total, Transposed, RowConcatenated)) for x in operands):
        return _outside(low, one, operands)
    if any(isinstance(x, ScalarInput) for x in operands):
        raise NotFused("it takes an x without a batch axis")
    if not one.op.whole_numbers and any(x is not None and x.dtype.kind in "iu" for x in one.inputs):
        raise NotFused("whole numbers are looked up in a table, or passed on, and no more")
    if isinstance(one.op, Elementwise):
        return _elementwise(low, one, operands)
    if one.op.view:
        return viewed(low, one, operands)
    rule = RULES.get(one.op.name)
    if rule is None:
        raise NotFused("no kernel form is known for it")
    return rule(low, one, operands)


def _elementwise(low: Lowering, one: Traced, operands: list[Any]) -> Row:
    op = one.op
    assert isinstance(op, Elementwise)
    shape = one.made.shape
    values = {}
    for name, x, tensor in zip(op.inputs, operands, one.inputs):
        given = one.settings.get(name)
        if given is None or isinstance(given, np.ndarray):
            values[name] = low.beside(x, tensor, shape)
        else:
            values[name] = low.numeral(float(given))
    return Row(low.expression(op.expression, values), shape[1:])


def _outside(low: Lowering, one: Traced, operands: list[Any]) -> Any:
    name, first = one.op.name, operands[0]
    if isinstance(first, RowConcatenated) and name == "permute_dims":
        return Transposed(tuple([low.full(row) for row in first.rows]))
    if (
        isinstance(first, RowConcatenated)
        and name == "sum"
        and one.settings["axis"] == (0,)
        and not one.settings["keepdims"]
    ):
        return low.added([low.summed(low.full(row)) for row in first.rows])
    if isinstance(first, Transposed) and name == "permute_dims" and len(first.values) == 1:
        return Row(first.values[0], (first.values[0].width,))
    if name == "matmul" and isinstance(first, CapturedConstant) and isinstance(operands[1], Transposed):
        return _of_columns(low, one, operands)
    if isinstance(first, Transposed) and name == "matmul" and isinstance(operands[1], (Row, RowConcatenated)):
        rows = operands[1].rows if isinstance(operands[1], RowConcatenated) else (operands[1],)
        if len(rows) == len(first.values) and all(len(row.shape) == 1 for row in rows):
            pairs = zip(first.values, map(low.full, rows))
            return low.added([low.total(("gemm", low.gemms.place(pair))) for pair in pairs])
    elif _linear(low, one, operands):
        same = one.made.dtype == one.inputs[0].dtype and one.made.shape == one.inputs[0].shape
        if same and name in ("astype", "reshape", "broadcast_to"):
            return first
        made = low.totals[first.number] if isinstance(first, Total) else None
        if name == "permute_dims" and isinstance(made, tuple) and made[0] == "gemm":
            left, right = low.gemms[made[1]]
            return low.total(("gemm", low.gemms.place((right, left))))
        return low.total(DeferredOp(one.op, tuple(operands), one.settings))
    if any(isinstance(x, (Transposed, RowConcatenated)) for x in operands):
        raise NotFused("rows stand as columns here, or one batch below another, in a way that has no kernel form")
    raise NotFused("a sum over all rows goes on into something that is not linear")


def _of_columns(low: Lowering, one: Traced, operands: list[Any]) -> Transposed:
    """W @ h.T, which is (h @ W.T).T."""
    (value,), width = operands[1].values, one.made.shape[0]
    return Transposed((low.product(Row(value, (value.width,)), operands[0], True, width),))


def _linear(low: Lowering, one: Traced, operands: list[Any]) -> bool:
    """Whether it is linear in the totals among its operands, the others fixed."""
    others = any(isinstance(x, (Row, Transposed, RowConcatenated)) for x in operands)
    return not others and one.op.linear_in([None if x is None else isinstance(x, Total) for x in operands])
