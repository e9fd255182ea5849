"""The tape as a graph of plain nodes: every op once, and what it was given.

The tape keeps no node for a tensor through which no gradient flows: it may be data, a zero initial state, a frozen
weight or a number. What it is follows from the cell being the same program at every step: an operand that at the next
step is this step's result is a state, an initial one where it comes from nowhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..autograd.pytree import leaves
from ..autograd.replay import unfolded
from ..autograd.tape import Node as TapeNode
from ..autograd.tape import Tape, writes
from ..autograd.tensor import Tensor
from ..errors import ArgumentError
from ..nn.module import Parameter
from . import measure
from .measure import Seen, Statistics
from .nodes import Edge, Graph, Node, merged
from .spots import Spot, spots


def read(result: Any, parameters: Mapping[str, Tensor] | None = None, measured: bool = False) -> Graph:
    """The graph behind a result.

    Args:
        result: a tensor, a pytree of tensors, or a `Tape`, of which every op is taken.
        parameters: tensors by name. Those that nothing uses are in the graph too.
        measured: whether the gradient of the result (of the sum of its elements; of a tape, of the last that can be
            differentiated) is taken with respect to every value.

    Raises:
        ArgumentError: for a result without a history.
        GraphError: where gradients are asked for and cannot be had.
    """
    roots = _roots(result)
    history = _history(result, roots)
    watch = measure.watch()  # sees what was watched the first time, and is run again
    watched = any(measure.seen(node) is not None for node in history)
    nodes, now = unfolded(history, measured, (watch,) if watched else ())
    watch.settle()
    gradients: dict[int, Statistics] | None = None
    if measured:
        for node in history:
            if type(node.saved) is tuple:
                writes.check(node, node.saved)
        ends = roots if not isinstance(result, Tape) else [node for node in roots if True in node.wanted][-1:]
        gradients = measure.gradients(nodes, [now.get(id(root), root) for root in ends])
    return _Reader(nodes, parameters or {}, gradients).graph()


def _history(result: Any, roots: list[TapeNode]) -> list[TapeNode]:
    """Every tape node behind the result, oldest first."""
    found: dict[int, TapeNode] = {}
    for root in reversed(roots):  # those of a tape lead to each other
        if root.order not in found:
            found.update((node.order, node) for node in root.ancestors())
    if not any(node.op is not None for node in found.values()):
        raise ArgumentError(
            "graph: there is nothing to draw",
            expected="a tensor that was computed from one that requires a gradient, or a Tape",
            got=f"{type(result).__name__} without a history",
            hint="with tg.Tape() as tape: ... and graph(tape) shows every operation that ran",
        )
    return [found[order] for order in sorted(found)]


def _roots(result: Any) -> list[TapeNode]:
    if isinstance(result, Tape):
        return result.nodes
    if isinstance(result, TapeNode):
        return [result]
    if isinstance(result, Tensor):
        return [result.node] if result.node is not None else []
    if isinstance(result, (tuple, list, dict)):
        return [node for part in leaves(result) for node in _roots(part)]
    raise ArgumentError(
        "graph: this has no graph", expected="a tensor, a pytree of tensors or a Tape", got=repr(result)
    )


class _Reader:
    """Reads one history; its fields are what the rules below need to look up."""

    def __init__(
        self, history: list[TapeNode], parameters: Mapping[str, Tensor], gradients: dict[int, Statistics] | None
    ) -> None:
        self.history, self.gradients, self.measured = history, gradients or {}, gradients is not None
        self.parameters = parameters
        self.name_of = {id(t.node): name for name, t in parameters.items() if t.node is not None}
        self.frozen = {id(t._array): name for name, t in parameters.items() if not t.requires_grad}
        self.spot = spots(history)
        self.program = self._programs()
        self.index = {id(node): i for ops in self.program.values() for i, node in enumerate(ops)}
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.id_of: dict[int, str] = {}
        self.data: dict[int, str] = {}

    def graph(self) -> Graph:
        for name, tensor in self.parameters.items():
            self._parameter(name, tensor, tensor.node)
        for i, node in enumerate(self.history):
            if node.op is None:
                self._leaf(i, node)
            else:
                self._op(f"n{i}", node)
        return Graph(tuple(self.nodes.values()), merged(self.edges))

    def _programs(self) -> dict[Spot, list[TapeNode]]:
        """The ops of each step of each layer, in the order they ran."""
        found: dict[Spot, list[TapeNode]] = {}
        for node in self.history:
            spot = self.spot[id(node)]
            if node.op is not None and spot is not None and spot.step is not None:
                found.setdefault(spot, []).append(node)
        return found

    def _parameter(self, name: str, tensor: Tensor | None, leaf: TapeNode | None) -> str:
        """A parameter's node, of what is still there of it."""
        id_, known = f"p {name}", tensor if tensor is not None else leaf
        assert known is not None
        made = Node(id_, "parameter", name, shape=tuple(known.shape), dtype=str(known.dtype))
        gradient = self.gradients.get(leaf.order) if leaf is not None else None
        if tensor is not None:
            if not self.measured and tensor.grad is not None:
                gradient = Statistics.of(tensor.grad._array)
            made = replace(made, trains=tensor.requires_grad, seen=Seen(Statistics.of(tensor._array)))
        self.nodes.setdefault(id_, replace(made, gradient=gradient))
        return id_

    def _leaf(self, i: int, node: TapeNode) -> None:
        owner = node.owner() if node.owner is not None else None
        if id(node) in self.name_of:
            self.id_of[id(node)] = f"p {self.name_of[id(node)]}"
        elif isinstance(owner, Parameter) or (node.owner is not None and owner is None):  # the second: a net since gone
            number = 1 + sum(known.kind == "parameter" for known in self.nodes.values())
            self.id_of[id(node)] = self._parameter(node.label or f"parameter {number}", owner, node)
        else:
            id_, name = f"n{i}", node.label or "input"
            made = Node(id_, "input", name, "", node.label, node.shape, str(node.dtype))
            self.nodes[id_] = replace(made, gradient=self.gradients.get(node.order))
            self.id_of[id(node)] = id_

    def _op(self, id_: str, node: TapeNode) -> None:
        assert node.op is not None
        joint = node.op.joint is not None  # a whole sequence that cannot be opened: its values were freed
        spot = self.spot[id(node)]
        states = [self._state(node, k) for k in range(len(node.parents))]
        operands = tuple(self._operand(node, k, states[k]) for k in range(len(node.parents)))
        self.id_of[id(node)] = id_
        made = Node(
            id_,
            "op",
            "fused" if joint else node.op.name,
            f"{spot.cell.removesuffix('Cell')} fused".strip() if joint and spot else node.op.symbol,
            node.label,
            node.shape,
            _dtype(node),
            operands=operands,
            numbers=_numbers(node),
            settings=_settings(node),
            members=(id_,),
            seen=measure.seen(node),
            gradient=self.gradients.get(node.order),
        )
        self.nodes[id_] = made = _placed(made, spot)
        for operand, state in zip(operands, states):
            if operand is not None:
                self.edges.append(self._edge(self.nodes[operand], made, state))

    def _edge(self, source: Node, target: Node, state: str | None) -> Edge:
        if source.kind == "parameter":
            return Edge(source.id, target.id, "parameter")
        if state is not None:
            return Edge(source.id, target.id, "recurrent", state)
        steps = source.step is not None and target.step is not None and source.step != target.step
        if steps and source.lane == target.lane:
            name = source.label or ("gradient" if source.derivative else "state")
            return Edge(source.id, target.id, "recurrent", name)
        return Edge(source.id, target.id)

    def _operand(self, node: TapeNode, k: int, state: str | None) -> str | None:
        """The id of an operand's node; where the tape has none, of one made for it."""
        assert node.op is not None
        op, spot, parent = node.op, self.spot[id(node)], node.parents[k]
        if parent is not None:
            known = self.nodes[self.id_of[id(parent)]]
            if state is not None:
                assert spot is not None
                kind = "initial" if known.kind == "input" else known.kind
                known = replace(known, kind=kind, label=known.label or state)
                self.nodes[known.id] = replace(_placed(known, spot), step=None)
            return known.id
        name = op.inputs[0 if op.variadic else k]
        array = _kept(node, name)
        shape, dtype = (array.shape, str(array.dtype)) if array is not None else (None, None)
        if array is not None and id(array) in self.frozen:
            return f"p {self.frozen[id(array)]}"
        if state is not None:
            assert spot is not None
            made = Node(f"initial {spot.lane} {state}", "initial", state, "", state, shape, dtype)
            made = replace(_placed(made, spot), step=None)
        elif array is None and inspect.signature(op.rule).parameters[name].default is None:
            return None  # left out, as a bias may be
        elif op.kind == "elementwise" and not shape:
            return None  # a number in the formula, such as 1 in 1 - z
        elif k == 0 and spot is not None and self._counterpart(node) is not None:
            id_ = f"input {spot.lane} {spot.step}"
            made = _placed(Node(id_, "input", "x", shape=shape, dtype=dtype), spot)
        else:
            id_ = f"constant {len(self.nodes)}"
            if array is not None and spot is None:  # the same data, given to several operations
                id_ = self.data.setdefault(id(array), id_)
            made = _placed(Node(id_, "constant", name, shape=shape, dtype=dtype), spot)
        return self.nodes.setdefault(made.id, made).id

    def _state(self, node: TapeNode, k: int) -> str | None:
        """The name of the state that an operand from outside the cell begins: what stands there at the next step."""
        parent = node.parents[k]
        if parent is not None and (parent.place is not None or id(parent) in self.name_of):
            return None
        other = self._counterpart(node)
        state = other.parents[k] if other is not None else None
        return (state.label or "state") if state is not None and self.spot[id(state)] == self.spot[id(node)] else None

    def _counterpart(self, node: TapeNode) -> TapeNode | None:
        """The op that is to the neighbouring step, where the cell ran the same program, what `node` is to its own."""
        spot = self.spot[id(node)]
        if spot is None or spot.step is None:
            return None
        here, i = self.program[spot], self.index[id(node)]
        for step in (spot.step + (-1 if spot.reverse else 1), spot.step + (1 if spot.reverse else -1)):
            there = self.program.get(spot._replace(step=step), [])
            if [other.op for other in there] == [other.op for other in here]:
                return there[i]
        return None


