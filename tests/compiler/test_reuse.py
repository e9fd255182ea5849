"""A compiled step is used again only while all is the same that it read: auto gives what eager gives."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import itertools
import random
import sys
import time
import types
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.errors import FusionError

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")

F64 = "float64"


def tensor(seed, *shape, grad=False):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape) * 0.5, requires_grad=grad)


class Mode(enum.Enum):
    HALF = 0.5
    WHOLE = 1.0


@dataclasses.dataclass
class Settings:
    scale: float = 0.3
    inner: Any = None


class Pair(NamedTuple):
    scale: float
    memory: Any


class Slotted:
    __slots__ = ("scale",)

    def __init__(self):
        self.scale = 0.3


class Base(tg.nn.Cell):
    """A cell with something of every kind that a step can read."""

    factor = 0.3

    def __init__(self):
        self.input_size = self.hidden_size = 4
        self.weight = tg.nn.Parameter(tensor(0, 4, 4))
        self.scale, self.flag, self.table, self.names = 0.3, True, [0.3, 0.4], {"scale": 0.3}
        self.config = types.SimpleNamespace(scale=0.3, memory=tensor(1, 2, 4), deep=types.SimpleNamespace(scale=0.3))
        self.data, self.pair, self.slotted, self.mode = Settings(), Pair(0.3, tensor(2, 4)), Slotted(), Mode.HALF
        self.array, self.number = np.full(4, 0.3), np.float64(0.3)
        self.function, self.partial = lambda h: 0.3 * h, functools.partial(lambda h, scale: scale * h, scale=0.3)
        self.layers = [tg.nn.Linear(4, 4, dtype=F64), tg.nn.Linear(4, 4, dtype=F64)]
        self.deque = collections.deque([0.3])
        self.register_buffer("leak", tg.tensor(np.array(0.3)))

    @property
    def derived(self):
        return self.scale * 2.0

    def read(self, h):
        raise NotImplementedError

    def helper(self, h):
        return 0.3 * h

    def step(self, x, h):
        h = tg.tanh(self.read(h) + x @ self.weight)
        return h, h


ALPHA, TABLE = 0.3, {"scale": [0.3]}


def outside(h):
    return ALPHA * h


THERE = sys.modules["module_of_numbers"] = types.ModuleType("module_of_numbers")
THERE.ALPHA = 0.3


def importing(h):
    from module_of_numbers import ALPHA

    return ALPHA * h


def with_default(h, scale=0.3):
    return scale * h


def set_global(name, value):
    globals()[name] = value


def set_default(value):
    with_default.__defaults__ = (value,)


def set_item(container, key, value):
    container[key] = value


class Child(Base):
    def helper(self, h):
        return super().helper(h) * 2.0


def closing():
    scale = 0.3

    def change(value):
        nonlocal scale
        scale = value

    return (lambda h: scale * h), change


CLOSED, change_closed = closing()

#: What the step reads; and how it is changed (the cell is given).
CHANGES = {
    "attribute": (lambda c, h: c.scale * h, lambda c: setattr(c, "scale", 0.7)),
    "a truth": (lambda c, h: h if c.flag else -h, lambda c: setattr(c, "flag", False)),
    "a truth that becomes 1": (lambda c, h: c.flag * h, lambda c: setattr(c, "flag", 2)),
    "element of a list": (lambda c, h: c.table[0] * h, lambda c: set_item(c.table, 0, 0.7)),
    "length of a list": (lambda c, h: len(c.table) * 0.1 * h, lambda c: c.table.append(1.0)),
    "value of a dict": (lambda c, h: c.names["scale"] * h, lambda c: set_item(c.names, "scale", 0.7)),
    "attribute of an object": (lambda c, h: c.config.scale * h, lambda c: setattr(c.config, "scale", 0.7)),
    "attribute of an object in an object": (
        lambda c, h: c.config.deep.scale * h,
        lambda c: setattr(c.config.deep, "scale", 0.7),
    ),
    "another object": (
        lambda c, h: c.config.deep.scale * h,
        lambda c: setattr(c.config, "deep", types.SimpleNamespace(scale=0.7)),
    ),
    "a tensor in an object": (lambda c, h: h * c.config.memory, lambda c: setattr(c.config, "memory", tensor(9, 2, 4))),
    "a tensor of another shape": (
        lambda c, h: h * c.config.memory,
        lambda c: setattr(c.config, "memory", tensor(9, 4)),
    ),
    "a tensor changed in place": (lambda c, h: h * c.config.memory, lambda c: c.config.memory.copy_(0.5)),
    "a tensor that wants a gradient now": (
        lambda c, h: h * c.pair.memory,
        lambda c: setattr(c.pair.memory, "requires_grad", True),
    ),
    "data class": (lambda c, h: c.data.scale * h, lambda c: setattr(c.data, "scale", 0.7)),
    "named tuple": (lambda c, h: c.pair.scale * h, lambda c: setattr(c, "pair", c.pair._replace(scale=0.7))),
    "slot": (lambda c, h: c.slotted.scale * h, lambda c: setattr(c.slotted, "scale", 0.7)),
    "enum": (lambda c, h: c.mode.value * h, lambda c: setattr(c, "mode", Mode.WHOLE)),
    "enum by identity": (lambda c, h: h if c.mode is Mode.HALF else -h, lambda c: setattr(c, "mode", Mode.WHOLE)),
    "NumPy array": (lambda c, h: h * tg.tensor(c.array), lambda c: set_item(c.array, 2, 0.9)),
    "NumPy array, shared": (lambda c, h: h * tg.from_numpy(c.array), lambda c: set_item(c.array, 2, 0.9)),
    "NumPy number": (lambda c, h: h * c.number, lambda c: setattr(c, "number", np.float64(0.7))),
    "function": (lambda c, h: c.function(h), lambda c: setattr(c, "function", lambda h: 0.7 * h)),
    "partial": (lambda c, h: c.partial(h), lambda c: c.partial.keywords.update(scale=0.7)),
    "class attribute": (lambda c, h: c.factor * h, lambda c: setattr(type(c), "factor", 0.7)),
    "instance attribute in front of the class's": (lambda c, h: c.factor * h, lambda c: setattr(c, "factor", 0.7)),
    "property": (lambda c, h: c.derived * h, lambda c: setattr(c, "scale", 0.2)),
    "property redefined": (
        lambda c, h: c.derived * h,
        lambda c: setattr(type(c), "derived", property(lambda self: 0.9)),
    ),
    "method": (lambda c, h: c.helper(h), lambda c: setattr(type(c), "helper", lambda self, h: 0.7 * h)),
    "method of the base, through super": (
        lambda c, h: c.helper(h),
        lambda c: setattr(Base, "helper", lambda self, h: 0.7 * h),
    ),
    "method of one instance": (lambda c, h: c.helper(h), lambda c: setattr(c, "helper", lambda h: 0.7 * h)),
    "global": (lambda c, h: outside(h), lambda c: set_global("ALPHA", 0.7)),
    "global function": (lambda c, h: outside(h), lambda c: set_global("outside", lambda h: 0.7 * h)),
    "global container": (lambda c, h: TABLE["scale"][0] * h, lambda c: set_item(TABLE["scale"], 0, 0.7)),
    "a builtin's name taken": (lambda c, h: max(0.1, 0.2) * h, lambda c: set_global("max", lambda *a: 0.7)),
    "default argument": (lambda c, h: with_default(h), lambda c: set_default(0.7)),
    "closure": (lambda c, h: CLOSED(h), lambda c: change_closed(0.7)),
    "getattr": (lambda c, h: getattr(c, "sc" + "ale") * h, lambda c: setattr(c, "scale", 0.7)),
    "__dict__": (lambda c, h: c.__dict__["scale"] * h, lambda c: setattr(c, "scale", 0.7)),
    "hasattr": (lambda c, h: h if hasattr(c, "later") else -h, lambda c: setattr(c, "later", 1)),
    "try": (lambda c, h: getattr(c, "later", 0.3) * h, lambda c: setattr(c, "later", 0.9)),
    "deque": (lambda c, h: c.deque[0] * h, lambda c: c.deque.appendleft(0.7)),
    "layers in a list": (lambda c, h: c.layers[0](h), lambda c: c.layers.reverse()),
    "a buffer of no axes": (lambda c, h: c.leak * h, lambda c: c.leak.copy_(0.7)),
    "a buffer of no axes, replaced": (lambda c, h: c.leak * h, lambda c: setattr(c, "leak", tg.tensor(np.array(0.7)))),
    "arithmetic on a buffer": (lambda c, h: (1.0 - c.leak) * h, lambda c: c.leak.copy_(0.7)),
    "a number, and that of a buffer": (lambda c, h: c.leak.dtype.itemsize * 0.05 * h, lambda c: c.leak.copy_(0.7)),
    "mode": (lambda c, h: h if c.training else -h, lambda c: c.eval()),
    "an import": (lambda c, h: importing(h), lambda c: setattr(THERE, "ALPHA", 0.7)),
    "code": (lambda c, h: c.helper(h), lambda c: setattr(Base.helper, "__code__", (lambda self, h: 0.7 * h).__code__)),
}


@pytest.fixture
def unchanged():
    """Everything global as it was."""
    kept = dict(vars(Base)), dict(globals()), Base.helper.__code__
    yield
    Base.helper.__code__ = kept[2]
    for name, value in kept[0].items():
        if name not in ("__dict__", "__weakref__"):
            setattr(Base, name, value)
    for name in globals().keys() - kept[1].keys():
        del globals()[name]
    globals().update(kept[1])
    TABLE["scale"][0] = 0.3
    with_default.__defaults__ = (0.3,)
    change_closed(0.3)


def run(cell, layer, x):
    parameters = list(cell.parameters())
    outputs, _ = layer(x)
    found = tg.grad((outputs * outputs).sum(), [x, *parameters], allow_unused=True)
    return [outputs.numpy(), *[None if g is None else g.numpy() for g in found]]


def agree(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert (a is None) == (b is None)
        assert a is None or np.abs(a - b).max() <= 1e-10 * max(np.abs(b).max(), 1.0)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name, unchanged):
    read, change = CHANGES[name]
    base = Child if "super" in name else Base
    cell = type("Cell", (base,), {"read": lambda self, h: read(self, h)})()
    auto, eager = (tg.nn.Recurrent(cell, engine=engine) for engine in ("auto", "eager"))
    x = tensor(5, 9, 2, 4, grad=True)
    for _ in range(2):
        agree(run(cell, auto, x), run(cell, eager, x))
    fused = bool(auto._known.programs) and not isinstance(auto._known.programs[0], Exception)
    assert fused, auto._known.programs
    change(cell)
    for _ in range(2):
        agree(run(cell, auto, x), run(cell, eager, x))


def test_minus_zero_is_another_number(unchanged):
    def step(h, x):
        return h, tg.where(1.0 / (x * scale) > 0.0, x, -x)

    x, found = tg.tensor(np.ones((9, 2, 3))), {"eager": [], "fused": []}
    with np.errstate(all="ignore"):
        for engine, means in found.items():
            for scale in (0.0, -0.0, 0.0):  # noqa: B007  # the step reads it
                means.append(tg.scan(step, tg.zeros(2, 3, dtype=F64), x, engine=engine)[1].numpy().mean())
    assert found["fused"] == found["eager"] == [1.0, -1.0, 1.0]


def test_a_number_that_changes_compiles_nothing():
    cell = type("Cell", (Base,), {"read": lambda self, h: self.scale * h})()
    layer, x = tg.nn.Recurrent(cell), tensor(5, 9, 2, 4)
    layer(x)
    texts = {made.program.forward.text for made in layer._known.programs}
    for scale in np.linspace(0.11, 0.9, 20):
        cell.scale = float(scale)
        layer(x)
        texts |= {made.program.forward.text for made in layer._known.programs}
    assert len(texts) == 1


def test_what_is_kept_is_bounded():
    cell = type("Cell", (Base,), {"read": lambda self, h: self.scale * h})()
    layer = tg.nn.Recurrent(cell)
    for i in range(60):
        cell.scale = 0.01 * i + 0.003
        layer(tensor(5, 9, 2, 4))
    assert len(layer._known.programs) <= 16


# --- Steps that are no function of what they read ---


class Counter:
    def __init__(self):
        self.count, self.log, self.last = 0, [], None


def counting(state):
    def step(h, x):
        state.count += 1
        return h + x * float(state.count), h

    return step


def logging(state):
    def step(h, x):
        state.log.append(len(state.log))
        return tg.tanh(h + x), h

    return step


def storing(state):
    def step(h, x):
        h = tg.tanh(h + x)
        state.last = h
        return h, h

    return step


def iterating(state):
    numbers = itertools.count()

    def step(h, x):
        state.count = next(numbers)
        return h + x * float(state.count), h

    return step


def generating(state):
    numbers = (i * 0.5 for i in range(1000))

    def step(h, x):
        return h + x * next(numbers), h

    return step


def looping(state):
    numbers = iter([0.5 * i for i in range(1000)])

    def step(h, x):
        for number in numbers:  # noqa: B007  # it takes one
            break
        return h + x * number, h

    return step


def counting_nonlocal(state):
    n = 0

    def step(h, x):
        nonlocal n
        n += 1
        state.count = n
        return h + x * float(n), h

    return step


def throwing(state):
    def step(h, x):
        return (h + x if random.random() < 0.5 else h - x), h

    return step


def throwing_numpy(state):
    def step(h, x):
        return (h + x if np.random.rand() < 0.5 else h - x), h  # noqa: NPY002  # what people write

    return step


def own_generator(state):
    rng = np.random.default_rng(3)

    def step(h, x):
        return h + x * float(rng.random()), h

    return step


def timing(state):
    def step(h, x):
        state.log.append(time.perf_counter() > 0)
        return h + x, h

    return step


def printing(state):
    def step(h, x):
        print("a step")
        return tg.tanh(h + x), h

    return step


def once(state):
    def step(h, x):
        if not state.log:
            state.log.append("started")
            h = h + 5.0
        return tg.tanh(h) + x, h

    return step


def caching(state):
    table = {}

    def step(h, x):
        if len(table) < 7:
            table[len(table)] = 1.0
        return h + x * float(len(table)), h

    return step


def raising(state):
    def step(h, x):
        state.count += 1
        if state.count == 5:
            raise RuntimeError("the fifth step")
        return h + x, h

    return step


@functools.lru_cache
def remembered(n):
    return 0.5 * n


def remembering(state):
    def step(h, x):
        return h + x * remembered(2), h

    return step


IMPURE = [
    counting, logging, storing, iterating, generating, looping, counting_nonlocal, throwing, throwing_numpy,
    own_generator, timing, printing, once, caching, raising,
]  # fmt: skip


@pytest.mark.parametrize("make", IMPURE, ids=lambda f: f.__name__)
def test_a_step_that_is_no_function_runs_as_often_as_python_says(make, capsys):
    x, found = tensor(1, 12, 2, 3), {}
    for engine in ("eager", "auto"):
        random.seed(3), np.random.seed(3)  # noqa: NPY002
        state = Counter()
        step = make(state)
        results = []
        for _ in range(2):
            try:
                carry, ys = tg.scan(step, tg.zeros(2, 3, dtype=F64), x, engine=engine)
                results += [carry.numpy().round(9).tolist(), ys.numpy().round(9).tolist()]
            except RuntimeError as trouble:
                results.append(str(trouble))
        last = None if state.last is None else state.last.numpy().tolist()
        found[engine] = results, state.count, state.log, last, random.random(), capsys.readouterr()
    assert found["auto"] == found["eager"]
    with pytest.raises((FusionError, RuntimeError), match=r"test_reuse.py, line|iterator|numpy.random|generator|fifth"):
        tg.scan(make(Counter()), tg.zeros(2, 3, dtype=F64), x, engine="fused")


def test_what_a_cache_in_c_holds_is_not_looked_into():
    remembered(2)
    with pytest.raises(FusionError, match="lru_cache"):
        tg.scan(remembering(None), tg.zeros(2, 3, dtype=F64), tensor(1, 12, 2, 3), engine="fused")


def test_the_tape_of_a_run_that_goes_on_is_whole():
    """Who watches sees all operations, also those of the steps that were watched first."""
    x, counts = tensor(1, 12, 2, 3, grad=True), {}
    for engine in ("eager", "auto"):
        step = counting(Counter())
        carry, ys = tg.checkpoint(lambda x, e=engine, s=step: tg.scan(s, tg.zeros(2, 3, dtype=F64), x, engine=e), x)
        counts[engine] = len(carry.node.ancestors())
        random_state = ys.sum() + carry.sum()
        assert random_state.requires_grad
    assert counts["auto"] == counts["eager"]


def test_scan_keeps_nothing_alive():
    import gc
    import weakref

    class Holder:
        pass

    def make():
        holder = Holder()
        holder.weight = tensor(0, 3, 3, grad=True)

        def step(h, x):
            return tg.tanh(h @ holder.weight + x), h

        tg.scan(step, tg.zeros(2, 3, dtype=F64), tensor(1, 12, 2, 3))
        return weakref.ref(holder), weakref.ref(holder.weight)

    references = make()
    make()
    gc.collect()
    assert references[0]() is None


def test_a_single_step_that_stores_is_not_run_again():
    for make in (counting, logging, storing, counting_nonlocal, caching):
        state = Counter()
        with pytest.raises(FusionError, match=r"does not show whether|changes what it reads"):
            tg.scan(make(state), tg.zeros(2, 3, dtype=F64), tensor(1, 1, 2, 3), engine="fused")
        assert state.count <= 1 and len(state.log) <= 1
    tg.scan(lambda h, x: (tg.tanh(h + x), h), tg.zeros(2, 3, dtype=F64), tensor(1, 1, 2, 3), engine="fused")
