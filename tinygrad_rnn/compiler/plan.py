"""From a program of one step to phases: which products and which loops over rows, in which order, over what memory.

Between two products all work on rows is one function; in which order they come, `order` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..kernels import scalar
from ..program.rows import At, Rows, Store, TooWide
from ..program.step import Step, Value, reachable
from .order import PHASES, Order, When
from .trace import NotFused

#: Names a piece of memory: ("carry", 0), ("next", 0), ("x", 0), ("scratch", 3), ...
Key = tuple[str, int]


class Wanted(NamedTuple):
    """A value that the program shall leave somewhere; with `add`, its sum over rows and steps."""

    value: Value
    key: Key
    add: bool = False


class Product(NamedTuple):
    """A phase: rows multiplied with a matrix (of blocks), rows of one looked up, or the k-th largest of a row."""

    level: int
    source: int
    target: int
    setting: Any
    inner: int
    width: int
    onto: bool
    value: Value


class RowPhase(NamedTuple):
    """A phase: a function on rows, what it stores, and which values lie in memory already."""

    level: int
    name: str
    stores: list[Store]
    known: frozenset[int]


class Plan:
    """The phases of one direction.

    Attributes:
        phases: products and row functions in order.
        places: for each place of the table, its memory and the offset in it.
        scratch: for each piece of scratch memory, its width, and whether it lasts for a chunk of steps.
        numbers: sizes that the row functions read from the table.
        text: their source.
        sources: of the functions of numbers that they call.
    """

    def __init__(
        self,
        step: Step,
        given: dict[int, Key],
        wanted: list[Wanted],
        carried: Iterable[Value],
        dtype: str,
        name: str,
    ) -> None:
        self.step, self.given, self.wanted, self.dtype, self.name = step, given, wanted, dtype, name
        self.carried = {value.number for value in carried}
        spread: dict[int, Value] = {}
        while True:
            try:
                self._build(list(spread.values()))
                return
            except TooWide as trouble:
                if trouble.value.number in spread:
                    raise NotFused(f"no loop can be found for {trouble.value!r}") from None
                spread[trouble.value.number] = trouble.value

    def _build(self, kept_too: list[Value]) -> None:
        self._laid = {value.number for value in kept_too}
        self.places: list[tuple[Key, int]] = []
        self.scratch: list[tuple[int, bool]] = []
        self.numbers: list[int] = []
        self.phases: list[Any] = []
        self._located: dict[int, list[tuple[When, At]]] = {}
        for number, key in self.given.items():
            self._located[number] = [((0, 0), At(self.place(key)))]
        wanted = list(self.wanted)
        onto = self._onto(wanted)
        targets = [w.value for w in wanted] + [*onto, *[rest for rest, _ in onto.values()]]
        leading = [w.value for w in wanted if w.key[0] == "next"]
        leading += [value for p, (rest, key) in onto.items() if key[0] == "next" for value in (p, rest)]
        order = Order(targets, self.given, self.carried, leading)
        when, depends, products = order.when, order.depends, order.products
        stores: dict[When, list[Store]] = {}

        def due(value: Value) -> When:
            return max(when[value.number], (1, 0)) if value.number in depends else when[value.number]

        # What is read behind the steps must still be there, of every step.
        behind = [p.operands[0] for level, _, p in products if level == 2]
        behind += [
            value for value in (*[w.value for w in wanted], *kept_too) if value.number in when and due(value)[0] == 2
        ]
        late = {value.number for value in reachable(behind, self.given)}

        def put(value: Value, key: Key, at: When, add: bool = False, offset: int = 0) -> None:
            place = self.place(key, offset)
            stores.setdefault(at, []).append(Store(value, At(place), add))
            if not add:
                self._located.setdefault(value.number, []).append(((at[0], at[1] + 0.5), At(place)))

        direct: dict[int, Key] = {}
        for value, key, add in wanted:
            if value.operator in PHASES and not add and value.number not in direct and value.number not in self.given:
                direct[value.number] = key
            elif value.operator == "join" and key[0] == "time":  # each part when it is made, to be read there
                for part, offset in zip(value.operands, value.setting):
                    put(part, key, due(part), offset=offset)
                at = due(value)
                self._located.setdefault(value.number, []).append(((at[0], at[1] + 0.5), At(self.place(key))))
            else:
                put(value, key, due(value), add)
        for value in kept_too:
            if value.number in when:
                put(value, self._scratch(value.width, True), due(value))
        starts: dict[When, list[Product]] = {}
        for level, start, p in products:
            operand = p.operands[0]
            source = self._found(operand, start)
            if source is None:
                put(
                    operand,
                    self._scratch(operand.width, level != 1 or operand.number in late),
                    max(due(operand), (level, 0)) if level == 1 else due(operand),
                )
                source = self._found(operand, start)
            assert source is not None
            if p in onto:
                rest, key = onto[p]
                target = self.place(key)  # where the rest lies only until the product comes
                stores.setdefault(start, []).append(Store(rest, At(target)))
            else:
                key = direct.get(p.number) or self._scratch(p.width, level != 1 or p.number in late)
                target = self.place(key)
                self._located.setdefault(p.number, []).append(((level, start[1] + 1), At(target)))
            starts.setdefault(start, []).append(
                Product(level, self._moved(source), target, p.setting, operand.width, p.width, p in onto, p)
            )
        self._emit(stores, starts)

    def _onto(self, wanted: list[Wanted]) -> dict[Value, tuple[Value, Key]]:
        """Products that are added onto the rest of a sum where the next carry lies: {product: (rest, key)}.

        The rest must be known when the product starts. The entries of `wanted` that are met so leave the list.
        """
        leading = [w.value for w in wanted if w.key[0] == "next"]
        order = Order([w.value for w in wanted], self.given, self.carried, leading)
        starts = {p.number: start for level, start, p in order.products if level == 1 and p.operator == "product"}
        when, uses = order.when, order.uses
        found: dict[Value, tuple[Value, Key]] = {}
        for w in list(wanted):
            if w.key[0] != "next" or w.add or uses[w.value.number] != 1 or w.value.number in self.given:
                continue
            terms, stack = [], [w.value]
            while stack:
                value = stack.pop()
                whole = value is w.value or uses[value.number] == 1
                if value.operator == "map" and value.setting is scalar.add and whole and value.number not in self.given:
                    stack += reversed(value.operands)
                else:
                    terms.append(value)
            last = max(
                (t for t in terms if t.number in starts and uses[t.number] == 1 and t.number not in self.given),
                key=lambda t: (starts[t.number], t.number),
                default=None,
            )
            rest = [t for t in terms if t is not last]
            if last is None or not rest or any(t.width != last.width for t in rest):
                continue
            if max(when[t.number] for t in rest) > starts[last.number]:
                continue
            total = rest[0]
            for term in rest[1:]:
                total = self.step.map(scalar.add, total, term)
            found[last] = (total, w.key)
            wanted.remove(w)
        return found

    # --- Memory ---

    def place(self, key: Key, offset: int = 0) -> int:
        """The number of the place of a piece of memory, from an offset on."""
        if (key, offset) not in self.places:
            self.places.append((key, offset))
        return self.places.index((key, offset))

    def _moved(self, at: At) -> int:
        key, offset = self.places[at.place]
        return self.place(key, offset + at.offset)

    def _scratch(self, width: int, lasting: bool) -> Key:
        self.scratch.append((width, lasting))
        return ("scratch", len(self.scratch) - 1)

    def _found(self, value: Value, when: When) -> At | None:
        """Where a value lies by then."""
        for ready, at in self._located.get(value.number, ()):
            if ready <= (when[0], when[1] + 0.5):
                return at
        if value.operator == "slice":
            whole = self._found(value.operands[0], when)
            return whole and At(whole.place, whole.offset + value.setting)
        return None

    def located(self, value: Value) -> int:
        """The first place where a value lies."""
        return self._located[value.number][0][1].place

    # --- Text ---

    def _emit(self, stores: dict[When, list[Store]], starts: dict[When, list[Product]]) -> None:
        texts: list[str] = []
        sources: dict[str, None] = {}
        numbers: list[int] = []
        for when in sorted({*stores, *starts}):
            if when in stores:
                loads = {}
                for number, found in self._located.items():
                    for ready, at in found:
                        if ready <= when:
                            loads[number] = at
                            break
                name = f"rows_{len(texts)}"
                used = {store.at.place for store in stores[when]}
                scopes = {place: i + 1 for i, place in enumerate(sorted(used))}
                rows = Rows(name, stores[when], loads, self.dtype, numbers, scopes, self._laid)
                sources.update(rows.sources)
                texts.append(rows.text())
                self.phases.append(RowPhase(when[0], name, stores[when], frozenset(loads)))
            self.phases += starts.get(when, [])
        self.numbers = numbers
        self.sources = tuple(sources)
        self.text = "\n\n".join([f"@rows\n{text}" for text in texts])
        self.functions = [phase.name for phase in self.phases if isinstance(phase, RowPhase)]
