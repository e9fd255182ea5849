"""The blocks of docs/compiler.md, made by the compiler itself: an LSTM through all its stages.

python tools/docs_compiler.py            # writes the blocks into docs/compiler.md, each where its marker is
python tools/docs_compiler.py --check    # exit code 2 where the page does not show what the compiler does

The text between the blocks is written by hand. A block starts at <!-- block: name --> and ends at <!-- end -->.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import linecache
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.autograd.tape import wengert
from tinygrad_rnn.compiler import program as stages
from tinygrad_rnn.compiler import scan as engines
from tinygrad_rnn.compiler.front.observe import Observer, global_names
from tinygrad_rnn.compiler.front.reads import Reads
from tinygrad_rnn.compiler.passes.levels import Level, Order
from tinygrad_rnn.compiler.passes.merge import merge as merged
from tinygrad_rnn.compiler.passes.schedule import RowPhase
from tinygrad_rnn.compiler.runtime import layout as layouts
from tinygrad_rnn.errors import FileError, TinygradError
from tinygrad_rnn.files import write_whole
from tinygrad_rnn.ir import numba
from tinygrad_rnn.ir.nodes import Product, listed, reachable
from tinygrad_rnn.kernels.runtime.table import BODIES, PHASE, Address, Head, Kind, Panels, Phase, Slot
from tinygrad_rnn.nn import cells

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compiler.md"
MARK = re.compile(r"<!-- block: (\w+) -->\n.*?<!-- end -->\n", re.DOTALL)

#: Lines that a block has at most.
MOST = 26

Lines = Iterator[str]
BLOCKS: dict[str, Callable[[], Lines]] = {}
#: Of these, those that run kernels.
COMPILED: set[str] = set()


def block(make: Callable[[], Lines]) -> Callable[[], Lines]:
    """A block, called as its function is."""
    BLOCKS[make.__name__] = make
    return make


def compiled(make: Callable[[], Lines]) -> Callable[[], Lines]:
    """A block for which kernels run."""
    COMPILED.add(make.__name__)
    return block(make)


def shortened(lines: Sequence[str], first: int, last: int) -> Lines:
    """The first and the last of some lines, with "..." for those between."""
    if len(lines) <= first + last + 1:
        yield from lines
        return
    yield from lines[:first]
    margin = len(lines[first]) - len(lines[first].lstrip())
    yield " " * margin + "..."
    yield from lines[len(lines) - last :]


# --- The example ---


def lstm() -> tuple[Any, Any]:
    """A small LSTM, and an input of eight steps."""
    tg.manual_seed(0)
    layer = tg.nn.Recurrent(tg.nn.LSTMCell(2, 3, dtype="float64"))
    return layer, tg.randn(8, 2, 2, dtype="float64", requires_grad=True)


class FourMatrices(tg.nn.Cell):
    """The same LSTM with a pair of matrices for each gate."""

    def __init__(self) -> None:
        self.input_size, self.hidden_size = 2, 3
        self.of_x = tg.nn.ModuleList([tg.nn.Linear(2, 3, dtype="float64") for _ in range(4)])
        self.of_h = tg.nn.ModuleList([tg.nn.Linear(3, 3, dtype="float64") for _ in range(4)])

    def initial_state(self, batch_size: int) -> Any:
        return tg.zeros(batch_size, 3, dtype="float64"), tg.zeros(batch_size, 3, dtype="float64")

    def step(self, x: Any, state: Any) -> Any:
        hidden, cell = state
        i, f, g, o = [of_x(x) + of_h(hidden) for of_x, of_h in zip(self.of_x, self.of_h)]
        cell = tg.sigmoid(f) * cell + tg.sigmoid(i) * tg.tanh(g)
        hidden = tg.sigmoid(o) * tg.tanh(cell)
        return hidden, (hidden, cell)


@cache
def explained() -> Any:
    layer, x = lstm()
    return tg.explain(layer, x)


def planned() -> Any:
    return explained().parts[0][1]


def lines_of(nodes: Any) -> list[str]:
    """Nodes, a line each, with the names of parameters."""
    return list(listed(nodes, explained()._named(planned()), planned().low.step.labels))


def section(title: str) -> list[str]:
    """The lines that `explain` has under a title."""
    lines = str(explained()).splitlines()
    start = next(i for i, line in enumerate(lines) if title in line) + 1
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("    ")), len(lines))
    return [line[4:] for line in lines[start:end]]


def where(key: tuple[str, int]) -> str:
    return f"{key[0]} {key[1]}"


# --- Front ---


@block
def trace() -> Lines:
    yield from planned().traced[0].splitlines()


@block
def reads() -> Lines:
    layer, x = lstm()
    cell, state = layer.cell, layer.cell.initial_state(2)
    with Observer() as observer:
        cell.step(x[0], state)
    found = Reads((cell,), observer)
    codes = [code for code, _ in observer.entered.values()]
    for code in codes:
        yield f"code entered     {code.co_name} ({Path(code.co_filename).name})"
    named = {n for code, scope in observer.entered.values() for n in global_names(code) if n in scope}
    yield f"global           {', '.join(sorted(named))}"
    parameters = {id(tensor): name for name, tensor in cell.named_parameters()}
    for tensor in found.tensors:
        wants = ", wants a gradient" if tensor.requires_grad else ""
        yield f"tensor           {parameters[id(tensor)]} {tensor.shape} {tensor.dtype}{wants}"
    for name, value in vars(cell).items():
        if isinstance(value, (bool, int, float, str)):
            yield f"attribute        {name} = {value!r}"
    yield f"trouble          {found.trouble or observer.trouble or 'none'}"


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, an attribute is another."""
    outer = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, outer)


