"""What the tape holds: how many nodes and bytes, and which ops hold most. For the moment when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import OutOfMemoryError
from .tape import Node, root_of

LARGEST = 5


class Holder(NamedTuple):
    """What the nodes of one op, label and cell hold together."""

    name: str
    nodes: int
    bytes: int


class Holdings(NamedTuple):
    """What some nodes hold: their number, the bytes of memory that they keep alive, the largest holders first."""

    nodes: int
    bytes: int
    holders: list[Holder]

    def __str__(self) -> str:
        parts = [f"{h.name} {readable(h.bytes)} in {h.nodes} node{'s' * (h.nodes > 1)}" for h in self.holders[:LARGEST]]
        return f"{self.nodes:,} nodes holding {readable(self.bytes)}" + (f": {', '.join(parts)}" if parts else "")


def holdings(nodes: Iterable[Node]) -> Holdings:
    """What nodes hold for backward. Memory that several share (views of one array) counts once, for the oldest."""
    seen: set[int] = set()
    counts: dict[str, list[int]] = {}
    number = 0
    for node in sorted(nodes, key=lambda node: node.order):
        number += 1
        fresh = 0
        for array in _arrays(node.saved):
            root = root_of(array)
            if id(root) not in seen:
                seen.add(id(root))
                fresh += root.nbytes if isinstance(root, np.ndarray) else array.nbytes
        if fresh:
            place = f" of {node.place._replace(step=None)}" if node.place is not None else ""
            entry = counts.setdefault(f"{node.title}{place}", [0, 0])
            entry[0], entry[1] = entry[0] + 1, entry[1] + fresh
    holders = [Holder(name, *entry) for name, entry in counts.items()]
    holders.sort(key=lambda holder: -holder.bytes)
    return Holdings(number, sum(holder.bytes for holder in holders), holders)


def _arrays(saved: Any) -> Iterator[np.ndarray[Any, Any]]:
    for value in saved if isinstance(saved, (tuple, list)) else ():
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _arrays(value)


def out_of_memory(what: str, trouble: MemoryError, roots: Iterable[Node | None]) -> OutOfMemoryError:
    """The error that tells what the graph behind `roots` holds, and what other graphs that are still alive do."""
    own = {node.order: node for root in roots if root is not None for node in root.ancestors()}
    # Asked only now: keeping a list of all nodes would keep them alive.
    others = [node for node in gc.get_objects() if type(node) is Node and node.order not in own]
    own_held, others_held = holdings(own.values()), holdings(node for node in others if node.op is not None)
    hints = [
        "a smaller batch, or fewer time steps before backward",
        "tg.checkpoint(f, *xs), which keeps nothing and computes again",
        "with tg.no_grad(): where no gradient is wanted",
    ]
    if own_held.nodes and "float64" in {str(node.dtype) for node in own.values()}:
        hints.append("float32")
    if others_held.bytes > own_held.bytes:
        hints.insert(0, "loss.item() instead of losses kept in a list: other graphs are still alive")
    held = f"this graph: {own_held}"
    if others_held.nodes:
        held += f"\n  other graphs still alive: {others_held}"
    said = str(trouble).partition("\n")[0] or "no room"
    if isinstance(trouble, OutOfMemoryError):  # from an op that backward ran
        said = said.partition("(")[2].rstrip(")") + f", in {said.partition(':')[0]}"
    return OutOfMemoryError(
        f"{what}: out of memory ({said})",
        expected="room for the result; the tape keeps what backward needs until backward has run",
        got=held,
        hint="; ".join(hints),
    )


def readable(size: float) -> str:
    """A number of bytes as people write it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
