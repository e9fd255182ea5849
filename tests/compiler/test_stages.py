"""Faults planted in each stage of the compiler, and named by the stage."""

from __future__ import annotations

import dataclasses

import generator as drawn
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some
from test_cells import CELLS
from test_fused_generated import Case, cells, step_of

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.compiler import program as programs
from tinygrad_rnn.compiler.front import guards, reads
from tinygrad_rnn.compiler.passes import merge as merging
from tinygrad_rnn.compiler.passes import schedule as schedules
from tinygrad_rnn.compiler.passes.levels import Level
from tinygrad_rnn.compiler.runtime import executable
from tinygrad_rnn.compiler.runtime.layout import Layout
from tinygrad_rnn.compiler.stages import blame, examine, examined
from tinygrad_rnn.errors import FusionError, GradcheckError
from tinygrad_rnn.ir.builder import Builder
from tinygrad_rnn.ir.program import Wanted
from tinygrad_rnn.kernels import scalar
from tinygrad_rnn.ops.reduce import kth

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")

LENGTHS = (9, 0, 4, 7)


def tensor(seed, *shape, dtype="float64"):
    numbers = 0.5 * np.random.default_rng(seed).standard_normal(shape)
    return tg.tensor(numbers.astype(dtype), requires_grad=True)


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    """What is planted must neither be met by what was made before, nor stay behind."""
    monkeypatch.setattr(guards, "_steps", {})


# --- Nothing wrong ---


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CELLS)
def test_nothing_is_wrong_with_a_cell(name, dtype):
    layer = tg.nn.Recurrent(CELLS[name](3, 4, dtype=dtype))
    for lengths in (None, LENGTHS):
        found = examined(layer, tensor(1, 9, 4, 3, dtype=dtype), None, lengths)
        assert found.count == 1 and not found.faults, found.faults


def test_nothing_is_wrong_with_random_numbers():
    cell = tg.nn.Zoneout(tg.nn.VariationalDropout(tg.nn.LSTMCell(3, 4, dtype="float64"), 0.3, 0.3), 0.3)
    found = examined(tg.nn.Recurrent(cell, reverse=True), tensor(1, 9, 4, 3), None, LENGTHS)
    assert found.count == 1 and not found.faults, found.faults


def mixed():
    """Products before, in and behind the loop, reductions, joins, a detached state, and an output that is a state."""
    w, u, v, b = tensor(0, 3, 5), tensor(1, 5, 5), tensor(2, 8, 4), tensor(3, 5)

    def step(carry, x):
        h, c = carry
        gate = tg.sigmoid(x @ w + h @ u + b)
        c = tg.concat([tg.tanh(tg.concat([x, h], -1) @ v) * c[:, :4], c[:, 4:] + gate.sum(-1, keepdims=True)], -1)
        new = gate * h + (1.0 - gate) * tg.tanh(c.detach() @ u)
        return (new, c), (new, (c - c.max(-1, keepdims=True)) * 0.5)

    return step, (tensor(4, 4, 5), tensor(5, 4, 5)), tensor(6, 9, 4, 3)


def looked_up():
    """Rows looked up in a table of the step's, and the second largest of a row."""
    table, w = tensor(0, 7, 4).detach(), tensor(1, 4, 4)

    def step(h, x):
        number, other = x
        h = tg.tanh(tg.embedding(table, number) + h @ w)
        return h, tg.where(h >= kth(h, 2), h, 0.0) * other

    numbers = tg.tensor(np.random.default_rng(0).integers(0, 7, (9, 4)))
    return step, tensor(2, 4, 4), (numbers, tensor(3, 9, 4, 4))


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"checkpoint": "sqrt"}], ids=str)
@pytest.mark.parametrize("make", [mixed, looked_up])
def test_nothing_is_wrong_with_a_scan(make, options):
    assert examine(*make(), **options) == ""


@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_is_wrong_with_rows_of_different_lengths(reverse):
    assert examine(*mixed(), reverse=reverse, lengths=LENGTHS) == ""


