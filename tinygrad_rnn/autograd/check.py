"""Derivatives checked against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, GradcheckError
from ..ops.op import Elementwise
from .anomaly import calling_line
from .backward import grad
from .tape import Node, Watcher, no_grad
from .tensor import Tensor, as_tensor, tensor
from .transforms import jvp, outputs_of

Function = Callable[..., Any]


def _nobody(check: Callable[[], Any], run: Callable[[], Any]) -> str:
    return ""


#: Where a check fails: how the compiler is at fault for what `run` runs, in words, "" where it is not. The compiler,
#: which is on a floor above, puts its own here.
compiler_at_fault: Callable[[Callable[[], Any], Callable[[], Any]], str] = _nobody


def gradcheck(f: Function, inputs: Any, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3) -> bool:
    """Compare f's derivatives with the central difference (f(x + eps) - f(x - eps)) / (2 eps).

    Checked are: that f gives the same numbers again, and its backward too; every element of the Jacobian, by backward;
    the Jacobian's product with a random direction, by `jvp`; and that outputs which get no gradient count as zeros.

    Args:
        f: a function of tensors that returns a tensor or a sequence of them.
        inputs: a tensor or a sequence of them; float64 ones that require a gradient are checked.
        eps: step, in the units of the input.
        atol, rtol: analytic and numerical derivative may differ by atol + rtol * |numerical|.

    Returns:
        True.

    Raises:
        GradcheckError: naming input, element, both numbers and the op to suspect; or the stage of the compiler that
            is at fault, where step by step all is right.
        ArgumentError: where nothing is to check, or an input to check is not float64.
    """
    tensors = _checkable(inputs)
    try:
        _check(f, tensors, eps, atol, rtol)
    except GradcheckError as trouble:
        words = compiler_at_fault(lambda: _check(f, tensors, eps, atol, rtol), lambda: f(*_leaves(tensors)))
        if not words:
            raise
        raise GradcheckError(str(trouble).partition("\n  hint: ")[0], hint=words) from None
    return True


def _check(f: Function, tensors: Sequence[Tensor], eps: float, atol: float, rtol: float) -> None:
    checked = [i for i, t in enumerate(tensors) if t.requires_grad]
    leaves = _leaves(tensors)
    outputs = _outputs(f, leaves)
    _same_again(f, tensors, outputs)
    numerical = {i: _numerical(f, tensors, i, eps) for i in checked}
    for k, output in enumerate(outputs):
        for i, analytic in zip(checked, _backwards(output, [leaves[i] for i in checked], k)):
            _compare(f, tensors, analytic, numerical[i][k], (i, k), atol, rtol)
    _check_forward(f, tensors, numerical, atol, rtol)
    _check_undefined(outputs, [leaves[i] for i in checked])


def gradgradcheck(f: Function, inputs: Any, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3) -> bool:
    """Check the second derivatives of f: `gradcheck` of its gradient, weighted by fixed random numbers.

    Arguments and errors are those of `gradcheck`.
    """
    tensors = _checkable(inputs)
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


def _checkable(inputs: Any) -> list[Tensor]:
    tensors = [as_tensor(one) for one in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    if not any(t.requires_grad for t in tensors):
        raise ArgumentError("gradcheck: no input requires a gradient", hint="tg.tensor(..., requires_grad=True)")
    for i, t in enumerate(tensors):
        if t.requires_grad and t.dtype != np.float64:
            raise ArgumentError(f"gradcheck: input {i} is too coarse", expected="float64", got=t.dtype)
    return tensors


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor(t, requires_grad=t.requires_grad) for t in tensors]


def _outputs(f: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
    outputs = outputs_of("gradcheck", f(*inputs))
    for k, y in enumerate(outputs):
        if y.dtype == np.float32:
            raise ArgumentError(f"gradcheck: output {k} is too coarse", expected="float64", got=y.dtype)
    return outputs


def _same_again(f: Function, tensors: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    for k, (y, again) in enumerate(zip(outputs, _outputs(f, _leaves(tensors)))):
        if not np.array_equal(y, again, equal_nan=y.dtype.kind == "f"):
            raise GradcheckError(
                f"gradcheck: output {k} is another when the function is called again",
                expected="a function of its inputs alone",
                hint="dropout and other random numbers: the same rng=numpy.random.default_rng(seed) at each call",
            )


def _numerical(f: Function, inputs: Sequence[Tensor], i: int, eps: float) -> list[np.ndarray[Any, Any]]:
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


def _backwards(output: Tensor, leaves: list[Tensor], k: int) -> list[np.ndarray[Any, Any]]:
    """The Jacobians of an output in the leaves, a backward for each element: (elements of leaf, *output's shape)."""
    found = [np.zeros((leaf.size, *output.shape)) for leaf in leaves]
    for place in np.ndindex(output.shape) if output.requires_grad else ():
        start = np.zeros(output.shape, output.dtype)
        start[place] = 1.0
        first, second = (grad(output, leaves, start, retain_graph=True, allow_unused=True) for _ in range(2))
        for jacobian, one, two in zip(found, first, second):
            if one is None:
                continue
            if not np.array_equal(one, two, equal_nan=True):
                raise GradcheckError(
                    f"gradcheck: the gradient of output {k}{list(place)} is another when backward runs again",
                    expected="vjps that are functions of what they name",
                )
            jacobian[(slice(None), *place)] = np.array(one).ravel()
    return found


def _compare(
    f: Function,
    tensors: Sequence[Tensor],
    analytic: np.ndarray[Any, Any],
    numerical: np.ndarray[Any, Any],
    which: tuple[int, int],
    atol: float,
    rtol: float,
) -> None:
    i, k = which
    wrong = _differs(analytic, numerical, atol, rtol)
    if wrong.any():
        at = tuple(int(n) for n in np.argwhere(wrong)[0])
        element = tuple(int(n) for n in np.unravel_index(at[0], tensors[i].shape))
        raise GradcheckError(
            f"gradcheck: the derivative of output {k}{list(at[1:])} in input {i}{list(element)} is wrong",
            expected=f"{numerical[at]:.6g} by finite differences",
            got=f"{analytic[at]:.6g} by backward; {int(wrong.sum())} of {wrong.size} elements differ",
            hint=_suspect(f, tensors, atol, rtol),
        )


def _differs(analytic: Any, numerical: Any, atol: float, rtol: float) -> Any:
    with np.errstate(invalid="ignore"):
        return ~(np.abs(analytic - numerical) <= atol + rtol * np.abs(numerical))


def _check_forward(
    f: Function, tensors: Sequence[Tensor], numerical: dict[int, list[Any]], atol: float, rtol: float
) -> None:
    """The product of the Jacobian with a random direction, from the front: by `jvp`."""
    rng = np.random.default_rng(1)
    directions = {i: rng.standard_normal(tensors[i].shape) for i in numerical}

    def moving(*xs: Tensor) -> Any:
        given = iter(xs)
        return f(*[next(given) if i in directions else t.detach() for i, t in enumerate(tensors)])

    points, moves = [tensors[i].detach() for i in directions], [tensor(v) for v in directions.values()]
    with no_grad():
        _, made = jvp(moving, points, moves)
    for k, tangent in enumerate(made if isinstance(made, (list, tuple)) else [made]):
        expected, scale = np.zeros(tangent.shape), np.zeros(tangent.shape)
        for i, v in directions.items():
            expected += np.tensordot(v.ravel(), numerical[i][k], 1)
            scale += np.tensordot(np.abs(v).ravel(), atol + rtol * np.abs(numerical[i][k]), 1)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(tangent - expected) <= scale)
        if wrong.any():
            at = tuple(int(n) for n in np.argwhere(wrong)[0])
            raise GradcheckError(
                f"gradcheck: the derivative of output {k}{list(at)} along a random direction of all inputs is wrong",
                expected=f"{expected[at]:.6g} by finite differences",
                got=f"{np.asarray(tangent)[at]:.6g} by jvp; {int(wrong.sum())} of {wrong.size} elements differ",
                hint=_suspect(f, tensors, atol, rtol) + "; backward was right: a vjp may not be linear in g",
            )


