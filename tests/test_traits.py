"""Traits: each holds for every op that declares it, and a new op is known everywhere by its declaration alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import test_registry
from registry import Source, case, flat, full_settings, samples
from test_fused import both, tensor

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.compiler.runtime.gradient_buffers import GradientBuffers
from tinygrad_rnn.errors import DeclarationError, DtypeError
from tinygrad_rnn.kernels import scalar
from tinygrad_rnn.ops import REGISTRY
from tinygrad_rnn.ops.declare import Array, call, elementwise, opaque, shape
from tinygrad_rnn.ops.op import Elementwise

OWN = [op for op in REGISTRY.values() if op.own]


def with_trait(name):
    """Samples of all ops that have a trait."""
    found = [(op, i) for op in OWN if getattr(op, name) for i, _ in enumerate(samples(op))]
    return pytest.mark.parametrize(("op", "i"), found, ids=[f"{op.name}-{i}" for op, i in found])


def run(op, arrays, sample):
    """The rule, with the sample's settings."""
    if isinstance(op, Elementwise):
        return op.forward(arrays, {})
    return op.forward(arrays, op.prepare(arrays, full_settings(op, sample)))


def check_view(op, i):
    sample = case(op, i)
    (x,) = flat(op, sample)
    x = np.arange(x.size, dtype=np.float64).reshape(x.shape)
    y = run(op, [x], sample)
    np.testing.assert_array_equal(run(op, [3.0 - x], sample), 3.0 - y)  # which elements, the numbers do not tell
    assert np.isin(y, x).all()
    key = sample.settings.get("key", ())
    arrays = [part for part in (key if isinstance(key, tuple) else (key,)) if isinstance(part, np.ndarray)]
    if y.size and not arrays:  # an index of arrays may take an element twice, and copies
        assert np.shares_memory(x, y) and np.unique(y).size == y.size


@with_trait("view")
def test_a_view_shows_elements_of_its_input_each_once(op, i):
    check_view(op, i)


