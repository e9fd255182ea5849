"""Losses against PyTorch: values, gradients and second derivatives, at ties and with infinities as well."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import GraphError, TinygradError

torch = pytest.importorskip("torch")
from parity import agree, compare, normal  # noqa: E402 - it imports torch

pytestmark = pytest.mark.parity
F = torch.nn.functional

INF, NAN = np.inf, np.nan
REDUCTIONS = ["mean", "sum", "none"]


def second(ours, theirs, *arrays):
    """Compare the derivatives of the gradient, weighted by fixed numbers, in every array."""
    mine = [tg.tensor(a, requires_grad=True) for a in arrays]
    other = [torch.tensor(a, requires_grad=True) for a in arrays]
    with np.errstate(all="ignore"):
        first = tg.grad(ours(*mine).sum(), mine, create_graph=True)
        wanted = torch.autograd.grad(theirs(*other).sum(), other, create_graph=True)
        for i, (g, h) in enumerate(zip(first, wanted)):
            agree(g, h.detach().numpy(), 1e-10, f"gradient {i}")
        weights = [normal(*a.shape, seed=7 + i) if a.shape else np.array(0.7 + i) for i, a in enumerate(arrays)]
        total = sum((tg.tensor(w) * g).sum() for w, g in zip(weights, first))
        other_total = sum((torch.tensor(w) * h).sum() for w, h in zip(weights, wanted))
        found = tg.grad(total, mine, allow_unused=True) if total.requires_grad else [None] * len(mine)
        hoped = (
            torch.autograd.grad(other_total, other, allow_unused=True)
            if other_total.requires_grad
            else [None] * len(other)
        )
    for i, (g, h) in enumerate(zip(found, hoped)):
        zero = np.zeros(arrays[i].shape)  # nothing depends on it any more
        agree(zero if g is None else g, zero if h is None else h.numpy(force=True), 1e-9, f"second derivative {i}")


# --- Of numbers ---

ERRORS = {"mse_loss": {}, "l1_loss": {}, "huber_loss": {"delta": 1.0}, "huber_loss narrow": {"delta": 0.25},
          "huber_loss wide": {"delta": 1e6}, "huber_loss endless": {"delta": INF}}  # fmt: skip


def both(name, **named):
    """Our loss of that name and torch's."""
    function, options = name.split()[0], {**ERRORS[name], **named}
    return [functools.partial(getattr(m, function), **options) for m in (tg, F)]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_numbers(name, reduction):
    ours, theirs = both(name, reduction=reduction)
    for shape in ((3, 4), (), (1,), (0, 3)):
        compare(ours, theirs, *[normal(*shape, seed=i) if shape else np.array(0.3 + i) for i in (0, 1)])
    compare(
        lambda a, b: ours(a.T[::-1], b[:, ::2]), lambda a, b: theirs(a.T.flip(0), b[:, ::2]), normal(3, 4), normal(4, 6)
    )
    second(ours, theirs, normal(5), normal(5, seed=1))


#: Differences at which something changes, for a delta of 1 and of 0.25.
DIFFERENCES = np.array([0.0, -0.0, 1.0, -1.0, 0.25, -0.25, np.nextafter(1.0, 2.0), 0.5, -3.0, 1e300, -1e300, INF, -INF])


@pytest.mark.parametrize("name", ERRORS)
def test_ties_and_infinities(name):
    ours, theirs = both(name, reduction="sum")
    zero = np.zeros(1)
    for d in DIFFERENCES[:, None]:
        compare(ours, theirs, d, zero)
        second(lambda a: ours(a, zero), lambda a: theirs(a, torch.tensor(zero)), d)
    compare(ours, theirs, DIFFERENCES[:9], np.zeros(9))


def test_the_derivatives_at_ties():
    zeros = tg.zeros(2, dtype="float64")
    x = tg.tensor(np.array([0.0, -0.0]), requires_grad=True)
    tg.l1_loss(x, zeros, reduction="sum").backward()
    np.testing.assert_array_equal(x.grad, [0.0, 0.0])
    x = tg.tensor(np.array([0.5, -0.5]), requires_grad=True)
    (g,) = tg.grad(tg.huber_loss(x, zeros, delta=0.5, reduction="sum"), [x], create_graph=True)
    np.testing.assert_array_equal(g, [0.5, -0.5])
    np.testing.assert_array_equal(tg.grad(g.sum(), x), [0.0, 0.0])


