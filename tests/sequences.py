"""Random programs of tensors, views, in-place writes and backwards, run on the library and on `jets` side by side.

An action is a line of Python and its effect on the reference. Whatever a program does, a gradient is what the reference
says, or a TinygradError was raised: never another number, and never another kind of exception. An error is accepted
only where something was written, or freed, before.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jets
import numpy as np
from jets import COLUMNS, Ref

import tinygrad_rnn as tg
from tinygrad_rnn.errors import TinygradError

TOLERANCE, WILD = 1e-9, 20.0
HEAD = "import copy\nimport numpy as np\nimport tinygrad_rnn as tg\nkept = []\n"


class Failure(Exception):
    """The library did what it must not do."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Action(NamedTuple):
    """A line, the names it needs, its effect on the machine; `ready` tells whether it makes sense now.

    What only makes a new tensor has no `refusal`. For the others it tells whether the library must refuse: None stands
    for "it may, once something was written or freed".
    """

    line: str
    uses: tuple[str, ...]
    effect: Callable[[Machine], None]
    ready: Callable[[Machine], bool] = lambda machine: True
    refusal: Callable[[Machine], bool | None] | None = None


class Machine:
    """A program's state: the library's objects by name, and their counterparts."""

    def __init__(self, order: int) -> None:
        self.order, self.free = order, 0
        self.refs: dict[str, Ref] = {}
        self.space: dict[str, Any] = {"np": np, "tg": tg, "copy": copy, "kept": []}
        self.plain: set[str] = set()  # names of arrays, indices and truth values: the reference reads the library's
        self.risky = False
        self.before: dict[int, Any] = {}
        self.kept: list[tuple[Any, np.ndarray]] = []
        self.listeners: dict[str, Ref] = {}
        self.frozen: dict[str, Any] = {}
        self.compared = 0
        self.errors: Counter[str] = Counter()

    # --- Running ---

    def perform(self, action: Action) -> bool:
        """Run an action on both; False where it does not apply.

        Raises:
            Failure: where the two differ.
        """
        if any(name not in self.refs and name not in self.plain for name in action.uses) or not action.ready(self):
            return False
        refusal = action.refusal(self) if action.refusal is not None else False
        self.before = {id(ref): self.space[name].grad for name, ref in self.refs.items()}
        try:
            exec(action.line, self.space)
        except TinygradError as trouble:
            if refusal is False or (refusal is None and not self.risky):
                raise Failure("refused", f"{action.line}\n{trouble}") from trouble
            if refusal is None:
                self.errors[str(trouble).split(" (at")[0].splitlines()[0].split(": ", 1)[0] + self.why(trouble)] += 1
                self.drop_gradients()
        except Exception as trouble:
            raise Failure("foreign exception", f"{action.line}\n{type(trouble).__name__}: {trouble}") from trouble
        else:
            if refusal:
                raise Failure("accepted", f"{action.line}\nshould have been refused")
            action.effect(self)
        if action.refusal is not None:
            self.compare()
        return True

    @staticmethod
    def why(trouble: Exception) -> str:
        """The kind of an error, without what differs from case to case."""
        for words in ("changed in place", "freed", "read-only", "history", "something else the second time"):
            if words in str(trouble):
                return f": {words}"
        return f": {type(trouble).__name__} {trouble}"

    def drop_gradients(self) -> None:
        """After a backward that raised, gradients may be there in part."""
        for name, ref in self.refs.items():
            if ref.columns is not None:
                self.space[name].grad = ref.grad = None
        self.space["kept"].clear()

    def close(self) -> None:
        """Leave the tapes that the program entered."""
        for name in [name for name, thing in self.space.items() if isinstance(thing, tg.Tape)]:
            self.space.pop(name).__exit__()

    # --- Effects ---

    def define(self, name: str, ref: Ref, quiet: bool = False, operands: tuple[Ref, ...] = ()) -> None:
        """Name what the last line made. Where memory is new, it lies as the library has laid it."""
        if quiet:
            ref.parts = None
        self.refs[name] = ref
        made = self.space[name]
        if made.shape != ref.value.shape:
            raise Failure("shape", f"{name} is {made.shape}, not {ref.value.shape}")
        if made.requires_grad != ref.tracked:
            raise Failure("requires_grad", f"{name}.requires_grad is {made.requires_grad}")
        for operand in operands:
            operand.used = True
        if not any(np.shares_memory(ref.value, operand.value) for operand in operands):
            ref.value = laid_like(made, ref.value)
        if wild(ref.value, WILD) or any(wild(part, 1e4) for part in ref.parts or ()):
            del self.refs[name]

    def columns(self, size: int) -> slice:
        """New columns to differentiate with respect to."""
        self.free += size
        return slice(self.free - size, self.free)

    def followed(self) -> list[tuple[str, Ref]]:
        """All whose gradient is known, each once."""
        return list({id(ref): (name, ref) for name, ref in self.refs.items() if ref.columns is not None}.values())

    def write(self, target: Ref, key: Any, value: Any) -> None:
        """target[key] = value."""
        target.value[key] = np.array(value)
        self.risky = True
        for name in [name for name, ref in self.refs.items() if wild(ref.value, WILD)]:
            del self.refs[name]

    def arrived(self, roots: list[Ref], seeds: list[Ref], record: bool, retained: bool) -> Ref:
        """The gradients of a backward for every column, and what hooks saw of it."""
        found = jets.gradient(roots, seeds, record)
        for seed in seeds:
            seed.used = True
        for name, seen in self.space["kept"]:
            expected = found.value[self.listeners[name].columns].reshape(seen.shape)
            self.check(f"what the hook of {name} saw", seen, expected)
            self.kept.append((seen, np.array(seen.numpy())))
        self.space["kept"].clear()
        self.risky = self.risky or not retained
        return found

    def accumulate(self, found: Ref, record: bool) -> None:
        """What a backward left in every `grad`."""
        for name, ref in self.followed():
            new, old, size = self.space[name].grad, self.before[id(ref)], ref.value.shape
            if not ref.tracked:  # it requires no gradient for a while
                if new is not old:
                    raise Failure("wrong gradient", f"{name}.grad changed, though it requires none")
                continue
            part = jets.moved(lambda v, at=ref.columns, size=size: v[at].reshape(size), found)
            if new is None:
                self.check(f"{name}.grad, which is None,", np.zeros(size), part.value)
                continue
            whole = part if ref.grad is None else jets.combined(ref.grad, part)
            self.check(f"{name}.grad", new, whole.value)
            self.history(f"{name}.grad", new, whole, record)
            if new is old:
                ref.grad.value[...] = whole.value
            else:
                ref.grad = Ref(laid_like(new, whole.value), whole.parts if new.requires_grad else None)
        self.compared += 1

    def history(self, what: str, new: Any, ref: Ref, record: bool) -> None:
        """A gradient made with create_graph must know that it depends on something."""
        if record and not new.requires_grad and any(np.any(part) for part in ref.parts or ()):
            raise Failure("history lost", f"{what} depends on a leaf, and does not require a gradient")

    # --- Comparing ---

    def check(self, what: str, got: Any, expected: np.ndarray) -> None:
        """Compare a gradient."""
        if not close(np.asarray(got), expected):
            raise Failure("wrong gradient", f"{what} is\n{got}\ninstead of\n{expected}")

    def compare(self) -> None:
        """Compare every value, and every gradient that is held."""
        for name, ref in self.refs.items():
            tensor = self.space[name]
            agree("wrong value", name, tensor, ref)
            if ref.columns is not None and ref.grad is not None:
                agree("wrong gradient", f"{name}.grad", tensor.grad, ref.grad)
        for seen, values in self.kept:
            if not np.array_equal(seen.numpy(), values):
                raise Failure("wrong gradient", f"what a hook saw became\n{seen}\nand was\n{values}")


