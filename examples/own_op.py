"""Declare an op of your own: its rule and one vector-Jacobian product for each input. The rest follows.

    python examples/own_op.py [own_op.svg]

Two ops that the library does not have, declared with the decorators that it uses for its own:

* `mish(x) = x tanh(log(1 + e^x))` (Misra 2019), elementwise: a rule on scalars. Its kernel, and the kernel of its
  derivative, are compiled from these lines.
* `solve(a, b) = a^-1 b`, opaque: a rule on whole arrays, here NumPy's.

Both then have gradients of every order, a check against finite differences, and a name in pictures.
"""

from __future__ import annotations

import sys

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.ops.declare import elementwise, opaque

# --- Elementwise: arithmetic and elementwise functions of the library, on scalars ---


@elementwise(symbol="mish")
def mish(x):
    """x tanh(log(1 + e^x))."""
    return x * tg.tanh(tg.softplus(x))


@mish.vjp("x")  # the parameters say what backward needs: g is the incoming gradient, x the input (y: the output)
def _(g, x):
    t = tg.tanh(tg.softplus(x))
    return g * (t + x * (1.0 - t * t) * tg.sigmoid(x))


# --- Opaque: anything on whole arrays; its vjps are made of tensor operations, so they have derivatives too ---


@opaque(symbol="a⁻¹b")
def solve(a, b):
    """The x with a @ x = b, for a (N, N) and b (N, M)."""
    return np.linalg.solve(a, b)


@solve.vjp("a")
def _(g, a, y):
    return -solve(a.T, g) @ y.T


@solve.vjp("b")
def _(g, a):
    return solve(a.T, g)


# --- What follows from these declarations ---


def main(picture: str | None = None) -> None:
    """Differentiate, check, and draw where a file is named."""
    rng = np.random.default_rng(0)
    x = tg.tensor(rng.normal(size=(2, 3)), requires_grad=True)
    a = tg.tensor(rng.normal(size=(3, 3)) + 3.0 * np.eye(3), requires_grad=True)
    b = tg.tensor(rng.normal(size=(3, 2)), requires_grad=True)

    for name, f, inputs in (("mish", mish, [x]), ("solve", solve, [a, b])):
        first, second = tg.gradcheck(f, inputs), tg.gradgradcheck(f, inputs)
        print(f"{name}: derivative checked {first}, second derivative checked {second}")

    y = solve(a, mish(b)).sum()
    (slope,) = tg.grad(y, [b], create_graph=True)
    (curvature,) = tg.grad((slope * slope).sum(), [b])
    print("a gradient of a gradient:", np.array2string(curvature.numpy().ravel(), precision=3))

    with tg.Tape() as tape:
        solve(a, mish(b)).sum()
    print(tape)
    if picture is not None:
        tg.viz.graph(y, level="op").save(picture)
        print(f"drawn in {picture}")

    @opaque()
    def halved(x):
        """x / 2."""
        return x / 2.0

    @halved.vjp("x")
    def _(g):
        return g  # wrong: it should be g / 2

    try:
        tg.gradcheck(halved, x)
    except tg.errors.GradcheckError as found:
        print(f"and where a derivative is wrong:\n{found}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
