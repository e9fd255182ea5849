"""ONNX's recurrent operators said in our layers, by hand: from a node's attributes and inputs to its outputs.

Where none of the library's cells says it (clipping, other activations, peepholes with coupled gates), a cell of a
user's does: it is written here, with the library's functions alone, and keeps ONNX's weights as they are.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

Array = np.ndarray[Any, Any]

#: The gates in the order of their rows in W, R and B.
GATES = {"RNN": "h", "GRU": "zrh", "LSTM": "iofc"}
DEFAULT_ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}

#: With ONNX's defaults of alpha and beta.
ACTIVATIONS = {
    "Sigmoid": tg.sigmoid,
    "Tanh": tg.tanh,
    "Relu": tg.relu,
    "Softsign": tg.softsign,
    "Softplus": tg.softplus,
    "Elu": tg.elu,
    "LeakyRelu": tg.leaky_relu,
    "HardSigmoid": lambda x: tg.clip(0.2 * x + 0.5, 0.0, 1.0),
}


class Node(NamedTuple):
    """An operator with its attributes, and its inputs by the schema's names; a missing one is not there."""

    op: str
    attributes: dict[str, Any]
    inputs: dict[str, Array]

    @property
    def direction(self) -> str:
        return str(self.attributes.get("direction", "forward"))

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def activations(self, direction: int) -> tuple[str, ...]:
        """Those of one direction."""
        default = DEFAULT_ACTIVATIONS[self.op]
        given = tuple(self.attributes.get("activations", default * self.directions))
        return given[direction * len(default) :][: len(default)]


# --- The library's cells ---


class Match(NamedTuple):
    """A cell of ours that says what a node does, the order of its gates, and the layer of the same name."""

    cell: type[Any]
    gates: str
    settings: dict[str, Any]
    layer: type[Any] | None


def match(node: Node, direction: int) -> Match | None:
    """Our cell for a node, or None where there is no such cell."""
    activations, peepholes = node.activations(direction), "P" in node.inputs
    if "clip" in node.attributes:
        return None
    if node.op == "RNN":
        named = {"Tanh": "tanh", "Relu": "relu"}.get(activations[0])
        return Match(nn.RNNCell, "h", {"nonlinearity": named}, nn.RNN) if named else None
    if activations != DEFAULT_ACTIVATIONS[node.op]:
        return None
    if node.op == "GRU":
        return Match(nn.GRUCell, "rzh", {"reset_after": bool(node.attributes.get("linear_before_reset", 0))}, nn.GRU)
    if node.attributes.get("input_forget", 0):
        return None if peepholes else Match(nn.CoupledLSTMCell, "ico", {}, None)
    return Match(nn.PeepholeLSTMCell, "ifco", {}, None) if peepholes else Match(nn.LSTMCell, "ifco", {}, nn.LSTM)


def weights(node: Node, gates: str, direction: int) -> dict[str, Array]:
    """The state dict of one of our cells."""

    def ordered(rows: Array) -> Array:
        blocks = dict(zip(GATES[node.op], np.split(rows, len(GATES[node.op]))))
        return np.concatenate([blocks[gate] for gate in gates])

    given = {name: array[direction] for name, array in node.inputs.items() if name in ("W", "R", "B", "P")}
    found = {"weight_ih": ordered(given["W"]), "weight_hh": ordered(given["R"])}
    if "B" in given:
        found["bias_ih"], found["bias_hh"] = map(ordered, np.split(given["B"], 2))
    if "P" in given:
        found.update(zip(("peephole_input", "peephole_output", "peephole_forget"), np.split(given["P"], 3)))
    return found


# --- A user's cells ---