def test_without_gradients_there_are_fewer_stages():
    with tg.no_grad():
        assert examine(*mixed()) == ""


@hypothesis_settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cells(), some.integers(1, 9), some.integers(1, 4), some.booleans(), some.integers(0, 2**32 - 1))
def test_nothing_is_wrong_with_the_layout_of_any_cell(cell, steps, rows, reverse, seed):
    case = Case(cell, steps, rows, reverse, seed, 0.5)
    tensors = [tg.tensor(a, requires_grad=True) for a in case.arrays]
    count = len(case.names)
    step = step_of(case.cell, dict(zip(case.names, tensors)), case.gain)
    assert examine(step, tuple(tensors[count:-1]), tensors[-1], reverse=reverse, last="layout") == ""


def test_nothing_is_wrong_with_the_layout_of_drawn_programs():
    count = 0
    for seed in range(30):
        found = drawn.looked_into(drawn.Case(seed), "fused", "layout")
        assert not found.faults, f"program {seed}: {found.faults[0]}"
        count += found.count
    assert count > 30


def test_what_is_left_to_the_eager_engine_is_said():
    def step(h, x):
        return tg.cumsum(h, 1) * 0.1 + x, h

    with pytest.raises(FusionError, match="cumsum"):
        examine(step, tensor(0, 4, 3), tensor(1, 9, 4, 3))
    found = examined(lambda: tg.scan(step, tensor(0, 4, 3), tensor(1, 9, 4, 3)))
    assert (found.count, found.faults) == (0, [])


# --- Faults, each in one stage ---


def wrong_primitive(patch):
    """lower"""
    made = Builder.map
    swapped = {scalar.tanh: scalar.sin}
    patch.setattr(Builder, "map", lambda self, primitive, *o: made(self, swapped.get(primitive, primitive), *o))


def wrong_offset(patch):
    """lower"""
    made = Builder.slice

    def slice_(self, node, starts, shape):
        if len(starts) == 1 and starts[0] > 0 and starts[0] + shape[0] == node.shape[0]:
            starts = (starts[0] - 1,)
        return made(self, node, starts, shape)

    patch.setattr(Builder, "slice", slice_)


def wrong_sign(patch):
    """differentiate"""
    right = programs.differentiate

    def differentiate(low, *rest):
        program, gradient = right(low, *rest)
        back = program.backward
        first = low.step.map(scalar.negative, back.wanted[0].node)
        wanted = (back.wanted[0]._replace(node=first), *back.wanted[1:])
        return dataclasses.replace(program, backward=dataclasses.replace(back, wanted=wanted)), gradient

    patch.setattr(programs, "differentiate", differentiate)


def wrong_side(patch):
    """differentiate"""
    right = programs.differentiate

    def differentiate(*arguments):
        program, gradient = right(*arguments)
        back, (first, *others) = program.backward, program.backward.gemms
        other = next(g for g in others if g.left is not None and g.left.width == first.left.width)
        back = dataclasses.replace(back, gemms=(first._replace(left=other.left), *others))
        return dataclasses.replace(program, backward=back), gradient

    patch.setattr(programs, "differentiate", differentiate)


def saved_from(patch, change):
    right = programs.rematerialise

    def rematerialise(program, made):
        program = right(program, made)
        wanted = tuple(change(program.forward.wanted))
        return dataclasses.replace(program, forward=dataclasses.replace(program.forward, wanted=wanted))

    patch.setattr(programs, "rematerialise", rematerialise)


def not_saved(patch):
    """rematerialise"""
    saved_from(patch, lambda wanted: [one for one in wanted if one.key != ("saved", 0)])


def saved_from_the_wrong_node(patch):
    """rematerialise"""

    def change(wanted):
        kept = [one for one in wanted if one.key[0] == "saved"]
        first, other = next((a, b) for a in kept for b in kept if a is not b and a.node.shape == b.node.shape)
        return [Wanted(other.node, one.key) if one is first else one for one in wanted]

    saved_from(patch, change)


