"""The engine: what is recorded, what is freed, and what backward leaves."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DtypeError, GraphError, ShapeError

LENGTH = 200_000


def leaf(*values, dtype="float64"):
    return tg.tensor(np.array(values, dtype), requires_grad=True)


# --- Depth and lifetime ---


def test_a_very_long_chain_neither_recurses_nor_fails():
    x = leaf(1.0)
    y = x
    for _ in range(LENGTH):
        y = y + x
    y.backward()
    assert x.grad.item() == LENGTH + 1
    del y  # a long chain of nodes dies: no recursion in the destructor either


def test_a_long_chain_that_never_saw_backward_dies_quietly():
    y = leaf(1.0)
    with tg.Tape() as tape:
        for _ in range(LENGTH // 2):
            y = -y
    node = weakref.ref(y.node)
    del y, tape
    assert node() is None


def test_intermediates_die_with_the_loss_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x, w = leaf(1.0, 2.0), leaf(0.5, -1.0)
        parts = [x * w]
        parts.append(parts[-1][0:1])
        parts.append(tg.concat([parts[-1], parts[0]]))
        parts.append(tg.tanh(parts[-1]) @ tg.tensor(np.ones((3, 2))))
        parts.append(tg.softmax(parts[-1].reshape(2, 1)))
        parts[-1].retain_grad()
        parts[0].register_hook(lambda g: g * 2.0)
        loss = parts[-1].sum()
        references = [weakref.ref(t) for t in (*parts, loss)]
        references += [weakref.ref(t.node) for t in (*parts, loss)] + [weakref.ref(t._array) for t in (*parts, loss)]
        del parts
        loss.backward()
        del loss
        assert [r() for r in references] == [None] * len(references)
    finally:
        gc.enable()


def test_backward_frees_what_was_saved_even_while_the_result_lives():
    x = leaf(1.0, 2.0)
    y = tg.exp(x)
    z = (y * y).sum()
    reference = weakref.ref(y._array)
    del y
    assert reference() is not None
    z.backward()
    assert reference() is None


def test_nothing_is_kept_for_constants():
    x = tg.tensor([1.0])
    y = tg.exp(x)
    kept = weakref.ref(y)
    z = y * y
    del y
    assert kept() is None
    assert z.node is None


# --- Leaves ---


def test_leaves_and_the_requires_grad_setter():
    x = tg.tensor([1.0])
    assert x.is_leaf
    assert not x.requires_grad
    x.requires_grad = True
    y = x * 2.0
    assert not y.is_leaf
    assert (tg.tensor([1.0]) * 2.0).is_leaf
    with pytest.raises(GraphError, match="detach"):
        y.requires_grad = False
    z = y.detach()
    assert z.is_leaf
    assert not z.requires_grad
    assert z.node is None
    z.requires_grad = True
    (z * y).sum().backward()
    assert x.grad.item() == 4.0
    assert z.grad.item() == 2.0
    x.requires_grad = False
    assert not (x * 2.0).requires_grad
    for integers in (tg.tensor([1]), tg.tensor([True])):
        with pytest.raises(DtypeError, match="floating"):
            integers.requires_grad = True
        with pytest.raises(DtypeError, match="floating"):
            tg.tensor(integers, requires_grad=True)


def test_a_result_on_a_tape_may_become_a_leaf():
    x = tg.tensor([3.0])
    with tg.Tape():
        y = x * x
    assert y.is_leaf
    y.requires_grad = True
    (y * y).backward()
    assert y.grad.item() == 18.0
    assert x.grad is None


def test_gradient_does_not_flow_through_integers_and_truth():
    x = leaf(1.7, -0.3)
    for y in (x.astype("int64"), x.astype(bool), x > 0.0, tg.argmax(x), x.astype("int64") + 1):
        assert not y.requires_grad
    (x * x.astype("int64")).sum().backward()
    np.testing.assert_array_equal(x.grad, [1.0, 0.0])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_of_a_leaf_is_another_leaf(duplicate):
    x = leaf(1.0)
    y = duplicate(x)
    assert y.requires_grad
    (y * 2.0 + x * 3.0).backward()
    assert (x.grad.item(), y.grad.item()) == (3.0, 2.0)


# --- What backward leaves ---


def test_fan_out_and_several_backwards_accumulate():
    x = leaf(3.0)
    y = x * x
    z = y * y + y + x
    z.backward()  # 4 x^3 + 2 x + 1
    assert x.grad.item() == 115.0
    (x * x).backward()
    assert x.grad.item() == 121.0
    x.grad = None
    (x + x + x).backward()
    assert x.grad.item() == 3.0


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_accumulated_gradients_are_whole_tensors_of_every_shape(shape):
    x = tg.tensor(np.ones(shape), requires_grad=True)
    for times in (1, 2, 3):
        (x * x).sum().backward()
        assert isinstance(x.grad.numpy(), np.ndarray)
        np.testing.assert_array_equal(x.grad.numpy(), np.full(shape, 2.0 * times))
    x.grad *= 0.5
    np.testing.assert_array_equal(np.asarray(x.grad), np.full(shape, 3.0))


def test_retain_graph_and_the_error_without_it():
    x = leaf(2.0)
    z = tg.exp(x * x)
    z.backward(retain_graph=True)
    once = x.grad.item()
    z.backward()
    assert x.grad.item() == 2.0 * once
    with pytest.raises(GraphError, match="retain_graph=True"):
        z.backward()
    y = tg.sigmoid(x)
    y.sum().backward()
    with pytest.raises(GraphError, match="freed"):
        (y * 2.0).backward()


def test_create_graph_to_the_fourth_derivative():
    x = leaf(0.3)
    y = tg.sin(x) * tg.exp(x)
    for expected in ("exp(x)*(sin(x)+cos(x))", "2*exp(x)*cos(x)", "2*exp(x)*(cos(x)-sin(x))", "-4*exp(x)*sin(x)"):
        y = tg.grad(y, x, create_graph=True)
        value = eval(expected, {"x": 0.3, "exp": np.exp, "sin": np.sin, "cos": np.cos})
        assert y.item() == pytest.approx(value, rel=1e-13)
    assert x.grad is None


def test_backward_with_create_graph_leaves_differentiable_gradients():
    x = leaf(2.0)
    (x * x * x).backward(create_graph=True)
    assert x.grad.requires_grad
    first = x.grad
    x.grad = None
    first.backward()
    assert x.grad.item() == 12.0


def test_errors_of_backward_say_what_to_do():
    x = leaf(1.0, 2.0)
    with pytest.raises(GraphError, match=r"not a scalar[\s\S]*\.sum\(\)"):
        (x * x).backward()
    with pytest.raises(GraphError, match="requires_grad=True"):
        (tg.tensor([1.0]) * 2.0).backward()
    with pytest.raises(ShapeError, match="does not fit"):
        (x * x).backward(tg.tensor([1.0]))
    with tg.no_grad():
        y = x * x
    with pytest.raises(GraphError, match="no_grad"):
        y.backward(tg.ones(2))
    (x * x).backward([1.0, 10.0])
    np.testing.assert_array_equal(x.grad, [2.0, 40.0])
    x[:1].backward()  # one element is enough


# --- tg.grad ---


def test_grad_of_several_outputs_and_inputs():
    a, b, c = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0)
    shared = a * b
    outputs = [shared.sum(), (shared * shared).sum()]
    ga, gb, again = tg.grad(outputs, [a, b, a], retain_graph=True)
    np.testing.assert_array_equal(ga, [3.0 + 2 * 9.0, 4.0 + 2 * 32.0])
    np.testing.assert_array_equal(gb, [1.0 + 2 * 3.0, 2.0 + 2 * 16.0])
    np.testing.assert_array_equal(again, ga)
    gs = tg.grad(outputs, shared, grad_outputs=[1.0, 0.5], retain_graph=True)
    np.testing.assert_array_equal(gs, [4.0, 9.0])
    with pytest.raises(GraphError, match=r"input 1[\s\S]*allow_unused"):
        tg.grad(outputs, [a, c], retain_graph=True)
    assert tg.grad(outputs, [a, c], allow_unused=True, retain_graph=True)[1] is None
    with pytest.raises(GraphError, match="input 0 requires no gradient"):
        tg.grad(outputs, [tg.ones(1)], retain_graph=True)
    with pytest.raises(ArgumentError, match="one gradient for each"):
        tg.grad(outputs, [a], grad_outputs=[1.0])
    assert [t.grad for t in (a, b, c, shared)] == [None] * 4
    assert tg.grad(c, c).item() == 1.0


def test_grad_touches_only_the_part_of_the_graph_that_leads_to_the_inputs():
    x, w = leaf(3.0), leaf(1.0)
    u = tg.exp(w)
    u.backward()  # frees the branch of w
    calls = []
    w.register_hook(calls.append)
    assert tg.grad(x * x + u, x).item() == 6.0
    assert calls == []


def test_an_intermediate_input_and_a_leaf_behind_it():
    x = leaf(2.0)
    y = x * x
    z = y * y * x
    gy, gx = tg.grad(z, (y, x))
    assert (gy.item(), gx.item()) == (16.0, 80.0)


# --- retain_grad and hooks ---


def test_retain_grad():
    x = leaf(2.0)
    y = x * x
    y.retain_grad()
    z = y * 3.0
    z.backward(retain_graph=True)
    z.backward()
    assert y.grad.item() == 6.0
    assert z.grad is None
    assert isinstance(y.grad.numpy(), np.ndarray)
    with pytest.raises(GraphError, match="no gradient"):
        tg.tensor([1.0]).retain_grad()


@pytest.mark.parametrize("on_leaf", [True, False])
def test_hooks_in_order_replacing_removed_once(on_leaf):
    x = leaf(1.0, 2.0)
    y = x if on_leaf else x * 1.0
    log = []
    y.register_hook(lambda g: log.append(("first", g.numpy().tolist())))
    remove = y.register_hook(lambda g: g * 10.0)
    y.register_hook(lambda g: log.append(("last", g.numpy().tolist())))
    (y * y + y).sum().backward()  # y is used three times, its hooks are called once
    assert log == [("first", [3.0, 5.0]), ("last", [30.0, 50.0])]
    np.testing.assert_array_equal(x.grad, [30.0, 50.0])
    remove()
    remove()
    x.grad = None
    (y * 1.0).sum().backward() if on_leaf else ((x * 1.0) * 1.0).sum().backward()
    np.testing.assert_array_equal(x.grad, [1.0, 1.0])


def test_a_hook_sees_a_whole_tensor_even_without_axes():
    x = leaf(2.0).reshape(())
    seen = []
    x.register_hook(lambda g: seen.append(np.array(g.numpy())))
    (x * x * 3.0).backward()
    assert [g.item() for g in seen] == [12.0]


def test_what_a_hook_returns_takes_the_tensors_dtype_and_must_have_its_shape():
    x = leaf(1.0, 2.0, dtype="float32")
    remove = x.register_hook(lambda g: np.asarray(g, np.float64) * 2.0)
    (x * x).sum().backward()
    assert x.grad.dtype == np.float32
    remove()
    x.register_hook(lambda g: g[:1])
    with pytest.raises(ShapeError, match="hook"):
        (x * x).sum().backward()
    with pytest.raises(GraphError, match="no gradient"):
        tg.ones(1).register_hook(print)


def test_create_graph_records_within_no_grad_too():
    x = leaf(3.0)
    y = x * x * x
    with tg.no_grad():
        (first,) = tg.grad(y, [x], create_graph=True)
    assert tg.grad(first, x).item() == 18.0


def test_a_tape_around_backward_lists_the_forward_operations_only():
    x = leaf(3.0)
    with tg.Tape() as tape:
        (x[None] * x).sum().backward()
    assert [node.op.name for node in tape] == ["getitem", "multiply", "sum"]
