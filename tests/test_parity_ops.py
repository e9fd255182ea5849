"""Every function that PyTorch has too, against PyTorch: values and gradients, at the edges as well."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg

torch = pytest.importorskip("torch")
from parity import agree, compare, normal  # noqa: E402 - it imports torch

pytestmark = pytest.mark.parity
F = torch.nn.functional

INF, NAN = np.inf, np.nan


def positive(*shape):
    return np.random.default_rng(1).uniform(0.1, 3.0, size=shape)


POINTS = np.array([-3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 40.0])
POSITIVE = np.array([0.0, 1e-300, 0.25, 1.0, 9.0, 1e300])
EVERYWHERE = np.array([*POINTS, -1e4, 1e4, INF, -INF])
TINY = np.array([1e-300, -1e-300, 1e-20, -1e-20, 1e-8, -1e-8])


def hard_sigmoid(x):
    """Torch's own multiplies the gradient by 1/6 rounded to float32, in float64 too."""
    return F.relu6(x + 3.0) / 6.0


def gelu_tanh(m):
    return lambda x: (tg if m is tg else F).gelu(x, approximate="tanh")


ELEMENTWISE = {
    "negative": (torch.negative, EVERYWHERE),
    "abs": (torch.abs, EVERYWHERE),
    "sign": (torch.sign, EVERYWHERE),
    "square": (torch.square, EVERYWHERE),
    "sqrt": (torch.sqrt, np.array([*POSITIVE, INF, -1.0])),
    "rsqrt": (torch.rsqrt, np.array([*POSITIVE, -0.0, INF, -1.0])),
    "reciprocal": (torch.reciprocal, np.array([*EVERYWHERE, *TINY, 1e300, -1e300])),
    "exp": (torch.exp, EVERYWHERE),
    "expm1": (torch.expm1, np.array([*EVERYWHERE, *TINY])),
    "log": (torch.log, np.array([*POSITIVE, INF, -1.0])),
    "log1p": (torch.log1p, np.array([*POSITIVE, *TINY, -0.0, -0.75, -1.0, -2.0, INF])),
    "sin": (torch.sin, POINTS),
    "cos": (torch.cos, POINTS),
    "tan": (torch.tan, np.array([*POINTS, *TINY, np.pi / 2, -1e4, INF])),
    "tanh": (torch.tanh, EVERYWHERE),
    "sigmoid": (torch.sigmoid, EVERYWHERE),
    "relu": (torch.relu, EVERYWHERE),
    "leaky_relu": (F.leaky_relu, np.array([*EVERYWHERE, *TINY, NAN])),
    "elu": (F.elu, np.array([*EVERYWHERE, *TINY, NAN])),
    "silu": (F.silu, np.array([*EVERYWHERE, *TINY, 1e200, -1e200, NAN])),
    "gelu": (F.gelu, np.array([*EVERYWHERE, *TINY, 1e200, -1e200, NAN])),
    "softplus": (lambda x: torch.logaddexp(x, torch.zeros_like(x)), np.array([*POINTS, -700.0, 700.0])),
    "softsign": (F.softsign, np.array([*EVERYWHERE, *TINY, NAN])),
    "hard_sigmoid": (hard_sigmoid, np.array([*EVERYWHERE, 3.0, -2.999, 2.999])),
    "erf": (torch.erf, EVERYWHERE),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    theirs, points = ELEMENTWISE[name]
    compare(getattr(tg, name), theirs, points)
    for point in points:  # each alone, so that a large gradient hides no small one
        compare(getattr(tg, name), theirs, np.array(point))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_second_derivatives_at_special_points(name):
    theirs, points = ELEMENTWISE[name]
    for point in points[np.abs(points) <= (1e4 if name != "softplus" else 30.0)]:  # as the sigmoid's, it is lost near 1
        compare_second(getattr(tg, name), theirs, point)


def compare_second(ours, theirs, point):
    """The second derivative at one point; 0 where nothing depends on it any more."""
    x, z = tg.tensor(np.array(point), requires_grad=True), torch.tensor(point, dtype=torch.float64, requires_grad=True)
    with np.errstate(all="ignore"):
        first = tg.grad(ours(x), x, create_graph=True)
        second = tg.grad(first, x, allow_unused=True) if first.requires_grad else None
        other = torch.autograd.grad(theirs(z), z, create_graph=True)[0]
        wanted = torch.autograd.grad(other, z, allow_unused=True)[0] if other.requires_grad else None
    agree(0.0 if second is None else second, 0.0 if wanted is None else wanted.numpy(force=True), 1e-10, f"at {point}")


#: What is nearly linear at 0, and must keep all its digits there.
NEAR_ZERO = ["sin", "tan", "tanh", "erf", "expm1", "log1p", "elu", "leaky_relu", "silu", "gelu", "softsign"]


@pytest.mark.parametrize("name", NEAR_ZERO)
def test_no_digit_is_lost_near_zero(name):
    theirs = ELEMENTWISE[name][0]
    for dtype, lowest, e in (("float64", -300, 1e-12), ("float32", -35, 1e-6)):
        x = np.concatenate([s * 10.0 ** np.linspace(lowest, -1, 800) for s in (1, -1)]).astype(dtype)
        np.testing.assert_allclose(getattr(tg, name)(tg.tensor(x)), theirs(torch.tensor(x)).numpy(), rtol=e)


# --- Activations ---


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, -0.5])
def test_leaky_relu_of_any_slope(slope):
    points = ELEMENTWISE["leaky_relu"][1]
    for point in points:
        compare(lambda x: tg.leaky_relu(x, slope), lambda x: F.leaky_relu(x, slope), np.array(point))
    finite = points[np.isfinite(points)]
    for s in (np.array(slope), normal(len(finite))):
        compare(tg.leaky_relu, lambda x, s: torch.where(x > 0.0, x, s * x), finite, s)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_elu_of_any_alpha(alpha):
    for point in ELEMENTWISE["elu"][1]:
        compare(lambda x: tg.elu(x, alpha), lambda x: F.elu(x, alpha), np.array(point))
        if abs(point) <= 1e4:
            compare_second(lambda x: tg.elu(x, alpha), lambda x: F.elu(x, alpha), point)
    negative = np.array([-1e4, -3.0, -0.5, -1e-20])
    for a in (np.array(alpha), normal(4)):
        compare(tg.elu, lambda x, a: a * torch.expm1(x), negative, a)
        compare(tg.elu, lambda x, a: x + 0.0 * a, -negative, a)


