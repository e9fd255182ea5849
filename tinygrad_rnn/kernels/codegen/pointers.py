"""Memory by address, for kernels that walk over rows of many arrays; kernel files import it, nothing else does.

An address is an integer. Two slots of different `scope` never overlap: LLVM is told so, and turns a loop over long
chains of loads and stores into vector code without guarding each pair. Those that may be one have one scope.

Importing this module imports Numba, so it is imported only where a kernel is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..runtime.table import Slot

_WORD = ir.IntType(64)


def _pointer(builder: Any, address: Any, kind: Any, index: Any = None) -> Any:
    base = builder.inttoptr(address, kind.as_pointer())
    return base if index is None else builder.gep(base, [index])


def _alone(module: Any, access: Any, scope: int, scopes: int) -> None:
    """Note on a load or store that it touches memory of this scope and of none of the others."""
    domain = module.add_metadata(["tinygrad_rnn"])

    def lists(numbers: list[int]) -> Any:
        return module.add_metadata([module.add_metadata([f"scope {n}", domain]) for n in numbers])

    access.set_metadata("alias.scope", lists([scope]))
    others = [n for n in range(scopes) if n != scope]
    if others:
        access.set_metadata("noalias", lists(others))


def _element(builder: Any, context: Any, kind: Any, args: Any, make: Callable[[Any], Any]) -> Any:
    """What `make` makes of a pointer: a load or a store; `args` are address, index, and both numbers of scope."""
    access = make(_pointer(builder, args[0], context.get_data_type(kind), args[1]))
    access.align = kind.bitwidth // 8
    _alone(builder.module, access, args[2].literal_value, args[3].literal_value)
    return access


@intrinsic(prefer_literal=True)
def load(typingctx: Any, kind: Any, address: Any, index: Any, scope: Any, scopes: Any) -> Any:
    """The element at `index` of the array at `address`, of the type of `kind`; `scope` of so many `scopes`."""
    if not isinstance(scope, types.IntegerLiteral) or not isinstance(scopes, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = _element(builder, context, kind, (*args[1:3], scope, scopes), builder.load)
        return context.data_model_manager[kind].from_data(builder, found)

    return kind(kind, types.intp, types.intp, scope, scopes), codegen


@intrinsic(prefer_literal=True)
def store(typingctx: Any, value: Any, address: Any, index: Any, scope: Any, scopes: Any) -> Any:
    """Put `value` at `index` of the array at `address`."""
    if not isinstance(scope, types.IntegerLiteral) or not isinstance(scopes, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.data_model_manager[value].as_data(builder, args[0])
        _element(builder, context, value, (*args[1:3], scope, scopes), lambda pointer: builder.store(data, pointer))
        return context.get_dummy_value()

    return types.void(value, types.intp, types.intp, scope, scopes), codegen


@intrinsic
def _pointer_to(typingctx: Any, kind: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _pointer(builder, args[1], context.get_data_type(kind))

    return types.CPointer(kind)(kind, types.intp), codegen  # type: ignore[no-untyped-call]  # Numba has no types


@numba.njit
def array_at(kind: Any, address: Any, size: Any) -> Any:
    """The `size` elements at an address, of the type of `kind`, as an array."""
    return numba.carray(_pointer_to(kind, address), (size,))  # type: ignore[attr-defined, call-arg]  # nor here


@intrinsic
def summed(typingctx: Any, total: Any, term: Any) -> Any:
    """total + term, in an order of LLVM's choice: a sum over a row then needs no serial chain of additions."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1], flags=("reassoc", "contract", "nsz"))

    return total(total, total), codegen


@intrinsic
def number(typingctx: Any, table: Any, index: Any) -> Any:
    """Entry `index` of a table of integers at this address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(builder, args[0], _WORD, args[1]))

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def origin(typingctx: Any, table: Any, index: Any, step: Any, within: Any, shard: Any) -> Any:
    """Where a slot begins at a step: its address, and a stride for each of these.

    One call, not ten operators: Numba takes half a millisecond for the type of each.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table, index, *factors = args
        entries = _pointer(builder, table, _WORD, index)
        total = builder.load(entries)
        for i, factor in zip((Slot.STEP, Slot.WITHIN, Slot.SHARD), factors):
            stride = builder.load(builder.gep(entries, [_WORD(int(i))]))
            total = builder.add(total, builder.mul(factor, stride))
        return total

    return types.intp(types.intp, types.intp, types.intp, types.intp, types.intp), codegen


@intrinsic
def write(typingctx: Any, table: Any, index: Any, value: Any) -> Any:
    """Set entry `index` of a table of integers at this address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(builder, args[0], _WORD, args[1]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@intrinsic
def read_shared(typingctx: Any, address: Any) -> Any:
    """An integer that another thread may be writing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0], _WORD), "seq_cst", 8)

    return types.intp(types.intp), codegen


@intrinsic
def write_shared(typingctx: Any, address: Any, value: Any) -> Any:
    """Write an integer that another thread may be reading; what was written before is seen before it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0], _WORD), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


@intrinsic
def add_shared(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to an integer that other threads may be changing; returns what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, args[0], _WORD), args[1], "seq_cst")

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def replace_shared(typingctx: Any, address: Any, old: Any, new: Any) -> Any:
    """Write `new` where `old` still is; returns whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        made = builder.cmpxchg(_pointer(builder, args[0], _WORD), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(made, 1)

    return types.boolean(types.intp, types.intp, types.intp), codegen


@intrinsic
def call(typingctx: Any, function: Any, *numbers: Any) -> Any:
    """Call the compiled function at an address with integers; so it is compiled once, not again into each caller."""
    given = types.Tuple(numbers)  # type: ignore[no-untyped-call]  # Numba has no types, here and below

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, packed = args
        several = cgutils.unpack_tuple(builder, packed, len(given))  # type: ignore[no-untyped-call]
        values = [context.cast(builder, value, kind, types.intp) for value, kind in zip(several, given)]
        kind = ir.FunctionType(ir.VoidType(), [_WORD] * len(values))
        builder.call(builder.inttoptr(function, kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.intp, given), codegen