def laid_like(tensor: Any, value: np.ndarray) -> np.ndarray:
    """The value in new memory, laid as the tensor's, so that `reshape` is a view of both or of none.

    Once the two agree it has the tensor's last digits too.
    """
    if not close(tensor.numpy(), value):
        raise Failure("wrong value", f"made was\n{tensor}\ninstead of\n{value}")
    return np.array(tensor.numpy(), order="K")


def close(got: np.ndarray, expected: np.ndarray) -> bool:
    """max |a - b| <= e (1 + max |b|)."""
    if got.shape != expected.shape:
        return False
    error = np.abs(got - expected).max(initial=0.0)
    return bool(error == 0.0 or error <= TOLERANCE * (1.0 + np.abs(expected).max(initial=0.0)))


def agree(kind: str, name: str, tensor: Any, ref: Ref) -> None:
    """Compare what the two hold."""
    got = tensor.numpy()
    if not close(got, ref.value):
        raise Failure(kind, f"{name} is\n{got}\ninstead of\n{ref.value}")


def wild(value: np.ndarray, limit: float) -> bool:
    return not np.abs(value).max(initial=0.0) <= limit


# --- Running, shrinking, printing ---


def play(actions: list[Action], order: int) -> Machine:
    """Run a program. Raises Failure."""
    machine = Machine(order)
    try:
        for action in actions:
            machine.perform(action)
        machine.compare()
    finally:
        machine.close()
    return machine


def failing(actions: list[Action], order: int) -> Failure | None:
    """The failure of a program, if it fails."""
    try:
        play(actions, order)
    except Failure as failure:
        return failure
    return None


def shrunk(actions: list[Action], order: int) -> tuple[list[Action], Failure]:
    """The program without the actions that its failure does not need."""
    failure = failing(actions, order)
    assert failure is not None, "a program fails once, and then does not"
    again = True
    while again:
        again = False
        for i in reversed(range(len(actions))):
            fewer = actions[:i] + actions[i + 1 :]
            found = failing(fewer, order)
            if found is not None and found.kind == failure.kind:
                actions, failure, again = fewer, found, True
    return actions, failure


def report(seed: int, actions: list[Action], order: int) -> str:
    """The failing program as Python that runs, and what is wrong with it."""
    actions, failure = shrunk(actions, order)
    machine, lines = Machine(order), []
    try:
        for action in actions:
            lines.append(action.line)
            if not machine.perform(action):
                lines.pop()
    except Failure:
        pass
    finally:
        machine.close()
    comment = "\n".join(f"# {line}" for line in str(failure).splitlines())
    return f"sequence {seed}\n\n{HEAD}" + "\n".join(lines) + f"\n{comment}\n"


class Played(NamedTuple):
    """What came of one sequence."""

    actions: list[Action]
    compared: int
    errors: Counter[str]


def sequence(seed: int) -> Played:
    """Draw a program and run it while it is drawn.

    Raises:
        Failure: with the shrunk program as its text.
    """
    from sequence_gradients import draw

    chance = random.Random(seed)
    order = 3 if chance.random() < 0.1 else 2
    machine, actions, wanted = Machine(order), [], chance.randint(8, 20)
    try:
        for action in draw(machine, chance):
            actions.append(action)
            machine.perform(action)
            if len(actions) >= wanted:
                break
        machine.compare()
    except Failure as failure:
        machine.close()
        raise Failure(failure.kind, report(seed, actions, order)) from failure
    finally:
        machine.close()
    return Played(actions, machine.compared, machine.errors)


assert COLUMNS >= 8
