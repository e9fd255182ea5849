"""What an op is like stands at its declaration: nothing outside of `ops` keeps a list of ops by name, or asks for one.

A new view, or a new random op, would be missing in such a list, and the result would be a wrong or a slow one.
"""

from __future__ import annotations

import ast
from pathlib import Path

import tinygrad_rnn as tg
from tinygrad_rnn.ops import REGISTRY

ROOT = Path(tg.__file__).parent
NAMES = {name for name, op in REGISTRY.items() if op.own} | {"pick", "replay"}

#: Where ops are told apart by their names all the same: the file, the function or the table, and why.
ALLOWED = {
    ("compiler/front/observe.py", "_BUILTINS"): "builtins of Python, not ops",
    ("autograd/convert.py", "_NUMPY_NAMES"): "what NumPy calls them, where it is something else",
    ("autograd/convert.py", "numpy_functions"): "calls that mean something else in NumPy",
    (
        "compiler/front/lowering.py",
        "product",
    ): "a kernel reads a matrix either way; this op alone turns one",
    (
        "compiler/front/lower.py",
        "_outside",
    ): "sums over rows: a rule for each op, like those in `rules`",
    ("compiler/runtime/captures.py", "_made"): "these the compiler itself puts there, in words",
    ("nn/cells.py", "ACTIVATIONS"): "what a user may choose for a cell",
    ("ir/emit.py", "truth_symbols"): "a primitive, of which one alone takes a truth value",
    (
        "compiler/front/rules.py",
        "transposed",
    ): "the view that makes rows columns: the left of a weight gradient",
    ("compiler/runtime/machine.py", "_entry"): "what reductions of a loop mean on NumPy",
    ("compiler/runtime/machine.py", "whole"): "a slot of the table, which is no op",
    ("ir/numba.py", "_BEGIN"): "how kernels write reductions",
    ("ir/expression.py", "_INFIX"): "how Python writes primitives",
    ("ir/expression.py", "_RANK"): "how Python writes primitives",
    ("viz/formula.py", "_INFIX"): "how formulas are written: signs that stand between two operands",
    ("viz/formula.py", "write"): "how formulas are written: a - (b + c) keeps its brackets",
    ("viz/levels.py", "without_detours"): "undoes what a layer does with its steps: it stacks them, and takes them out",
    ("viz/levels.py", "_elements"): "undoes what a layer does with its steps: it stacks them, and takes them out",
    ("viz/words.py", "lines"): "the sign of an index is the index",
}


def words(tree):
    """The strings in a literal: one, or those of a collection, of a dictionary its keys."""
    if isinstance(tree, ast.Constant):
        return [tree.value]
    if isinstance(tree, ast.Dict):
        return [word for key in tree.keys if key is not None for word in words(key)]
    if isinstance(tree, (ast.Set, ast.Tuple, ast.List)):
        return [word for part in tree.elts for word in words(part)]
    return []


def an_op(tree):
    """Whether an expression is an op of the library: `permute_dims.op`."""
    return (
        isinstance(tree, ast.Attribute)
        and tree.attr == "op"
        and isinstance(tree.value, ast.Name)
        and tree.value.id in NAMES
    )


def asks(tree):
    """Whether a part of a module tells ops apart by name."""
    if isinstance(tree, ast.Compare):
        sides = [tree.left, *tree.comparators]
        named = any(isinstance(side, ast.Attribute) and side.attr in ("name", "op") for side in sides)
        named = named or any(isinstance(side, ast.Name) and side.id == "name" for side in sides)
        return any(map(an_op, sides)) or (named and any(NAMES & {*map(str, words(side))} for side in sides))
    if isinstance(tree, (ast.Set, ast.Tuple, ast.List, ast.Dict)):
        return len(NAMES & {*map(str, words(tree))}) > 1
    return False


def found_in(source):
    """Where a module does: (function or table, line)."""

    def visit(tree, where):
        if isinstance(tree, (ast.FunctionDef, ast.ClassDef)):
            where = tree.name
        elif isinstance(tree, (ast.Assign, ast.AnnAssign)) and where == "":
            (target, *_) = tree.targets if isinstance(tree, ast.Assign) else [tree.target]
            where = target.id if isinstance(target, ast.Name) else ""
        if where == "__all__":
            return
        if asks(tree):
            yield where, tree.lineno
        for child in ast.iter_child_nodes(tree):
            yield from visit(child, where)

    yield from visit(ast.parse(source), "")


def everywhere():
    for path in sorted(ROOT.rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        if not file.startswith("ops/"):
            for where, line in found_in(path.read_text(encoding="utf-8")):
                yield file, where, line


def test_nothing_outside_of_ops_tells_ops_apart_by_name():
    new = [f"{file}:{line} in {where}" for file, where, line in everywhere() if (file, where) not in ALLOWED]
    assert not new, f"say it at the declarations, as a trait, instead of by name: {new}"


def test_what_is_allowed_is_still_there():
    assert {*ALLOWED} == {(file, where) for file, where, _ in everywhere()} & {*ALLOWED}


def test_it_would_be_found():
    for source in (
        'A = frozenset({"getitem", "reshape"})',
        'def f(op): return op.name in ("tanh", "other")',
        'def f(node): return node.op.name == "getitem"',
        "def f(node): return node.op is permute_dims.op",
        'B = {"tanh": 1, "exp": 2}',
    ):
        assert list(found_in(source)), source
    for source in ('__all__ = ["exp", "tanh"]', 'def f(op): return op.name == "mine"', 'x = ("mean", "other")'):
        assert not list(found_in(source)), source
