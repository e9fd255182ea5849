"""Time: a cell run over a sequence, in both directions, layers one above another. No gate is known here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..autograd.pytree import map_leaves
from ..autograd.tape import Place, no_grad, thread
from ..autograd.tensor import Tensor, as_tensor
from ..compiler.front.guards import Known, Source
from ..compiler.scan import at, checked_engine, pieces_of, unrolled
from ..errors import ArgumentError, ShapeError
from ..ops.random import dropout
from ..ops.shape import concat, permute_dims
from .cell import Cell, attached, check_switches
from .lengths import checked_lengths
from .module import Module, ModuleList

Lengths = np.ndarray[Any, Any] | None


class OverTime(Module):
    """What every layer over time shares: which axis is time, which the batch, and how long each row is.

    `layer(x, state=None, lengths=None)` takes

    x          (T, B, I); (B, T, I) where `batch_first`; (T, I) without a batch
    state      a pytree as the layer returns it; its own initial state where None
    lengths    (B,) ints from 0 to T, in any order: how many steps of each row there are; all where None. What is behind
               them is never read.

    and returns the outputs (T, B, H), which are 0 past a row's length, and the final state, each row's at its last step
    (with `reverse`, its first; there the row starts at its last step). Outputs of no steps at all (T = 0, or all
    lengths 0) depend on nothing, and require no gradient.

    Raises:
        ShapeError, DtypeError, ArgumentError: where x, state or lengths do not fit, naming layer, direction and step.
        GraphError: for a state that hangs on a graph which backward has freed.
    """

    batch_first = False

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        x, name = as_tensor(x), type(self).__name__
        state = None if state is None else attached(state, name)
        if x.ndim not in (2, 3):
            raise ShapeError(
                f"{name}: x is a sequence",
                expected=f"{'(B, T, I)' if self.batch_first else '(T, B, I)'}, or (T, I) without a batch",
                got=x.shape,
            )
        if x.ndim == 2:
            if lengths is not None:
                raise ShapeError(f"{name}: lengths are of the rows of a batch", expected="x (T, B, I)", got=x.shape)
            return self._unbatched(x, state)
        if self.batch_first:
            x = permute_dims(x, (1, 0, 2))
        steps, batch_size = x.shape[:2]
        if lengths is not None:
            lengths = checked_lengths(lengths, steps, batch_size, name)
        outputs, state = self.run(x, state, lengths)
        return permute_dims(outputs, (1, 0, 2)) if self.batch_first else outputs, state

    def _unbatched(self, x: Tensor, state: Any) -> tuple[Any, Any]:
        outputs, state = self.run(x.expand_dims(1), self.with_batch(state), None)
        return outputs.squeeze(1), self.without_batch(state)

    def run(self, x: Tensor, state: Any, lengths: Lengths) -> tuple[Any, Any]:
        """The layer on x (T, B, I)."""
        raise NotImplementedError

    def step(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        """One step, for streams: x (B, I) or (I,) and a state -> the output (B, H) or (H,), and the new state.

        Step after step gives what the whole sequence gives. In training, masks that hold for a sequence are drawn at
        each call.

        Raises:
            ArgumentError: for a layer that reads from the end.
        """
        x, state = as_tensor(x), attached(state, type(self).__name__)
        if x.ndim not in (1, 2):
            raise ShapeError(f"{type(self).__name__}: x is one step", expected="(B, I) or (I,)", got=x.shape)
        self.refuse_reverse()
        if x.ndim == 1:
            outputs, state = self._unbatched(x.expand_dims(0), state)
        else:
            outputs, state = self.run(x.expand_dims(0), state, None)
        return outputs[0], state

    def refuse_reverse(self) -> None:
        """Raise where the layer, or one inside it, reads from the end of a sequence."""
        if self.reads is not False:
            raise ArgumentError(
                f"{type(self).__name__}: a stream has no end to start from",
                expected="layers that read forwards",
                got="layers that read in reverse",
            )

    @property
    def reads(self) -> bool | None:
        """False for a layer that reads forwards, True for one in reverse; None for both."""
        raise NotImplementedError

    def with_batch(self, state: Any) -> Any:
        """The state of one row as that of a batch of one."""
        return map_leaves(lambda part: part.expand_dims(0), state)

    def without_batch(self, state: Any) -> Any:
        """The reverse."""
        return map_leaves(lambda part: part.squeeze(0), state)

    def numbered(self, layer: int) -> int:
        """Take `layer` as the number of the lowest layer inside; returns the number that comes next."""
        raise NotImplementedError


class Recurrent(OverTime):
    """A cell run over time: step t takes x[t] and the state that step t - 1 returned.

    Args:
        cell: one step.
        batch_first: x is (B, T, I) instead of (T, B, I), the output likewise.
        reverse: run from the last step to the first.
        checkpoint: memory for time, as in `tg.scan`: None, "sqrt", or an int.
        engine: how it runs, as in `tg.engine`: "auto", "eager" or "fused".

    Call it as `OverTime` says.
    """

    def __init__(
        self,
        cell: Cell,
        batch_first: bool = False,
        reverse: bool = False,
        *,
        checkpoint: str | int | None = None,
        engine: str = "auto",
    ) -> None:
        if not isinstance(cell, Cell):
            raise ArgumentError("Recurrent: this runs a cell", expected="a tg.nn.Cell", got=type(cell).__name__)
        self.cell, self.batch_first, self.checkpoint = cell, batch_first, checkpoint
        check_switches("Recurrent", batch_first=batch_first, reverse=reverse)
        pieces_of(checkpoint, 1)  # refuses what is none
        self.reverse, self.engine = bool(reverse), checked_engine(engine)
        self._known = Known()
        self.layer = 0

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a file takes: not what the cell was compiled to."""
        return {**vars(self), "_known": Known()}

    @property
    def place(self) -> Place:
        """Where in a net its operations are."""
        return Place(self.cell.title, self.layer, self.reverse)

    def run(self, x: Tensor, state: Any, lengths: Lengths) -> tuple[Any, Any]:
        cell, place = self.cell.for_sequence(), self.place

        def step(state: Any, x: Any) -> tuple[Any, Any]:
            output, new = cell.checked_step(x, state)
            return new, output

        with at(place):
            cell.check_features(x)
            state = cell.fitted(state, x.shape[1])
        recorder = thread.state.recorder
        names = None if recorder is None else recorder.names
        state, outputs = unrolled(
            step if recorder is None else recorder.around(step), state, x, place, checkpoint=self.checkpoint,
            engine=self.engine, source=Source((cell,), self._known, names), lengths=lengths,
        )  # fmt: skip
        return outputs if recorder is None else recorder.taken(self, place, outputs, lengths), state

    def fitted(self, state: Any, batch_size: int) -> Any:
        """The state given, or the layer's own, as the cell takes it."""
        return self.cell.fitted(state, batch_size)

    def states(self, x: Any, state: Any = None) -> Any:
        """The state after every step of x (T, B, I): a pytree of tensors (T, B, ...), without a history."""
        x, cell = as_tensor(x), self.cell.for_sequence()

        def step(state: Any, x: Any) -> tuple[Any, Any]:
            _, new = cell.checked_step(x, state)
            return new, new

        with no_grad(), at(self.place):
            source = Source((cell,), self._known, "states")
            _, made = unrolled(step, self.fitted(state, x.shape[1]), x, self.place, engine=self.engine, source=source)
        return made

    @property
    def reads(self) -> bool:
        return self.reverse

    def numbered(self, layer: int) -> int:
        self.layer = layer
        return layer + 1


