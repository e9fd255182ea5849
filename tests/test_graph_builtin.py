"""The built-in layout: right order of time and layers, nothing on top of another, SVG that holds all of the graph."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from test_graph import NASTY, run

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError
from tinygrad_rnn.nn import GRU, LSTM, RNN
from tinygrad_rnn.viz.place import Places

SVG = "{http://www.w3.org/2000/svg}"


def places(picture):
    return Places(picture.view)


@pytest.mark.parametrize("level", ["op", "gate", "cell"])
@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
@pytest.mark.parametrize("steps", [3, 12])
def test_steps_go_right_and_layers_go_up(make, level, steps):
    net, _, outputs = run(make, layers=2, steps=steps)
    picture = tg.viz.graph(outputs, level=level, module=net)
    boxes, at = places(picture).boxes, {}
    for node in picture.graph.nodes:
        if node.step is not None:
            at.setdefault(node.step, []).append(boxes[node.id])
    for left, right in pairwise(at[step] for step in sorted(at)):
        assert max(box.x + box.width for box in left) < min(box.x for box in right)
    inside = [n for n in picture.graph.nodes if n.step is not None and n.layer is not None and n.kind != "input"]
    lower, upper = ([boxes[n.id] for n in inside if n.layer == layer] for layer in (0, 1))
    assert min(box.y for box in lower) > max(box.y + box.height for box in upper)
    first = [boxes[node.id] for node in picture.graph.of_kind("initial")]
    assert first and max(box.x + box.width for box in first) < min(box.x for box in at[min(at)])


def test_time_backward_starts_at_the_right():
    net, _, outputs = run(GRU, bidirectional=True)
    picture = tg.viz.graph(outputs, level="gate", module=net)
    boxes = places(picture).boxes
    first = {node.reverse: boxes[node.id] for node in picture.graph.of_kind("initial")}
    steps = [boxes[node.id] for node in picture.graph.nodes if node.step is not None]
    assert first[False].x < min(box.x for box in steps) and first[True].x > max(box.x for box in steps)


class Perceptron(tg.nn.Module):
    def __init__(self):
        self.below, self.above = tg.nn.Linear(4, 8), tg.nn.Linear(8, 8)

    def forward(self, x):
        h = tg.tanh(self.below(x))
        return h + tg.relu(self.above(h)) * h


def nets():
    for make, layers, steps, more in ((RNN, 1, 3, {}), (LSTM, 2, 20, {}), (GRU, 1, 4, {"bidirectional": True})):
        net, _, outputs = run(make, layers, steps, **more)
        yield net, outputs
    net = Perceptron()
    yield net, tg.mean(net(tg.zeros(5, 4)))
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    (g,) = tg.grad((x * x * x).sum(), [x], create_graph=True)
    yield None, (g * g).sum()


@pytest.mark.parametrize("level", ["op", "gate", "cell", "layer"])
def test_nothing_stands_on_another_and_operands_stand_below(level):
    for net, result in nets():
        picture = tg.viz.graph(result, level=level, module=net)
        found = places(picture)
        assert set(found.boxes) >= {node.id for node in picture.graph.nodes}
        for (one, a), (other, b) in combinations(found.boxes.items(), 2):
            apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
            assert apart, (one, other)
        for edge in picture.graph.edges:
            ends = picture.graph[edge.source], picture.graph[edge.target]
            if edge.kind == "data" and all(node.layer is None for node in ends) and edge.source != edge.target:
                assert found.boxes[edge.source].y > found.boxes[edge.target].y


@pytest.mark.parametrize("params", ["ghost", "once", "none"])
def test_svg_holds_every_node_and_fetches_nothing(params):
    for net, result in nets():
        picture = tg.viz.graph(result, level="gate", params=params, module=net)
        svg = ElementTree.fromstring(picture.to_bytes("svg", "builtin"))
        ids = [group.get("id") for group in svg.iter(f"{SVG}g") if group.get("id")]
        drawn = {node.id for node in picture.graph.nodes if params != "none" or node.kind != "parameter"}
        assert len(ids) == len(set(ids)) and set(ids) == drawn
        assert drawn <= {node["id"] for node in json.loads(picture.to_bytes("json"))["nodes"]}
        assert not any(name.endswith(("href", "src")) for element in svg.iter() for name in element.attrib)
        left, top, width, height = map(float, svg.get("viewBox").split())
        for rect in svg.iter(f"{SVG}rect"):
            x, y, across, down = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
            assert left <= x and x + across <= left + width + 0.2
            assert top <= y and y + down <= top + height + 0.2


def test_labels_survive_whatever_is_in_them():
    weight = tg.ones(3, requires_grad=True)
    picture = tg.viz.graph((weight * 2.0).named(NASTY), names={NASTY: weight})
    svg = ElementTree.fromstring(picture.to_bytes("svg", "builtin"))
    assert NASTY in {text.text for text in svg.iter(f"{SVG}text")}
    assert any(NASTY in title.text for title in svg.iter(f"{SVG}title") if title.text)


def test_ten_thousand_nodes():
    net, _, outputs = run(LSTM, layers=1, steps=600)
    picture = tg.viz.graph(outputs, level="op", fold=None, module=net)
    assert len(picture.graph.nodes) > 10_000
    with pytest.warns(UserWarning, match="nodes take time"):
        assert picture.to_bytes("svg", "builtin", force=True).count(b"<g id=") > 10_000


def test_an_engine_that_there_is_not():
    _, _, outputs = run(RNN)
    with pytest.raises(ArgumentError, match=r"auto \| dot \| pure \| builtin"):
        tg.viz.graph(outputs).to_bytes("svg", "neato")
