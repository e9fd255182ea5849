"""Connectionist temporal classification: all alignments of a sequence with its frames, by one sweep each way.

Graves, Fernández, Gomez and Schmidhuber 2006, sections 4.1 and 4.2. An alignment goes through states, which are the
target's labels with blanks before, between and behind them. Each frame stays in its state, takes the next, or jumps
over a blank between two labels that differ. y(t, s) is the log-probability of the label of state s at frame t:

    into(t, s) = log of the sum of exp(into(t-1, r) + y(t-1, r)) over the states r that lead to s
    onward(t, s) = log of the sum of exp(onward(t+1, r) + y(t+1, r)) over the states r that s leads to
    loss = -log of the sum of exp(into(T-1, s) + y(T-1, s)) over the last label and the last blank
    share(t, c) = sum of exp(into(t, s) + y(t, s) + onward(t, s) + loss) over the states s of label c

The shares of a frame are divided by their sum, which is 1 but for what rounding did to the logarithms on the way.
`into` leaves out the frame itself, where the paper's alpha holds it: nothing is then taken off again, which would make
NaN of a label that is impossible. Everything is float64 in log space, where no sequence is too long.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .codegen.jit import loop
from .scalar import exp


def states(targets: Any, blank: int) -> tuple[Any, Any]:
    """The labels of the states, (N, 2S + 1), for targets (N, S), and their jumps, (N, 2S + 3).

    A jump is 0 where a state can be reached from the last but one before it, else minus infinity.
    """
    count, size = targets.shape
    labels = np.full((count, 2 * size + 1), blank, np.int64)
    labels[:, 1::2] = targets
    jumps = np.full((count, 2 * size + 3), -np.inf)
    jumps[:, 2:-2] = np.where(labels[:, 2:] != labels[:, :-2], 0.0, -np.inf)
    return labels, jumps


def _reference(log_probs: Any, labels: Any, jumps: Any, lengths: Any, ends: Any, losses: Any, shares: Any) -> None:
    rows, columns = np.arange(len(lengths))[:, None], np.arange(labels.shape[1])
    final = np.where((columns == ends[:, None]) | (columns == ends[:, None] - 1), 0.0, -np.inf)
    y = np.take_along_axis(log_probs.astype(np.float64), labels[None], axis=2)  # (T, N, states)

    def beside(x: Any, offset: int) -> Any:
        """Each state's neighbour `offset` states on."""
        wall = np.full((len(x), 2), -np.inf)
        return np.concatenate([wall, x, wall], axis=1)[:, 2 + offset : 2 + offset + x.shape[1]]

    with np.errstate(invalid="ignore"):
        into = np.full(y.shape, -np.inf)
        into[:1, :, :2] = 0.0
        for t in range(1, len(y)):
            x = into[t - 1] + y[t - 1]
            into[t] = np.logaddexp(np.logaddexp(x, beside(x, -1)), beside(x, -2) + jumps[:, :-2])
        total = np.where(ends == 0, 0.0, -np.inf)  # of no frames
        for t in range(len(y)):
            total = np.where(lengths == t + 1, np.logaddexp.reduce(into[t] + y[t] + final, axis=1), total)
        losses[...] = -total
        onward = final
        for t in reversed(range(len(shares))):
            onward = np.where((lengths == t + 1)[:, None], final, onward)
            x = y[t] + onward
            share = np.exp(into[t] + x - total[:, None])
            share /= share.sum(axis=1, keepdims=True)
            np.add.at(shares[t], (rows, labels), np.where((lengths > t)[:, None], share, 0.0))
            onward = np.logaddexp(np.logaddexp(x, beside(x, 1)), beside(x, 2) + jumps[:, 2:])


@loop("void(F[:,:,::1],i8[:,::1],f8[:,::1],i8[::1],i8[::1],f8[::1],F[:,:,::1])", reference=_reference, needs=(exp,))
def ctc(log_probs: Any, labels: Any, jumps: Any, lengths: Any, ends: Any, losses: Any, shares: Any) -> None:
    """Losses (N,) and, where `shares` (T, N, C) is not empty, the share of each label in each frame.

    log_probs (T, N, C); labels and jumps as `states` gives them; lengths (N,) in frames; ends (N,), the number of the
    last state. An infinite loss has no shares: what is left there then is no number.
    """

    # In here, not a primitive: called from outside the kernel, LLVM does not vectorise the loops.
    def log_add(a: Any, b: Any, c: Any) -> Any:
        """log(e^a + e^b + e^c), in arithmetic that LLVM can vectorise.

        The other two relative to the largest make a sum of 1 to 3, whose logarithm is a short series. A comparison
        swaps or does not, so that no NaN gets lost.
        """
        low, high = (b, a) if a > b else (a, b)
        middle, top = (c, high) if high > c else (high, c)
        shift = 0.0 if top == -math.inf else top
        total = 1.0 + exp(middle - shift) + exp(low - shift)
        halved = total > 1.5
        total = 0.5 * total if halved else total
        z = (total - 1.0) / (total + 1.0)  # log(total) = 2 artanh(z); |z| <= 1/5, so terms from 1/23 on are lost
        w = z * z
        series = 1 / 21
        series = series * w + 1 / 19
        series = series * w + 1 / 17
        series = series * w + 1 / 15
        series = series * w + 1 / 13
        series = series * w + 1 / 11
        series = series * w + 1 / 9
        series = series * w + 1 / 7
        series = series * w + 1 / 5
        series = series * w + 1 / 3
        return top + (2.0 * (series * w * z + z) + (0.6931471805599453 if halved else 0.0))

    into = np.empty((log_probs.shape[0], labels.shape[1]))
    into[:1] = -math.inf
    into[:1, :2] = 0.0
    wall = 2  # places of minus infinity before the first state and behind the last
    x = np.empty(labels.shape[1] + 2 * wall)
    onward = np.empty(labels.shape[1])
    part = np.empty(labels.shape[1])
    share = np.empty(log_probs.shape[2])
    for n in range(lengths.shape[0]):
        last, size = lengths[n] - 1, ends[n] + 1
        if last < 0:
            losses[n] = 0.0 if size == 1 else math.inf
            continue
        x[:] = -math.inf
        for t in range(last + 1):
            for s in range(size):  # a loop of its own: what stands beside a gather is not vectorised
                x[wall + s] = into[t, s] + log_probs[t, n, labels[n, s]]
            if t < last:
                for s in range(size):
                    into[t + 1, s] = log_add(x[wall + s], x[wall + s - 1], x[wall + s - 2] + jumps[n, s])
        total = log_add(x[wall + size - 1], x[wall + size - 2], -math.inf)
        losses[n] = -total
        if shares.size == 0:
            continue
        onward[:] = -math.inf
        onward[max(size - 2, 0) : size] = 0.0
        for t in range(last, -1, -1):
            for s in range(size):
                x[wall + s] = log_probs[t, n, labels[n, s]] + onward[s]
            for s in range(size):
                part[s] = exp(into[t, s] + x[wall + s] - total)
            share[:] = 0.0
            whole = 0.0
            for s in range(size):
                share[labels[n, s]] += part[s]
                whole += part[s]
            for c in range(share.shape[0]):
                shares[t, n, c] = share[c] / whole
            for s in range(size):
                onward[s] = log_add(x[wall + s], x[wall + s + 1], x[wall + s + 2] + jumps[n, s + 2])
