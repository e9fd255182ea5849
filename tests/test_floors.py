"""Each floor imports only floors below it, nothing imports in a circle, and no module takes the place of a function."""

from __future__ import annotations

import ast
import pkgutil
import types
from pathlib import Path

import tinygrad_rnn as tg

#: From the ground up. What is on one line is on one floor.
FLOORS = [
    ("errors",),
    ("settings",),
    ("kernels",),
    ("ir",),
    ("ops",),
    ("autograd",),
    ("compiler",),
    ("nn",),
    ("optim", "data", "files"),
    ("viz",),
    ("cli",),
]
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}

#: The rooms of the compiler, from the ground up: each imports only rooms below it.
ROOMS = ("front", "passes", "program", "runtime", "scan", "explain", "stages")
ROOT = Path(tg.__file__).parent


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts


def imported(tree, package):
    """Names of the library's modules that a tree imports, absolute and relative, also inside functions: (line, name).

    What stands under `if TYPE_CHECKING:` never runs, but what it names is a dependency too.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "tinygrad_rnn":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            full = [*base, *(node.module.split(".") if node.module else [])]
            if full[:1] != ["tinygrad_rnn"]:
                continue
            if len(full) == 1:
                for alias in node.names:
                    yield node.lineno, f"tinygrad_rnn.{alias.name}"
            else:
                yield node.lineno, ".".join(full)


def breaches(path, parts, source):
    """What breaks the rule in one module, in words."""
    package = ("tinygrad_rnn", *(parts if path.name == "__init__.py" else parts[:-1]))
    if path.name == "__init__.py":
        package = ("tinygrad_rnn", *parts[:-1])
    here = parts[0]
    for line, name in imported(ast.parse(source), package):
        there = name.split(".")[1] if "." in name else None
        where = f"{path.relative_to(ROOT.parent)}:{line}"
        if there is None or there not in HEIGHT:
            yield f"{where} imports {name}, which is on no floor"
        elif HEIGHT[there] > HEIGHT.get(here, -1):
            yield f"{where} imports {name}: {here} is below {there}"


def test_every_module_is_on_a_floor():
    stray = {parts[0] for _, parts in modules()} - set(HEIGHT) - {"__main__"}
    assert not stray, f"on no floor: {sorted(stray)}; say in FLOORS where they belong"


def test_each_floor_imports_only_floors_below():
    broken = [
        breach
        for path, parts in modules()
        if parts[0] != "__main__"
        for breach in breaches(path, parts, path.read_text(encoding="utf-8"))
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_the_check_itself_notices_every_form_of_import():
    path, parts = ROOT / "ops" / "shape.py", ("ops", "shape")
    for bad in (
        "import tinygrad_rnn.nn.module",
        "from tinygrad_rnn import nn",
        "from tinygrad_rnn.autograd.tensor import Tensor",
        "from .. import autograd",
        "from ..autograd import tape",
        "def f():\n    from ..optim.clip import clip_grad_norm_",
        "import tinygrad_rnn",
        "from .. import nothing_known",
    ):
        assert list(breaches(path, parts, bad)), bad
    for good in (
        "import numpy",
        "from . import index",
        "from .op import Op",
        "from ..kernels import gather",
        "from ..errors import ShapeError",
        "from ..ir.expression import Expression",
    ):
        assert not list(breaches(path, parts, good)), good
    package = list(breaches(ROOT / "ops" / "__init__.py", ("ops", "__init__"), "from ..nn import x\nfrom . import op"))
    assert len(package) == 1


def sources():
    """Every module of the package by its dotted name: (whether it is a package, its text)."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = (ROOT.name, *path.relative_to(ROOT).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if is_package else parts)] = (is_package, path.read_text(encoding="utf-8"))
    return found


def graph(texts):
    """For each module the modules that it names in an import, wherever that stands, with the line.

    That a module's package is imported before it is Python's doing, and not counted.
    """
    edges = {}
    for name, (is_package, text) in texts.items():
        package = name.split(".") if is_package else name.split(".")[:-1]
        edges[name] = {}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                full = ".".join([*base, *(node.module.split(".") if node.module else [])])
                targets = [f"{full}.{alias.name}" if f"{full}.{alias.name}" in texts else full for alias in node.names]
            else:
                continue
            edges[name].update({target: node.lineno for target in targets if target in texts and target != name})
    return edges


def circles(edges):
    """The modules that cannot be put in an order, each with those of them that it imports."""
    left = {name: set(targets) for name, targets in edges.items()}
    while True:
        # Who imports nothing that is left, or is imported by nobody that is left, is on no circle.
        imported_ones = set().union(*left.values()) if left else set()
        free = {name for name, targets in left.items() if not targets or name not in imported_ones}
        if not free:
            return [
                f"{name}:{edges[name][target]} imports {target}"
                for name in sorted(left)
                for target in sorted(left[name])
            ]
        left = {name: targets - free for name, targets in left.items() if name not in free}


def rising(edges):
    """The imports in the compiler that go to a room above."""
    height = {f"tinygrad_rnn.compiler.{room}": number for number, room in enumerate(ROOMS)}

    def of(name):
        return height.get(".".join(name.split(".")[:3]))

    for name, targets in edges.items():
        for target, line in targets.items():
            if of(name) is not None and of(target) is not None and of(target) > of(name):
                yield f"{name}:{line} imports {target}, which is above"


def test_no_modules_import_each_other_in_a_circle():
    found = circles(graph(sources()))
    assert not found, "these, or some of them, are a circle:\n" + "\n".join(found)


def test_each_room_of_the_compiler_imports_only_rooms_below():
    compiler = ROOT / "compiler"
    rooms = {path.stem for path in compiler.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(ROOMS), "say in ROOMS where it belongs"
    found = list(rising(graph(sources())))
    assert not found, "\n" + "\n".join(found)


def test_a_planted_circle_is_noticed():
    whole = sources()
    for module, bad in (
        ("autograd.tape", "def f():\n    from .tensor import Tensor"),
        ("autograd.tensor", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import backward"),
        ("compiler.front.forms", "import tinygrad_rnn.compiler.front.lower"),
        ("ops.op", "from tinygrad_rnn.ops import REGISTRY"),
    ):
        name = f"tinygrad_rnn.{module}"
        is_package, text = whole[name]
        planted = {**whole, name: (is_package, f"{text}\n{bad}\n")}
        found = circles(graph(planted))
        assert any(line.startswith(f"{name}:") for line in found), bad
    name = "tinygrad_rnn.compiler.passes.merge"
    planted = {**whole, name: (False, "def f():\n    from ..runtime.layout import Layout")}
    assert len(list(rising(graph(planted)))) == 1


def test_no_submodule_bears_the_name_of_a_public_function():
    """Importing it would put the module where the function was."""
    submodules = {info.name for info in pkgutil.iter_modules([str(ROOT)])}
    reserved = {"scan", "tensor", "checkpoint", "gradcheck", "grad", "engine", "record", "explain", "save", "load"}
    public = {name for name, value in vars(tg).items() if not isinstance(value, types.ModuleType)}
    assert not submodules & (public | reserved)


def test_public_names_are_no_modules_but_the_known_ones():
    found = {n for n, value in vars(tg).items() if isinstance(value, types.ModuleType) and not n.startswith("_")}
    assert found <= set(HEIGHT)