@compiled
def reuse() -> Lines:
    layer, x = lstm()
    traced: list[int] = []

    class Planned(stages.Planned):
        def __init__(self, *given: Any) -> None:
            traced.append(1)
            super().__init__(*given)

    def said(what: str, *inputs: Any) -> str:
        traced.clear()
        y, _ = layer(*inputs)
        fused = any((node.settings or {}).get("run") is not None for node in y.node.parents)
        became = "runs eagerly" if not fused else "traced anew" if traced else "used again"
        return f"{what.ljust(46)} {became}"

    def other(*shape: int) -> Any:
        return tg.randn(*shape, dtype="float64", requires_grad=True)

    with replaced(engines, "Planned", Planned):
        yield said("the first call", x)
        yield said("the same again", x)
        yield said("other numbers in x", other(8, 2, 2))
        yield said("20 steps in place of 8", other(20, 2, 2))
        with tg.no_grad():
            layer.cell.weight_hh[...] = 0.5
        yield said("other numbers in weight_hh", x)
        yield said("a batch of 5 in place of 2", other(8, 5, 2))
        yield said("an x that wants no gradient", other(8, 2, 2).detach())
        with replaced(cells, "sigmoid", tg.tanh):
            yield said("another function behind the global `sigmoid`", x)
        yield said("the old function again", x)
        layer.cell.bias_hh.requires_grad = False
        yield said("bias_hh frozen", x)
        yield said("7 steps, too few to be worth it", other(7, 2, 2))
        with tg.Tape():
            yield said("inside a tape, which watches every operation", x)


STEPS = """\
def mixes_rows(h, x):
    return tg.tanh(h - h.mean(0) + x), h

def decides(h, x):
    return (tg.tanh(h + x) if h.sum() > 0 else h), h

def prints(h, x):
    print(end="")
    return tg.tanh(h + x), h

def counts(h, x):
    seen.append(1)
    return tg.tanh(h + x), h
"""


@block
def refused() -> Lines:
    linecache.cache["steps.py"] = (len(STEPS), None, STEPS.splitlines(True), "steps.py")
    scope: dict[str, Any] = {"tg": tg, "seen": []}
    exec(compile(STEPS, "steps.py", "exec"), scope)
    yield from STEPS.splitlines()
    yield ""
    for name in re.findall(r"def (\w+)", STEPS):
        step = scope[name]
        said = str(tg.explain(lambda step=step: tg.scan(step, tg.zeros(2, 3), tg.zeros(8, 2, 3))))
        yield f"{name}:"
        yield from textwrap.wrap(said.partition("because ")[2].splitlines()[0], 100, initial_indent="  ",
                                 subsequent_indent="  ")  # fmt: skip


