"""Which stage of the compiler is wrong: what is behind each, run on its own and compared with the eager engine.

    lower, differentiate, rematerialise, merge     the programs, by `ir.interpret`
    schedule, layout                               their phases, and the table, by `runtime.machine`
    kernels                                        what runs in earnest

"layout" is all that lies around the kernels too: captured tensors as they are bound, and the buffers that gradients go
to. "trace" is at fault where the program is right for another moment of the step, which its guards took for this one.

The first stage whose result differs is at fault: those before it are right, and those behind it only hand it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import settings
from ..autograd import check as checks
from ..autograd.backward import grad
from ..autograd.pytree import leaves, map_leaves
from ..autograd.tape import Place, thread
from ..autograd.tensor import Tensor, as_tensor
from ..errors import FusionError, GradcheckError
from ..ops.random import Draws
from .front.guards import Source, known_of
from .front.trace import NotFused
from .runtime.node import Run
from .runtime.staged import RUNS
from .scan import Loop, left_eager, running, unrolled

#: How far numbers may be from the eager engine's, relative to the largest.
NEAR = {"float64": 1e-9, "float32": 1e-3}

#: A gradient so many times smaller than the largest of all is rounding beside it.
SMALL = 1e-3


class Fault(NamedTuple):
    """A loop that the compiler made something else of: where, at which stage, and what differs."""

    place: Place
    stage: str
    words: str

    def __str__(self) -> str:
        where = f"{self.place.cell}, layer {self.place.layer}{', in reverse' if self.place.reverse else ''}"
        return f"the compiler is at fault: stage {self.stage} ({where}: {self.words})"


class Examined:
    """What was found of all loops that a run had fused.

    Attributes:
        count: how many they are.
        faults: of those that are wrong.
    """

    def __init__(self, last: str = "kernels") -> None:
        self.count, self._last = 0, last
        self.faults: list[Fault] = []
        self.refused: NotFused | None = None

    def run(self, loop: Loop, name: str) -> tuple[Any, Any]:
        """Run a loop eagerly, and examine it where its engine has it fused."""
        if left_eager(name, loop.steps) or (name == "auto" and not settings.jit_enabled):
            return loop.eager()
        draws = Draws()
        with draws, running(None):
            made = loop.eager()
        state = thread.state
        watchers, state.watchers = state.watchers, ()
        try:
            with running(None):
                fault = _fault_of(loop, draws, self._last)
        except NotFused as why:
            self.refused = why
        else:
            self.count += 1
            self.faults += [] if fault is None else [fault]
        finally:
            state.watchers = watchers
        return made


def examine(
    step: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    *,
    reverse: bool = False,
    checkpoint: str | int | None = None,
    lengths: Any = None,
    last: str = "kernels",
) -> str:
    """The first stage of the compiler whose result differs from the eager engine's, "" where none does.

    Compared are the values of the last carry and of ys, and the gradients of the carry, of xs and of all that the step
    takes from outside, for random gradients of the outputs.

    Args:
        step, init, xs, reverse, checkpoint: as `scan` takes them; what shall have a gradient requires one.
        lengths: of the rows (B,), as recurrent layers take them.
        last: the last stage to look at. Up to "layout" no function of the step's is compiled.

    Raises:
        FusionError: for a step that the compiler leaves to the eager engine.

    >>> import tinygrad_rnn as tg
    >>> if settings.jit_enabled:  # else there are no kernels
    ...     assert examine(lambda h, x: (tg.tanh(h * 0.5 + x), h), tg.zeros(2, 3), tg.randn(9, 2, 3)) == ""
    """
    found, name = Examined(last), getattr(step, "__name__", type(step).__name__)
    with running(found.run):
        unrolled(
            step, map_leaves(as_tensor, init), map_leaves(as_tensor, xs), Place(name, 0, reverse),
            checkpoint=checkpoint, engine="fused", source=Source((step,), known_of(step)),
            lengths=None if lengths is None else np.asarray(lengths),
        )  # fmt: skip
    if found.refused is not None:
        raise FusionError(f"{name}: this step cannot be fused", got=str(found.refused))
    return found.faults[0].stage if found.faults else ""


def examined(run: Callable[..., Any], *inputs: Any) -> Examined:
    """All loops that run(*inputs) has fused, a layer's or `scan`s, each examined where it stands; all runs eagerly.

    Take float64 for many steps: in float32 the two engines' rounding may grow to what looks like a fault.

    >>> import tinygrad_rnn as tg
    >>> examined(tg.nn.GRU(3, 4, dtype="float64"), tg.randn(9, 2, 3, dtype="float64")).faults
    []
    """
    found = Examined()
    with running(found.run):
        run(*inputs)
    return found


def blame(run: Callable[..., Any], *inputs: Any) -> str:
    """The first fault of the compiler in run(*inputs), in words; "" where there is none."""
    found = examined(run, *inputs)
    return str(found.faults[0]) if found.faults else ""


def _at_fault(check: Callable[[], Any], run: Callable[[], Any]) -> str:
    """What `gradcheck` asks: whether a check that failed passes step by step, and then what is wrong."""
    found = examined(run)
    if not found.count:
        return ""
    try:
        with running(lambda loop, _: loop.eager()):
            check()
    except GradcheckError:
        return ""
    if found.faults:
        return f'{found.faults[0]}; tg.engine("eager") is right'
    return 'the compiler is at fault, though no stage is wrong at this point; tg.engine("eager") is right'


checks.compiler_at_fault = _at_fault


# --- One loop ---


def _fault_of(loop: Loop, draws: Draws, last: str) -> Fault | None:
    """What is wrong with a loop, run on the random numbers drawn.

    Raises:
        NotFused: where the compiler makes nothing of it.
    """
    results = _Results(loop, draws)
    expected: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for stage in [*RUNS][: [*RUNS].index(last) + 1]:
        if stage not in results.known:
            continue
        try:
            found = results.of(stage, loop.source)
        except NotFused as why:
            if why.__cause__ is None:
                raise
            words = str(why)
        except Exception as trouble:  # what is wrong may be of any kind
            words = f"{type(trouble).__name__}: {trouble}"
        else:
            words = ""
        expected = expected or results.of("", loop.source)
        words = words or next(_differences(expected, found), "")
        if words:
            if stage == "lower" and results.is_old(expected):
                stage = "trace"
            return Fault(loop.place, stage, words)
    return None


class _Results:
    """What a loop gives behind each stage.

    Attributes:
        known: the stages that there are; of a loop that has not run yet, the first.
        outer: what the step takes from outside that wants a gradient.
    """

    def __init__(self, loop: Loop, draws: Draws) -> None:
        self.loop, self.draws = loop, draws
        self.known = {"lower"}
        self.outer: list[Tensor] = []

    def of(self, stage: str, source: Source) -> dict[str, Any]:
        """Values and gradients by name, of a stage, or "" for the eager engine."""
        loop = self.loop
        carry, xs = map_leaves(_leaf, loop.carry), map_leaves(_leaf, loop.xs)
        again = Loop(loop.step, carry, xs, loop.place, loop.first, loop.every, loop.ragged, source)
        with self.draws.repeated():
            if stage:
                interpreted = stage not in ("layout", "kernels")
                made = again.compiled(strict=True, reference=interpreted, kind_of_run=self._making(RUNS[stage]))
            else:
                made = again.eager()
            outputs = _named("carry", made[0]) | _named("output", made[1])
            wanted = _named("carry", carry) | _named("x", xs)
            wanted |= {f"what is outside, {tuple(t.shape)}, number {i}": t for i, t in enumerate(self.outer)}
            wanted = {name: t for name, t in wanted.items() if t.requires_grad}
            found = {name: np.array(y) for name, y in outputs.items()}
            if stage == "lower" or not thread.state.enabled:
                return found
            starts = {
                name: np.random.default_rng(i).standard_normal(y.shape).astype(y.dtype)
                for i, (name, y) in enumerate(outputs.items())
                if y.requires_grad
            }
            gradients: Any = [None] * len(wanted)
            if starts and wanted:
                ends = [outputs[name] for name in starts]
                gradients = grad(ends, [*wanted.values()], [*starts.values()], allow_unused=True)
        for (name, t), g in zip(wanted.items(), gradients):
            found[f"gradient of {name}"] = np.zeros(t.shape, t.dtype) if g is None else np.array(g)
        return found

    def _making(self, kind: type[Run]) -> Callable[..., Run]:
        """Makes runs of a kind, and notes what they know."""

        def make(*arguments: Any) -> Run:
            run = kind(*arguments)
            self.outer = run.outer
            self.known = {*run.compiled.program.stages, "schedule", "layout", "kernels"}
            return run

        return make

    def is_old(self, expected: dict[str, Any]) -> bool:
        """Whether the step traced anew is right: then what was known of it is of another."""
        try:
            found = self.of("lower", Source(self.loop.source.roots, more=self.loop.source.more))
        except Exception:
            return False
        return not any(_differences(expected, found))


def _leaf(part: Tensor) -> Tensor:
    made = Tensor(part._array)
    if part._requires_grad:
        made.requires_grad = True
    return made


def _named(name: str, tree: Any) -> dict[str, Tensor]:
    return {f"{name} {i}": part for i, part in enumerate(leaves(tree))}


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Where a result differs, in words."""
    largest = max([_size(a) for name, a in expected.items() if name.startswith("gradient")], default=0.0)
    for name, b in found.items():
        a = expected[name]
        least = SMALL * largest if name.startswith("gradient") else 0.0
        near = NEAR.get(a.dtype.name, 0.0) * max(_size(a), least)
        if a.shape != b.shape:
            yield f"{name} is {b.shape}, not {a.shape}"
            continue
        with np.errstate(all="ignore"):
            wrong = ~((a == b) | (np.abs(a - b) <= near) | ((a != a) & (b != b)))
        if wrong.any():
            at = tuple(int(n) for n in np.argwhere(wrong)[0])
            yield f"{name} at {list(at)} is {b[at]:.6g}, not {a[at]:.6g}"


def _size(array: Any) -> float:
    """The largest number that is one."""
    finite = array[np.isfinite(array)]
    return float(np.abs(finite).max(initial=0.0))
