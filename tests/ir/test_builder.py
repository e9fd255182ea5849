"""Equal nodes are one, what is nothing is left out, and no chain is too long."""

from __future__ import annotations

import math
import time

import pytest

from tinygrad_rnn.ir.builder import Builder
from tinygrad_rnn.ir.nodes import Const, Join, listed, reachable
from tinygrad_rnn.kernels import scalar


@pytest.fixture
def b():
    return Builder("float64")


def test_equal_nodes_are_one(b):
    x, y = b.input(("x", 0), (4,)), b.input(("x", 1), (4,))
    assert b.map(scalar.add, x, y) is b.map(scalar.add, x, y)
    assert b.map(scalar.add, x, y) is not b.map(scalar.add, y, x)
    assert b.map(scalar.add, x, y) is not b.map(scalar.multiply, x, y)
    assert b.constant(2) is b.constant(2.0) and b.constant(math.inf) is b.constant(math.inf)
    assert b.slice(x, (1,), (2,)) is not b.slice(x, (2,), (2,))
    assert [node.number for node in b.nodes] == list(range(len(b.nodes)))


def test_zeros_of_both_signs_are_two(b):
    """x - 0 keeps a negative zero that x + 0 loses."""
    assert b.constant(0.0) is not b.constant(-0.0)
    assert math.copysign(1.0, b.constant(-0.0).value) == -1.0


def test_what_is_nothing_is_left_out(b):
    x, one = b.input(("x", 0), (4,)), b.constant(1.0)
    assert b.map(scalar.multiply, x, one) is x and b.map(scalar.multiply, one, x) is x
    assert b.map(scalar.divide, x, one) is x and b.map(scalar.divide, one, x) is not x
    folded = b.map(scalar.add, one, b.constant(2.0))
    assert isinstance(folded, Const) and folded.value == 3.0
    assert b.slice(x, (0,), (4,)) is x and b.broadcast(x, (4,)) is x
    assert b.join([(b.slice(x, (0,), (1,)), 0), (b.slice(x, (1,), (3,)), 1)], (4,)) is x
    assert b.join([(b.slice(x, (0,), (1,)), 0), (b.slice(x, (2,), (2,)), 1)], (3,)) is not x
    assert b.map(scalar.greater, x, one).dtype == "bool" and b.map(scalar.add, x, one).dtype == "float64"


def test_a_slice_of_what_is_joined_is_a_slice_of_the_part(b):
    x, y = b.input(("x", 0), (4,)), b.input(("x", 1), (3,))
    joined = b.join([(y, 5), (x, 0)], (9,))
    assert isinstance(joined, Join) and joined.offsets == (0, 4, 5, 8)  # zeros where there is nothing
    assert b.slice(joined, (5,), (3,)) is y and b.slice(joined, (0,), (4,)) is x
    part = b.slice(joined, (6,), (2,))
    assert part.operands == (y,) and part.starts == (1,)
    assert b.slice(joined, (3,), (2,)).operands == (joined,)


def test_how_nodes_print(b):
    x = b.input(("x", 0), (4,))
    v, p = b.captured(0, (4,)), b.product(x, 1, True, 6)
    made = b.map(scalar.add, b.slice(p, (2,), (4,)), v)
    b.labels[made.number] = "gate"
    lines = list(listed(reachable([made]), {"v0": "bias", "w1": "weight"}, b.labels))
    assert [line.split() for line in lines] == [
        ["%0", "=", "x", "0", "4"], ["%1", "=", "bias", "4"], ["%2", "=", "%0", "@", "weight.T", "6"],
        ["%3", "=", "%2[2:6]", "4"], ["%4", "=", "add(%3,", "%1)", "4", "#", "gate"],
    ]  # fmt: skip
    assert repr(b.draw("step", 0, 0.5, (4,))) == "%5 = draw 0 of the step"
    assert repr(b.reduce("max", x)) == "%6 = max(%0)" and repr(b.kth(x, 2)) == "%7 = kth(%0, 2)"


def deep(b, count):
    """Slices of joins of slices, and a chain of maps, so deep."""
    x = node = b.input(("x", 0), (4,))
    for _ in range(count):
        node = b.slice(b.join([(node, 2), (x, 6)], (10,)), (1,), (6,))
        node = b.slice(b.map(scalar.add, node, b.constant(0.5)), (1,), (4,))
    return node


def test_depth_is_no_recursion_and_costs_its_length():
    seconds = {}
    for count in (500, 5000):
        start = time.process_time()
        assert len(reachable([deep(Builder("float64"), count)])) > count
        seconds[count] = time.process_time() - start
    assert seconds[5000] < 40 * seconds[500] + 0.5  # ten times as much; timers and caches have their share


def test_many_parts():
    b = Builder("float64")
    parts = [b.input(("x", i), (2,)) for i in range(5000)]
    joined = b.join([(part, 2 * i) for i, part in enumerate(parts)], (10000,))
    start = time.process_time()
    assert all(b.slice(joined, (2 * i,), (2,)) is part for i, part in enumerate(parts))
    assert time.process_time() - start < 1.0
