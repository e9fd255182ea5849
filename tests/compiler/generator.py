"""Programs drawn from one number: a step of a recurrent cell, what is around it, and what changes between its calls.

`Case(seed)` draws one; `examined(case)` runs it by every engine and says what differs from the eager one. The text of a
program is Python that could stand in a file of its own.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter
from typing import Any

from program_changes import Change, drawn_change
from program_circumstances import Circumstance, first_circumstance, varied
from program_compare import Difference, compared
from program_expressions import ORDINARY
from program_impure import IMPURE
from program_parts import Line, Structure, drawn_line
from program_run import Seen, engines, run
from program_styles import STYLES, written
from program_unusual import UNUSUAL

from tinygrad_rnn.compiler import stages
from tinygrad_rnn.compiler.scan import running

#: By how much numbers are moved to see what rounding does to a program.
NUDGES = (2e-16, -3e-16, 5e-16)


def drawn_structure(chance: random.Random, impure: bool, sober: bool, plain: bool) -> Structure:
    """A step; with something impure in it, or of ordinary operations alone."""
    widths = (1, 2, 3, 4, 4, 5)
    carries = tuple(chance.choice(widths) for _ in range(chance.choice((1, 1, 2, 3))))
    inputs = tuple(chance.choice(widths) for _ in range(chance.choice((1, 1, 2))))
    batch = chance.choice((1, 2, 3)) if chance.random() < 0.15 else None
    least, most = chance.choices(((1, 4), (4, 12), (13, 40)), (5, 4, 1))[0]
    count, lines, known = chance.randint(least, most), [], [*carries, *inputs]
    share = 0.0 if sober else chance.choice((0.1, 0.3, 0.6))
    at = chance.randrange(count) if impure else -1

    def add(line: Line) -> int:
        lines.append(line)
        known.append(line.width)
        return len(known) - 1

    for i in range(count):
        table: Any = IMPURE if i == at else UNUSUAL if chance.random() < share else ORDINARY
        add(drawn_line(chance, table, known, batch, plain))
    new = []
    for width in carries:
        recent = [i for i in range(max(len(known) - 6, 0), len(known)) if known[i] == width]
        if recent and chance.random() < 0.6:
            new.append(chance.choice(recent))
            continue
        while True:  # what was made last, as wide as the state is
            line = drawn_line(chance, {"product": ORDINARY["product"]}, known, batch)
            if line.width == width:
                new.append(add(line))
                break
    outputs = tuple(chance.randrange(max(len(known) - 5, 0), len(known)) for _ in range(chance.choice((1, 1, 2, 3))))
    gain = chance.choice((0.5, 0.4, 0.3))
    dtype = "float32" if chance.random() < 0.08 else "float64"
    return Structure(carries, inputs, tuple(lines), tuple(new), outputs, gain, batch, dtype)


@dataclasses.dataclass(frozen=True)
class Case:
    """A program with its events, all of it from the seed.

    Attributes:
        without: lines that are left out.
        kept: which events are kept; all where None.
    """

    seed: int
    without: frozenset[int] = frozenset()
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        chance = random.Random(f"program {self.seed}")
        impure, sober, plain = chance.random() < 0.15, chance.random() < 0.2, chance.random() < 0.7
        style = chance.choice(STYLES)
        structure = drawn_structure(chance, impure, sober, plain)
        full = written(structure, self.seed, style)
        program = written(structure, self.seed, style, self.without) if self.without else full
        events = self._events(random.Random(f"events {self.seed}"), structure, full)
        self.__dict__.update(structure=structure, program=program, style=style, all_events=events)

    @staticmethod
    def _events(chance: random.Random, structure: Structure, program: Any) -> list[Any]:
        """Calls, and pairs (change, whether it is taken back)."""
        now = first_circumstance(chance, program.is_cell, structure.batch, structure.dtype)
        events: list[Any] = [now]
        for _ in range(chance.randint(2, 4)):
            if chance.random() < 0.6:
                change = drawn_change(chance, program)
                again = dataclasses.replace(now, seed=chance.randrange(10**6))
                events += [(change, False), again, (change, True)]
                if chance.random() < 0.5:
                    events.append(now)
            else:
                events.append(varied(chance, now, program.is_cell, structure.batch is not None))
        return events

    @property
    def events(self) -> list[Any]:
        """The events that are kept."""
        known: list[Any] = self.__dict__["all_events"]
        return known if self.kept is None else [known[i] for i in self.kept]

    @property
    def calls(self) -> list[Circumstance]:
        """The calls among them."""
        return [event for event in self.events if isinstance(event, Circumstance)]

    def describe(self) -> str:
        """The source of the step, and the events in words."""
        text = self.__dict__["program"].text
        lines = [text[text.index("class State(") :].strip(), ""]
        number = 0
        for event in self.events:
            if isinstance(event, Circumstance):
                lines.append(f"# call {number}: {event}")
                number += 1
            else:
                change, back = event
                lines.append(f"# {'back' if back else 'change'}: {change.what}")
                lines += [f"#     {part}" for part in (change.undo if back else change.do).splitlines()]
        return "\n".join(lines)

    def played(self, engine: str, nudge: float = 0.0, truth: list[Seen] | None = None) -> list[Seen]:
        """What every call shows under an engine."""
        return run(self.__dict__["program"], self.__dict__["structure"], self.events, engine, nudge, truth)

    def droppable(self) -> list[int]:
        """Lines that can be left out besides, the last first."""
        lines = self.__dict__["structure"].lines
        return [n for n in reversed(range(len(lines))) if n not in self.without and lines[n].replacement is not None]


@dataclasses.dataclass
class Report:
    """What came of a case."""

    calls: int = 0
    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    differences: list[Difference] = dataclasses.field(default_factory=list)
    errors: Counter[str] = dataclasses.field(default_factory=Counter)


def reason(text: str) -> str:
    """Why something was refused, without what differs from case to case."""
    got = next((line for line in text.splitlines() if line.strip().startswith("got ")), text.splitlines()[0])
    got = re.sub(r"\(?[\w.]*drawn_program_\d+\.py, line \d+\)?", "", got.strip()[4:])
    return re.sub(r"\d+", "N", re.sub(r"_\d+\b", "_N", got)).strip()[:100]


def examined(case: Case, only: tuple[str, ...] = ()) -> Report:
    """Run a case by every engine and compare with the eager one."""
    want, report = case.played("eager"), Report(calls=len(case.calls))
    report.errors.update(one.error for one in want if one.error)
    dtypes = ["float32" if "float32" in (c.dtype, case.__dict__["structure"].dtype) else "float64" for c in case.calls]
    for engine in only or engines():
        got = case.played(engine, truth=want)
        report.outcomes[f"{engine}: tried"] += len(got)
        for one in got:
            if one.refused:
                report.outcomes[f"{engine}: refused: {reason(one.refused)}"] += 1
        report.differences += compared(engine, got, want, dtypes)
    if any(one.size < 1e-3 for one in report.differences):
        report.differences = _beyond_rounding(case, want, dtypes, report.differences)
    if any(one.engine in ("auto", "fused") for one in report.differences):
        faults = "".join(dict.fromkeys([f"\n{fault}" for fault in looked_into(case, "fused").faults]))
        report.differences = [one._replace(what=one.what + faults) for one in report.differences]
    return report


def looked_into(case: Case, engine: str, last: str = "kernels") -> stages.Examined:
    """What is wrong with each stage of the compiler, in all loops that a case runs."""
    found = stages.Examined(last)
    with running(found.run):
        case.played(engine)
    return found


def _beyond_rounding(case: Case, want: list[Seen], dtypes: list[str], found: list[Difference]) -> list[Difference]:
    """The differences that are larger than what a last digit makes of the program itself."""
    own: dict[tuple[str, int, str], float] = {}
    for nudge in NUDGES:
        factor = 1.0 if dtypes[0] == "float64" else 5e8
        for one in compared("eager", case.played("eager", nudge * factor, want), want, dtypes):
            key = one.kind, one.call, one.what.split(" is ")[0]
            own[key] = max(own.get(key, 0.0), one.size)
    return [one for one in found if one.size > 30.0 * own.get((one.kind, one.call, one.what.split(" is ")[0]), 0.0)]


def shrunk(case: Case, fails: Any, patience: int = 60) -> Case:
    """A smaller case that still fails: fewer events, then fewer lines."""
    tries = 0

    def better(smaller: Case) -> bool:
        nonlocal tries
        tries += 1
        return tries <= patience and bool(fails(smaller))

    kept = list(range(len(case.all_events))) if case.kept is None else list(case.kept)  # type: ignore[attr-defined]
    for i in reversed(kept[:]):
        fewer = tuple(n for n in kept if n != i)
        if any(isinstance(case.__dict__["all_events"][n], Circumstance) for n in fewer):
            smaller = dataclasses.replace(case, kept=fewer)
            if better(smaller):
                case, kept = smaller, list(fewer)
    for n in case.droppable():
        smaller = dataclasses.replace(case, without=case.without | {n})
        if better(smaller):
            case = smaller
    return case


__all__ = ["Case", "Change", "Report", "examined", "shrunk"]
