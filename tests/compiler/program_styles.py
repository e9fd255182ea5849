"""A drawn structure as Python text: in one of the many styles in which people write a step."""

from __future__ import annotations

import itertools
import random
import textwrap
from dataclasses import dataclass

from program_parts import Structure, filled
from program_places import Frame, Placed, placed, places

PRELUDE = """
import collections, contextvars, functools, io, itertools, math, random, threading, time, types, weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.kernels import scalar
from tinygrad_rnn.ops.declare import Array, elementwise, opaque

DTYPE = "$dtype"
NUDGE = globals().get("NUDGE", 0.0)  # by how much all numbers are off, to see what rounding does to this program
numbers = np.random.default_rng($seed)


def array(*shape):
    return np.asarray(numbers.standard_normal(shape) * 0.4 * (1.0 + NUDGE), dtype=DTYPE)


def learned(*shape):
    return tg.nn.Parameter(tg.tensor(array(*shape)))


def frozen(*shape):
    return tg.nn.Parameter(tg.tensor(array(*shape)), requires_grad=False)


def constant(*shape):
    return tg.tensor(array(*shape))


def leaf(*shape):
    return tg.tensor(array(*shape), requires_grad=True)


def view(*shape):
    return tg.nn.Parameter(tg.tensor(array(2, *shape))[1])


def transposed(*shape):
    return tg.nn.Parameter(tg.tensor(array(*shape[::-1])).T)


def offset(*shape):
    raw = array(*shape)
    memory = np.frombuffer(b"x" + raw.tobytes(), dtype=raw.dtype, count=raw.size, offset=1)
    return tg.from_numpy(memory.reshape(shape))


def twice(n):
    w = learned(n, n)
    return [w, w]


def shared(n):
    w = learned(n, n)
    return [w, tg.nn.Parameter(w)]


def beside(n):
    w = learned(n, n)
    return [w, w.detach()]


def transposes(n):
    w = learned(n, n)
    return [w, tg.nn.Parameter(w.detach().T)]


def parts(n):
    w = tg.tensor(array(2 * n, n))
    return [tg.nn.Parameter(w[n:]), tg.nn.Parameter(w[:n])]


class Slotted:
    __slots__ = ("__weakref__", "value")

    def __init__(self, value):
        self.value = value


class Called(Slotted):
    __slots__ = ()

    def __call__(self):
        return self.value


class Point(NamedTuple):
    value: Any
    other: Any


class Fallback:
    def __init__(self):
        self.parts = {}

    def __getattr__(self, name):
        return self.parts[name]

    def __getitem__(self, name):
        return self.parts[name]


class Limits:
    pass


class Tighter(Limits):
    pass


class Shown:
    pass


@dataclass
class Settings:
    parts: Any = field(default_factory=types.SimpleNamespace)


CONFIG, SETTINGS, TABLE, ITEMS, ELSEWHERE = types.SimpleNamespace(), Settings(), {}, [], types.ModuleType("elsewhere")
FALLBACK, OWN, SHOWN, LOCAL = Fallback(), Fallback(), Shown(), threading.local()
CHAIN = collections.ChainMap({}, {})
""".lstrip()

STYLES = ("function", "lambda", "closure", "partial", "object", "method", "cell", "cell", "cell")

#: How the state is held: of several tensors, and of one.
NESTS = ("tuple", "list", "dict", "named", "inside", "one")


@dataclass
class Written:
    """A program as text, with what can be done to it from outside.

    `step` is "STEP" for `tg.scan`, or "it", a cell.
    """

    text: str
    style: str
    nest: str
    placed: list[Placed]
    helpers: list[str]
    observed: list[str]
    gain: float

    @property
    def is_cell(self) -> bool:
        """Whether it is a cell, to be run by layers."""
        return self.style == "cell"


def _packed(nest: str, names: list[str], kind: str = "State") -> str:
    if nest == "one":
        return names[0]
    if nest == "dict":
        return "{" + ", ".join(f"'{chr(98 - i % 2)}{i}': {name}" for i, name in enumerate(names)) + "}"
    if nest == "named":
        return f"{kind}({', '.join(names)})"
    if nest == "inside":
        return f"(({names[0]},), {', '.join(names[1:])}{',' if len(names) > 1 else ''})"
    joined = ", ".join(names)
    return f"[{joined}]" if nest == "list" else f"({joined},)"


