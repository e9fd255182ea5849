"""Every cell: its equations, in the docstring and in the code, and what `verify` says of it, alone and wrapped."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells as module

nn = tg.nn

#: Every cell there is, with each of its options.
CELLS = {
    "RNNCell": lambda i, h, **k: nn.RNNCell(i, h, **k),
    "RNNCell relu": lambda i, h, **k: nn.RNNCell(i, h, nonlinearity="relu", **k),
    "LSTMCell": lambda i, h, **k: nn.LSTMCell(i, h, **k),
    "ProjectedLSTMCell": lambda i, h, **k: nn.ProjectedLSTMCell(i, h, h - 1, **k),
    "PeepholeLSTMCell": lambda i, h, **k: nn.PeepholeLSTMCell(i, h, **k),
    "CoupledLSTMCell": lambda i, h, **k: nn.CoupledLSTMCell(i, h, **k),
    "LayerNormLSTMCell": lambda i, h, **k: nn.LayerNormLSTMCell(i, h, **k),
    "GRUCell": lambda i, h, **k: nn.GRUCell(i, h, **k),
    "GRUCell reset before": lambda i, h, **k: nn.GRUCell(i, h, reset_after=False, **k),
    "MinimalGatedCell": lambda i, h, **k: nn.MinimalGatedCell(i, h, **k),
    "IndRNNCell": lambda i, h, **k: nn.IndRNNCell(i, h, **k),
    "IndRNNCell tanh": lambda i, h, **k: nn.IndRNNCell(i, h, nonlinearity="tanh", **k),
}
WRAPPERS = {
    "Zoneout": lambda cell: nn.Zoneout(cell, 0.3),
    "VariationalDropout": lambda cell: nn.VariationalDropout(cell, 0.2, 0.3),
    "WeightDropout": lambda cell: nn.WeightDropout(cell, 0.4),
    "LearnedState": nn.LearnedState,
    "all": lambda cell: nn.Zoneout(nn.VariationalDropout(nn.WeightDropout(nn.LearnedState(cell)), 0.2, 0.3)),
}
CLASSES = [c for c in vars(module).values() if getattr(c, "__module__", "") == module.__name__ and "step" in vars(c)]

#: The symbol of a docstring's equation, and how the code calls it.
NAMES = {
    "i": "input_gate", "f": "forget_gate", "g": "candidate", "o": "output_gate", "r": "reset_gate",
    "z": "update_gate", "n": "candidate", "c'": "cell", "h'": "hidden",
}  # fmt: skip


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_verify_finds_nothing_wrong_with_any_cell(make, bias):
    report = nn.verify(make(2, 3, bias=bias))
    assert report, report


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("name", [name for name in CELLS if " " not in name])
def test_verify_finds_nothing_wrong_with_a_wrapped_cell(name, wrap):
    report = nn.verify(wrap(CELLS[name](2, 3)))
    assert report, report


def test_the_table_has_every_cell():
    assert {c.__name__ for c in CLASSES} == {name.split(" ")[0] for name in CELLS}
    assert {name for name in nn.__all__ if name.endswith("Cell") and name != "Cell"} == {c.__name__ for c in CLASSES}


def equations(docstring):
    """The left sides of a docstring's equations, in order, each once."""
    found = [line.split("=")[0] for line in docstring.splitlines() if re.match(r"\s+[a-z', ]{1,10} =( |$)", line)]
    return list(dict.fromkeys(name.strip() for left in found for name in left.split(",")))


def assigned(function):
    """The names that a function's lines give to values, in order, each at its last line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        names[name.id] = max(names.get(name.id, 0), node.lineno * 1000 + name.col_offset)
    return sorted(names, key=names.get)


@pytest.mark.parametrize("cell", CLASSES, ids=lambda c: c.__name__)
def test_the_docstring_s_equations_stand_in_step_in_the_same_order(cell):
    own = [NAMES[symbol] for symbol in equations(inspect.getdoc(cell).replace("\n", "\n "))]
    assert own, "there are equations"
    assert own[-1] == "hidden"
    code = assigned(cell.step)
    inherited = cell is nn.ProjectedLSTMCell  # its gates are those of the class that it names
    gates = [name for name in own if not inherited or name == "hidden"]
    if cell is nn.LayerNormLSTMCell:  # the gates' sums are one equation, what they become another
        gates = ["cell", "hidden"]
    positions = [code.index(name) for name in gates]
    assert positions == sorted(positions), (gates, code)


@pytest.mark.parametrize("cell", CLASSES, ids=lambda c: c.__name__)
def test_every_cell_cites_its_source(cell):
    assert re.search(r"[A-Z][a-z]+.*(19|20)\d\d", inspect.getdoc(cell))


@pytest.mark.parametrize("cell", CLASSES, ids=lambda c: c.__name__)
def test_no_class_of_cell_is_long(cell):
    """At most 30 lines of code, the docstring and empty lines apart."""
    (tree,) = ast.parse(inspect.getsource(cell)).body
    docstring = tree.body[0]
    lines = inspect.getsource(cell).splitlines()
    code = lines[: docstring.lineno - 1] + lines[docstring.end_lineno :]
    assert len([line for line in code if line.strip()]) <= 30
