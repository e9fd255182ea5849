"""Initialisers. Each writes into the tensor given, and returns it; `rng` is a numpy.random.Generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..ops.random import generator

Rng = np.random.Generator | None


def _filled(tensor: Tensor, values: Any) -> Tensor:
    Tensor(tensor._array).copy_(values)  # of a part of a parameter too, and nothing for a tape to list
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


# --- What papers do with recurrent cells; each goes through a cell, a layer, or a whole model ---


def orthogonal_recurrent_(module: Any, gain: float = 1.0, rng: Rng = None) -> None:
    """Every gate's recurrent matrix orthogonal, times `gain` (Saxe et al. 2014).

    Raises:
        ArgumentError: where the module holds no cell that has one.
    """
    for cell in _cells("orthogonal_recurrent_", module, "a recurrent matrix", _is_stack_of_gates):
        orthogonal_(cell.weight_hh, gain, rng, blocks=len(cell.gates))


def forget_bias_(module: Any, value: float = 1.0) -> None:
    """The forget gates' bias of LSTM cells, so that memory is kept at first (Jozefowicz et al. 2015).

    The bias of the input takes the value, that of the past becomes 0.

    Raises:
        ArgumentError: where the module holds no cell that has one.
    """
    for cell in _cells("forget_bias_", module, "a bias of a forget gate", lambda c: c.keeps.get("forget_gate") == 1):
        _set_bias(cell, "forget_gate", value)


def chrono_(module: Any, longest: int, rng: Rng = None) -> None:
    """Biases for memories of 1 to `longest` steps, spread over the units (Tallec and Ollivier 2018, eq. 16).

    b = log(u), u uniform in [1, longest - 1): the bias of a gate that keeps when open (an LSTM's forget gate, a GRU's
    update gate); -b, of the same u, that of a gate that overwrites when open (an LSTM's input gate).

    Raises:
        ArgumentError: for `longest` under 2, and where the module holds no cell with such a gate and bias.
    """
    if not longest >= 2:
        raise ArgumentError("chrono_: the longest memory is 2 steps or more", got=longest)
    for cell in _cells("chrono_", module, "a bias of a gate that keeps or overwrites", lambda c: bool(c.keeps)):
        kept = np.log(generator(rng).uniform(1.0, max(longest - 1.0, 1.0), cell.hidden_size))
        for gate, sign in cell.keeps.items():
            _set_bias(cell, gate, sign * kept)


def identity_(module: Any, scale: float = 1.0) -> None:
    """Recurrent matrices of cells without gates the identity times `scale`, biases 0 (IRNN, Le et al. 2015).

    With the nonlinearity "relu" the state is then carried on unchanged where nothing comes in.

    Raises:
        ArgumentError: where the module holds no such cell.
    """
    for cell in _cells("identity_", module, "one recurrent matrix, and no gates", lambda c: len(c.gates) == 1):
        _filled(cell.weight_hh, scale * (np.eye(cell.hidden_size) if cell.weight_hh.ndim == 2 else 1.0))
        for bias in ("bias_ih", "bias_hh"):
            if getattr(cell, bias, None) is not None:
                zeros_(getattr(cell, bias))


def _cells(name: str, module: Any, what: str, fits: Callable[[Any], bool]) -> list[Any]:
    """The cells in a module that fit."""
    if not hasattr(module, "modules"):
        raise ArgumentError(f"{name}: this is no module", expected="a cell, a layer or a model", got=repr(module)[:60])
    every = [part for part in module.modules() if hasattr(part, "gates") and hasattr(part, "weight_hh")]
    found = [
        cell for cell in every if fits(cell) and (getattr(cell, "bias_ih", None) is not None or "bias" not in what)
    ]
    if not found:
        raise ArgumentError(f"{name}: no cell in it has {what}", got=repr(module).split("\n")[0])
    return found


def _is_stack_of_gates(cell: Any) -> bool:
    shape = cell.weight_hh.shape
    return len(shape) == 2 and shape[0] == len(cell.gates) * cell.hidden_size


def _set_bias(cell: Any, gate: str, value: Any) -> None:
    first = cell.gates.index(gate) * cell.hidden_size
    rows = slice(first, first + cell.hidden_size)
    Tensor(cell.bias_ih._array)[rows] = value
    if getattr(cell, "bias_hh", None) is not None:
        Tensor(cell.bias_hh._array)[rows] = 0.0