def _unpacked(nest: str, what: str, count: int) -> list[str]:
    """The expression of each part of a nest."""
    if nest == "one":
        return [what]
    if nest == "dict":
        return [f"{what}['{chr(98 - i % 2)}{i}']" for i in range(count)]
    if nest == "named":
        return [f"{what}.part{i}" for i in range(count)]
    if nest == "inside":
        return [f"{what}[0][0]", *[f"{what}[{i}]" for i in range(1, count)]]
    return [f"{what}[{i}]" for i in range(count)]


def written(structure: Structure, seed: int, style: str, without: frozenset[int] = frozenset()) -> Written:
    """The structure as text; without the lines numbered so, whose replacements take their places."""
    chance = random.Random(f"style {seed}")
    frame, things, helpers, observed = Frame(), [], [], []
    # One nest for state, inputs and outputs, drawn even where it is not used, so that a smaller program stays like it.
    nest = chance.choice(NESTS[:5]) if len(structure.carries) > 1 else chance.choice(NESTS)
    form = chance.choice(("tuple", "dict", "one")) if len(structure.outputs) == 1 else chance.choice(("tuple", "dict"))
    fuzzy, offered = chance.random() * 0.4, places(style)

    def name(i: int) -> str:
        while i >= structure.given and i - structure.given in without:
            replacement = structure.lines[i - structure.given].replacement
            assert replacement is not None
            i = replacement
        return f"v{i}"

    body: list[tuple[str, str]] = []
    state, x = "state", "x"
    body += zip([f"v{i}" for i in range(len(structure.carries))], _unpacked(nest, state, len(structure.carries)))
    if style == "cell":
        starts = [sum(structure.inputs[:i]) for i in range(len(structure.inputs) + 1)]
        inputs = [x] if len(structure.inputs) == 1 else [f"{x}[:, {a}:{b}]" for a, b in itertools.pairwise(starts)]
    else:
        inputs = _unpacked("one" if len(structure.inputs) == 1 else "dict", x, len(structure.inputs))
    body += zip([f"v{i + len(structure.carries)}" for i in range(len(inputs))], inputs)
    methods: list[str] = []
    for n, line in enumerate(structure.lines):
        own = random.Random(f"line {seed} {n}")
        spots = [own.choice(offered) for _ in line.captures]
        if n in without:
            continue
        here = [placed(own, f"c{n * 10 + k}", c, s, frame) for k, (c, s) in enumerate(zip(line.captures, spots))]
        things += here
        for text in line.definitions:
            frame.module.append(filled(text, n=n))
            helpers += [word for word in (part.split("(")[0] for part in filled(text, n=n).split("def ")[1:])
                        if word.endswith(f"_{n}") and not text.startswith("@")]  # fmt: skip
        observed += [filled(text, n=n) for text in line.observed]
        reads = {f"c{k}": thing.read for k, thing in enumerate(here)}
        reads["training"] = "self.training" if style == "cell" else "True"
        operands = {f"v{k}": name(i) for k, i in enumerate(line.operands)}
        expression, wrap = line.text, own.random()
        if wrap < fuzzy and operands and style != "lambda":
            names = [f"a{k}" for k in range(len(line.operands))]
            inside = filled(expression, n=n, **reads, **{f"v{k}": a for k, a in enumerate(names)})
            call = f"part_{n}({', '.join(operands.values())})"
            limited = any(thing.place in ("default", "keyword", "closure") for thing in here)
            if style in ("object", "method", "cell") and not any(t.place in ("default", "keyword") for t in here):
                methods.append(f"def part_{n}(self, {', '.join(names)}):\n    return {inside}\n")
                call = f"self.{call}"
            elif limited:
                body.append(("", f"def part_{n}({', '.join(names)}):\n    return {inside}\n"))
            else:
                frame.module.append(f"def part_{n}({', '.join(names)}):\n    return {inside}\n\n")
                helpers.append(f"part_{n}")
            expression = call
        else:
            expression = filled(expression, n=n, **reads, **operands)
        body.append((f"v{structure.given + n}", expression))
    new = _packed(nest, [f"{structure.gain} * tg.tanh({name(i)})" for i in structure.new])
    outs = [name(i) for i in structure.outputs]
    if style == "cell":
        out = outs[0] if len(outs) == 1 else f"tg.concat([{', '.join(outs)}], -1)"
        result = f"{out}, {new}"
    else:
        result = f"{new}, {_packed(form, outs)}"
    text = prelude(structure, seed) + _whole(structure, style, nest, frame, body, methods, result)
    return Written(text, style, nest, things, helpers, observed, structure.gain)


