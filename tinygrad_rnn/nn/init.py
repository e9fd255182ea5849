"""Initialisers. Each writes into the tensor given, and returns it; `rng` is a numpy.random.Generator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..ops.random import generator

Rng = np.random.Generator | None


def _filled(tensor: Tensor, values: Any) -> Tensor:
    tensor.detach().copy_(values)
    return tensor


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Every element `value`."""
    return _filled(tensor, value)


def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return _filled(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return _filled(tensor, 1.0)


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0, rng: Rng = None) -> Tensor:
    """Uniform in [low, high)."""
    return _filled(tensor, generator(rng).uniform(low, high, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, rng: Rng = None) -> Tensor:
    """Normal with the mean and standard deviation given."""
    return _filled(tensor, generator(rng).normal(mean, std, tensor.shape))


def _fans(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim != 2:
        raise ShapeError("init: this needs a weight matrix", expected="(outputs, inputs)", got=tensor.shape)
    return tensor.shape[1], tensor.shape[0]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, rng: Rng = None) -> Tensor:
    """Uniform in +-gain sqrt(6 / (inputs + outputs)), weight (outputs, inputs) (Glorot and Bengio 2010, eq. 16)."""
    bound = gain * math.sqrt(6.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, rng)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, rng: Rng = None) -> Tensor:
    """Normal, deviation gain sqrt(2 / (inputs + outputs)), weight (outputs, inputs) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), rng)


def orthogonal_(tensor: Tensor, gain: float = 1.0, rng: Rng = None, *, blocks: int = 1) -> Tensor:
    """Rows, or columns if there are fewer, orthonormal times `gain` (Saxe et al. 2014).

    With `blocks`, each of that many equal groups of rows for itself: an LSTM's `weight_hh` (4 H, H) is four matrices.
    """
    columns, rows = _fans(tensor)
    if blocks < 1 or rows % blocks:
        raise ShapeError("orthogonal_: the rows are no equal blocks", expected=f"a divisor of {rows}", got=blocks)
    return _filled(tensor, gain * np.concatenate([_orthogonal(rows // blocks, columns, rng) for _ in range(blocks)]))


def _orthogonal(rows: int, columns: int, rng: Rng) -> np.ndarray[Any, Any]:
    q, r = np.linalg.qr(generator(rng).standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diagonal(r))  # without this the distribution is not uniform (Mezzadri 2007)
    made: np.ndarray[Any, Any] = q if rows >= columns else q.T
    return made


def forget_bias_(cell: Any, value: float = 1.0) -> None:
    """Set the forget gate's bias of an LSTM cell, so that memory is kept at first (Jozefowicz et al. 2015).

    `cell.bias_ih` holds the gates i, f, g, o one after another; `bias_hh` of the forget gate becomes 0.

    Raises:
        ArgumentError: for a cell without it.
    """
    size = cell.hidden_size
    if getattr(cell, "bias_ih", None) is None or cell.bias_ih.shape != (4 * size,):
        raise ArgumentError("forget_bias_: no bias of a forget gate", expected="an LSTMCell with bias", got=repr(cell))
    for bias, wanted in ((cell.bias_ih, value), (cell.bias_hh, 0.0)):
        bias.detach()[size : 2 * size] = wanted
