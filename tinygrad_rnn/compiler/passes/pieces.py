"""A row function that would be very long, as several, so that the time to compile grows no faster than its length.

Measured, in seconds, forward and back: 20 substeps of a pendulum, which are 820 operations on single numbers, 46 as one
function and 30 in pieces; 1,000 and 5,000 operations along the row of an oscillator, 13 and 68 as one, 18 and 78.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...ir.loops import At, Known, Located, Placed
from ...ir.nodes import Broadcast, Const, Join, Map, Reduce, Slice, reachable

#: Nodes from which on a function is cut: no usual cell has so many between two products.
LONG = 400


def pieces(targets: Sequence[Placed], located: Located, scratch: Callable[[int], At]) -> Iterator[list[Placed]]:
    """The targets, split so that none needs more than `LONG` nodes to be made; what one needs of another is stored too.

    Args:
        located: where a node lies before all of it.
        scratch: new memory for a row of this width.
    """
    known = Known(located)
    made = [node for node in reachable([t.node for t in targets], known) if node.number not in known]
    if len(made) <= LONG:
        yield list(targets)
        return
    piece = {node.number: i // LONG for i, node in enumerate(made)}
    parts: list[list[Placed]] = [[] for _ in range(piece[made[-1].number] + 1)]
    lies: set[int] = set()
    needed: dict[int, int] = {}  # the last piece in which each is needed, also through slices and joins of it
    for target in targets:
        number = target.node.number
        parts[piece.get(number, 0)].append(target)
        needed[number] = piece.get(number, 0)
        if not target.add:
            lies.add(number)
    for node in reversed(made):
        own = piece[node.number]
        last = max(needed.get(node.number, own), own)
        if isinstance(node, (Const, Slice, Join, Broadcast)):
            own = last  # these are not stored: what they are made of is read where they are wanted
        elif last > own and node.number not in lies:
            assert isinstance(node, (Map, Reduce))
            parts[own].append(Placed(node, scratch(node.width)))
        for operand in node.operands:
            needed[operand.number] = max(needed.get(operand.number, 0), own)
    yield from filter(None, parts)
