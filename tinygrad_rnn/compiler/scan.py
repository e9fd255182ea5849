"""`scan`: a step run over time."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import settings
from ..autograd.pytree import form, leaves, map_leaves, structure
from ..autograd.replay import replayed
from ..autograd.tape import Place, State, no_grad, thread
from ..autograd.tensor import Tensor, as_tensor
from ..errors import ArgumentError, FusionError, ShapeError, TinygradError
from ..kernels.codegen.jit import nothing_compiled
from ..ops.random import Draws
from ..ops.shape import concat, stack
from .front.guards import Source, known_of
from .front.lowering import exact
from .front.probe import Probe, Settled
from .front.reads import Reads
from .front.signature import CarrySignature
from .front.trace import NotFused, same_for_rows
from .program import Draft, Planned, one_step
from .runtime.executable import Compiled
from .runtime.node import Run
from .runtime.ragged import Ragged, over_live_rows
from .runtime.reference import ReferenceRun

Step = Callable[[Any, Any], tuple[Any, Any]]


ENGINES = ("auto", "eager", "fused", "reference")

#: Steps from which on `auto` takes the fused engine: a shorter run is over before it is traced.
ENOUGH = 8


class _Chosen(threading.local):
    name = "auto"
    runner: Callable[[Loop, str], tuple[Any, Any]] | None = None


_chosen = _Chosen()


@contextlib.contextmanager
def engine(name: str) -> Iterator[None]:
    """Inside, scans and recurrent layers that say "auto" run so; holds for this thread.

    Args:
        name: "eager" (one tape node an operation), "fused" (the whole sequence as compiled kernels, or a FusionError
            where that cannot be), "auto" (fused where it can be) or "reference" (the program that the compiler made,
            evaluated on NumPy a step at a time; nothing is compiled).

    Raises:
        ArgumentError: for another name.

    >>> import tinygrad_rnn as tg
    >>> with tg.engine("eager"):
    ...     outputs, state = tg.nn.GRU(2, 3)(tg.zeros(10, 1, 2))
    """
    outer, _chosen.name = _chosen.name, checked_engine(name)
    try:
        yield
    finally:
        _chosen.name = outer


@contextlib.contextmanager
def explaining(parts: list[tuple[Place, Any, str]]) -> Iterator[None]:
    """Inside, each loop runs eagerly, and leaves its place, the `Planned` that it can become or a `NotFused`, and why
    its engine leaves it eager though it could ("" where it does not)."""

    def run(loop: Loop, name: str) -> tuple[Any, Any]:
        found, made = loop.explained()
        parts.append((loop.place, found, left_eager(name, loop.steps)))
        return made

    with running(run):
        yield


@contextlib.contextmanager
def running(runner: Callable[[Loop, str], tuple[Any, Any]] | None) -> Iterator[None]:
    """Inside, each loop is run by `runner`, which takes it and the name of the engine that would run it."""
    outer, _chosen.runner = _chosen.runner, runner
    try:
        yield
    finally:
        _chosen.runner = outer


def checked_engine(name: Any) -> str:
    """The name, where it is one of an engine.

    Raises:
        ArgumentError: where it is not.
    """
    if name not in ENGINES:
        raise ArgumentError("no such engine", expected=" | ".join(ENGINES), got=repr(name))
    return str(name)


def scan(
    step: Step,
    init: Any,
    xs: Any,
    *,
    reverse: bool = False,
    checkpoint: str | int | None = None,
    engine: str = "auto",
) -> Any:
    """Run step(carry, x) -> (carry, y) over the first axis of xs: the carry of one step goes into the next.

    carry_t, y_t = step(carry_{t-1}, xs[t])          t = 0, 1, ..., T - 1, or T - 1, ..., 0 with `reverse`

    Carry, x and y are pytrees: tensors in tuples, named tuples, lists and dicts, or None.

    Args:
        step: one step.
        init: the first carry. Every step must return one of the same pytree, shapes and dtypes.
        xs: a pytree of tensors (T, ...); `tg.arange(T)` where only the number of steps matters. T may be 0: then `step`
            is called once, on zeros, to see what it returns.
        reverse: run from the last step to the first; ys[t] is still what belongs to xs[t].
        checkpoint: memory for time: keep carries at every k-th step only (k an int, or "sqrt" for the root of T), and
            run the steps between again in backward (Chen et al. 2016). The gradients are the same.
        engine: how, as in `tg.engine`.

    Returns:
        The last carry, and ys: the pytree that `step` returns second, its tensors stacked to (T, ...).

    Raises:
        ShapeError: for xs of unequal lengths, and for a carry or a y that changes; the message names the step. Errors
            of the step itself name it too.
        ArgumentError: for another `checkpoint` or `engine`.
        FusionError: with engine="fused", for a step that cannot become kernels; the message says why.

    >>> import tinygrad_rnn as tg
    >>> tg.scan(lambda total, x: (total + x, total), tg.tensor(0.0), tg.tensor([1.0, 2.0, 3.0]))
    (tensor(6.), tensor([0., 1., 3.]))
    """
    name = getattr(step, "__name__", type(step).__name__)
    return unrolled(
        step,
        map_leaves(as_tensor, init),
        map_leaves(as_tensor, xs),
        Place(name, 0, reverse),
        checkpoint=checkpoint,
        engine=checked_engine(engine),
        source=Source((step,), known_of(step)),
    )


def unrolled(
    step: Step,
    carry: Any,
    xs: Any,
    place: Place,
    *,
    first: int = 0,
    checkpoint: str | int | None = None,
    engine: str = "auto",
    source: Source | None = None,
    lengths: np.ndarray[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """`scan` for what knows its place in a net, and what its step starts with; `first` numbers the first step.

    With `lengths` (B,) of the rows, xs is one tensor (T, B, ...) and so are the outputs.
    """
    steps = _length(xs)
    every = pieces_of(checkpoint, steps)
    ragged = None if lengths is None else Ragged(lengths, steps)
    if ragged is not None:
        with at(place):
            _check_batch(carry, len(ragged.lengths))
    loop = Loop(step, carry, xs, place, first, every, ragged, source or Source((step,)))
    name = _chosen.name if engine == "auto" else engine
    if _chosen.runner is not None:
        return _chosen.runner(loop, name)
    if name == "eager" or (name == "auto" and (loop.steps < ENOUGH or not settings.jit_enabled)):
        return loop.eager()
    try:
        if name != "reference":
            return loop.compiled(strict=name == "fused")
        with nothing_compiled():
            return loop.compiled(strict=True, reference=True)
    except NotFused as trouble:
        if name != "auto":
            raise FusionError(
                f"{place.cell}: this step cannot be fused", got=str(trouble), hint='engine="eager", or "auto"'
            ) from trouble.__cause__
        return loop.eager()


class Loop:
    """A step over time: how it runs eagerly, and as kernels."""

    def __init__(
        self, step: Step, carry: Any, xs: Any, place: Place, first: int, every: int | None, ragged: Ragged | None,
        source: Source,
    ) -> None:  # fmt: skip
        self.step, self.carry, self.xs, self.place, self.first = step, carry, xs, place, first
        self.every, self.ragged, self.source = every, ragged, source
        self.steps = _length(xs) if ragged is None else ragged.longest

    # --- Step by step ---

    def eager(self, probe: Probe | None = None) -> tuple[Any, Any]:
        """One step after another, each operation on the tape; the `probe` watches the first of them."""
        ragged, place = self.ragged, self.place
        if ragged is not None:

            def over(x: Any, carry: Any, first: int) -> tuple[Any, Any]:
                every = None if self.every is None else max(min(self.every, _length(x)), 1)
                made = Loop(self.step, carry, x, place, first, every, None, self.source).eager(probe)
                return made[1], made[0]

            return over_live_rows(over, self.xs, self.carry, ragged, place.reverse)
        signature = CarrySignature(self.carry)

        def piece(carry: Any, xs: Any, a: int) -> tuple[Any, Any]:
            """Some of the steps, one after another."""
            return self._piece(carry, xs, a, signature, probe)

        if self.every is None or self.steps == 0:
            return piece(self.carry, self.xs, 0)
        return _in_pieces(piece, self.carry, self.xs, self.steps, self.every, place)

    def _piece(self, carry: Any, xs: Any, a: int, signature: CarrySignature, probe: Probe | None) -> tuple[Any, Any]:
        step, place, count = self.step, self.place, _length(xs)
        ys: list[Any] = [None] * count
        with at(place) as here:
            for t in reversed(range(count)) if place.reverse else range(count):
                here.place = Place(place.cell, place.layer, place.reverse, self.first + a + t, place.of)
                x = xs[t] if isinstance(xs, Tensor) else map_leaves(lambda x, t=t: x[t], xs)
                if probe is None or not probe.active:
                    carry, ys[t] = signature.checked(step(carry, x))
                else:
                    carry, ys[t] = signature.checked(probe.step(step, carry, x))
                    probe.settle()
        if not count:
            return carry, _nothing(step, carry, xs, place, signature)
        return carry, map_leaves(lambda *parts: stack(parts), *ys)

    # --- As kernels ---

    def compiled(
        self, strict: bool, reference: bool = False, kind_of_run: Callable[..., Run] | None = None
    ) -> tuple[Any, Any]:
        """The whole sequence as compiled kernels; eagerly where the first steps show that they cannot be.

        With `reference`, the program that kernels would be made of, on NumPy; `kind_of_run` makes another kind of run.

        Raises:
            NotFused: where it cannot be, and nothing has happened yet; with `strict`, also where something has.
        """
        state = thread.state
        if not settings.jit_enabled and not reference:
            raise NotFused("nothing is compiled here (TINYGRAD_RNN_JIT=0)")
        if any(watcher.each for watcher in state.watchers) or state.anomaly is not None:
            raise NotFused("every operation is watched")
        if not self.steps:
            raise NotFused("there are no steps")
        if self.every is not None and self.ragged is not None:
            raise NotFused("checkpoint cuts a sequence into pieces, and rows end at different steps")
        kind, source = self._kind(), self.source
        seen = source.known.find(source.roots, kind)
        if seen is None:
            probe = self._probe(strict, listed=False)
            try:
                with probe:
                    made = self.eager(probe)
            except Settled:
                seen = source.known.remember(probe, kind, probe.made), probe.reads
            except NotFused as why:
                if probe.lasting and why is probe.why:
                    source.known.remember(probe, kind, why)
                raise
            else:
                if probe.lasting:
                    source.known.remember(probe, kind, probe.why)
                return made
        moment, reads = seen
        found = moment.made[kind]
        if isinstance(found, NotFused):
            raise NotFused(str(found)) from found.__cause__
        try:
            return self._run(found, reads, kind_of_run or (ReferenceRun if reference else Run))
        except NotFused as why:
            if why.__cause__ is not None:  # else it is about this call's numbers
                moment.keep(kind, why)
            raise

    def explained(self) -> tuple[Any, tuple[Any, Any]]:
        """The program that it can become, or a NotFused; and the run itself, eagerly."""
        if not self.steps:
            return NotFused("there are no steps"), self.eager()
        probe = self._probe(strict=False, listed=True)
        try:
            with probe:
                made = self.eager(probe)
        except Settled:
            return probe.made.program, self.eager()
        return probe.why, made

    def _probe(self, strict: bool, listed: bool) -> Probe:
        return Probe(self.source.roots, lambda probe: self._compiled(probe, listed), self.steps, strict)

    def _kind(self) -> Any:
        """What a program depends on besides what the step reads."""
        carry, xs = self.carry, self.xs
        of_x = [(x._array.shape[1:], x._array.dtype.char, x._requires_grad) for x in leaves(xs)]
        of_carry = [(part._array.shape, part._array.dtype.char, part._requires_grad) for part in leaves(carry)]
        return (
            *of_x, *of_carry, None if type(xs) is Tensor else form(xs), None if type(carry) is Tensor else form(carry),
            thread.state.enabled, self.place.reverse, settings.default_dtype, self.source.more,
        )  # fmt: skip

    def _compiled(self, probe: Probe, listed: bool) -> Compiled:
        """What the first two steps say of all."""
        place, steps, signature = self.place, self.steps, CarrySignature(self.carry)
        second = min(1, steps - 1)  # of a single step the same again
        order = [0, second] if not place.reverse else [steps - 1, steps - 1 - second]

        def checked(carry: Any, x: Any) -> tuple[Any, Any]:
            return signature.checked(self.step(carry, x))

        state = thread.state
        watchers, state.watchers = state.watchers, ()
        entered = len(probe.observer.entered)
        try:
            few = [map_leaves(lambda x, t=t: x[t], self.xs) for t in order]
            with at(Place(place.cell, place.layer, place.reverse, self.first + order[0])), nothing_compiled():
                with probe.draws.repeated(), probe.observer:
                    draft = Draft(checked, self.carry, few, _needs(self.xs))
                probe.compare(draft.traces, entered, self.ragged is None)
                program = Planned(
                    draft, _needs(self.carry), _needs(self.xs), probe.reads.tensors, probe.reads.keys, listed
                )
                return Compiled(program, self.source.known.holds)
        except (NotFused, MemoryError):
            raise
        except Exception as trouble:
            raise NotFused.failed(trouble) from trouble
        finally:
            state.watchers = watchers

    def _check_rows(self, compiled: Compiled, ragged: Ragged) -> None:
        """Raise NotFused where the step does something else for fewer rows, as they live at some step."""
        program, state = compiled.program, thread.state
        counts = {int(n) for n in ragged.live if n} - {program.rows, *compiled.rows_seen}
        watchers, state.watchers = state.watchers, ()
        draws = Draws()
        try:
            for count in counts:
                carry = map_leaves(lambda part, n=count: Tensor(part._array[:n]), self.carry)
                x = map_leaves(lambda x, n=count: Tensor(x._array[0, :n]), self.xs)
                with at(self.place), nothing_compiled(), draws:
                    made = one_step(self.step, carry, x, _needs(self.xs))[0].trace.outline()
                if not same_for_rows(program.outline, made, program.rows, count):
                    raise NotFused("the step does something else for fewer rows, and here rows end at different steps")
                compiled.rows_seen.add(count)
        finally:
            draws.take_back()
            state.watchers = watchers

    def _run(self, compiled: Compiled, reads: Reads, kind: Callable[..., Run]) -> tuple[Any, Any]:
        if compiled.program.whole:
            _check_whole(compiled.program, self.carry, self.xs)
        ragged, place = self.ragged, self.place
        if ragged is not None:
            self._check_rows(compiled, ragged)

        def run(carry: Any, xs: Any, a: int = 0) -> tuple[Any, Any]:
            def eagerly(carry: Any, xs: Any) -> tuple[Any, Any]:
                now = thread.state.place  # that of a gradient, where that runs it
                here = place._replace(of=now.of if now is not None else None)
                first = self.first + a
                return Loop(self.step, carry, xs, here, first, None, ragged, self.source).eager()

            before = self.steps - a - _length(xs) if place.reverse and self.every is not None else a
            with at(place):
                return kind(compiled, eagerly, carry, xs, place.reverse, reads, ragged, before).forward()

        if self.every is None:
            return run(self.carry, self.xs)
        return _in_pieces(run, self.carry, self.xs, self.steps, self.every, place)


def _in_pieces(
    piece: Callable[[Any, Any, int], tuple[Any, Any]], carry: Any, xs: Any, steps: int, every: int, place: Place
) -> tuple[Any, Any]:
    """piece(carry, xs, a), which runs the steps from a on, for `every` at a time: each runs again for its gradient."""
    parts: dict[int, Any] = {}
    starts = range(0, steps, every)
    for a in reversed(starts) if place.reverse else starts:

        def run(carry: Any, xs: Any, a: int = a) -> tuple[Any, Any]:
            return piece(carry, xs, a)

        run.__name__ = place.cell
        carry, parts[a] = replayed(run, carry, map_leaves(lambda x, a=a: x[a : a + every], xs))
    return carry, map_leaves(lambda *ys: concat(ys), *[parts[a] for a in starts])


def left_eager(name: str, steps: int) -> str:
    """Why a loop that could be fused is not, where the engine is this one; "" where it is."""
    if name == "auto" and steps < ENOUGH:
        return f'engine="auto" fuses from {ENOUGH} steps on, and here are {steps}'
    return 'engine="eager" says so' if name == "eager" else ""


class at:  # a block, as those of contextlib are
    """Inside, operations belong to this place, or the one that is set in the state given; errors name it."""

    __slots__ = ("outer", "place", "state")

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> State:
        self.state = thread.state
        self.outer, self.state.place = self.state.place, self.place
        return self.state

    def __exit__(self, kind: Any, trouble: Any, traceback: Any) -> None:
        if trouble is None:
            pass
        elif isinstance(trouble, TinygradError):
            trouble.args = (f"{trouble}\n  in {self.state.place}",)
        elif isinstance(trouble, Exception) and hasattr(trouble, "add_note"):  # Python 3.11
            trouble.add_note(f"in {self.state.place}")
        self.state.place = self.outer


@contextlib.contextmanager
def trial() -> Iterator[None]:
    """What runs inside leaves no trace: nothing is recorded or seen, and random generators go back."""
    state, draws = thread.state, Draws()
    watchers, state.watchers = state.watchers, ()
    try:
        with no_grad(), draws:
            yield
    finally:
        state.watchers = watchers
        draws.take_back()


def _check_whole(program: Planned, carry: Any, xs: Any) -> None:
    """Raise NotFused for whole numbers that a kernel, where they are floats, could not look up."""
    limits = dict.fromkeys(program.low.limits)
    for name, tree in (("carry", carry), ("x", xs)):
        for i, part in enumerate(leaves(tree)):
            if part.dtype.kind in "iu" and part.ndim > (name == "x") and part.size:
                least, most = int(part._array.min()), int(part._array.max())
                if least < -exact(program.dtype) or most > exact(program.dtype):
                    raise NotFused(f"a whole number that is not exact in {program.dtype}")
                if any(key == (name, i) and not 0 <= least <= most < limit for key, limit in limits):
                    raise NotFused("a number beyond the table that it is looked up in")


def _needs(tree: Any) -> tuple[bool, ...]:
    return tuple([part._requires_grad for part in leaves(tree)])


def _length(xs: Any) -> int:
    if isinstance(xs, Tensor) and xs._array.ndim:
        return int(xs._array.shape[0])
    sizes = {x.shape[0] if x.ndim else -1 for x in leaves(xs)}
    if len(sizes) != 1 or -1 in sizes:
        raise ShapeError(
            "scan: time is the first axis of xs",
            expected="at least one tensor (T, ...), all of the same T",
            got=structure(xs),
            hint=None if sizes else "tg.arange(T) where only the number of steps matters",
        )
    return int(sizes.pop())


def _check_batch(carry: Any, batch_size: int) -> None:
    for part in leaves(carry):
        if not part.ndim or part.shape[0] != batch_size:
            raise ShapeError(
                "with lengths, the first axis of a state is the batch",
                expected=f"({batch_size}, ...)",
                got=structure(carry),
            )


def pieces_of(checkpoint: str | int | None, steps: int) -> int | None:
    """How many steps a piece has; None where nothing is run again."""
    if checkpoint is None:
        return None
    if isinstance(checkpoint, str) and checkpoint == "sqrt":
        return max(math.isqrt(max(steps - 1, 0)) + 1, 1)
    if isinstance(checkpoint, (int, np.integer)) and not isinstance(checkpoint, bool) and checkpoint >= 1:
        return int(checkpoint)
    raise ArgumentError(
        "scan: no such checkpoint", expected='None, "sqrt" or an int of 1 or more', got=repr(checkpoint)
    )


def _nothing(step: Step, carry: Any, xs: Any, place: Place, signature: CarrySignature) -> Any:
    """The outputs of no steps: empty, in the shapes of those that one step on zeros gives."""
    with trial(), at(place):
        _, y = signature.checked(step(carry, map_leaves(lambda x: Tensor(np.zeros(x.shape[1:], x.dtype)), xs)))
    return map_leaves(lambda part: Tensor(np.zeros((0, *part.shape), part.dtype)), y)
