"""All that lies between two matrix products, as few loops over the row as can be, and these as data.

A loop runs along the row; a new one begins only where a reduction must be known first. In a loop all is loaded, then
computed, then stored. What is joined is stored part by part; what is sliced is computed where it is wanted.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ..kernels.scalar import Primitive
from .nodes import Broadcast, Const, Join, Map, Node, Reduce, Slice, reachable


class At(NamedTuple):
    """Where a node lies: a slot of the table, and how many numbers behind its start."""

    slot: int
    offset: int = 0


class Placed(NamedTuple):
    """A node that is put somewhere, or added to what lies there."""

    node: Node
    at: At
    add: bool = False


# --- What a function does, an entry a line. Names are of scalars; `along` says that an offset moves with the loop. ---


@dataclass(frozen=True, slots=True)
class Literal:
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    at: At
    along: bool
    boolean: bool


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    primitive: Primitive
    operands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Begin:  # of a reduction, before its loop
    name: str
    reduction: str


@dataclass(frozen=True, slots=True)
class Accumulate:
    name: str
    reduction: str
    term: str


@dataclass(frozen=True, slots=True)
class Store:
    name: str
    at: At
    along: bool
    boolean: bool
    add: bool


Entry: TypeAlias = Literal | Load | Operation | Begin | Accumulate | Store


@dataclass(frozen=True, slots=True)
class Loop:
    width: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """What is done to each row, in order."""

    name: str
    entries: tuple[Entry | Loop, ...]

    def every(self) -> Iterator[Entry]:
        """All entries, those of loops where these stand."""
        for entry in self.entries:
            yield from entry.entries if isinstance(entry, Loop) else (entry,)


class TooWide(Exception):
    """Nodes must lie in memory before they can be used so."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(", ".join([node.name for node in nodes]))
        self.nodes = nodes


#: Where a node lies already, by its number.
Located = Callable[[int], "At | None"]


class Known:
    """The numbers of nodes that are located, as a container."""

    def __init__(self, located: Located) -> None:
        self._located = located

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._located(number) is not None


def row_function(name: str, targets: Sequence[Placed], located: Located, laid: Container[int] = ()) -> Function:
    """The loops that do all of `targets`.

    Args:
        laid: numbers of nodes that must lie in memory before anything is made of them.

    Raises:
        TooWide: for nodes that must.
    """
    return _Rows(targets, located, laid).function(name)


