"""Planning takes time in proportion to a step's operations, and follows no chain by recursion."""

from __future__ import annotations

import time

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.compiler.passes import pieces
from tinygrad_rnn.compiler.passes.schedule import RowPhase
from tinygrad_rnn.ir.nodes import Map


def tensor(seed, *shape):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def costly(count):
    """A third of that many times a function worth saving."""
    w = tensor(0, 4)

    def step(h, x):
        for _ in range(count // 3):
            h = tg.tanh(w * h + x)
        return h, h

    return step, tensor(1, 3, 4), tensor(2, 9, 3, 4), [w]


def cheap(count):
    """All of it is computed again for the gradient."""
    w = tensor(0, 4)

    def step(h, x):
        for _ in range(count // 3):
            h = 0.5 * (w * h + x)
        return h, h

    return step, tensor(1, 3, 4), tensor(2, 9, 3, 4), [w]


def branching(count):
    """Euler's steps of an oscillator: each value is used several times, so there are exponentially many paths."""
    g = tensor(0, 4)

    def step(carry, x):
        a, v = carry
        for _ in range(count // 11):
            v = v - 1e-4 * (g * a * a * a + 0.1 * v - x)
            a = a + 1e-4 * v
        return (a, v), a

    return step, (tensor(1, 3, 4), tensor(3, 3, 4)), tensor(2, 9, 3, 4), [g]


def pendulum(count):
    """Substeps of Runge and Kutta, with slices of what was joined."""
    g = tensor(0, 1)

    def slope(s, x):
        return tg.concat([s[:, 1:2], -g * tg.sin(s[:, 0:1]) + x], -1)

    def step(s, x):
        for _ in range(max(count // 41, 1)):
            one = slope(s, x)
            two = slope(s + 0.005 * one, x)
            three = slope(s + 0.005 * two, x)
            four = slope(s + 0.01 * three, x)
            s = s + 0.01 / 6 * (one + 2 * two + 2 * three + four)
        return s, s

    return step, tensor(1, 3, 2), tensor(2, 9, 3, 1), [g]


def largest(count):
    """The three largest of eight by insertion, and what they make of the next eight."""
    w = tensor(0, 3, 8)

    def step(h, x):
        for _ in range(max(count // 42, 1)):
            values = [tg.tanh(x + h)[:, i : i + 1] for i in range(8)]
            top = values[:3]
            for value in values[3:]:
                for k in range(3):
                    top[k], value = tg.maximum(top[k], value), tg.minimum(top[k], value)
            h = tg.concat(top, -1) @ w
        return h, h

    return step, tensor(1, 3, 8), tensor(2, 9, 3, 8), [w]


STEPS = [costly, cheap, branching, pendulum, largest]


def planned(make, count):
    """Seconds for tracing, planning and printing; and the text."""
    step, init, xs, _ = make(count)
    start = time.process_time()
    found = tg.explain(lambda: tg.scan(step, init, xs))
    text = str(found)
    assert found.fused, text
    return time.process_time() - start, text


@pytest.mark.parametrize("make", STEPS)
def test_it_grows_with_the_operations(make):
    planned(make, 10)
    seconds = {count: planned(make, count)[0] for count in (10, 100, 1000)}
    print(make.__name__, ", ".join(f"{count} operations: {took:.3f} s" for count, took in seconds.items()))
    assert seconds[1000] < 25 * seconds[100] + 0.2  # ten times as much; timers and caches have their share
    assert seconds[1000] < 2.0


@pytest.mark.parametrize(("make", "count"), [(costly, 5000), (cheap, 5000), (branching, 5000), (pendulum, 820)])
def test_long_steps(make, count):
    seconds, text = planned(make, count)
    print(make.__name__, f"{count} operations: {seconds:.3f} s")
    assert text.count("\n") > count
    assert seconds < 6.0  # about 1.5 on one free core


def test_three_of_eight():
    assert planned(largest, 1)[0] < 2.0


@pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")
@pytest.mark.parametrize("make", STEPS)
def test_a_long_loop_in_pieces(monkeypatch, make):
    """One row function as several, with what they need of each other in memory, gives the same numbers."""
    monkeypatch.setattr(pieces, "LONG", 12)
    step, init, xs, parameters = make(60)
    planned = tg.explain(lambda: tg.scan(step, init, xs)).parts[0][1]
    for schedule in (planned.forward, planned.backward):
        made = [sum(isinstance(node, Map) for node in p.made) for p in schedule.phases if isinstance(p, RowPhase)]
        assert len(made) > 2 and max(made) <= 12
    found = []
    for engine in ("fused", "eager"):
        ys = tg.scan(step, init, xs, engine=engine)[1]
        given = [xs, *(init if isinstance(init, tuple) else (init,)), *parameters]
        found.append([ys.numpy(), *[g.numpy() for g in tg.grad((ys * ys).sum(), given)]])
    for one, other in zip(*found):
        assert np.abs(one - other).max() <= 1e-12 * np.abs(other).max()
