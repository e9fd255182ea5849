"""CTC: values and alignments by counting every path, reference and kernel, edges, what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.errors import ArgumentError, GraphError
from tinygrad_rnn.kernels import ctc as kernel
from tinygrad_rnn.ops.ctc import ctc_alignment

compiled = pytest.mark.skipif(not settings.jit_enabled, reason="the jit is off: there is only the reference")


def merged(path, blank):
    """What a path says: repetitions merged, then blanks left out."""
    return [label for label, _ in itertools.groupby(path) if label != blank]


def counted(y, target, blank):
    """Loss and alignment of log-probabilities y (T, C), from all C^T paths."""
    total, alignment = 0.0, np.zeros(y.shape)
    for path in itertools.product(range(y.shape[1]), repeat=len(y)):
        if merged(path, blank) == list(target):
            probability = math.exp(sum(y[t, c] for t, c in enumerate(path)))
            total += probability
            for t, c in enumerate(path):
                alignment[t, c] += probability
    return (-math.log(total), alignment / total) if total else (math.inf, None)


def loss_and_gradient(y, *arguments, **named):
    x = tg.tensor(y, requires_grad=True)
    loss = tg.ctc_loss(x, *arguments, **named)
    loss.sum().backward()
    return loss.numpy(), x.grad.numpy()


CASES = [(frames, classes) for frames in range(6) for classes in range(1, 5)]


@pytest.mark.parametrize(("frames", "classes"), CASES)
def test_against_the_count_of_all_paths(frames, classes):
    rng = np.random.default_rng(10 * frames + classes)
    for blank in range(classes):
        labels = [c for c in range(classes) if c != blank]
        for size in range(4 if labels else 1):
            targets = list(itertools.product(labels, repeat=size))[:12]
            y = rng.normal(size=(frames, len(targets), classes))  # no log_softmax: any numbers have a derivative
            given = np.array(targets, np.int64).reshape(len(targets), size)
            lengths = [frames] * len(targets), [size] * len(targets)
            losses, gradient = loss_and_gradient(y, given, *lengths, blank, "none")
            for n, target in enumerate(targets):
                loss, alignment = counted(y[:, n], target, blank)
                np.testing.assert_allclose(losses[n], loss, rtol=1e-13, atol=1e-14)
                if alignment is not None:
                    np.testing.assert_allclose(gradient[:, n], -alignment, rtol=1e-12, atol=1e-14)
                else:
                    assert np.isnan(gradient[:, n]).all()


def problem(seed, frames, count, classes, size, dtype=np.float64):
    """What a kernel takes: random log-probabilities, targets, lengths; some sequences may have no alignment."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, classes, (count, size)) if classes > 1 else np.zeros((count, 0), np.int64)
    lengths = rng.integers(frames // 2, frames + 1, count)
    sizes = rng.integers(0, targets.shape[1] + 1, count)
    y = rng.normal(scale=3, size=(frames, count, classes)).astype(dtype)
    return y, targets, lengths, sizes


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape", [(9, 5, 4, 3), (1, 3, 2, 1), (0, 2, 3, 1), (4, 0, 3, 2), (3, 2, 1, 0), (40, 6, 3, 12), (7, 4, 30, 9)]
)
def test_the_compiled_kernel_agrees_with_its_reference(shape, dtype):
    for seed in range(5):
        y, targets, lengths, sizes = problem(seed, *shape, dtype)
        y[np.random.default_rng(seed).random(y.shape) < 0.1] = -np.inf
        for n, length in enumerate(lengths):
            y[length:, n] = np.nan  # padding is never read
        labels, jumps = kernel.states(targets, 0)
        results = []
        for run in (kernel.ctc, kernel._reference):
            losses, shares = np.full(len(lengths), 7.0), np.zeros_like(y)
            run(y, labels, jumps, lengths, 2 * sizes, losses, shares)
            alone = np.full(len(lengths), 7.0)
            run(y, labels, jumps, lengths, 2 * sizes, alone, np.empty((0, 0, 0), dtype))
            np.testing.assert_array_equal(alone, losses)
            results.append((losses, np.where(np.isfinite(losses)[:, None], shares, 0.0)))
        (a, b), (c, d) = results
        assert not np.isnan(a).any()
        np.testing.assert_allclose(a, c, rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(b, d, rtol=1e-12, atol=1e-14 if dtype is np.float64 else 1e-7)


def test_gradient_by_finite_differences():
    for seed, reduction in enumerate(("mean", "sum", "none")):
        y, targets, lengths, _ = problem(seed, 12, 4, 5, 3)
        x = tg.tensor(y / 3, requires_grad=True)
        loss = lambda x: tg.ctc_loss(x, targets, lengths, [3, 2, 1, 0], reduction=reduction)  # noqa: B023, E731
        assert tg.gradcheck(loss, x, atol=1e-8, rtol=1e-6)
        assert tg.gradcheck(lambda x: loss(tg.log_softmax(x)), x, atol=1e-8, rtol=1e-6)  # noqa: B023


# --- Long and extreme ---


def paths(frames, target):
    """How many paths say a target: binomial(T + L - r, 2L), with r pairs of equal labels side by side."""
    equal = sum(a == b for a, b in itertools.pairwise(target))
    return math.comb(frames + len(target) - equal, 2 * len(target))


def test_the_number_of_paths_in_closed_form_is_that_of_counting():
    for frames, target in itertools.product(range(1, 6), [(), (1,), (1, 2), (1, 1), (2, 1, 1)]):
        every = itertools.product(range(3), repeat=frames)
        assert paths(frames, target) == sum(merged(path, 0) == list(target) for path in every)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", [-1e-3, -3.0, -1e4, -1e30])
def test_two_thousand_frames_have_the_loss_of_the_closed_form(dtype, level):
    rng = np.random.default_rng(0)
    targets = [list(rng.integers(1, 9, size)) for size in (0, 1, 30, 300, 1000)]
    y = np.full((2000, 5, 9), level, dtype)
    loss = tg.ctc_loss(y, np.concatenate(targets).astype(int), [2000] * 5, [len(t) for t in targets], reduction="none")
    assert str(loss.dtype) == dtype
    expected = [-2000 * float(np.dtype(dtype).type(level)) - math.log(paths(2000, t)) for t in targets]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("low", [-1e4, -1e30, -np.inf])
def test_one_path_far_above_the_others_takes_all(dtype, low):
    rng = np.random.default_rng(1)
    path = np.repeat(rng.integers(0, 6, 500), 4)
    target = merged(path, 0)
    y = np.full((2000, 1, 6), low, dtype)
    y[np.arange(2000), 0, path] = -0.25
    loss, gradient = loss_and_gradient(y, [target], [2000], [len(target)], reduction="none")
    np.testing.assert_array_equal(loss, [500.0])
    one_hot = np.eye(6)[path][:, None]
    np.testing.assert_array_equal(gradient, -one_hot)


def test_ten_thousand_apart_keeps_every_digit_of_the_alignment():
    """The loss is about 2e7, so that a logarithm near it holds eight digits; shares that sum to 1 hold them all."""
    rng = np.random.default_rng(2)
    y = rng.normal(scale=1e4, size=(2000, 1, 6))
    target = rng.integers(1, 6, (1, 50))
    _, gradient = loss_and_gradient(y, target, [2000], [50], reduction="none")
    np.testing.assert_allclose(gradient.sum(axis=2), -1.0, rtol=1e-14)
    _, backwards = loss_and_gradient(y[::-1].copy(), target[:, ::-1].copy(), [2000], [50], reduction="none")
    np.testing.assert_allclose(gradient, backwards[::-1], atol=1e-10)


def test_an_impossible_label_has_no_gradient_and_harms_no_other():
    y = np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))[:, None]
    y[1, 0, 1] = -np.inf
    loss, gradient = loss_and_gradient(y, [[1]], [3], [1], reduction="none")
    # Left are  1 0 0,  0 0 1; the others say 1 in frame 1 or say it twice.
    np.testing.assert_allclose(loss, -np.log(2 * 0.5 * 0.5 * 0.25))
    expected = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    np.testing.assert_allclose(gradient[:, 0], -np.array(expected), atol=1e-15)


