"""What `verify` examines, one function each."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..autograd.backward import grad
from ..autograd.check import gradcheck, gradgradcheck
from ..autograd.pytree import leaves, map_leaves, skeleton, unflatten
from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor, as_tensor, tensor
from ..ops.random import Draws
from .cell import Cell
from .module import Module, Parameter
from .recurrent import Bidirectional, Recurrent

STEPS, ROWS = 4, 3
#: Of an input with more elements, derivatives are taken along so many random directions.
FEW = 12
#: Two numbers are the same where they differ by no more than this, relative to the largest: rounding, in float64.
CLOSE = 1e-9


class Examination:
    """A copy of the cell in float64, and random numbers to run it on.

    Args:
        cell: the cell.
        size: features of x.
        example: what x can be, (..., features), where that is not any number; None where it is.
        surrogate: whether gradients are not the derivatives, on purpose.
    """

    def __init__(self, cell: Cell, size: int, example: np.ndarray[Any, Any] | None, surrogate: bool) -> None:
        self.given, self.size, self.example, self.surrogate = cell, size, example, surrogate
        self.cell: Cell = copy.deepcopy(cell).astype("float64").eval()
        self.rng = np.random.default_rng(0)
        self.x = self.inputs(STEPS)
        self.names: list[str] = []

    def inputs(self, steps: int, rows: int = ROWS) -> np.ndarray[Any, Any]:
        """Random x (steps, rows, features)."""
        if self.example is None:
            return self.rng.standard_normal((steps, rows, self.size))
        known = self.example.reshape(-1, self.size)
        return np.asarray(known[self.rng.integers(len(known), size=(steps, rows))])

    def state(self, rows: int = ROWS) -> Any:
        """A state that the cell itself reaches, from its initial state over a few steps."""
        state = map_leaves(as_tensor, self.cell.initial_state(rows))
        with no_grad():
            for x in self.inputs(STEPS, rows):
                state = self.cell.for_sequence().step(tensor(x), state)[1]
        return map_leaves(lambda part: tensor(np.array(part)), state)

    def owners(self) -> dict[int, tuple[str, list[tuple[Module, str]]]]:
        """Each parameter's name and the places where it is, by its id."""
        found: dict[int, tuple[str, list[tuple[Module, str]]]]
        found = {id(p): (name, []) for name, p in self.cell.named_parameters()}
        for module in self.cell.modules():
            for attribute, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) in found:
                    found[id(value)][1].append((module, attribute))
        return found

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Inside, the cell is in training."""
        self.cell.train()
        try:
            yield
        finally:
            self.cell.eval()

    def with_names(self, message: str) -> str:
        """A message of gradcheck, in which inputs have names."""

        def name(found: re.Match[str]) -> str:
            i = int(found[1])
            return f"{self.names[i]}" if i < len(self.names) else found[0]

        return re.sub(r"\binput (\d+)", name, message)

    def function(self) -> tuple[Callable[..., Any], list[Tensor]]:
        """One step as a function of x, the state and all parameters, drawing the same at each call; and a point."""
        zero, draws = self.state(2), Draws()
        given = tensor(self.x[0, :2])
        differentiable = given.dtype.kind == "f"
        owners = self.owners()
        parameters = [p for p in self.cell.parameters() if p.requires_grad]
        parts = list(leaves(zero))
        floating = [i for i, part in enumerate(parts) if part.dtype.kind == "f"]
        with draws:
            self.cell.for_sequence().step(given, zero)

        def f(*point: Tensor) -> list[Tensor]:
            x, rest = (point[0], point[1:]) if differentiable else (given, point)
            for i, part in zip(floating, rest):
                parts[i] = part
            try:
                for parameter, value in zip(parameters, rest[len(floating) :]):
                    for module, attribute in owners[id(parameter)][1]:
                        vars(module)[attribute] = value
                with draws.repeated():
                    made = self.cell.for_sequence().step(x, unflatten(zero, iter(parts)))
            finally:
                for parameter in parameters:
                    for module, attribute in owners[id(parameter)][1]:
                        vars(module)[attribute] = parameter
            return [y for y in leaves(made) if y.dtype.kind == "f"]

        state = [f"state {i}" if len(parts) > 1 else "the state" for i in floating]
        self.names = [*(["x"] if differentiable else []), *state, *(owners[id(p)][0] for p in parameters)]
        point = [*([given] if differentiable else []), *(parts[i] for i in floating), *parameters]
        return _few(f, [tensor(np.asarray(one)) for one in point])


def _few(f: Callable[..., Any], point: list[Tensor]) -> tuple[Callable[..., Any], list[Tensor]]:
    """f along a few random directions of each large input, and of its large outputs a few random sums.

    So a large cell costs no more than a small one, and a wrong derivative still shows.
    """
    rng = np.random.default_rng(1)
    directions = [None if t.size <= FEW else tensor(rng.standard_normal((FEW, t.size)) / FEW) for t in point]
    start = [t if d is None else tensor(np.zeros(FEW)) for t, d in zip(point, directions)]
    sums: dict[tuple[int, int], Tensor] = {}

    def along(*few: Tensor) -> list[Tensor]:
        inputs = [c if d is None else t + (c @ d).reshape(t.shape) for t, d, c in zip(point, directions, few)]
        outputs = []
        for i, y in enumerate(f(*inputs)):
            if y.size > FEW:
                if (i, y.size) not in sums:
                    sums[i, y.size] = tensor(rng.standard_normal((y.size, FEW)))
                y = y.reshape(-1) @ sums[i, y.size]
            outputs.append(y)
        return outputs

    return along, [tensor(t, requires_grad=True) for t in start]


# --- The examinations: each yields what is wrong, in words. The docstring is its name. ---


def one_step(exam: Examination) -> Iterator[str]:
    """one step: an output, and a state as it was given."""
    for rows in (ROWS, 1):
        zero = map_leaves(as_tensor, exam.cell.initial_state(rows))
        made = exam.cell.step(tensor(exam.x[0, :rows]), zero)
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            yield f"step returns {type(made).__name__}\nexpected (output, new state)"
            return
        output, new = made
        if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[0] != rows:
            got = output.shape if isinstance(output, Tensor) else type(output).__name__
            yield f"the output of step is {got}\nexpected a tensor ({rows}, features), for x ({rows}, {exam.size})"
        if skeleton(new) != skeleton(zero):
            yield f"step returns a state of another pytree\nexpected {skeleton(zero)}\ngot {skeleton(new)}"
            return
        for i, (before, after) in enumerate(zip(leaves(zero), leaves(new))):
            if before.shape != after.shape:
                yield f"part {i} of the state changes its shape\nexpected {before.shape}\ngot {after.shape}"
            if not before.ndim or before.shape[0] != rows:
                yield f"part {i} of the initial state is {before.shape}\nexpected ({rows}, ...): the rows first"
            if before.dtype.kind == "f" and before.dtype != np.float64:
                yield (
                    f"part {i} of the initial state is {before.dtype}, where the parameters are float64\n"
                    "hint: self.zeros(batch_size, n) makes state of the parameters' dtype"
                )
            elif before.dtype != after.dtype:
                yield f"part {i} of the state changes its dtype\nexpected {before.dtype}\ngot {after.dtype}"


def stays_float32(exam: Examination) -> Iterator[str]:
    """float32 stays float32."""
    cell = copy.deepcopy(exam.given).astype("float32").eval()
    x = exam.x[0].astype("float32") if exam.x.dtype.kind == "f" else exam.x[0]
    output, state = cell.step(tensor(x), cell.initial_state(ROWS))
    for name, part in named_parts(output, state):
        if part.dtype == np.float64:
            yield f"{name} is float64, for x and parameters of float32"


def stays_as_it_is(exam: Examination) -> Iterator[str]:
    """what is given stays as it is."""
    x, state = tensor(exam.x[0]), exam.state()
    given = [("x", x), *named_parts(None, state)]
    before = [np.array(part) for _, part in given]
    exam.cell.step(x, state)
    for (name, part), was in zip(given, before):
        if not np.array_equal(part, was):
            yield f"step changes {name} in place; make a new tensor"


def eval_repeats(exam: Examination) -> Iterator[str]:
    """evaluation gives the same each time."""
    state = exam.state()
    first, second = (_over(exam.cell, exam.x, state) for _ in range(2))
    for words in differences(first, second):
        yield (
            f"{words}\nhint: in evaluation nothing is drawn (dropout(..., self.training)), and all that goes on from "
            "step to step is in the state"
        )


def training_repeats(exam: Examination) -> Iterator[str]:
    """training gives the same from the same random numbers."""
    state, draws = exam.state(), Draws()
    with exam.training():
        with draws:
            first = _over(exam.cell, exam.x, state)
        with draws.repeated():
            second = _over(exam.cell, exam.x, state)
    for words in differences(first, second):
        yield f"{words}\nhint: random numbers are drawn through tg, from rng= or its own generator"


def every_parameter(exam: Examination) -> Iterator[str]:
    """every parameter has a gradient."""
    parameters = [(name, p) for name, p in exam.cell.named_parameters() if p.requires_grad]
    outputs = [y for y in leaves(_over(exam.cell, exam.x, None)) if y.requires_grad]
    if not parameters:
        return
    found: Sequence[Any] = (
        grad([(y * y).sum() for y in outputs], [p for _, p in parameters], allow_unused=True)
        if outputs
        else [None] * len(parameters)
    )
    for (name, _), g in zip(parameters, found):
        if g is None:
            yield f"{name} does not reach the output or the state: unused, or cut from the tape by the way"


def first_derivatives(exam: Examination) -> Iterator[str]:
    """first derivatives."""
    if exam.surrogate:
        return
    f, point = exam.function()
    gradcheck(f, point, atol=1e-6, rtol=1e-5)
    yield from ()


def training_derivatives(exam: Examination) -> Iterator[str]:
    """first derivatives in training."""
    with exam.training():
        yield from first_derivatives(exam)


def second_derivatives(exam: Examination) -> Iterator[str]:
    """second derivatives."""
    if exam.surrogate:
        return
    f, point = exam.function()
    gradgradcheck(f, point, atol=1e-5, rtol=1e-4)
    yield from ()


def rows_independent(exam: Examination) -> Iterator[str]:
    """rows are independent."""
    state, draws = exam.state(), Draws()
    others, beside = exam.inputs(STEPS), exam.state()
    for mode in (contextlib.nullcontext(), exam.training()):
        with mode:
            with draws:
                whole = _over(exam.cell, exam.x, state)
            for row in range(ROWS):
                x, other = exam.x.copy(), map_leaves(lambda part: np.array(part), state)
                x[:, row] = others[:, row]
                for part, elsewhere in zip(leaves(other), leaves(beside)):
                    part[row] = np.asarray(elsewhere)[row]
                with draws.repeated():
                    moved = _over(exam.cell, x, map_leaves(tensor, other))
                keep = np.arange(ROWS) != row
                for words in differences(_rows(whole, keep), _rows(moved, keep), np.flatnonzero(keep)):
                    yield f"another row changes when row {row} is given other numbers: {words}"
    whole = _over(exam.cell, exam.x, state)
    for row in range(ROWS):
        one = np.arange(ROWS) == row
        alone = _over(exam.cell, exam.x[:, one], _rows((None, state), one)[1])
        for words in differences(_rows(whole, one), alone, [row]):
            yield f"a row alone gives something else than in a batch: {words}"


def padding(exam: Examination) -> Iterator[str]:
    """padding does not leak."""
    lengths, state = np.array([STEPS - 2, 0, STEPS])[:ROWS], exam.state()
    x = exam.x.copy()
    for row, length in enumerate(lengths):
        x[length:, row] = np.nan if x.dtype.kind == "f" else exam.inputs(STEPS)[length:, row]
    for reverse in (False, True):
        layer = Recurrent(exam.cell, reverse=reverse)
        outputs, final = layer(tensor(x), state, lengths)
        for row, length in enumerate(lengths):
            one = np.arange(ROWS) == row
            begin = _rows((None, state), one)[1]
            alone = layer(tensor(exam.x[:length, one]), begin) if length else (None, begin)
            got = (outputs[:length, one] if length else None, map_leaves(lambda part, one=one: part[one], final))
            for words in differences(alone, got, [row]):
                yield (
                    f"a row of {length} steps, padded to {STEPS}{', in reverse' if reverse else ''}, gives something "
                    f"else than alone: {words}"
                )
            if length < STEPS and np.any(np.asarray(outputs[length:, row])):
                yield f"outputs behind the end of row {row} are not 0"


def streaming(exam: Examination) -> Iterator[str]:
    """streaming gives what the whole gives."""
    layer, state = Recurrent(exam.cell), exam.state()
    whole = layer(tensor(exam.x), state)
    outputs, now = [], state
    for t in range(STEPS):
        output, now = layer.step(tensor(exam.x[t]), now)
        outputs.append(np.asarray(output))
    for words in differences(whole, (tensor(np.stack(outputs)), now)):
        yield f"step by step: {words}\nhint: all that goes on from step to step is in the state"
    first, now = layer(tensor(exam.x[:1]), state)
    second, now = layer(tensor(exam.x[1:]), now)
    for words in differences(whole, (tensor(np.concatenate([first, second])), now)):
        yield f"in two pieces: {words}\nhint: all that goes on from step to step is in the state"


def in_pieces(exam: Examination) -> Iterator[str]:
    """recomputing in pieces gives the same gradients."""
    parameters = [(name, p) for name, p in exam.cell.named_parameters() if p.requires_grad]
    draws = Draws()
    with exam.training():
        found = []
        for checkpoint in (None, 2):
            layer = Bidirectional(
                Recurrent(exam.cell, checkpoint=checkpoint), Recurrent(exam.cell, reverse=True, checkpoint=checkpoint)
            )
            x = tensor(exam.x, requires_grad=exam.x.dtype.kind == "f")
            with draws if checkpoint is None else draws.repeated():
                outputs, _ = layer(x)
                if not outputs.requires_grad:
                    return
                named = [("x", x), *parameters] if x.requires_grad else parameters
                found.append(grad((outputs * outputs).sum(), [p for _, p in named], allow_unused=True))
    for (name, _), whole, pieces in zip(named, *found):
        if (whole is None) != (pieces is None) or (whole is not None and far(whole, pieces)):
            yield f"the gradient of {name} is another"


def _over(cell: Cell, x: np.ndarray[Any, Any], state: Any) -> tuple[Any, Any]:
    """The cell over time: outputs (T, B, H) and the final state."""
    return Recurrent(cell)(tensor(x), state)  # type: ignore[no-any-return]


def _rows(made: tuple[Any, Any], which: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    outputs, state = made
    return None if outputs is None else outputs[:, which], map_leaves(lambda part: part[which], state)


def named_parts(output: Any, state: Any) -> Iterator[tuple[str, Any]]:
    if output is not None:
        yield "the output", output
    parts = list(leaves(state))
    for i, part in enumerate(parts):
        yield f"part {i} of the state" if len(parts) > 1 else "the state", part


def far(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape != b.shape or not bool(np.all(np.abs(a - b) <= CLOSE * max(1.0, np.max(np.abs(a), initial=0.0))))


def differences(expected: tuple[Any, Any], got: tuple[Any, Any], rows: Sequence[int] | Any = None) -> Iterator[str]:
    """Where two runs differ, in words."""
    for (name, a), (_, b) in zip(named_parts(*expected), named_parts(*got)):
        a, b = np.asarray(a), np.asarray(b)
        if not far(a, b):
            continue
        if a.shape != b.shape:
            yield f"{name} is {b.shape}, not {a.shape}"
            continue
        with np.errstate(all="ignore"):
            place = np.argwhere(~(np.abs(a - b) <= CLOSE * max(1.0, np.max(np.abs(a), initial=0.0))))[0]
        step = f"step {place[0]}, " if name == "the output" else ""
        row = int(place[1 if step else 0])
        row = row if rows is None else int(rows[row])
        yield f"{name} at {step}row {row}: expected {a[tuple(place)]:.6g}, got {b[tuple(place)]:.6g}"
