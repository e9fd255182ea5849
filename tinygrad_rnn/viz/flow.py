"""`tg.viz.flow`: how the gradient of a loss flows back through time, in numbers.

All follows from the derivatives of one step. With s_t the state before step t, all its parts side by side,

    s_{t+1}, y_t = step(x_t, s_t)        J_t = d s_{t+1} / d s_t

so the states come from one run of the layer, and the J_t of all steps from one step on all of them at once. What a
backward for each pair of steps would give are then products of matrices.

Sources: Hochreiter 1991; Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013; Benettin et al. 1980
(exponents by QR); Vogt et al. 2022, "On Lyapunov exponents for RNNs".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..autograd.backward import grad
from ..autograd.pytree import leaves, map_leaves, unflatten
from ..autograd.tape import enable_grad, no_grad, thread
from ..autograd.tensor import Tensor, as_tensor
from ..errors import ArgumentError
from ..nn.cell import Cell
from ..nn.layers import Layers
from ..nn.recurrent import OverTime, Recurrent, Stacked
from ..nn.telemetry import named_values
from ..ops.shape import permute_dims

Array = np.ndarray[Any, Any]

#: The loss of one step: of its output (B, H) and the number of the step, a scalar.
Loss = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Flow:
    """How gradients flow back through a layer. T steps, B rows, a state of S numbers: its parts side by side.

    Attributes:
        parts: for each part of the state its name and where it lies: {"hidden": slice(0, H), "cell": slice(H, 2 H)}; of
            several layers with the layer's number, from 1: "hidden 1", "cell 1", "hidden 2", ...
        jacobians: d s_{t+1} / d s_t, (T, B, S, S).
        inside: d s_{t+1} over its own parts, (T, B, S, S): an LSTM's hidden state is made from the new cell state.
        gradients: dL / ds after each step, (T, B, S): of the loss that was asked for.
        direct: the part of these that flows from state to state with every gate and candidate held as it is, such as
            through the cell state of an LSTM; the rest flows through the gates.
        each: d L_t / d s after step k, (T, T, B, S): [t, k]; 0 where k > t.
        shares: for each parameter of the cells the norm of each step's part of dL / dW, (T,), before they are summed.
        sums: for each parameter that sum, dL / dW.
        exponents: the Lyapunov exponents, from the largest, (S,): per step, by rows averaged.
    """

    parts: dict[str, slice]
    jacobians: Array = field(repr=False)
    inside: Array = field(repr=False)
    gradients: Array = field(repr=False)
    direct: Array = field(repr=False)
    each: Array = field(repr=False)
    shares: dict[str, Array] = field(repr=False)
    sums: dict[str, Array] = field(repr=False)
    exponents: Array = field(repr=False)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.jacobians)

    def norms(self, part: str = "hidden") -> Array:
        """‖dL / dh_t‖ over rows and units, (T,)."""
        return _norm(self.gradients[..., self._part(part)], (1, 2))

    def through(self, part: str = "hidden") -> tuple[Array, Array]:
        """Of `norms`: (T,) of what flows directly from state to state, and of what flows through gates."""
        where = self._part(part)
        direct, whole = self.direct[..., where], self.gradients[..., where]
        with np.errstate(invalid="ignore"):
            return _norm(direct, (1, 2)), _norm(whole - direct, (1, 2))

    def matrix(self, part: str = "hidden") -> Array:
        """‖dL_t / dh_k‖, (T, T): [t, k], 0 where k > t."""
        return _norm(self.each[..., self._part(part)], (2, 3))

    def singular_values(self, t: int, k: int, part: str = "hidden") -> Array:
        """Those of dh_t / dh_k, the states after steps t and k <= t, by rows: (B, H), from the largest.

        NaN where the derivative is too large for a number.
        """
        if not 0 <= k <= t < self.steps:
            raise ArgumentError("flow: no such steps", expected=f"0 <= k <= t < {self.steps}", got=f"t {t}, k {k}")
        where = self._part(part)
        product = self.inside[k][..., where]
        with np.errstate(over="ignore", invalid="ignore"):
            for jacobian in self.jacobians[k + 1 : t + 1]:
                product = jacobian @ product
        product = product[:, where]
        known = np.isfinite(product).all((1, 2))
        found = np.full(product.shape[:2], np.nan)
        found[known] = np.linalg.svd(product[known], compute_uv=False)
        return found

    def rows(self) -> Iterator[dict[str, float]]:
        """A row for each step, for a table: the norms, and each parameter's share."""
        for t in range(self.steps):
            row: dict[str, float] = {"step": t + 1}
            for part in self.parts:
                direct, gated = self.through(part)
                row[f"gradient of {part}"] = float(self.norms(part)[t])
                row[f"{part}, directly"], row[f"{part}, through gates"] = float(direct[t]), float(gated[t])
            row |= {f"share of {name}": float(share[t]) for name, share in self.shares.items()}
            yield row

    def _part(self, name: str) -> slice:
        if name not in self.parts:
            raise ArgumentError("flow: no such part of the state", expected=" | ".join(self.parts), got=repr(name))
        return self.parts[name]