def test_nan_is_never_hidden():
    for place in range(3):
        y = np.zeros((3, 2, 3))
        y[place, 0, 1] = np.nan
        for zero_infinity in (False, True):
            loss, gradient = loss_and_gradient(
                y, [[1], [1]], [3, 3], [1, 1], reduction="none", zero_infinity=zero_infinity
            )
            np.testing.assert_array_equal(np.isnan(loss), [True, False])
            assert np.isnan(gradient[:, 0]).all()
            assert not np.isnan(gradient[:, 1]).any()


def test_float32_is_as_good_as_its_inputs():
    y, targets, _, sizes = problem(3, 400, 4, 20, 40)
    y = y.astype(np.float32)
    single, first = loss_and_gradient(y, targets, [400] * 4, sizes, reduction="none")
    double, second = loss_and_gradient(y.astype(np.float64), targets, [400] * 4, sizes, reduction="none")
    assert single.dtype == first.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=1e-7)
    np.testing.assert_allclose(first, second, atol=1e-7)


# --- Edges ---


def test_an_impossible_target():
    y = np.random.default_rng(0).normal(size=(4, 3, 3))
    # The second needs a blank between its equal labels: three frames.
    arguments = [[1, 2], [1, 1], [2, 1]], [2, 2, 4], [2, 2, 2]
    loss, gradient = loss_and_gradient(y, *arguments, reduction="none")
    assert loss[1] == np.inf
    assert np.isfinite(loss[[0, 2]]).all()
    assert np.isnan(gradient[:2, 1]).all()
    np.testing.assert_array_equal(gradient[2:, 1], 0.0)
    np.testing.assert_array_equal(np.isnan(gradient[:, [0, 2]]), False)
    zeroed, zeros = loss_and_gradient(y, *arguments, reduction="none", zero_infinity=True)
    np.testing.assert_array_equal(zeroed, np.where(np.isinf(loss), 0.0, loss))
    np.testing.assert_array_equal(zeros, np.where(np.isnan(gradient), 0.0, gradient))
    for reduction in ("sum", "mean"):
        assert loss_and_gradient(y, *arguments, reduction=reduction)[0] == np.inf
        assert np.isfinite(loss_and_gradient(y, *arguments, reduction=reduction, zero_infinity=True)[1]).all()


