"""The reference table says what the declarations say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.ops import COMPOSITES, REGISTRY

TOOL = Path(__file__).parent.parent / "tools" / "reference.py"


@pytest.fixture
def reference():
    specification = importlib.util.spec_from_file_location("reference", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_is_fresh(reference, capsys):
    assert reference.main(["--check"]) == 0, "python tools/reference.py"


def test_a_stale_page_is_noticed(reference, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "PAGE", tmp_path / "ops.md")
    assert reference.main(["--check"]) == 2
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    page = reference.PAGE.read_text(encoding="utf-8")
    reference.PAGE.write_text(page.replace("g * (1.0 - y * y)", "g * (2.0 - y * y)"), encoding="utf-8")
    assert reference.main(["--check"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "reference: ops.md is stale; hint: python tools/reference.py"


def test_every_public_function_that_is_declared_is_on_it(reference):
    page = reference.page()
    public = [n for n in (*REGISTRY, *COMPOSITES) if hasattr(tg, n) and callable(getattr(tg, n))]
    assert len(public) > 80
    for name in public:
        assert f"| `{name}(" in page, name
