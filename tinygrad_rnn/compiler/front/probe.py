"""The first steps of an eager run, watched: may they be compiled?

They run for real. Where they turn out to be no function of what they read, the run goes on from there, and nothing has
happened twice; where a program is found for them, the run is given up, which changes nothing, as the steps did nothing
but compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import settings
from ...autograd.tape import Watcher, thread
from ...autograd.tensor import Tensor
from ...ops import random
from ...ops.random import Draws
from .observe import Observer
from .reads import Reads
from .trace import NotFused, Trace


class Settled(BaseException):
    """The run is given up: there is a program for it."""


class Probe:
    """Watches the first steps of a run, inside a `with` block.

    Args:
        roots: what the step starts with.
        build: makes a program from what was seen, or raises NotFused.
        count: how many steps the run has.
        strict: whether to raise NotFused where there is no program, instead of letting the run go on.

    Attributes:
        active: whether it still watches.
        observer, reads: what ran, and what can have been read.
        why: the reason why there is no program.
        lasting: whether that reason holds for as long as what was read is the same.
    """

    def __init__(self, roots: Sequence[Any], build: Callable[[Probe], Any], count: int, strict: bool) -> None:
        self._roots, self._build, self._strict = roots, build, strict
        self._left = min(count, 2)
        self.active = self._left > 0
        self.observer, self.draws = Observer(), Draws()
        self.traces: list[Trace] = []
        self.why: NotFused | None = None
        self.lasting = False
        self.made: Any = None
        self._moments: list[Reads] = []
        self._world = _world()
        self._withheld, self._outer = _Withheld(), thread.state.watchers

    def __enter__(self) -> Probe:
        state = thread.state
        self._outer = state.watchers
        if self._outer:
            state.watchers = (self._withheld,)
        return self

    def __exit__(self, kind: Any, trouble: Any, traceback: Any) -> None:
        self.active = False
        if kind is Settled:
            thread.state.watchers = self._outer
        else:
            self._let_go()

    def step(self, step: Callable[[Any, Any], Any], carry: Any, x: Any) -> Any:
        """Run one step for real, watched."""
        trace = _Seen()
        with self.draws, trace.draws, trace, self.observer:
            made = step(carry, x)
        self.traces.append(trace)
        self._moments.append(Reads(self._roots, self.observer))
        self._left -= 1
        return made

    def settle(self) -> None:
        """After a step: when enough was seen, give the run up for a program, or let it go on."""
        if self._left:
            return
        try:
            self._examine()
            self.made = self._build(self)
        except NotFused as why:
            self.why, self.active = why, False
            self._let_go()
            if self._strict:
                raise
            return
        self.active = False
        self.draws.take_back()
        raise Settled

    def _let_go(self) -> None:
        """Show those who watch the run what they have missed, and the rest as it comes."""
        state = thread.state
        if self._withheld in state.watchers:
            state.watchers = (*self._outer, *[w for w in state.watchers if w is not self._withheld])
        events, self._withheld.events = self._withheld.events, []
        for node, inputs, y in events:
            for watcher in self._outer:
                if node is None:
                    watcher.see_read(y)
                else:
                    watcher.see(node, inputs, y)

    def _examine(self) -> None:
        """Raise NotFused where the steps are no function of what they read, or what they read cannot be told."""
        self.reads = now = self._moments[-1]
        for why in (self.observer.trouble, self.reads.trouble):
            if why:
                raise NotFused(f"the step is no function of what it is given: {why}")
        if len(self._moments) == 1:
            changed = [line for container, line in self.observer.changed if now.met(container)]
            if self.observer.stored or changed:
                where = self.observer.stored or changed[0]
                raise NotFused("one step alone does not show whether it changes what it reads", where)
        for before in self._moments[:-1]:
            if before.seen == now.seen:  # else they looked at different things
                self._refuse_change(before, now)
        if _world() != self._world:
            raise NotFused("the step changes a setting of the library")
        self._refuse_own_draws()
        self.lasting = True
        for trace in self.traces:
            trace.check()

    def _refuse_change(self, before: Reads, now: Reads) -> None:
        changed = now.changed_since(before, self.observer)
        if changed:
            raise NotFused(f"the step is no function of what it is given: {changed}")

    def compare(self, traces: Sequence[Trace], entered: int, values: bool) -> None:
        """Raise NotFused where the same steps, run again, did something else or changed what they read.

        Args:
            traces: of the steps run again.
            entered: how many code objects had run before.
            values: whether they were given the same rows.
        """
        if len(self.observer.entered) != entered:
            other = list(self.observer.entered.values())[entered][0]
            where = f"{other.co_name}, {Path(other.co_filename).name}, line {other.co_firstlineno}"
            raise NotFused("the step is no function of what it is given: run again, it runs other code", where)
        self._refuse_change(self.reads, Reads(self._roots, self.observer))
        for real, again in zip(self.traces, traces):
            real.compare_results(again, values)

    def _refuse_own_draws(self) -> None:
        """A generator that stands elsewhere than what this library drew has left it."""
        for rng in self.reads.generators:
            noted = self.draws.given.get(id(rng))
            if noted is None:
                if len(set(self._stood(rng))) > 1:
                    raise NotFused(_OWN_DRAW)
                continue
            expected = np.random.Generator(type(rng.bit_generator)())
            expected.bit_generator.state = noted[1]
            for key in self.draws.keys:
                if key.source is rng:
                    expected.integers(2**63)
            if repr(expected.bit_generator.state) != repr(rng.bit_generator.state):
                raise NotFused(_OWN_DRAW)

    def _stood(self, rng: np.random.Generator) -> list[str]:
        """Where a generator stood at each moment."""
        return [stood for reads in self._moments for own, stood in zip(reads.generators, reads.stood) if own is rng]


_OWN_DRAW = "the step draws from a generator by itself, which no kernel does"


class _Seen(Trace):
    """A trace that holds no tensor of the run's: leaves that die in the step shall die."""

    def see(self, node: Any, inputs: Any, y: Any) -> None:
        super().see(node, _shadows(inputs), y)


class _Withheld(Watcher):
    """Keeps what those who watch the run would have seen, until it is known whether it goes on."""

    each = False

    def __init__(self) -> None:
        self.events: list[tuple[Any, Any, Any]] = []

    def see(self, node: Any, inputs: Any, y: Any) -> None:
        self.events.append((node, _shadows(inputs), y))

    def see_read(self, x: Any) -> None:
        self.events.append((None, None, x))


def _shadows(inputs: Sequence[Any]) -> list[Any]:
    """Tensors of the same values and nodes, which keep those of the run from living on."""
    return [x if x is None else Tensor(x._array, x.node, x._requires_grad) for x in inputs]


def _world() -> tuple[Any, ...]:
    """The library's own state that a step could change."""
    return id(random._generator), str(settings.default_dtype), settings.get_num_threads(), thread.state.enabled
