"""What a cell is: one step of a recurrent network. It knows no time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..autograd.create import zeros
from ..autograd.pytree import leaves, map_leaves, structure, unflatten
from ..autograd.tape import Node, thread
from ..autograd.tensor import Tensor, as_tensor
from ..errors import ArgumentError, DtypeError, GraphError, ShapeError
from ..ops.contract import linear
from . import init
from .module import Module, Parameter


class Cell(Module):
    """Base class of cells: define `step`, and `initial_state` where the state is not one tensor (B, hidden_size).

    `step(x, state)` takes x (B, I) and a state (any pytree of tuples of tensors (B, ...)) and returns (output (B, H),
    new state). Called, a cell returns the new state alone, as PyTorch's do.
    """

    input_size: int
    hidden_size: int

    #: The gates in the order in which their rows stand in the weights, and for those that decide what the memory keeps
    #: whether an open gate keeps it (1) or overwrites it (-1). `init` reads both.
    gates: ClassVar[tuple[str, ...]] = ("hidden",)
    keeps: ClassVar[dict[str, int]] = {}

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step."""
        if getattr(self, "hidden_size", None) is None:
            raise ArgumentError(
                f"{self.title}: its state is not known", hint="define initial_state, or set hidden_size"
            )
        return self.zeros(batch_size, self.hidden_size)

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        """One step: (output, new state)."""
        raise TypeError(f"{type(self).__name__} does not define step(x, state)")

    def zeros(self, batch_size: int, n: int) -> Tensor:
        """State of shape (batch_size, n), zero, in the parameters' dtype."""
        for part in vars(self).values():  # at each call of a layer: the first is mostly near
            if isinstance(part, Tensor) and part._array.dtype.kind == "f":
                return zeros(batch_size, n, dtype=part._array.dtype)
        first = next(self.parameters(), None)
        return zeros(batch_size, n, dtype=first.dtype if first is not None else None)

    def seen(self, hidden: Any) -> Any:
        """The past as products and gates see it: itself; under `VariationalDropout` a part of it.

        A cell that also carries its past along past the products (as a GRU does) calls this for the products.
        """
        return hidden

    @property
    def title(self) -> str:
        """The cell's name in messages and pictures."""
        return type(self).__name__

    def for_sequence(self) -> Cell:
        """The cell to run over one sequence: with drawn what is drawn once a sequence, here and in cells inside."""
        for part in vars(self).values():  # at each call of a layer: mostly there is none
            if isinstance(part, Module):
                made: Cell = begun(self)
                return made
        return self

    def with_attribute(self, name: str, value: Any) -> Cell:
        """A copy that shares the parameters, with another attribute; dots lead to one of a module inside."""
        made: Cell = changed(self, name, value)
        return made

    def fitted(self, state: Any, batch_size: int) -> Any:
        """The state given, in the pytree that `initial_state` makes; that itself where None.

        Raises:
            ShapeError: where pytree or shapes differ; broadcasting a state is mostly a mistake.
        """
        zero = map_leaves(as_tensor, self.initial_state(batch_size))
        return zero if state is None else fitting(state, zero, self.title)

    def forward(self, x: Any, state: Any = None) -> Any:
        x, state = as_tensor(x), attached(state, self.title)
        if x.ndim == 1:
            batched = map_leaves(lambda part: part.expand_dims(0), state)
            return map_leaves(lambda part: part.squeeze(0), self.forward(x.expand_dims(0), batched))
        if x.ndim != 2:
            raise ShapeError(f"{self.title}: x is one step", expected="(B, I) or (I,)", got=x.shape)
        self.check_features(x)
        return self.checked_step(x, self.fitted(state, x.shape[0]))[1]

    def checked_step(self, x: Any, state: Any) -> tuple[Any, Any]:
        """`step`, where it returns an output (B, H) and a state.

        Raises:
            ShapeError: where it does not.
        """
        made = self.step(x, state)
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            got = f"{len(made)} parts" if isinstance(made, (tuple, list)) else type(made).__name__
            raise ShapeError(f"{self.title}: step returns two things", expected="(output, new state)", got=got)
        output = made[0]
        if not isinstance(output, Tensor) or output.ndim < 1 or output.shape[0] != x.shape[0]:
            got = str(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ShapeError(
                f"{self.title}: the output of a step is one tensor", expected=f"({x.shape[0]}, features)", got=got
            )
        return made[0], made[1]

    def check_features(self, x: Tensor) -> None:
        """Raise ShapeError where x (..., I) has another number of features than the cell's `input_size`, if it has."""
        size = getattr(self, "input_size", None)
        if size is not None and x._array.shape[-1] != size:
            raise ShapeError(
                f"{self.title}: the number of features differs", expected=f"x (..., {size})", got=f"x {x.shape}"
            )

    def extra_repr(self) -> str:
        return ", ".join(str(vars(self)[name]) for name in ("input_size", "hidden_size") if name in vars(self))


def begun(module: Any) -> Any:
    """The module, with every cell inside it as it runs over one sequence."""
    made = module
    for name, child in module.named_children():
        inside = child.for_sequence() if isinstance(child, Cell) else begun(child)
        if inside is not child:
            made = made.with_child(name, inside)
    return made


def seeing(module: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a module in which `seen` of every cell is what `change` makes of it."""
    made = copy.copy(module)
    for name, child in module.named_children():
        made = made.with_child(name, seeing(child, change))
    if isinstance(module, Cell):
        made.seen = change(module.seen)
    return made


def changed(module: Any, name: str, value: Any) -> Any:
    """A copy of a module, with another attribute; dots lead to one of a module inside."""
    child, _, below = name.partition(".")
    if below:
        return module.with_child(child, changed(dict(module.named_children())[child], below, value))
    return module.with_child(name, value)


def fitting(state: Any, zero: Any, title: str) -> Any:
    """The state in the pytree of `zero`.

    Raises:
        ShapeError, DtypeError: where pytree or shapes differ from that, or integers stand for floating numbers.
    """
    state = map_leaves(as_tensor, state)
    if structure(state) != structure(zero):
        raise ShapeError(f"{title}: the state does not fit", expected=structure(zero), got=structure(state))
    for given, part in zip(leaves(state), leaves(zero)):
        if given.dtype.kind != part.dtype.kind:  # float32 beside float64 is for the products to refuse
            raise DtypeError(f"{title}: the state is of another dtype", expected=part.dtype, got=given.dtype)
    return unflatten(zero, leaves(state))


def attached(state: Any, title: str) -> Any:
    """The state, its leaves as tensors, where backward can come through it.

    Raises:
        GraphError: where an earlier backward has freed what it was made from.
    """
    state = map_leaves(as_tensor, state)
    for i, part in enumerate(leaves(state)):
        freed = _freed(part.node) if thread.state.enabled and part._requires_grad else None
        if freed is not None:
            names = getattr(type(state), "_fields", None)
            name = names[i] if names and i < len(names) else part.node.label or "state"
            raise GraphError(
                f"{title}: the state given is still attached to the tape of an earlier pass",
                expected="a state whose graph backward has not freed",
                got=f"{name} {part.shape}, made by {freed.title}" + (f" in {freed.place}" if freed.place else ""),
                hint="tg.nn.detach(state), or tg.nn.TruncatedBPTT, which cuts it",
            )
    return state


def _freed(node: Node) -> Node | None:
    """The node, or one whose values it only moves, that backward has freed.

    A layer makes its final state of those of its cells by what only moves values.
    """
    stack, seen = [node], {node.order}
    while stack:
        node = stack.pop()
        if node.op is not None and node.saved is None:
            return node
        if node.op is not None and node.op.moves:
            for parent, wants in zip(node.parents, node.wanted):
                if wants and parent is not None and parent.order not in seen:
                    seen.add(parent.order)
                    stack.append(parent)
    return None


def detach(state: Any) -> Any:
    """The state's values without their history: what goes into the next chunk of a long sequence."""
    return map_leaves(lambda part: as_tensor(part).detach(), state)


def check_sizes(name: str, **sizes: Any) -> None:
    """Raise ArgumentError for a size that is no whole number of at least 1."""
    for argument, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 1:
            raise ArgumentError(f"{name}: {argument} is a whole number, at least 1", got=repr(size))


def check_switches(name: str, **switches: Any) -> None:
    """Raise ArgumentError for a switch that is neither True nor False."""
    for argument, switch in switches.items():
        if not isinstance(switch, (bool, np.bool_)):
            raise ArgumentError(f"{name}: {argument} is a switch", expected="True or False", got=repr(switch))


class GatedCell(Cell):
    """Parameters of the gates, stacked: weight_ih (gates H, I), weight_hh (gates H, H), biases (gates H,).

    Uniform in +-1/sqrt(H), as in PyTorch.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: Any = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_sizes(type(self).__name__, input_size=input_size, hidden_size=hidden_size)
        check_switches(type(self).__name__, bias=bias)
        self.input_size, self.hidden_size = input_size, hidden_size
        self._dtype, self._rng = dtype, rng
        rows = len(self.gates) * hidden_size
        self.weight_ih, self.weight_hh = self.drawn(rows, input_size), self.drawn(rows, self.output_size)
        self.bias_ih: Any = self.drawn(rows) if bias else None
        self.bias_hh: Any = self.drawn(rows) if bias else None

    @property
    def output_size(self) -> int:
        """Features of the output, and of the hidden state."""
        return self.hidden_size

    def recurrent(self, hidden: Any, first: int, last: int) -> Any:
        """W_hh h + b_hh of the gates first to last - 1 alone."""
        rows = slice(first * self.hidden_size, last * self.hidden_size)
        return linear(hidden, self.weight_hh[rows], self.bias_hh[rows] if self.bias_hh is not None else None)

    def drawn(self, *shape: int) -> Parameter:
        """A parameter, uniform in +-1/sqrt(H)."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        return Parameter(init.uniform_(zeros(shape, dtype=self._dtype), -bound, bound, self._rng))
