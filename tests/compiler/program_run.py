"""A drawn program run by one engine, call after call: everything that can be seen of it, by name."""

from __future__ import annotations

import contextlib
import io
import itertools
import linecache
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from program_changes import Change
from program_circumstances import Circumstance, laid
from program_styles import Written, _packed

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, FusionError, TinygradError

_numbers = itertools.count()


@dataclass
class Seen:
    """What one call showed.

    Attributes:
        values: outputs and states by name, in `gradients` and `second` the derivatives.
        needs: which of the values require a gradient.
        state: Python state afterwards, as text.
        error: the stage and the kind of an exception, "" where there was none; `text` is its message.
        refused: why an engine that need not run everything did not run this.
    """

    values: dict[str, Any] = field(default_factory=dict)
    gradients: dict[str, Any] = field(default_factory=dict)
    second: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, bool] = field(default_factory=dict)
    state: list[str] = field(default_factory=list)
    printed: str = ""
    warned: list[str] = field(default_factory=list)
    error: str = ""
    text: str = ""
    internal: bool = False
    refused: str = ""


def engines() -> list[str]:
    """The engines that there are, beside "eager", which is the truth."""
    found = []
    for name in ("auto", "fused", "reference"):
        try:
            with tg.engine(name):
                found.append(name)
        except ArgumentError:
            pass
    return found


class Loaded:
    """A program as a module of its own, with the layers made of it."""

    def __init__(self, program: Written, nudge: float = 0.0) -> None:
        number = next(_numbers)
        name = f"drawn_program_{number}"
        self.file = f"/drawn/{name}.py"
        self.program, self.layers = program, {}
        linecache.cache[self.file] = (len(program.text), None, program.text.splitlines(True), self.file)
        self.module: Any = types.ModuleType(name)
        self.module.__file__ = self.file
        self.module.NUDGE = nudge
        sys.modules[name] = self.module
        seed_all(0)
        exec(compile(program.text, self.file, "exec"), self.module.__dict__)

    def close(self) -> None:
        """Forget the module."""
        del sys.modules[self.module.__name__]
        linecache.cache.pop(self.file, None)

    def evaluated(self, expression: str) -> Any:
        """An expression of the module."""
        return eval(expression, self.module.__dict__)

    def layer(self, now: Circumstance, width: int) -> Any:
        """The layer of that kind; one for all calls, as it may keep what it compiled."""
        key = now.way, now.reverse, now.batch_first, now.checkpoint
        if key not in self.layers:
            cell, of = self.module.it, {"checkpoint": now.checkpoint}
            if now.way == "Recurrent":
                made = tg.nn.Recurrent(cell, now.batch_first, now.reverse, **of)
            elif now.way == "Stacked":
                below = tg.nn.GRUCell(width, width, dtype=self.module.DTYPE, rng=np.random.default_rng(1))
                made = tg.nn.Stacked([tg.nn.Recurrent(below), tg.nn.Recurrent(cell, **of)], batch_first=now.batch_first)
            else:
                made = tg.nn.Bidirectional(
                    tg.nn.Recurrent(cell, **of), tg.nn.Recurrent(cell, reverse=True, **of), now.batch_first
                )
            self.layers[key] = made
        return self.layers[key]

    def learned(self) -> dict[str, Any]:
        """Every captured tensor that requires a gradient, by a name."""
        found: dict[str, Any] = {}
        for thing in self.program.placed:
            try:
                value = self.evaluated(thing.outside)
            except Exception:
                continue
            if isinstance(value, tg.nn.Module):
                value = dict(value.named_parameters())
            for name, part in tensors(value, thing.name):
                if part.requires_grad and part.is_leaf:
                    found[name] = part
        return found