class OnnxCell(nn.Cell):
    """What they share: ONNX's weights of one direction, its activations, and clipping of what these are given."""

    def __init__(self, node: Node, direction: int) -> None:
        given = {name: array[direction] for name, array in node.inputs.items() if name in ("W", "R", "B", "P")}
        self.hidden_size, self.input_size = given["R"].shape[1], given["W"].shape[1]
        self.weight, self.recurrence = nn.Parameter(given["W"]), nn.Parameter(given["R"])
        bias = np.zeros(2 * len(given["W"]), given["W"].dtype)
        self.bias, self.recurrence_bias = map(nn.Parameter, np.split(given.get("B", bias), 2))
        peepholes = np.zeros(3 * self.hidden_size, given["W"].dtype)
        self.peepholes = nn.Parameter(given.get("P", peepholes).reshape(3, -1))
        self.functions = [ACTIVATIONS[name] for name in node.activations(direction)]
        self.settings = node.attributes

    def activated(self, which: int, x: Any) -> Any:
        bound = self.settings.get("clip")
        return self.functions[which](x if bound is None else tg.clip(x, -bound, bound))


class OnnxRNNCell(OnnxCell):
    def step(self, x, state):
        mixed = tg.linear(x, self.weight, self.bias) + tg.linear(state, self.recurrence, self.recurrence_bias)
        hidden = self.activated(0, mixed)
        return hidden, hidden


class OnnxGRUCell(OnnxCell):
    def step(self, x, state):
        size = self.hidden_size
        input_z, input_r, input_h = tg.split(tg.linear(x, self.weight, self.bias), 3, axis=-1)
        rows, last = slice(0, 2 * size), slice(2 * size, None)
        hidden_z, hidden_r = tg.split(tg.linear(state, self.recurrence[rows], self.recurrence_bias[rows]), 2, axis=-1)
        update, reset = self.activated(0, input_z + hidden_z), self.activated(0, input_r + hidden_r)
        if self.settings.get("linear_before_reset", 0):
            past = reset * tg.linear(state, self.recurrence[last], self.recurrence_bias[last])
        else:
            past = tg.linear(reset * state, self.recurrence[last], self.recurrence_bias[last])
        hidden = (1.0 - update) * self.activated(1, input_h + past) + update * state
        return hidden, hidden


class OnnxLSTMCell(OnnxCell):
    def initial_state(self, batch_size):
        return self.zeros(batch_size, self.hidden_size), self.zeros(batch_size, self.hidden_size)

    def step(self, x, state):
        hidden, cell = state
        mixed = tg.linear(x, self.weight, self.bias) + tg.linear(hidden, self.recurrence, self.recurrence_bias)
        i, o, f, c = tg.split(mixed, 4, axis=-1)
        peephole_i, peephole_o, peephole_f = self.peepholes
        write = self.activated(0, i + peephole_i * cell)
        coupled = self.settings.get("input_forget", 0)
        keep = 1.0 - write if coupled else self.activated(0, f + peephole_f * cell)
        cell = keep * cell + write * self.activated(1, c)
        # The specification bounds the input of every activation; onnxruntime leaves that of the last one alone.
        hidden = self.activated(0, o + peephole_o * cell) * self.functions[2](cell)
        return hidden, (hidden, cell)


USERS = {"RNN": OnnxRNNCell, "GRU": OnnxGRUCell, "LSTM": OnnxLSTMCell}


# --- Layers, and a node's outputs ---


def cell_for(node: Node, direction: int) -> Any:
    """One of the library's cells, or a user's, with the node's weights."""
    found = match(node, direction)
    if found is None:
        return USERS[node.op](node, direction)
    state = weights(node, found.gates, direction)
    cell = found.cell(*_sizes(node), "B" in node.inputs, **found.settings, dtype=node.inputs["W"].dtype)
    cell.load_state_dict(state)
    return cell


def _sizes(node: Node) -> tuple[int, int]:
    return node.inputs["W"].shape[2], node.inputs["R"].shape[2]


def layers(node: Node) -> dict[str, Any]:
    """Every layer of ours that does what the node does, by name."""
    batch_first = bool(node.attributes.get("layout", 0))
    cells = [cell_for(node, direction) for direction in range(node.directions)]
    if node.directions == 2:
        made: dict[str, Any] = {"Bidirectional": nn.Bidirectional(*cells, batch_first=batch_first)}
    else:
        made = {"Recurrent": nn.Recurrent(cells[0], batch_first, reverse=node.direction == "reverse")}
    found = [match(node, direction) for direction in range(node.directions)]
    first = found[0]
    if first is not None and first.layer is not None and node.direction != "reverse" and found[0] == found[-1]:
        settings = {"batch_first": batch_first, "bidirectional": node.directions == 2, **first.settings}
        layer = first.layer(*_sizes(node), bias="B" in node.inputs, dtype=node.inputs["W"].dtype, **settings)
        named = [(weights(node, first.gates, d), suffix) for d, suffix in zip(range(node.directions), ("", "_reverse"))]
        layer.load_state_dict({f"{name}_l0{suffix}": array for state, suffix in named for name, array in state.items()})
        made[first.layer.__name__] = layer
    return made


