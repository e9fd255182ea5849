"""The checker finds what is wrong, and says where. A check that cannot fail is none."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.errors import ArgumentError, GradcheckError
from tinygrad_rnn.ops.declare import Array, elementwise, opaque


def leaf(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).normal(size=shape), requires_grad=True)


def cubed(vjp):
    """x^3 as an elementwise op with this vjp."""

    @elementwise()
    def cubed(x):
        """x^3."""
        return x * x * x

    cubed.vjp("x")(vjp)
    return cubed


def scaled(vjp):
    """3 x as an opaque op with this vjp."""

    @opaque()
    def scaled(x: Array):
        """3 x."""
        return x * 3.0

    scaled.vjp("x")(vjp)
    return scaled


def test_right_derivatives_pass():
    f = cubed(lambda g, x: g * (3.0 * x * x))
    assert tg.gradcheck(f, leaf(2, 3))
    assert tg.gradgradcheck(f, leaf(2, 3))
    assert tg.gradcheck(lambda x, i: x[i] * f(x[:2]), [leaf(3), tg.tensor([0, 2])])
    assert tg.gradcheck(lambda x: [f(x), x > 0.0, x.sum()], leaf(3))
    assert tg.gradcheck(f, leaf(0))
    assert tg.gradcheck(f, leaf())


def test_the_message_names_input_element_both_numbers_and_the_op():
    wrong = cubed(lambda g, x: g * (2.0 * x * x))
    a, b = leaf(2), tg.tensor(np.array([[1.0, 2.0], [0.0, 5.0]]), requires_grad=True)

    def f(a, b):
        hidden = tg.tanh(a)
        cube = wrong(b)  # here
        return hidden, (cube * hidden)[:, 1]

    with pytest.raises(GradcheckError) as caught:
        tg.gradcheck(f, [a, b])
    message = str(caught.value)
    assert "the derivative of output 1[0] in input 1[0, 1] is wrong" in message
    by = np.tanh(a.numpy()[1])
    assert f"expected {12.0 * by:.6g} by finite differences" in message
    assert f"got {8.0 * by:.6g} by backward; 2 of 8 elements differ" in message
    assert "suspect the vjp of cubed, given (2, 2) at " in message
    assert "test_gradcheck.py:" in message
    assert message.rstrip().endswith("cube = wrong(b)  # here")


def test_a_wrong_op_in_a_recurrent_net_is_found_by_name_layer_and_step():
    wrong = cubed(lambda g, x: g * (2.0 * x * x))

    class Cell(nn.Cell):
        def __init__(self):
            self.input_size = self.hidden_size = 2

        def step(self, x, state):
            state = wrong(tg.sigmoid(x + state)).named("candidate")
            return state, state

    layer = nn.Recurrent(Cell())
    with pytest.raises(GradcheckError, match=r"suspect the vjp of cubed \(candidate\), given \(1, 2\)"):
        tg.gradcheck(lambda x: layer(x, tg.zeros(1, 2, dtype="float64"))[0], leaf(3, 1, 2))


def test_a_value_that_left_the_tape_is_suspected_where_every_op_is_right():
    with pytest.raises(GradcheckError, match="left the tape"):
        tg.gradcheck(lambda x: x * x.detach(), leaf(2))
    with pytest.raises(GradcheckError, match="left the tape"):
        tg.gradcheck(lambda x: tg.tensor(x.numpy() * 2.0), leaf(2))


def test_functions_and_vjps_that_are_another_each_time():
    rng = np.random.default_rng(0)
    with pytest.raises(GradcheckError, match=r"output 0 is another when the function is called again[\s\S]*dropout"):
        tg.gradcheck(lambda x: tg.dropout(x, 0.5, rng=rng), leaf(20))
    assert tg.gradcheck(lambda x: tg.dropout(x, 0.5, rng=np.random.default_rng(0)), leaf(20))
    noisy = scaled(lambda g: g * (3.0 + 1e-9 * rng.normal()))
    with pytest.raises(GradcheckError, match="another when backward runs again"):
        tg.gradcheck(noisy, leaf(2))


def test_vjps_that_are_not_linear_in_g():
    with pytest.raises(GradcheckError, match="by jvp"):
        tg.gradcheck(scaled(lambda g: tg.where(g == 1.0, 3.0 * g, 2.0 * g)), leaf(2))
    with pytest.raises(GradcheckError, match=r"input 0 gets a gradient where no output has one[\s\S]*0.5"):
        tg.gradcheck(scaled(lambda g: 3.0 * g + tg.where(g == 0.0, 0.5, 0.0).max()), leaf())


def test_second_derivatives():
    once = cubed(lambda g, x: g * (3.0 * x * (x.detach() if isinstance(x, tg.Tensor) else x)))
    assert tg.gradcheck(once, leaf(2))
    with pytest.raises(GradcheckError, match="gradcheck"):
        tg.gradgradcheck(once, leaf(2))


def test_what_cannot_be_checked():
    with pytest.raises(ArgumentError, match="no input requires a gradient"):
        tg.gradcheck(tg.exp, tg.ones(2))
    for check in (tg.gradcheck, tg.gradgradcheck):
        with pytest.raises(ArgumentError, match=r"input 1 is too coarse[\s\S]*float64[\s\S]*float32"):
            check(tg.add, [leaf(2), tg.ones(2, requires_grad=True)])


def test_inputs_are_left_as_they_were():
    x = leaf(2)
    before = x.numpy().copy()
    tg.gradcheck(tg.exp, x)
    tg.gradgradcheck(tg.exp, x)
    assert x.grad is None
    np.testing.assert_array_equal(x, before)
