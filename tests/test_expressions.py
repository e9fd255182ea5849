"""Expressions that nobody wrote: both derivatives against finite differences, and what the tape prints of them.

Hypothesis draws leaves and programs. Values are kept about 1 by constant factors. How far a derivative may be from a
finite difference is not chosen: it follows from an estimate of the difference's own error (`slope`). Where that is
too large to tell anything, because a kink is near or the expression is rough, the example is discarded, and few may
be.
"""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
from expressions import ALL, AXIS, ELEMENTWISE, SAMPLES, STEPS, Expression, Library, inner
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.ops import REGISTRY
from tinygrad_rnn.ops.op import Vjp

EPS = float(np.finfo(np.float64).eps)

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
    the noise of f over the step, times less than 2 for the weights of the extrapolation. Where 0 is next to a kink,
    central differences agree upon the mean of both sides. There, (f(h) - 2 f(0) + f(-h)) / h, which is h f''(0) for a
    smooth f, tends to the jump of the slope: with the term in h extrapolated away, it is part of the bound.
    """
    middle, rounding, best, bound, above, bends = f(0.0), noise(f), math.nan, math.inf, [], []
    for k in range(4, 10):
        h = 2.0**-k
        right, left = f(h), f(-h)
        row = [(right - left) / (2.0 * h)]
        bends.append((right - 2.0 * middle + left) / h)
        for j, wider in enumerate(above):
            row.append(row[j] + (row[j] - wider) / (4.0 ** (j + 1) - 1.0))
            error = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - wider)) + 2.0 * rounding / h
            if error < bound:
                best, bound = row[j + 1], error
        above = row
    jump = abs(2.0 * bends[-1] - bends[-2])
    return best, bound + jump


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


@pytest.mark.parametrize("place", [0.0, 1e-12, -1e-9, 1e-6])
def test_a_slope_beside_a_kink_is_not_trusted(place):
    found, bound = slope(lambda t: 0.3 * t + 0.01 * abs(t - place))
    assert bound >= 0.009, found
    assert slope(lambda t: math.exp(0.3 * t))[1] < 1e-10


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

    def examine(drawn, count):
        @settings(max_examples=count, deadline=None, derandomize=True, database=None)
        @given(programs(drawn), number)
        def run(expression, seed):
            enough = check(expression, seed)
            told[enough] += 1
            assume(enough)
            depths[max(expression.depths)] += 1
            kinds.update({function for (function, *_), _ in expression.steps})

        run()

    examine(list(STEPS), 500)
    for name in [name for name, function in STEPS.items() if kinds[function] < 5]:  # those seldom drawn
        examine([name, name, "multiply"], 5)
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
        found = re.match(r"%(\d+) = (\w+)(\(.*\))? +\([\d, ]*\) (float32|float64|int64|bool)$", line)
        assert found, line
        assert int(found[1]) == n
        assert all(int(operand) < n for operand in re.findall(r"%(\d+)", found[3] or ""))
        printed[found[2]] += found[2] != "leaf"
    ran = Counter(m.called)
    assert printed == ran if m.complete else printed >= ran


def test_what_overflows_is_infinite_and_warns_of_nothing():
    x = tg.tensor([1e30, 2.0], requires_grad=True)
    loss = tg.mse_loss(tg.square(x), tg.tensor([-1e30, 1.0]))
    loss.backward()
    assert np.isinf(loss.item()) and not np.isfinite(x.grad.numpy()[0]) and np.isfinite(x.grad.numpy()[1])