def layer_of(part: Any, name: str, reverse: bool | None = None) -> OverTime:
    """A layer over time: the one given, or of the cell given."""
    layer = Recurrent(part, reverse=bool(reverse)) if isinstance(part, Cell) else part
    if not isinstance(layer, OverTime):
        raise ArgumentError(
            f"{name}: this combines layers over time", expected="layers such as Recurrent, or cells", got=repr(part)
        )
    return layer


def one_order(layers: Sequence[OverTime], name: str, batch_first: bool) -> bool:
    """Whether the batch comes first: as said, or as all layers inside say."""
    inside = {layer.batch_first for layer in layers}
    if inside == {True, False}:
        raise ArgumentError(
            f"{name}: some layers inside have batch_first and some have not", hint=f"say it to {name} only"
        )
    return batch_first or inside == {True}


class Bidirectional(OverTime):
    """Two layers over the same sequence, one from each end, their outputs side by side (Schuster and Paliwal 1997).

    y_t = [forward_t, backward_t]

    Args:
        forward: a layer, or a cell.
        backward: a layer that reads in reverse, or a cell.
        batch_first: x is (B, T, I) instead of (T, B, I), the output likewise.

    The state is (that of forward, that of backward). Call it as `OverTime` says.
    """

    def __init__(self, forward: Any, backward: Any, batch_first: bool = False) -> None:
        self.forwards = layer_of(forward, "Bidirectional", False)
        self.backwards = layer_of(backward, "Bidirectional", True)
        for layer, reverse in ((self.forwards, False), (self.backwards, True)):
            if layer.reads is not reverse:
                raise ArgumentError(
                    "Bidirectional: the first layer reads forwards, the second in reverse",
                    expected=f"Recurrent(..., reverse={reverse})",
                    got=repr(layer),
                )
        self.batch_first = one_order((self.forwards, self.backwards), "Bidirectional", batch_first)

    def run(self, x: Tensor, state: Any, lengths: Lengths) -> tuple[Any, Any]:
        states = (None, None) if state is None else state
        if not isinstance(states, (tuple, list)) or len(states) != 2:
            raise ShapeError(
                "Bidirectional: a state for each direction", expected="(forward, backward)", got=_count(states)
            )
        there, first = self.forwards.run(x, states[0], lengths)
        back, second = self.backwards.run(x, states[1], lengths)
        return concat([there, back], -1), (first, second)

    reads = None

    def numbered(self, layer: int) -> int:
        return max(self.forwards.numbered(layer), self.backwards.numbered(layer))

    def with_batch(self, state: Any) -> Any:
        return _each("with_batch", (self.forwards, self.backwards), state)

    def without_batch(self, state: Any) -> Any:
        return _each("without_batch", (self.forwards, self.backwards), state)


