"""Any tape: no recurrent net, attention, a shared subexpression, gradients of gradients; and several side by side."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.errors import ArgumentError
from tinygrad_rnn.nn import GRU, LSTM, RNN
from tinygrad_rnn.viz import style
from tinygrad_rnn.viz.levels import LEVELS, at_level
from tinygrad_rnn.viz.read import read

compiled = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")

SVG = "{http://www.w3.org/2000/svg}"


def perceptron():
    layers = [tg.nn.Linear(3, 5), tg.nn.Linear(5, 5), tg.nn.Linear(5, 1)]
    x = tg.ones(4, 3)
    for layer in layers:
        x = tg.tanh(layer(x))
    return x.mean()


def attention():
    q, k, v = (tg.randn(4, 3, requires_grad=True) for _ in range(3))
    weights = tg.softmax(q @ k.T * 3**-0.5, axis=-1).named("weights")
    return (weights @ v).sum()


def shared():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    a = tg.exp(x).named("shared")
    return (a * a + tg.sin(a)).sum()


def penalty():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    (g,) = tg.grad((tg.tanh(x * x) * x).sum(), [x], create_graph=True)
    return (g * g).sum().named("penalty")


def recurrent_penalty(engine="eager", make=RNN, steps=3):
    net = make(2, 3)
    with tg.engine(engine):
        outputs, _ = net(tg.randn(steps, 1, 2))
    loss = (outputs[-1] ** 2).mean().named("loss")
    return sum((g * g).sum() for g in tg.grad(loss, list(net.parameters()), create_graph=True)).named("penalty")


TAPES = [perceptron, attention, shared, penalty, recurrent_penalty]


def reachable(graph):
    """From each node to the ops that it stands for to those that lead to it."""
    before = {node.id: set() for node in graph.nodes}
    for edge in graph.edges:
        before[edge.target].add(edge.source)
    found = {}
    for id in before:
        reached, stack = set(), [id]
        while stack:
            for source in before[stack.pop()] - reached:
                reached.add(source)
                stack.append(source)
        found[id] = reached
    return found


@pytest.mark.parametrize("make", TAPES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_operation_is_in_one_node_of_each_level(make, level):
    result = make()
    ops = read(result)
    count = len([node for node in result.node.ancestors() if node.op is not None])
    assert len(ops.of_kind("op")) == count
    members = [id for node in at_level(ops, level).nodes for id in node.members]
    assert len(members) == len(set(members))
    left_out = {node.name for node in ops.of_kind("op") if node.id not in members}
    assert left_out <= (set() if level == "op" else {"stack", "getitem"})  # that only put together and take out again


@pytest.mark.parametrize("make", TAPES)
@pytest.mark.parametrize("level", ["gate", "cell"])
def test_what_is_contracted_still_leads_where_it_led(make, level):
    ops = at_level(read(make()), "op")
    coarse = at_level(ops, level)
    of = {member: node.id for node in coarse.nodes for member in node.members}
    fine, rough = reachable(ops), reachable(coarse)
    named = [node.id for node in ops.of_kind("op") if node.label]
    for b in named:
        for a in named:
            if of[a] != of[b] and a in fine[b]:
                assert of[a] in rough[of[b]]


@pytest.mark.parametrize("make", TAPES)
@pytest.mark.parametrize("engine", ["dot", "builtin"])
@pytest.mark.parametrize("level", ["op", "gate"])
def test_it_draws(make, engine, level):
    picture = tg.viz.graph(make(), level=level, color="grad")
    if engine == "dot":
        assert picture.source.startswith("digraph")
        return
    svg = ElementTree.fromstring(picture.to_bytes("svg", "builtin"))
    ids = {group.get("id") for group in svg.iter(f"{SVG}g")}
    assert {node.id for node in picture.graph.nodes} <= ids
    assert picture.to_bytes("html").startswith(b"<!doctype html>")


# --- Gradients of gradients ---


def test_the_two_passes_are_told_apart():
    picture = tg.viz.graph(penalty(), level="op")
    order = [node.derivative for node in picture.graph.of_kind("op")]
    names = {d: [n.name for n in picture.graph.of_kind("op") if n.derivative == d] for d in (0, 1)}
    assert set(order) == {0, 1}
    assert "tanh" in names[0] and "tanh" not in names[1] and "subtract" in names[1]
    assert names[0][-2:] == ["multiply", "sum"]  # the penalty is no gradient
    for text in (picture.source, picture.to_bytes("svg", "builtin").decode()):
        assert "computed by backward" in text and style.GRADIENT[0] in text
    plain = tg.viz.graph(perceptron(), level="op")
    assert "computed by backward" not in plain.source


def test_a_third_pass():
    x = tg.tensor([0.5], requires_grad=True)
    y = tg.exp(x * x)
    for _ in range(2):
        (y,) = tg.grad(y.sum(), [x], create_graph=True)
    assert {node.derivative for node in tg.viz.graph(y, level="op").graph.of_kind("op")} == {0, 1, 2}


@pytest.mark.parametrize(("engine", "steps"), [("eager", 3), ("auto", 9)])
@pytest.mark.parametrize("make", [RNN, LSTM])
def test_the_gradient_stands_at_the_step_it_belongs_to_and_runs_back_in_time(engine, steps, make):
    picture = tg.viz.graph(recurrent_penalty(engine, make, steps), level="cell", fold=None)
    found = [node for node in picture.graph.nodes if node.derivative == 1 and node.step is not None]
    assert {node.step for node in found} == set(range(steps))
    assert all(node.name.startswith("gradient of ") and node.leftward for node in found if node.kind == "group")
    back = [e for e in picture.graph.edges if e.kind == "recurrent" and picture.graph[e.source].derivative]
    moves = [(picture.graph[e.source].step, picture.graph[e.target].step) for e in back if e.name == "gradient"]
    assert moves and all(end < start for start, end in moves)
    boxes = {}
    svg = ElementTree.fromstring(picture.to_bytes("svg", "builtin"))
    for group in svg.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        if rect is not None and group.get("id"):
            boxes[group.get("id")] = float(rect.get("y"))
    forward = [
        boxes[n.id] for n in picture.graph.nodes if n.kind == "group" and n.step is not None and not n.derivative
    ]
    assert max(boxes[node.id] for node in found if node.kind == "group") < min(forward)


def test_places_are_as_they_were_after_a_recorded_backward():
    layer = tg.nn.Recurrent(tg.nn.GRUCell(2, 3))
    x = tg.randn(3, 1, 2)
    first = layer(x)[0].sum()
    tg.grad(first, list(layer.parameters()), create_graph=True)
    y = tg.tanh(tg.ones(1, requires_grad=True))
    assert y.node.place is None
    assert {node.derivative for node in tg.viz.graph(layer(x)[0], level="op").graph.nodes} == {0}


# --- Several side by side ---


def losses(steps=20):
    nets = {"rnn": RNN(2, 3), "lstm": LSTM(2, 3), "gru": GRU(2, 3)}
    x = tg.randn(steps, 1, 2)
    return nets, {name: (net(x)[0][-1] ** 2).sum().named("loss") for name, net in nets.items()}


def test_a_comparison_is_each_net_beside_the_others_with_one_scale():
    nets, results = losses()
    picture = tg.viz.compare(results, "gate", modules=nets)
    alone = {name: tg.viz.graph(results[name], "gate", color="grad", module=nets[name]) for name in nets}
    assert picture.stats["nodes"] == sum(one.stats["nodes"] for one in alone.values())
    for name, one in alone.items():
        here = {node.id: node for node in picture.graph.nodes if node.net == name}
        assert {f"{name} {node.id}" for node in one.graph.nodes} == set(here)
        for node in one.graph.nodes:
            assert here[f"{name} {node.id}"].gradient == node.gradient
            assert here[f"{name} {node.id}"].within == node.within
    scale = picture.view.scale
    assert scale.low == min(one.view.scale.low for one in alone.values())
    assert scale.high == max(one.view.scale.high for one in alone.values())
    assert not any(picture.graph[e.source].net != picture.graph[e.target].net for e in picture.graph.edges)


@pytest.mark.parametrize("level", ["gate", "cell"])
def test_one_net_after_another_from_left_to_right(level):
    nets, results = losses()
    picture = tg.viz.compare(results, level, modules=nets)
    svg = ElementTree.fromstring(picture.to_bytes("svg", "builtin"))
    spans = {}
    for group in svg.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        if group.get("id") and rect is not None:
            x, width = float(rect.get("x")), float(rect.get("width"))
            spans.setdefault(picture.graph[group.get("id")].net, []).extend([x, x + width])
    assert list(spans) == list(nets)
    assert max(spans["rnn"]) < min(spans["lstm"]) and max(spans["lstm"]) < min(spans["gru"])
    assert "rnn, step 1" in picture.source and "gru, step 20" in picture.source
    plain = json.loads(picture.to_bytes("json"))
    assert {node["net"] for node in plain["nodes"]} == set(nets)


def test_a_comparison_of_nothing():
    with pytest.raises(ArgumentError, match="nothing to compare"):
        tg.viz.compare({})


def test_unnamed_states_and_weights_of_their_own_at_each_step():
    """The ellipsis says "same parameters" only where that is so."""
    weights = [tg.nn.Parameter(np.full((2, 2), 0.1 * (t + 1), np.float32)) for t in range(9)]

    def step(state, x):
        index, h = state
        h = tg.tanh(x + h @ weights[index])
        return (index + 1, h), h

    from tinygrad_rnn.autograd.tape import Place, thread

    h, outputs, outer = tg.zeros(1, 2), [], thread.state.place
    state = (0, h)
    try:
        for t in range(9):
            thread.state.place = Place("Own", 0, False, t)
            state, y = step(state, tg.ones(1, 2))
            outputs.append(y)
    finally:
        thread.state.place = outer
    picture = tg.viz.graph(outputs, level="op")
    assert "6 steps" in picture.source and "same parameters" not in picture.source
    assert "the same at every step" not in picture.source and "shared by all steps" not in picture.source


# --- More than one layer of a number, and layers that are called more than once ---


def lanes(graph):
    return {(n.cell, n.layer) for n in graph.nodes if n.kind == "group" and n.step is not None}


def is_acyclic(graph):
    before = {node.id: set() for node in graph.nodes}
    for edge in graph.edges:
        if edge.source != edge.target:
            before[edge.target].add(edge.source)
    while before:
        free = [id for id, sources in before.items() if not sources & set(before)]
        if not free:
            return False
        for id in free:
            del before[id]
    return True


@pytest.mark.parametrize("steps", [4, 12])
@pytest.mark.parametrize("level", ["gate", "cell"])
def test_two_kinds_of_layers_stand_one_above_the_other(level, steps):
    below, above = LSTM(2, 3), GRU(3, 3)
    outputs, _ = above(below(tg.randn(steps, 1, 2))[0])
    for fold in ("auto", None):
        graph = tg.viz.graph(outputs, level=level, fold=fold).graph
        assert lanes(graph) == {("LSTMCell", 0), ("GRUCell", 1)} and is_acyclic(graph)
    rolled = tg.viz.graph(outputs, level="layer").graph
    assert {node.name for node in rolled.nodes if node.layer is not None and node.kind == "group"} == {"LSTM", "GRU"}
    source = tg.viz.graph(outputs, level="gate").source
    assert '"LSTM"' in source and '"GRU"' in source and ", layer " not in source.replace("steps, 2 layers", "")


@pytest.mark.parametrize("steps", [3, 9])
def test_an_encoder_and_a_decoder_are_two_layers(steps):
    encoder, decoder = GRU(2, 3), GRU(2, 3)
    outputs, _ = decoder(tg.randn(steps, 1, 2), encoder(tg.randn(steps, 1, 2))[1])
    graph = tg.viz.graph(outputs, level="cell", fold=None, color="grad").graph
    assert lanes(graph) == {("GRUCell", 0), ("GRUCell", 1)} and is_acyclic(graph)
    moves = [(graph[e.source].layer, graph[e.target].layer) for e in graph.edges if e.kind == "recurrent"]
    assert (0, 1) in moves  # the last state of the one begins the other


@pytest.mark.parametrize("steps", [3, 9])
def test_a_layer_called_again_with_its_state_goes_on_in_time(steps):
    net = GRU(2, 3)
    _, state = net(tg.randn(steps, 1, 2))
    outputs, _ = net(tg.randn(steps, 1, 2), state)
    graph = tg.viz.graph(outputs[-1].sum(), level="cell", fold=None, color="grad", module=net).graph
    assert lanes(graph) == {("GRUCell", 0)} and is_acyclic(graph)
    assert graph.steps == list(range(2 * steps))
    moves = [(graph[e.source].step, graph[e.target].step) for e in graph.edges if e.kind == "recurrent"]
    assert set(moves) == {(None, 0), *[(t, t + 1) for t in range(2 * steps - 1)]}


def test_a_layer_called_again_from_the_start_is_another_row():
    net = GRU(2, 3)
    one, _ = net(tg.randn(3, 1, 2))
    other, _ = net(tg.randn(3, 1, 2))
    graph = tg.viz.graph((one * other).sum(), level="cell", module=net).graph
    assert lanes(graph) == {("GRUCell", 0), ("GRUCell", 1)} and graph.steps == [0, 1, 2]


def test_a_stream_is_a_sequence():
    layer, state = tg.nn.Recurrent(tg.nn.LSTMCell(2, 3)), None
    for _ in range(4):
        y, state = layer.step(tg.randn(1, 2), state)
    graph = tg.viz.graph(y.sum(), level="cell", module=layer).graph
    assert graph.steps == [0, 1, 2, 3] and lanes(graph) == {("LSTMCell", 0)}
    assert len([node for node in graph.nodes if node.kind == "group" and node.step is not None]) == 4


@pytest.mark.parametrize("steps", [4, 12])
@pytest.mark.parametrize("level", ["gate", "cell"])
def test_two_directions_feed_both_of_the_layer_above(level, steps):
    net = GRU(2, 3, 2, bidirectional=True)
    with tg.Tape():
        outputs, _ = net(tg.randn(steps, 1, 2))
    whole = tg.viz.graph(outputs, level=level, fold=None, module=net).graph
    inputs = [node for node in whole.of_kind("input") if node.step is not None]
    assert [node.step for node in inputs] == list(range(steps))  # one a step, for both directions
    feeds = {
        (whole[e.source].reverse, whole[e.target].reverse)
        for e in whole.edges
        if e.kind == "data" and (whole[e.source].layer, whole[e.target].layer) == (0, 1)
    }
    assert feeds == {(a, b) for a in (False, True) for b in (False, True)}
    folded = tg.viz.graph(outputs, level=level, module=net).graph
    assert is_acyclic(folded) or any(node.reverse for node in folded.nodes)  # time runs both ways
    given = [node for node in folded.of_kind("ellipsis") if node.layer is None]
    assert not any(e.target in {node.id for node in given} for e in folded.edges if folded[e.source].kind != "input")


# --- Runs that are run again to be looked into ---


@pytest.mark.parametrize("checkpoint", ["sqrt", 3])
@pytest.mark.parametrize("watched", [False, True])
def test_a_sequence_in_pieces_is_opened(checkpoint, watched):
    layer = tg.nn.Recurrent(tg.nn.GRUCell(2, 3, dtype="float64"), checkpoint=checkpoint)
    plain = tg.nn.Recurrent(layer.cell)
    x = tg.randn(12, 1, 2, dtype="float64")
    pictures = []
    for one in (layer, plain):
        if watched:
            with tg.viz.watch():
                loss = (one(x)[0][-1] ** 2).sum()
        else:
            loss = (one(x)[0][-1] ** 2).sum()
        pictures.append(tg.viz.graph(loss, level="gate", fold=None, color="grad", module=one).graph)
    pieces, whole = (
        {(node.label, node.step): node for node in graph.nodes if node.label and node.step is not None}
        for graph in pictures
    )
    assert set(pieces) == set(whole)
    for key, node in whole.items():
        assert pieces[key].gradient.norm == pytest.approx(node.gradient.norm, rel=1e-9)
        assert (pieces[key].seen is not None) == watched
        if watched:
            assert pieces[key].seen == node.seen


@compiled
def test_a_run_that_would_do_something_else_now_is_not_opened():
    layer = tg.nn.Recurrent(tg.nn.Zoneout(tg.nn.GRUCell(2, 3), 0.5))
    loss = layer(tg.randn(12, 4, 2))[0].sum()
    layer.eval()
    picture = tg.viz.graph(loss, level="op", module=layer)
    assert [node.settings for node in picture.graph.nodes if node.name == "fused"] == ["12 steps"]
    with pytest.raises(tg.errors.GraphError, match="something else"):
        tg.viz.graph(loss, color="grad", module=layer)


def test_an_old_gradient_is_not_painted():
    a, b = (tg.ones(2, requires_grad=True) for _ in range(2))
    (b * 100.0).sum().backward()
    graph = tg.viz.graph((a * 2.0).named("y"), color="grad", names={"a": a, "b": b}).graph
    assert graph["p b"].gradient is None and graph["p a"].gradient.norm == pytest.approx(2 * 2**0.5)


def test_numbers_beyond_what_a_sum_of_squares_can_be():
    x = tg.tensor([1.0, 1.0], requires_grad=True, dtype="float64")
    with tg.viz.watch():
        y = (x * 1e200).sum()
    for color in ("grad", "value"):
        picture = tg.viz.graph(y, color=color)
        assert picture.graph.nodes[-1].gradient is None or picture.view.scale.high <= 309
        page = re.search(r'class="data">(.*?)</script>', picture.to_bytes("html").decode(), re.S).group(1)
        for text in (picture.to_bytes("json").decode(), page):
            json.loads(text, parse_constant=lambda word: pytest.fail(word))


@pytest.mark.parametrize(
    "look", [{"steps": 3}, {"module": 3}, {"names": {"a": 3}}, {"names": [1]}, {"color": None}, {"level": 3}]
)
def test_arguments_that_are_none(look):
    with pytest.raises(ArgumentError):
        tg.viz.graph(perceptron(), **look)


def test_results_in_any_nest():
    x = tg.ones(2, requires_grad=True)
    picture = tg.viz.graph({"a": tg.sin(x), "b": (None, [tg.cos(x)])}, level="op")
    assert {node.name for node in picture.graph.of_kind("op")} == {"sin", "cos"}


def test_labels_of_no_letters_and_of_half_a_letter():
    x = tg.ones(2, requires_grad=True)
    picture = tg.viz.graph((x * 2.0).named("half \ud800 a"), names={"": x})
    for format in ("json", "html", "dot"):
        assert "half  a" in picture.to_bytes(format).decode()