def flow(layer: OverTime, x: Any, loss: Loss | None = None, state: Any = None, *, at: str = "last") -> Flow:
    """How the gradient of a loss flows back through a layer.

    >>> import tinygrad_rnn as tg
    >>> tg.manual_seed(0)
    >>> f = tg.viz.flow(tg.nn.LSTM(4, 8), tg.randn(20, 3, 4))
    >>> f.norms("cell").shape, f.matrix().shape, f.exponents.shape
    ((20,), (20, 20), (16,))

    Args:
        layer: one that runs forward, or several above each other: `nn.LSTM(...)`, `Recurrent` of any cell, `Stacked`.
            What is drawn at random is drawn anew: call `eval()` first. Dropout between layers is left out.
        x: (T, B, I); (B, T, I) for a layer with `batch_first`.
        loss: of one step's output (B, H) and its number a scalar; half the sum of squares where None.
        state: the one to start from, as the cell takes it; of several layers a tuple; the layer's own where None.
        at: "last" for the loss of the last step, "all" for the sum of all steps'.

    Raises:
        ArgumentError: for a layer that reads in reverse or from both ends, for another `at`, and for a loss that is no
            scalar.
    """
    layers = _forward(layer)
    if at not in ("last", "all"):
        raise ArgumentError("flow: no such loss", expected="last | all", got=repr(at))
    x = as_tensor(x)
    if x.ndim != 3 or not len(x):
        raise ArgumentError("flow: x is a sequence", expected="(T, B, I), T of at least 1", got=x.shape)
    if loss is not None and not callable(loss):
        raise ArgumentError(
            "flow: no such loss", expected="a function of a step's output and its number", got=repr(loss)
        )
    if layer.batch_first:
        x = permute_dims(x, (1, 0, 2))
    if state is None:
        own = _own_states(layer, x.shape[1])
        state = own if len(layers) > 1 else own[0]
    else:  # where it came from is no part of this
        state = map_leaves(lambda part: as_tensor(part).detach(), state)
    step = _Steps(*_as_one(layers, x, state), loss or _half_square)
    slopes, held, arrives = step.slopes(), step.slopes(gates=False), step.arrivals()
    steps, output = len(x), step.output_part
    losses = [steps - 1] if at == "last" else list(range(steps))
    with np.errstate(over="ignore", invalid="ignore"):  # what explodes is infinite
        alone, gradients = slopes.back(arrives, output, losses)
        _, direct = held.back(arrives, output, losses)
        each = np.stack([slopes.back(arrives, output, [t])[1] for t in range(steps)])
        shares, sums = step.shares(alone, arrives, losses)
    jacobians = slopes.states
    return Flow(step.parts, jacobians, slopes.inside, gradients, direct, each, shares, sums, _exponents(jacobians))


def _forward(layer: Any) -> list[Recurrent]:
    """The layers inside, from the lowest."""
    if isinstance(layer, Recurrent):
        if layer.reverse:
            raise ArgumentError("flow: a layer that runs forward", got="one in reverse")
        return [layer]
    stack = getattr(layer, "_stack", layer)
    if not isinstance(stack, Stacked):
        expected = "nn.LSTM(...), Recurrent(cell), Stacked([...])"
        raise ArgumentError("flow: layers that run forward", expected=expected, got=repr(layer))
    return [one for inside in stack.layers for one in _forward(inside)]


def _own_states(layer: Any, batch_size: int) -> list[Any]:
    """For each layer inside the state that it learned to start from; None where its cell knows."""
    if isinstance(layer, Layers):
        return layer.own_states(batch_size) or [None] * layer.num_layers
    return [one for inside in getattr(layer, "layers", ()) for one in _own_states(inside, batch_size)] or [None]


class _Above(Cell):
    """Cells one above another, as one: its state is a tuple of theirs."""

    def __init__(self, cells: list[Cell]) -> None:
        for i, cell in enumerate(cells, 1):
            setattr(self, f"layer {i}", cell)  # its parameters are called so

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        after, every = [], thread.state.named
        for i, own in enumerate(state, 1):
            with named_values() as named:
                x, new = getattr(self, f"layer {i}").checked_step(x, own)
            if every is not None:
                every.update({f"{name} {i}": tensor for name, tensor in named.items()})
            after.append(new)
        return x, tuple(after)