def test_no_frames_and_no_labels():
    y = np.random.default_rng(0).normal(size=(3, 4, 2))
    loss, gradient = loss_and_gradient(y, [1, 1], [0, 0, 3, 2], [0, 1, 0, 1], reduction="none")
    np.testing.assert_allclose(loss[:3], [0.0, np.inf, -y[:, 2, 0].sum()])
    np.testing.assert_array_equal(gradient[:, :2], 0.0)
    np.testing.assert_allclose(gradient[:, 2], [[-1.0, 0.0]] * 3)
    mean, _ = loss_and_gradient(y, [1], [0, 3, 3, 2], [0, 0, 0, 1])
    np.testing.assert_allclose(mean, (-y[:, 1, 0].sum() - y[:, 2, 0].sum() + loss[3]) / 4)  # divided by 1, not by 0


def test_nothing_at_all():
    for frames in (0, 3):
        empty = tg.zeros((frames, 0, 2), requires_grad=True)
        loss = tg.ctc_loss(empty, np.zeros((0, 5), int), [], [], reduction="none")
        assert loss.shape == (0,)
        loss.sum().backward()
        assert empty.grad.shape == (frames, 0, 2)
        assert tg.ctc_loss(empty, [], (), (), reduction="sum").item() == 0.0
        assert np.isnan(tg.ctc_loss(empty, [], (), ()).item())
    none = tg.zeros((0, 2, 2), requires_grad=True)
    loss = tg.ctc_loss(none, [1], [0, 0], [0, 1], reduction="none")
    np.testing.assert_array_equal(loss.numpy(), [0.0, np.inf])
    loss.sum().backward()
    assert none.grad.shape == (0, 2, 2)