def _dtype(node: TapeNode) -> str:
    """The dtype's name, which NumPy takes long to find."""
    return _DTYPES.get(node.dtype.char) or str(node.dtype)


_DTYPES = {np.dtype(name).char: name for name in ("float32", "float64")}


def _placed(node: Node, spot: Spot | None) -> Node:
    if spot is None:
        return node
    cell, layer, reverse, step, derivative = spot
    return node.changed(cell=cell or None, layer=layer, reverse=reverse, step=step, derivative=derivative)


def _kept(node: TapeNode, name: str) -> Any:
    """The array of an operand, where backward will need it and has not freed it yet."""
    if node.op is None or type(node.saved) is not tuple or node.op.variadic:
        return None
    names = node.op.plan(node.wanted).kept if True in node.wanted else ()
    return node.saved[names.index(name)] if name in names and names.index(name) < len(node.saved) else None


def _numbers(node: TapeNode) -> tuple[str | None, ...]:
    """The inputs that are plain numbers."""
    settings = node.settings or {}
    if node.op is None or node.op.variadic:
        return ()
    return tuple(f"{settings[name]:g}" if name in settings else None for name in node.op.inputs)


def _settings(node: TapeNode) -> str:
    """The settings that say what the op did, in words."""
    settings = node.settings or {}
    if "run" in settings:  # of a whole sequence
        steps = getattr(settings["run"], "steps", None)
        return f"{steps} steps" if steps is not None else ""
    random = node.op is not None and node.op.random
    if "key" in settings and not random:
        key = settings["key"]
        return f"[{', '.join(_index(part) for part in (key if isinstance(key, tuple) else (key,)))}]"
    inputs = node.op.inputs if node.op is not None else ()
    shown = {
        name: value
        for name, value in settings.items()
        if name not in inputs and value is not None and value is not False and not (random and name == "key")
    }
    return ", ".join(f"{name}={_index(value)}" for name, value in shown.items())


def _index(part: Any) -> str:
    if isinstance(part, slice):
        ends = ["" if end is None else str(end) for end in (part.start, part.stop)]
        return ":".join(ends) + (f":{part.step}" if part.step is not None else "")
    if part is Ellipsis:
        return "…"
    if hasattr(part, "shape") and part.shape:
        return f"array{tuple(part.shape)}"
    return str(part)
