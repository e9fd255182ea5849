"""How large a picture may be, what is done to keep it readable, and which steps are drawn."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_graph import needs_graphviz, run

import tinygrad_rnn as tg
from tinygrad_rnn import cli
from tinygrad_rnn.errors import ArgumentError, FileError
from tinygrad_rnn.nn import LSTM, RNN
from tinygrad_rnn.viz import picture as pictures


def test_thirty_steps_of_two_layers_at_level_op():
    net, tape, _ = run(LSTM, layers=2, steps=30)
    picture = tg.viz.graph(tape, level="op", fold=None, module=net)
    assert len(picture.graph.of_kind("op")) == len(tape.nodes)
    assert picture.graph.steps == list(range(30))
    assert picture.stats["done"] == ["no chips of parameters", "straight edges"]
    assert "splines=line" in picture.source and '"chip ' not in picture.source
    assert "To stay readable: no chips of parameters, straight edges" in picture.source


def test_a_thousand_steps_at_auto_stay_below_400_nodes():
    net, _, outputs = run(LSTM, layers=2, steps=1000)
    picture = tg.viz.graph(outputs, module=net)
    assert picture.stats["steps"] == 1000 and picture.stats["nodes"] <= 400
    assert picture.stats["done"] == ["997 steps folded"]


def test_what_was_done_is_said():
    net, _, outputs = run(LSTM, layers=2, steps=40)
    picture = tg.viz.graph(outputs, fold=None, module=net)
    assert picture.stats["done"] == ["level cell"] and "To stay readable: level cell" in picture.source
    small = tg.viz.graph(run(RNN)[2], level="op")
    assert small.stats["done"] == [] and "To stay readable" not in small.source


def test_many_nodes_are_warned_of_and_too_many_refused(monkeypatch, tmp_path):
    _, _, outputs = run(RNN)
    picture = tg.viz.graph(outputs, level="op")
    monkeypatch.setattr(pictures, "MANY", 5)
    with pytest.warns(UserWarning, match="nodes take time"):
        picture.save(tmp_path / "net.svg", engine="builtin")
    monkeypatch.setattr(pictures, "TOO_MANY", 10)
    for name in ("net.dot", "net.html", "net.pdf"):
        with pytest.raises(ArgumentError, match="too many nodes"):
            picture.save(tmp_path / name)
        assert not (tmp_path / name).exists()
    picture.save(tmp_path / "net.json")  # which draws nothing
    with pytest.warns(UserWarning):
        picture.save(tmp_path / "net.dot", force=True)
    assert (tmp_path / "net.dot").exists()


def test_a_graph_of_a_hundred_thousand_nodes(tmp_path, capsys):
    out = tmp_path / "net.svg"
    asked = [
        "graph",
        "--cell",
        "rnn",
        "--input",
        "1",
        "--hidden",
        "1",
        "--steps",
        "25000",
        "--no-fold",
        "--level",
        "op",
    ]
    assert cli.main([*asked, "-o", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "too many nodes" in said.err and "--force" in said.err
    assert int(said.err.split("got ")[1].split(" ")[0].rstrip(";").replace(",", "")) > 100_000
    assert not list(tmp_path.iterdir())


@needs_graphviz
def test_a_layout_that_takes_too_long_leaves_its_text(tmp_path, monkeypatch):
    slow = tmp_path / "bin" / "dot"
    slow.parent.mkdir()
    slow.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(slow.parent))
    _, _, outputs = run(RNN)
    picture = tg.viz.graph(outputs, level="gate")
    out = tmp_path / "net.svg"
    out.write_text("before")
    with pytest.raises(FileError, match=r"more than 0\.2 s") as caught:
        picture.save(out, timeout=0.2)
    assert "net.svg.dot" in str(caught.value) and "\n" not in str(caught.value)
    assert out.read_text() == "before"
    assert (tmp_path / "net.svg.dot").read_text(encoding="utf-8") == picture.source


# --- Which steps ---


@pytest.mark.parametrize(
    ("shown", "steps"),
    [("1,2,50-52", [0, 1, 49, 50, 51]), ("7", [6]), ([1, 60], [0, 59]), ("1-60", list(range(60))), (" 3 , 4", [2, 3])],
)
def test_chosen_steps(shown, steps):
    net, _, outputs = run(RNN, steps=60)
    picture = tg.viz.graph(outputs, level="gate", steps=shown, module=net)
    alone = {node.step for node in picture.graph.nodes if node.kind == "group" and node.step is not None}
    assert sorted(alone) == steps
    assert picture.stats["hidden_steps"] == 60 - len(steps)
    hidden = [node for node in picture.graph.of_kind("ellipsis") if node.layer is not None]
    runs = [step for step in range(60) if step not in steps and (step == 0 or step - 1 in steps)]
    assert [node.step for node in hidden] == runs


def test_two_ellipses():
    net, _, outputs = run(RNN, steps=60)
    source = tg.viz.graph(outputs, level="gate", steps="1,2,50-52", module=net).source
    assert "steps 3 to 49\\n47 steps, same parameters" in source
    assert "steps 53 to 60\\n8 steps, same parameters" in source


@pytest.mark.parametrize("shown", ["0", "61", "5-3", "a", "1,,2", "1-", [0]])
def test_steps_that_there_are_not(shown):
    _, _, outputs = run(RNN, steps=60)
    with pytest.raises(ArgumentError, match=r"no such steps|there is no step"):
        tg.viz.graph(outputs, steps=shown)


def test_five_thousand_steps_need_no_recursion():
    code = (
        "import sys; sys.setrecursionlimit(250)\n"
        "import tinygrad_rnn as tg\n"
        "net = tg.nn.RNN(1, 1)\n"
        "loss = net(tg.zeros(5000, 1, 1))[0][-1].sum()\n"
        "picture = tg.viz.graph(loss, color='grad', module=net)\n"
        "picture.to_bytes('svg', 'builtin'); picture.source\n"
        "print(picture.stats['steps'], picture.stats['nodes'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("5000 ")
