"""Time: a cell run over a sequence, layers one above another. No gate is known here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autograd.tape import Place, thread
from ..autograd.tensor import as_tensor
from ..errors import ShapeError, TinygradError
from ..ops.random import dropout
from ..ops.shape import permute_dims, stack
from .cells import Cell
from .module import Module, ModuleList
from .nest import leaves, map_nest


class Recurrent(Module):
    """A cell run over time: step t takes x[t] and the state that step t - 1 returned.

    Args:
        cell: one step.
        batch_first: x is (B, T, I) instead of (T, B, I), the output likewise.
        reverse: run from the last step to the first.

    `layer(x, state=None)` takes x (T, B, I), or (T, I) without a batch, and a state as `cell.initial_state` makes it
    (zeros where None). It returns the outputs (T, B, H), and the state after the last step run.

    Raises:
        ShapeError: where x or the state do not fit. What goes wrong inside the cell names layer, direction and step.
    """

    def __init__(self, cell: Cell, batch_first: bool = False, reverse: bool = False) -> None:
        self.cell, self.batch_first, self.reverse = cell, batch_first, reverse
        self.layer = 0

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        x = as_tensor(x)
        if x.ndim == 2:
            batched = map_nest(lambda part: as_tensor(part).expand_dims(0), state) if state is not None else None
            outputs, state = self._run(x.expand_dims(1), batched)
            return outputs.squeeze(1), map_nest(lambda part: part.squeeze(0), state)
        if x.ndim != 3:
            raise ShapeError("Recurrent: x is a sequence", expected="(T, B, I), or (T, I) without a batch", got=x.shape)
        if self.batch_first:
            outputs, state = self._run(permute_dims(x, (1, 0, 2)), state)
            return permute_dims(outputs, (1, 0, 2)), state
        return self._run(x, state)

    def _run(self, x: Any, state: Any) -> tuple[Any, Any]:
        steps, batch_size = x.shape[:2]
        if steps == 0:
            raise ShapeError("Recurrent: the sequence is empty", expected="T >= 1", got=x.shape)
        state = self.cell.fitted(state, batch_size)
        outputs: list[Any] = [None] * steps
        recording = thread.state
        outer, name = recording.place, type(self.cell).__name__
        try:
            for t in range(steps - 1, -1, -1) if self.reverse else range(steps):
                recording.place = Place(name, self.layer, self.reverse, t)
                outputs[t], state = self.cell.step(x[t], state)
        except TinygradError as trouble:
            trouble.args = (f"{trouble}\n  in {recording.place}",)
            raise
        except Exception as trouble:
            if hasattr(trouble, "add_note"):  # Python 3.11
                trouble.add_note(f"in {recording.place}")
            raise
        finally:
            recording.place = outer
        return stack(outputs), state


class Stacked(Module):
    """Layers one above another: the outputs of one are the inputs of the next.

    Args:
        layers: `Recurrent` layers.
        dropout: probability with which an output is dropped before the next layer, in training.

    `stacked(x, state=None)` returns the outputs of the last layer, and the list of the layers' final states.
    """

    def __init__(self, layers: Sequence[Recurrent], dropout: float = 0.0, rng: Any = None) -> None:
        self.layers = ModuleList(layers)
        self.dropout, self.rng = dropout, rng
        for i, layer in enumerate(layers):
            layer.layer = i

    def forward(self, x: Any, state: Any = None) -> tuple[Any, list[Any]]:
        count = len(self.layers)
        states = [None] * count if state is None else list(state)
        if len(states) != count:
            raise ShapeError("Stacked: one state for each layer", expected=count, got=len(states))
        for i, layer in enumerate(self.layers):
            if i:
                x = dropout(x, self.dropout, self.training, self.rng)
            x, states[i] = layer(x, states[i])
        return x, states


def stacked_state(states: Sequence[Any]) -> Any:
    """Nests of (B, H), one a layer, as one nest of (layers, B, H)."""
    return map_nest(lambda *parts: stack(parts), *states)


def unstacked_state(state: Any, count: int) -> list[Any]:
    """The reverse: a nest of (layers, B, H) as a list of nests."""
    for leaf in leaves(state):
        if not leaf.ndim or leaf.shape[0] != count:
            raise ShapeError("state: the first axis is that of layers", expected=f"({count}, B, H)", got=leaf.shape)
    return [map_nest(lambda part, i=i: part[i], state) for i in range(count)]
