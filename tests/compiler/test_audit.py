"""The audit of a run's table: it is on in every test, and here it is shown what it must find."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from support.audited import audited, inspected, memory_of, run_of

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.compiler.front.guards import Known, Source
from tinygrad_rnn.compiler.runtime import layout as layouts
from tinygrad_rnn.compiler.runtime.executable import Compiled
from tinygrad_rnn.kernels import gemm
from tinygrad_rnn.kernels.runtime import audit
from tinygrad_rnn.kernels.runtime.audit import Memory, MemoryFault
from tinygrad_rnn.kernels.runtime.interpreter import vectors
from tinygrad_rnn.kernels.runtime.table import Address, Gemm, Head, Panels, Slot, template

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


class _Stopped(Exception):
    """Raised before the kernels would run."""


def collected(way, steps=12, rows=3):
    """The audit's view of a GRU's run forward or backward, which does not take place."""
    found = []

    def keep(layout, addresses, arrays, inside):
        found.append(run_of(layout, memory_of(layout, addresses, arrays, inside)))
        if len(found) > (way == "backward"):
            raise _Stopped

    layer = tg.nn.GRU(4, 5, dtype="float64")
    with audited(keep), contextlib.suppress(_Stopped):
        layer(tg.randn(steps, rows, 4, dtype="float64", requires_grad=True))[0].sum().backward()
    return found[-1]


def changed(run, index, change):
    """The run with an entry of its table changed."""
    table = list(run.table)
    table[index] = change(table[index])
    return run._replace(table=table)


def slots_of(run):
    return range(len(Head), run.numbers, len(Slot))


def faults(runs):
    """Of how many runs the audit says that they are wrong."""
    count = 0
    for run in runs:
        try:
            audit.audit(run)
        except MemoryFault:
            count += 1
    return count


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_offsets_that_are_wrong_by_a_row(way):
    run = collected(way)
    audit.audit(run)
    for by in (1, -1):
        wrong = [
            changed(run, at, lambda entry, at=at, by=by: entry + by * run.table[at + Slot.ROW])
            for at in slots_of(run)
            if run.table[at + Slot.ROW] and run.table[at + Slot.STEP]
        ]
        # Of a state, which has one step more, a part of the rows of a step may be moved: that is wrong, but inside.
        inside = sum(run.table[at].base[0] == "state" for at in slots_of(run))
        assert len(wrong) > 3 and faults(wrong) >= len(wrong) - inside - (way == "backward") * 2


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_strides_that_are_wrong(way):
    run = collected(way)
    for entry in (Slot.STEP, Slot.ROW):
        wrong = [
            changed(run, at + entry, lambda stride, sign=sign: stride + sign * 8)
            for at in slots_of(run)
            for sign in (1, -1)
            if run.table[at + entry] * sign > 0 and run.table[at].base[0] != "state"  # which has a step more
        ]
        assert len(wrong) > 3 and faults(wrong) == len(wrong)
    flipped = [
        changed(run, at + Slot.STEP, lambda stride: -stride)
        for at in slots_of(run)
        if run.table[at + Slot.STEP] and run.table[at].base[0] != "state"
    ]
    assert faults(flipped) == len(flipped)


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_rooms_that_are_too_small(way):
    run = collected(way)
    at = [run.table[at] for at in slots_of(run)]
    wrong = []
    for i, (base, offset, size) in enumerate(run.rooms):
        if any(base == address.base and offset <= address.offset < offset + size for address in at):
            wrong.append(run._replace(rooms=[*run.rooms[:i], (base, offset, size - 8), *run.rooms[i + 1 :]]))
    assert len(wrong) > 1 and faults(wrong) == len(wrong)


def test_a_shard_that_is_too_small():
    run = collected("backward")
    with pytest.raises(MemoryFault, match="to gather sides"):
        audit.audit(changed(run, Head.SHARD, lambda size: size // 2))
    with pytest.raises(MemoryFault, match="shards"):
        audit.audit(run._replace(shards=run.shards + 1))


def test_weight_gradients_and_panels_that_are_too_large():
    run = collected("backward")
    first = run.table[Head.GEMMS]
    with pytest.raises(MemoryFault, match="sides"):
        audit.audit(changed(run, first + len(Gemm) + 1, lambda columns: columns + 100))
    first = run.table[Head.PANELS]
    for entry in (Panels.INNER, Panels.WIDTH, Panels.TOTAL_INNER, Panels.LEFT):
        with pytest.raises(MemoryFault, match="panels"):
            audit.audit(changed(run, first + entry, lambda size: size + 1000))


def test_memory_that_is_written_and_is_somebody_elses():
    run = collected("forward")
    memory = dict(run.memory)
    memory["x", 0] = memory["x", 0]._replace(address=memory["state", 0].address + 8)
    with pytest.raises(MemoryFault, match="same memory"):
        audit.audit(run._replace(memory=memory))


def test_two_gradients_in_one_place():
    run = collected("backward")
    targets = sorted({entry.base for entry in run.table if isinstance(entry, Address) and entry.base[0] == "gemm"})
    memory = dict(run.memory)
    for target in targets:
        memory[target] = memory[targets[0]]._replace(low=-10_000, high=10_000)
    with pytest.raises(MemoryFault, match=r"weight gradient.* meet"):
        audit.audit(run._replace(memory=memory))


def test_a_slot_that_llvm_takes_for_two():
    text = "def f(table, step, within, first, last, part):\n    q_0 = origin(table, {}, step, within, part)\n"
    text = text.format(len(Head)) + "    store(load(ZERO, q_0, 0, 0, 2), q_0, 0, 1, 2)\n"
    with pytest.raises(MemoryFault, match="one slot is two"):
        audit.accesses(text, "f", lambda index: 0, 0)


def test_sequences_of_any_size_are_addressed_right():
    """4 TB of inputs, backwards, of which nothing is there: the table alone, and what the kernels would make of it."""
    steps, width = 2**28, 2**10
    known = Known()

    def keep(layout, addresses, arrays, inside):
        raise _Stopped

    def step(h, x):
        h = tg.tanh(h + x)
        return h, h

    source = Source((step,), known)
    with audited(keep), contextlib.suppress(_Stopped):
        x = tg.zeros(8, 4, width, requires_grad=True)
        tg.compiler.scan.unrolled(step, tg.zeros(4, width), x, layouts_place(), engine="fused", source=source)
    (compiled,) = known.programs
    assert isinstance(compiled, Compiled)
    row = width * 4
    for forwards in (True, False):
        strides = ((-4 * row, row),), (), ()
        layout = compiled.layout("forward", steps, False, forwards, True, strides)
        all_ = steps * 4 * row
        memory = {
            ("x", 0): Memory(2**44, 4 * row - all_, 4 * row),
            ("state", 0): Memory(2**45, 0, all_ + 4 * row),
            layouts.WORK: Memory(2**46, 0, layout.sizes[layouts.WORK]),
        }
        if layouts.SAVED in layout.sizes:
            memory[layouts.SAVED] = Memory(2**46 + 2**45, 0, layout.sizes[layouts.SAVED])
        audit.audit(run_of(layout, memory))
        with pytest.raises(MemoryFault):
            audit.audit(run_of(layout, {**memory, ("x", 0): Memory(2**44, 4 * row - all_ + 4, 4 * row)}))
        made, bases = template(layout.table)
        addresses = np.array([memory[base].address for base in bases])
        table = np.zeros(len(layout.table), np.int64)
        layout._patch(made.buffer_info()[0], addresses.ctypes.data, table.ctypes.data)
        expected = [e.offset + memory[e.base].address if isinstance(e, Address) else e for e in layout.table]
        assert table.tolist() == expected
        assert min(table[at] for at in slots_of(run_of(layout, memory)) if table[at]) > 2**43


def layouts_place():
    return tg.autograd.tape.Place("step", 0, False)


def test_every_run_is_audited():
    assert layouts.inspect is inspected


@pytest.mark.parametrize("size", [(1, 1, 1), (9, 1, 3), (13, 300, 47), (130, 31, 1), (3, 600, 16)], ids=str)
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_single_products(size, shards):
    rows, inner, columns = size
    a, b, made = np.ones((rows, inner)), np.ones((inner, columns)), np.ones((rows, columns))
    for left, right in ((a, b), (a, np.asfortranarray(b)), (np.asfortranarray(a), b), (a[::-1], b[::-1])):
        one = gemm.sealed(rows, inner, columns, 8, left.strides, right.strides, shards)
        memory = {("work", 0): Memory(2**40, 0, one.room)}
        for name, array in (("a", left), ("b", right), ("made", made)):
            low, high = np.lib.array_utils.byte_bounds(array)
            memory[name, 0] = Memory(array.ctypes.data, low - array.ctypes.data, high - array.ctypes.data)
        numbers = len(Head) + 2 * len(Slot)
        run = audit.Run(one.table, memory, (), 8, vectors()[0] // 8, shards, "", {}, numbers)
        audit.audit(run)
        for at in slots_of(run):
            if rows > 1 and inner > 1:
                assert faults([changed(run, at + Slot.ROW, lambda row: 2 * row)])
