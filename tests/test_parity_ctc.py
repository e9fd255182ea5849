"""CTC beside PyTorch: losses, gradients in logits and in log-probabilities, over shapes, lengths and settings."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg

torch = pytest.importorskip("torch")
from parity import agree  # noqa: E402 - it imports torch

pytestmark = pytest.mark.parity

REDUCTIONS = ("none", "sum", "mean")


def ours(logits, targets, input_lengths, target_lengths, *options, g=None):
    """Loss, gradient in the logits, and in the log-probabilities."""
    x = tg.tensor(logits, requires_grad=True)
    y = tg.log_softmax(x)
    leaf = tg.tensor(y, requires_grad=True)
    loss = tg.ctc_loss(y, targets, input_lengths, target_lengths, *options)
    g = np.ones(loss.shape) if g is None else g
    loss.backward(g)
    tg.ctc_loss(leaf, targets, input_lengths, target_lengths, *options).backward(g)
    return loss.numpy(), x.grad.numpy(), leaf.grad.numpy()


def theirs(logits, targets, input_lengths, target_lengths, *options, g=None):
    x = torch.tensor(logits, requires_grad=True)
    y = x.log_softmax(-1)
    leaf = y.detach().requires_grad_()
    numbers = [torch.as_tensor(np.asarray(a)) for a in (targets, input_lengths, target_lengths)]
    loss = torch.nn.functional.ctc_loss(y, *numbers, *options)
    g = torch.ones_like(loss) if g is None else torch.tensor(g, dtype=loss.dtype)
    loss.backward(g)
    torch.nn.functional.ctc_loss(leaf, *numbers, *options).backward(g)
    return loss.detach().numpy(), x.grad.numpy(), leaf.grad.numpy()


def compare(logits, targets, input_lengths, target_lengths, *options, e=1e-10, g=None):
    arguments = (targets, input_lengths, target_lengths, *options)
    loss, gradient, leaf = ours(logits, *arguments, g=g)
    wanted, wanted_gradient, wanted_leaf = theirs(logits, *arguments, g=g)
    assert loss.dtype == wanted.dtype
    assert gradient.dtype == wanted_gradient.dtype
    agree(loss, wanted, e, "loss")
    agree(gradient, wanted_gradient, e, "gradient in the logits")
    # PyTorch's gradient in log_probs has that of a log_softmax in it; ours is the derivative itself. What PyTorch adds
    # is the probabilities, times the gradient of each loss, which is minus the sum of ours over the classes.
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    added = -probabilities * leaf.sum(axis=-1, keepdims=True)
    agree(leaf + added, wanted_leaf, e, "gradient in log_probs")


def padded(targets, lengths):
    """One row of targets as (N, S)."""
    made = np.full((len(lengths), max([*lengths, 1])), 0)
    for row, part in zip(made, np.split(targets, np.cumsum(lengths)[:-1])):
        row[: len(part)] = part
    return made


def problem(seed, frames, classes, input_lengths, target_lengths, blank):
    rng = np.random.default_rng(seed)
    labels = np.delete(np.arange(classes), blank)
    targets = rng.choice(labels, sum(target_lengths)) if classes > 1 else np.zeros(0, int)
    return rng.normal(scale=2, size=(frames, len(input_lengths), classes)), targets


#: Frames, classes, input lengths, target lengths.
SHAPES = {
    "one frame": (1, 3, (1, 1), (1, 0)),
    "one class": (4, 1, (4, 2), (0, 0)),
    "two classes, repeated labels": (9, 2, (9, 8, 7), (4, 3, 2)),
    "exactly one alignment": (4, 3, (4, 4), (4, 4)),
    "too long": (5, 4, (5, 3, 2), (2, 3, 5)),
    "no frames": (3, 3, (0, 0, 3, 2), (0, 2, 0, 1)),
    "one sequence": (7, 5, (6,), (3,)),
    "batch": (30, 10, (30, 25, 12, 30, 1), (10, 5, 6, 0, 1)),
    "long": (300, 20, (300, 299), (80, 3)),
}


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("blank", ["first", "middle", "last"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_lengths_blanks_reductions(name, blank, reduction, zero_infinity):
    frames, classes, input_lengths, target_lengths = SHAPES[name]
    number = {"first": 0, "middle": classes // 2, "last": classes - 1}[blank]
    logits, targets = problem(0, frames, classes, input_lengths, target_lengths, number)
    g = np.random.default_rng(1).normal(size=len(input_lengths)) if reduction == "none" else np.array(-1.5)
    for given in (targets, padded(targets, target_lengths)):
        compare(logits, given, input_lengths, target_lengths, number, reduction, zero_infinity, g=g)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_without_a_batch_axis(reduction):
    logits = np.random.default_rng(0).normal(size=(6, 4))
    for input_length, target_length in ((6, 3), ([6], [3])):
        for targets in ([1, 3, 3], [[1, 3, 3]]):
            compare(logits, targets, input_length, target_length, 0, reduction)
    compare(logits, [1, 1], 2, 2, 0, reduction)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.uint8])
def test_integer_dtypes(dtype):
    logits, targets = problem(0, 8, 5, (8, 6), (3, 2), 0)
    arrays = [np.asarray(a).astype(dtype) for a in (targets, (8, 6), (3, 2))]
    compare(logits, *arrays)


def test_a_random_sweep():
    rng = np.random.default_rng(0)
    infinite = 0
    for seed in range(250):
        frames, classes, count = rng.integers(1, 25), rng.integers(2, 8), rng.integers(1, 6)
        input_lengths = rng.integers(0, frames + 1, count)
        target_lengths = rng.integers(0, 1 + np.maximum(input_lengths * 2 // 3, 1))
        blank = int(rng.integers(classes))
        logits, targets = problem(seed, frames, classes, input_lengths, target_lengths, blank)
        reduction, zero_infinity = REDUCTIONS[seed % 3], bool(rng.integers(2))
        if rng.integers(2):
            targets = padded(targets, target_lengths)
        compare(logits, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
        plain = tg.ctc_loss(tg.log_softmax(logits), targets, input_lengths, target_lengths, blank, "sum")
        infinite += not np.isfinite(plain.item())
    assert 20 < infinite < 230


# --- float32 ---


@pytest.mark.parametrize("name", SHAPES)
def test_float32(name):
    frames, classes, input_lengths, target_lengths = SHAPES[name]
    logits, targets = problem(0, frames, classes, input_lengths, target_lengths, 0)
    logits = logits.astype(np.float32)
    arguments = (targets, input_lengths, target_lengths, 0, "none")
    loss, gradient, _ = ours(logits, *arguments)
    assert loss.dtype == gradient.dtype == np.float32
    wanted, wanted_gradient, _ = theirs(logits.astype(np.float64), *arguments)
    agree(loss, wanted, 1e-5, "loss")
    agree(gradient, wanted_gradient, 1e-6, "gradient")
    if max(input_lengths) < 10:
        compare(logits, *arguments, e=1e-5)
    else:  # PyTorch computes in float32, and is itself further than that from its float64; ours is nearer
        single = theirs(logits, *arguments)[1]
        assert np.max(np.abs(single - wanted_gradient)) > 1e-5
        assert np.max(np.abs(gradient - wanted_gradient)) < 0.1 * np.max(np.abs(single - wanted_gradient))


# --- Extremes ---


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_probabilities_far_apart(scale):
    logits, targets = problem(0, 40, 6, (40, 31), (12, 5), 0)
    compare(logits * scale, targets, (40, 31), (12, 5), 0, "none", e=1e-9)


def test_two_thousand_frames():
    logits, targets = problem(0, 2000, 10, (2000, 1700), (300, 20), 0)
    compare(logits, targets, (2000, 1700), (300, 20), 0, "none")


def test_classes_that_are_masked_out():
    """PyTorch's gradient is NaN beside a log-probability of minus infinity; ours is that of one which is very low."""
    logits, targets = problem(0, 12, 6, (12, 10), (3, 2), 0)
    masked, low = logits.copy(), logits.copy()
    for x, value in ((masked, -np.inf), (low, -1e5)):
        x[3:6, :, 4] = value
        x[7, :, targets[0]] = value
    arguments = (targets, (12, 10), (3, 2), 0, "none")
    loss, gradient, leaf = ours(masked, *arguments)
    wanted, wanted_gradient, _ = theirs(low, *arguments)
    agree(loss, wanted, 1e-12, "loss")
    agree(loss, theirs(masked, *arguments)[0], 1e-12, "loss")
    agree(gradient, wanted_gradient, 1e-10, "gradient")
    np.testing.assert_array_equal(leaf[3:6, :, 4], 0.0)
    assert np.isnan(theirs(masked, *arguments)[1]).any()


def test_their_gradient_in_log_probs_is_no_derivative_where_they_are_not_normalised():
    """Why ours differs there: finite differences of the value, which is the same in both."""
    y = np.random.default_rng(0).normal(size=(4, 1, 3))
    arguments = (np.array([[1, 2]]), np.array([4]), np.array([2]))

    def value(y):
        return torch.nn.functional.ctc_loss(torch.tensor(y), *map(torch.tensor, arguments), reduction="sum").item()

    def difference(place):
        step = np.zeros_like(y)
        step[place] = 1e-6
        return (value(y + step) - value(y - step)) / 2e-6

    numerical = np.array([difference(place) for place in np.ndindex(y.shape)]).reshape(y.shape)
    mine, other = tg.tensor(y, requires_grad=True), torch.tensor(y, requires_grad=True)
    tg.ctc_loss(mine, *arguments, reduction="sum").backward()
    torch.nn.functional.ctc_loss(other, *map(torch.tensor, arguments), reduction="sum").backward()
    np.testing.assert_allclose(mine.grad.numpy(), numerical, atol=1e-8)
    assert np.abs(other.grad.numpy() - numerical).max() > 0.1
