"""The command: what it writes, and that what goes wrong is one line and exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_rnn import cli
from tinygrad_rnn.viz import command


def fails(capsys, *arguments, says=""):
    assert cli.main(["graph", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith("tinygrad-rnn")
    assert says in printed.err
    assert "Traceback" not in printed.err


def test_without_a_file_it_prints_dot(capfdbinary):
    assert cli.main(["graph", "--cell", "gru", "--steps", "2"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert text.startswith("digraph") and "update gate" in text


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_it_writes_the_net_that_was_asked_for(tmp_path, cell):
    path = tmp_path / "net.json"
    asked = ["--cell", cell, "--layers", "2", "--steps", "5", "--input", "3", "--hidden", "6", "--batch", "2"]
    assert cli.main(["graph", *asked, "-o", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert '"steps": 5' in text and '"layers": 2' in text and "weight_ih_l1" in text


def test_folding(capfdbinary):
    for arguments, shown in ([], b"steps 3 to 8"), (["--fold", "1,1"], b"steps 2 to 8"), (["--no-fold"], b"step 8"):
        assert cli.main(["graph", "--steps", "9", *arguments]) == 0
        assert shown in capfdbinary.readouterr().out


def test_colours_of_its_own_nets(tmp_path):
    path = tmp_path / "net.json"
    for color, what in (("grad", "gradient"), ("value", "seen"), ("saturation", "seen")):
        assert cli.main(["graph", "--color", color, "--steps", "9", "-o", str(path)]) == 0
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        assert all(node[what] is not None for node in nodes if node["kind"] == "group" and node["label"])
        assert [node["name"] for node in nodes if node["label"] == "loss"] == ["loss"]


def test_the_same_seed_makes_the_same_picture(capfdbinary):
    texts = []
    for seed in ("0", "0", "1"):
        assert cli.main(["graph", "--color", "grad", "--seed", seed]) == 0
        texts.append(capfdbinary.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_a_comparison(tmp_path, capsys):
    path = tmp_path / "net.json"
    assert cli.main(["graph", "--compare", "rnn,gru", "--layers", "2", "-o", str(path)]) == 0
    plain = json.loads(path.read_text(encoding="utf-8"))
    assert {node["net"] for node in plain["nodes"]} == {"rnn", "gru"}
    assert plain["stats"]["steps"] == 20 and plain["stats"]["level"] == "cell" and plain["stats"]["layers"] == 2
    fails(capsys, "--compare", "rnn,elman", says="expected some of rnn,lstm,gru")
    fails(capsys, "--compare", "rnn,rnn", says="each once")
    fails(capsys, "--compare", "rnn,gru", "--cell", "lstm", says="--cell beside it")


def test_steps_to_draw(capfdbinary):
    for asked in (["--steps", "60", "--steps", "1,2,50-52"], ["--steps", "1,2,50-52", "--steps", "60"]):
        assert cli.main(["graph", *asked]) == 0
        text = capfdbinary.readouterr().out
        assert b"steps 3 to 49" in text and b"steps 53 to 60" in text
    assert cli.main(["graph", "--steps", "1,2,50-52"]) == 0  # as many steps as that takes
    text = capfdbinary.readouterr().out
    assert b"steps 3 to 49" in text and b"LSTM, 52 steps" in text


def test_steps_that_there_are_not(capsys):
    fails(capsys, "--steps", "3,x", says="numbers and ranges")
    fails(capsys, "--steps", "9", "--steps", "3,10", says="there is no step 10")


def test_a_warning_is_a_line(tmp_path, capsys):
    asked = ["graph", "--cell", "rnn", "--steps", "300", "--no-fold", "--level", "op", "--engine", "builtin"]
    assert cli.main([*asked, "-o", str(tmp_path / "net.svg")]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("tinygrad-rnn graph: ") and "nodes take time" in said


def test_pages(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        OWN + "def quiet():\n    with tg.Tape() as tape:\n        tg.ones(2) * tg.ones(2)\n    return tape\n"
    )
    for asked in (["--steps", "9"], ["--from", f"{file}:cell"], ["--from", f"{file}:quiet"], ["--compare", "rnn,lstm"]):
        path = tmp_path / "net.html"
        assert cli.main(["graph", *asked, "-o", str(path)]) == 0
        assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
        path.unlink()


def test_bad_arguments(capsys):
    fails(capsys, "--cell", "transformer", says="invalid choice")
    fails(capsys, "--steps", "0", says="from 1")
    fails(capsys, "--steps", "many", says="from 1")
    fails(capsys, "--fold", "2", says="HEAD,TAIL")
    fails(capsys, "--fold", "2,1", "--no-fold", says="not allowed with")
    fails(capsys, "--format", "gif", says="no such format")
    fails(capsys, "--color", "pink", says="invalid choice")
    fails(capsys, "--timeout", "0", says="more than 0")
    fails(capsys, "--from", "own.py:f", "--compare", "rnn,lstm", says="--compare beside it")
    assert cli.main([]) == 2
    assert cli.main(["paint"]) == 2


def test_files_that_cannot_be_written(tmp_path, capsys):
    fails(capsys, "-o", tmp_path / "missing" / "net.dot", says="cannot write")
    fails(capsys, "-o", tmp_path / "net.gif", says="no such format")
    fails(capsys, "-o", tmp_path / "net", says="no such format")
    folder = tmp_path / "net.dot"
    folder.mkdir()
    fails(capsys, "-o", folder, says="cannot write")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path, capsys):
    tmp_path.chmod(0o500)
    try:
        fails(capsys, "-o", tmp_path / "net.dot", says="cannot write")
    finally:
        tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


def test_without_graphviz(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    fails(capsys, "-o", tmp_path / "net.png", says="pip install")
    fails(capsys, "--engine", "dot", "-o", tmp_path / "net.svg", says="dot, which is not installed")
    fails(capsys, "--engine", "builtin", "-o", tmp_path / "net.png", says="writes SVG")
    fails(capsys, "--engine", "neato", says="invalid choice")
    assert not list(tmp_path.iterdir())
    for name in ("net.dot", "net.svg", "net.json", "net.html"):
        assert cli.main(["graph", "-o", str(tmp_path / name)]) == 0


def test_help_is_no_error(capsys):
    assert cli.main(["graph", "--help"]) == 0
    assert "--layers" in capsys.readouterr().out


def test_the_tool_is_the_subcommand(tmp_path):
    tool = Path(__file__).parent.parent / "tools" / "render_graph.py"
    one = subprocess.run([sys.executable, str(tool), "--steps", "2"], capture_output=True, check=True).stdout
    two = subprocess.run(
        [sys.executable, "-m", "tinygrad_rnn.cli", "graph", "--steps", "2"], capture_output=True, check=True
    ).stdout
    assert one == two != b""
    bad = subprocess.run([sys.executable, str(tool), "--steps", "x"], capture_output=True, check=False, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough():
    command = f'"{sys.executable}" -m tinygrad_rnn.cli graph --steps 30 --no-fold | head -c 10'
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False, text=True)
    assert done.stdout == "digraph ti" and done.stderr == ""


OWN = """
import tinygrad_rnn as tg