def test_gelu_by_tanh():
    for point in (*EVERYWHERE, *TINY, NAN):
        compare(gelu_tanh(tg), gelu_tanh(F), np.array(point))
        if abs(point) <= 1e4:
            compare_second(gelu_tanh(tg), gelu_tanh(F), point)


def test_tails_of_gelu():
    x = np.linspace(-15.0, 15.0, 2001)
    compare(tg.gelu, F.gelu, x)
    compare(gelu_tanh(tg), gelu_tanh(F), x)
    # torch's own tail has lost its digits: (1 + tanh(u)) / 2 is 1 / (1 + e^-2u).
    u = np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(tg.gelu(tg.tensor(x), approximate="tanh"), x / (1.0 + np.exp(-2.0 * u)), rtol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "softsign", "elu", "leaky_relu", "hard_sigmoid"])
def test_large_numbers_give_no_nan_where_torch_may(name, dtype):
    """The derivatives of gelu by tanh are NaN there in torch, and the second ones of gelu."""
    function = gelu_tanh(tg) if name == "gelu_tanh" else getattr(tg, name)
    for size in (1e18, 1e30) if dtype == "float32" else (1e18, 1e200, 1e300):
        x = tg.tensor(np.array([-size, size], dtype), requires_grad=True)
        y = function(x)
        first = tg.grad(y.sum(), x, create_graph=True)
        second = tg.grad(first.sum(), x, allow_unused=True) if first.requires_grad else tg.zeros(2)
        slopes = {"softsign": [0.0, 0.0], "hard_sigmoid": [0.0, 0.0], "leaky_relu": [0.01, 1.0]}
        np.testing.assert_allclose(first, slopes.get(name, [0.0, 1.0]), rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(0.0 if second is None else second, 0.0, atol=1e-30)
        assert np.isfinite(y.numpy()).all()


def test_hard_sigmoid_beside_the_one_of_torch():
    edges = np.array([-3.0, 3.0], np.float32)
    x = np.array([*EVERYWHERE, *edges, *np.nextafter(edges, np.float32(0)), NAN])
    mine, other = tg.tensor(x, dtype="float32", requires_grad=True), torch.tensor(x, dtype=torch.float32)
    with np.errstate(invalid="ignore"):
        y, z = tg.hard_sigmoid(mine), F.hardsigmoid(other.requires_grad_())
        agree(tg.hard_sigmoid(tg.tensor(x)), F.hardsigmoid(torch.tensor(x)).numpy(), 1e-15)
    agree(y, z.detach().numpy(), 1e-7)
    y.sum().backward()
    z.sum().backward()
    agree(mine.grad, other.grad.numpy(), 1e-7)


def test_elementwise_functions_are_methods_where_torch_has_one():
    x = tg.tensor(positive(3, 4))
    others = {"isnan", "isinf", "isfinite", "logical_not"}
    for name in others | {name for name in ELEMENTWISE if hasattr(torch.Tensor, name)}:
        np.testing.assert_array_equal(getattr(x, name)(), getattr(tg, name)(x))
    for name in ("logical_and", "logical_or", "logical_xor"):
        np.testing.assert_array_equal(getattr(x, name)(x), getattr(tg, name)(x, x))


BINARY = {
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "power": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
PAIRS = np.array([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", BINARY)
def test_two_operands_at_every_pair_of_special_points(name):
    for a in PAIRS:
        for b in PAIRS:
            compare(getattr(tg, name), BINARY[name], np.array([a]), np.array([b]))
    compare(getattr(tg, name), BINARY[name], positive(2, 1, 3), positive(4, 1))
    compare(getattr(tg, name), BINARY[name], np.array([INF, -INF, 1.0]), np.array([2.0, 2.0, 2.0]))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5, -0.5, 0.0, 1.0, 2.0])
def test_power_with_a_number(exponent):
    for base in (-2.0, 0.0, 0.5, 3.0):
        compare(lambda x: x**exponent, lambda x: x**exponent, np.array(base))
    for base in (0.0, 2.0, 3):
        compare(lambda x, b=base: b**x, lambda x, b=base: b**x, np.array([0.0, 1.0, 2.5]))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0])
