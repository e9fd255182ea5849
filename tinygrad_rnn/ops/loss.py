"""Losses, made of other ops, so that they have derivatives of every order."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError, DtypeError, ShapeError
from .declare import Array
from .elementwise import square, where
from .index import getitem
from .reduce import log_softmax, mean, sum

REDUCTIONS = ("mean", "sum", "none")


def _reduced(name: str, loss: Any, reduction: str) -> Any:
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"{name}: no such reduction", expected=" | ".join(REDUCTIONS), got=repr(reduction))
    return loss if reduction == "none" else mean(loss) if reduction == "mean" else sum(loss)


def _given(name: str, x: Any, what: str) -> None:
    if not hasattr(x, "dtype"):
        raise DtypeError(f"{name}: the {what} must be a tensor", got=type(x).__name__, hint="tg.tensor(...)")


def mse_loss(input: Array, target: Array, *, reduction: str = "mean") -> Any:
    """Squared error, (input - target)^2, then its mean, its sum, or as it is ("none").

    Raises:
        ShapeError: where the shapes differ; broadcasting a target is mostly a mistake.
    """
    _given("mse_loss", input, "input")
    if np.shape(input) != np.shape(target):
        raise ShapeError("mse_loss: input and target differ in shape", expected=np.shape(input), got=np.shape(target))
    return _reduced("mse_loss", square(input - target), reduction)


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
        target: (N,), () or (N, d1, ...) of class numbers.
        weight: (C,) factor of each class; the mean is then weighted too.
        ignore_index: cases with this target count nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: this share of the target's probability is spread over all classes.

    Raises:
        ShapeError, DtypeError, ArgumentError: for logits and targets that do not fit, a target out of range.
    """
    _given("cross_entropy", logits, "logits")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError("cross_entropy: label_smoothing is a share", expected="0 to 1", got=label_smoothing)
    ndim = len(logits.shape)
    classes_axis = 0 if ndim == 1 else 1
    if ndim == 0:
        raise ShapeError("cross_entropy: logits need an axis of classes", expected="(N, C) or (C,)", got=logits.shape)
    classes = logits.shape[classes_axis]
    labels = np.asarray(target)
    expected = logits.shape[:classes_axis] + logits.shape[classes_axis + 1 :]
    if labels.dtype.kind not in "iu":
        raise DtypeError("cross_entropy: the target is of class numbers", expected="integers", got=labels.dtype)
    if labels.shape != expected:
        raise ShapeError("cross_entropy: the target does not fit the logits", expected=expected, got=labels.shape)
    counted = labels != ignore_index
    wrong = counted & ((labels < 0) | (labels >= classes))
    if wrong.any():
        raise ArgumentError(
            "cross_entropy: a target is out of range", expected=f"0 to {classes - 1}", got=int(labels[wrong][0])
        )

    dtype = logits.dtype
    factors = counted.astype(dtype)
    safe = np.where(counted, labels, 0)
    per_class = None if weight is None else np.asarray(weight).astype(dtype)
    if per_class is not None:
        factors = factors * per_class[safe]
    logs = log_softmax(logits, classes_axis)
    places = np.indices(labels.shape, sparse=True)
    key = (*places[:classes_axis], safe, *places[classes_axis:])
    loss = -getitem(logs, key) * factors
    if not counted.all():
        loss = where(counted, loss, 0.0)  # the logits of an ignored case may be infinite
    if label_smoothing:
        if per_class is not None:
            logs = logs * per_class.reshape((classes,) + (1,) * (ndim - classes_axis - 1))
        smooth = where(counted, -sum(logs, classes_axis), 0.0)
        loss = loss * (1.0 - label_smoothing) + smooth * (label_smoothing / classes)
    if reduction == "mean":
        total = dtype.type(factors.sum())
        return sum(loss) / total if total else sum(loss) * dtype.type(np.nan)  # the mean of nothing
    return _reduced("cross_entropy", loss, reduction)
