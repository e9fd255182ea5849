"""Safeguards: the first NaN or infinity is found and placed; what a user's op returns is looked at."""

from __future__ import annotations

import inspect
import threading
import warnings

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.errors import AnomalyError, DeclarationError, GraphError, ShapeError
from tinygrad_rnn.ops.declare import Array, elementwise, opaque


def leaf(*values):
    return tg.tensor(np.array(values, np.float64), requires_grad=True)


def line_of(function, text):
    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line and "line_of" not in line)


# --- detect_anomaly ---


def test_the_first_nan_of_the_forward_pass():
    x = leaf(1.0, -1.0, 4.0)

    def forward():
        y = x * 2.0
        z = tg.sqrt(y)  # here
        return (z * 0.0).sum()

    with pytest.raises(AnomalyError) as caught, tg.detect_anomaly():
        forward()
    message = str(caught.value)
    assert message.startswith("sqrt: NaN in the result, 1 of 3 elements, the first at [1]")
    assert "x (3,) float64 from -2 to 8" in message
    assert f"{__file__}:{line_of(test_the_first_nan_of_the_forward_pass, '# here')}: z = tg.sqrt(y)" in message


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda x: tg.log(x), "log"),
        (lambda x: 1.0 / x, "divide"),
        (lambda x: tg.exp(x + 800.0), "exp"),
        (lambda x: tg.sum(x.expand_dims(0) * 1e308 * 1e308), "multiply"),
        (lambda x: tg.matmul(x * 1e200, x * 1e200), "matmul"),
        (lambda x: tg.mean(x[:0]), "mean"),
    ],
)
def test_every_kind_of_op_with_and_without_a_gradient(run, name, requires_grad):
    x = tg.tensor(np.array([0.0, 1.0]), requires_grad=requires_grad)
    with pytest.raises(AnomalyError, match=f"^{name}: "), tg.detect_anomaly():
        run(x)


def test_a_given_nan_is_named_as_given_and_a_mask_of_infinity_is_none():
    with pytest.raises(AnomalyError, match="as it was given NaN"), tg.detect_anomaly():
        leaf(1.0, np.nan) * 2.0
    x, mask = leaf(1.0, 2.0), np.array([True, False])
    with tg.detect_anomaly():
        tg.softmax(tg.where(mask, x, -np.inf)).sum().backward()
        tg.logsumexp(tg.where(mask, x, -np.inf)).backward()
        tg.clip(x, None, 1.5).sum().backward()


def test_the_first_infinity_of_backward_with_the_line_of_the_forward_pass():
    x = leaf(0.0, 1.0)
    with tg.detect_anomaly():
        y = tg.sqrt(x).named("root").sum()
        with pytest.raises(AnomalyError) as caught:
            y.backward()
    message = str(caught.value)
    assert message.startswith("backward of sqrt (root): inf in the gradient for x, 1 of 2 elements, the first at [0]")
    assert "the incoming gradient is (2,) float64 of 1" in message
    assert 'y = tg.sqrt(x).named("root").sum()' in message


@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_of_a_forward_pass_that_nobody_watched(create_graph):
    y = tg.sqrt(leaf(0.0)).sum()
    with pytest.raises(AnomalyError, match="run the forward pass inside"), tg.detect_anomaly():
        y.backward(create_graph=create_graph)


def test_a_start_of_nan_and_a_gradient_in_pieces():
    x = leaf(1.0, 2.0)
    with pytest.raises(AnomalyError, match="the gradient that starts it"), tg.detect_anomaly():
        (x * 1.0).backward(np.array([1.0, np.nan]))
    w = leaf(1e-10, 1e-10).reshape(2, 1)
    y = tg.tensor(np.array([[1e308, 1e308]])) @ w
    with pytest.raises(AnomalyError, match="backward of matmul: inf in the gradient for b"), tg.detect_anomaly():
        y.backward([[1e10]])