def _as_one(layers: list[Recurrent], x: Tensor, state: Any) -> tuple[Cell, Tensor, Any, Any, list[str]]:
    """Layers as one cell; x; the state it starts from; its states after every step; the names of their parts."""
    if len(layers) == 1:
        first = layers[0].fitted(state, x.shape[1])
        return layers[0].cell.for_sequence(), x, first, layers[0].states(x, state), _names(first)
    if not isinstance(state, (tuple, list)) or len(state) != len(layers):
        raise ArgumentError(
            "flow: one state for each layer", expected=f"a tuple of {len(layers)}", got=type(state).__name__
        )
    firsts, states, names, outputs = [], [], [], x
    for i, (layer, own) in enumerate(zip(layers, state), 1):
        firsts.append(layer.fitted(own, x.shape[1]))
        states.append(layer.states(outputs, own))
        names += [f"{name} {i}" for name in _names(firsts[-1])]
        with no_grad():
            outputs, _ = layer.run(outputs, firsts[-1], None)
    return _Above([layer.cell.for_sequence() for layer in layers]), x, tuple(firsts), tuple(states), names


def _names(state: Any) -> list[str]:
    """What the parts of a cell's state are called."""
    count = len(list(leaves(state)))
    named = getattr(type(state), "_fields", ("hidden",))  # unless there are more parts, in pytrees of its own
    return list(named) if len(named) == count else [f"state {i + 1}" for i in range(count)]


def _half_square(y: Tensor, t: int) -> Tensor:
    half: Tensor = (y * y).sum() * 0.5
    return half


def _norm(array: Array, axis: tuple[int, ...]) -> Array:
    """By the largest, as the squares of what vanishes are 0, and of what explodes infinite."""
    largest = np.abs(array).max(axis, keepdims=True)
    scaled = np.divide(array, largest, out=np.zeros_like(array), where=(largest > 0.0) & (largest < np.inf))
    norm, largest = np.sqrt(np.square(scaled).sum(axis)), largest.squeeze(axis)
    return np.asarray(np.where(largest < np.inf, norm * np.where(largest < np.inf, largest, 0.0), largest))


class _Slopes(NamedTuple):
    """Derivatives of every step, (T, B, ., S): of the new state over the state before, and over its own parts (an
    LSTM's hidden state is made from the new cell state); of the output over the same."""

    states: Array
    inside: Array
    outputs: Array
    outputs_inside: Array

    def back(self, arrives: Array, output: slice | None, losses: list[int]) -> tuple[Array, Array]:
        """dL / ds after each step, (T, B, S), for the sum of the losses of these steps: with the other parts of the
        state held as they are, and in all.

        Args:
            arrives: d L_t / d y_t.
            output: where in the state the output lies; None where it is no part of it.
            losses: the steps.
        """
        steps, rows, size = self.states.shape[:3]
        alone, found = np.zeros((2, steps, rows, size))
        g = np.zeros((rows, 1, size))
        for k in reversed(range(max(losses) + 1)):
            here = arrives[k][:, None] if k in losses else None
            if here is not None and output is not None:
                g[..., output] += here
            alone[k], found[k] = g[:, 0], (g @ self.inside[k])[:, 0]
            g = g @ self.states[k]
            if here is not None and output is None:
                found[k] += (here @ self.outputs_inside[k])[:, 0]
                g = g + here @ self.outputs[k]
        return alone, found