class Minimal(tg.nn.Cell):
    def __init__(self):
        self.input_size = self.hidden_size = 3
        self.w = tg.nn.Parameter(tg.ones(3, 6))
        self.u = tg.nn.Parameter(tg.ones(3, 3))

    def step(self, x, h):
        gates = x @ self.w
        forget = tg.sigmoid(gates[:, :3] + h @ self.u).named("forget_gate")
        h = ((1 - forget) * h + forget * tg.tanh(gates[:, 3:])).named("hidden")
        return h, h

def cell():
    layer = tg.nn.Recurrent(Minimal())
    return layer(tg.zeros(3, 1, 3))[0], layer

def perceptron():
    layers = [tg.nn.Linear(2, 4), tg.nn.Linear(4, 4), tg.nn.Linear(4, 1)]
    x = tg.zeros(5, 2)
    for layer in layers:
        x = tg.tanh(layer(x))
    return x.mean()

def broken():
    return 1 / 0

def unfit():
    return tg.ones(2) + tg.ones(3)

def number():
    return 3

def leaves():
    raise SystemExit(0)

def wants(more):
    return more

value = 3
"""


def test_what_a_users_function_returns(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    assert cli.main(["graph", "--from", f"{file}:cell", "--format", "json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert {"forget gate", "hidden"} <= {node["name"] for node in plain["nodes"]}
    assert {"cell.w", "cell.u"} == {node["name"] for node in plain["nodes"] if node["kind"] == "parameter"}
    assert plain["stats"]["steps"] == 3
    assert cli.main(["graph", "--from", f"{file}:perceptron", "--level", "op", "-o", str(tmp_path / "own.svg")]) == 0
    assert (tmp_path / "own.svg").read_text(encoding="utf-8").count("linear") >= 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("leaves", "SystemExit"), ("wants", "TypeError"),
        ("broken", "ZeroDivisionError"), ("unfit", "shape"), ("number", "no graph"), ("value", "no function value"),
        ("nothing", "no function nothing"), ("", "FILE.py:FUNCTION"),
    ],
)  # fmt: skip
def test_a_users_function_that_cannot_be_drawn(tmp_path, capsys, name, says):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    fails(capsys, "--from", f"{file}:{name}", "-o", tmp_path / "net.svg", says=says)
    fails(capsys, "--from", tmp_path / "none.py:f", says="none.py")
    fails(capsys, "--from", f"{file}:cell", "--layers", "2", says="--layers beside it")
    file.write_text("x = 1\ndef (")
    fails(capsys, "--from", f"{file}:cell", says="own.py:2")
    assert not (tmp_path / "net.svg").exists()


def test_a_users_function_imports_what_lies_beside_it_and_may_print(tmp_path, capsys):
    (tmp_path / "beside.py").write_text("width = 3\n")
    file = tmp_path / "own.py"
    file.write_text("import tinygrad_rnn as tg\nfrom beside import width\n\n\ndef f():\n    print('hello')\n"
                    "    return tg.ones(width, requires_grad=True) * 2\n")  # fmt: skip
    before = list(sys.path)
    assert cli.main(["graph", "--from", f"{file}:f"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("digraph") and printed.err == "hello\n"
    assert sys.path == before


def test_numbers_that_cannot_be(capsys):
    fails(capsys, "--seed", "-5", says="from 0")
    fails(capsys, "--steps", "1-99999999999", says="numbers and ranges")


def test_what_does_not_fit_into_memory_and_what_is_interrupted(capsys, monkeypatch):
    def fail(*arguments, **named):
        raise trouble

    monkeypatch.setattr(command, "_picture", fail)
    trouble = MemoryError()
    fails(capsys, says="memory")
    trouble = KeyboardInterrupt()
    assert cli.main(["graph"]) == 130
    assert capsys.readouterr() == ("", "")
