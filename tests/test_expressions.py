"""Expressions that nobody wrote: both derivatives against finite differences, and what the tape prints of them.

Hypothesis draws leaves and a program; every op of the table takes part, so a new one does without a line here. Values
are kept about 1 by constant factors. How far a derivative may be from a finite difference is not chosen: it follows
from an estimate of the difference's own error (`slope`). Where that estimate is too large to tell anything, because a
kink is near or the expression is rough, the example is discarded, and few may be.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import Phase, assume, event, given, settings
from hypothesis import strategies as st
from registry import OPS, differentiable, flat, full_settings, listed, runner, samples

import tinygrad_rnn as tg
from tinygrad_rnn.ops import REGISTRY
from tinygrad_rnn.ops.op import Composite, Elementwise, Sample, Vjp

DEPTH, ELEMENTS, LARGE, SMALL = 8, 40, 1.5, 0.1
EPS = float(np.finfo(np.float64).eps)
#: Why an op takes no part.
EXEMPT = {"ctc": "its second derivative raises", "ctc_loss": "likewise"}
#: Drawn by their samples only: along an axis of size 1 their derivative does not exist.
DELICATE = {"std"}

ALL = {op.name: op for op in OPS if differentiable(op) and op.name not in EXEMPT}
SAMPLES = {
    name: [s for s in samples(op) if all(np.size(a) for a in flat(op, s))]
    for name, op in ALL.items()
    if not isinstance(op, Elementwise)
}
AXIS = [n for n, op in ALL.items() if op.kind == "reduction" and "axis" in op.settings and n not in DELICATE]
ELEMENTWISE = [name for name, op in ALL.items() if isinstance(op, Elementwise)]


class Library:
    """The library's functions, `m.tanh(x)`; it notes each that is an op."""

    def __init__(self):
        self.called = []
        self.complete = True  # False once a function ran that is made of several ops

    def __getattr__(self, name):
        def run(*operands, **given):
            self.called.append(name)
            op = REGISTRY[name]
            if isinstance(op, Elementwise):
                return op.call(*operands)
            return op.call(operands[0] if op.variadic else operands, {**defaults(name), **given})

        return run


@functools.cache
def defaults(name):
    return full_settings(REGISTRY[name], Sample((), {}))


# --- What one step does: functions of (library, operands a and b that broadcast, random source for settings) ---


def elementwise(name):
    op = ALL[name]

    def inside(m, x):
        low, high = op.domain
        if low <= -2.0 and high >= 2.0:
            return x
        return m.add(m.multiply(m.tanh(x), 0.45 * (high - low)), (high + low) / 2)

    def step(m, a, b, r):
        operands = itertools.islice(itertools.cycle((a, b) if r.integers(4) else (b, a)), len(op.inputs))
        operands = [inside(m, x) if i not in op.truth else m.greater(a, b) for i, x in enumerate(operands)]
        return getattr(m, name)(*operands)

    return step


def along(name):
    op = ALL[name]

    def step(m, a, b, r):
        if "keepdims" not in op.settings:
            return getattr(m, name)(a, axis=int(r.integers(-max(a.ndim, 1), max(a.ndim, 1))))
        axis = tuple(int(i) for i in range(a.ndim) if r.integers(2))
        return getattr(m, name)(a, axis=axis if r.integers(3) else None, keepdims=bool(r.integers(2)))

    return step


def sampled(name):
    op = ALL[name]
    runs, arrays = [runner(op, s) for s in SAMPLES[name]], [flat(op, s) for s in SAMPLES[name]]

    def step(m, a, b, r):
        n = r.integers(len(runs))
        tensors, operands = [], itertools.cycle((a, b))
        for array in arrays[n]:
            tensors.append(moved(m, array, next(operands)) if array.dtype.kind == "f" else tg.tensor(array))
        if isinstance(op, Composite):
            m.complete = False
        else:
            m.called.append(name)
        outputs = [y for y in listed(runs[n](*tensors)) if y.dtype.kind == "f" and y.size]
        return outputs[r.integers(len(outputs))] if outputs else a

    return step


def moved(m, array, x):
    """The sample's array, changed by the elements of x: near to where the op is known to have a derivative."""
    fitted = m.getitem(m.reshape(x, shape=(-1,)), key=np.arange(array.size).reshape(array.shape) % x.size)
    return m.add(tg.tensor(array), m.multiply(fitted, 0.2))


def indexed(m, a, b, r):
    keys = []
    for n in a.shape[: r.integers(a.ndim + 1)]:
        start = int(r.integers(n))
        keys.append([start, -1, slice(start, None), slice(None, None, -1), slice(start, start + 1)][r.integers(5)])
    spare = [None] * int(r.integers(2))
    return m.getitem(a, key=(*keys, Ellipsis, *spare) if r.integers(2) else (*spare, *keys))