class _Steps:
    """A cell and what its steps were given, to be run on all steps at once, and differentiated."""

    def __init__(self, cell: Any, x: Tensor, first: Any, states: Any, names: list[str], loss: Loss) -> None:
        self.cell, self.x, self.loss = cell, x, loss
        self.tree = first
        self.after = [np.asarray(part) for part in leaves(states)]
        begin = [np.asarray(part) for part in leaves(first)]
        self.before = [np.concatenate([b[None], a[:-1]]) for b, a in zip(begin, self.after)]
        self.parts: dict[str, slice] = {}
        end = 0
        for name, part in zip(names, begin):
            width = int(np.prod(part.shape[1:]))
            self.parts[name] = slice(end, end + width)
            end += width
        self.size = end
        self.output_part: slice | None = None

    def run(
        self, steps: slice, wants: bool = True, given: list[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor, list[Tensor], dict[str, Tensor]]:
        """These steps as rows of one: their states (or those given), the output, the new states, what is named."""
        if given is None:
            given = [Tensor(part[steps].reshape(-1, *part.shape[2:]).copy()) for part in self.before]
            for part in given:
                part.requires_grad = wants
        x = np.asarray(self.x)[steps]
        with enable_grad(), named_values() as named:
            y, new = self.cell.checked_step(Tensor(x.reshape(-1, *x.shape[2:])), unflatten(self.tree, iter(given)))
        parts = [as_tensor(part) for part in leaves(new)]
        for part, where in zip(parts, self.parts.values()):
            if part is y:  # as most cells: the output is a part of the state
                self.output_part = where
        return given, y, parts, named

    def slopes(self, gates: bool = True) -> _Slopes:
        """The derivatives of every step; without gates, with all that is named, but for states, held as it is.

        What has the name of a state is one on its way, such as before a projection.
        """
        given, y, new, named = self.run(slice(None))
        states = {id(part) for part in new}
        for name, tensor in named.items() if not gates else ():
            if id(tensor) not in states and name not in self.parts and tensor.requires_grad:
                tensor.register_hook(lambda g: g * 0.0)
        inputs = [part for part in (*given, *new) if part.requires_grad]
        steps, rows = self.x.shape[:2]

        def flat(g: Any, of: Tensor) -> Array:
            width = int(np.prod(of.shape[1:]))
            return np.zeros((steps * rows, width)) if g is None else np.asarray(g, np.float64).reshape(-1, width)

        def slope(part: Tensor) -> Iterator[tuple[Array, Array]]:
            """Of each unit of an output, over the state before and over the new state."""
            width = int(np.prod(part.shape[1:]))
            for unit in range(width):
                seed = np.zeros((part.shape[0], width), part.dtype)
                seed[:, unit] = 1.0
                found: Any = [None] * len(inputs)
                if part.requires_grad:
                    start = Tensor(seed.reshape(part.shape))
                    found = grad(part, inputs, start, allow_unused=True, retain_graph=True)
                known = {id(of): g for of, g in zip(inputs, found)}
                over = [np.concatenate([flat(known.get(id(of)), of) for of in part_of], -1) for part_of in (given, new)]
                yield over[0], over[1]

        def stacked(outputs: list[Tensor]) -> list[Array]:
            pairs = zip(*[pair for part in outputs for pair in slope(part)])
            return [np.stack(side, 1).reshape(steps, rows, -1, self.size) for side in pairs]

        return _Slopes(*stacked(new), *stacked([y]))

    def arrivals(self) -> Array:
        """d L_t / d y_t, (T, B, O)."""
        found = []
        with no_grad():
            _, every, _, _ = self.run(slice(None), wants=False)
        outputs = np.asarray(every).reshape(*self.x.shape[:2], *every.shape[1:])
        for t, values in enumerate(outputs):
            y = Tensor(values.copy())
            y.requires_grad = True
            with enable_grad():
                value = self.loss(y, t)
                if not isinstance(value, Tensor) or value.shape != ():
                    got = value.shape if isinstance(value, Tensor) else repr(value)
                    raise ArgumentError(
                        "flow: the loss of a step is a scalar", expected="a tensor of shape ()", got=got
                    )
                found.append(np.asarray(grad(value, y), np.float64).reshape(len(values), -1))
        return np.stack(found)

    def shares(self, gradients: Array, arrives: Array, losses: list[int]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Each step's part of dL / dW: its norm; and the sum of them."""
        named = dict(self.cell.named_parameters())
        trained = {name: p for name, p in named.items() if p.requires_grad}
        norms: dict[str, list[float]] = {name: [] for name in trained}
        sums = {name: np.zeros(p.shape) for name, p in trained.items()}
        for t in range(len(self.x)):
            first = None if t else list(map(as_tensor, leaves(self.tree)))  # a learned one has its part too
            _, y, new, _ = self.run(slice(t, t + 1), given=first)
            seeds = []
            for part, where in zip(new, self.parts.values()):
                seeds.append((part, gradients[t][:, where].reshape(part.shape)))
            if self.output_part is None and t in losses:
                seeds.append((y, arrives[t].reshape(y.shape)))
            seeds = [(part, seed) for part, seed in seeds if part.requires_grad]
            found = grad(
                [part for part, _ in seeds],
                list(trained.values()),
                [Tensor(seed.astype(part.dtype)) for part, seed in seeds],
                allow_unused=True,
            )
            for name, g in zip(trained, found):
                share = np.zeros(trained[name].shape) if g is None else np.asarray(g, np.float64)
                norms[name].append(float(_norm(share, tuple(range(share.ndim)))))
                sums[name] += share
        return {name: np.array(values) for name, values in norms.items()}, sums


def _exponents(jacobians: Array) -> Array:
    """Benettin's way: how fast orthogonal directions grow, made orthogonal again at each step. Each row has its own.

    The first are those that the first step stretches most: a direction that it loses takes the last place.
    """
    steps, rows, size = jacobians.shape[:3]
    total = np.zeros((rows, size))
    q = np.broadcast_to(np.eye(size), (rows, size, size))
    if np.isfinite(jacobians[0]).all():
        q = np.linalg.svd(jacobians[0])[2].swapaxes(1, 2)
    for jacobian in jacobians:
        q, r = np.linalg.qr(jacobian @ q)
        with np.errstate(divide="ignore"):
            total += np.log(np.abs(np.diagonal(r, axis1=1, axis2=2)))
    return np.asarray(np.sort(total, 1)[:, ::-1].mean(0) / steps)