class Stacked(OverTime):
    """Layers one above another: the outputs of one are the inputs of the next.

    Args:
        layers: layers over time, or cells.
        dropout: probability with which an output is dropped before the next layer, in training.
        rng: a numpy.random.Generator for it.
        batch_first: x is (B, T, I) instead of (T, B, I), the output likewise.

    The state is a tuple of the layers' states. Call it as `OverTime` says.
    """

    def __init__(
        self, layers: Sequence[Any], dropout: float = 0.0, rng: Any = None, *, batch_first: bool = False
    ) -> None:
        self.layers = ModuleList([layer_of(layer, "Stacked") for layer in layers])
        if not len(self.layers):
            raise ArgumentError("Stacked: at least one layer", got="none")
        if not 0.0 <= dropout <= 1.0:
            raise ArgumentError("Stacked: not a probability", expected="0 <= dropout <= 1", got=dropout)
        self.dropout, self.rng = dropout, rng
        self.batch_first = one_order(list(self.layers), "Stacked", batch_first)
        self.numbered(0)

    def run(self, x: Tensor, state: Any, lengths: Lengths) -> tuple[Any, Any]:
        count = len(self.layers)
        states = [None] * count if state is None else state
        if not isinstance(states, (tuple, list)) or len(states) != count:
            raise ShapeError("Stacked: one state for each layer", expected=count, got=_count(states))
        final = []
        for i, (layer, given) in enumerate(zip(self.layers, states)):
            if i:
                x = dropout(x, self.dropout, self.training, self.rng)
            x, end = layer.run(x, given, lengths)
            final.append(end)
        return x, tuple(final)

    def numbered(self, layer: int) -> int:
        for inside in self.layers:
            layer = inside.numbered(layer)
        return layer

    @property
    def reads(self) -> bool | None:
        found = {layer.reads for layer in self.layers}
        return found.pop() if len(found) == 1 else None

    def with_batch(self, state: Any) -> Any:
        return _each("with_batch", self.layers, state)

    def without_batch(self, state: Any) -> Any:
        return _each("without_batch", self.layers, state)


def _each(method: str, layers: Iterable[OverTime], state: Any) -> Any:
    """The method of each layer, on its part of the state; a state that does not fit is left to `run` to refuse."""
    several = list(layers)
    if not isinstance(state, (tuple, list)) or len(state) != len(several):
        return state
    return tuple(getattr(layer, method)(part) for layer, part in zip(several, state))


def _count(states: Any) -> str:
    return str(len(states)) if isinstance(states, (tuple, list)) else type(states).__name__
