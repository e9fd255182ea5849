"""Connectionist temporal classification: the loss of a sequence of labels whose places in time are not known."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError, DtypeError, GraphError, ShapeError
from ..kernels import ctc as kernel
from .declare import Array, Refusal, call, composite, opaque
from .reduce import mean, sum
from .shape import expand_dims, reshape


def _batches(r: Any) -> list[Any]:
    """Padded batches: repeated labels, several blanks, lengths from 0 on, one alignment only, and none."""
    return [
        call(r(5, 2, 4), np.array([[1, 2], [3, 3]]), np.array([5, 4]), np.array([2, 2])),
        call(r(4, 3, 3), np.array([[0, 2], [2, 1], [2, 2]]), np.array([2, 4, 4]), np.array([2, 1, 0]), blank=1),
        call(r(3, 2, 2), np.array([[0, 0], [0, 1]]), np.array([3, 0]), np.array([2, 0]), blank=1),
        call(r(2, 2, 3), np.array([[1, 1], [1, 2]]), np.array([2, 2]), np.array([2, 2]), zero_infinity=True),
        call(r(1, 1, 1), np.zeros((1, 0), np.int64), np.array([1]), np.array([0])),
    ]


def _aligned(x: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int, shares: Any) -> Any:
    labels, jumps = kernel.states(targets, blank)
    losses = np.empty(len(targets))
    kernel.ctc(x, labels, jumps, input_lengths, 2 * target_lengths, losses, shares)
    return losses


@opaque(symbol="ctc", samples=_batches, derivatives=1)
def ctc(
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    """The losses (N,) of padded targets (N, S): -log of the sum over all alignments of the product of e^log_probs."""
    nothing = np.empty((0, 0, 0), log_probs.dtype)
    losses = _aligned(log_probs, targets, input_lengths, target_lengths, blank, nothing)
    return np.where(zero_infinity & (losses == np.inf), 0.0, losses).astype(log_probs.dtype)


@ctc.vjp("log_probs")
def _(g, log_probs, targets, input_lengths, target_lengths, blank, zero_infinity):
    aligned = ctc_alignment(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)
    return expand_dims(-g, -1) * aligned


@opaque(symbol="alignment", samples=_batches, derivatives=0)
def ctc_alignment(
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    """How probable each label is in each frame (T, N, C), given the targets: minus the derivative of `ctc`.

    Past a sequence's length it is 0. Where no alignment is possible it is NaN, or 0 where `zero_infinity`.
    """
    shares = np.zeros_like(log_probs, order="C")
    losses = _aligned(log_probs, targets, input_lengths, target_lengths, blank, shares)
    for n in np.flatnonzero(~np.isfinite(losses)):
        shares[: input_lengths[n], n] = 0.0 if zero_infinity and losses[n] == np.inf else np.nan
    return shares


@ctc_alignment.vjp("log_probs")
def _(g):
    raise GraphError(
        "ctc_loss: it has a first derivative only, and the derivative of that was asked for",
        hint="leave out create_graph=True, or detach() the gradient",
    )


def _calls(r: Any) -> list[Any]:
    lengths = np.array([5, 3])
    return [
        call(r(5, 2, 4), np.array([[1, 2], [3, 0]]), lengths, np.array([2, 1])),
        call(r(5, 2, 4), np.array([1, 2, 3]), lengths, np.array([2, 1]), reduction="none"),
        call(r(5, 2, 4), np.array([[1, 2], [3, 3]]), lengths, np.array([2, 0]), reduction="sum"),
        call(r(5, 2, 4), np.array([[1, 1], [0, 0]]), lengths - 2, np.array([2, 2]), 3, "mean", True),
        call(r(4, 3), np.array([1, 1]), np.array(4), np.array(2), reduction="none"),
        call(r(4, 3), np.array([[1, 2, 2]]), np.array([4]), np.array([2])),
    ]


def _refused(r: Any) -> list[Refusal]:
    def refused(error: Any, says: str, *operands: Any, **settings: Any) -> Refusal:
        given = [r(5, 2, 4), np.array([[1, 2], [3, 1]]), (5, 4), (2, 1)]
        return Refusal(call(*operands, *given[len(operands) :], **settings), error, says)

    x, y = r(5, 2, 4), np.array([[1, 2], [3, 1]])
    return [
        refused(ArgumentError, "no such reduction", reduction="average"),
        refused(DtypeError, "must be of floating numbers", np.ones((5, 2, 4), np.int64)),
        refused(DtypeError, "must be of floating numbers", None),
        refused(ShapeError, "log_probs must be", r(5)),
        refused(ArgumentError, "the blank is no class", blank=4),
        refused(ArgumentError, "the blank is no class", blank=-1),
        refused(ArgumentError, "the blank is no class", blank=0.5),
        refused(DtypeError, "targets must be integers", x, np.array([[1.0, 2.0], [3.0, 1.0]])),
        refused(ShapeError, "targets do not fit", x, np.array([[1, 2]])),
        refused(ShapeError, "targets do not fit", x, np.array([[1], [2]])),
        refused(ShapeError, "targets do not fit", x, np.array([1, 2, 3, 1])),
        refused(ShapeError, "targets do not fit", x, np.zeros((2, 2, 1), int)),
        refused(ArgumentError, "target is out of range", x, np.array([[1, 4], [3, 1]])),
        refused(ArgumentError, "target is out of range", x, np.array([[1, -1], [3, 1]])),
        refused(ArgumentError, "target is the blank", x, np.array([[1, 0], [3, 1]])),
        refused(ArgumentError, "target is the blank", blank=3),
        refused(DtypeError, "input_lengths must be integers", x, y, (5.0, 4.0)),
        refused(ShapeError, "input_lengths do not fit", x, y, (5,)),
        refused(ShapeError, "input_lengths do not fit", x, y, [[5], [4]]),
        refused(ArgumentError, "input_lengths is out of range", x, y, (6, 4)),
        refused(ArgumentError, "input_lengths is out of range", x, y, (5, -1)),
        refused(DtypeError, "target_lengths must be integers", x, y, (5, 4), (True, True)),
        refused(ShapeError, "target_lengths do not fit", x, y, (5, 4), 2),
        refused(ArgumentError, "target_lengths is out of range", x, y, (5, 4), (2, -1)),
    ]


@composite(samples=_calls, refusals=_refused, derivatives=1)
def ctc_loss(
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:
    """-log p(target), where p sums over all ways to spread a target's labels over the frames (Graves et al. 2006).

    Each frame speaks one label or the blank. What is spoken becomes the target once repetitions are merged and blanks
    are left out, so that two equal labels in a row need a blank between them. Everything is computed in float64 in
    log space, and returned in the dtype of log_probs.

    The gradient in log_probs is the true one: minus the probability of each class in each frame, given the target, and
    0 past a sequence's length. Behind `log_softmax` it gives the gradient of PyTorch, softmax minus that probability;
    PyTorch returns the latter for log_probs themselves, which is not the derivative of the value in numbers that are
    not from a log_softmax. Entries of minus infinity are impossible labels and have the gradient 0 (PyTorch: NaN).

    A target that does not fit into its frames has the loss infinity and a gradient of NaN, as in PyTorch. There is no
    second derivative.

    >>> import tinygrad_rnn as tg
    >>> even = tg.log_softmax(tg.zeros((2, 1, 2)))  # two frames of one sequence; the blank and one letter
    >>> loss = tg.ctc_loss(even, [[1]], [2], [1])
    >>> round(float(tg.exp(-loss).item()), 6)  # letter letter, letter blank, blank letter
    0.75

    Args:
        log_probs: (T, N, C), or (T, C) for one sequence: log-probabilities of the classes in each frame.
        targets: whole numbers, (N, S) padded with anything, or all targets one after the other, (sum of
            target_lengths,); never the blank.
        input_lengths: (N,) frames of each sequence, 0 to T; () or (1,) for one sequence. Array, tuple, list or tensor.
        target_lengths: (N,) labels of each target, 0 or more.
        blank: the class that says nothing.
        reduction: "mean" divides each loss by the length of its target (at least 1) and takes the mean over the batch;
            "sum"; or "none", (N,), () for one sequence.
        zero_infinity: infinite losses and their gradients become 0.

    Raises:
        ShapeError, DtypeError, ArgumentError: for arguments that do not fit together, a length or a target out of
            range, and a blank among the targets.
        GraphError: where backward comes to the second derivative.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError("ctc_loss: no such reduction", expected="mean | sum | none", got=repr(reduction))
    dtype = getattr(log_probs, "dtype", None)
    if dtype is None or dtype.kind != "f":
        got = type(log_probs).__name__ if dtype is None else dtype
        raise DtypeError("ctc_loss: log_probs must be of floating numbers", expected="a tensor", got=got)
    if len(log_probs.shape) not in (2, 3):
        raise ShapeError(
            "ctc_loss: log_probs must be a batch or one", expected="(T, N, C) or (T, C)", got=log_probs.shape
        )
    several = log_probs if len(log_probs.shape) == 3 else expand_dims(log_probs, 1)
    frames, count, classes = several.shape
    if isinstance(blank, bool) or not isinstance(blank, (int, np.integer)) or not 0 <= blank < classes:
        raise ArgumentError("ctc_loss: the blank is no class", expected=f"0 to {classes - 1}", got=repr(blank))
    input_sizes = _lengths("input_lengths", input_lengths, count, frames)
    target_sizes = _lengths("target_lengths", target_lengths, count, None)
    padded = _padded(targets, target_sizes, classes, int(blank))
    loss = ctc(several, padded, input_sizes, target_sizes, int(blank), bool(zero_infinity))
    if reduction == "mean":
        return mean(loss / np.maximum(target_sizes, 1).astype(dtype))
    if reduction == "sum":
        return sum(loss)
    return loss if several is log_probs else reshape(loss, ())


