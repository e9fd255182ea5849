"""What steps became, kept for as long as all is the same that they read."""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from .observe import Observer
from .reads import Reads

#: How many moments of what a step reads are kept, and how many programs for each: shapes, dtypes, modes.
MOMENTS, PROGRAMS = 8, 32
#: Of how many steps given to `scan` something is kept.
STEPS = 64


class Moment:
    """What a step read at one moment, and the programs that it was then.

    Attributes:
        observer: what ran.
        made: by kind of call, a compiled program, or the reason why there is none.
    """

    def __init__(self, key: Any, observer: Observer) -> None:
        self.key, self.observer = key, observer
        self.made: dict[Any, Any] = {}
        self._last: tuple[Sequence[Any], Reads] | None = None

    def look(self, roots: Sequence[Any], keep: bool) -> Reads | None:
        """What is read now, where it is the same; tensors may be others of the same kind.

        With `keep` it is kept, and alive, so that the next look is a glance where nothing has changed.
        """
        last = self._last  # once, as another thread may put another there
        if last is not None and all(a is b for a, b in zip(roots, last[0])) and last[1].hold():
            return last[1]
        now = Reads(roots, self.observer)
        if now.trouble or now.key != self.key:
            return None
        if keep:
            self._last = roots, now
        return now

    def keep(self, kind: Any, made: Any) -> None:
        """Keep what the step is for this kind of call."""
        if len(self.made) >= PROGRAMS:
            self.made.clear()
        self.made[kind] = made


class Known:
    """The moments of one step, the last one used first.

    Args:
        keeps: whether anything is kept at all.
        holds: whether what was read may be kept alive.
    """

    def __init__(self, keeps: bool = True, holds: bool = True) -> None:
        self._keeps, self.holds = keeps, holds
        self._moments: list[Moment] = []

    @property
    def programs(self) -> list[Any]:
        """All programs kept, and reasons why there is none."""
        return [made for moment in self._moments for made in moment.made.values()]

    def find(self, roots: Sequence[Any], kind: Any) -> tuple[Moment, Reads] | None:
        """The moment that is like now and knows this kind of call, and what is read now; None where there is none."""
        for i, moment in enumerate(self._moments):
            if kind in moment.made:
                reads = moment.look(roots, self.holds)
                if reads is not None:
                    if i:
                        self._put_first(moment)
                    return moment, reads
        return None

    def remember(self, probe: Any, kind: Any, made: Any) -> Moment:
        """Keep what a step is at the moment that a probe has seen."""
        key, entered = probe.reads.key, probe.observer.entered.keys()
        same = [m for m in self._moments if m.key == key and m.observer.entered.keys() == entered]
        moment = same[0] if same else Moment(key, probe.observer)
        moment.keep(kind, made)
        if self._keeps and getattr(getattr(made, "program", None), "repeatable", True):
            self._put_first(moment)
        return moment

    def _put_first(self, moment: Moment) -> None:
        others = [other for other in self._moments if other is not moment]
        self._moments = [moment, *others[: MOMENTS - 1]]  # in one go: other threads may be reading it


_steps: dict[CodeType, Known] = {}


def known_of(step: Any) -> Known:
    """What is known of a function given to `scan`: by its code, as it may be made anew at each call."""
    function = step
    while not isinstance(function, FunctionType):
        inner = getattr(function, "__func__", None) or getattr(function, "func", None)
        inner = inner or vars(type(function)).get("__call__")
        if inner is None or isinstance(inner, type):
            return Known(keeps=False)
        function = inner
    found = _steps.pop(function.__code__, None) or Known(holds=False)
    _steps[function.__code__] = found
    while len(_steps) > STEPS:
        _steps.pop(next(iter(_steps)), None)
    return found


class Source(NamedTuple):
    """What a step starts with, and what is known of it.

    Attributes:
        roots: the objects from which all is reached that it reads: a cell, a function.
        known: what it became.
        more: what else it depends on, as a value to compare.
    """

    roots: tuple[Any, ...]
    known: Known = Known(keeps=False)
    more: Any = None