def test_what_lies_past_a_length_is_never_read():
    y, targets, _, _ = problem(0, 6, 2, 4, 3)
    clean, first = loss_and_gradient(y[:4], targets[:, :2], [4, 3], [2, 1])
    y[4:], y[3:, 1], targets[:, 2], targets[1, 1] = np.nan, np.inf, 99, -7
    dirty, second = loss_and_gradient(y, targets, [4, 3], [2, 1])
    np.testing.assert_array_equal(clean, dirty)
    np.testing.assert_array_equal(first, second[:4])
    np.testing.assert_array_equal(second[4:], 0.0)
    np.testing.assert_array_equal(second[3:, 1], 0.0)


def test_one_sequence_without_a_batch_axis():
    y = np.random.default_rng(0).normal(size=(4, 3))
    batch, first = loss_and_gradient(y[:, None], [[1, 2]], [4], [2], reduction="none")
    for lengths in ((4, 2), ([4], [2]), (np.array(4), tg.tensor(2)), (np.array([4]), (2,))):
        for targets in ([1, 2], [[1, 2]], [[1, 2, 2]]):
            loss, gradient = loss_and_gradient(y, targets, *lengths, reduction="none")
            assert loss.shape == ()
            np.testing.assert_array_equal(loss, batch[0])
            np.testing.assert_array_equal(gradient, first[:, 0])
    np.testing.assert_allclose(loss_and_gradient(y, [1, 2], 4, 2)[0], batch[0] / 2)


@pytest.mark.parametrize("kind", [list, tuple, np.array, np.int32, np.uint8, tg.tensor])
def test_kinds_of_targets_and_lengths(kind):
    y, targets, _, _ = problem(0, 6, 3, 4, 2)
    expected, first = loss_and_gradient(y, targets, np.array([6, 5, 4]), np.array([2, 1, 2]), reduction="none")
    row = np.concatenate([targets[0], targets[1, :1], targets[2]])
    for given in (targets, row):
        loss, gradient = loss_and_gradient(y, kind(given.tolist()), kind([6, 5, 4]), kind([2, 1, 2]), reduction="none")
        np.testing.assert_array_equal(loss, expected)
        np.testing.assert_array_equal(gradient, first)


def test_batch_first_results_turned_around():
    y, targets, lengths, sizes = problem(4, 8, 3, 4, 2)
    expected, first = loss_and_gradient(y, targets, lengths, sizes)
    x = tg.tensor(np.ascontiguousarray(y.transpose(1, 0, 2)), requires_grad=True)
    loss = tg.ctc_loss(x.permute_dims((1, 0, 2)), targets, lengths, sizes)
    loss.backward()
    np.testing.assert_array_equal(loss.numpy(), expected)
    np.testing.assert_array_equal(x.grad.numpy().transpose(1, 0, 2), first)


def test_arguments_by_the_names_of_pytorch():
    y = np.zeros((2, 1, 2))
    named = {"targets": [[0]], "input_lengths": [2], "target_lengths": [1], "blank": 1, "zero_infinity": True}
    assert tg.ctc_loss(log_probs=y, **named, reduction="sum").item() == pytest.approx(-math.log(3))


def test_later_writes_to_targets_and_lengths_change_nothing():
    y, targets, lengths, sizes = problem(5, 8, 3, 4, 2)
    lengths[:] = 8
    _, expected = loss_and_gradient(y, targets, lengths, sizes)
    x = tg.tensor(y, requires_grad=True)
    loss = tg.ctc_loss(x, targets, lengths, sizes)
    targets[:], lengths[:], sizes[:] = 77, 99, 55
    loss.backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected)