def _whole_numbers(what: str, given: Any) -> Any:
    array = np.asarray(given)
    if array.dtype.kind not in "iu" and array.size:
        raise DtypeError(f"ctc_loss: {what} must be integers", got=array.dtype)
    return array.astype(np.int64)


def _lengths(what: str, given: Any, count: int, most: int | None) -> Any:
    """The lengths as an array (N,) of its own."""
    lengths = _whole_numbers(what, given)
    if lengths.ndim > 1 or lengths.size != count:
        raise ShapeError(f"ctc_loss: {what} do not fit log_probs", expected=(count,), got=lengths.shape)
    lengths = lengths.reshape(count)
    wrong = (lengths < 0) | (lengths > (np.inf if most is None else most))
    if wrong.any():
        expected = "0 or more" if most is None else f"0 to {most}"
        raise ArgumentError(f"ctc_loss: one of {what} is out of range", expected=expected, got=int(lengths[wrong][0]))
    return lengths


def _padded(given: Any, lengths: Any, classes: int, blank: int) -> Any:
    """The targets (N, S), padded with blanks."""
    targets, longest = _whole_numbers("targets", given), int(np.max(lengths, initial=0))
    if targets.ndim == 1:
        expected, fits = f"({int(np.sum(lengths))},), the sum of target_lengths", targets.size == np.sum(lengths)
    else:
        expected = f"({len(lengths)}, {longest}) or wider"
        fits = targets.ndim == 2 and len(targets) == len(lengths) and targets.shape[1] >= longest
    if not fits:
        raise ShapeError("ctc_loss: the targets do not fit target_lengths", expected=expected, got=targets.shape)
    counted = np.arange(longest) < lengths[:, None]
    labels = targets if targets.ndim == 1 else targets[:, :longest][counted]
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ArgumentError("ctc_loss: a target is out of range", expected=f"0 to {classes - 1}", got=int(wrong[0]))
    if (labels == blank).any():
        raise ArgumentError(
            f"ctc_loss: a target is the blank, {blank}", hint="blank= names the class that says nothing"
        )
    padded = np.full(counted.shape, blank, np.int64)
    padded[counted] = labels
    return padded