def _check_undefined(outputs: Sequence[Tensor], leaves: list[Tensor]) -> None:
    """Outputs without a gradient count as outputs with a gradient of zeros; zeros everywhere give zeros."""
    rng = np.random.default_rng(2)
    reached = [y for y in outputs if y.requires_grad]
    starts = [tensor(rng.standard_normal(y.shape)) for y in reached]
    nothing = [tensor(np.zeros(y.shape)) for y in reached]
    for k, y in enumerate(reached if len(reached) > 1 else []):
        others = [starts[j] if j == k else nothing[j] for j in range(len(reached))]
        alone = grad(y, leaves, starts[k], retain_graph=True, allow_unused=True)
        among = grad(reached, leaves, others, retain_graph=True, allow_unused=True)
        for i, (a, b) in enumerate(zip(alone, among)):
            if not np.allclose(0.0 if a is None else a, 0.0 if b is None else b, rtol=1e-12, atol=1e-300):
                raise GradcheckError(
                    f"gradcheck: input {i} gets another gradient where output {k} alone has one",
                    expected="the same as with zeros for the other outputs",
                )
    if reached:
        for i, g in enumerate(grad(reached, leaves, nothing, retain_graph=True, allow_unused=True)):
            if g is not None and np.any(np.asarray(g) != 0.0):
                raise GradcheckError(
                    f"gradcheck: input {i} gets a gradient where no output has one",
                    expected="zeros, as vjps are linear in g",
                    got=f"up to {np.max(np.abs(np.asarray(g))):.6g}",
                )