def dropped_term(patch):
    """merge"""
    right = merging._one_below_another

    def below(builder, terms, several, new):
        """The last product of the first group is in no group any more, and in no sum."""
        lost = several[0][-1].number
        several = [[product for product in group if product.number != lost] for group in several]
        return right(builder, [term for term in terms if term.number != lost], several, new)

    patch.setattr(merging, "_one_below_another", below)


def wrong_columns(patch):
    """merge"""
    right = merging._SideBySide.part

    def part(self, product, new):
        made = right(self, product, new)
        last = max(self.lefts.values())
        return self.builder.slice(self.made, (last,), product.shape) if self.lefts[product.number] == 0 else made

    patch.setattr(merging._SideBySide, "part", part)


def scheduled_anew(patch, change):
    right = schedules.Schedule._emit

    def emit(self, starts):
        right(self, starts)
        self.phases = change(self.phases)

    patch.setattr(schedules.Schedule, "_emit", emit)


def wrong_order(patch):
    """schedule"""

    def change(phases):
        loop = [one for one in phases if one.level is Level.LOOP]
        return [*[one for one in phases if one.level is not Level.LOOP], *loop[1:], *loop[:1]]

    scheduled_anew(patch, change)


def missing_store(patch):
    """schedule"""
    right = schedules.Schedule._put

    def put(self, node, key, *rest, **more):
        if key != ("saved", 0) or self.name != "forward":
            right(self, node, key, *rest, **more)

    patch.setattr(schedules.Schedule, "_put", put)


def shifted_slot(patch):
    """layout"""
    right = Layout.over_time

    def over_time(self, key, address, width, first, forwards):
        if key == ("saved", 0):
            first = self.steps - 1 - first
        right(self, key, address, width, first, forwards)
        if key == ("saved", 0) and first:
            self._slots[key] = self._slots[key][0], -abs(self._slots[key][1]), *self._slots[key][2:]

    patch.setattr(Layout, "over_time", over_time)


def stale_slot(patch):
    """layout"""
    right = Layout.over_time

    def over_time(self, key, address, *rest):
        right(self, key, address, *rest)
        if key == ("after", 0):
            self._slots[key] = self._slots["state", 0]

    patch.setattr(Layout, "over_time", over_time)


def wrong_rows_of_weight_gradients(patch):
    """layout"""
    right = executable.Compiled._sealed

    def sealed(self, layout, plan, strides, gradients=()):
        gradients = [one._replace(left=gradients[0].left) if one.columns == gradients[0].columns else one
                     for one in gradients]  # fmt: skip
        return right(self, layout, plan, strides, gradients)

    patch.setattr(executable.Compiled, "_sealed", sealed)


def wrong_line(patch):
    """kernels"""
    right = schedules.numba.printed

    def printed(function, numbers):
        lines = right(function, numbers).split("\n")
        wrong = next((i for i, line in enumerate(lines) if " * " in line and "row" not in line), None)
        if wrong is not None:
            lines[wrong] = lines[wrong].replace(" * ", " + ", 1)
        return "\n".join(lines)

    patch.setattr(schedules.numba, "printed", printed)


def no_text(patch):
    """kernels"""
    right = schedules.numba.printed
    patch.setattr(
        schedules.numba, "printed", lambda *rest: right(*rest).replace("first, last, part):", "first, last):")
    )


def wrong_size(patch):
    """kernels"""
    right = schedules.numba.printed

    def printed(function, numbers):
        return right(function, numbers).replace("for j in range(", "for j in range(-1 + ")

    patch.setattr(schedules.numba, "printed", printed)


FAULTS = [
    wrong_primitive, wrong_offset, wrong_sign, wrong_side, not_saved, saved_from_the_wrong_node, dropped_term,
    wrong_columns, wrong_order, missing_store, shifted_slot, stale_slot, wrong_rows_of_weight_gradients, wrong_line,
    no_text, wrong_size,
]  # fmt: skip


@pytest.mark.parametrize("plant", FAULTS)
def test_a_fault_is_named_by_its_stage(plant, monkeypatch):
    plant(monkeypatch)
    assert examine(*several()) == plant.__doc__


