"""Running an op on tensors: dtypes made one, the rule run, the node put on the tape.

Three ways, from the quickest: one tensor, two tensors, anything. The first two are what a recurrent step consists of,
and their overhead is what a user feels; whatever is not plain (numbers, lists, mixed dtypes, symbols) takes the third.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import settings as library
from ..errors import ArgumentError, DtypeError, GraphError, OutOfMemoryError, ShapeError
from ..ir.expression import Expression
from ..ops import declare
from ..ops.op import Elementwise, Op
from ..settings import FLOAT32, FLOAT64
from .memory import out_of_memory
from .pull import read_only
from .tape import Node, Watcher, thread
from .tensor import Tensor, as_tensor, tensor

_ndarray = np.ndarray


def bind(op: Op) -> None:
    """Give `op` its `call`."""
    if not isinstance(op, Elementwise):
        op.call = functools.partial(whole, op)
        return
    op.call = functools.partial(elementwise_many, op)
    if len(op.inputs) == 1:
        op.call = elementwise_one(op, op.call)
    elif len(op.inputs) == 2 and not op.truth:
        op.call = elementwise_two(op, op.call)


def elementwise_one(op: Elementwise, otherwise: Callable[..., Any]) -> Callable[[Any], Any]:
    """The call of an elementwise op of one input."""
    unit = op.unit
    plans: dict[tuple[bool, ...], Callable[[Any], Any]] = {}

    def call(x: Any) -> Any:
        try:
            a = x._array
        except AttributeError:
            return otherwise(x)
        dtype = a.dtype
        if dtype is not FLOAT32 and dtype is not FLOAT64:
            return otherwise(x)
        try:
            y = unit.call(a)
        except MemoryError as trouble:
            raise no_memory(op, (x,), trouble) from None
        if type(y) is not _ndarray:
            y = np.asarray(y)
        state = thread.state
        if x._requires_grad and state.enabled and op.vjps:
            plan = plans.get(_ONE) or plans.setdefault(_ONE, _keeper(op, _ONE))
            node = Node(op, (x.node,), _ONE, plan((a, y)), None, y, state.place)
            if state.watchers:
                for watcher in state.watchers:
                    watcher.see(node, (x,), y)
            return Tensor(y, node, True)
        return constant(op, (x,), None, y) if state.watchers else Tensor(y)

    return call


def elementwise_two(op: Elementwise, otherwise: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """The call of an elementwise op of two inputs."""
    unit = op.unit
    plans: dict[tuple[bool, ...], Callable[[Any], Any]] = {}

    def call(x: Any, z: Any) -> Any:
        try:
            a, b = x._array, z._array
        except AttributeError:
            return otherwise(x, z)
        dtype = a.dtype
        if dtype is not b.dtype or (dtype is not FLOAT32 and dtype is not FLOAT64):
            return otherwise(x, z)
        try:
            y = unit.call(a, b)
        except ValueError:
            raise does_not_broadcast(op, (a, b)) from None
        except MemoryError as trouble:
            raise no_memory(op, (x, z), trouble) from None
        if type(y) is not _ndarray:
            y = np.asarray(y)
        state = thread.state
        wanted = (x._requires_grad, z._requires_grad)
        if (wanted[0] or wanted[1]) and state.enabled and op.vjps:
            if state.watchers:
                give_leaves(state.watchers, (x, z))
            plan = plans.get(wanted) or plans.setdefault(wanted, _keeper(op, wanted))
            node = Node(op, (x.node, z.node), wanted, plan((a, b, y)), None, y, state.place)
            if state.watchers:
                for watcher in state.watchers:
                    watcher.see(node, (x, z), y)
            return Tensor(y, node, True)
        return constant(op, (x, z), None, y) if state.watchers else Tensor(y)

    return call


_ONE = (True,)


def _keeper(op: Op, wanted: tuple[bool, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """A function from (inputs..., output) to what is kept of them."""
    places = [op.inputs.index(name) if name != "y" else len(op.inputs) for name in op.plan(wanted).kept]
    if not places:
        return lambda values: ()
    if len(places) == 1:
        (first,) = places
        return lambda values: (values[first],)
    picked: Callable[[Any], tuple[Any, ...]] = operator.itemgetter(*places)
    return picked


def elementwise_many(op: Elementwise, *operands: Any) -> Any:
    """The call of an elementwise op on anything."""
    if any(isinstance(operand, Expression) for operand in operands):
        for operand in operands:
            Expression.of(operand)  # refuses a tensor, which would be a constant in the rule
        return op.rule(*operands)
    tensors = one_dtype(op, operands)
    arrays = [t._array for t in tensors]
    try:
        y = op.forward(arrays, {})
    except ValueError:
        raise does_not_broadcast(op, arrays) from None
    except MemoryError as trouble:
        raise no_memory(op, tensors, trouble) from None
    numbers = {name: x for name, x in zip(op.inputs, operands) if isinstance(x, (bool, int, float))}
    return recorded(op, tensors, numbers, np.asarray(y))


def whole(op: Op, operands: Sequence[Any], settings: dict[str, Any]) -> Any:
    """The call of an op of any other kind."""
    if op.variadic and not isinstance(operands, (list, tuple)):
        operands = list(operands)  # a tensor is a sequence of tensors
    if not operands:
        raise ArgumentError(f"{op.name}: nothing was given", expected="at least one tensor")
    tensors = operands if all_tensors(op, operands) else one_dtype(op, operands)
    arrays = [t._array if t is not None else None for t in tensors]
    if op.own:
        for name, value in settings.items():
            if type(value) is list:  # the caller may change it, and backward reads it later
                settings[name] = tuple(value)
    else:
        arrays = [a if a is None else read_only(a) for a in arrays]
        settings = {name: frozen(op, value) for name, value in settings.items()}
    settings = op.prepare(arrays, settings)
    try:
        y = op.forward(arrays, settings)
    except MemoryError as trouble:
        raise no_memory(op, tensors, trouble) from None
    if type(y) is not _ndarray:
        if isinstance(y, Tensor) and y._requires_grad and thread.state.enabled:
            raise GraphError(
                f"{op.name}: the rule uses a tensor that requires a gradient and is no input",
                hint="make it an input, with a vjp of its own",
            )
        y = np.asarray(y)
    return recorded(op, tensors, settings, y)


def frozen(op: Op, value: Any) -> Any:
    """A setting that nobody else can change: lists as tuples, arrays and tensors as copies."""
    if isinstance(value, Tensor):
        if value._requires_grad and thread.state.enabled:
            raise GraphError(
                f"{op.name}: a setting requires a gradient", hint="make it an input of the op, or x.detach() it"
            )
        return Tensor(value._array.copy())
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {name: frozen(op, part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return tuple([frozen(op, part) for part in value])
    return value


def all_tensors(op: Op, operands: Sequence[Any]) -> bool:
    """Whether operands can be taken as they are: tensors (or None), of one floating dtype where the op wants one."""
    dtype = None
    for i, operand in enumerate(operands):
        if isinstance(operand, Tensor):
            if op.promotes:
                own = operand._array.dtype
                if (dtype is not None and own is not dtype) or (own is not FLOAT32 and own is not FLOAT64):
                    return False
                dtype = own
        elif operand is not None or i not in op.optional:
            return False
    return True


def recorded(op: Op, tensors: Sequence[Any], settings: dict[str, Any], y: np.ndarray[Any, Any]) -> Tensor:
    """The output as a tensor, with its node where one is needed."""
    state = thread.state
    if state.enabled and op.vjps and y.dtype.kind == "f":
        wanted = tuple([t is not None and t._requires_grad for t in tensors])
        if True in wanted:
            if state.watchers:
                give_leaves(state.watchers, tensors)
            sources = op.plan(wanted).sources
            saved = tuple([_kept(what, i, op, tensors, y) for what, i in sources]) if sources else ()
            parents = tuple([t.node if t is not None else None for t in tensors])
            node = Node(op, parents, wanted, saved, settings, y, state.place)
            for watcher in state.watchers:
                watcher.see(node, tensors, y)
            return Tensor(y, node, True)
    return constant(op, tensors, settings, y) if state.watchers else Tensor(y)


def _kept(what: str, i: int, op: Op, tensors: Sequence[Any], y: Any) -> Any:
    if i < 0:
        return y
    if op.variadic:
        return tuple([t._array if what == "value" else getattr(t._array, what) for t in tensors])
    if tensors[i] is None:  # an optional input that was not given
        return None
    return tensors[i]._array if what == "value" else getattr(tensors[i]._array, what)


def give_leaves(watchers: Sequence[Watcher], tensors: Sequence[Any]) -> None:
    """Give every input a node, where somebody watches who tells values by their nodes."""
    if any(watcher.names_constants for watcher in watchers):
        for t in tensors:
            if t is not None and t.node is None:
                t.node = Node.leaf(t._array)


def constant(op: Op, tensors: Sequence[Any], settings: dict[str, Any] | None, y: np.ndarray[Any, Any]) -> Tensor:
    """A result that no gradient flows through, where every operation is watched."""
    state = thread.state
    for t in tensors:
        if t is not None and t.node is None:
            t.node = Node.leaf(t._array)
    node = Node(
        op,
        tuple([t.node if t is not None else None for t in tensors]),
        (False,) * len(tensors),
        (),
        settings,
        y,
        state.place,
    )
    for watcher in state.watchers:
        watcher.see(node, tensors, y)
    return Tensor(y, node, False)


def one_dtype(op: Op, operands: Sequence[Any]) -> list[Any]:
    """Operands as tensors of one dtype.

    Python numbers, NumPy scalars and lists of them take the others' dtype; integers that meet a floating dtype take it;
    float32 and float64 meet in float64, but not in a product; an op that has no integer form takes integers as the
    default dtype.

    Raises:
        DtypeError: for an operand that is no number, and for a product of float32 and float64.
    """
    for i, operand in enumerate(operands):
        if operand is None and i not in op.optional:
            raise DtypeError(f"{op.name}: an operand is no number", expected="a tensor or a number", got="None")
    if not op.promotes:
        return [operand if operand is None else as_tensor(operand) for operand in operands]
    truth = op.truth if isinstance(op, Elementwise) else ()
    tensors: list[Any] = []
    strong: list[np.dtype[Any]] = []
    weak: list[np.dtype[Any]] = []
    for i, operand in enumerate(operands):
        if operand is None:
            operand = op.defaults[i]
        if i in truth:
            t = as_tensor(operand)
            tensors.append(t if t._array.dtype.kind == "b" else Tensor(t._array.astype(bool)))
        elif operand is None or isinstance(operand, Tensor):
            tensors.append(operand)
            if operand is not None:
                strong.append(operand._array.dtype)
        elif isinstance(operand, (bool, int, float, np.generic, list, tuple)) and not holds_arrays(operand):
            # In float64 at first, so that no digit is lost beside a float64.
            given = [operand.item()] if isinstance(operand, np.generic) else operand
            array = tensor(given, dtype=FLOAT64 if np.asarray(given).dtype.kind == "f" else None)._array
            tensors.append(array.reshape(np.shape(operand)))
            weak.append(array.dtype)
        else:
            t = as_tensor(operand)
            tensors.append(t)
            strong.append(t._array.dtype)
    if op.kind == "contraction" and FLOAT32 in strong and FLOAT64 in strong:
        raise DtypeError(
            f"{op.name}: float32 and float64 meet, and the product would silently be the slower float64",
            expected="operands of one dtype",
            got=" and ".join(str(dtype) for dtype in strong),
            hint='x.astype("float32"), or layer.astype("float64"); NumPy arrays are float64 unless told otherwise',
        )
    target = common_dtype(strong, weak, op.integers)
    for i, t in enumerate(tensors):
        if t is None or i in truth:
            continue
        if not isinstance(t, Tensor):
            tensors[i] = Tensor(np.asarray(t, target))
            if target.kind in "iu" and not np.array_equal(tensors[i]._array, t):
                raise DtypeError(
                    f"{op.name}: {t.tolist()} is no {target}", hint='x.astype("int64") holds larger numbers'
                )
        elif t._array.dtype is not target:
            tensors[i] = t.astype(target)
    return tensors


def holds_arrays(data: Any) -> bool:
    """Whether an array or a tensor, which brings a dtype of its own, is somewhere in nested lists."""
    if isinstance(data, (list, tuple)):
        return any(holds_arrays(part) for part in data)
    return isinstance(data, (np.ndarray, Tensor))


def common_dtype(strong: list[Any], weak: list[Any], integers: bool) -> np.dtype[Any]:
    """The dtype in which operands meet: those with a dtype of their own, and Python numbers, which follow them."""
    floating = [dtype for dtype in strong if dtype.kind == "f"]
    if floating:
        return FLOAT64 if FLOAT64 in floating else FLOAT32
    if not integers or any(dtype.kind == "f" for dtype in weak):
        return library.default_dtype
    every_bool = all(dtype.kind == "b" for dtype in strong)
    found: np.dtype[Any] = np.result_type(*strong, *weak) if every_bool else np.result_type(*strong)
    return found


def no_memory(op: Op, tensors: Sequence[Any], trouble: MemoryError) -> MemoryError:
    """The error where there is no room for a result."""
    if isinstance(trouble, OutOfMemoryError):
        return trouble
    return out_of_memory(op.name, trouble, [t.node for t in tensors if t is not None])


def does_not_broadcast(op: Op, arrays: Sequence[Any]) -> Exception:
    """The error for shapes that do not broadcast, or what NumPy said where they do."""
    shapes = [a.shape for a in arrays]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return ShapeError(
            f"{op.name}: the shapes do not broadcast",
            expected="sizes equal or 1, from the last axis on",
            got=" and ".join(map(str, shapes)),
        )
    return DtypeError(f"{op.name}: the operands do not fit", got=" and ".join(f"{a.shape} {a.dtype}" for a in arrays))


declare.bind(bind)
