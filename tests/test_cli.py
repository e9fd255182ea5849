"""The command: what it writes, and that what goes wrong is one line and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_rnn import cli


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


def test_bad_arguments(capsys):
    fails(capsys, "--cell", "transformer", says="invalid choice")
    fails(capsys, "--steps", "0", says="from 1")
    fails(capsys, "--steps", "many", says="from 1")
    fails(capsys, "--fold", "2", says="HEAD,TAIL")
    fails(capsys, "--fold", "2,1", "--no-fold", says="not allowed with")
    fails(capsys, "--format", "gif", says="no such format")
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
    for name in ("net.dot", "net.svg", "net.json"):
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