def indexed_by_arrays(m, a, b, r):
    if a.ndim == 0:
        return indexed(m, a, b, r)
    integers = r.integers(-a.shape[0], a.shape[0], (2, 2) if r.integers(2) else 3)
    mask = r.integers(2, size=a.shape[0]) > 0
    mask[r.integers(a.shape[0])] = True
    return m.getitem(a, key=[integers, mask, (Ellipsis, r.integers(a.shape[-1], size=2))][r.integers(3)])


def reshaped(m, a, b, r):
    return m.reshape(a, shape=[(-1,), a.shape[::-1], (1, *a.shape), (*a.shape, 1), (a.size,)][r.integers(5)])


def broadcast(m, a, b, r):
    stretched = tuple(3 if n == 1 and r.integers(2) else n for n in a.shape)
    return m.broadcast_to(a, shape=(2, *stretched) if a.ndim < 3 and r.integers(2) else stretched)


def product(m, a, b, r):
    if not a.ndim or not b.ndim:
        return m.multiply(a, b)
    if a.shape[-1] == b.shape[-min(b.ndim, 2)] and (min(a.ndim, b.ndim) < 3 or a.shape[:-2] == b.shape[:-2]):
        return m.matmul(a, b)
    axes = (*range(a.ndim - 2), a.ndim - 1, a.ndim - 2)
    return m.matmul(a, m.permute_dims(a, axes=axes) if a.ndim > 1 else a)


def linear(m, a, b, r):
    weight = b if b.ndim == 2 and a.ndim and a.shape[-1] == b.shape[1] else m.reshape(a, shape=(1, -1))
    x = a if a.ndim and a.shape[-1] == weight.shape[1] else m.reshape(a, shape=(-1,))
    bias = m.getitem(weight, key=(slice(None), -1)) if r.integers(2) else None
    return m.linear(x, weight, bias)


def joined(m, a, b, r):
    same = b if b.shape == a.shape else a
    if a.ndim and r.integers(2):
        return m.concat([a, same, a], axis=int(r.integers(-a.ndim, a.ndim)))
    return m.stack([a, same], axis=int(r.integers(a.ndim + 1)))


def looked_up(m, a, b, r):
    if a.ndim != 2:
        a = m.reshape(a, shape=(-1, 1))
    return m.embedding(a, tg.tensor(r.integers(len(a), size=[(3,), (2, 2), ()][r.integers(3)])))


def taken(m, a, b, r):
    if a.ndim == 0:
        a = m.expand_dims(a, axis=0)
    axis = int(r.integers(-a.ndim, a.ndim))
    return m.take(a, tg.tensor(r.integers(a.shape[axis], size=[(2,), (2, 2), ()][r.integers(3)])), axis=axis)


STEPS = {
    **{name: elementwise(name) for name in ELEMENTWISE},
    **{f"{name} along": along(name) for name in AXIS},
    **{f"sample of {name}": sampled(name) for name in SAMPLES},
    "index": indexed, "index by arrays": indexed_by_arrays, "reshape": reshaped, "broadcast": broadcast,
    "matmul": product, "linear": linear, "join": joined, "look up": looked_up, "take": taken,
    "permute": lambda m, a, b, r: m.permute_dims(a, axes=tuple(int(i) for i in r.permutation(a.ndim))),
    "expand": lambda m, a, b, r: m.expand_dims(a, axis=int(r.integers(-a.ndim - 1, a.ndim + 1))),
    "squeeze": lambda m, a, b, r: m.squeeze(a),
}  # fmt: skip


# --- An expression ---


