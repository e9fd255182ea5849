"""From a direction to phases: which products and which loops over rows, in which order, over what memory.

Between two products all work on rows is one function; in which order they come, `levels` says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from ...ir import loops, numba
from ...ir.builder import Builder
from ...ir.loops import At, Known, Located, Placed, TooWide
from ...ir.nodes import WHOLE_ROWS, Join, Node, Product, Slice, reachable
from ...ir.program import Direction, Key, Wanted
from ...kernels import scalar
from ..front.trace import NotFused
from .levels import Level, Order, When
from .merge import terms_of
from .pieces import pieces

#: A one at each step and in each row: the left side of a sum.
ONES: Key = ("ones", 0)

#: Memory of which all steps are there behind the loop.
_LASTING = frozenset({"state", "x", "dy", "after", "y", "saved"})


class TablePhase(NamedTuple):
    """A phase that the table tells all of: rows multiplied with a matrix (of blocks), rows of one looked up, or the
    k-th largest of a row. With `accumulate` it is added to what lies there."""

    level: Level
    source: int
    target: int
    inner: int
    width: int
    accumulate: bool
    node: Node


class RowPhase(NamedTuple):
    """A phase that is a function on rows: what it stores, what it makes, and what it reads of which slot."""

    level: Level
    function: loops.Function
    stores: list[Placed]
    made: list[Node]
    read: list[tuple[Node, At]]

    @property
    def name(self) -> str:
        return self.function.name


class Schedule:
    """The phases of one direction.

    Attributes:
        phases: in order.
        places: for each slot of the table, its memory and the offset in it; `slot` gives the number.
        scratch: for each piece of scratch memory, its width, and whether it lasts for a chunk of steps.
        gemms: for each weight-gradient GEMM by its key, where its sides lie; of the left side None where it is ones.
        numbers: sizes that the row functions read from the table.
        text: their source.
        sources: of the functions of numbers that they call.
        functions: their names.
    """

    def __init__(self, direction: Direction, builder: Builder, name: str) -> None:
        self.builder, self.dtype, self.name = builder, builder.dtype, name
        self.given, self.carried = direction.given, direction.carried
        self.wanted = list(direction.wanted)
        self.gemms = self._place_gemms(direction)
        #: Widths of what is kept of all steps for the GEMMs alone.
        self.times = {key: node.width for node, key, _ in self.wanted if key[0] == "time"}
        laid: dict[int, Node] = {}
        while True:
            try:
                self._build(list(laid.values()))
                break
            except TooWide as trouble:
                if all(node.number in laid for node in trouble.nodes):
                    raise NotFused(f"no loop can be found for {trouble.nodes[0]!r}") from None
                laid |= {node.number: node for node in trouble.nodes}
        for left, right in self.gemms.values():
            self.slot(*((ONES, 0) if left is None else left))
            self.slot(*right)

    def _place_gemms(self, direction: Direction) -> dict[Key, tuple[tuple[Key, int] | None, tuple[Key, int]]]:
        """Choose where the sides of GEMMs lie at all steps; those that do not yet are wanted too."""
        if not direction.gemms:
            return {}
        whole = {
            part.number: (join, offset)
            for product in reachable(direction.targets(), self.given)
            if isinstance(product, Product) and product.number not in self.given
            for join in product.operands
            if isinstance(join, Join) and join.number not in self.given
            for part, offset in zip(join.operands, join.offsets)
        }
        held = {number: key for number, key in self.given.items() if key[0] in _LASTING}
        held |= {w.node.number: w.key for w in self.wanted if not w.add and w.key[0] == "dx"}
        count = 0

        def place(side: Node) -> tuple[Key, int]:
            nonlocal count
            base, offset = (side.operands[0], side.starts[0]) if isinstance(side, Slice) else (side, 0)
            if base.number not in held:
                base, offset = whole.get(side.number, (side, 0))
            if base.number not in held:
                held[base.number] = "time", count
                count += 1
                self.wanted.append(Wanted(base, held[base.number]))
            return held[base.number], offset

        return {
            gemm.key: (None if gemm.left is None else place(gemm.left), place(gemm.right)) for gemm in direction.gemms
        }

    def _build(self, laid: list[Node]) -> None:
        self.places: dict[tuple[Key, int], int] = {}
        self._slots: list[tuple[Key, int]] = []
        self.scratch: list[tuple[int, bool]] = []
        self._laid = {node.number for node in laid}
        self._stores: dict[When, list[Placed]] = {}
        self._located: dict[int, list[tuple[When, At]]] = {}
        for number, key in self.given.items():
            self._located[number] = [((0, 0), At(self.slot(key)))]
        wanted = list(self.wanted)
        added = self._added(wanted)
        rests = [node for product, rest, _ in added.values() for node in (product, rest)]
        roots = [w.node for w in wanted if w.key[0] == "next"]
        roots += [node for product, rest, key in added.values() if key[0] == "next" for node in (product, rest)]
        self._order = order = Order([*[w.node for w in wanted], *rests], self.given, self.carried, roots)
        # What is read in the epilogue must still be there, of every step.
        after = [node.operands[0] for level, _, node in order.phases if level is Level.EPILOGUE]
        after += [
            node
            for node in (*[w.node for w in wanted], *laid)
            if node.number in order.when and self._due(node)[0] == Level.EPILOGUE
        ]
        late = {node.number for node in reachable(after, self.given)}
        direct = self._leave(wanted)
        for node in laid:
            if node.number in order.when:
                self._put(node, self._scratch(node.width, True), self._due(node))
        starts: dict[When, list[TablePhase]] = {}
        for level, start, node in order.phases:
            operand = node.operands[0]
            source = self._found(operand, start)
            if source is None:
                lasting, at = level is not Level.LOOP or operand.number in late, self._due(operand)
                at = max(at, (int(level), 0)) if level is Level.LOOP else at
                self._put(operand, self._scratch(operand.width, lasting), at)
                source = self._found(operand, start)
            assert source is not None
            if node.number in added:
                _, rest, key = added[node.number]
                target = self.slot(key)  # where the rest lies only until the product comes
                self._stores.setdefault(start, []).append(Placed(rest, At(target)))
            else:
                lasting = level is not Level.LOOP or node.number in late
                key = direct.get(node.number) or self._scratch(node.width, lasting)
                target = self.slot(key)
                self._located.setdefault(node.number, []).append(((int(level), start[1] + 1), At(target)))
            starts.setdefault(start, []).append(
                TablePhase(level, self._moved(source), target, operand.width, node.width, node.number in added, node)
            )
        self._emit(starts)

    def _due(self, node: Node) -> When:
        """When a node is made for what needs it in memory."""
        ready = self._order.when[node.number]
        return max(ready, (int(Level.LOOP), 0)) if node.number in self._order.depends else ready

    def _put(self, node: Node, key: Key, at: When, add: bool = False, offset: int = 0) -> None:
        slot = self.slot(key, offset)
        self._stores.setdefault(at, []).append(Placed(node, At(slot), add))
        if not add:
            self._located.setdefault(node.number, []).append(((at[0], at[1] + 0.5), At(slot)))

    def _leave(self, wanted: list[Wanted]) -> dict[int, Key]:
        """Put what is wanted where it is; for phases that leave it there themselves, by number: where."""
        direct: dict[int, Key] = {}
        for node, key, add in wanted:
            if isinstance(node, WHOLE_ROWS) and not add and node.number not in direct and node.number not in self.given:
                direct[node.number] = key
            elif isinstance(node, Join) and key[0] == "time":  # each part when it is made, to be read there
                for part, offset in zip(node.operands, node.offsets):
                    self._put(part, key, self._due(part), offset=offset)
                level, stage = self._due(node)
                self._located.setdefault(node.number, []).append(((level, stage + 0.5), At(self.slot(key))))
            else:
                self._put(node, key, self._due(node), add)
        return direct

    def _added(self, wanted: list[Wanted]) -> dict[int, tuple[Node, Node, Key]]:
        """Products that are added to the rest of a sum where the next carry lies, by number: (product, rest, where).

        The rest must be known when the product starts. The entries of `wanted` that are met so leave the list.
        """
        roots = [w.node for w in wanted if w.key[0] == "next"]
        order = Order([w.node for w in wanted], self.given, self.carried, roots)
        starts = {
            node.number: start
            for level, start, node in order.phases
            if level is Level.LOOP and isinstance(node, Product) and node.number not in self.given
        }
        when, uses = order.when, order.uses
        found: dict[int, tuple[Node, Node, Key]] = {}
        left: list[Wanted] = []
        for w in wanted:
            left.append(w)
            if w.key[0] != "next" or w.add or uses[w.node.number] != 1 or w.node.number in self.given:
                continue
            terms, _ = terms_of(w.node, order, self.given)
            last = max(
                (term for term in terms if term.number in starts and uses[term.number] == 1),
                key=lambda term: (starts[term.number], term.number),
                default=None,
            )
            rest = [term for term in terms if term is not last]
            if last is None or not rest or any(term.width != last.width for term in rest):
                continue
            if max([when[term.number] for term in rest]) > starts[last.number]:
                continue
            total = rest[0]
            for term in rest[1:]:
                total = self.builder.map(scalar.add, total, term)
            found[last.number] = last, total, w.key
            left.pop()
        wanted[:] = left
        return found

    # --- Memory ---

    def slot(self, key: Key, offset: int = 0) -> int:
        """The number of the slot for a piece of memory, from an offset on."""
        return self.places.setdefault((key, offset), len(self.places))

    def _moved(self, at: At) -> int:
        key, offset = self._memory(at.slot)
        return self.slot(key, offset + at.offset)

    def _memory(self, slot: int) -> tuple[Key, int]:
        if len(self._slots) < len(self.places):
            self._slots += itertools.islice(self.places, len(self._slots), None)
        return self._slots[slot]

    def _scratch(self, width: int, lasting: bool) -> Key:
        self.scratch.append((width, lasting))
        return ("scratch", len(self.scratch) - 1)

    def _by(self, number: int, when: When) -> At | None:
        """Where a node lies by then."""
        for ready, at in self._located.get(number, ()):
            if ready <= when:
                return at
        return None

    def _found(self, node: Node, when: When) -> At | None:
        """Where a node lies for a phase of then, or what it is a slice of."""
        offset = 0
        while True:
            at = self._by(node.number, (when[0], when[1] + 0.5))
            if at is not None:
                return At(at.slot, at.offset + offset)
            if not isinstance(node, Slice):
                return None
            offset += node.starts[0]
            node = node.operands[0]

    # --- Functions ---

    def _emit(self, starts: dict[When, list[TablePhase]]) -> None:
        self.phases: list[TablePhase | RowPhase] = []
        self.numbers: list[int] = []
        texts: list[str] = []
        sources: dict[str, None] = {}
        troubles: dict[int, Node] = {}
        for when in sorted({*self._stores, *starts}):
            for stores, located in self._cut(when):
                try:
                    function = loops.row_function(f"rows_{len(texts)}", stores, located, self._laid)
                except TooWide as trouble:  # go on, so that all that must lie in memory is known after one round
                    troubles |= {node.number: node for node in trouble.nodes}
                    continue
                sources.update(numba.sources(function))
                texts.append(numba.printed(function, self.numbers))
                self.phases.append(_row_phase(Level(when[0]), function, stores, located))
            self.phases += starts.get(when, [])
        if troubles:
            raise TooWide(list(troubles.values()))
        self.sources = tuple(sources)
        self.text = "\n\n".join([f"@rows\n{text}" for text in texts])
        self.functions = [phase.name for phase in self.phases if isinstance(phase, RowPhase)]

    def _cut(self, when: When) -> Iterator[tuple[list[Placed], Located]]:
        """The stores that are due then, for one function or several, with where nodes lie before each."""
        if when not in self._stores:
            return
        own: dict[int, At] = {}

        def located(number: int) -> At | None:
            return own.get(number) or self._by(number, when)

        def scratch(width: int) -> At:
            return At(self.slot(self._scratch(width, when[0] != Level.LOOP)))

        for stores in pieces(self._stores[when], located, scratch):
            yield stores, located
            own.update({node.number: at for node, at, add in stores if not add})


def _row_phase(level: Level, function: loops.Function, stores: list[Placed], located: Located) -> RowPhase:
    nodes = reachable([node for node, *_ in stores], Known(located))
    made = [node for node in nodes if located(node.number) is None]
    used = {operand.number for node in made for operand in node.operands}
    read = [(node, at) for node in nodes if node.number in used and (at := located(node.number)) is not None]
    return RowPhase(level, function, stores, made, read)
