"""`verify`: a new cell examined in one call, and what is wrong with it said in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autograd.tensor import as_tensor
from ..errors import ArgumentError, TinygradError
from ..ops.random import Draws
from .cell import Cell
from .engine_examinations import changes_are_seen, engines_agree
from .examinations import (
    Examination,
    eval_repeats,
    every_parameter,
    first_derivatives,
    in_pieces,
    one_step,
    padding,
    rows_independent,
    second_derivatives,
    stays_as_it_is,
    stays_float32,
    streaming,
    training_derivatives,
    training_repeats,
)

EXAMINATIONS: tuple[Callable[[Examination], Iterator[str]], ...] = (
    one_step,
    stays_float32,
    stays_as_it_is,
    eval_repeats,
    training_repeats,
    every_parameter,
    first_derivatives,
    training_derivatives,
    second_derivatives,
    rows_independent,
    padding,
    streaming,
    in_pieces,
    engines_agree,
    changes_are_seen,
)


class Finding(NamedTuple):
    """One examination: what was examined, and what is wrong ("" where nothing is)."""

    what: str
    wrong: str

    def __str__(self) -> str:
        return f"{'ok    ' if not self.wrong else 'WRONG '} {self.what}" + "".join(
            f"\n         {line}" for line in self.wrong.splitlines()
        )


class Report:
    """What `verify` found: true where nothing is wrong; printed, it says all of it in words.

    Attributes:
        findings: one for each examination: (what, wrong).
    """

    def __init__(self, name: str, findings: Sequence[Finding]) -> None:
        self.name, self.findings = name, tuple(findings)

    @property
    def wrong(self) -> dict[str, str]:
        """What is wrong, by examination."""
        return {finding.what: finding.wrong for finding in self.findings if finding.wrong}

    def __bool__(self) -> bool:
        return not self.wrong

    def __repr__(self) -> str:
        count = len(self.wrong)
        head = f"{self.name}: " + ("nothing wrong" if not count else f"{count} of {len(self.findings)} are wrong")
        return "\n".join([head, *(f"  {finding}".replace("\n", "\n  ") for finding in self.findings)])


def verify(cell: Cell, input_size: int | None = None, *, x: Any = None, surrogate: bool = False) -> Report:
    """Examine a cell: derivatives, rows, padding, streams, training and evaluation, and what the compiler makes of it.

    A copy in float64 is run on random numbers, over a few rows and steps, from states that it reaches itself; the
    derivatives of large inputs are taken along a few random directions. The cell itself, its modes and the random
    generators stay as they are.

    Args:
        cell: any cell, also one inside wrappers.
        input_size: features of x; `cell.input_size` where None.
        x: examples (..., features) of what x can be, where that is not any number: symbols, say. Others are drawn
            from among them.
        surrogate: whether its gradients are not the derivatives, on purpose (a spike's, or one straight through a
            rounding): they are then compared between the engines, and not with finite differences.

    Returns:
        A `Report`: true where nothing is wrong, and in words when printed.

    Raises:
        ArgumentError: for what is no cell, and where its input size is not known.

    >>> import tinygrad_rnn as tg
    >>> print(tg.nn.verify(tg.nn.GRUCell(3, 4)))
    GRUCell: nothing wrong
      ok     one step: an output, and a state as it was given
      ok     float32 stays float32
      ok     what is given stays as it is
      ok     evaluation gives the same each time
      ok     training gives the same from the same random numbers
      ok     every parameter has a gradient
      ok     first derivatives
      ok     first derivatives in training
      ok     second derivatives
      ok     rows are independent
      ok     padding does not leak
      ok     streaming gives what the whole gives
      ok     recomputing in pieces gives the same gradients
      ok     compiled, it gives what it gives step by step
      ok     compiled, it sees what changes between two calls
    """
    if not isinstance(cell, Cell):
        raise ArgumentError("verify: this examines a cell", expected="a tg.nn.Cell", got=type(cell).__name__)
    example = None if x is None else np.asarray(as_tensor(x))
    if example is not None and (not example.ndim or not example.size):
        raise ArgumentError(
            "verify: x is examples of what the cell takes", expected="(..., features)", got=example.shape
        )
    size = input_size if input_size is not None else getattr(cell, "input_size", None)
    size = example.shape[-1] if example is not None else size
    if size is None:
        raise ArgumentError(
            "verify: the cell does not say its input_size", hint="verify(cell, input_size=...), or x=... with examples"
        )
    draws = Draws()
    with draws, np.errstate(all="ignore"):
        findings = list(_findings(Examination(cell, int(size), example, surrogate)))
    draws.take_back()
    return Report(cell.title, findings)


def _findings(exam: Examination) -> Iterator[Finding]:
    first, *others = EXAMINATIONS
    found = _found(exam, first)
    yield found
    for examination in others if not found.wrong else ():
        yield _found(exam, examination)


def _found(exam: Examination, examination: Callable[[Examination], Iterator[str]]) -> Finding:
    """What an examination yields, and any error, in words; three of them at most."""
    said: list[str] = []
    try:
        for words in examination(exam):
            said.append(words)
            if len(said) == 3:
                break
    except TinygradError as trouble:
        said.append(exam.with_names(str(trouble)))
    except Exception as trouble:
        said.append(f"{type(trouble).__name__}: {trouble}")
    return Finding((examination.__doc__ or "").rstrip("."), "\n".join(dict.fromkeys(said)))
