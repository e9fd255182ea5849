"""Transforms of functions, against closed forms, each other, and nested in each other."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DtypeError, ShapeError


def point(*values, **named):
    return tg.tensor(np.array(values, np.float64), **named)


A = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])


def mapped(x):
    """R^3 -> R^2 with the Jacobian cos(A x) A."""
    return tg.sin(tg.tensor(A) @ x)


def quartic(x):
    return ((tg.tensor(A) @ x) ** 4).sum()


X, V, G = point(0.3, -0.2, 0.7), point(1.0, 2.0, -3.0), point(0.5, -2.0)
JACOBIAN = np.cos(A @ np.asarray(X))[:, None] * A
HESSIAN = A.T @ np.diag(12.0 * (A @ np.asarray(X)) ** 2) @ A


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12, atol=1e-14)


def test_products_with_the_jacobian_from_both_sides():
    y, pullback = tg.vjp(mapped, X)
    close(y, np.sin(A @ np.asarray(X)))
    (g,) = pullback(G)
    close(g, JACOBIAN.T @ np.asarray(G))
    close(pullback(G * 2.0)[0], 2.0 * np.asarray(g))  # more than once
    y, tangent = tg.jvp(mapped, X, V)
    close(y, np.sin(A @ np.asarray(X)))
    close(tangent, JACOBIAN @ np.asarray(V))
    assert not any(t.requires_grad for t in (y, g, tangent))
    assert X.grad is None
    assert X.node is None


def test_jacobian_hessian_and_its_product():
    close(tg.jacobian(mapped, X), JACOBIAN)
    close(tg.hessian(quartic, X), HESSIAN)
    close(tg.hvp(quartic, X, V), HESSIAN @ np.asarray(V))
    close(tg.jacobian(lambda x: tg.vjp(quartic, x)[1](tg.ones_like(quartic(x)))[0], X), HESSIAN)
    close(tg.jvp(lambda x: tg.jacobian(quartic, x), X, V)[1], HESSIAN @ np.asarray(V))


def test_several_arguments_and_outputs():
    def f(a, b):
        return a @ b, (a * a).sum(), b

    a, b = tg.tensor(A), X
    rows = tg.jacobian(f, (a, b))
    assert [[t.shape for t in row] for row in rows] == [[(2, 2, 3), (2, 3)], [(2, 3), (3,)], [(3, 2, 3), (3, 3)]]
    close(rows[0][1], A)
    close(rows[1][0], 2.0 * A)
    close(rows[1][1], np.zeros(3))
    close(rows[2][1], np.eye(3))
    _, (t0, t1, t2) = tg.jvp(f, (a, b), (tg.ones_like(a), V))
    close(t0, np.ones((2, 3)) @ np.asarray(X) + A @ np.asarray(V))
    close(t1, 2.0 * A.sum())
    close(t2, V)
    _, pullback = tg.vjp(f, a, b)
    ga, gb = pullback(G, tg.tensor(1.0, dtype="float64"), V)
    close(ga, np.outer(np.asarray(G), np.asarray(X)) + 2.0 * A)
    close(gb, A.T @ np.asarray(G) + np.asarray(V))
    blocks = tg.hessian(lambda x, y: (x * x * y).sum(), (X, V))
    close(blocks[0][0], np.diag(2.0 * np.asarray(V)))
    close(blocks[0][1], np.diag(2.0 * np.asarray(X)))
    close(blocks[1][1], np.zeros((3, 3)))


def test_shapes_of_every_rank():
    for shape in ((), (1,), (2, 3), (0,), (2, 0)):
        x = tg.tensor(np.full(shape, 0.5))
        assert tg.jacobian(lambda x: x * x, x).shape == shape * 2
        assert tg.hessian(lambda x: (x * x).sum(), x).shape == shape * 2
        assert tg.hvp(lambda x: (x * x).sum(), x, x).shape == shape
        assert tg.jvp(lambda x: x * x, x, x)[1].shape == shape


def test_a_function_that_does_not_depend_on_its_argument_has_zeros():
    close(tg.jacobian(lambda x: tg.ones(2), X), np.zeros((2, 3)))
    close(tg.hessian(lambda x: tg.tensor(3.0), X), np.zeros((3, 3)))
    close(tg.hessian(lambda x: x.sum(), X), np.zeros((3, 3)))
    close(tg.jvp(lambda x: (x > 0.0).astype("float64"), X, V)[1], np.zeros(3))
    close(tg.vjp(lambda x: tg.ones(2), X)[1](tg.ones(2))[0], np.zeros(3))


def test_nested_to_the_third_derivative():
    third = tg.jacobian(lambda x: tg.hessian(lambda y: (y**3).sum() * y[0], x), X)
    x = np.asarray(X)
    expected = np.zeros((3, 3, 3))
    expected[0, 0, 0] = 24.0 * x[0]  # of x0^4
    for i in (1, 2):  # of x0 xi^3
        expected[i, i, i] = 6.0 * x[0]
        expected[0, i, i] = expected[i, 0, i] = expected[i, i, 0] = 6.0 * x[i]
    close(third, expected)


def test_results_lead_to_what_the_point_and_the_function_come_from():
    w = point(2.0, requires_grad=True)
    _, pullback = tg.vjp(lambda x: w * x * x, X)
    (pullback(tg.ones_like(X))[0]).sum().backward()
    close(w.grad, [2.0 * np.asarray(X).sum()])
    w.grad = None
    tg.jacobian(lambda x: x * x, w * 3.0).sum().backward()  # 2 * 3 w
    close(w.grad, [6.0])
    w.grad = None
    tg.jvp(lambda x: x**3, w, point(1.0))[1].backward()
    close(w.grad, [12.0])
    w.grad = None
    tg.hvp(lambda x: (w * x**3).sum(), X, V).sum().backward()
    close(w.grad, [np.sum(6.0 * np.asarray(X) * np.asarray(V))])
    with tg.no_grad():
        assert not tg.jacobian(lambda x: x * x, w).requires_grad


def test_the_point_may_be_shared_with_a_graph_without_disturbing_it():
    w = point(1.0, 2.0, requires_grad=True)
    y = (w * w).sum()
    tg.hessian(lambda x: (x * x).sum(), w)
    assert w.grad is None
    y.backward()
    close(w.grad, [2.0, 4.0])


def test_float32_stays_float32():
    x = tg.tensor([1.0, 2.0])
    for made in (
        tg.jacobian(lambda x: x * x, x),
        tg.hessian(lambda x: (x * x).sum(), x),
        tg.jvp(lambda x: x * x, x, x)[1],
    ):
        assert made.dtype == np.float32


def test_refusals():
    with pytest.raises(DtypeError, match="vjp: argument 1"):
        tg.vjp(lambda a, b: a, X, tg.tensor([1]))
    with pytest.raises(ArgumentError, match="vjp"):
        tg.vjp(lambda: X)
    with pytest.raises(ShapeError, match="jvp"):
        tg.jvp(mapped, X, G)
    with pytest.raises(ShapeError, match="hvp"):
        tg.hvp(quartic, X, G)
    with pytest.raises(ShapeError, match="hessian: the function returns more than one number"):
        tg.hessian(mapped, X)
    with pytest.raises(DtypeError, match="jacobian: the function returns no tensor"):
        tg.jacobian(lambda x: 3.0, X)
    _, pullback = tg.vjp(mapped, X)
    with pytest.raises(ArgumentError, match="one gradient for each"):
        pullback(G, G)
    with pytest.raises(ShapeError, match="does not fit"):
        pullback(V)