# --- Derivatives of the gradient ---


def first_gradient():
    y, targets, lengths, _ = problem(6, 8, 3, 4, 2)
    x = tg.tensor(y, requires_grad=True)
    g = tg.tensor(np.array([0.5, -2.0, 3.0]), requires_grad=True)
    losses = tg.ctc_loss(x, targets, lengths, [2, 1, 2], reduction="none")
    return x, g, tg.grad(losses, x, g, create_graph=True), tg.grad(losses, x, g)


def test_a_recorded_first_gradient_is_the_gradient():
    x, _, recorded, plain = first_gradient()
    np.testing.assert_array_equal(recorded.numpy(), plain.numpy())
    assert recorded.requires_grad
    loss = tg.ctc_loss(x, [[1, 2], [1, 2], [3, 1]], [8, 8, 8], [2, 2, 2])
    loss.backward(create_graph=True)
    assert np.isfinite(x.grad.numpy()).all()


def test_the_gradient_is_linear_in_the_one_that_comes_in():
    _, g, recorded, plain = first_gradient()
    weight = np.random.default_rng(0).normal(size=recorded.shape)
    found = tg.grad(recorded, g, tg.tensor(weight))
    np.testing.assert_allclose(found.numpy(), (weight * plain.numpy()).sum(axis=(0, 2)) / g.numpy(), rtol=1e-12)


def test_a_second_derivative_is_refused_by_name():
    x, _, recorded, _ = first_gradient()
    with pytest.raises(GraphError, match=r"^ctc_loss: it has a first derivative only") as caught:
        recorded.sum().backward()
    assert "create_graph" in str(caught.value)
    x = tg.tensor(np.zeros((3, 1, 3)), requires_grad=True)
    loss = tg.ctc_loss(tg.log_softmax(x), [[1]], [3], [1])
    penalty = (tg.grad(loss, x, create_graph=True) ** 2).sum()
    with pytest.raises(GraphError, match=r"^ctc_loss"):
        tg.grad(penalty, x)


def test_the_alignment_is_a_distribution_over_the_classes():
    y, targets, lengths, sizes = problem(7, 12, 5, 4, 3)
    aligned = ctc_alignment(tg.tensor(y), targets, lengths, sizes).numpy()
    assert (aligned >= 0.0).all()
    inside = np.arange(12)[:, None] < lengths
    np.testing.assert_allclose(aligned.sum(axis=2), inside, rtol=1e-14)


# --- Learning ---


def test_a_recurrent_layer_learns_to_spell():
    """Each letter is a burst somewhere in a sequence; nobody tells where."""
    rng = np.random.default_rng(0)
    targets = rng.integers(1, 4, (16, 3))
    x = rng.normal(scale=0.1, size=(20, 16, 3))
    for n in range(16):
        for i, place in enumerate((2, 8, 14)):
            x[place + rng.integers(0, 4), n, targets[n, i] - 1] += 2.0
    layer, head = tg.nn.LSTM(3, 16, rng=rng), tg.nn.Linear(16, 4, rng=rng)
    optimizer = tg.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    inputs = tg.tensor(x, dtype="float32")
    for _ in range(150):
        scores = tg.log_softmax(head(layer(inputs)[0]))
        loss = tg.ctc_loss(scores, targets, [20] * 16, [3] * 16)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    spelt = [merged(row, 0) for row in scores.numpy().argmax(axis=2).T]
    assert spelt == targets.tolist()


def test_refusals_name_the_argument_and_its_range():
    with pytest.raises(ArgumentError, match=r"one of input_lengths is out of range\n  expected 0 to 5\n  got 6"):
        tg.ctc_loss(np.zeros((5, 1, 3)), [[1]], [6], [1])
    with pytest.raises(ArgumentError, match=r"a target is out of range\n  expected 0 to 2\n  got 3"):
        tg.ctc_loss(np.zeros((5, 1, 3)), [[3]], [5], [1])