class Expression:
    """A program and the constant factors that keep its values about 1: a function of its leaves."""

    def __init__(self, shapes, program, seed):
        rng = np.random.default_rng(seed)
        self.leaves = [np.array(rng.uniform(-LARGE, LARGE, shape)) for shape in shapes]
        self.depths = [0] * len(shapes)
        self.steps = []
        values = [tg.tensor(leaf) for leaf in self.leaves]
        for kind, i, j, settings_seed in program:
            able = [n for n, depth in enumerate(self.depths) if depth < DEPTH]
            a = able[max(-1 - i, -len(able))]
            fitting = [n for n in able if broadcasts(values[a].shape, values[n].shape)]
            step = (STEPS[kind], a, fitting[j % len(fitting)], settings_seed)
            y = made(Library(), step, values)
            top = float(np.max(np.abs(y.numpy())))
            assert math.isfinite(top), kind
            wild = top > LARGE or 1e-3 < top < SMALL
            self.steps.append((step, 1.0 / top if wild else None))
            values.append(y * (1.0 / top) if wild else y)
            self.depths.append(1 + max(self.depths[a], self.depths[step[2]]))
        chosen = sorted({len(values) - 1, int(rng.integers(len(values)))})
        self.outputs = [(n, rng.normal(size=values[n].shape)) for n in chosen]

    def values(self, leaves, m=None):
        """The weighted outputs, each times its weights and summed by the caller, and their weights."""
        m = m or Library()
        found = list(leaves)
        for step, factor in self.steps:
            y = made(m, step, found)
            found.append(y if factor is None else m.multiply(y, factor))
        return [found[n] for n, _ in self.outputs]

    def value(self, arrays):
        """The sum of the weighted outputs, a number."""
        return sum(float(np.sum(w * y.numpy())) for (_, w), y in zip(self.outputs, self.values(map(tg.tensor, arrays))))

    def gradient(self, arrays, create_graph=False):
        """Its gradients with respect to the leaves, and the leaves."""
        leaves = [tg.tensor(a, requires_grad=True) for a in arrays]
        weights = [w for _, w in self.outputs]
        found = tg.grad(self.values(leaves), leaves, weights, create_graph=create_graph, allow_unused=True)
        return list(found), leaves

    def curvature(self, arrays, direction, other):
        """direction . Hessian . other."""
        gradients, leaves = self.gradient(arrays, create_graph=True)
        pairs = [(g, d) for g, d in zip(gradients, direction) if g is not None and g.requires_grad]
        if not pairs:
            return 0.0
        second = tg.grad([g for g, _ in pairs], leaves, [d for _, d in pairs], allow_unused=True)
        return inner(second, other)


def made(m, step, values):
    function, a, b, settings_seed = step
    y = function(m, values[a], values[b], np.random.default_rng(settings_seed))
    while y.size > ELEMENTS:
        y = m.mean(y, axis=0, keepdims=False)
    return y


def broadcasts(one, other):
    return all(n == m or 1 in (n, m) for n, m in zip(one[::-1], other[::-1]))


def inner(gradients, direction):
    return sum(float(np.sum(g.numpy() * d)) for g, d in zip(gradients, direction) if g is not None)


# --- The derivative of a function of one number at 0, and how wrong it may be ---


def noise(f):
    """The rounding error of f near 0: Hamming's table of differences, as in Moré and Wild, "Estimating computational
    noise", 2011. A difference of order k of values with errors of variance v has the variance v (2k)! / (k!)^2.
    """
    spacing = 2.0**-40
    table = np.array([f(i * spacing) for i in range(6)])
    worst = EPS * float(np.max(np.abs(table)))
    for k in range(1, 4):
        table = np.diff(table)
        if k > 1:
            worst = max(worst, math.sqrt(float(np.mean(table**2)) / math.comb(2 * k, k)))
    return worst


def slope(f):
    """f'(0) by central differences, extrapolated (Romberg), and a bound of its error.

    The difference of two neighbours in the table bounds the truncation error of the better one; rounding contributes
    the noise of f over the step, times less than 2 for the weights of the extrapolation.
    """
    rounding, best, bound, above = noise(f), math.nan, math.inf, []
    for k in range(4, 10):
        h = 2.0**-k
        row = [(f(h) - f(-h)) / (2.0 * h)]
        for j, left in enumerate(above):
            row.append(row[j] + (row[j] - left) / (4.0 ** (j + 1) - 1.0))
            error = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - left)) + 2.0 * rounding / h
            if error < bound:
                best, bound = row[j + 1], error
        above = row
    return best, bound


class Wrong(AssertionError):
    """A derivative that is not what the finite differences say."""


def compare(what, analytic, of, f):
    """Compare the number `analytic`, which is of(0), with the slope of f.

    The noise of either is known within a factor of 4 (Moré and Wild), and an error of 2.5 times the standard deviation
    is rare: hence 10. Values are about 1 and made by some hundred operations: hence the least error there is.

    Returns:
        False where the finite differences tell nothing.
    """
    expected, bound = slope(f)
    allowed = 10.0 * (bound + noise(of)) + 100.0 * EPS * (1.0 + abs(analytic))
    if allowed > 1e-5 * (1.0 + abs(expected)):
        return False
    if not abs(analytic - expected) <= allowed:
        raise Wrong(f"{what}: {analytic!r} by backward, {expected!r} by finite differences, allowed {allowed:.1e}")
    return True