def test_layer_and_time_step_in_forward_and_backward():
    cell = nn.LSTMCell(2, 3, dtype="float64", rng=np.random.default_rng(0))
    layer = nn.Stacked([nn.Recurrent(cell), nn.Recurrent(nn.GRUCell(3, 3, dtype="float64"))])
    x = np.ones((5, 1, 2))
    x[3] = np.nan
    with pytest.raises(AnomalyError, match=r"in LSTMCell layer 0 step 3") as caught, tg.detect_anomaly():
        layer(tg.tensor(x))
    assert "layer(tg.tensor(x))" in str(caught.value)
    with tg.no_grad():
        layer.layers[1].cell.weight_hh[0, 0] = np.inf
    with pytest.raises(AnomalyError, match="in GRUCell layer 1 step 0") as caught, tg.detect_anomaly():
        layer(tg.ones(5, 1, 2, dtype="float64"))
    assert "cells.py" in str(caught.value)  # the equation

    class Root(nn.Cell):
        def __init__(self):
            self.input_size = self.hidden_size = 1

        def step(self, x, state):
            return tg.sqrt(x * x), state

    y, _ = nn.Recurrent(Root())(leaf(1.0, 1.0, 0.0, 1.0).reshape(4, 1, 1), tg.zeros(1, 1, dtype="float64"))
    with pytest.raises(AnomalyError, match=r"backward of sqrt: inf .* in Root layer 0 step 2"), tg.detect_anomaly():
        y.sum().backward()


def test_it_ends_with_its_block_holds_for_its_thread_and_is_quiet():
    x = leaf(0.0)
    with warnings.catch_warnings(), tg.detect_anomaly():
        warnings.simplefilter("error")
        with pytest.raises(AnomalyError):
            tg.log(x)
        with tg.detect_anomaly():
            pass
        with pytest.raises(AnomalyError):
            tg.log(x)
    done = []
    other = threading.Thread(target=quietly, args=(x, done))
    with tg.detect_anomaly():
        other.start()
        other.join()
    assert np.isnan(done[0]).all()
    with np.errstate(all="ignore"):
        assert np.isneginf(tg.log(x).item())


def quietly(x, done):
    with np.errstate(all="ignore"):
        done.append(tg.sqrt(x - 1.0).numpy())


def test_nothing_is_kept_alive():
    import gc
    import weakref

    gc.collect()
    gc.disable()
    try:
        with tg.detect_anomaly() as watcher:
            y = tg.exp(leaf(1.0))
            node = weakref.ref(y.node)
            assert len(watcher.lines) == 1
            del y
            assert node() is None
            assert len(watcher.lines) == 0
    finally:
        gc.enable()


# --- What a user's op returns ---


def declared(vjp):
    """An opaque op of x (2, 3) that is its double, with this vjp."""

    @opaque()
    def doubled(x: Array):
        """2 x."""
        return x * 2.0

    doubled.vjp("x")(vjp)
    return doubled


def test_a_gradient_of_the_wrong_shape_names_the_op_and_the_input():
    for wrong in (lambda g: g[0], lambda g: g.sum(), lambda g: g.T, lambda g: g[:, :1]):
        y = declared(wrong)(tg.ones(2, 3, requires_grad=True))
        for create_graph in (False, True):
            with pytest.raises(ShapeError, match=r"doubled: the vjp for x[\s\S]*\(2, 3\)"):
                y.backward(tg.ones(2, 3), create_graph=create_graph, retain_graph=True)


def test_a_larger_gradient_is_summed_and_a_wider_one_is_narrowed():
    x = tg.ones(2, 3, requires_grad=True)
    declared(lambda g: tg.stack([g, g]).astype("float64"))(x).backward(tg.ones(2, 3))
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad, 2.0)


def test_nothing_at_all_and_an_array_where_backward_is_differentiated():
    x = tg.ones(2, 3, requires_grad=True)
    with pytest.raises(GraphError, match=r"doubled: the vjp for x returned nothing"):
        declared(lambda g: None)(x).sum().backward()
    y = declared(lambda g: g.numpy() * 2.0)(x).sum()
    y.backward(retain_graph=True)
    np.testing.assert_array_equal(x.grad, 2.0)
    with pytest.raises(GraphError, match=r"doubled: the vjp for x returned an array[\s\S]*differentiated"):
        y.backward(create_graph=True)