@block
def lower() -> Lines:
    program = planned().stages["lower"]
    yield from lines_of(reachable(program.forward.targets()))
    for node, key, _ in program.forward.wanted:
        yield f"{where(key)} = {node.name}"


@block
def vjps() -> Lines:
    yield from shortened(planned().traced[1].splitlines(), 20, 3)


@block
def differentiate() -> Lines:
    back = planned().stages["differentiate"].backward
    nodes = reachable(back.targets(), back.given)
    lines = lines_of([node for node in nodes if node.number not in back.given])
    given = [f"{node.name} from {where(back.given[node.number])}" for node in nodes if node.number in back.given]
    yield from [", ".join(given[i : i + 5]) for i in range(0, len(given), 5)]
    yield from shortened(lines, 11, 4)
    yield from _wanted(back)


def _wanted(direction: Any) -> Lines:
    for node, key, add in direction.wanted:
        yield f"{where(key)} {'+=' if add else '='} {node.name}"
    for left, right, key in direction.gemms:
        made = f"{left.name}.T @ {right.name}" if left is not None else f"{right.name} over the rows"
        yield f"{where(key)} += {made}"


# --- Passes ---


@block
def rematerialise() -> Lines:
    before, after = planned().stages["differentiate"].backward, planned().stages["rematerialise"].backward
    forward = {node.number for node in reachable(planned().stages["lower"].forward.targets())}
    for node in reachable(after.targets(), after.given):
        if node.number in after.given and node.number in forward and node.operands:
            key = after.given[node.number]
            why = "lies there anyway" if node.number in before.given else "saved"
            yield f"{where(key).ljust(8)} {lines_of([node])[0].ljust(60)} {why}"
        elif node.number in forward and node.operands:
            yield f"{''.ljust(8)} {lines_of([node])[0].ljust(60)} computed again"


@block
def merge() -> Lines:
    for title, layer in (("one matrix for all gates", lstm()[0]), ("four matrices", tg.nn.Recurrent(FourMatrices()))):
        found = tg.explain(layer, tg.zeros(8, 2, 2, dtype="float64")).parts[0][1]
        for name in ("rematerialise", "merge"):
            nodes = reachable(found.stages[name].forward.targets())
            yield f"{title}, {'before' if name != 'merge' else 'after'} merge:"
            yield from [f"  {node!r}" for node in nodes if isinstance(node, Product)]


@block
def levels() -> Lines:
    program = planned().stages["merge"]
    for title, direction in (("forward", program.forward), ("backward", program.backward)):
        order = Order([w.node for w in direction.wanted], direction.given, direction.carried, direction.next_carry)
        for level, start, node in order.phases:
            yield f"{title.ljust(9)} {level.name.lower().ljust(9)} stage {start[1]:.0f}  {lines_of([node])[0]}"
        waits = [n.name for n in order.every if n.number in order.depends and n.number not in direction.given]
        yield f"{title.ljust(9)} depends on the carry: {waits[0]} {waits[1]} ... {waits[-1]}"


@block
def schedule() -> Lines:
    lines = section("3. merge, schedule")
    loop = next(i for i, line in enumerate(lines) if "a loop over the row" in line)
    stores = next(i for i, line in enumerate(lines) if line.strip().startswith("next 0 ="))
    yield from lines[: loop + 1]
    yield from shortened(lines[loop + 1 : stores], 8, 3)
    yield from lines[stores:]


@block
def schedule_backward() -> Lines:
    schedule = planned().backward
    for phase in schedule.phases:
        level = Level(phase.level).name.lower().ljust(9)
        if isinstance(phase, RowPhase):
            yield f"{level} {phase.name}: {len(phase.read)} read, {len(phase.made)} made, {len(phase.stores)} stored"
        else:
            yield f"{level} {lines_of([phase.node])[0]}"
    yield "behind the loop, over all steps at once:"
    for line in section("7. weight gradients"):
        yield f"          {line}"


# --- Runtime ---


@cache
def sealed() -> Any:
    """The layout of a run forward."""
    layer, x = lstm()
    found: list[Any] = []
    with replaced(layouts, "inspect", lambda layout, *_: found.append(layout)), tg.engine("fused"):
        layer(x)
    return found[0]