def test_the_absolute_error_of_nan_has_a_gradient_of_nan_where_torch_has_zero():
    x, z = tg.tensor(np.array([NAN]), requires_grad=True), torch.tensor([NAN], requires_grad=True)
    tg.l1_loss(x, np.zeros(1)).backward()
    F.l1_loss(z, torch.zeros(1)).backward()
    assert np.isnan(x.grad.item())
    assert z.grad.item() == 0.0


@pytest.mark.parametrize("delta", [0.0, -1.0, NAN])
def test_a_delta_that_torch_refuses(delta):
    with pytest.raises(RuntimeError):
        F.huber_loss(torch.ones(1), torch.ones(1), delta=delta)
    with pytest.raises(TinygradError, match="huber_loss"):
        tg.huber_loss(tg.ones(1), tg.ones(1), delta=delta)


# --- Of probabilities ---


def bce(weights, **options):
    """Binary cross entropy of logits and targets with those weights, ours and torch's."""
    theirs = {name: torch.tensor(weight) for name, weight in weights.items()}
    return (
        functools.partial(tg.binary_cross_entropy_with_logits, **weights, **options),
        functools.partial(F.binary_cross_entropy_with_logits, **theirs, **options),
    )


WEIGHTS = {"weight": np.array([0.5, 0.0, 2.0, 1.0]), "pos_weight": np.array([3.0, 1.0, 0.0, 0.2])}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("names", [(), ("weight",), ("pos_weight",), ("weight", "pos_weight")])
def test_binary_cross_entropy(names, reduction):
    ours, theirs = bce({name: WEIGHTS[name] for name in names}, reduction=reduction)
    for shape in ((3, 4), (4,), (2, 3, 4), (0, 4)):
        t = np.random.default_rng(1).uniform(size=shape)
        for targets in (t, (t > 0.5).astype(float)):
            compare(ours, theirs, 5.0 * normal(*shape), targets)
    second(ours, theirs, normal(4), np.array([0.0, 1.0, 0.3, 1.0]))


def test_binary_cross_entropy_of_one_number():
    compare(tg.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, np.array(0.7), np.array(1.0))


@pytest.mark.parametrize("t", [0.0, 1.0, 0.25])
@pytest.mark.parametrize("pos_weight", [1.0, 3.0])
def test_binary_cross_entropy_of_huge_logits(t, pos_weight):
    x = np.array([0.0, -0.0, 1e-300, 1.0, 30.0, -30.0, 700.0, -700.0, 1e4, -1e4, 1e300, -1e300])
    ours, theirs = bce({"pos_weight": np.array([pos_weight])}, reduction="sum")
    for points in (
        x,
        *x[:4, None],
        x[4:6],
        x[6:8],
        x[8:10],
        x[10:],
    ):  # in groups: torch has lost the digits of small ones
        compare(ours, theirs, points, np.full(points.shape, t))
        second(ours, theirs, points, np.full(points.shape, t))


def test_binary_cross_entropy_keeps_the_digits_of_a_small_loss_where_torch_has_lost_them():
    x = np.array([-40.0, -20.0, -10.0, -1.0])
    y = tg.binary_cross_entropy_with_logits(tg.tensor(x), np.zeros(4), reduction="none")
    np.testing.assert_allclose(y, np.log1p(np.exp(x)), rtol=1e-14)
    np.testing.assert_array_equal(
        F.binary_cross_entropy_with_logits(torch.tensor(x), torch.zeros(4), reduction="none")[:1], 0
    )


def test_binary_cross_entropy_of_infinite_logits():
    x = tg.tensor(np.array([INF, -INF, INF, -INF, INF, -INF]), requires_grad=True)
    t = np.array([0.0, 1.0, 0.5, 0.5, 1.0, 0.0])
    with np.errstate(invalid="ignore"):
        y = tg.binary_cross_entropy_with_logits(x, t, reduction="none")
    np.testing.assert_array_equal(y, [INF, INF, INF, INF, NAN, NAN])  # torch: NaN for each -INF but with t > 0 for INF
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [1.0, -1.0, 0.5, -0.5, 0.0, 0.0])
    z = torch.tensor(x.numpy().copy(), requires_grad=True)
    F.binary_cross_entropy_with_logits(z, torch.tensor(t), reduction="sum").backward()
    np.testing.assert_array_equal(x.grad, z.grad)


