"""Derivatives of functions: products with the Jacobian from either side, Jacobians, Hessians.

Each takes a function of tensors and the point where it is differentiated. The point is replaced by variables of its
own, so that nothing is added to anybody's `grad`. Where the point, or a tensor that the function closes over, requires
a gradient itself, the results can be differentiated with respect to it: so these functions may be nested in each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DtypeError, ShapeError
from ..ops.shape import reshape, stack
from .backward import grad
from .tape import enable_grad, thread
from .tensor import Tensor, as_tensor

Function = Callable[..., Any]


def vjp(f: Function, *xs: Any) -> tuple[Any, Callable[..., tuple[Tensor, ...]]]:
    """The value of f, and the product of a vector with its Jacobian: g -> J^T g.

    Args:
        f: a function of tensors that returns a tensor or a tuple of them.
        xs: the point, floating tensors.

    Returns:
        (y, pullback). `pullback(g)` takes a gradient for each output, of its shape, and returns one for each x. It
        may be called more than once.

    Raises:
        ArgumentError: for a function without arguments; by `pullback`, for the wrong number of gradients.
        DtypeError: for a point of integers. ShapeError: by `pullback`, for a gradient that does not fit.

    >>> import tinygrad_rnn as tg
    >>> y, pullback = tg.vjp(lambda x: x * x, tg.tensor([1.0, 3.0]))
    >>> pullback(tg.tensor([1.0, 10.0]))
    (tensor([ 2., 60.]),)
    """
    variables = _variables("vjp", xs)
    with enable_grad():
        made = f(*variables)
    outputs = outputs_of("vjp", made)

    def pullback(*g: Any) -> tuple[Tensor, ...]:
        starts = g[0] if len(g) == 1 and isinstance(g[0], (list, tuple)) else g
        if len(starts) != len(outputs):
            raise ArgumentError("pullback: one gradient for each output", expected=len(outputs), got=len(starts))
        given = [as_tensor(one) for one in starts]
        return _pulled(outputs, variables, given, lasting or _wanted(given))

    lasting = _lasting(outputs, variables, xs)
    return _released(made, lasting), pullback


def jvp(f: Function, xs: Any, vs: Any) -> tuple[Any, Any]:
    """The value of f, and the product of its Jacobian with a vector: J v, the derivative along v.

    J^T u is linear in u, so J v is its derivative with respect to u (Townsend 2017): backward twice, no rules of its
    own.

    Args:
        f: a function of tensors that returns a tensor or a tuple of them.
        xs: the point: a floating tensor, or a sequence with one for each argument.
        vs: the direction, of the shape of `xs`.

    Returns:
        (y, tangent), the tangent of the shape of y.

    Raises:
        ShapeError: where `vs` does not fit `xs`. DtypeError: for a point of integers.

    >>> import tinygrad_rnn as tg
    >>> tg.jvp(lambda x: x * x, tg.tensor([1.0, 3.0]), tg.tensor([1.0, 10.0]))
    (tensor([1., 9.]), tensor([ 2., 60.]))
    """
    points = _sequence(xs)
    directions = _directions("jvp", points, vs)
    variables = _variables("jvp", points)
    with enable_grad():
        made = f(*variables)
        outputs = outputs_of("jvp", made)
        reached = [y for y in outputs if y._requires_grad]
        weights = [_variable(np.zeros(y.shape, y.dtype)) for y in reached]
        gradients = _pulled(reached, variables, weights, True)  # J^T u, linear in u
    lasting = _lasting(outputs, variables, [*points, *directions])
    products = iter(_pulled(gradients, weights, directions, lasting) if reached else ())
    tangents = [next(products) if y._requires_grad else Tensor(np.zeros(y.shape, y.dtype)) for y in outputs]
    return _released(made, lasting), tuple(tangents) if isinstance(made, (list, tuple)) else tangents[0]


def jacobian(f: Function, x: Any) -> Any:
    """All first derivatives of f at x: J[i, j] = d f(x)[i] / d x[j], a backward for each element of the output.

    Args:
        f: a function of one tensor, or of as many as `x` holds, that returns a tensor or a tuple of them.
        x: a floating tensor, or a sequence of them.

    Returns:
        A tensor of f's shape followed by x's. Where `x` is a sequence a tuple with one for each, and where f returns
        several a tuple of such.

    Raises:
        DtypeError: for a point of integers.

    >>> import tinygrad_rnn as tg
    >>> tg.jacobian(lambda x: x * x, tg.tensor([1.0, 3.0]))
    tensor([[2., 0.],
            [0., 6.]])
    """
    points = _sequence(x)
    variables = _variables("jacobian", points)
    with enable_grad():
        made = f(*variables)
    outputs = outputs_of("jacobian", made)
    lasting = _lasting(outputs, variables, points)
    rows = [_jacobian(y, variables, lasting) for y in outputs]
    found = [row if isinstance(x, (list, tuple)) else row[0] for row in rows]
    return tuple(found) if isinstance(made, (list, tuple)) else found[0]


def hessian(f: Function, x: Any) -> Any:
    """All second derivatives of a scalar f at x: H[i, j] = d^2 f(x) / (d x[i] d x[j]).

    Args:
        f: a function of one tensor, or of as many as `x` holds, that returns one number.
        x: a floating tensor, or a sequence of them.

    Returns:
        A tensor of x's shape followed by x's; where `x` is a sequence a tuple of tuples of such, H[a][b] belonging to
        x[a] and x[b].

    Raises:
        ShapeError: where f returns more than one number. DtypeError: for a point of integers.

    >>> import tinygrad_rnn as tg
    >>> tg.hessian(lambda x: (x * x * x).sum(), tg.tensor([1.0, 3.0]))
    tensor([[ 6.,  0.],
            [ 0., 18.]])
    """
    points = _sequence(x)
    variables = _variables("hessian", points)
    gradients = _gradients("hessian", f, variables)
    lasting = _lasting(gradients, variables, points)
    rows = tuple(_jacobian(g, variables, lasting) for g in gradients)
    return rows if isinstance(x, (list, tuple)) else rows[0][0]


def hvp(f: Function, x: Any, v: Any) -> Any:
    """The product of a scalar f's Hessian at x with a vector: H v, for the price of two backwards (Pearlmutter 1994).

    Args:
        f: a function of one tensor, or of as many as `x` holds, that returns one number.
        x: a floating tensor, or a sequence of them.
        v: the direction, of the shape of `x`.

    Returns:
        H v, of the shape of `x`.

    Raises:
        ShapeError: where f returns more than one number, or v does not fit x. DtypeError: for a point of integers.

    >>> import tinygrad_rnn as tg
    >>> tg.hvp(lambda x: (x * x * x).sum(), tg.tensor([1.0, 3.0]), tg.tensor([1.0, 1.0]))
    tensor([ 6., 18.])
    """
    points = _sequence(x)
    directions = _directions("hvp", points, v)
    variables = _variables("hvp", points)
    gradients = _gradients("hvp", f, variables)
    found = _pulled(gradients, variables, directions, _lasting(gradients, variables, [*points, *directions]))
    return found if isinstance(x, (list, tuple)) else found[0]


# --- What they share ---


def _sequence(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (list, tuple)) else [x]


def _directions(name: str, points: Sequence[Any], vs: Any) -> list[Tensor]:
    directions = [as_tensor(v) for v in _sequence(vs)]
    expected, got = [as_tensor(x).shape for x in points], [v.shape for v in directions]
    if expected != got:
        raise ShapeError(f"{name}: the direction does not fit the point", expected=expected, got=got)
    return directions


def _variable(array: np.ndarray[Any, Any]) -> Tensor:
    made = Tensor(array)
    made.requires_grad = True
    return made


def _variables(name: str, xs: Sequence[Any]) -> list[Tensor]:
    """A variable in the place of each x: a leaf, or where x requires a gradient itself an alias that leads to it."""
    if not len(xs):
        raise ArgumentError(f"{name}: no point to differentiate at", expected="at least one tensor")
    made = []
    for i, x in enumerate(xs):
        x = as_tensor(x)
        if x.dtype.kind != "f":
            raise DtypeError(f"{name}: argument {i} has no derivative", expected="float32 or float64", got=x.dtype)
        with enable_grad():
            made.append(reshape(x, x.shape) if x._requires_grad else _variable(x._array))
    return made


def outputs_of(name: str, made: Any) -> list[Tensor]:
    """What a function returned, one tensor or several, as a list."""
    outputs = list(made) if isinstance(made, (list, tuple)) else [made]
    for y in outputs:
        if not isinstance(y, Tensor):
            raise DtypeError(f"{name}: the function returns no tensor", expected="a tensor or a tuple", got=repr(y))
    return outputs


def _wanted(xs: Sequence[Any]) -> bool:
    return thread.state.enabled and any(isinstance(x, Tensor) and x._requires_grad for x in xs)


def _lasting(outputs: Sequence[Tensor], variables: Sequence[Tensor], xs: Sequence[Any]) -> bool:
    """Whether results shall be differentiable in turn: where they depend on anything but variables that wants it."""
    if not thread.state.enabled or _wanted(xs):
        return thread.state.enabled
    ours = {x.node for x in variables}
    stack = [y.node for y in outputs if y._requires_grad and y.node is not None]
    seen = {*stack}
    while stack:
        node = stack.pop()
        if node.op is None and node not in ours:
            return True
        found = [p for p, wants in zip(node.parents, node.wanted) if wants and p is not None and p not in seen]
        seen.update(found)
        stack.extend(found)
    return False


def _released(made: Any, lasting: bool) -> Any:
    """The value, without the variables' history unless that is still wanted."""
    if lasting:
        return made
    return tuple(y.detach() for y in made) if isinstance(made, (list, tuple)) else made.detach()