@with_trait("linear")
def test_what_is_linear_is(op, i):
    sample = case(op, i)
    arrays = flat(op, sample)
    floating = [k for k, a in enumerate(arrays) if a.dtype.kind == "f"]
    sides = [floating] if op.linear is True else [[op.inputs.index(name)] for name in op.linear]
    for side in sides:
        changing = [k in side if arrays[k].dtype.kind == "f" else None for k in range(len(arrays))]
        assert op.linear_in(changing if op.linear is True else [bool(c) for c in changing])
        others = [Source(7)(*a.shape) if k in side else a for k, a in enumerate(arrays)]
        mixed = [2.0 * a - 0.5 * b if k in side else a for k, (a, b) in enumerate(zip(arrays, others))]
        expected = 2.0 * run(op, arrays, sample) - 0.5 * run(op, others, sample)
        np.testing.assert_allclose(run(op, mixed, sample), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", [op for op in OWN if op.linear], ids=lambda op: op.name)
def test_the_derivative_of_what_is_linear_needs_neither_input_nor_output(op):
    for name in op.inputs if op.linear is True else op.linear:
        taken = op.vjps[name].names if name in op.vjps else ()
        assert not {"y", name, *(op.inputs if op.linear is True else ())} & {*taken}


def test_linear_in_several_inputs_at_once():
    add, multiply, divide, sum_ = (REGISTRY[name] for name in ("add", "multiply", "divide", "sum"))
    assert add.linear_in([True, True]) and not add.linear_in([True, False])  # x + 1 is not linear in x
    assert multiply.linear_in([True, False]) and not multiply.linear_in([True, True])
    assert divide.linear_in([True, False]) and not divide.linear_in([False, True])
    assert sum_.linear_in([True]) and not REGISTRY["tanh"].linear_in([True])


@with_trait("whole_numbers")
def test_whole_numbers_pass_as_they_would_as_floating_numbers(op, i):
    sample = case(op, i)
    whole = [np.rint(7.0 * a) if a.dtype.kind == "f" else a for a in flat(op, sample)]
    try:
        given = [a.astype(np.int64) for a in whole]
        y = run(op, given, sample)
    except DtypeError:
        return  # a setting that is no whole number
    assert y.dtype.kind == "i"
    np.testing.assert_array_equal(y, run(op, whole, sample))


@with_trait("random")
def test_a_random_op_is_a_function_of_its_key(op, i):
    sample = case(op, i)
    one, again, other = (
        run(op, flat(op, sample), sample._replace(settings={**sample.settings, "key": key})) for key in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not one.size or not np.array_equal(one, other)


@pytest.mark.parametrize("op", [op for op in OWN if op.saturates], ids=lambda op: op.name)
def test_where_an_op_saturates_little_is_left_of_its_derivative(op):
    x = tg.tensor(np.linspace(-9.0, 9.0, 401), requires_grad=True)
    y = op.call(x)
    slope = np.abs(tg.grad(y.sum(), x).numpy())
    low, high = op.saturates
    out = np.zeros(x.shape, bool) if low is None else y.numpy() <= low
    out = out if high is None else out | (y.numpy() >= high)
    assert out.any() and not out.all()
    assert slope[out].max() <= 0.2 * slope.max() <= slope[~out].max()


def test_what_moves_elements_and_what_costs():
    assert REGISTRY["concat"].moves and REGISTRY["take"].moves and not REGISTRY["sum"].moves
    assert not REGISTRY["astype"].whole_numbers and not REGISTRY["concat"].whole_numbers
    assert scalar.tanh.costly and scalar.power.costly and not scalar.divide.costly and not scalar.sqrt.costly


def test_traits_that_cannot_be_are_refused():
    def two(a: Array, b: Array):
        """A view of two."""
        return a

    with pytest.raises(DeclarationError, match="of one input"):
        shape(view=True)(two)
    with pytest.raises(DeclarationError, match="no such input"):
        opaque(linear=("c",))(two)
    with pytest.raises(DeclarationError, match="a setting key"):
        opaque(random=True)(two)
    assert "two" not in REGISTRY


# --- A new op ---


@pytest.fixture
def forgotten():
    """Ops that a test declares are gone after it."""
    before = dict(REGISTRY)
    yield
    for name in [*REGISTRY]:
        if name not in before:
            del REGISTRY[name]


def swapped(view):
    """All that it takes to add an op."""

    @shape(
        symbol="every other, turned",
        view=view,
        samples=lambda r: [call(r(4, 3)), call(r(2, 5, 2), step=3), call(r(0, 3))],
    )
    def every_other_swapped(x: Array, step: int = 2):
        """The last two axes exchanged; of the last one then every `step`-th."""
        return np.swapaxes(x, -1, -2)[..., ::step]

    @every_other_swapped.vjp("x")
    def _(g, x_shape, step):
        wide = tg.stack([g, *[g * 0.0] * (step - 1)], axis=-1).reshape(*g.shape[:-1], -1)
        return wide[..., : x_shape[-2]].mT

    return every_other_swapped


def test_a_new_view_is_tested_by_the_tables(forgotten):
    op = swapped(True).op
    assert op.linear is True and op.whole_numbers and op.moves
    tables = [
        test_registry.test_first_derivative, test_registry.test_second_derivative,
        test_registry.test_value_agrees_with_the_plain_numpy_reference, test_registry.test_float32_stays_float32,
        test_registry.test_layout_and_writability_of_inputs_change_nothing, check_view,
        test_what_is_linear_is, test_whole_numbers_pass_as_they_would_as_floating_numbers,
    ]  # fmt: skip
    for table, i in itertools.product(tables, range(3)):
        table(op, i)


@pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")
@pytest.mark.parametrize("view", [True, False])
def test_gradients_are_written_through_a_new_view(forgotten, monkeypatch, view):
    taken, made = swapped(view), []
    original = GradientBuffers.__init__

    def noted(self, program):
        original(self, program)
        made.append(self)

    monkeypatch.setattr(GradientBuffers, "__init__", noted)
    w, x, h = tensor(0, 7, 4), tensor(1, 9, 3, 4), tensor(2, 3, 4)

    def step(h, x):
        h = tg.tanh(h @ taken(w) + x)
        return h, h

    both(lambda engine: tg.scan(step, h, x, engine=engine), [w, x, h])
    assert made and all(buffers.complete == view for buffers in made)


def test_a_picture_shows_a_new_view_by_its_sign_and_formulas_look_through_it(forgotten):
    taken = swapped(True)
    gate = tg.randn(4, 3, requires_grad=True).tanh().named("gate")
    made = (tg.sigmoid(taken(gate)) * 2.0).named("made")
    labels = {node.name: node.symbol for node in tg.viz.graph(made, level="op").graph.of_kind("op")}
    assert labels["every_other_swapped"] == "every other, turned"
    assert "every other, turned" in tg.viz.graph(made, level="op").source
    (group,) = [node for node in tg.viz.graph(made, level="gate").graph.nodes if node.label == "made"]
    assert group.formula == "σ(gate) × 2"


def test_ops_of_one_s_own_saturate_and_draw(forgotten):
    @elementwise(saturates=(None, 0.9))
    def bent(x):
        """x / (1 + |x|)."""
        return x / (1.0 + tg.abs(x))

    bent.vjp("x")(lambda g, x: g / ((1.0 + tg.abs(x)) * (1.0 + tg.abs(x))))
    x = tg.tensor([-99.0, 0.0, 1.0, 99.0], requires_grad=True)
    with tg.viz.watch():
        y = bent(x)
    (node,) = tg.viz.graph(y, level="op").graph.of_kind("op")
    assert node.seen.saturated == 1 / 4

    @opaque(random=True, samples=lambda r: [call(r(3), key=1)])
    def jittered(x: Array, key: int = 0):
        """x + a normal number of the key."""
        return x + np.random.default_rng(key).normal()

    jittered.vjp("x")(lambda g: g)
    w, x = tensor(0, 4, 4), tensor(1, 9, 3, 4)

    def step(h, x):
        h = tg.tanh(h @ jittered(w, tg.ops.random.fresh_key()) + x)
        return h, h

    found = []
    for engine in ("eager", "auto"):
        tg.manual_seed(3)
        found.append(tg.scan(step, tg.zeros(3, 4, dtype="float64"), x, engine=engine)[1].numpy())
    np.testing.assert_array_equal(*found)  # a key for each step: not drawn once, as what is fixed would be


# --- detach ---


def test_detach_is_seen_by_whoever_watches_and_by_nobody_else():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    with tg.Tape() as tape:
        y = tg.tanh(x).detach()
        z = y * 2.0
    assert [node.name for node in tape] == ["tanh", "detach", "multiply"]
    assert y.node is tape.nodes[1] and y.node.parents == (tape.nodes[0],) and z.node.parents[0] is y.node
    assert not y.requires_grad and y.is_leaf and not z.requires_grad and not y.node.saved
    assert tg.tanh(x).detach().node is None and x.detach()._array is x._array
    y.requires_grad = True
    assert tg.grad((y * y).sum(), y).numpy() == pytest.approx(2.0 * y.numpy())


@pytest.mark.parametrize("watched", [False, True])
def test_detached_values_lie_in_the_same_memory(watched):
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    if watched:
        with tg.Tape():
            z = x.detach()
    else:
        z = x.detach()
    assert np.shares_memory(z.numpy(), x.numpy())
    z[0] = 7.0
    assert x.numpy()[0] == 7.0
    with pytest.raises(tg.errors.GraphError, match="changed in place"):
        y.sum().backward()


def test_making_a_net_and_writing_in_place_detach_nothing():
    state = tg.nn.LSTM(2, 3).state_dict()
    with tg.Tape() as tape:
        tg.nn.LSTM(2, 3).load_state_dict(state)
        x = tg.zeros(3)
        x += 1.0
    assert [node.name for node in tape] == ["add"]


@pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")
def test_a_step_that_detaches_is_fused_with_the_gradient_of_the_eager_one():
    w, u, x, h = tensor(0, 4, 4), tensor(1, 4, 4), tensor(2, 9, 3, 4), tensor(3, 3, 4)

    def step(h, x):
        new = tg.tanh(x @ w + h.detach() @ u + h)
        return new.detach() * h + new, (new.detach() * x, new)

    both(lambda engine: tg.scan(step, h, x, engine=engine), [w, u, x, h])


def test_a_picture_shows_where_a_gradient_ends():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    with tg.Tape() as tape:
        (tg.tanh(x).detach() * x).sum()
    graph = tg.viz.graph(tape, level="op").graph
    (node,) = [node for node in graph.of_kind("op") if node.name == "detach"]
    assert graph[node.operands[0]].name == "tanh"
    assert {edge.target for edge in graph.edges if edge.source == node.id} != set()