def _at(entry: Any) -> str:
    return f"{where(entry.base)} + {entry.offset}" if isinstance(entry, Address) else str(entry)


@compiled
def layout() -> Lines:
    made = sealed()
    table, places = made.table, list(made.plan.places)
    head = [f"{name.name.lower()} {table[name]}" for name in (Head.STEPS, Head.CHUNK, Head.ROWS, Head.PHASE_COUNT)]
    yield f"head     {', '.join(head)}"
    for i, (key, offset) in enumerate(places):
        at = len(Head) + len(Slot) * i
        named = f"{where(key)}{f'[{offset}:]' if offset else ''}"
        strides = f"step {table[at + Slot.STEP]}, within {table[at + Slot.WITHIN]}, row {table[at + Slot.ROW]}"
        yield f"slot {str(i).ljust(3)} {named.ljust(10)} at {_at(table[at]).ljust(14)} {strides}"
    yield f"numbers  {' '.join(map(str, made.plan.numbers))}"
    names = {address: name for name, address in made.functions.items()}
    at = table[Head.PHASES]
    for _ in range(table[Head.PHASE_COUNT]):
        kind = Kind(table[at + Phase.KIND])
        entries = table[at + len(Phase) : at + len(Phase) + len(BODIES[kind])]
        shown = [names[e] if kind is Kind.ROWS else _at(e) for e in entries]
        said = ", ".join(f"{name.name.lower()} {entry}" for name, entry in zip(BODIES[kind], shown))
        yield f"phase    {Level(table[at + Phase.LEVEL]).name.lower()}, {kind.name.lower()}: {said}"
        at += PHASE
    for i in range(table[Head.PANEL_COUNT]):
        at = table[Head.PANELS] + len(Panels) * i
        shown = [f"{n.name.lower()} {_at(table[at + n])}" for n in (Panels.SOURCE, Panels.INNER, Panels.WIDTH)]
        yield f"panels   {', '.join(shown)}, target {_at(table[at + Panels.TARGET])}"


@block
def printed() -> Lines:
    """The text: some lines of each part."""
    lines = planned().forward.text.splitlines()
    rows = next(i for i, line in enumerate(lines) if "for row in" in line)
    loop = next(i for i, line in enumerate(lines) if "for j in" in line)
    yield from lines[:2]
    yield from shortened(lines[2:rows], 3, 0)
    yield lines[rows]
    yield from shortened(lines[rows + 1 : loop], 1, 0)
    yield lines[loop]
    yield from shortened(lines[loop + 1 :], 8, 5)


@compiled
def run() -> Lines:
    found = {}
    for engine in ("eager", "fused", "reference"):
        layer, x = lstm()
        with tg.engine(engine):
            y, _ = layer(x)
            if engine == "fused":
                yield "the node behind y, and the one behind that:"
                yield from [f"  {line}" for line in wengert([y.node.parents[0], y.node]).splitlines()]
            weights = list(layer.parameters())
            first = tg.grad((y * y).sum(), [x, *weights], create_graph=True)
            second = tg.grad(sum((g * g).sum() for g in first), [x, *weights])
            y, _ = layer(x)
            plain = tg.grad((y * y).sum(), [x, *weights])
        found[engine] = {"outputs": [y], "gradients": plain, "second derivatives": second}
    for name, expected in found["eager"].items():
        for engine in ("fused", "reference"):
            same = all(_agree(a.numpy(), b.numpy()) for a, b in zip(found[engine][name], expected))
            yield f"{name.ljust(19)} {engine.ljust(10)} {'agree to 1e-12' if same else 'DIFFER'}"


def _agree(one: Any, other: Any) -> bool:
    return bool(np.abs(one - other).max() <= 1e-12 * np.abs(other).max())


# --- Looking for a fault ---


def _interpreter() -> Any:
    """What evaluates a stage, with its gradients: the tests' own."""
    sys.path.insert(0, str(ROOT / "tests"))
    return importlib.import_module("ir.interpreted").Interpreted


