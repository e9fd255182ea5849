"""`explain`: what the compiler makes of a step, pass by pass, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..autograd.tape import Place, enable_grad
from ..ir.nodes import listed, reachable
from .front.forms import DeferredOp
from .passes.levels import Level
from .passes.schedule import RowPhase, Schedule
from .program import Planned
from .scan import explaining


class Explanation:
    """What became of each loop over time, as text.

    Attributes:
        fused: whether all of them become kernels.
        parts: for each its place, a `Planned` or the reason why there is none, and why its engine leaves it eager
            though there is one ("" where it does not).
    """

    def __init__(self, parts: Sequence[tuple[Place, Any, str]], names: dict[int, str]) -> None:
        self.parts, self._names = list(parts), names
        self.fused = bool(parts) and all(isinstance(found, Planned) and not left for _, found, left in parts)

    def __str__(self) -> str:
        if not self.parts:
            return "nothing runs over time here"
        return "\n\n".join(["\n".join(self._part(*part)) for part in self.parts])

    __repr__ = __str__

    def _part(self, place: Place, found: Any, left: str) -> Iterator[str]:
        where = f"{place.cell}, layer {place.layer}{', in reverse' if place.reverse else ''}"
        if not isinstance(found, Planned):
            yield f"{where}: runs eagerly, step by step"
            yield f"  because {found}"
            return
        yield f"{where}: fused" if not left else f"{where}: runs eagerly, as {left}; fused it would be this:"
        yield f"  {found.dtype}, {len(found.low.step.nodes)} values, {len(found.saved)} saved for the gradient"
        names, labels = self._named(found), found.low.step.labels
        outside = ", ".join(dict.fromkeys(names.values())) or "no others"
        yield from _section("1. trace: one step as it ran", found.traced[0].splitlines())
        yield from _section(
            f"2. lower: the same on rows, each value once; from outside come {outside}",
            listed(reachable([*found.next, *found.ys]), names, labels),
        )
        yield from _section(
            "3. merge, schedule: prologue, loop and epilogue; one loop over the row wherever no product lies between",
            _phases(found.forward, names, labels),
        )
        if found.backward is None:
            yield "no gradient is asked for"
            return
        yield from _section(
            "4. differentiate: the gradient of one step, by the operations' own derivatives",
            found.traced[1].splitlines(),
        )
        saved = [f"{value!r}" for value in found.saved]
        yield from _section(
            "5. rematerialise: saved by the forward run; all else is computed again", saved or ["nothing"]
        )
        yield from _section(
            "6. merge, schedule: from the last step to the first", _phases(found.backward, names, labels)
        )
        yield from _section("7. weight gradients: summed over all steps at once, behind the loop", _sums(found))

    def _named(self, program: Planned) -> dict[str, str]:
        """Names for what the step takes from outside: w0, v1, ... become those of parameters, where they have one."""
        low, found = program.low, {}
        for letter, numbers in (("w", low.matrices), ("v", low.vectors)):
            for i, n in enumerate(numbers):
                made = low.captures[n]
                name = self._names.get(id(made))
                if name is None and isinstance(made, DeferredOp):
                    name = f"{getattr(made.op, 'name', made.op)}(...)"
                elif name is None and low.tensors[n].size == 1:
                    name = f"{float(low.tensors[n].numpy().reshape(())):.6g}"
                found[f"{letter}{i}"] = name or f"{letter}{i}"
        return found


def explain(run: Callable[..., Any], *inputs: Any) -> Explanation:
    """What the compiler makes of every recurrent layer and `scan` in run(*inputs): print it.

    Nothing is compiled; all runs eagerly. The program is shown as traced, on rows, and in the order in which kernels
    run it: what is hoisted out of the loop, fused between products, sunk behind the loop, saved for the gradient, and
    summed over all steps. What cannot be fused says why, with operation and line.

    Args:
        run: a layer, a model, or any function.
        inputs: what it takes.

    >>> import tinygrad_rnn as tg
    >>> print(tg.explain(tg.nn.RNN(2, 3), tg.zeros(10, 1, 2)))
    RNNCell, layer 0: fused
    ...
    """
    parts: list[tuple[Place, Any, str]] = []
    with enable_grad(), explaining(parts):
        run(*inputs)
    names = {}
    if hasattr(run, "named_parameters"):
        names = {id(parameter): name for name, parameter in run.named_parameters()}
    return Explanation(parts, names)


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    yield ""
    yield f"  {title}"
    for line in lines:
        yield f"    {line}"


_LEVELS = {
    Level.PROLOGUE: "prologue, for many steps at once: needs no state",
    Level.LOOP: "loop, at every step",
    Level.EPILOGUE: "epilogue, for many steps at once: no later step needs it",
}


def _phases(schedule: Schedule, names: dict[str, str], labels: dict[int, str]) -> Iterator[str]:
    memory, level = list(schedule.places), None

    def named(slot: int) -> str:
        (kind, number), offset = memory[slot]
        return f"{kind} {number}" + (f"[{offset}:]" if offset else "")

    for phase in schedule.phases:
        if phase.level is not level:
            level = phase.level
            yield f"{_LEVELS[level]}:"
        if not isinstance(phase, RowPhase):
            added = ", added onto what lies there" if phase.accumulate else ""
            yield f"  {phase.node.kind.ljust(7)}  {next(listed([phase.node], names, labels))}{added}"
            continue
        yield f"  a loop over the row: {len(phase.made)} values, {len(phase.stores)} stored"
        yield from (f"    {node.name} from {named(at.slot)}" for node, at in phase.read)
        yield from (f"    {line}" for line in listed(phase.made, names, labels))
        for store in phase.stores:
            yield f"    {named(store.at.slot)} {'+=' if store.add else '='} {store.node.name}"


def _sums(program: Planned) -> Iterator[str]:
    low = program.low
    for i in program.used_gemms:
        left, right = low.gemms[i]
        yield f"sum of {left.name}.T @ {right.name}".ljust(34) + f" ({left.width}, {right.width})"
    for i in sorted({*program.used_sums, *program.beside}):
        yield f"sum of {low.sums[i].name}".ljust(34) + f" ({low.sums[i].width},)"
