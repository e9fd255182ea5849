"""Our recurrent layers beside ONNX: its own node tests, its reference in float64, and onnxruntime.

None of them shares code or conventions with PyTorch: gates stand in another order, and there are peepholes, coupled
gates, clipping and other activations.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("torch", reason="the comparison stands beside torch's; the extra `parity` brings it")
onnx = pytest.importorskip("onnx", reason="parity needs the extra `parity`")
onnxruntime = pytest.importorskip("onnxruntime", reason="parity needs the extra `parity`")
from onnx.reference import ReferenceEvaluator  # noqa: E402 - it is ONNX
from parity import agree  # noqa: E402 - it imports torch
from parity_onnx import ACTIVATIONS, DEFAULT_ACTIVATIONS, GATES, Node, cases, layers, outputs  # noqa: E402

pytestmark = pytest.mark.parity

DIRECTIONS = ("forward", "reverse", "bidirectional")

# --- ONNX's own cases ---

CASES = cases()


@pytest.mark.parametrize(("name", "node", "wanted"), CASES, ids=[name for name, *_ in CASES])
def test_onnx_s_own_cases(name, node, wanted):
    for of_ours, layer in layers(node).items():
        found = outputs(node, layer)
        for output, array in wanted.items():
            assert found[output].dtype == array.dtype == np.float32
            agree(found[output], array, 1e-6, f"{output} of {of_ours}")


def test_no_case_of_onnx_is_lost():
    assert Counter(node.op for _, node, _ in CASES) == {"RNN": 6, "GRU": 6, "LSTM": 6}
    folder = Path(onnx.__file__).parent / "backend" / "test" / "case"
    files = [path for path in sorted(folder.rglob("*.py")) if any(f'"{op}"' in path.read_text("utf8") for op in GATES)]
    assert [path.name for path in files] == ["gru.py", "lstm.py", "rnn.py"]


# --- Random nodes ---

OPTIONAL = {"RNN": ("B", "initial_h"), "GRU": ("B", "initial_h"), "LSTM": ("B", "initial_h", "initial_c", "P")}


class Drawn(NamedTuple):
    """What is to be drawn: an operator with its attributes, which optional inputs it gets, how long the rows are."""

    op: str
    given: tuple[str, ...]
    attributes: dict[str, Any]
    lengths: str = "whole"
    sizes: tuple[int, int, int, int] | None = None

    @property
    def title(self) -> str:
        attributes = [f"{name}={value}" for name, value in self.attributes.items()]
        return " ".join([self.op, *self.given, *attributes, self.lengths])

    def node(self, seed: int, dtype: str) -> Node:
        """The node with random inputs."""
        rng = np.random.default_rng(seed)
        steps, batch_size, features, hidden = self.sizes or (int(n) for n in rng.integers((2, 2, 1, 3), 7))
        count, gates = 2 if self.attributes["direction"] == "bidirectional" else 1, len(GATES[self.op])
        shapes = {
            "X": (steps, batch_size, features),
            "W": (count, gates * hidden, features),
            "R": (count, gates * hidden, hidden),
            "B": (count, 2 * gates * hidden),
            "initial_h": (count, batch_size, hidden),
            "initial_c": (count, batch_size, hidden),
            "P": (count, 3 * hidden),
        }
        # In large layers the sums grow, and gates that are all open or shut would tell little.
        scale = 0.7 if self.sizes is None else 0.2
        inputs = {
            name: np.asarray(scale * rng.standard_normal(shape), dtype)
            for name, shape in shapes.items()
            if name in ("X", "W", "R", *self.given)
        }
        if self.attributes.get("layout"):
            turned = {name: inputs[name].swapaxes(0, 1) for name in ("X", "initial_h", "initial_c") if name in inputs}
            inputs.update({name: np.ascontiguousarray(array) for name, array in turned.items()})
        if self.lengths != "whole":
            lengths = rng.integers(1, steps + 1, batch_size)
            lengths[rng.integers(batch_size)] = 0 if self.lengths == "empty row" else steps - 1
            inputs["sequence_lens"] = lengths.astype(np.int32)
        attributes = {"hidden_size": hidden, **self.attributes}
        if len(attributes.get("activations", ())) == len(DEFAULT_ACTIVATIONS[self.op]):
            attributes["activations"] = attributes["activations"] * count
        return Node(self.op, attributes, inputs)


def product(op: str, lengths: tuple[str, ...] = ("whole",), **attributes: tuple[Any, ...]) -> list[Drawn]:
    """Every combination of optional inputs, attributes (None: left away) and kinds of lengths."""
    names = OPTIONAL[op]
    subsets = itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(len(names) + 1))
    choices = itertools.product(*attributes.values())
    return [
        Drawn(op, given, {name: value for name, value in zip(attributes, chosen) if value is not None}, kind)
        for given, chosen, kind in itertools.product(subsets, choices, lengths)
    ]


def titled(drawn: list[Drawn]) -> list[Any]:
    return [pytest.param(seed, one, id=one.title) for seed, one in enumerate(drawn)]


def model(node: Node) -> tuple[bytes, dict[str, Any]]:
    """The node as a model, and what it is to be fed with."""
    schema = onnx.defs.get_schema(node.op)
    results = [formal.name for formal in schema.outputs]
    inputs = [formal.name if formal.name in node.inputs else "" for formal in schema.inputs]
    float_or_double = onnx.helper.np_dtype_to_tensor_dtype(node.inputs["X"].dtype)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(node.op, inputs, results, **node.attributes)],
        "one node",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in node.inputs.items()
        ],
        [onnx.helper.make_tensor_value_info(name, float_or_double, None) for name in results],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    return made.SerializeToString(), node.inputs


# --- ONNX's reference, in float64: no lengths, no clipping, no coupled gates, no activations but its own ---

IN_FLOAT64 = [
    *product("RNN", direction=DIRECTIONS, layout=(0, 1)),
    *product("GRU", direction=DIRECTIONS, layout=(0, 1), linear_before_reset=(0, 1)),
    *product("LSTM", direction=DIRECTIONS, layout=(0, 1)),
]


@pytest.mark.parametrize(("seed", "drawn"), titled(IN_FLOAT64))
def test_beside_the_reference_in_float64(seed, drawn):
    node = drawn.node(seed, "float64")
    text, feed = model(node)
    wanted = ReferenceEvaluator(onnx.load_from_string(text)).run(None, feed)
    for of_ours, layer in layers(node).items():
        found = outputs(node, layer)
        assert len(found) == len(wanted)
        for (output, array), other in zip(found.items(), wanted):
            assert array.dtype == other.dtype == np.float64
            agree(array, other, 1e-12, f"{output} of {of_ours}")


# --- onnxruntime, in float32 ---

LENGTHS = ("whole", "shorter", "empty row")
CLIP = (None, 0.5)
AT_RANDOM = [
    *product("RNN", LENGTHS, direction=DIRECTIONS, activations=(("Tanh",), ("Relu",)), clip=CLIP),
    *product("RNN", LENGTHS, direction=("bidirectional",), activations=(("Tanh", "Relu"), ("Relu", "Tanh"))),
    *product("GRU", LENGTHS, direction=DIRECTIONS, linear_before_reset=(0, 1), clip=CLIP),
    *product("LSTM", LENGTHS, direction=DIRECTIONS, input_forget=(0, 1), clip=CLIP),
]


def with_activations() -> list[Drawn]:
    """Every activation at every place, in the second direction alone.

    Clipped: gates that are not between 0 and 1 let the state grow, and onnxruntime's Softplus is infinite above 88.
    """
    found = []
    for op, default in DEFAULT_ACTIVATIONS.items():
        for place, name in itertools.product(range(len(default)), ACTIVATIONS):
            chosen = (*default, *default[:place], name, *default[place + 1 :])
            attributes = {"direction": "bidirectional", "activations": chosen, "clip": 2.0}
            found.append(Drawn(op, OPTIONAL[op][:3], attributes, "shorter"))
    return found


#: Long enough that errors would grow, wide enough for the kernels of large products.
LARGE = [
    Drawn(op, OPTIONAL[op][:3], {"direction": direction}, "shorter", (60, 17, 33, 40))
    for op, direction in itertools.product(GATES, DIRECTIONS)
]

BESIDE_ONNXRUNTIME = [*AT_RANDOM, *with_activations(), *LARGE]


def run_by_onnxruntime(node: Node) -> list[Any]:
    text, feed = model(node)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    results: list[Any] = onnxruntime.InferenceSession(text, options, ["CPUExecutionProvider"]).run(None, feed)
    return results


def unreadable(node: Node) -> Node:
    """The node with NaN where a row has ended: what is behind the lengths must not be read."""
    if "sequence_lens" not in node.inputs:
        return node
    x = node.inputs["X"].copy()
    x[np.arange(len(x))[:, None] >= node.inputs["sequence_lens"]] = np.nan
    return node._replace(inputs={**node.inputs, "X": x})


@pytest.mark.parametrize(("seed", "drawn"), titled(BESIDE_ONNXRUNTIME))
def test_beside_onnxruntime(seed, drawn):
    node = drawn.node(seed, "float32")
    wanted = run_by_onnxruntime(node)
    # The final state of a row without a step is the initial one here, and 0 there.
    empty = np.asarray(node.inputs.get("sequence_lens", np.ones(node.inputs["X"].shape[1]))) == 0
    for of_ours, layer in layers(node).items():
        found = outputs(unreadable(node), layer)
        assert len(found) == len(wanted)
        for (output, array), other in zip(found.items(), wanted):
            assert array.dtype == other.dtype == np.float32
            if output != "Y":
                initial = node.inputs.get({"Y_h": "initial_h", "Y_c": "initial_c"}[output], np.zeros_like(array))
                np.testing.assert_array_equal(array[:, empty], initial[:, empty])
                np.testing.assert_array_equal(other[:, empty], 0.0)
                array, other = array[:, ~empty], other[:, ~empty]
            agree(array, other, 1e-5, f"{output} of {of_ours}")


@pytest.mark.parametrize(
    ("attributes", "dtype"), [({"layout": 1}, "float32"), ({}, "float64")], ids=["layout=1", "float64"]
)
@pytest.mark.parametrize("op", GATES)
def test_what_onnxruntime_does_not_take_is_left_to_the_reference(op, attributes, dtype):
    node = Drawn(op, (), {"direction": "forward", **attributes}).node(0, dtype)
    with pytest.raises(Exception, match=r"layout|float64|double|NOT_IMPLEMENTED"):
        run_by_onnxruntime(node)


# --- What was compared ---


def counted(nodes: list[Node]) -> tuple[int, Counter[str], Counter[str]]:
    """How many nodes; how often each cell was compared in `Recurrent` or `Bidirectional`; and each layer of `nn`."""
    made = [pair for node in nodes for pair in layers(node).items()]
    general = [layer for name, layer in made if name in ("Recurrent", "Bidirectional")]
    in_cells = Counter(type(getattr(layer, "cell", None) or layer.backwards.cell).__name__ for layer in general)
    return len(nodes), in_cells, Counter(type(layer).__name__ for _, layer in made if layer not in general)


def test_nothing_is_lost():
    assert counted([node for _, node, _ in CASES]) == (
        18,
        {"RNNCell": 6, "GRUCell": 6, "LSTMCell": 5, "PeepholeLSTMCell": 1},
        {"RNN": 5, "GRU": 5, "LSTM": 4},
    )
    assert counted([one.node(0, "float64") for one in IN_FLOAT64]) == (
        168,
        {"RNNCell": 24, "GRUCell": 48, "LSTMCell": 48, "PeepholeLSTMCell": 48},
        {"RNN": 16, "GRU": 32, "LSTM": 32},
    )
    users = {"OnnxRNNCell": 80, "OnnxGRUCell": 88, "OnnxLSTMCell": 384}
    assert counted([one.node(0, "float32") for one in BESIDE_ONNXRUNTIME]) == (
        945,
        {"RNNCell": 99, "GRUCell": 75, "LSTMCell": 75, "CoupledLSTMCell": 72, "PeepholeLSTMCell": 72, **users},
        {"RNN": 50, "GRU": 50, "LSTM": 50},
    )