def test_a_constant_derivative_of_an_elementwise_op():
    @elementwise()
    def flattened(x):
        """0 x."""
        return x * 0.0

    flattened.vjp("x")(lambda g: 0.0)
    x = leaf(1.0, 2.0)
    flattened(x).sum().backward()
    np.testing.assert_array_equal(x.grad, [0.0, 0.0])


def test_one_watcher_may_be_entered_again_and_again():
    watcher, x = tg.detect_anomaly(), leaf(0.0)
    for _ in range(2):
        with watcher, watcher:
            with pytest.raises(AnomalyError):
                tg.log(x)
            with watcher:
                pass
            with pytest.raises(AnomalyError):
                tg.log(x)
    with np.errstate(all="ignore"):
        tg.log(x)
    tape = tg.Tape()
    with tape:
        with tape:
            tg.exp(x)
        tg.sin(x)
    tg.cos(x)
    assert [node.op.name for node in tape] == ["exp", "exp", "sin"]


# --- What a user declares ---


def test_declarations_that_would_be_misread_are_refused():
    def factor(x, factor=2.0):
        """With a default, and so no input."""
        return x * factor

    def nothing(x: np.ndarray):
        """With an annotation that is not Array."""
        return x

    def output(x, y):
        """With the name of the output."""
        return x * y

    def branch(x):
        """With a branch, decided once."""
        return x if x > 0.0 else -x

    def foreign(x):
        """With a function of numbers."""
        import math

        return math.exp(x)

    for rule, says in (
        (factor, "factor is no input"), (nothing, "no input"), (output, "called y"), (branch, "neither true nor false"),
        (foreign, "cannot be followed"),
    ):  # fmt: skip
        with pytest.raises(DeclarationError, match=rf"{rule.__name__}: [\s\S]*{says}"):
            elementwise()(rule)
    with pytest.raises(DeclarationError, match="the library has an op of this name"):
        elementwise()(tg.tanh.op.rule)
    with pytest.raises(DeclarationError, match="declared already"):
        tg.tanh.vjp("x")(lambda g: g)


def test_array_is_known_with_and_without_postponed_annotations():
    for future in ("from __future__ import annotations\n", ""):
        scope = {}
        exec(
            f"{future}from tinygrad_rnn.ops.declare import Array, elementwise\n"
            "def leaned(x: Array, slope: Array = 0.1):\n    'slope x'\n    return x * slope\n"
            "leaned = elementwise()(leaned)\n",
            scope,
        )
        assert scope["leaned"](tg.tensor([1.0]), 10.0).item() == 10.0
        assert scope["leaned"](tg.tensor([1.0])).item() == pytest.approx(0.1)


def test_a_vjp_that_is_not_needed_does_not_run():
    @opaque()
    def paired(a: Array, b: Array):
        """a b."""
        return a * b

    paired.vjp("a")(lambda g, b: g * b)

    def refuse(g):
        raise AssertionError

    paired.vjp("b")(refuse)
    a, b = leaf(2.0), leaf(3.0)
    for create_graph in (False, True):
        assert tg.grad(paired(a, b), a, create_graph=create_graph).item() == 3.0


def test_a_setting_changed_after_the_call_changes_no_gradient():
    weights = tg.tensor(np.array([[1.0, 2.0], [3.0, 4.0]]))
    axes, key, x = [1, 0], [0, 0], tg.zeros(2, 2, dtype="float64", requires_grad=True)
    y, z = tg.permute_dims(x, axes), x[key]
    axes.reverse()
    key[1] = 1
    ((y + z) * weights).sum().backward()
    np.testing.assert_array_equal(x.grad, weights.numpy().T + np.array([[4.0, 6.0], [0.0, 0.0]]))
