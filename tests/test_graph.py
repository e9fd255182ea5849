"""The graph tool: what stands in the graph, where Graphviz puts it, and what happens where there is no Graphviz."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, FileError, MissingError
from tinygrad_rnn.nn import GRU, LSTM, RNN, LSTMCell, Module, Parameter, Recurrent
from tinygrad_rnn.viz import render, style
from tinygrad_rnn.viz.levels import LEVELS, at_level
from tinygrad_rnn.viz.read import read

try:
    render.program("svg")
    DRAWS = True
except MissingError:
    DRAWS = False

needs_graphviz = pytest.mark.skipif(not DRAWS, reason="neither dot nor graphviz-pure is installed")


def run(make=LSTM, layers=1, steps=3, **named):
    net = make(4, 8, layers, **named)
    with tg.Tape() as tape:
        outputs, _ = net(tg.zeros(steps, 2, 4))
    return net, tape, outputs


def plain(source):
    """The positions that Graphviz gives: from node names to (x, y)."""
    text = render.render(render.program("plain"), source, "plain") if DRAWS else b""
    found = {}
    for line in text.decode().splitlines():
        if line.startswith("node "):
            rest = line[5:]
            name, rest = rest[1:].split('" ', 1) if rest.startswith('"') else rest.split(" ", 1)
            x, y = rest.split()[:2]
            found[name] = (float(x), float(y))
    return found


@pytest.fixture(autouse=True)
def _any_format(monkeypatch):
    monkeypatch.setattr(render, "PURE", (*render.PURE, "plain"))


# --- What stands in it ---


@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
def test_every_operation_on_the_tape_stands_at_level_op_exactly_once(make):
    net, tape, outputs = run(make, layers=2, steps=5)
    drawn = tg.viz.graph(tape, level="op", module=net).graph
    ops = drawn.of_kind("op")
    assert [op.name for op in ops] == [node.op.name for node in tape.nodes]
    assert [op.shape for op in ops] == [node.shape for node in tape.nodes]
    # and from the result alone, all that it was made from
    behind = [node for node in outputs.node.ancestors() if node.op is not None]
    assert [op.name for op in tg.viz.graph(outputs, level="op").graph.of_kind("op")] == [n.op.name for n in behind]


@pytest.mark.parametrize("level", LEVELS)
def test_each_operation_is_in_one_group_of_each_level(level):
    _, _, outputs = run(layers=1, steps=3)
    ops = read(outputs)
    members = [id for node in at_level(ops, level).nodes for id in node.members]
    assert len(members) == len(set(members))
    assert set(members) == {node.id for node in ops.of_kind("op")}


@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
@pytest.mark.parametrize("layers", [1, 2])
def test_gate_level_keeps_who_reaches_whom(make, layers):
    _, tape, outputs = run(make, layers=layers, steps=4)
    drawn = tg.viz.graph(outputs, level="gate", fold=None).graph
    named = [(node.label, node.layer, node.step) for node in drawn.nodes if node.value == node.id or node.label]
    # From the tape itself: a step that is stacked and taken out again is that step.
    below = {}
    for node in tape.nodes:
        parents = [parent for parent in node.parents if parent is not None]
        if node.op.name == "getitem" and parents[0].op is not None and parents[0].op.name == "stack":
            parents = [parents[0].parents[node.settings["key"]]]
        below[node] = set(parents).union(*(below.get(parent, ()) for parent in parents))
    place = {node: (node.label, node.place.layer, node.place.step) for node in tape.nodes if node.label}
    expected = {(place[a], place[b]) for b in place for a in below[b] if a in place}

    reached = {}
    for node in drawn.nodes:
        reached[node.id] = set()
    for node in drawn.nodes:
        for edge in drawn.edges:
            if edge.target == node.id:
                reached[node.id] |= {edge.source} | reached[edge.source]
    where = {n.id: (n.label, n.layer, n.step) for n in drawn.nodes if n.kind == "group" and n.label}
    found = {(where[a], where[b]) for b in where for a in reached[b] if a in where}
    assert found == expected
    assert len(where) == len(place) <= len(named)


def test_gates_are_named_and_say_what_they_compute():
    _, _, outputs = run(LSTM)
    drawn = tg.viz.graph(outputs, level="gate").graph
    second = {node.name: node.formula for node in drawn.nodes if node.step == 1 and node.kind == "group"}
    assert second == {
        "": "linear(x) + linear(previous hidden)",
        "input gate": "σ",
        "forget gate": "σ",
        "candidate": "tanh",
        "output gate": "σ",
        "cell": "forget gate × previous cell + input gate × candidate",
        "hidden": "output gate × tanh(cell)",
    }
    states = {(edge.name, drawn[edge.source].kind) for edge in drawn.edges if edge.kind == "recurrent"}
    assert states == {(name, kind) for name in ("hidden", "cell") for kind in ("initial", "group")}


@pytest.mark.parametrize("taped", [True, False])
def test_what_has_no_node_on_the_tape_is_still_told_apart(taped):
    net = GRU(4, 8)
    if taped:
        with tg.Tape():
            outputs, _ = net(tg.zeros(3, 2, 4))
    else:
        outputs, _ = net(tg.zeros(3, 2, 4))
    outputs.sum().backward()  # which frees what the vjps had kept
    drawn = tg.viz.graph(outputs, level="gate").graph
    assert [node.step for node in drawn.of_kind("input")] == [0, 1, 2]
    assert [node.label for node in drawn.of_kind("initial")] == ["hidden"]
    assert not drawn.of_kind("constant")


def test_a_given_state_is_the_initial_one():
    net = LSTM(4, 8)
    state = tuple(tg.zeros(1, 2, 8, requires_grad=True) for _ in range(2))
    outputs, _ = net(tg.zeros(3, 2, 4), state)
    drawn = tg.viz.graph(outputs, level="gate").graph
    starts = {edge.name for edge in drawn.edges if edge.kind == "recurrent" and drawn[edge.source].step is None}
    assert starts == {"hidden", "cell"}


def test_levels_grow_coarser_and_keep_counts():
    _, _, outputs = run(layers=2, steps=4)
    sizes = [len(tg.viz.graph(outputs, level=level).graph.nodes) for level in LEVELS]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    rolled = tg.viz.graph(outputs, level="layer").graph
    loops = {(edge.name, edge.times) for edge in rolled.edges if edge.source == edge.target}
    assert loops == {("hidden", 3), ("cell", 3)}


def test_auto_is_the_finest_level_below_400_nodes():
    _, _, outputs = run(steps=3)
    assert tg.viz.graph(outputs).stats["level"] == "op"
    _, _, outputs = run(steps=40)
    picture = tg.viz.graph(outputs, fold=None)
    assert picture.stats["level"] == "gate" and picture.stats["nodes"] < 400


def test_a_very_long_sequence():
    net = RNN(1, 1)
    outputs, _ = net(tg.zeros(5000, 1, 1))
    picture = tg.viz.graph(outputs, module=net)
    assert picture.stats["steps"] == 5000 and picture.stats["nodes"] < 400
    assert "steps 3 to 4999" in picture.source


# --- Folding ---


def test_folding_counts_what_it_hides():
    net, tape, _ = run(layers=2, steps=12)
    picture = tg.viz.graph(tape, level="gate", module=net)
    assert "steps 3 to 11\\n9 steps, same parameters" in picture.source
    hidden = [node for node in tape.nodes if node.place is not None and 2 <= node.place.step < 11]
    taken = [node for node in hidden if node.op.name == "getitem" and node.settings["key"] in range(12)]
    assert picture.stats["hidden_steps"] == 9
    assert picture.stats["hidden_ops"] == len(hidden) - len([node for node in taken if node.place.layer == 1])
    assert picture.graph.steps == [0, 1, 2, 11]


@pytest.mark.parametrize(
    ("fold", "steps"), [(None, 9), ("auto", 4), ((3, 2), 6), ((0, 1), 2), ((9, 9), 9), ((1, 0), 2)]
)
def test_folds(fold, steps):
    _, _, outputs = run(steps=9)
    assert len(tg.viz.graph(outputs, level="gate", fold=fold).graph.steps) == steps


# --- Parameters ---


class Tied(Module):
    """One weight used twice in a step, one never, one frozen."""

    def __init__(self):
        self.cell = LSTMCell(4, 4)
        self.cell.weight_hh = self.cell.weight_ih
        self.cell.bias_hh.requires_grad = False
        self.spare = Parameter(tg.zeros(2))
        self.layer = Recurrent(self.cell)

    def forward(self, x):
        return self.layer(x)[0]


def test_shared_unused_and_frozen_parameters():
    net = Tied()
    with tg.Tape():
        outputs = net(tg.zeros(3, 1, 4))
    picture = tg.viz.graph(outputs, level="gate", module=net)
    found = {node.name: node for node in picture.graph.of_kind("parameter")}
    uses = {node.name: picture.graph.uses()[node.id] for node in found.values()}
    assert uses == {"cell.weight_ih": 6, "cell.bias_ih": 3, "cell.bias_hh": 3, "spare": 0}
    assert not found["cell.bias_hh"].trains and found["spare"].trains
    assert "×6 uses" in picture.source and "not used" in picture.source and "frozen" in picture.source


def test_a_frozen_weight_that_backward_needs_is_known():
    net = RNN(4, 4)
    net.cells[0].weight_hh = Parameter(tg.ones(4, 4), requires_grad=False)
    outputs, _ = net(tg.zeros(3, 1, 4))
    graph = tg.viz.graph(outputs, level="gate", module=net).graph
    uses = {graph[id].name: count for id, count in graph.uses().items()}
    assert uses["weight_hh_l0"] == 2  # the first step's state needs no gradient, so that step kept nothing of it


def test_ways_to_draw_parameters():
    net, _, outputs = run()
    source = {
        how: tg.viz.graph(outputs, level="gate", params=how, module=net).source for how in ("ghost", "once", "none")
    }
    chips = [line for line in source["ghost"].splitlines() if line.strip().startswith('"chip') and "[label" in line]
    assert len(chips) == 3 and len({line.split("[", 1)[1] for line in chips}) == 1  # one a step, all alike
    assert source["once"].count('"p weight_ih_l0" ->') == 3
    assert '"chip ' not in source["once"] and "weight_ih" not in source["none"]


def test_parameters_without_names_have_shapes():
    _, _, outputs = run()
    parameters = tg.viz.graph(outputs).graph.of_kind("parameter")
    assert [node.shape for node in parameters] == [(32, 4), (32, 8), (32,), (32,)]


def test_names_make_parameters_of_plain_tensors():
    weight = tg.ones(3, requires_grad=True)
    graph = tg.viz.graph(weight * 2.0, names={"scale": weight}).graph
    assert [node.name for node in graph.of_kind("parameter")] == ["scale"]


# --- The picture ---


def test_the_text_is_the_same_in_every_process():
    code = (
        "import tinygrad_rnn as tg, sys\n"
        "tg.manual_seed(0)\n"
        "net = tg.nn.LSTM(4, 8, 2)\n"
        "for level in ('op', 'gate', 'cell', 'layer'):\n"
        "    outputs = net(tg.zeros(9, 1, 4))[0]\n"
        "    picture = tg.viz.graph(outputs, level=level, module=net)\n"
        "    sys.stdout.write(picture.source + picture.to_bytes('svg', 'builtin').decode())\n"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1 and len(texts.pop()) > 1000


@needs_graphviz
@pytest.mark.parametrize("level", ["op", "gate", "cell"])
@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
@pytest.mark.parametrize("steps", [3, 5, 12])
def test_steps_go_right_and_layers_go_up(make, level, steps):
    net, _, outputs = run(make, layers=2, steps=steps)
    picture = tg.viz.graph(outputs, level=level, module=net)
    at = plain(picture.source)
    centre = {}
    for node in picture.graph.nodes:
        if node.step is not None:
            centre.setdefault(node.step, []).append(at[node.id][0])
    spans = [(min(xs), max(xs)) for _, xs in sorted(centre.items())]
    assert all(left[1] < right[0] for left, right in pairwise(spans))
    height = {
        layer: [
            at[n.id][1] for n in picture.graph.nodes if n.step is not None and n.layer == layer and n.kind != "input"
        ]
        for layer in (0, 1)
    }
    assert max(height[0]) < min(height[1])
    first = [at[node.id][0] for node in picture.graph.of_kind("initial")]
    assert max(first) < spans[0][0]


@needs_graphviz
@pytest.mark.parametrize(
    ("make", "gates"),
    [(LSTM, ["input gate", "forget gate", "candidate", "output gate"]), (GRU, ["reset gate", "update gate"])],
)
@pytest.mark.parametrize("level", ["op", "gate"])
def test_gates_stand_in_the_order_they_are_made(make, gates, level):
    net, _, outputs = run(make, layers=2, steps=4)
    picture = tg.viz.graph(outputs, level=level, module=net)
    at = plain(picture.source)
    for layer in (0, 1):
        for step in range(4):
            here = {n.label: at[n.id] for n in picture.graph.nodes if (n.layer, n.step) == (layer, step) and n.label}
            places = [here[gate.replace(" ", "_")] for gate in gates]
            assert [x for x, _ in places] == sorted(x for x, _ in places)
            assert len({y for _, y in places}) == 1


@needs_graphviz
def test_rows_are_level_across_steps():
    net, _, outputs = run(LSTM, steps=4)
    picture = tg.viz.graph(outputs, level="gate", module=net)
    at = plain(picture.source)
    for label in ("cell", "hidden", "forget_gate"):
        heights = {at[node.id][1] for node in picture.graph.nodes if node.label == label}
        assert len(heights) == 1  # the initial state included


@needs_graphviz
def test_time_backward_runs_from_right_to_left():
    layer = Recurrent(LSTMCell(4, 8), reverse=True)
    with tg.Tape():
        outputs, _ = layer(tg.zeros(3, 1, 4))
    picture = tg.viz.graph(outputs, level="gate", module=layer)
    edges = [edge for edge in picture.graph.edges if edge.kind == "recurrent" and edge.name == "cell"]
    steps = [(picture.graph[edge.source].step, picture.graph[edge.target].step) for edge in edges]
    assert steps == [(None, 2), (2, 1), (1, 0)]
    at = plain(picture.source)
    steps = [at[f"time {step}"][0] for step in range(3)]
    assert steps == sorted(steps)
    assert min(at[node.id][0] for node in picture.graph.of_kind("initial")) > steps[-1]


NASTY = 'a<b & "c" | {d} \\N \\ e\\ ∇ü漢'


@needs_graphviz
def test_labels_survive_whatever_is_in_them(tmp_path):
    weight = tg.ones(3, requires_grad=True)
    picture = tg.viz.graph((weight * 2.0).named(NASTY), names={NASTY: weight})
    svg = ElementTree.fromstring(picture.to_bytes("svg"))
    texts = {" ".join(element.text.split()) for element in svg.iter() if element.tag.endswith("text") and element.text}
    shown = {text.replace("\xa0", " ") for text in texts}
    assert NASTY in shown
    tooltips = {value for element in svg.iter() for name, value in element.attrib.items() if name.endswith("title")}
    assert any(NASTY in tooltip for tooltip in tooltips)
    names = {node["name"] for node in json.loads(picture.to_bytes("json"))["nodes"]}
    assert NASTY in names


def test_quoting():
    assert style.quoted('a"b\\c\n&') == '"a\\"b\\\\c\\n&amp;"'
    assert style.markup("<&>\"'\n") == "&lt;&amp;&gt;&quot;'<br/>"
    assert style.quoted("\x00a\x0b") == '"a"'


# --- Files and notebooks ---


@needs_graphviz
def test_lines_are_straight_where_dot_finds_no_curve():
    net, _, outputs = run(RNN, steps=7)  # dot 2.43 gives up on a curve of this one
    picture = tg.viz.graph(outputs, level="op", params="once", module=net)
    assert b"<svg" in picture.to_bytes("svg")


@needs_graphviz
def test_files_by_suffix(tmp_path):
    _, _, outputs = run(RNN)
    picture = tg.viz.graph(outputs, level="gate")
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "dot": b"digraph", "json": b"{"}
    for suffix, start in starts.items():
        path = tmp_path / f"net.{suffix}"
        picture.save(path)
        assert path.read_bytes().startswith(start)
    picture.save(tmp_path / "net.txt", format="dot")
    assert (tmp_path / "net.txt").read_text(encoding="utf-8") == picture.source
    assert picture._repr_mimebundle_()["image/svg+xml"].startswith("<svg")
    assert picture.digraph().source == picture.source


@pytest.mark.parametrize("name", ["net", "net.gif", "net.svg.bak"])
def test_a_format_that_there_is_not(tmp_path, name):
    _, _, outputs = run(RNN)
    with pytest.raises(ArgumentError, match=r"svg \| png \| pdf \| html \| dot \| json"):
        tg.viz.graph(outputs).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_graphviz_one_line_says_what_brings_it(tmp_path, monkeypatch):
    _, _, outputs = run(RNN)
    picture = tg.viz.graph(outputs)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setitem(sys.modules, "graphviz", None)
    for format, engine in (("png", "auto"), ("svg", "dot"), ("svg", "pure"), ("pdf", "dot")):
        with pytest.raises(MissingError) as caught:
            picture.save(tmp_path / f"net.{format}", engine=engine)
        message = str(caught.value)
        assert "\n" not in message and format in message and "builtin" in message
        for word in ("apt install", "brew install", "conda install"):
            assert word in message
        assert ("pip install tinygrad_rnn[viz]" in message) == (format != "pdf")
    with pytest.raises(ArgumentError, match="SVG"):
        picture.save(tmp_path / "net.png", engine="builtin")
    assert not list(tmp_path.iterdir())
    for suffix in ("dot", "json", "svg", "html"):
        picture.save(tmp_path / f"net.{suffix}")
    assert (tmp_path / "net.svg").read_bytes() == picture.to_bytes("svg", "builtin")
    assert picture._repr_mimebundle_()["image/svg+xml"].startswith("<svg")
    assert "RNN, 3 steps" in repr(picture)


def test_a_notebook_that_cannot_draw_shows_a_line(monkeypatch):
    _, _, outputs = run(RNN)
    picture = tg.viz.graph(outputs)
    monkeypatch.setattr(picture, "to_bytes", lambda *arguments: 1 / 0)
    assert picture._repr_mimebundle_() == {"text/plain": repr(picture)}


def test_graphviz_that_fails_leaves_the_file_alone(tmp_path, monkeypatch):
    broken = tmp_path / "dot"
    broken.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    _, _, outputs = run(RNN)
    path = tmp_path / "net.svg"
    path.write_text("before")
    with pytest.raises(FileError):
        tg.viz.graph(outputs).save(path)
    assert path.read_text() == "before"


# --- What is refused ---


def test_refusals():
    _, _, outputs = run(RNN)
    with pytest.raises(ArgumentError, match="no such level"):
        tg.viz.graph(outputs, level="neuron")
    with pytest.raises(ArgumentError, match="no such way"):
        tg.viz.graph(outputs, params="twice")
    for fold in ("all", (1,), (-1, 2), 3):
        with pytest.raises(ArgumentError, match="no such fold"):
            tg.viz.graph(outputs, fold=fold)
    with pytest.raises(ArgumentError, match="nothing to draw"):
        tg.viz.graph(tg.zeros(3))
    with pytest.raises(ArgumentError, match="has no graph"):
        tg.viz.graph(3)


def test_importing_the_library_does_not_import_graphviz():
    code = "import sys, tinygrad_rnn; sys.exit('graphviz' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
