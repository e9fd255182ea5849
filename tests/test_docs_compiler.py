"""docs/compiler.md shows what the compiler does, and names what there is."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tinygrad_rnn import settings
from tinygrad_rnn.compiler.runtime import layout

ROOT = Path(__file__).parent.parent
TOOL, PAGE = ROOT / "tools" / "docs_compiler.py", ROOT / "docs" / "compiler.md"
FENCED = re.compile(r"```(\w+)\n(.*?)```\n", re.DOTALL)


@pytest.fixture(scope="module")
def tool():
    specification = importlib.util.spec_from_file_location("docs_compiler", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def page():
    return PAGE.read_text(encoding="utf-8")


def prose():
    return FENCED.sub("", page())


@cache
def defined(path):
    """The names that a file defines, those of methods with their class."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        for target in [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", []):
            found.add(getattr(target, "id", ""))
    return found


def test_every_block_is_fresh(tool, capsys):
    assert tool.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")
def test_the_tool_by_itself():
    """In a process of its own, nothing traced or compiled before."""
    run = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_a_stale_block_is_noticed(tool, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tool, "PAGE", tmp_path / "compiler.md")
    tool.PAGE.write_text(page().replace("%21 = tanh(%20)", "%21 = sin(%20)"), encoding="utf-8")
    assert tool.main(["--check"]) == 2
    assert capsys.readouterr().err == "docs_compiler: compiler.md is stale; hint: python tools/docs_compiler.py\n"
    assert tool.main([]) == 0
    assert tool.PAGE.read_text(encoding="utf-8") == page()


def test_a_marker_without_a_block_is_refused(tool, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tool, "PAGE", tmp_path / "compiler.md")
    tool.PAGE.write_text(page().replace("<!-- block: merge -->", "<!-- block: other -->"), encoding="utf-8")
    assert tool.main([]) == 2
    assert "the markers of the page are not the blocks" in capsys.readouterr().err


def test_every_file_and_function_exists():
    links = re.findall(r"\[[^\]]+\]\(([^)#]+)\)((?::(?:,?\s+`[\w.]+`)+)?)", prose())
    named = 0
    for path, names in links:
        file = (PAGE.parent / path).resolve()
        assert file.is_file(), path
        for name in re.findall(r"`([\w.]+)`", names):
            assert name in defined(file), f"{path} has no {name}"
            named += 1
    assert len(links) > 40 and named > 50


def test_what_the_prose_points_to_is_shown():
    """Values, slots and memory that the text speaks of are in a block."""
    blocks = "\n".join(text for kind, text in FENCED.findall(page()) if kind == "text")
    pointed = set(re.findall(r"`(%\d+|n_\d+ \+ j|(?:carry|next|state|kept) \d)`", prose()))
    assert len(pointed) > 8
    for one in pointed:
        assert re.search(rf"{re.escape(one)}(?!\d)", blocks), one
    table = prose().partition("| name | in the forward")[2].partition("\n\n")[0]
    names = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert len(names) > 12
    for name in names:
        assert re.search(rf"\b{name} \d", blocks) or name in ("time", "y"), name  # no LSTM of one size has them


@pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")
def test_every_line_of_python_runs(monkeypatch, capsys):
    monkeypatch.setattr(layout, "inspect", layout.inspect)  # put back after the page has set it
    scope = {}
    snippets = [text for kind, text in FENCED.findall(page()) if kind == "python"]
    assert len(snippets) > 10
    for i, text in enumerate(snippets):
        exec(compile(text, f"<snippet {i}>", "exec"), scope)
    assert "because mean: it mixes rows" in capsys.readouterr().out
    assert np.abs(scope["made"]["next", 0] - scope["expected"]).max() <= 1e-12