# --- Which op is it? ---


class _Calls(Watcher):
    """Every call with its operands, so that it can be made again by itself."""

    def __init__(self) -> None:
        self.calls: list[tuple[Node, list[Any], str]] = []

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        arrays = [None if x is None else x._array.copy() for x in inputs]
        self.calls.append((node, arrays, calling_line()))


def _suspect(f: Function, tensors: Sequence[Tensor], atol: float, rtol: float) -> str:
    """The first op that is wrong by itself, in words."""
    calls = _Calls()
    with calls:
        f(*_leaves(tensors))
    for node, arrays, line in calls.calls:
        if node.op is not None and node.op.vjps and True in node.wanted and _wrong_alone(node, arrays, atol, rtol):
            inputs = ", ".join(str(a.shape) for a in arrays if a is not None)
            return f"suspect the vjp of {node.title}, given {inputs} at {line}"
    return (
        "every op is right by itself: suspect a value that left the tape (.numpy(), .item(), .detach()), or a point "
        "where the derivative jumps"
    )


def _wrong_alone(node: Node, arrays: list[Any], atol: float, rtol: float) -> bool:
    """Whether an op's derivative along a random direction, in a random mixture of its outputs, is wrong."""
    op, rng, eps = node.op, np.random.default_rng(3), 1e-6
    assert op is not None
    settings = {name: value for name, value in (node.settings or {}).items() if name in op.settings}

    def run(operands: list[Any]) -> Any:
        if isinstance(op, Elementwise):
            return op.call(*operands)
        return op.call(operands, settings)

    moves = [rng.standard_normal(a.shape) if wants else None for a, wants in zip(arrays, node.wanted)]
    leaves = [None if a is None else tensor(a, requires_grad=wants) for a, wants in zip(arrays, node.wanted)]
    with np.errstate(all="ignore"):
        y = run(leaves)
        weights = rng.standard_normal(y.shape)
        sides = []
        for step in (eps, -eps):
            moved = [a if v is None else tensor(a + step * v) for a, v in zip(arrays, moves)]
            sides.append(np.sum(weights * np.asarray(run(moved))))
        numerical = (sides[0] - sides[1]) / (2 * eps)
        wanted = [x for x, wants in zip(leaves, node.wanted) if wants]
        found = grad(y, wanted, weights, allow_unused=True)
        analytic = sum(
            float(np.sum(np.asarray(g) * v))
            for g, v in zip(found, [v for v in moves if v is not None])
            if g is not None
        )
    return bool(_differs(analytic, numerical, atol, rtol))