def outputs(node: Node, layer: Any) -> dict[str, Array]:
    """Y, Y_h and, of an LSTM, Y_c, in ONNX's shapes, of one of the node's `layers`."""
    x, layout = node.inputs["X"], node.attributes.get("layout", 0)
    size = node.inputs["R"].shape[2]
    batch_size = x.shape[0 if layout else 1]
    names = ["initial_h", "initial_c"] if node.op == "LSTM" else ["initial_h"]
    state = None
    if any(name in node.inputs for name in names):
        zero = np.zeros((node.directions, batch_size, size), x.dtype)
        given = [_turned(node.inputs[name], layout) if name in node.inputs else zero for name in names]
        state = _ours(node, layer, [tg.tensor(part) for part in given])
    y, final = layer(tg.tensor(x), state, lengths=node.inputs.get("sequence_lens"))
    y = y.numpy().reshape(*y.shape[:2], node.directions, size)
    parts = [_turned(part, layout) for part in _theirs(node, layer, final)]
    return dict(zip(["Y", "Y_h", "Y_c"], [y if layout else y.swapaxes(1, 2), *parts]))


def _turned(state: Array, layout: int) -> Array:
    """(directions, B, H) and, where layout is 1, (B, directions, H)."""
    return state.swapaxes(0, 1) if layout else state


def _ours(node: Node, layer: Any, parts: list[Any]) -> Any:
    """Parts (directions, B, H) of a state as the layer has them."""
    if isinstance(layer, (nn.RNN, nn.GRU, nn.LSTM)):
        return tuple(parts) if node.op == "LSTM" else parts[0]
    each = [tuple(part[d] for part in parts) if node.op == "LSTM" else parts[0][d] for d in range(node.directions)]
    return tuple(each) if node.directions == 2 else each[0]


def _theirs(node: Node, layer: Any, state: Any) -> list[Array]:
    """The layer's state as parts (directions, B, H)."""
    parts = state if node.op == "LSTM" else (state,)
    if not isinstance(layer, (nn.RNN, nn.GRU, nn.LSTM)):
        each = state if node.directions == 2 else (state,)
        parts = zip(*each) if node.op == "LSTM" else (each,)
        return [np.stack([part.numpy() for part in group]) for group in parts]
    return [part.numpy() for part in parts]


# --- ONNX's own cases ---


def cases() -> list[tuple[str, Node, dict[str, Array]]]:
    """ONNX's node tests of these operators: name, node, and the outputs wanted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ONNX's own files
        import onnx.backend.test.case.node
        import onnx.backend.test.case.node.gru
        import onnx.backend.test.case.node.lstm
        import onnx.backend.test.case.node.rnn
    return [_read(case) for case in onnx.backend.test.case.node._NodeTestCases if _op(case) in GATES]


def _op(case: Any) -> str:
    return str(case.model.graph.node[0].op_type)


def _read(case: Any) -> tuple[str, Node, dict[str, Array]]:
    import onnx

    (node,), ((given, wanted),) = case.model.graph.node, case.data_sets
    schema = onnx.defs.get_schema(node.op_type)
    attributes = {part.name: onnx.helper.get_attribute_value(part) for part in node.attribute}
    attributes = {name: part.decode() if isinstance(part, bytes) else part for name, part in attributes.items()}
    inputs = dict(zip((formal.name for formal, name in zip(schema.inputs, node.input) if name), given))
    results = dict(zip((formal.name for formal, name in zip(schema.outputs, node.output) if name), wanted))
    return case.name, Node(node.op_type, attributes, inputs), results
