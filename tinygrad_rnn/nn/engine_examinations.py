"""What `verify` examines of the engines: a cell, compiled, is the same cell, whatever changes between two calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..autograd.backward import grad
from ..autograd.pytree import leaves, map_leaves
from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor, tensor
from ..compiler.stages import blame
from ..ops.random import Draws
from .cell import Cell
from .examinations import Examination, differences, far, named_parts
from .module import Module, Parameter
from .recurrent import Recurrent

#: So many steps, which is more than `auto` wants before it compiles.
LONG = 12


def engines_agree(exam: Examination) -> Iterator[str]:
    """compiled, it gives what it gives step by step."""
    x = exam.inputs(LONG)
    for mode in (contextlib.nullcontext(), exam.training()):
        with mode:
            for reverse in (False, True):
                yield from _engines(exam, x, reverse)


def changes_are_seen(exam: Examination) -> Iterator[str]:
    """compiled, it sees what changes between two calls."""
    x = exam.inputs(LONG)
    layers = Recurrent(exam.cell, engine="eager"), Recurrent(exam.cell)
    for name, change in _changes(exam.cell):
        with change:
            for words in _engines(exam, x, False, layers):
                yield f"after a change of {name}: {words}"
        for words in _engines(exam, x, False, layers):
            yield f"after {name} was changed back: {words}"


def _engines(
    exam: Examination, x: np.ndarray[Any, Any], reverse: bool, layers: Sequence[Recurrent] = ()
) -> Iterator[str]:
    """Where the two engines differ, in values and gradients."""
    layers = layers or [Recurrent(exam.cell, reverse=reverse, engine=name) for name in ("eager", "auto")]
    parameters = [(name, p) for name, p in exam.cell.named_parameters() if p.requires_grad]
    state, draws = exam.state(), Draws()
    found: list[tuple[Any, ...]] = []
    for layer in layers:
        given = tensor(x, requires_grad=x.dtype.kind == "f")
        start = map_leaves(lambda part: tensor(part, requires_grad=part.dtype.kind == "f"), state)
        with draws if not found else draws.repeated():
            outputs, final = layer(given, start)
        wanted = [(n, t) for n, t in [("x", given), *named_parts(None, start), *parameters] if t.requires_grad]
        ends = [y for y in (outputs, *leaves(final)) if y.requires_grad]
        losses, tensors = [(y * y).sum() for y in ends], [t for _, t in wanted]
        found.append((outputs, final, wanted, grad(losses, tensors, allow_unused=True) if ends and wanted else ()))
    (outputs, final, wanted, eager), (compiled, ends, _, other) = found
    wrong = [*differences((outputs, final), (compiled, ends))]
    for (name, _), a, b in zip(wanted, eager, other):
        if (a is None) != (b is None) or (a is not None and far(a, b)):
            wrong.append(f"the gradient of {name} is another")
    if wrong:
        with draws.repeated():
            words = blame(layers[1], given, start)
        yield from [f"{one}\n{words}" if words else one for one in wrong]


def _changes(cell: Cell) -> Iterator[tuple[str, contextlib.AbstractContextManager[None]]]:
    """What a step may read, each with a block in which it is another: tensors, numbers, modes."""
    for module_name, module in cell.named_modules():
        prefix = f"{module_name}." if module_name else ""
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.dtype.kind == "f":
                yield prefix + name, _written(value)
                yield (
                    f"{prefix}{name} (another tensor in its place)",
                    _instead(module, name, _other(value)),
                )
            elif type(value) is float:
                yield prefix + name, _instead(module, name, value * 0.99)
            elif type(value) is bool and name == "training":
                yield "the mode", _instead(module, name, not value)


@contextlib.contextmanager
def _instead(module: Module, name: str, value: Any) -> Iterator[None]:
    """Inside, an attribute is another."""
    before = vars(module)[name]
    vars(module)[name] = value
    try:
        yield
    finally:
        vars(module)[name] = before


@contextlib.contextmanager
def _written(t: Tensor) -> Iterator[None]:
    """Inside, a tensor's numbers are others, in the same memory."""
    before = np.array(t)
    with no_grad():
        t.copy_(before * 1.01)
    try:
        yield
    finally:
        with no_grad():
            t.copy_(before)


def _other(t: Tensor) -> Tensor:
    """A tensor of the same kind, with other numbers."""
    numbers = np.array(t) * 1.01
    return Parameter(numbers, t.requires_grad) if isinstance(t, Parameter) else tensor(numbers)