def compared(stages: dict[str, Any], found: Any) -> Lines:
    """The outputs and gradients of each stage against the eager engine's."""
    layer, x = lstm()
    with tg.engine("eager"):
        y, _ = layer(x)
        of_x = tg.grad(y.sum(), [x])[0]
    start = [np.zeros((2, 3)), np.zeros((2, 3))]
    for name, program in stages.items():
        made = _interpreter()(found, program, start, [x.numpy()])
        said = "agree" if _agree(made.ys[0], y.numpy()) else "DIFFER"
        if program.backward is not None:
            _, (of,), _ = made.gradients([a.copy() for a in start], [np.ones(y.shape)])
            said = f"{said.ljust(10)} {'agree' if _agree(of, of_x.numpy()) else 'DIFFER'}"
        yield f"{name.ljust(15)} {said}"


@block
def interpreted() -> Lines:
    yield "stage           outputs    gradients"
    yield from compared(planned().stages, planned())


def faulty_merge() -> contextlib.AbstractContextManager[None]:
    """Inside, merge has a fault."""

    def wrong(program: Any, builder: Any) -> Any:
        """The two parts of the carry's gradient, in each other's place."""
        made: Any = merged(program, builder)
        one, other, *rest = made.backward.wanted
        swapped = (one._replace(node=other.node), other._replace(node=one.node), *rest)
        return replace(made, backward=replace(made.backward, wanted=swapped))

    return replaced(stages, "merge", wrong)


def faulty_print() -> contextlib.AbstractContextManager[None]:
    """Inside, a plus is printed as a minus."""

    def wrong(*given: Any) -> str:
        return right(*given).replace("(t_1 + t_2)", "(t_1 - t_2)")

    right = numba.printed
    return replaced(numba, "printed", wrong)


@compiled
def faulty() -> Lines:
    yield "fault in        fused      reference"
    for title, fault in (("nothing", contextlib.nullcontext), ("merge", faulty_merge), ("print", faulty_print)):
        found = {}
        with fault():
            for engine in ("eager", "fused", "reference"):
                layer, x = lstm()
                with tg.engine(engine):
                    y, _ = layer(x)
                found[engine] = [y, *tg.grad(y.sum(), [x, *layer.parameters()])]
        said = []
        for engine in ("fused", "reference"):
            same = all(_agree(a.numpy(), b.numpy()) for a, b in zip(found[engine], found["eager"]))
            said.append("agree" if same else "DIFFER")
        yield f"{title.ljust(15)} {said[0].ljust(10)} {said[1]}"


@block
def fault() -> Lines:
    layer, x = lstm()
    with faulty_merge():
        found = tg.explain(layer, x).parts[0][1]
    yield "stage           outputs    gradients"
    yield from compared(found.stages, found)


# --- The page ---


def filled(page: str) -> str:
    """The page with its blocks made anew; those that need kernels stay where nothing is compiled.

    Raises:
        FileError: where a marker names no block, or a block is not on the page.
    """
    names = MARK.findall(page)
    if sorted(names) != sorted(BLOCKS):
        raise FileError(
            "the markers of the page are not the blocks",
            expected=", ".join(sorted(BLOCKS)),
            got=", ".join(sorted(names)),
        )

    def made(found: re.Match[str]) -> str:
        name = found[1]
        if name in COMPILED and not settings.jit_enabled:
            return found[0]
        lines = [line.rstrip() for line in BLOCKS[name]()]
        if len(lines) > MOST:
            raise FileError(f"the block {name} is too long", expected=f"{MOST} lines", got=str(len(lines)))
        return "\n".join([f"<!-- block: {name} -->", "```text", *lines, "```", "<!-- end -->", ""])

    return MARK.sub(made, page)


def main(arguments: list[str] | None = None) -> int:
    """Write the blocks, or check them."""
    parser = argparse.ArgumentParser(description="The blocks of docs/compiler.md, made by the compiler itself.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 2 where the page is stale")
    given = parser.parse_args(arguments)
    try:
        page = PAGE.read_text(encoding="utf-8")
        text = filled(page)
        if not given.check:
            write_whole(PAGE, text.encode())
        elif page != text:
            raise FileError(f"{PAGE.name} is stale", hint="python tools/docs_compiler.py")
    except TinygradError as trouble:
        print(f"docs_compiler: {trouble.one_line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
