"""Ops of one's own: what a declaration promises holds, and what would make a wrong gradient is refused."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DeclarationError, GraphError
from tinygrad_rnn.ops.declare import Array, elementwise, opaque, reduction


def leaf(*values):
    return tg.tensor(np.array(values, np.float64), requires_grad=True)


def test_an_op_of_many_inputs_whose_vjp_names_them_all():
    @opaque(promotes=True)
    def multiplied(arrays: Sequence[Array]):
        """The product of all."""
        return functools.reduce(operator.mul, arrays)

    @multiplied.vjp("arrays")
    def _(g, arrays):
        return [
            g * functools.reduce(operator.mul, [a for j, a in enumerate(arrays) if j != i], 1.0)
            for i in range(len(arrays))
        ]

    xs = [leaf(2.0, 3.0), leaf(5.0, 7.0), leaf(-1.0, 0.5)]
    for create_graph in (False, True):
        found = tg.grad(multiplied(xs).sum(), xs, create_graph=create_graph)
        np.testing.assert_allclose(np.stack(found), [[-5.0, 3.5], [-2.0, 1.5], [10.0, 21.0]])
    assert tg.gradgradcheck(lambda *xs: multiplied(list(xs)), xs)
    saved = tg.tensor(np.ones(2))
    y = multiplied([saved, xs[0]])
    saved += 1.0
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()


def test_inputs_that_cannot_be_told_apart_are_refused():
    def mixed(arrays: Sequence[Array], scale: Array = 1.0):
        """Many and one."""
        return arrays[0] * scale

    def starred(*xs: Array):
        """Starred."""
        return xs[0]

    for rule in (mixed, starred):
        with pytest.raises(DeclarationError, match="cannot be told apart"):
            opaque()(rule)

    @opaque()
    def rolled(x: Array, axes: Sequence[int] = (0,)):
        """A sequence of numbers is a setting."""
        return np.flip(x, axes)

    rolled.vjp("x")(lambda g, axes: rolled(g, axes))
    assert tg.gradcheck(rolled, leaf(1.0, 2.0))


def test_settings_are_what_they_were_at_the_call():
    @opaque()
    def scaled(x: Array, factors: object = None):
        """x times the factors."""
        return x * np.asarray(factors["f"][0] if isinstance(factors, dict) else factors)

    scaled.vjp("x")(
        lambda g, factors: g * tg.tensor(np.asarray(factors["f"][0] if isinstance(factors, dict) else factors))
    )
    for wrap in (lambda f: f, lambda f: {"f": [f]}, tg.from_numpy, lambda f: f.tolist()):
        f, x = np.array([10.0, 20.0]), leaf(1.0, 1.0)
        given = wrap(f)
        y = scaled(x, given)
        f[:] = 0.0
        if isinstance(given, list):
            given[0] = 0.0
        np.testing.assert_array_equal(tg.grad(y.sum(), x), [10.0, 20.0])
    with pytest.raises(GraphError, match="a setting requires a gradient"):
        scaled(x, leaf(1.0, 2.0))


def test_a_rule_cannot_write_to_the_caller_s_memory_nor_a_vjp_to_what_others_hold():
    @opaque()
    def greedy(x: Array):
        """x + 1, written into x."""
        x += 1.0
        return x

    with pytest.raises(ValueError, match="read-only"):
        greedy(tg.ones(2))

    @opaque()
    def twice(x: Array):
        """2 x."""
        return x * 2.0

    @twice.vjp("x")
    def _(g):
        g *= 2.0
        return g

    with pytest.raises(GraphError, match="read-only"):
        (leaf(1.0) + twice(leaf(1.0))).backward()


def test_a_tensor_that_a_rule_closes_over_is_no_constant():
    w = leaf(2.0, 3.0)

    def outside(x: Array):
        """W x."""
        return w * x

    closed = opaque()(outside)
    with pytest.raises(GraphError, match="is no input"):
        closed(leaf(1.0, 1.0))
    with pytest.raises(DeclarationError, match="must be one of its inputs"):
        elementwise()(outside)


def test_an_input_that_a_rule_ignores_is_refused():
    with pytest.raises(DeclarationError, match="does not use b"):

        @elementwise()
        def first(a, b):
            """a."""
            return a * 1.0


def test_infinite_literals_and_a_parameter_called_op():
    @elementwise()
    def guarded(op):
        """op, and NaN at minus infinity."""
        return tg.where(op > -math.inf, op, math.nan) * 2.0

    guarded.vjp("op")(lambda g, op: tg.where(op < math.inf, g * 2.0, 0.0))
    x = leaf(1.0, -np.inf, np.inf)
    y = guarded(x)
    np.testing.assert_array_equal(y, [2.0, np.nan, np.inf])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 2.0, 0.0])

    @opaque()
    def shifted(x: Array, by: Array | None = None):
        """x + by."""
        return x if by is None else x + by

    shifted.vjp("x")(lambda g, by: g if by is None else g * 1.0)
    shifted.vjp("by")(lambda g: g)
    x = leaf(1.0)
    assert tg.grad(shifted(x), x).item() == 1.0
    assert tg.grad(shifted(x, leaf(3.0)), x).item() == 1.0


def test_a_reduction_of_one_s_own():
    @reduction(symbol="‖x‖²")
    def energy(x: Array, axis: object = None, keepdims: bool = False):
        """Sum of squares."""
        return np.sum(x * x, axis=axis, keepdims=keepdims)

    energy.vjp("x")(lambda g, x: 2.0 * x * g)
    x = tg.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    for settings in ({}, {"axis": 1}, {"axis": (0, -1), "keepdims": True}):
        assert tg.gradgradcheck(lambda x, settings=settings: energy(x, **settings), x)


def test_gradcheck_wants_double_precision_of_the_outputs_too():
    with pytest.raises(ArgumentError, match="output 0 is too coarse"):
        tg.gradcheck(lambda x: x.astype("float32"), leaf(1.0))


def test_a_list_of_tensors_never_cuts_their_history_silently():
    a, b, w = tg.tensor(2.0, requires_grad=True), tg.tensor(3.0, requires_grad=True), tg.ones(2, requires_grad=True)
    for run in (
        lambda: w * [a, b], lambda: [a, b] * w, lambda: tg.stack([[a, b], [b, a]]),
        lambda: tg.where(w > 0.0, [a, b], w),
        lambda: w @ [[a], [b]], lambda: tg.linear(w, [[a, b]]), lambda: tg.einsum("i,i->", w, [a, b]),
        lambda: tg.outer(w, [a, b]), lambda: tg.mse_loss(w, [a, b]), lambda: tg.clip(w, [a, b], None),
        lambda: tg.tensor([a, b]),
    ):  # fmt: skip
        with pytest.raises(GraphError, match=r"list[\s\S]*tg\.stack"):
            run()
    with tg.no_grad():
        np.testing.assert_array_equal(tg.tensor([a, b]), [2.0, 3.0])
    np.testing.assert_array_equal(tg.grad(tg.stack([a, b]).sum(), [a, b]), [1.0, 1.0])