def tensors(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The tensors in a nest, by name."""
    if isinstance(value, tg.Tensor):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from tensors(part, f"{name}[{i}]")
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from tensors(value[key], f"{name}[{key!r}]")


def seed_all(seed: int) -> None:
    """Set every source of random numbers."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - steps use it
    tg.manual_seed(seed)


def _state(
    loaded: Loaded, now: Circumstance, carries: tuple[int, ...], rng: Any, leaves: dict[str, Any], tag: str
) -> Any:
    parts = []
    for i, width in enumerate(carries):
        a = (rng.standard_normal((now.batch, width)) * 0.3).astype(now.dtype)
        if now.state == "zeros":
            a *= 0.0
        part, leaf = laid(a, now.state_layout, now.state == "learned")
        parts.append(part)
        if leaf is not None and now.state == "learned":
            leaves[f"{tag} {i}"] = leaf
    loaded.module.PARTS = parts
    return loaded.evaluated(_packed(loaded.program.nest, [f"PARTS[{i}]" for i in range(len(parts))]))


def _run(loaded: Loaded, now: Circumstance, structure: Any, leaves: dict[str, Any], seen: Seen) -> dict[str, Any]:
    """The outputs and states of a call."""
    rng = np.random.default_rng(now.seed)
    if not loaded.program.is_cell:
        xs = {}
        for i, width in enumerate(structure.inputs):
            a = rng.standard_normal((now.steps, now.batch, width)).astype(now.dtype)
            xs[f"{chr(98 - i % 2)}{i}"], leaf = laid(a, now.layout, now.x_learned)
            if leaf is not None and now.x_learned:
                leaves[f"x {i}"] = leaf
        carry = _state(loaded, now, structure.carries, rng, leaves, "state")
        x = xs if len(xs) > 1 else next(iter(xs.values()))
        state, y = tg.scan(loaded.module.STEP, carry, x, reverse=now.reverse, checkpoint=now.checkpoint)
        return dict(tensors(y, "output")) | dict(tensors(state, "state"))
    width = sum(structure.inputs)
    order = (now.batch, now.steps) if now.batch_first else (now.steps, now.batch)
    x, leaf = laid(rng.standard_normal((*order, width)).astype(now.dtype), now.layout, now.x_learned)
    if leaf is not None and now.x_learned:
        leaves["x"] = leaf
    layer, state = loaded.layer(now, width), None
    if now.state != "zeros":
        state = _state(loaded, now, structure.carries, rng, leaves, "state")
        if now.way == "Stacked":
            state = (tg.zeros(now.batch, width, dtype=now.dtype), state)
        elif now.way == "Bidirectional":
            state = (state, _state(loaded, now, structure.carries, rng, leaves, "state of the other direction"))
    lengths = None if now.lengths is None else list(now.lengths)
    with tg.record("gate", "forget_gate") if now.record else contextlib.nullcontext() as recorder:
        y, state = layer(x, state, lengths=lengths)
    if now.way == "Stacked":
        leaves |= {f"below {name}": p for name, p in layer.layers[0].named_parameters()}
    if recorder is not None:
        seen.values |= {f"recorded {where}": np.array(a) for where, a in recorder.values.items()}
    return {"output": y} | dict(tensors(state, "state"))


def _differentiate(
    now: Circumstance,
    made: dict[str, Any],
    leaves: dict[str, Any],
    seen: Seen,
    stage: Callable[[str], None],
    needs: dict[str, bool],
) -> None:
    chosen = [name for name, value in made.items() if needs.get(name) and value.dtype.kind == "f"]
    if now.used in ("outputs", "state"):
        chosen = [name for name in chosen if name.startswith(now.used[:5])]
    elif now.used in ("first", "last"):
        chosen = chosen[:1] if now.used == "first" else chosen[-1:]
    if not chosen or not leaves:
        return
    stage("gradient")
    rng = np.random.default_rng(now.seed + 1)
    seeds = []
    for name in chosen:
        a = rng.standard_normal(made[name].shape).astype(made[name].dtype)
        seeds.append(laid(a, now.seed_layout if a.ndim > 1 else "plain", False)[0])
    again = now.graph == "second"
    found = tg.grad(
        [made[name] for name in chosen], list(leaves.values()), seeds, create_graph=again, allow_unused=True
    )
    seen.gradients = dict(zip(leaves, [None if g is None else g.numpy().copy() for g in found]))
    if again:
        stage("second derivative")
        total = sum((g * g).sum() for g in found if g is not None and g.requires_grad)
        if isinstance(total, tg.Tensor) and total.requires_grad:
            found = tg.grad(total, list(leaves.values()), allow_unused=True)
            seen.second = dict(zip(leaves, [None if g is None else g.numpy().copy() for g in found]))


def call(loaded: Loaded, now: Circumstance, structure: Any, engine: str, needs: dict[str, bool] | None = None) -> Seen:
    """One call and what it showed; `needs` tells which values to differentiate, where it is not seen by this call."""
    seen, leaves, at = Seen(), loaded.learned(), ["forward"]
    seed_all(now.seed)
    page = io.StringIO()
    with (
        contextlib.redirect_stdout(page), contextlib.redirect_stderr(page),
        warnings.catch_warnings(record=True) as warned,
        np.errstate(all="ignore"), tg.engine(engine),
    ):  # fmt: skip
        warnings.simplefilter("always")
        try:
            with tg.no_grad() if now.graph == "no_grad" else contextlib.nullcontext():
                made = _run(loaded, now, structure, leaves, seen)
            seen.values |= {name: value.numpy().copy() for name, value in made.items()}
            seen.needs = {name: value.requires_grad for name, value in made.items()}
            if now.graph in ("gradient", "second"):
                _differentiate(now, made, leaves, seen, lambda stage: at.__setitem__(0, stage), needs or seen.needs)
        except FusionError as trouble:
            seen.refused = seen.text = str(trouble)
        except Exception as trouble:
            seen.error, seen.text = f"{at[0]}: {type(trouble).__name__}", str(trouble)
            seen.internal = not isinstance(trouble, TinygradError)
    lines = page.getvalue().splitlines()
    seen.printed = "\n".join(
        line for line in lines if not line.startswith("tinygrad_rnn: compiling kernels for the first")
    )
    seen.warned = [f"{one.category.__name__}: {one.message}" for one in warned if one.category is not RuntimeWarning]
    for expression in loaded.program.observed:
        try:
            seen.state.append(f"{expression} = {loaded.evaluated(expression)!r}")
        except Exception as trouble:
            seen.state.append(f"{expression}: {type(trouble).__name__}")
    return seen


def run(
    program: Written,
    structure: Any,
    events: list[Any],
    engine: str,
    nudge: float = 0.0,
    truth: list[Seen] | None = None,
) -> list[Seen]:
    """Every call of a program, with the changes between; `truth` is what the eager engine showed."""
    loaded, found = Loaded(program, nudge), []
    try:
        for event in events:
            if isinstance(event, Circumstance):
                seen = call(loaded, event, structure, engine, truth[len(found)].needs if truth else None)
                found.append(seen)
                if seen.refused and program.observed:
                    break  # the state of Python is another then, and nothing behind can be compared
                if seen.refused:
                    call(loaded, event, structure, "eager")  # so that sources of random numbers go on as they do there
            else:
                apply(loaded, *event)
    finally:
        loaded.close()
    return found


def apply(loaded: Loaded, change: Change, back: bool) -> None:
    """Change what the program reads, or have it as before."""
    with contextlib.suppress(Exception):
        exec(change.undo if back else change.do, loaded.module.__dict__)
