"""What a program means: evaluated on NumPy, the loop over time included. Everything else is measured against this.

Arrays come and go by key. Each is (T, B, *shape), one a step, but: what `lasts` is (B, *shape), ("vector", i) is
(*shape), and the carry is (B, *shape) before the first step and after the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .nodes import (
    Broadcast,
    Const,
    Contract,
    Join,
    Kth,
    Lookup,
    Map,
    Node,
    Product,
    Reduce,
    Reshape,
    ScatterAdd,
    Slice,
    Transpose,
    reachable,
)
from .program import Direction, Key

Arrays = Mapping[Key, Any]


def run(
    direction: Direction,
    arrays: Arrays,
    matrices: Sequence[Any],
    *,
    steps: int,
    rows: int | None = None,
    live: Sequence[int] | None = None,
    backwards: bool = False,
    lasts: frozenset[Key] = frozenset(),
) -> dict[Key, Any]:
    """Take all steps in one direction: what is wanted, by key.

    Args:
        arrays: what lies in memory. The batch is rows sorted by length, longest first.
        matrices: those captured.
        rows: how many there are; where it is not given, as many as of the carry.
        live: how many rows live at each step; all where it is not given. The others keep their carry, and count for
            nothing.
        backwards: whether the last step is taken first.
        lasts: keys of arrays that are the same at all steps.
    """
    targets = list(direction.targets())
    order = reachable(targets, direction.given)
    carry = {i: array.copy() for (name, i), array in arrays.items() if name == "carry"}
    rows = next((len(array) for array in carry.values()), 0) if rows is None else rows
    made: dict[Key, Any] = {("carry", i): array for i, array in carry.items()}
    for t in reversed(range(steps)) if backwards else range(steps):
        alive = rows if live is None else int(live[t])
        known: dict[int, Any] = {}
        for node in order:
            if node.number in direction.given:
                key = direction.given[node.number]
                array = arrays[key]
                if key[0] == "vector":
                    known[node.number] = np.broadcast_to(array.reshape(node.shape), (alive, *node.shape))
                else:
                    array = carry[key[1]] if key[0] == "carry" else array if key in lasts else array[t]
                    known[node.number] = array[:alive].reshape(alive, *node.shape)
            else:
                known[node.number] = value(node, [known[o.number] for o in node.operands], matrices, alive)
        for node, key, add in direction.wanted:
            array = _full(known[node.number], node, alive)
            if add:
                made[key] = made.get(key, 0) + array.sum(0)
            elif key[0] != "next":
                whole = made.setdefault(key, np.zeros((steps, rows, *node.shape), array.dtype))
                whole[t, :alive] = array
        for left, right, key in direction.gemms:
            other = _full(known[right.number], right, alive).reshape(alive, -1)
            one = None if left is None else _full(known[left.number], left, alive).reshape(alive, -1)
            made[key] = made.get(key, 0) + (other.sum(0) if one is None else one.T @ other)
        for node, (name, i), _ in direction.wanted:  # when all is read
            if name == "next":
                states = made.setdefault((name, i), np.zeros((steps, rows, *node.shape), known[node.number].dtype))
                carry[i][:alive] = _full(known[node.number], node, alive).reshape(alive, *carry[i].shape[1:])
                states[t] = carry[i].reshape(rows, *node.shape)
    return made


def value(node: Node, operands: Sequence[Any], matrices: Sequence[Any], rows: int) -> Any:
    """The array (rows, *shape) of a node, from those of its operands; a `Const` is one number, which goes with all."""
    match node:
        case Const():
            return np.asarray(node.value, node.dtype)
        case Map():
            with np.errstate(all="ignore"):
                shapes = [operand.shape for operand in node.operands]
                found = node.primitive.twin(*map(_aligned, operands, shapes, [len(node.shape)] * len(shapes)))
            return np.asarray(found, node.dtype)
        case Reduce():
            axes = tuple([axis + 1 for axis in node.axes])
            return getattr(np, node.reduction)(operands[0], axis=axes, keepdims=True)
        case Slice():
            spans = [slice(start, start + size) for start, size in zip(node.starts, node.shape)]
            return operands[0][(slice(None), *spans)]
        case Join():
            sizes = [(*node.shape[: node.axis], -1, *node.shape[node.axis + 1 :])] * len(operands)
            whole = [np.broadcast_to(o, (rows, *o.shape[1:])) if o.ndim else np.full((rows, 1), o) for o in operands]
            return np.concatenate([o.reshape(rows, *size) for o, size in zip(whole, sizes)], node.axis + 1)
        case Broadcast():
            return np.broadcast_to(_aligned(operands[0], node.operands[0].shape, len(node.shape)), (rows, *node.shape))
        case Reshape():
            return operands[0].reshape(rows, *node.shape)
        case Transpose():
            return operands[0].transpose(0, *[axis + 1 for axis in node.axes])
        case Product():
            return operands[0] @ matrix_of(node, matrices, operands[0].dtype)
        case Contract():
            left, rest = node.subscripts.split(",")
            right, made = rest.split("->")
            return np.einsum(f"...{left},...{right}->...{made}", *operands)
        case Lookup():
            return matrices[node.matrix][operands[0].astype(np.intp)].reshape(rows, *node.shape)
        case ScatterAdd():
            scattered = np.zeros((rows, *node.shape), operands[1].dtype)
            np.add.at(scattered, (np.arange(rows)[:, None], operands[0].astype(np.intp)), operands[1])
            return scattered
        case Kth():
            largest = np.sort(operands[0], -1)[..., ::-1]  # NaN comes first
            return largest[..., node.k - 1 : node.k]
        case _:
            raise TypeError(f"{node!r} must lie in memory")


def matrix_of(node: Product, matrices: Sequence[Any], dtype: Any) -> Any:
    """The matrix that is made of a product's blocks."""
    whole = np.zeros((node.operands[0].shape[-1], node.shape[-1]), dtype)
    for number, transposed, above, left, inner, width in node.blocks:
        matrix = matrices[number].T if transposed else matrices[number]
        whole[above : above + inner, left : left + width] = matrix
    return whole


def _full(array: Any, node: Node, rows: int) -> Any:
    """The array of a node with all its rows: that of a constant is one number."""
    return np.broadcast_to(_aligned(array, node.shape), (rows, *node.shape))


def _aligned(array: Any, shape: tuple[int, ...], rank: int | None = None) -> Any:
    """An array (B, *shape) with axes of size 1 behind the batch, so that so many lie there."""
    missing = 0 if rank is None or not array.ndim else rank - len(shape)
    return array.reshape(array.shape[0], *[1] * missing, *shape) if missing > 0 else array
