"""Recomputing: the same gradients of any order, from less memory; and an error where it could not be the same."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.errors import GraphError


def leaf(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).normal(size=shape), requires_grad=True)


def gradients(function, *inputs):
    for x in inputs:
        x.grad = None
    function(*inputs).sum().backward()
    return [x.grad.numpy() for x in inputs]


def both_ways(function, *inputs):
    """Gradients without and with recomputing."""
    return gradients(function, *inputs), gradients(lambda *xs: tg.checkpoint(function, *xs), *inputs)


def test_gradients_are_the_same_to_the_bit():
    x, w = leaf(3, 4), leaf(4, 4, seed=1)
    plain, again = both_ways(lambda x, w: tg.tanh(x @ w) * tg.softmax(x) + x[:, :1], x, w)
    for a, b in zip(plain, again):
        np.testing.assert_array_equal(a, b)


def test_tensors_that_the_function_closes_over_get_gradients():
    lstm = nn.LSTM(3, 4, num_layers=2, dtype="float64", rng=np.random.default_rng(0))
    x = leaf(5, 2, 3)
    runs = []
    for run in (lambda x: lstm(x)[0], lambda x: tg.checkpoint(lambda x: lstm(x)[0], x)):
        lstm.zero_grad()
        x.grad = None
        (run(x) ** 2).sum().backward()
        runs.append([x.grad.numpy(), *[p.grad.numpy() for p in lstm.parameters()]])
    for a, b in zip(*runs):
        np.testing.assert_array_equal(a, b)


def test_several_outputs_in_nests_and_arguments_that_are_no_tensors():
    x = leaf(3)
    function = lambda x, power, names: {"a": (tg.sin(x) ** power, names), "b": [tg.exp(x)]}  # noqa: E731

    def run(f):
        made = f(x, 2.0, "n")
        assert made["a"][1] == "n"
        return tg.grad([made["a"][0], made["b"][0]], x, [tg.ones_like(x), tg.ones_like(x)])

    np.testing.assert_array_equal(run(function), run(lambda *xs: tg.checkpoint(function, *xs)))


def test_derivatives_of_every_order():
    x = leaf(4)

    def third(f):
        y = f(x).sum()
        for _ in range(3):
            y = tg.grad(y, x, create_graph=True).sum()
        return y.numpy()

    function = lambda x: tg.tanh(x * x) * tg.exp(x)  # noqa: E731
    np.testing.assert_array_equal(third(function), third(lambda x: tg.checkpoint(function, x)))
    assert tg.gradgradcheck(lambda x: tg.checkpoint(function, x), x)
    np.testing.assert_allclose(
        tg.hessian(lambda x: tg.checkpoint(function, x).sum(), x.detach()),
        tg.hessian(lambda x: function(x).sum(), x.detach()),
        rtol=1e-14,
    )


@pytest.mark.parametrize("own", [False, True], ids=["library's generator", "own generator"])
def test_random_numbers_are_the_same_and_later_ones_too(own):
    x = leaf(50)

    def run(wrap):
        tg.manual_seed(5)
        rng = np.random.default_rng(3) if own else None
        function = lambda x: tg.dropout(tg.dropout(x * x, 0.5, rng=rng) * 3.0, 0.2, rng=rng)  # noqa: E731
        x.grad = None
        y = wrap(function)(x)
        between = tg.rand(3, rng=rng).numpy()
        y.sum().backward()
        return y.numpy(), x.grad.numpy(), between, tg.rand(3, rng=rng).numpy()

    plain, again = run(lambda f: f), run(lambda f: lambda x: tg.checkpoint(f, x))
    for a, b in zip(plain, again):
        np.testing.assert_array_equal(a, b)


def test_a_seed_set_in_between_changes_nothing():
    x = leaf(50)
    tg.manual_seed(5)
    y = tg.checkpoint(lambda x: tg.dropout(x), x)
    mask = y.numpy() != 0.0
    tg.manual_seed(6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy() != 0.0, mask)


def test_nested():
    x = leaf(5)
    inner = lambda x: tg.sin(tg.exp(x))  # noqa: E731
    outer = lambda x: tg.checkpoint(inner, x * 2.0) * tg.checkpoint(inner, x)  # noqa: E731
    plain, again = both_ways(outer, x)
    np.testing.assert_array_equal(plain, again)


def test_retained_and_freed_like_every_graph():
    x = leaf(3)
    y = tg.checkpoint(lambda x: tg.exp(tg.sin(x)), x).sum()
    y.backward(retain_graph=True)
    once = x.grad.numpy().copy()
    y.backward()
    np.testing.assert_array_equal(x.grad, 2.0 * once)
    with pytest.raises(GraphError, match="freed"):
        y.backward()


def test_memory_is_that_of_one_part_at_a_time():
    x = tg.tensor(np.random.default_rng(0).normal(size=50_000), requires_grad=True)

    def part(h):
        for _ in range(20):
            h = tg.sin(h)
        return h

    def peak(wrap):
        part(x)  # kernels are compiled
        gc.collect()
        tracemalloc.start()
        h = x
        for _ in range(10):
            h = wrap(h)
        h.sum().backward()
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top / x._array.nbytes

    assert peak(part) > 200
    assert peak(lambda h: tg.checkpoint(part, h)) < 45  # ten inputs, one part of twenty values, and a few


def test_what_is_dropped_dies_at_once_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x, kept = leaf(3), []

        def function(x):
            h = tg.exp(x)
            kept.append((weakref.ref(h), weakref.ref(h.node), weakref.ref(h._array)))
            return tg.sin(h)

        y = tg.checkpoint(function, x)
        assert kept[0][0]() is None
        assert kept[0][2]() is None  # the value; the node stays
        assert kept[0][1]() is not None
        y.sum().backward()
        del y
        assert [reference() for references in kept for reference in references] == [None] * 6
    finally:
        gc.enable()


def test_nothing_is_recomputed_where_nothing_is_recorded():
    calls = []

    def function(x):
        calls.append(1)
        return x * x

    with tg.no_grad():
        tg.checkpoint(function, leaf(2))
    tg.checkpoint(function, tg.ones(2))
    assert len(calls) == 2
    tg.checkpoint(function, leaf(2)).sum().backward()
    assert len(calls) == 4


def test_the_tape_and_names_are_those_of_the_function():
    x = leaf(2)
    with tg.Tape() as tape:
        tg.checkpoint(lambda x: tg.tanh(x).named("inner"), x).sum().backward()
    assert [node.name for node in tape] == ["inner", "sum"]


# --- Where it could not be the same ---


def test_a_write_to_what_it_reads_is_an_error():
    w, x = leaf(3), tg.ones(3, dtype="float64")
    y = tg.checkpoint(lambda x: tg.exp(x + w), x)  # the sum saves nothing, yet it is computed again
    with tg.no_grad():
        w += 1.0
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()


def test_a_write_where_nothing_need_be_computed_again_is_none():
    w, x = leaf(3), tg.ones(3, dtype="float64")
    y = tg.checkpoint(lambda x: x + w, x)
    with tg.no_grad():
        w += 1.0
    y.sum().backward()
    np.testing.assert_array_equal(w.grad, 1.0)


def test_a_buffer_made_and_written_inside_is_no_error():
    x = leaf(3)

    def function(x):
        mask = tg.zeros(3, dtype="float64")
        mask[1] = 2.0
        return x * mask

    y = tg.checkpoint(function, x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [0.0, 2.0, 0.0])


def test_a_value_written_after_it_was_saved_inside_is_an_error():
    x = leaf(3)

    def function(x):
        mask = tg.ones(3, dtype="float64")
        y = x * mask
        mask[1] = 2.0
        return y

    with pytest.raises(GraphError, match="changed in place"):
        tg.checkpoint(function, x).sum().backward()


def test_another_course_the_second_time_is_an_error():
    x, turns = leaf(3), []

    def other_ops(x):
        turns.append(1)
        return tg.sin(x) if len(turns) % 2 else tg.exp(x)

    with pytest.raises(GraphError, match=r"something else[\s\S]*sin \(3,\)[\s\S]*exp \(3,\)"):
        tg.checkpoint(other_ops, x).sum().backward()

    def other_numbers(x):
        turns.append(1)
        return x * x * float(len(turns))

    with pytest.raises(GraphError, match="other numbers"):
        tg.checkpoint(other_numbers, x).sum().backward()

    layer = nn.Sequential(nn.Dropout(0.5), lambda x: x * x)
    y = tg.checkpoint(layer, leaf(100))
    layer.eval()
    with pytest.raises(GraphError, match="checkpoint"):
        y.sum().backward()


def test_differences_that_the_result_does_not_show_are_errors():
    """A gate of zero, an order of draws, a result in a dictionary, small numbers, a sum of zero, a counting buffer."""
    k, noise = [1.0], np.random.default_rng(0)
    alpha, x, one = tg.tensor(np.zeros(()), requires_grad=True), leaf(4), tg.tensor(np.ones(4), requires_grad=True)
    buffer = tg.ones(4, dtype="float64")

    def counting(x):
        with tg.no_grad():
            buffer[...] = buffer + 1.0
        return tg.sin(x * alpha * buffer)

    functions = [
        lambda x: x + alpha * (x * tg.tensor(noise.random(4))),
        lambda x: tg.exp(x[noise.permutation(4)]),
        lambda x: {"y": tg.square(x * k[0])}["y"],
        lambda x: tg.square(x.astype("float32") * k[0]).sum() * 1e-6,
        lambda x: k[0] * (one - 1.0) * tg.exp(x),
        counting,
        lambda x: noise.random() * tg.dropout(x, 0.5, rng=noise),
    ]
    for function in functions:
        k[0] = 1.0
        made = tg.checkpoint(function, x)
        k[0] = 2.0
        with pytest.raises(GraphError, match="checkpoint: the function computed other numbers"):
            made.sum().backward()


def test_freezing_a_tensor_in_between_is_an_error():
    w, x = leaf(3), leaf(3, seed=1)
    y = tg.checkpoint(lambda x: tg.exp(x * w), x)
    w.requires_grad = False
    with pytest.raises(GraphError, match="requires_grad"):
        y.sum().backward()


@pytest.mark.parametrize("trouble", ["a write", "a hook"])
def test_an_error_in_one_backward_leaves_the_next_as_it_would_be_without(trouble):
    x, c = leaf(3), tg.ones(3, dtype="float64")
    y = tg.checkpoint(lambda x: tg.exp(x * c), x)
    y.sum().backward(retain_graph=True)
    once = x.grad.numpy().copy()
    if trouble == "a write":
        c *= 2.0
        for says in ("changed in place", "freed"):
            with pytest.raises(GraphError, match=says):
                y.sum().backward()
    else:

        def fail(g):
            raise KeyError

        remove = x.register_hook(fail)
        with pytest.raises(KeyError):
            y.sum().backward()
        remove()
        with pytest.raises(GraphError, match="freed"):
            y.sum().backward()
    np.testing.assert_array_equal(x.grad, once)
