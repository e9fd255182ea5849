"""Losses.

They are made of other ops, so they have derivatives of every order. Each takes `reduction`: "mean", "sum", or "none"
for the loss of each element or case.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError, DtypeError, GraphError, ShapeError
from .compare import greater_equal
from .declare import Array, Refusal, call, composite
from .elementwise import abs, softplus, square, where
from .index import getitem
from .reduce import log_softmax, mean, sum
from .shape import astype

REDUCTIONS = ("mean", "sum", "none")


def _reduced(name: str, loss: Any, reduction: str) -> Any:
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"{name}: no such reduction", expected=" | ".join(REDUCTIONS), got=repr(reduction))
    return loss if reduction == "none" else mean(loss) if reduction == "mean" else sum(loss)


def _given(name: str, x: Any, what: str) -> None:
    if not hasattr(x, "dtype"):
        raise DtypeError(f"{name}: the {what} must be a tensor", got=type(x).__name__, hint="tg.tensor(...)")


# --- Of numbers ---


def _same_shape(name: str, input: Any, target: Any) -> None:
    """Raise where the shapes differ: broadcasting a target is mostly a mistake."""
    _given(name, input, "input")
    if np.shape(input) != np.shape(target):
        raise ShapeError(f"{name}: input and target differ in shape", expected=np.shape(input), got=np.shape(target))


def _two(r: Any) -> list[Any]:
    return [
        call(r(3, 4), r(3, 4)),
        call(r(3, 4), r(3, 4), reduction="sum"),
        call(r(2, 3), r(2, 3), reduction="none"),
        call(r(), r()),
        call(r(0, 3), r(0, 3), reduction="sum"),
    ]


def _not_two(r: Any) -> list[Refusal]:
    return [
        Refusal(call(r(3, 1), r(3)), ShapeError, "differ in shape"),
        Refusal(call([1.0], r(1)), DtypeError, "must be a tensor"),
        Refusal(call(r(3), r(3), reduction="average"), ArgumentError, "no such reduction"),
    ]


@composite(samples=_two, refusals=_not_two)
def mse_loss(input: Array, target: Array, *, reduction: str = "mean") -> Any:
    """Squared error, (input - target)^2.

    Raises:
        ShapeError: where the shapes differ; broadcasting a target is mostly a mistake.
        ArgumentError: for an unknown reduction.
    """
    _same_shape("mse_loss", input, target)
    return _reduced("mse_loss", square(input - target), reduction)


@composite(samples=_two, refusals=_not_two)
def l1_loss(input: Array, target: Array, *, reduction: str = "mean") -> Any:
    """Absolute error, |input - target|. The derivative at 0 is 0, at NaN it is NaN (PyTorch's is 0).

    Raises:
        ShapeError: where the shapes differ.
        ArgumentError: for an unknown reduction.
    """
    _same_shape("l1_loss", input, target)
    return _reduced("l1_loss", abs(input - target), reduction)


@composite(
    samples=lambda r: [*_two(r), call(r(3, 4), r(3, 4), delta=0.4), call(r(3, 4), r(3, 4), delta=100.0)],
    refusals=lambda r: [*_not_two(r), Refusal(call(r(3), r(3), delta=0.0), ArgumentError, "above 0")],
)
def huber_loss(input: Array, target: Array, *, delta: float = 1.0, reduction: str = "mean") -> Any:
    """With d = input - target: d^2 / 2 where |d| < delta, else delta (|d| - delta / 2) (Huber 1964).

    Value and derivative are continuous; the second derivative, 1 inside and 0 outside, is 0 at |d| = delta.

    Raises:
        ShapeError: where the shapes differ.
        ArgumentError: for a delta that is not above 0, or an unknown reduction.
    """
    _same_shape("huber_loss", input, target)
    if not delta > 0.0:
        raise ArgumentError("huber_loss: delta is above 0", got=delta)
    difference = input - target
    distance = abs(difference)
    far = greater_equal(distance, delta)
    # Each branch sees 0 where the other is taken: an infinity there would come back as NaN from the derivatives.
    near_loss = 0.5 * square(where(far, 0.0, difference))
    far_loss = delta * (where(far, distance, 0.0) - 0.5 * delta)
    return _reduced("huber_loss", where(far, far_loss, near_loss), reduction)


# --- Of probabilities ---


def _weighed(r: Any) -> list[Any]:
    return [
        *_two(r),
        call(r(3, 4), r(3, 4), weight=np.array([[1.0], [0.0], [2.0]])),
        call(r(3, 4), np.array([[0, 1, 1, 0]] * 3), pos_weight=np.array([1.0, 0.5, 3.0, 0.0]), reduction="sum"),
    ]


@composite(
    samples=_weighed,
    refusals=lambda r: [
        *_not_two(r),
        Refusal(call(r(3), r(3), weight=np.ones((2, 3))), ShapeError, "weight"),
        Refusal(call(r(3), r(3), pos_weight=np.ones(2)), ShapeError, "weight"),
    ],
)
def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    *,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    reduction: str = "mean",
) -> Any:
    """-p t log s(x) - (1 - t) log(1 - s(x)), in nats, for logits x, s the sigmoid and targets t; no logit overflows.

    Args:
        input: logits x, of any shape.
        target: t, of that shape: 0, 1, or a probability between.
        weight: a factor of each loss, broadcast.
        pos_weight: p, a factor of the first term, broadcast; above 1 it makes misses count more than false alarms.
        reduction: "mean", "sum" or "none".

    A logit of minus infinity with t = 0, or infinity with t = 1, makes NaN (0 times infinity), as in PyTorch; with any
    other target it makes infinity.

    Raises:
        ShapeError: where input and target differ in shape, or a weight does not broadcast to it.
        ArgumentError: for an unknown reduction.
    """
    name = "binary_cross_entropy_with_logits"
    _same_shape(name, input, target)
    for what, factor in (("weight", weight), ("pos_weight", pos_weight)):
        shape = () if factor is None else np.shape(factor)
        if not _broadcasts(shape, input.shape):
            raise ShapeError(f"{name}: the {what} does not broadcast", expected=f"to {input.shape}", got=shape)
    target = target if hasattr(target, "dtype") else np.asarray(target, input.dtype)
    hit, false_alarm = target * softplus(-input), (1.0 - target) * softplus(input)
    if pos_weight is not None:
        hit = hit * _of_dtype(pos_weight, input.dtype)
    loss = hit + false_alarm
    return _reduced(name, loss if weight is None else loss * _of_dtype(weight, input.dtype), reduction)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape[::-1], target[::-1]))


def _of_dtype(x: Any, dtype: Any) -> Any:
    """x in that dtype; numbers and lists take it by themselves."""
    return astype(x, dtype) if getattr(x, "dtype", dtype) != dtype else x


# --- Of classes ---


class Cases(NamedTuple):
    """What a target of class numbers asks for.

    Attributes:
        counted: which cases count.
        factors: how much, 0 for those that do not; None where each counts once.
        key: where in the scores that of each case's class is.
    """

    counted: Any
    factors: Any
    key: tuple[Any, ...]


def _cases(name: str, scores: Any, target: Any, per_class: Any, ignore_index: int) -> Cases:
    axis, labels = _classes_axis(name, scores), np.array(target)  # a copy: the caller may write to his
    classes, expected = scores.shape[axis], scores.shape[:axis] + scores.shape[axis + 1 :]
    if labels.dtype.kind not in "iu":
        raise DtypeError(f"{name}: the target is of class numbers", expected="integers", got=labels.dtype)
    if labels.shape != expected:
        raise ShapeError(
            f"{name}: the target does not fit", expected=f"{expected} for {scores.shape}", got=labels.shape
        )
    counted = labels != ignore_index
    wrong = counted & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ArgumentError(
            f"{name}: a target is out of range", expected=f"0 to {classes - 1}", got=int(labels[wrong][0])
        )
    factors: Any = None
    if per_class is not None or not labels.size or not counted.all():
        factors, labels = counted.astype(scores.dtype), np.where(counted, labels, 0)
        if per_class is not None and labels.size:
            factors = factors * per_class[labels]
    places = np.indices(labels.shape, sparse=True)
    return Cases(counted, factors, (*places[:axis], labels, *places[axis:]))


def _classes_axis(name: str, scores: Any) -> int:
    if not len(scores.shape):
        raise ShapeError(f"{name}: there is no axis of classes", expected="(N, C) or (C,)", got=scores.shape)
    return 0 if len(scores.shape) == 1 else 1


def _per_class(name: str, weight: Any, scores: Any) -> Any:
    """The classes' weights as an array, or None."""
    if weight is None:
        return None
    if getattr(weight, "requires_grad", False):
        raise GraphError(f"{name}: the weight gets no gradient", hint=".detach(); multiply the losses of its cases")
    classes = scores.shape[_classes_axis(name, scores)]
    if np.shape(weight) != (classes,):
        raise ShapeError(f"{name}: the weight does not fit", expected=f"({classes},)", got=np.shape(weight))
    return np.asarray(weight).astype(scores.dtype)


def _minus_chosen(logs: Any, cases: Cases) -> Any:
    """Minus the score of each case's class, weighted."""
    loss = -getitem(logs, cases.key)
    if cases.factors is None:
        return loss
    loss = loss * cases.factors
    return loss if cases.counted.all() else where(cases.counted, loss, 0.0)  # an ignored score may be infinite


def _averaged(name: str, loss: Any, cases: Cases, reduction: str) -> Any:
    """The loss reduced, where the mean is weighted as the cases are."""
    if reduction != "mean":
        return _reduced(name, loss, reduction)
    if cases.factors is None:
        return mean(loss)
    total = cases.factors.sum()
    return sum(loss) / total if total else sum(loss) * total.dtype.type(np.nan)  # the mean of nothing


def _labelled(r: Any) -> list[Any]:
    weight = np.array([0.2, 1.0, 0.0, 3.0])
    return [
        call(r(3, 4), np.array([0, 3, 1])),
        call(r(4), np.array(2)),
        call(r(2, 4, 3), np.array([[0, 3, 1], [1, 1, 2]]), weight=weight),
        call(r(3, 4), np.array([0, -100, 1]), reduction="none"),
        call(r(3, 4), np.array([0, 3, 1]), ignore_index=3, weight=weight, reduction="sum"),
        call(r(0, 4), np.zeros(0, int), reduction="sum"),
    ]


def _not_labelled(r: Any) -> list[Refusal]:
    return [
        Refusal(call(r(3, 4), np.array([0, 4, 1])), ArgumentError, "out of range"),
        Refusal(call(r(3, 4), np.array([0, -1, 1])), ArgumentError, "out of range"),
        Refusal(call(r(3, 4), np.array([0, 1])), ShapeError, "the target does not fit"),
        Refusal(call(r(3, 4), np.zeros((3, 4), int)), ShapeError, "the target does not fit"),
        Refusal(call(r(), np.array(0)), ShapeError, "axis of classes"),
        Refusal(call(r(3, 4), np.array([0, 1, 2]), weight=np.ones(3)), ShapeError, "the weight does not fit"),
        Refusal(call(r(3, 4), np.array([0, 1, 2]), reduction="average"), ArgumentError, "no such reduction"),
        Refusal(call([[1.0]], np.array([0])), DtypeError, "must be a tensor"),
    ]


@composite(
    samples=_labelled,
    refusals=lambda r: [
        *_not_labelled(r),
        Refusal(call(r(3, 4), r(3)), DtypeError, "class numbers"),
        Refusal(call(np.zeros((3, 4), int), np.array([0, 1, 2])), DtypeError, "floating"),
    ],
)
def nll_loss(
    log_probs: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Negative log-likelihood: minus the log-probability of each case's class, as `log_softmax` gives it.

    Args:
        log_probs: (N, C), or (C,) for one case, or (N, C, d1, ...).
        target: (N,), () or (N, d1, ...) of class numbers.
        weight: (C,) factor of each class, constant; the mean is then weighted too.
        ignore_index: cases with this target count nothing.
        reduction: "mean" (NaN where no case counts), "sum" or "none".

    Raises:
        ShapeError, DtypeError, ArgumentError: for arguments that do not fit, a target out of range.
        GraphError: for a weight that requires a gradient.
    """
    _given("nll_loss", log_probs, "log_probs")
    if log_probs.dtype.kind != "f":
        raise DtypeError("nll_loss: log-probabilities are floating numbers", got=log_probs.dtype)
    per_class = _per_class("nll_loss", weight, log_probs)
    cases = _cases("nll_loss", log_probs, target, per_class, ignore_index)
    return _averaged("nll_loss", _minus_chosen(log_probs, cases), cases, reduction)


@composite(
    samples=lambda r: [
        *_labelled(r),
        call(r(3, 4), np.array([0, -100, 1]), label_smoothing=0.1),
        call(r(2, 4, 3), np.array([[0, 3, 1], [1, 1, 2]]), weight=np.array([0.2, 1.0, 0.0, 3.0]), label_smoothing=0.3),
        call(r(3, 4), r(3, 4)),
        call(r(4), r(4), reduction="none"),
        call(r(2, 4, 3), r(2, 4, 3), weight=np.array([0.2, 1.0, 0.0, 3.0]), label_smoothing=0.3),
    ],
    refusals=lambda r: [
        *_not_labelled(r),
        Refusal(call(r(3, 4), r(3)), ShapeError, "probabilities do not fit"),
        Refusal(call(r(3, 4), r(3, 4), ignore_index=1), ArgumentError, "ignore_index"),
        Refusal(call(r(3, 4), np.array([0, 1, 2]), label_smoothing=1.5), ArgumentError, "share"),
        Refusal(call(r(3, 4), np.array([True, False, True])), DtypeError, "class numbers"),
    ],
)
def cross_entropy(
    logits: Array,
    target: Array,
    *,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Minus the logarithm of the probability that softmax(logits) gives to the target, in nats.

    Args:
        logits: (N, C), or (C,) for one case, or (N, C, d1, ...) as in PyTorch.
        target: (N,), () or (N, d1, ...) of class numbers. Or floating numbers of the logits' shape, the probability q
            of each class: then the loss of a case is -sum(q log softmax(logits)), and q gets a gradient too.
        weight: (C,) factor of each class, constant; for class numbers the mean is then weighted too.
        ignore_index: cases with this class number count nothing.
        reduction: "mean" (NaN where no case counts), "sum" or "none".
        label_smoothing: this share of the target's probability is spread over all classes.

    Raises:
        ShapeError, DtypeError, ArgumentError: for logits and targets that do not fit, a target out of range.
        GraphError: for a weight that requires a gradient.
    """
    _given("cross_entropy", logits, "logits")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError("cross_entropy: label_smoothing is a share", expected="0 to 1", got=label_smoothing)
    axis = _classes_axis("cross_entropy", logits)
    logs, classes = log_softmax(logits, axis), logits.shape[axis]
    per_class = _per_class("cross_entropy", weight, logs)
    if not isinstance(getattr(target, "dtype", None), np.dtype):
        target = np.asarray(target)
        target = target.astype(logs.dtype) if target.dtype.kind == "f" else target
    every = logs
    if per_class is not None and (label_smoothing or target.dtype.kind == "f"):
        every = logs * per_class.reshape((classes,) + (1,) * (len(logits.shape) - axis - 1))
    if target.dtype.kind == "f":
        if target.shape != logits.shape:
            raise ShapeError("cross_entropy: the probabilities do not fit", expected=logits.shape, got=target.shape)
        if ignore_index >= 0:
            raise ArgumentError("cross_entropy: ignore_index needs class numbers, not probabilities", got=ignore_index)
        if label_smoothing:
            target = target * (1.0 - label_smoothing) + label_smoothing / classes
        return _reduced("cross_entropy", -sum(every * target, axis), reduction)
    cases = _cases("cross_entropy", logs, target, per_class, ignore_index)
    loss = _minus_chosen(logs, cases)
    if label_smoothing:
        smooth = where(cases.counted, -sum(every, axis), 0.0)
        loss = loss * (1.0 - label_smoothing) + smooth * (label_smoothing / classes)
    return _averaged("cross_entropy", loss, cases, reduction)