def test_the_weights_of_binary_cross_entropy_have_gradients():
    inputs = [tg.tensor(a, requires_grad=True) for a in (normal(3, 2), normal(3, 2, seed=1), normal(2), normal(3, 1))]
    assert tg.gradgradcheck(
        lambda x, t, w, p: tg.binary_cross_entropy_with_logits(x, t, weight=w, pos_weight=p), inputs, atol=1e-6
    )


# --- Of classes ---

LOGITS = {
    "one": ((5,), ()),
    "batch": ((4, 5), (4,)),
    "sequence": ((3, 5, 6), (3, 6)),
    "image": ((2, 5, 2, 3), (2, 2, 3)),
    "no rows": ((0, 5), (0,)),
}


def pair(name, weight=None, **options):
    """A loss of classes as a function of (target, scores), ours and torch's."""
    theirs = {**options, "weight": None if weight is None else torch.tensor(weight)}
    return (
        lambda target, scores: getattr(tg, name)(scores, target, weight=weight, **options),
        lambda target, scores: getattr(F, name)(scores, target, **theirs),
    )


CLASS_WEIGHT = np.array([0.2, 1.0, 0.0, 3.0, 0.5])


def labels_of(shape, ignore):
    """Class numbers of that shape, and the number that is ignored."""
    target = np.random.default_rng(3).integers(0, 5, shape)
    if ignore in ("some", "all"):
        target = np.where((np.arange(target.size).reshape(shape) % 2 == 0) | (ignore == "all"), -100, target)
    return target, 2 if ignore == "class" else -100


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", ["none", "some", "class", "all"])
@pytest.mark.parametrize("kind", LOGITS)
def test_cross_entropy(kind, ignore, weighted, reduction, smoothing):
    shape, labels = LOGITS[kind]
    target, ignore_index = labels_of(labels, ignore)
    weight = CLASS_WEIGHT if weighted else None
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": smoothing}
    for scale in (1.0, 1e3):
        compare(*pair("cross_entropy", weight, **options), np.array(target), scale * normal(*shape))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", ["none", "some", "class", "all"])
