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
    """A step run one by one, each row for as long as it lives, with the gradients of parameters, carry and x."""

    def __init__(self, step, parameters, carry, x, lengths, reverse, seed):
        self.step, self.parameters, self.carry, self.x = step, parameters, carry, x
        self.lengths, self.reverse, rng = lengths, reverse, np.random.default_rng(seed)
        self.weights = [rng.standard_normal(part.shape) for part in carry]
        loss, ends, rows = tg.tensor(0.0, dtype="float64"), [], []
        for b, length in enumerate(lengths):
            start = tuple(part[b : b + 1] for part in carry)
            end, ys = tg.scan(step, start, x[:length, b : b + 1], reverse=reverse, engine="eager")
            of_y = np.random.default_rng(b).standard_normal(ys.shape)
            loss = loss + (ys * of_y).sum() + sum((e * w[b : b + 1]).sum() for e, w in zip(end, self.weights))
            ends.append([part.numpy() for part in end])
            rows.append([np.pad(one, ((0, len(x) - length), (0, 0), (0, 0))) for one in (ys.numpy(), of_y)])
        self.ends = [np.concatenate(parts) for parts in zip(*ends)]
        self.ys, self.of_y = (np.concatenate(parts, 1) for parts in zip(*rows))
        found = tg.grad(loss, [*parameters, *carry, x], allow_unused=True)
        self.gradients = [None if g is None else g.numpy() for g in found]

    def compare(self):
        """With the program behind each stage."""
        planned = tg.explain(lambda: tg.scan(self.step, self.carry, self.x, reverse=self.reverse)).parts[0][1]
        assert list(planned.stages) == STAGES
        largest = max([np.abs(g).max() for g in self.gradients if g is not None], default=0.0)
        carry = [part.numpy() for part in self.carry]
        for program in planned.stages.values():
            found = Interpreted(planned, program, carry, [self.x.numpy()], self.reverse, self.lengths)
            for part, end in zip(found.carry, self.ends, strict=True):
                agree(part, end)
            agree(found.ys[0], self.ys)
            if program.backward is None:
                continue
            weights = [w.reshape(len(w), -1) for w in self.weights]
            of_carry, of_x, captured = found.gradients(weights, [self.of_y])
            count = len(self.parameters)
            for g, expected in zip([*of_carry, *of_x], self.gradients[count:], strict=True):
                agree(g, expected, largest)
            by_tensor = {id(tensor): g for tensor, g in captured}
            for tensor, expected in zip(self.parameters, self.gradients):
                agree(by_tensor.get(id(tensor)), expected, largest)
        return planned


@run
@given(cells(), some.lists(some.integers(1, 6), min_size=1, max_size=4), some.booleans(), some.integers(0, 2**32 - 1))
def test_every_stage_means_the_same(cell, lengths, reverse, seed):
    lengths = sorted(lengths, reverse=True)
    case = Case(cell, lengths[0], len(lengths), reverse, seed, 0.5)
    tensors = [tg.tensor(a, requires_grad=True) for a in case.arrays]
    count = len(case.names)
    step = step_of(case.cell, dict(zip(case.names, tensors)), case.gain)
    Eager(step, tensors[:count], tuple(tensors[count:-1]), tensors[-1], lengths, reverse, seed).compare()


def numbers(seed, *shape):
    return tg.tensor(0.5 * np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def several_matrices():
    """Products that share what they multiply, of x and of both states, and products that are summed."""
    w, u, v, s, z = numbers(0, 3, 5), numbers(1, 3, 5), numbers(2, 5, 5), numbers(3, 5, 5), numbers(4, 4, 5)

    def step(carry, x):
        h, c = carry
        gate, new = tg.sigmoid(x @ w + h @ v + c @ z), tg.tanh(x @ u + h @ s)
        kept = (gate * h) @ v + (new * h) @ s
        return (tg.tanh(gate * h + (1 - gate) * new + kept), tg.sin(c * h[:, 1:])), tg.tanh(new @ v)

    return step, [w, u, v, s, z], (5, 4)


def states_that_are_read_again():
    """The gradient takes the next state, the output and the state before from where they lie."""
    b = numbers(5, 4)

    def step(carry, x):
        (h,) = carry
        h = tg.tanh(h * b + tg.concat([x, x[:, :1]], -1))
        return (h * 1.0,), tg.exp(h * 0.5) * h

    return step, [b], (4,)


def parts_of_what_is_joined():
    def step(carry, x):
        (h,) = carry
        a = tg.tanh(tg.concat([x, h, tg.sin(x)], -1))
        c = tg.concat([tg.sigmoid(h), x * 2.0, h], -1)
        return (c[:, 5:9] * a[:, 2:6] + c[:, 1:5],), c[:, 4:7] + a[:, 7:]

    return step, [], (4,)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("make", [several_matrices, states_that_are_read_again, parts_of_what_is_joined])
def test_chosen_steps(make, reverse):
    step, parameters, widths = make()
    lengths = [6, 6, 4, 1]
    carry = tuple(numbers(10 + i, 4, width) for i, width in enumerate(widths))
    Eager(step, parameters, carry, numbers(9, 6, 4, 3), lengths, reverse, 0).compare()


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