class _Rows:
    """The loops of one function, as they are put together."""

    def __init__(self, targets: Sequence[Placed], located: Located, laid: Container[int]) -> None:
        self._located = located
        self._stored: dict[int, At] = {}
        self._laid = {
            t.node.number: t.at
            for t in targets
            if not t.add and (isinstance(t.node, Join) or t.node.number in laid) and located(t.node.number) is None
        }
        self._targets = [flat for target in targets for flat in _flat(target)]
        self._entries: list[Entry | Loop] = []
        self._scalars: dict[int, str] = {}
        self._costly: dict[tuple[int, int], int] = {}
        self._loops = self._made = 0
        self._troubles: dict[int, Node] = {}

    def function(self, name: str) -> Function:
        """All of it, in order."""
        known = Known(self._at)
        depths: dict[int, int] = {}
        reductions = []
        for node in reachable([target.node for target in self._targets], known):
            depth = 0
            if node.number not in known:
                # How many reductions must be known, one after another, before the node can be.
                depth = max([depths[operand.number] for operand in node.operands], default=0)
                depth += isinstance(node, Reduce) or node.number in self._laid
                if isinstance(node, Reduce):
                    reductions.append(node)
            depths[node.number] = depth
        stages: dict[int, tuple[list[Placed], list[Reduce]]] = {}
        for target in self._targets:
            number = target.node.number
            stages.setdefault(depths[number] - (number in self._laid), ([], []))[0].append(target)
        for reduction in reductions:
            stages.setdefault(depths[reduction.number] - 1, ([], []))[1].append(reduction)
        ready: dict[int, list[int]] = {}
        for number in self._laid:
            if number in depths:
                ready.setdefault(depths[number] - 1, []).append(number)
        for depth in sorted({*stages, *ready}):
            here, along = stages.get(depth, ([], []))
            widths: dict[int, tuple[list[Placed], list[Reduce]]] = {}
            for target in here:
                widths.setdefault(target.node.width, ([], []))[0].append(target)
            for reduction in along:
                widths.setdefault(reduction.operands[0].width, ([], []))[1].append(reduction)
            for width, (stores, ending) in widths.items():
                self._loop(width, stores, ending)
            self._stored.update({number: self._laid[number] for number in ready.get(depth, ())})
        if self._troubles:
            raise TooWide(list(self._troubles.values()))
        return Function(name, tuple(self._entries))

    def _loop(self, width: int, targets: list[Placed], reductions: list[Reduce]) -> None:
        self._loops += 1
        if width == 1:
            for target in targets:
                self._entries.append(_store(self._scalar(target.node), target, False))
            for reduction in reductions:
                self._scalars[reduction.number] = self._scalar(reduction.operands[0])
            return
        lines: list[Entry] = []
        known: dict[tuple[int, int], str] = {}
        made = [self._element(target.node, width, lines, known) for target in targets]
        totals = []
        for reduction in reductions:
            term = self._element(reduction.operands[0], width, lines, known)
            total = self._name("r")
            self._entries.append(Begin(total, reduction.reduction))
            lines.append(Accumulate(total, reduction.reduction, term))
            totals.append((reduction, total))
        lines += [_store(name, target, True) for target, name in zip(targets, made)]
        self._entries.append(Loop(width, tuple(lines)))
        self._scalars.update({reduction.number: total for reduction, total in totals})
        self._stored.update({target.node.number: target.at for target in targets if not target.add})

    # --- Values ---

    def _element(self, root: Node, width: int, lines: list[Entry], known: dict[tuple[int, int], str]) -> str:
        """The name of element j of a node, in a loop over `width` of them."""
        stack = [self._resolved(root, 0, width)]
        while stack:
            node, offset = stack[-1]
            name = (node.number, offset)
            if name in known or node.width == 1:
                if node.width == 1:
                    known[name] = self._scalar(node)
                stack.pop()
                continue
            at = self._at(node.number)
            entry: Entry
            if at is not None:
                entry = Load(self._name("t"), At(at.slot, at.offset + offset), True, node.dtype == "bool")
            elif isinstance(node, Map):
                operands = [self._resolved(operand, offset, width) for operand in node.operands]
                missing = [o for o in operands if (o[0].number, o[1]) not in known]
                if missing:
                    stack += reversed(missing)
                    continue
                if node.primitive.costly and self._costly.setdefault(name, self._loops) != self._loops:
                    self._trouble(node)
                entry = Operation(
                    self._name("t"), node.primitive, tuple([known[o.number, start] for o, start in operands])
                )
            elif isinstance(node, Broadcast):
                known[name] = self._scalar(node.operands[0])
                stack.pop()
                continue
            else:
                known[name] = self._trouble(node)
                stack.pop()
                continue
            lines.append(entry)
            known[name] = entry.name
            stack.pop()
        node, offset = self._resolved(root, 0, width)
        return known[node.number, offset]

    def _resolved(self, node: Node, offset: int, width: int) -> tuple[Node, int]:
        """What a run of a node's numbers is a run of, where the node itself is not made: through slices and joins."""
        while node.width != 1 and self._at(node.number) is None:
            if isinstance(node, Slice):
                offset += node.starts[0]
                node = node.operands[0]
            elif isinstance(node, Join):
                place = bisect.bisect_right(node.offsets, offset) - 1
                part, start = node.operands[place], node.offsets[place]
                if offset + width > start + part.width:
                    break
                node, offset = part, offset - start
            else:
                break
        return node, offset if node.width != 1 else 0

    def _scalar(self, root: Node) -> str:
        """The name of a node that is one number a row."""
        stack = [root]
        while stack:
            node = stack[-1]
            if node.number in self._scalars:
                stack.pop()
                continue
            at = self._at(node.number)
            entry: Entry
            if at is not None:
                entry = Load(self._name("u"), at, False, node.dtype == "bool")
            elif isinstance(node, Const):
                entry = Literal(self._name("u"), node.value)
            elif isinstance(node, Map):
                missing = [operand for operand in node.operands if operand.number not in self._scalars]
                if missing:
                    stack += reversed(missing)
                    continue
                operands = tuple([self._scalars[operand.number] for operand in node.operands])
                entry = Operation(self._name("u"), node.primitive, operands)
            else:
                whole = self._at(node.operands[0].number) if isinstance(node, Slice) else None
                if whole is None or not isinstance(node, Slice):
                    trouble = node.operands[0] if isinstance(node, Slice) else node
                    self._scalars[node.number] = self._trouble(trouble)
                    stack.pop()
                    continue
                entry = Load(
                    self._name("u"), At(whole.slot, whole.offset + node.starts[0]), False, node.dtype == "bool"
                )
            self._entries.append(entry)
            self._scalars[node.number] = entry.name
            stack.pop()
        return self._scalars[root.number]

    def _trouble(self, node: Node) -> str:
        """Note that a node must lie in memory, and go on as if it did, to find the others that must."""
        self._troubles[node.number] = node
        return "?"

    def _at(self, number: int) -> At | None:
        return self._stored.get(number) or self._located(number)

    def _name(self, letter: str) -> str:
        self._made += 1
        return f"{letter}_{self._made}"


def _store(name: str, target: Placed, along: bool) -> Store:
    return Store(name, target.at, along, target.node.dtype == "bool", target.add)


def _flat(target: Placed) -> Iterator[Placed]:
    """A join as stores of its parts, and of zeros between them."""
    stack = [target]
    while stack:
        node, at, add = placed = stack.pop()
        if isinstance(node, Join):
            parts = zip(node.operands, node.offsets)
            stack += reversed([Placed(part, At(at.slot, at.offset + start), add) for part, start in parts])
        else:
            yield placed
