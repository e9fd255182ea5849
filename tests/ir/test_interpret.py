"""The interpreter against the eager engine, behind each stage: no stage changes what a program means."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from ir.interpreted import Interpreted
from test_fused_generated import Case, cells, step_of

import tinygrad_rnn as tg
from tinygrad_rnn.ir import interpret
from tinygrad_rnn.ir.builder import Builder
from tinygrad_rnn.kernels import scalar

CELLS = int(os.environ.get("TINYGRAD_RNN_GENERATED_CELLS", "25"))
STAGES = ["lower", "differentiate", "rematerialise", "merge"]

run = settings(max_examples=CELLS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def agree(found, expected, scale=0.0):
    """To 1e-12 of the largest number, and of `scale`, below which all is rounding."""
    if expected is None:
        assert found is None or not np.any(found)
        return
    assert found is not None
    difference = np.abs(found.reshape(expected.shape) - expected).max(initial=0.0)
    assert difference <= 1e-12 * max(np.abs(expected).max(initial=0.0), scale)


class Eager:
    """A cell run step by step, each row for as long as it lives."""

    def __init__(self, case, lengths):
        self.tensors = [tg.tensor(a, requires_grad=True) for a in case.arrays]
        count = len(case.names)
        *carry, x = self.tensors[count:]
        self.step = step_of(case.cell, dict(zip(case.names, self.tensors)), case.gain)
        self.carry, self.x = tuple(carry), x
        *weights, of_y = case.weights
        loss, self.ends, self.ys = tg.tensor(0.0, dtype="float64"), [], np.zeros(of_y.shape)
        for b, length in enumerate(lengths):
            start = tuple(part[b : b + 1] for part in carry)
            end, ys = tg.scan(self.step, start, x[:length, b : b + 1], reverse=case.reverse, engine="eager")
            loss = loss + (ys * of_y[:length, b : b + 1]).sum()
            loss = loss + sum((part * w[b : b + 1]).sum() for part, w in zip(end, weights))
            self.ends.append([part.numpy() for part in end])
            self.ys[:length, b : b + 1] = ys.numpy()
        found = tg.grad(loss, self.tensors, allow_unused=True)
        self.gradients = [None if g is None else g.numpy() for g in found]


@run
@given(cells(), some.lists(some.integers(1, 6), min_size=1, max_size=4), some.booleans(), some.integers(0, 2**32 - 1))
def test_every_stage_means_the_same(cell, lengths, reverse, seed):
    lengths = sorted(lengths, reverse=True)
    case = Case(cell, lengths[0], len(lengths), reverse, seed, 0.5)
    eager = Eager(case, lengths)
    planned = tg.explain(lambda: tg.scan(eager.step, eager.carry, eager.x, reverse=reverse)).parts[0][1]
    count, carries = len(case.names), len(eager.carry)
    largest = max([np.abs(g).max() for g in eager.gradients if g is not None], default=0.0)
    assert not isinstance(planned, Exception), planned
    assert list(planned.stages) == STAGES
    for program in planned.stages.values():
        found = Interpreted(
            planned, program, [part.numpy() for part in eager.carry], [eager.x.numpy()], reverse, lengths
        )
        for i, part in enumerate(found.carry):
            agree(part, np.concatenate([end[i] for end in eager.ends]))
        agree(found.ys[0], eager.ys)
        if program.backward is None:
            continue
        *weights, of_y = case.weights
        of_y = np.where((np.arange(lengths[0])[:, None] < lengths)[..., None], of_y, 0.0)
        carry, xs, captured = found.gradients([w.reshape(len(lengths), -1) for w in weights], [of_y])
        for g, expected in zip([*carry, *xs], eager.gradients[count:], strict=True):
            agree(g, expected, largest)
        by_tensor = {id(tensor): g for tensor, g in captured}
        for tensor, expected in zip(eager.tensors[:count], eager.gradients):
            agree(by_tensor.get(id(tensor)), expected, largest)
        assert len(carry) == carries


def test_random_numbers_are_draws():
    tg.manual_seed(0)
    cell = tg.nn.Zoneout(tg.nn.GRUCell(3, 4, dtype="float64"), 0.5)
    x, h = np.random.default_rng(1).normal(size=(5, 2, 3)), np.zeros((2, 4))
    planned = tg.explain(tg.nn.Recurrent(cell), tg.tensor(x)).parts[0][1]
    draws = planned.low.masks
    assert draws and all(draw.kind == "draw" and draw.p == 0.5 for draw in draws)
    masks = {("mask", i): np.full((5, 2, draw.width), 0.0) for i, draw in enumerate(draws)}
    kept = Interpreted(planned, planned.stages["merge"], [h + 1.0], [x], masks=masks)
    masks = {key: mask + 2.0 for key, mask in masks.items()}
    changed = Interpreted(planned, planned.stages["merge"], [h + 1.0], [x], masks=masks)
    same = [np.array_equal(one.carry[0], h + 1.0) for one in (kept, changed)]
    assert sorted(same) == [False, True]  # zoneout leaves the state as it was, everywhere or nowhere


# --- The whole grammar, with axes behind the batch ---

rng = np.random.default_rng(0)
A, B = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 4, 5))
M, T = rng.normal(size=(4, 6)), rng.normal(size=(7, 2))
I = rng.integers(0, 3, (3, 2)).astype(float)

GRAMMAR = {
    "map": (lambda b, a: b.map(scalar.multiply, a, b.constant(2.0)), [A], A * 2.0),
    "map that broadcasts": (lambda b, a, v: b.map(scalar.add, a, v), [A, A[:, 0]], A + A[:, None, 0]),
    "sum": (lambda b, a: b.reduce("sum", a, (0,)), [A], A.sum(1, keepdims=True)),
    "max of all": (lambda b, a: b.reduce("max", a), [A], A.max((1, 2), keepdims=True)),
    "slice": (lambda b, a: b.slice(a, (1, 1), (1, 2)), [A], A[:, 1:2, 1:3]),
    "join": (
        lambda b, a: b.join([(a, 1)], (2, 6), 1), [A], np.pad(A, ((0, 0), (0, 0), (1, 1)))
    ),
    "broadcast": (lambda b, v: b.broadcast(v, (2, 4)), [A[:, :1]], np.repeat(A[:, :1], 2, 1)),
    "reshape": (lambda b, a: b.reshape(a, (8,)), [A], A.reshape(3, 8)),
    "transpose": (lambda b, a: b.transpose(a, (1, 0)), [A], A.transpose(0, 2, 1)),
    "product": (lambda b, a: b.product(a, 0, False, 6), [A], A @ M),
    "product with a transpose": (lambda b, a: b.product(a, 1, True, 7), [A[..., :2]], A[..., :2] @ T.T),
    "contract": (lambda b, a, c: b.contract("ij,jk->ki", a, c), [A, B], np.einsum("bij,bjk->bki", A, B)),
    "lookup": (lambda b, i: b.lookup(i, 1, 2), [I[:, :1]], T[I[:, 0].astype(int)]),
    "scatter add": (
        lambda b, i, a: b.scatter_add(i, a, 3), [I, A],
        np.stack([sum(np.eye(3)[:, [int(n)]] * row for n, row in zip(*one)) for one in zip(I, A)]),
    ),
    "kth": (lambda b, a: b.kth(a, 2), [A], np.sort(A, -1)[..., -2:-1]),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAMMAR)
def test_every_kind_of_node(name):
    make, arrays, expected = GRAMMAR[name]
    builder = Builder("float64")
    inputs = [builder.input(("x", i), array.shape[1:]) for i, array in enumerate(arrays)]
    node = make(builder, *inputs)
    known = {one.number: array for one, array in zip(inputs, arrays)}
    for one in interpret.reachable([node]):
        if one.number not in known:
            operands = [known[operand.number] for operand in one.operands]
            known[one.number] = interpret.value(one, operands, [M, T], 3)
    assert known[node.number].shape == (3, *node.shape)
    assert np.abs(known[node.number] - expected).max() <= 1e-14
