"""Derivatives checked against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, GradcheckError
from .backward import grad
from .tensor import Tensor, as_tensor, tensor


def gradcheck(f: Callable[..., Any], inputs: Any, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3) -> bool:
    """Compare every element of f's Jacobian with the central difference (f(x + eps) - f(x - eps)) / (2 eps).

    Args:
        f: a function of tensors that returns a tensor or a sequence of them.
        inputs: a tensor or a sequence of them; float64 ones that require a gradient are checked.
        eps: step, in the units of the input.
        atol, rtol: analytic and numerical derivative may differ by atol + rtol * |numerical|.

    Returns:
        True.

    Raises:
        GradcheckError: naming input, element, both numbers and the op to suspect.
        ArgumentError: where nothing is to check, or an input to check is not float64.
    """
    given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    tensors = [as_tensor(one) for one in given]
    checked = [i for i, t in enumerate(tensors) if t.requires_grad]
    if not checked:
        raise ArgumentError("gradcheck: no input requires a gradient", hint="tg.tensor(..., requires_grad=True)")
    for i in checked:
        if tensors[i].dtype != np.float64:
            raise ArgumentError(f"gradcheck: input {i} is too coarse", expected="float64", got=tensors[i].dtype)
    leaves = [tensor(t, requires_grad=t.requires_grad) for t in tensors]
    outputs = _outputs(f, leaves)
    for i in checked:
        numerical = _numerical(f, tensors, i, eps)
        for k, output in enumerate(outputs):
            _compare(output, leaves[i], numerical[k], i, k, atol, rtol)
    return True


def gradgradcheck(
    f: Callable[..., Any], inputs: Any, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3
) -> bool:
    """Check the second derivatives of f: `gradcheck` of its gradient, weighted by fixed random numbers.

    Arguments and errors are those of `gradcheck`.
    """
    given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    tensors = [as_tensor(one) for one in given]
    rng = np.random.default_rng(0)
    weights = [
        tensor(rng.standard_normal(y.shape), requires_grad=True) for y in _outputs(f, tensors) if y.requires_grad
    ]

    def gradient(*arguments: Tensor) -> Any:
        xs, ws = arguments[: len(tensors)], arguments[len(tensors) :]
        wanted = [x for x in xs if x.requires_grad]
        outputs = [y for y in _outputs(f, xs) if y.requires_grad]
        found = grad(outputs, wanted, list(ws), create_graph=True, allow_unused=True)
        return [g for g in found if g is not None and g.requires_grad]

    return gradcheck(gradient, [*tensors, *weights], eps, atol, rtol)


def _outputs(f: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    made = f(*inputs)
    return list(made) if isinstance(made, (list, tuple)) else [made]


def _numerical(f: Callable[..., Any], inputs: Sequence[Tensor], i: int, eps: float) -> list[np.ndarray[Any, Any]]:
    """Jacobians of all outputs in input i: (elements of the input, *shape of the output)."""
    base = np.array(inputs[i])
    columns: list[list[Any]] = []
    for place in np.ndindex(base.shape):
        sides = []
        for step in (eps, -eps):
            moved = base.copy()
            moved[place] += step
            arguments = [tensor(moved if j == i else t, requires_grad=t.requires_grad) for j, t in enumerate(inputs)]
            sides.append([np.array(y, np.float64) for y in _outputs(f, arguments)])
        columns.append([(up - down) / (2 * eps) for up, down in zip(*sides)])
    if not columns:
        return [np.zeros((0, *y.shape)) for y in _outputs(f, inputs)]
    return [np.stack(parts) for parts in zip(*columns)]


def _compare(
    output: Tensor, leaf: Tensor, numerical: np.ndarray[Any, Any], i: int, k: int, atol: float, rtol: float
) -> None:
    analytic = np.zeros_like(numerical)
    if output.requires_grad:
        for place in np.ndindex(output.shape):
            start = np.zeros(output.shape, output.dtype)
            start[place] = 1.0
            g = grad(output, leaf, start, retain_graph=True, allow_unused=True)
            if g is not None:
                analytic[(slice(None), *place)] = np.array(g).ravel()
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(analytic - numerical) <= atol + rtol * np.abs(numerical))
    if wrong.any():
        at = tuple(int(n) for n in np.argwhere(wrong)[0])
        element = tuple(int(n) for n in np.unravel_index(at[0], leaf.shape))
        suspect = output.node.name if output.node is not None else "an op without a derivative"
        raise GradcheckError(
            f"gradcheck: the derivative of output {k}{list(at[1:])} in input {i}{list(element)} is wrong",
            expected=f"{numerical[at]:.6g} by finite differences",
            got=f"{analytic[at]:.6g} by backward; {int(wrong.sum())} of {wrong.size} elements differ",
            hint=f"suspect the vjp of {suspect}, or of what it was made from",
        )