def test_second_derivative_of_power_at_zero(exponent):
    x, z = tg.tensor(np.zeros(1), requires_grad=True), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    with np.errstate(all="ignore"):
        first = tg.grad(tg.power(x, exponent).sum(), x, create_graph=True)
        second = tg.grad(first.sum(), x, allow_unused=True) if first.requires_grad else None
    other = torch.autograd.grad((z**exponent).sum(), z, create_graph=True)[0]
    wanted = torch.autograd.grad(other.sum(), z, allow_unused=True)[0] if other.requires_grad else None
    agree(first, other.detach().numpy(), 1e-12)
    agree(0.0 if second is None else second.numpy()[0], 0.0 if wanted is None else wanted.item(), 1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (None, 1.0), (0.0, None), (1.0, 0.0), (1.0, 1.0), (-INF, INF)])
def test_clip(low, high):
    x = np.array([-2.0, 0.0, 0.5, 1.0, 2.0, INF, -INF])
    compare(lambda t: tg.clip(t, low, high), lambda t: torch.clamp(t, low, high), x)
    bounds = [np.array(b) for b in (low, high) if b is not None]

    def pair(given):
        given = list(given)
        return [given.pop(0) if b is not None else None for b in (low, high)]

    compare(lambda t, *g: tg.clip(t, *pair(g)), lambda t, *g: torch.clamp(t, *pair(g)), x, *bounds)


def test_where_and_comparisons():
    a, b = np.array([1.0, 2.0, NAN, INF]), np.array([1.0, 3.0, 1.0, INF])
    names = ["greater", "greater_equal", "less", "less_equal", "not_equal", "logical_and", "logical_or", "logical_xor"]
    for name in names:
        compare(getattr(tg, name), getattr(torch, name), a, b)
        compare(getattr(tg, name), getattr(torch, name), np.array([0, 1, 2]), np.array([[0], [1]]))
    compare(tg.equal, torch.eq, a, b)
    compare(lambda x, y: x ^ y, lambda x, y: x ^ y, np.array([True, False]), np.array([True, True]))
    for name in ("isnan", "isinf", "isfinite"):
        for x in (np.array([0.0, -0.0, 1e300, INF, -INF, NAN]), np.array([1, 0, -(2**60)]), np.array(INF)):
            compare(getattr(tg, name), getattr(torch, name), x)
    compare(tg.logical_not, torch.logical_not, np.array([0.0, 1.0, NAN]))
    compare(tg.where, torch.where, np.array([[True], [False]]), normal(3), normal(2, 1))


def test_transcendental_gradients_of_gradients():
    for name in ("tanh", "sigmoid", "erf", "exp", "expm1", "sin", "tan", "softplus", "silu", "gelu", "elu", "softsign"):
        a = normal(7)
        x, z = tg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
        g = tg.grad(getattr(tg, name)(x).sum(), x, create_graph=True)
        h = torch.autograd.grad(ELEMENTWISE[name][0](z).sum(), z, create_graph=True)[0]
        second, wanted = tg.grad((g * g).sum(), x), torch.autograd.grad((h * h).sum(), z)[0]
        agree(second, wanted.numpy(), 1e-10, name)