@pytest.mark.parametrize("kind", LOGITS)
def test_nll_loss(kind, ignore, weighted, reduction):
    shape, labels = LOGITS[kind]
    target, ignore_index = labels_of(labels, ignore)
    weight = CLASS_WEIGHT if weighted else None
    ours, theirs = pair("nll_loss", weight, ignore_index=ignore_index, reduction=reduction)
    for x in (normal(*shape), 1e300 * normal(*shape), np.where(normal(*shape) > 0, -INF, normal(*shape))):
        compare(ours, theirs, np.array(target), x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_where_all_weights_are_zero(name, reduction):
    compare(*pair(name, np.array([1.0, 0.0]), reduction=reduction), np.array([1, 1]), normal(2, 2))


@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_an_ignored_case_may_hold_anything(name):
    x = np.array([[NAN, INF, -INF], [0.1, 0.2, 0.3]])
    mine = tg.tensor(x, requires_grad=True)
    with np.errstate(invalid="ignore"):
        y = getattr(tg, name)(mine, [-100, 2])
    y.backward()
    assert np.isfinite(y.item())
    np.testing.assert_array_equal(mine.grad[1] != 0.0, [name == "cross_entropy"] * 2 + [True])
    if name == "nll_loss":
        np.testing.assert_array_equal(mine.grad[0], 0.0)


def log_of_softmax(x):
    return x - np.log(np.sum(np.exp(x), 1, keepdims=True))


def test_nll_loss_of_log_softmax_is_cross_entropy():
    x, target = normal(4, 5), [0, 4, -100, 2]
    a = tg.cross_entropy(tg.tensor(x), target, weight=CLASS_WEIGHT)
    b = tg.nll_loss(tg.log_softmax(tg.tensor(x)), target, weight=CLASS_WEIGHT)
    np.testing.assert_allclose(a, b, rtol=1e-15)
    np.testing.assert_allclose(
        tg.cross_entropy(tg.tensor(x), np.eye(5)[[0, 4, 1, 2]], reduction="none"),
        -log_of_softmax(x)[range(4), [0, 4, 1, 2]],
        rtol=1e-13,
    )


EXTREME = [[1e4, -1e4, 0.0], [1e300, -1e300, 0.0], [-INF, 0.0, 1.0], [0.0, 0.0, 0.0], [INF, 0.0, 1.0],
           [-INF, -INF, 0.0], [NAN, 0.0, 1.0], [INF, INF, 0.0], [-INF, -INF, -INF]]  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("extreme", EXTREME)
def test_cross_entropy_of_extreme_logits(extreme, smoothing):
    logits = np.array([extreme, extreme[::-1], extreme])
    q = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])
    for reduction in REDUCTIONS:
        ours, theirs = pair("cross_entropy", reduction=reduction, label_smoothing=smoothing)
        for target in (np.array([0, 1, 2]), q):
            compare(ours, theirs, target, logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", LOGITS)
def test_cross_entropy_with_probabilities(kind, weighted, reduction, smoothing):
    shape, _ = LOGITS[kind]
    weight = CLASS_WEIGHT if weighted else None
    ours, theirs = pair("cross_entropy", weight, reduction=reduction, label_smoothing=smoothing)
    exponentials = np.exp(normal(*shape, seed=1))
    q = exponentials / exponentials.sum(0 if len(shape) == 1 else 1, keepdims=True)
    for scale in (1.0, 1e3):
        compare(ours, theirs, q, scale * normal(*shape))
    second(ours, theirs, q, normal(*shape))


def test_probabilities_as_a_list_or_an_array_take_no_gradient():
    x = tg.tensor([[1.0, 2.0, 0.5]], requires_grad=True)
    for q in ([[0.2, 0.3, 0.5]], np.array([[0.2, 0.3, 0.5]], np.float32), tg.tensor([[0.2, 0.3, 0.5]])):
        y = tg.cross_entropy(x, q)
        assert y.dtype == np.float32
        np.testing.assert_allclose(
            y, F.cross_entropy(torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.2, 0.3, 0.5]])), rtol=1e-6
        )


def test_what_torch_refuses_of_class_weights_is_refused():
    weight = tg.tensor([1.0, 2.0], requires_grad=True)
    for function in (tg.cross_entropy, tg.nll_loss):
        with pytest.raises(GraphError, match="no gradient"):
            function(tg.zeros(3, 2), [0, 1, 1], weight=weight)
    with pytest.raises(RuntimeError, match="ignore_index"):
        F.cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), ignore_index=0)
    with pytest.raises(TinygradError, match="ignore_index"):
        tg.cross_entropy(tg.zeros(1, 2), tg.zeros(1, 2), ignore_index=0)


@pytest.mark.parametrize("logits", [[[1, 2, 0], [0, 0, 3]], [[True, False, False]] * 2])
def test_integer_logits_become_floating_and_keep_their_weights(logits):
    weight = np.array([0.5, 1.0, 0.25])
    y = tg.cross_entropy(tg.tensor(logits), [1, 2], weight=weight)
    z = F.cross_entropy(torch.tensor(logits).float(), torch.tensor([1, 2]), weight=torch.tensor(weight).float())
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, z, rtol=1e-6)


def test_no_warnings_where_the_mean_is_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(tg.cross_entropy(tg.tensor(np.ones((2, 3))), [-100, -100]).item())
        assert np.isnan(tg.nll_loss(tg.tensor(np.ones((2, 3))), [1, 1], weight=[1.0, 0.0, 1.0]).item())
        for name in ERRORS:
            assert np.isnan(both(name)[0](tg.zeros(0), tg.zeros(0)).item())
        assert np.isnan(tg.binary_cross_entropy_with_logits(tg.zeros(0), tg.zeros(0)).item())
        assert np.isnan(tg.cross_entropy(tg.zeros(0, 3), tg.zeros(0, 3)).item())
