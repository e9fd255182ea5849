"""A planned step evaluated by the interpreter, behind any stage of the compiler: outputs and all gradients."""

from __future__ import annotations

import numpy as np

from tinygrad_rnn.autograd.backward import grad_up_to
from tinygrad_rnn.autograd.tensor import Tensor
from tinygrad_rnn.compiler.runtime.captures import Bound, Captures, Totals
from tinygrad_rnn.ir.interpret import run


class Interpreted:
    """One run of a program.

    Args:
        planned: what `explain` has of the step.
        program: of one of its stages.
        carry, xs: arrays; rows sorted by `lengths`, longest first, where these are given.
        masks: random numbers, by their keys.
    """

    def __init__(self, planned, program, carry, xs, reverse=False, lengths=None, masks=None):
        low = planned.low
        self.planned, self.program, self.reverse, self.steps = planned, program, reverse, len(xs[0])
        outer = [n for n, t in enumerate(low.captures) if isinstance(t, Tensor) and t._requires_grad]
        self.captures = Captures(low, {place: low.captures[n] for n, place in low.bound.items()}, outer)
        bound = Bound.of(self.captures, {n: t.shape for n, t in enumerate(low.tensors)})
        self.matrices = [bound.given["matrix", i] for i in range(len(low.matrices))]
        self.live = None if lengths is None else [sum(n > t for n in lengths) for t in range(self.steps)]
        self.arrays = {("x", i): x for i, x in enumerate(xs)} | (masks or {})
        self.arrays |= {key: array for key, array in bound.given.items() if key[0] == "vector"}
        rows = {("row", i): self.captures[n]._array for i, n in enumerate(low.per_row)}
        self.lasts = frozenset([*rows, *[key for key, array in (masks or {}).items() if array.ndim == 2]])
        self.arrays |= rows
        first = {("carry", i): part for i, part in enumerate(carry)}
        self.found = self._run(program.forward, first, reverse)
        self.carry = [self.found["carry", i].reshape(len(part), -1) for i, part in enumerate(carry)]
        self.saved = self._states(carry)
        numbers = [node.number for node in planned.next]
        self.ys = [
            self.found["next", numbers.index(y.number)] if y.number in numbers else self.found["y", i]
            for i, y in enumerate(planned.ys)
        ]
        if lengths is not None:  # where a state is an output, rows that have ended have none
            dead = np.arange(self.steps)[:, None] >= np.asarray(lengths)
            self.ys = [np.where(dead.reshape(*dead.shape, *[1] * (y.ndim - 2)), 0.0, y) for y in self.ys]

    def _run(self, direction, more, backwards):
        return run(
            direction, self.arrays | more, self.matrices,
            steps=self.steps, rows=self.planned.rows, live=self.live, backwards=backwards, lasts=self.lasts,
        )  # fmt: skip

    def _states(self, carry):
        saved = {key: array for key, array in self.found.items() if key[0] in ("saved", "y")}
        for i, part in enumerate(carry):
            after = self.found["next", i]
            start = part.reshape(1, len(part), -1)
            saved["after", i] = after
            saved["state", i] = np.concatenate([after[1:], start] if self.reverse else [start, after[:-1]])
        return saved

    def gradients(self, of_carry, of_ys):
        """Of the carry, of xs, and of captured tensors as (tensor, gradient); None for none."""
        planned = self.planned
        given = {("carry", i): g.copy() for i, (g, flow) in enumerate(zip(of_carry, planned.flows)) if flow}
        given |= {("dy", i): g for i, g in enumerate(of_ys)}
        found = self._run(self.program.backward, self.saved | given, not self.reverse)
        carry = [
            found["carry", i] if flow and i not in planned.unused else None for i, flow in enumerate(planned.flows)
        ]
        xs = [None if x is None else found["dx", i] for i, x in enumerate(planned.x_gradients)]
        totals = Totals(self.captures, found)
        seeds = [(self.captures[n], np.asarray(totals.of(total))) for n, total in planned.of_captures.items()]
        starts = [Tensor(g.reshape(t.shape).astype(t.dtype)) for t, g in seeds]
        outer = self.captures.outer
        made = grad_up_to([t for t, _ in seeds], outer, starts, create_graph=False) if seeds else [None] * len(outer)
        return carry, xs, [(t, None if g is None else g.numpy()) for t, g in zip(outer, made)]
