"""Loops as data, and the text that is printed of them."""

from __future__ import annotations

import pytest

from tinygrad_rnn.ir import numba
from tinygrad_rnn.ir.builder import Builder
from tinygrad_rnn.ir.loops import Accumulate, At, Load, Loop, Operation, Placed, Store, TooWide, row_function
from tinygrad_rnn.kernels import scalar


@pytest.fixture
def b():
    return Builder("float64")


def function(targets, lies, laid=()):
    return row_function("rows", targets, {node.number: At(slot) for slot, node in enumerate(lies)}.get, laid)


def kinds(entries):
    return [type(entry) for entry in entries]


def test_one_loop_loads_computes_and_stores(b):
    x, y = b.input(("x", 0), (4,)), b.input(("x", 1), (4,))
    made = b.map(scalar.add, b.map(scalar.multiply, x, y), x)
    found = function([Placed(made, At(2))], [x, y])
    (loop,) = found.entries
    assert isinstance(loop, Loop) and loop.width == 4
    assert kinds(loop.entries) == [Load, Load, Operation, Operation, Store]  # x once


def test_a_reduction_is_known_before_the_next_loop(b):
    x = b.input(("x", 0), (4,))
    centred = b.map(scalar.subtract, x, b.reduce("max", x))
    found = function([Placed(centred, At(1))], [x])
    first, second = [entry for entry in found.entries if isinstance(entry, Loop)]
    assert kinds(first.entries) == [Load, Accumulate] and kinds(second.entries) == [Load, Operation, Store]


def test_joins_are_stored_part_by_part(b):
    x, y = b.input(("x", 0), (4,)), b.input(("x", 1), (3,))
    found = function([Placed(b.join([(x, 0), (y, 4)], (7,)), At(2))], [x, y])
    stores = [entry for entry in found.every() if isinstance(entry, Store)]
    assert [store.at for store in stores] == [At(2, 0), At(2, 4)]
    assert [entry.width for entry in found.entries if isinstance(entry, Loop)] == [4, 3]


def test_all_that_must_lie_in_memory_is_named_at_once(b):
    x, y = b.input(("x", 0), (4,)), b.input(("x", 1), (4,))
    one, other = b.map(scalar.sin, x), b.map(scalar.cos, y)
    first = [b.slice(node, (0,), (1,)) for node in (one, other)]  # a number of what is made along the row
    target = Placed(b.map(scalar.add, *first), At(2))
    with pytest.raises(TooWide) as trouble:
        function([target], [x, y])
    assert trouble.value.nodes == [one, other]
    laid = [Placed(one, At(3)), Placed(other, At(4)), target]
    assert function(laid, [x, y], {one.number, other.number}).entries


def test_the_text_has_no_sizes(b):
    texts, numbers = set(), []
    for width in (4, 5):
        x = b.input(("x", 0), (width,))
        target = Placed(b.map(scalar.tanh, b.slice(x, (2,), (width - 2,))), At(1))
        sizes = []
        texts.add(numba.printed(function([target], [x]), sizes))
        numbers.append(sizes)
    assert len(texts) == 1
    assert sorted(numbers[0]) == [2, 2] and sorted(numbers[1]) == [2, 3]


def test_the_text(b):
    x, total = b.input(("x", 0), (4,)), b.input(("x", 1), (4,))
    below = b.map(scalar.where, b.map(scalar.less, x, b.constant(0.5)), x, b.constant(-0.0))
    found = function([Placed(below, At(2)), Placed(total, At(3), True)], [x, total])
    text = numba.printed(found, [])
    assert [line.strip() for line in text.splitlines() if "store" in line or "like" in line] == [
        "u_2 = like(0.5, ZERO)", "u_4 = like(-0.0, ZERO)",
        "store(t_5, p_2, j, 1, 3)", "store(load(ZERO, p_3, j, 2, 3) + t_6, p_3, j, 2, 3)",
    ]  # fmt: skip
    compile("\n".join(text.splitlines()), "rows", "exec")