def several():
    """A step in which every stage has something to do."""
    w, u, v, s, b = tensor(0, 3, 5), tensor(1, 5, 5), tensor(2, 5, 5), tensor(3, 3, 5), tensor(4, 5)

    def step(h, x):
        gate, new = tg.sigmoid(x @ w + h @ u + b), tg.tanh(x @ s + h @ v)
        mixed = (gate * h) @ v + (new * h) @ u
        state = tg.tanh(tg.sigmoid(mixed * gate) * h + (1.0 - gate) * new)
        return state, tg.concat([state[:, 2:] * new[:, :3], gate[:, 3:]], -1)

    return step, tensor(5, 4, 5), tensor(6, 9, 4, 3)


# --- Named where something fused is wrong ---


def test_a_drawn_program_that_differs_names_the_stage(monkeypatch):
    wrong_sign(monkeypatch)
    reports = (drawn.examined(drawn.Case(seed), ("fused",)) for seed in range(20))
    differences = next(report.differences for report in reports if report.differences)
    assert "the compiler is at fault: stage differentiate" in differences[0].what


class Gated(tg.nn.Cell):
    """A cell of two products that share their operand, and of two that are summed."""

    def __init__(self, input_size=2, hidden_size=3):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.gate, self.new = (tg.nn.Linear(input_size + hidden_size, hidden_size) for _ in range(2))

    def step(self, x, state):
        mixed = tg.concat([x, state], axis=-1)
        gate, new = tg.sigmoid(self.gate(mixed)), tg.tanh(self.new(mixed))
        hidden = gate * state + (1.0 - gate) * new
        return hidden, hidden


VERIFIED = [wrong_sign, wrong_columns, wrong_line]


@pytest.mark.parametrize("plant", VERIFIED)
def test_verify_names_the_stage(plant, monkeypatch):
    plant(monkeypatch)
    report = str(tg.nn.verify(Gated()))
    assert f"the compiler is at fault: stage {plant.__doc__}" in report
    assert "suspect" not in report


def test_verify_names_the_trace_where_a_change_is_not_seen(monkeypatch):
    monkeypatch.setattr(reads.Reads, "hold", lambda self: True)
    report = str(tg.nn.verify(Gated()))
    assert "WRONG  compiled, it sees what changes between two calls" in report
    assert "the compiler is at fault: stage trace" in report


@pytest.mark.parametrize("plant", [wrong_sign, saved_from_the_wrong_node, wrong_columns])
def test_gradcheck_names_the_stage(plant, monkeypatch):
    plant(monkeypatch)
    step, h, x = several()
    with pytest.raises(GradcheckError) as caught:
        tg.gradcheck(lambda h, x: (tg.scan(step, h, x)[1] ** 2).sum(), [h[:1], x[:, :1]])
    assert f"hint: the compiler is at fault: stage {plant.__doc__} (step, layer 0" in str(caught.value)
    assert "suspect" not in str(caught.value)


def test_gradcheck_blames_the_op_where_step_by_step_is_wrong_too(monkeypatch):
    def step(h, x):
        return h * 0.5 + x.detach() * x, h

    with pytest.raises(GradcheckError, match="suspect"):
        tg.gradcheck(lambda h, x: tg.scan(step, h, x)[1], [tensor(0, 2, 2), tensor(1, 9, 2, 2)])


def test_a_program_of_another_moment_is_the_trace():
    """What guards do not see is named too: here it is put into the program behind their back."""
    layer, x = tg.nn.Recurrent(tg.nn.GRUCell(3, 4, dtype="float64")), tensor(1, 9, 4, 3)
    assert blame(layer, x) == ""
    compiled = layer._known.programs[0]
    other = tg.nn.Recurrent(tg.nn.MinimalGatedCell(3, 4, dtype="float64"))
    other(x)
    compiled.program.stages["lower"] = other._known.programs[0].program.stages["lower"]
    assert "stage trace" in blame(layer, x)