def prelude(structure: Structure, seed: int) -> str:
    """The prelude, and the state's type."""
    fields = "".join(f"    part{i}: Any\n" for i in range(len(structure.carries)))
    return filled(PRELUDE, dtype=structure.dtype, seed=seed) + f"\n\nclass State(NamedTuple):\n{fields}\n\n"


def _indented(lines: list[str], depth: int = 1) -> str:
    return textwrap.indent("\n".join(lines), "    " * depth) + "\n" if lines else ""


def _whole(
    structure: Structure,
    style: str,
    nest: str,
    frame: Frame,
    body: list[tuple[str, str]],
    methods: list[str],
    result: str,
) -> str:
    module = "\n".join(frame.module) + "\n\n"
    named = (
        ", ".join(["", "*", *frame.defaults, *[k.split("=")[0] for k in frame.keywords]])
        if frame.defaults or frame.keywords
        else ""
    )
    lines = [f"{name} = {text}" if name else text for name, text in body] + [f"return {result}"]
    if style == "lambda":
        walrus = ", ".join(f"{name} := {text}" for name, text in body)
        return module + f"STEP = RAW = lambda state, x: [{walrus}, ({result})][-1]\n"
    if style in ("function", "partial"):
        step = f"def step(state, x{named}):\n{_indented(lines)}\n\nRAW = step\n"
        if style == "partial":
            return module + step + f"STEP = functools.partial(step, {', '.join(frame.keywords)})\n"
        return module + step + "STEP = step\n"
    if style == "closure":
        inside = (
            _indented(["\n".join(frame.closure)]) + _indented([f"def step(state, x{named}):"]) + _indented(lines, 2)
        )
        return module + f"def made():\n{inside}\n    return step\n\n\nSTEP = RAW = made()\n"
    attributes = ["self.config, self.parts, self.items = types.SimpleNamespace(), {}, []", *frame.attributes]
    head, step, extra = ("object", "__call__" if style == "object" else "step", "")
    parameters, setup = f"self, state, x{named}", []
    if style == "cell":
        head, parameters = "tg.nn.Cell", f"self, x, state{named}"
        zeros = [f"tg.zeros(batch_size, {width}, dtype=DTYPE)" for width in structure.carries]
        extra = f"def initial_state(self, batch_size):\n    return {_packed(nest, zeros)}\n"
        setup = [f"self.input_size = {sum(structure.inputs)}", f"self.hidden_size = {structure.carries[0]}"]
    base = "".join(_indented([text]) for text in frame.base_body) or "    pass\n"
    inside = "".join(_indented([text]) for text in [*frame.class_body, extra, *methods] if text)
    first = f"    def {step}({parameters}):\n{_indented(lines, 2)}\n\n"
    inherited = not named and step == "step" and len(body) % 3 == 0  # then the base has the step, and this calls it
    second = first
    if inherited:
        base, second = (
            base.replace("    pass\n", "") + "\n" + first,
            "    def step(self, *parts):\n        return super().step(*parts)\n\n\n",
        )
    return (
        module
        + f"class Base({head}):\n{base}\n\nclass Program(Base):\n{inside}"
        + f"    def __init__(self):\n        super().__init__()\n{_indented([*setup, *attributes], 2)}\n"
        + second
        + f"it = Program()\nRAW = {'Base' if inherited else 'Program'}.{step}\n"
        + {"object": "STEP = it\n", "method": "STEP = it.step\n", "cell": ""}[style]
    )
