"""Where in the picture each operation of a recurrent net stands: its layer from below, and its step.

The tape says where an op ran: cell, layer, direction, step. That need not be one place in a picture: an LSTM and a GRU
after it are both a layer 0, and a layer may be called twice. All ops of one step share one `Place` object, so the steps
of a call are known from those of another. A call that goes on from the state of an earlier one, with the same weights,
goes on in time; any other is a layer of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..autograd.tape import Node, Place


class Spot(NamedTuple):
    """Where an operation stands in the picture; layers and steps count from 0."""

    cell: str
    layer: int | None
    reverse: bool
    step: int | None
    derivative: int

    @property
    def lane(self) -> str:
        """Layer, direction and pass, as part of an id."""
        return f"{self.layer} {self.reverse}" + (f" {self.derivative}" if self.derivative else "")


#: A cell, its layer and direction.
_Key = tuple[str, int | None, bool]


class _Call:
    """One run over time."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.steps: list[int] = []
        self.weights: set[int] = set()
        self.given: list[Node] = []  # what its first step is given from outside
        self.chain = self
        self.offset = 0
        self.level: int | None = None


def spots(history: Sequence[Node]) -> dict[int, Spot | None]:
    """For each node by id where it stands; None for what is in no recurrent net, and in no gradient."""
    calls = _calls(history)
    call_of = {place: call for call, places in calls for place in places}
    _chain([call for call, _ in calls], call_of)
    levels: dict[tuple[str, int | None, int], int | None] = {}
    count: dict[_Key, int] = {}
    for call, _ in calls:
        if call.chain is call:
            number = count[call.key] = count.get(call.key, -1) + 1
            cell, layer, _ = call.key
            if (cell, layer, number) not in levels:
                taken = [level for level in levels.values() if level is not None]
                free = layer if layer not in taken or layer is None else max(taken) + 1
                levels[cell, layer, number] = free
            call.level = levels[cell, layer, number]
    by_value: dict[Place, _Call] = {}
    for call, places in calls:
        for node_place in places.values():
            by_value.setdefault(node_place, call)
    found: dict[int, Spot | None] = {}
    for node in history:
        place = node.place
        if place is None:
            found[id(node)] = None
            continue
        cell, layer, reverse, step, _ = place
        known = call_of.get(id(place.root)) or by_value.get(place.root)
        if known is not None and step is not None:
            layer, step = known.chain.level, step + known.offset
        found[id(node)] = Spot(cell, layer, reverse, step, place.derivative)
    return found


def _calls(history: Iterable[Node]) -> list[tuple[_Call, dict[int, Place]]]:
    """The runs over time in order, each with the places of its steps."""
    found: list[tuple[_Call, dict[int, Place]]] = []
    open_: dict[_Key, tuple[_Call, dict[int, Place]]] = {}
    for node in history:
        place = node.place
        if node.op is None or place is None or place.step is None or place.of is not None:
            continue
        key = place.cell, place.layer, place.reverse
        known = open_.get(key)
        if known is None or id(place) not in known[1]:
            last = known[0].steps[-1] if known is not None else None
            goes_on = last is not None and (place.step < last if place.reverse else place.step > last)
            if known is None or not goes_on:
                known = open_[key] = (_Call(key), {})
                found.append(known)
            known[0].steps.append(place.step)
            known[1][id(place)] = place
        call, places = known
        for parent in node.parents:
            if parent is not None and parent.owner is not None and parent.op is None:
                call.weights.add(id(parent))
            elif parent is not None and len(places) == 1 and (parent.place is None or id(parent.place) not in places):
                call.given.append(parent)
    return found


def _chain(calls: list[_Call], call_of: dict[int, _Call]) -> None:
    """Find for each call the one it goes on from."""
    for call in calls:
        seen: set[int] = set()
        stack = list(call.given)
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            before = call_of.get(id(node.place))
            if before is None:
                if node.place is None or node.place.step is None:
                    stack += [parent for parent in node.parents if parent is not None]
            elif before is not call and before.key == call.key and before.weights == call.weights:
                if not call.key[2]:
                    call.chain, call.offset = before.chain, before.offset + before.steps[-1] + 1 - call.steps[0]
                break
