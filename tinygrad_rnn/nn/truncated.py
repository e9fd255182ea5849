"""State over chunks of a long sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autograd.pytree import map_leaves
from ..autograd.tensor import as_tensor, tensor
from ..errors import ArgumentError, ShapeError
from ..ops.shape import concat
from .cell import attached, begun, detach
from .module import Module
from .recurrent import OverTime


class TruncatedBPTT(Module):
    """A layer over a sequence that comes in chunks: values go on from chunk to chunk, gradients reach back k2 steps.

    Every k1 steps there are outputs to learn from, and their gradient goes back through the last k2 steps (Williams
    and Peng 1990; Sutskever 2013, section 2.8.6). Where k2 > k1, the k2 - k1 steps before the chunk run once more,
    with the weights as they are now.

    Args:
        layer: a layer over time that reads forwards.
        k1: steps of a chunk.
        k2: steps that a gradient reaches back, k1 where None; at least k1.

    `tbptt(x)` takes one chunk (T, B, I) of any length up to k1 and returns its outputs, going on from the chunk before.
    `tbptt.chunks(x, *others)` cuts longer ones. `tbptt.state` is the state after the last chunk, cut from the tape;
    set it, or `reset()`, for a new sequence.

    Raises:
        ArgumentError: for k1 under 1, k2 under k1, and a layer that reads in reverse.
        GraphError: where a state is set that hangs on a freed graph.

    >>> import tinygrad_rnn as tg
    >>> lstm = tg.nn.LSTM(3, 4)
    >>> tbptt, updates = tg.nn.TruncatedBPTT(lstm, k1=20, k2=30), 0
    >>> for output, target in tbptt.chunks(tg.randn(100, 2, 3), tg.randn(100, 2, 4)):
    ...     tg.mse_loss(output, target).backward()
    ...     updates += 1
    >>> updates
    5
    """

    def __init__(self, layer: OverTime, k1: int, k2: int | None = None) -> None:
        if not isinstance(layer, OverTime):
            raise ArgumentError("TruncatedBPTT: this goes around a layer over time", got=type(layer).__name__)
        layer.refuse_reverse()
        reach = k1 if k2 is None else k2
        if not all(isinstance(k, (int, np.integer)) for k in (k1, reach)) or not 1 <= k1 <= reach:
            raise ArgumentError("TruncatedBPTT: steps that do not fit", expected="1 <= k1 <= k2", got=f"{k1}, {k2}")
        self.layer, self.k1, self.k2 = layer, k1, reach
        self.reset()

    def reset(self) -> None:
        """Forget the state: a new sequence begins."""
        self._state: Any = None
        self._before: Any = None  # the inputs of the steps to run again, and
        self._start: Any = None  # the state before them

    @property
    def state(self) -> Any:
        """The state after the last chunk; None before the first."""
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        state = attached(state, "TruncatedBPTT")
        self.reset()
        self._state = self._start = map_leaves(tensor, state)  # what the caller does with the given one is its own

    def forward(self, x: Any) -> Any:
        x = as_tensor(x)
        axis = 1 if self.layer.batch_first and x.ndim == 3 else 0
        if x.ndim not in (2, 3) or x.shape[axis] > self.k1:
            raise ShapeError(
                "TruncatedBPTT: x is one chunk",
                expected=f"up to {self.k1} steps",
                got=x.shape,
                hint="chunks(x) cuts it",
            )
        before = 0 if self._before is None else self._before.shape[axis]
        every = concat([self._before, x], axis) if before else x
        # Run in two parts, to see the state from which the next chunk will start again.
        cut = max(every.shape[axis] - (self.k2 - self.k1), 0)
        first, rest = _parts(every, cut, axis)
        outputs, state = [], self._start
        start, layer = state, begun(self.layer)
        for part in (first, rest):
            if part.shape[axis]:
                output, state = layer(part, state)
                outputs.append(output)
            if part is first:
                start = state
        self._state, self._start, self._before = detach(state), detach(start), tensor(rest)
        whole = concat(outputs, axis) if len(outputs) > 1 else outputs[0] if outputs else layer(x, state)[0]
        return _parts(whole, before, axis)[1]

    def chunks(self, x: Any, *others: Any) -> Iterator[Any]:
        """For each k1 steps of x the outputs, and the same steps of `others`; the last chunk may be shorter.

        Yields:
            The outputs, or (outputs, *others) where there are others.
        """
        x, tensors = as_tensor(x), [as_tensor(other) for other in others]
        axis = 1 if self.layer.batch_first and x.ndim == 3 else 0
        steps = x.shape[axis]
        for other in tensors:
            if other.ndim <= axis or other.shape[axis] != steps:
                raise ShapeError("TruncatedBPTT: not as many steps as x", expected=steps, got=other.shape)
        for a in range(0, steps, self.k1):
            chosen = (slice(None),) * axis + (slice(a, a + self.k1),)
            output = self.forward(x[chosen])
            yield (output, *[other[chosen] for other in tensors]) if tensors else output


def _parts(x: Any, at: int, axis: int) -> tuple[Any, Any]:
    before = (slice(None),) * axis
    return x[(*before, slice(None, at))], x[(*before, slice(at, None))]