def check(expression, seed):
    """Compare both derivatives along random directions. False where nothing can be told."""
    rng = np.random.default_rng(seed)
    u, v = ([rng.normal(size=leaf.shape) for leaf in expression.leaves] for _ in range(2))

    def at(t):
        return [leaf + t * d for leaf, d in zip(expression.leaves, v)]

    plain = inner(expression.gradient(at(0.0))[0], v)
    if not compare(
        "first derivative", plain, lambda t: inner(expression.gradient(at(t))[0], v), lambda t: expression.value(at(t))
    ):
        return False
    recorded = inner(expression.gradient(at(0.0), create_graph=True)[0], v)
    if not abs(recorded - plain) <= 1e-10 * (1.0 + abs(plain)):
        raise Wrong(f"first derivative: {plain!r}, and {recorded!r} with create_graph")
    return compare(
        "second derivative",
        expression.curvature(at(0.0), u, v),
        lambda t: expression.curvature(at(t), u, v),
        lambda t: inner(expression.gradient(at(t))[0], u),
    )


# --- The tests ---

SHAPES = [(), (1,), (3,), (2, 3), (3, 2), (2, 2), (1, 3), (2, 1), (2, 3, 2), (1, 1, 2)]
number = st.integers(0, 40)


def programs(kinds):
    """What an expression is made from."""
    step = st.tuples(st.sampled_from(kinds), st.sampled_from([0, 0, 0, 1, 2, 3]), number, st.integers(0, 10_000))
    return st.builds(
        Expression,
        st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
        st.lists(step, min_size=5, max_size=14),
        st.integers(0, 10_000),
    )


def test_every_op_takes_part():
    drawn = {*ELEMENTWISE, *AXIS, *(name for name, found in SAMPLES.items() if found)}
    assert set(ALL) == drawn
    assert len(drawn) > 40


def test_both_derivatives_agree_with_finite_differences():
    told, depths, kinds = Counter(), Counter(), Counter()

    @settings(max_examples=500, deadline=None, derandomize=True, database=None)
    @given(programs(list(STEPS)), number)
    def examine(expression, seed):
        enough = check(expression, seed)
        told[enough] += 1
        assume(enough)
        depths[max(expression.depths)] += 1
        kinds.update({function for (function, *_), _ in expression.steps})
        event(f"depth {max(expression.depths)}")

    examine()
    print(f"\n{told[True]} expressions compared, {told[False]} discarded; by depth {dict(sorted(depths.items()))}")
    assert told[True] >= 500
    assert told[False] <= 0.1 * told[True]
    assert sum(n for depth, n in depths.items() if depth >= 6) >= 100
    assert [name for name, function in STEPS.items() if kinds[function] < 5] == []


def broken(monkeypatch, name, of, *names, by):
    """Declare another vjp for an op, and forget what was planned with the right one."""
    op = REGISTRY[name]
    monkeypatch.setitem(op.vjps, of, Vjp(by, names))
    for memory in ("_plans", "_pulls"):
        if hasattr(op, memory):
            monkeypatch.setattr(op, memory, {})


@pytest.mark.parametrize(
    ("name", "of", "names", "by", "says"),
    [
        ("tanh", "x", ("g", "y"), lambda g, y: g * (1.0 - y * y * 0.999), "first derivative"),
        ("linear", "x", ("g", "weight"), lambda g, weight: g @ weight.detach(), "second derivative"),
    ],
    ids=["tanh is a thousandth off", "linear loses a second derivative"],
)
def test_a_wrong_vjp_is_noticed(monkeypatch, name, of, names, by, says):
    broken(monkeypatch, name, of, *names, by=by)

    @settings(max_examples=200, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(programs([name, "add", "multiply", "reshape", "sum along"]), number)
    def examine(expression, seed):
        assume(check(expression, seed))

    with pytest.raises(Wrong, match=says):
        examine()


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(programs(list(STEPS)))
def test_the_tape_prints_every_op_that_ran(expression):
    m = Library()
    leaves = [tg.tensor(a, requires_grad=i % 2 == 0) for i, a in enumerate(expression.leaves)]
    with tg.Tape() as tape:
        expression.values(leaves, m)
    lines = str(tape).splitlines()
    printed = Counter()
    for n, line in enumerate(lines):
        found = re.match(r"%(\d+) = (\w+)(\(.*\))? +\([\d, ]*\) (float64|int64|bool)$", line)
        assert found, line
        assert int(found[1]) == n
        assert all(int(operand) < n for operand in re.findall(r"%(\d+)", found[3] or ""))
        printed[found[2]] += found[2] != "leaf"
    ran = Counter(m.called)
    assert printed == ran if m.complete else printed >= ran
