"""The inner loop of a matrix product, as vector code; kernel files import it, nothing else does.

A tile of the result stays in vector registers while the loop runs over the inner axis: at each step a few vectors of b
are loaded, and each number of a is multiplied with all of them. LLVM's own vectoriser does not find this form; any
width of vectors is legal in its language, and becomes what the machine has.

Importing this module imports Numba, so it is imported only where a kernel is compiled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WORD = ir.IntType(64)
_HALF = ir.IntType(32)
_BYTE = ir.IntType(8)
_KINDS = {types.float32: (ir.FloatType(), 4), types.float64: (ir.DoubleType(), 8)}

#: How many steps of the inner axis ahead b is asked for.
AHEAD = 8

#: Vectors of a row of b that lie side by side, and how many at most a single row of a is multiplied with at once: each
#: sum is a chain of additions, and a few of them do not keep the machine busy.
PANEL, WIDEST = 3, 9


class _Vectors:
    """LLVM's operations on vectors of one kind, in one function."""

    def __init__(self, builder: Any, scalar: Any, size: int, lanes: int) -> None:
        self.builder, self.size, self.scalar = builder, size, scalar
        self.lanes, self.kind = lanes, ir.VectorType(scalar, lanes)
        suffix, bits = f"v{lanes}f{size * 8}", ir.VectorType(ir.IntType(1), lanes)
        kind, pointer = self.kind, self.kind.as_pointer()
        self.fused = self._known(f"llvm.fma.{suffix}", kind, [kind, kind, kind])
        self.masked_load = self._known(f"llvm.masked.load.{suffix}.p0", kind, [pointer, _HALF, bits, kind])
        self.masked_store = self._known(f"llvm.masked.store.{suffix}.p0", ir.VoidType(), [kind, pointer, _HALF, bits])
        self.ahead = self._known("llvm.prefetch.p0", ir.VoidType(), [_BYTE.as_pointer(), _HALF, _HALF, _HALF])
        self.zeros = ir.Constant(kind, [0.0] * lanes)

    def _known(self, name: str, result: Any, arguments: list[Any]) -> Any:
        kind = ir.FunctionType(result, arguments)
        # Numba has no types.
        return cgutils.get_or_insert_function(self.builder.module, kind, name)  # type: ignore[no-untyped-call]

    def at(self, address: Any, offset: int, kind: Any = None) -> Any:
        moved = self.builder.add(address, _WORD(offset)) if offset else address
        return self.builder.inttoptr(moved, (kind or self.kind).as_pointer())

    def spread(self, value: Any) -> Any:
        """A vector with `value` in each lane."""
        nothing = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(nothing, value, _HALF(0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_HALF, self.lanes), None))

    def shuffle(self, one: Any, two: Any, places: list[int]) -> Any:
        """A vector of elements of two, which are numbered through."""
        return self.builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(_HALF, self.lanes), places))

    def first(self, count: Any) -> Any:
        """A mask of the first `count` lanes."""
        index = ir.Constant(ir.VectorType(_WORD, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", index, self.spread(count))

    def load(self, address: Any, offset: int, mask: Any = None) -> Any:
        pointer = self.at(address, offset)
        if mask is not None:
            return self.builder.call(self.masked_load, [pointer, _HALF(self.size), mask, self.zeros])
        found = self.builder.load(pointer)
        found.align = self.size
        return found

    def store(self, value: Any, address: Any, offset: int, mask: Any = None) -> None:
        pointer = self.at(address, offset)
        if mask is not None:
            self.builder.call(self.masked_store, [value, pointer, _HALF(self.size), mask])
        else:
            self.builder.store(value, pointer).align = self.size

    def prefetch(self, address: Any, offset: int) -> None:
        self.builder.call(self.ahead, [self.at(address, offset, _BYTE), _HALF(0), _HALF(3), _HALF(1)])


def _tile(builder: Any, v: _Vectors, count: int, width: int, args: Any) -> None:
    """The code for `count` rows, `width` vectors wide."""
    scalar, size = v.scalar, v.size
    a, a_row, a_step, b, inner, c, c_row, last, accumulate = args
    step = v.lanes * size
    mask = v.first(last)
    masks = [None] * (width - 1) + [mask]
    of_a = [builder.add(a, builder.mul(a_row, _WORD(i))) for i in range(count)]
    of_c = [builder.add(c, builder.mul(c_row, _WORD(i))) for i in range(count)]
    panels = [range(j, min(j + PANEL, width)) for j in range(0, width, PANEL)]
    strides = [_WORD(1), a_step, *[_WORD(len(panel) * step) for panel in panels]]
    begins = [_WORD(0), _WORD(0), *[builder.add(b, builder.mul(inner, _WORD(panel.start * step))) for panel in panels]]
    start, held = builder.block, builder.append_basic_block("tile_held")
    loop, done = builder.append_basic_block("tile"), builder.append_basic_block("tile_done")
    builder.cbranch(accumulate, held, loop)

    builder.position_at_end(held)
    before = [[v.load(row, j * step, masks[j]) for j in range(width)] for row in of_c]
    if count > 1:  # what the tile below will be added onto, which may be far away by now
        below = builder.mul(c_row, _WORD(count))
        for row in of_c:
            for line in range(0, width * step, 64):
                v.prefetch(builder.add(row, below), line)
    builder.branch(loop)

    builder.position_at_end(loop)
    places = [builder.phi(_WORD) for _ in strides]
    along_a, *along_b = places[1:]
    sums = [[builder.phi(v.kind) for _ in range(width)] for _ in range(count)]
    factors = [v.load(place, i * step) for panel, place in zip(panels, along_b) for i in range(len(panel))]
    for line in range(0, width * step if count > 1 else 0, 64):  # one row is done before what is asked for is there
        v.prefetch(along_b[0], AHEAD * width * step + line)
    made = []
    for i in range(count):
        one = builder.load(v.at(builder.add(of_a[i], along_a), 0, scalar))
        one.align = size
        many = v.spread(one)
        made.append([builder.call(v.fused, [many, factors[j], sums[i][j]]) for j in range(width)])
    for i in range(count):
        for j in range(width):
            sums[i][j].add_incoming(v.zeros, start)
            sums[i][j].add_incoming(before[i][j], held)
            sums[i][j].add_incoming(made[i][j], loop)
    following = [builder.add(place, stride) for place, stride in zip(places, strides)]
    for place, begin, after in zip(places, begins, following):
        place.add_incoming(begin, start)
        place.add_incoming(begin, held)
        place.add_incoming(after, loop)
    builder.cbranch(builder.icmp_signed("<", following[0], inner), loop, done)

    builder.position_at_end(done)
    for i in range(count):
        for j in range(width):
            v.store(made[i][j], of_c[i], j * step, masks[j])


@intrinsic(prefer_literal=True)
def multiply_tile(
    typingctx: Any, kind: Any, most: Any, lanes: Any, rows: Any, vectors: Any,
    a: Any, a_row: Any, a_step: Any, b: Any, inner: Any, c: Any, c_row: Any, last: Any, accumulate: Any,
) -> Any:  # fmt: skip
    """c (rows, n) = a (rows, inner) @ b (inner, n), or added onto c; n = (vectors - 1) lanes + last.

    `rows` is `most`, 4 or 1, and `vectors` 1 to PANEL, or of one row to WIDEST: each pair has code of its own.
    Addresses and strides are in bytes; `inner` is at least 1. Of b, each PANEL vectors lie row after row, and behind
    them the next; the last vector is filled up with anything.
    """
    if not isinstance(most, types.IntegerLiteral) or not isinstance(lanes, types.IntegerLiteral):
        return None
    scalar, size = _KINDS[kind]
    signature = types.void(kind, most, lanes, *[types.intp] * 10, types.boolean)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = _Vectors(builder, scalar, size, lanes.literal_value)
        rows, vectors, *given = args[3:]
        after = builder.append_basic_block("tile_after")
        choice = builder.switch(builder.add(builder.mul(rows, _WORD(16)), vectors), after)
        for count in {most.literal_value, 4, 1}:
            for width in range(1, (WIDEST if count == 1 else PANEL) + 1):
                block = builder.append_basic_block(f"tile_{count}_{width}")
                choice.add_case(_WORD(count * 16 + width), block)
                builder.position_at_end(block)
                _tile(builder, v, count, width, given)
                builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def move(typingctx: Any, kind: Any, lanes: Any, source: Any, target: Any) -> Any:
    """Copy one vector from one address to another."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    scalar, size = _KINDS[kind]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = _Vectors(builder, scalar, size, lanes.literal_value)
        v.store(v.load(args[2], 0), args[3], 0)
        return context.get_dummy_value()

    return types.void(kind, lanes, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def turn_tile(
    typingctx: Any, kind: Any, lanes: Any,
    source: Any, source_row: Any, rows: Any, columns: Any, target: Any, target_row: Any,
) -> Any:  # fmt: skip
    """target (columns, rows), in whole vectors = the transpose of source (rows, columns); both at most `lanes`.

    Addresses and strides are in bytes. In every row of the target what is behind `rows` becomes anything.
    """
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    scalar, size = _KINDS[kind]
    signature = types.void(kind, lanes, *[types.intp] * 6)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_row, rows, columns, target, target_row = args[2:]
        v = _Vectors(builder, scalar, size, lanes.literal_value)
        mask, last = v.first(columns), builder.sub(rows, _WORD(1))
        block = []
        for i in range(v.lanes):
            there = builder.icmp_signed("<", _WORD(i), rows)
            row = builder.select(there, _WORD(i), last)  # where there is none, the last again
            block.append(v.load(builder.add(source, builder.mul(row, source_row)), 0, mask))
        step = 1
        while step < v.lanes:  # of each pair of rows, trade what stands `step` to the right for what stands below
            upper = [j if not j & step else v.lanes + j - step for j in range(v.lanes)]
            lower = [j + step if not j & step else v.lanes + j for j in range(v.lanes)]
            pairs = [(i, i + step) for i in range(v.lanes) if not i & step]
            traded = {}
            for i, k in pairs:
                traded[i], traded[k] = v.shuffle(block[i], block[k], upper), v.shuffle(block[i], block[k], lower)
            block = [traded[i] for i in range(v.lanes)]
            step *= 2
        for i in range(v.lanes):
            with builder.if_then(builder.icmp_signed("<", _WORD(i), columns)):
                v.store(block[i], builder.add(target, builder.mul(_WORD(i), target_row)), 0)
        return context.get_dummy_value()

    return signature, codegen
