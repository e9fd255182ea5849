"""One node's turn in backward: its vjps run on tensors, and what they return made fit for the inputs."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, ShapeError
from ..ops.op import Elementwise, Op, Piece
from ..ops.reduce import sum
from ..ops.shape import reshape
from .tape import Node, input_names
from .tensor import Tensor, as_tensor


def pull_whole(
    node: Node,
    saved: tuple[Any, ...],
    g: Any,
    create_graph: bool,
    anomaly: Any,
    reachable: Container[int] | None,
) -> Iterator[tuple[Node, Any]]:
    """Run a node's vjps on tensors: of ops on whole arrays, and of every op where backward itself is recorded.

    Yields for each parent that wants one (and is among `reachable`, where given) its gradient: a piece, a tensor under
    `create_graph`, or an array.
    """
    op, settings, parents = node.op, node.settings or {}, node.parents
    assert op is not None
    plan = op.plan(node.wanted)
    if not op.own:
        g = Tensor(read_only(g._array), g.node, g._requires_grad)
    values = [
        _revived(i, value, node, create_graph) if what == "value" else value
        for (what, i), value in zip(plan.sources, saved)
    ]
    if op.restored is not None:
        first = parents[0]
        shape = first.shape if first is not None else ()
        g = op.restored(g, settings, shape)
        if "y" in plan.kept:
            y = plan.kept.index("y")
            values[y] = op.restored(values[y], settings, shape)
    values.append(g)  # at -1
    for i, function, names in plan.pulls:
        source = parents[i]
        if reachable is not None and not op.variadic and source is not None and source.order not in reachable:
            continue
        made = function(*[settings[name] if type(name) is str else values[name] for name in names])
        for j, part in enumerate(_several(op, made, len(parents))) if op.variadic else ((i, made),):
            parent = parents[j]
            if parent is None or not node.wanted[j]:
                continue
            if isinstance(part, Piece):
                if anomaly is not None:
                    anomaly.see_gradient(node, j, as_tensor(type(part).made([part], parent.shape)), g)
                yield parent, part
                continue
            fit = _fitting(op, j, part, parent, create_graph)
            if anomaly is not None:
                anomaly.see_gradient(node, j, fit, g)
            yield parent, fit if create_graph else fit._array


def pull_joint(
    node: Node, saved: tuple[Any, ...], arrived: dict[int, Any], create_graph: bool, anomaly: Any
) -> Iterator[tuple[Node, Any]]:
    """Run a node of several outputs, as `pull_whole` does one of a single output: each gradient in memory of its own.

    Args:
        arrived: the gradients of those outputs that something arrived at, tensors under `create_graph`, or arrays.
    """
    op = node.op
    assert op is not None and op.joint is not None
    if not create_graph:
        arrived = {number: Tensor(g) for number, g in arrived.items()}
    for j, part in enumerate(op.joint(node, saved, arrived, create_graph)):
        parent = node.parents[j]
        if part is None or parent is None or not node.wanted[j]:
            continue
        if anomaly is not None:
            given = np.concatenate([np.zeros(0), *[g._array.ravel() for g in arrived.values()]])
            anomaly.see_gradient(node, j, part, given)
        yield parent, part if create_graph else part._array


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A view for a user's rule or vjp, which may not write to what others hold."""
    view = array.view()
    view.flags.writeable = False
    return view


def brought_back(node: Node, retain: bool) -> tuple[Any, ...]:
    """What a node saved, where it is not there: not kept by `checkpoint`, or freed.

    Raises:
        GraphError: where it was freed.
    """
    if node.saved is None:
        raise GraphError(
            f"backward: the graph was freed by an earlier backward (at {node.name})",
            hint="backward(retain_graph=True) the first time, or run the forward pass again",
        )
    found: tuple[Any, ...] = node.saved.bring(node, retain)
    return found


def _several(op: Op, made: Any, count: int) -> Sequence[Any]:
    if not isinstance(made, (list, tuple)) or len(made) != count:
        got = f"{len(made)}" if isinstance(made, (list, tuple)) else repr(made)
        raise GraphError(f"{op.name}: the vjp returns one gradient for each input", expected=count, got=got)
    return made


def _revived(i: int, value: Any, node: Node, create_graph: bool) -> Any:
    """A saved array as the tensor it was: with its node, where backward is to be differentiated."""
    if type(value) is tuple:  # of an op of many inputs
        if not create_graph and node.op is not None and node.op.own:
            return [None if part is None else Tensor(part) for part in value]
        return [_revived(j, part, node, create_graph) for j, part in enumerate(value)]
    if value is None:
        return None
    if node.op is not None and not node.op.own:
        value = read_only(value)
    if not create_graph:
        return Tensor(value)
    return Tensor(value, node, True) if i < 0 else Tensor(value, node.parents[i], node.wanted[i])


def _fitting(op: Op, i: int, part: Any, parent: Node, create_graph: bool) -> Tensor:
    """What a vjp returned, as a gradient of the shape and dtype of input i.

    Raises:
        GraphError: for nothing, and for an array where a differentiable gradient is wanted.
        ShapeError: for a shape that does not come from broadcasting the input.
    """
    if type(part) is Tensor and part._array.shape == parent.shape and part._array.dtype is parent.dtype:
        return part
    if part is None or (create_graph and not isinstance(part, (Tensor, int, float))):
        raise GraphError(
            f"{op.name}: the vjp for {input_names(op, i + 1)[i]} returned {'nothing' if part is None else 'an array'}",
            expected="a tensor" if part is None else "a tensor, because backward itself is to be differentiated",
            hint="make it of tensor arithmetic, and of ops that have vjps of their own",
        )
    made = as_tensor(part)
    if made.shape != parent.shape:
        try:
            made = summed_to(made, parent.shape, stretch=isinstance(op, Elementwise))
        except ShapeError:
            raise ShapeError(
                f"{op.name}: the vjp for {input_names(op, i + 1)[i]} returned a gradient of the wrong shape",
                expected=f"{parent.shape}, the input's, or one that it broadcasts to",
                got=made.shape,
            ) from None
    return made if made.dtype == parent.dtype else made.astype(parent.dtype)


def summed_to(g: Tensor, shape: tuple[int, ...], stretch: bool = True) -> Tensor:
    """The gradient of what was broadcast: summed over the axes that were added or stretched.

    With `stretch` a smaller gradient is repeated: one that is the same everywhere.

    Raises:
        ShapeError: where the shapes do not fit so.
    """
    extra = g.ndim - len(shape)
    axes = tuple(i for i in range(g.ndim) if i < extra or (shape[i - extra] == 1 and g.shape[i] != 1))
    kept = tuple(n for i, n in enumerate(g.shape) if i >= extra)
    if extra >= 0 and all(n in (1, m) for n, m in zip(shape, kept)):
        summed: Tensor = reshape(sum(g, axes) if axes else g, shape)
        return summed
    if not stretch:
        raise ShapeError("backward: a gradient does not fit", expected=shape, got=g.shape)
    stretched: Tensor = g.broadcast_to(shape)
    return stretched