def _pulled(
    outputs: Sequence[Tensor], variables: Sequence[Tensor], starts: Sequence[Tensor], create_graph: bool
) -> tuple[Tensor, ...]:
    """J^T g for each variable: zeros where nothing leads to it."""
    for y, start in zip(outputs, starts):
        if y.shape != start.shape:
            raise ShapeError("pullback: the gradient does not fit the output", expected=y.shape, got=start.shape)
    reached = [(y, start) for y, start in zip(outputs, starts) if y._requires_grad]
    found: Sequence[Any] = [None] * len(variables)
    if reached:
        found = grad(
            [y for y, _ in reached], list(variables), [start for _, start in reached],
            create_graph=create_graph, allow_unused=True, retain_graph=True,
        )  # fmt: skip
    return tuple(Tensor(np.zeros(x.shape, x.dtype)) if g is None else g for g, x in zip(found, variables))


def _jacobian(y: Tensor, variables: Sequence[Tensor], create_graph: bool) -> tuple[Tensor, ...]:
    """For each variable the gradients of all elements of y, one above another."""
    rows = []
    for place in np.ndindex(y.shape):
        start = np.zeros(y.shape, y.dtype)
        start[place] = 1.0
        rows.append(_pulled([y], variables, [Tensor(start)], create_graph))
    found = []
    for i, x in enumerate(variables):
        whole = stack([row[i] for row in rows]) if rows else Tensor(np.zeros((0, *x.shape), x.dtype))
        found.append(reshape(whole, (*y.shape, *x.shape)))
    return tuple(found)


def _gradients(name: str, f: Function, variables: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of a scalar f, differentiable."""
    with enable_grad():
        made = f(*variables)
        if not isinstance(made, Tensor) or made.size != 1:
            raise ShapeError(f"{name}: the function returns more than one number", got=getattr(made, "shape", made))
        if not made._requires_grad:
            return tuple(Tensor(np.zeros(x.shape, x.dtype)) for x in variables)
        found = grad(made, variables, create_graph=True, allow_unused=True)
    return tuple(Tensor(np.zeros(x.shape, x.dtype)) if g is None else g for g, x in zip(found, variables))
