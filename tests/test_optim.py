"""Optimizers and clipping: closed forms, states, layouts, refusals. (test_parity_nn.py compares with torch.)"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, GraphError, ShapeError
from tinygrad_rnn.kernels import optimizer as kernels

optim = tg.optim

KINDS = {
    "sgd": lambda p, **k: optim.SGD(p, **{"lr": 0.1, **k}),
    "sgd momentum": lambda p, **k: optim.SGD(p, **{"lr": 0.1, "momentum": 0.9, "dampening": 0.2, **k}),
    "nesterov": lambda p, **k: optim.SGD(p, **{"lr": 0.1, "momentum": 0.9, "nesterov": True, **k}),
    "adam": lambda p, **k: optim.Adam(p, **{"lr": 0.1, **k}),
    "adamw": lambda p, **k: optim.AdamW(p, **{"lr": 0.1, "weight_decay": 0.1, **k}),
    "rmsprop": lambda p, **k: optim.RMSprop(p, **{"lr": 0.1, **k}),
    "rmsprop all": lambda p, **k: optim.RMSprop(p, **{"lr": 0.1, "momentum": 0.5, "centered": True, **k}),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def parameters(*shapes, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [tg.nn.Parameter(tg.tensor(rng.standard_normal(shape), dtype=dtype)) for shape in shapes]


def train(optimizer, several, steps, seed=1):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        for p in several:
            p.grad = tg.tensor(rng.standard_normal(p.shape), dtype=p.dtype)
        optimizer.step()
    return [p.numpy().copy() for p in several]


# --- What a step does ---


def test_first_steps_by_closed_form():
    g, start = np.array([0.5, -2.0]), np.array([1.0, 3.0])
    expected = {
        "sgd": start - 0.1 * g,
        "sgd momentum": start - 0.1 * g,  # dampening begins with the second step
        "nesterov": start - 0.1 * 1.9 * g,
        "adam": start - 0.1 * np.sign(g),
        "adamw": start * (1 - 0.1 * 0.1) - 0.1 * np.sign(g),
        "rmsprop": start - 0.1 * np.sign(g) / np.sqrt(0.01),
        "rmsprop all": start - 0.1 * np.sign(g) / np.sqrt(0.01 - 0.01**2),
    }
    for name, make in KINDS.items():
        p = tg.nn.Parameter(tg.tensor(start))
        optimizer = make([p])
        p.grad = tg.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(p.numpy(), expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


@every_kind
def test_a_quadratic_is_minimised(make):
    p = tg.nn.Parameter(tg.tensor([3.0, -2.0]))
    optimizer = make([p], lr=0.02, weight_decay=0.0)
    for _ in range(400):
        optimizer.zero_grad()
        ((p - tg.tensor([1.0, 0.5])) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(p.numpy(), [1.0, 0.5], atol=0.05)


@every_kind
def test_parameters_without_a_gradient_are_left_alone(make):
    a, b, empty = parameters((3,), (2, 2), (0, 3))
    optimizer = make([a, b, empty])
    before = b.numpy().copy()
    train(optimizer, [a, empty], 3)
    np.testing.assert_array_equal(b.numpy(), before)
    assert set(optimizer.state) <= {0, 2}
    optimizer.zero_grad()
    moved = a.numpy().copy()
    optimizer.step()
    np.testing.assert_array_equal(a.numpy(), moved)
    train(optimizer, [b], 1)
    fresh = tg.nn.Parameter(tg.tensor(before))
    np.testing.assert_array_equal(b.numpy(), train(make([fresh]), [fresh], 1)[0], err_msg="its first step is a first")


@every_kind
@pytest.mark.parametrize("layout", [lambda a: a.T, lambda a: a[::2], lambda a: a[:, ::-1], lambda a: a[1:, 1:]])
def test_layout_of_parameter_and_gradient_changes_nothing(make, layout):
    rng = np.random.default_rng(3)
    whole = rng.standard_normal((6, 4))
    view = layout(whole)
    odd, plain = tg.nn.Parameter(tg.from_numpy(view)), tg.nn.Parameter(tg.tensor(view.copy(order="C")))
    assert np.shares_memory(odd.numpy(), whole)
    assert not odd.numpy().flags.c_contiguous
    untouched = whole.copy()
    a, b = make([odd]), make([plain])
    for _ in range(3):
        g = rng.standard_normal(view.shape)
        odd.grad, plain.grad = tg.from_numpy(np.asfortranarray(g)), tg.tensor(g)
        a.step(), b.step()
    np.testing.assert_allclose(odd.numpy(), plain.numpy(), rtol=1e-13)
    layout(untouched)[...] = odd.numpy()
    np.testing.assert_array_equal(whole, untouched, err_msg="only the parameter's elements are written")


@every_kind
def test_float32_stays_float32_and_a_wider_gradient_is_narrowed(make):
    (p,) = parameters((4,), dtype="float32")
    optimizer = make([p])
    p.grad = tg.ones(4, dtype="float64")
    optimizer.step()
    assert p.dtype == np.float32
    assert all(t.dtype == np.float32 for t in optimizer.state_dict()["state"][0].values() if isinstance(t, tg.Tensor))


@every_kind
def test_groups_have_settings_of_their_own(make):
    a, b, c, d = parameters((3,), (3,), (3,), (3,))
    alone = [tg.nn.Parameter(tg.tensor(p)) for p in (a, b, c, d)]
    together = make([{"params": [a, b]}, {"params": iter([c]), "lr": 0.01}, {"params": d, "weight_decay": 0.5}])
    train(together, [a, b, c, d], 3)
    apart = [make(alone[:2]), make(alone[2:3], lr=0.01), make(alone[3:], weight_decay=0.5)]
    rng = np.random.default_rng(1)
    for _ in range(3):
        for p in alone:
            p.grad = tg.tensor(rng.standard_normal(3))
        for optimizer in apart:
            optimizer.step()
    for x, y in zip((a, b, c, d), alone):
        np.testing.assert_array_equal(x.numpy(), y.numpy())
    before = a.numpy().copy()
    together.param_groups[0]["lr"] = 0.0
    train(together, [a], 1)
    np.testing.assert_array_equal(a.numpy(), before)


def test_a_step_is_seen_by_the_tape():
    (p,) = parameters((2,))
    loss = (p * p).sum()
    p.grad = tg.ones(2, dtype="float64")
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(GraphError, match="changed in place"):
        loss.backward()


def test_the_module_may_change_dtype_between_steps():
    for make in KINDS.values():
        layer = tg.nn.Linear(2, 2)
        optimizer = make(layer.parameters())
        train(optimizer, list(layer.parameters()), 2)
        layer.astype("float64")
        before = layer.weight.numpy().copy()
        train(optimizer, list(layer.parameters()), 1)
        assert layer.weight.dtype == np.float64
        assert not np.array_equal(before, layer.weight.numpy())


# --- States ---


@every_kind
@pytest.mark.parametrize("through_file", [False, True])
def test_a_loaded_state_continues_bit_for_bit(make, through_file, tmp_path):
    shapes = [(3, 2), (), (0,), (4,)]
    first = parameters(*shapes, dtype="float32")
    optimizer = make(first)
    train(optimizer, first[:3], 5)
    optimizer.param_groups[0]["lr"] = 0.05
    state = optimizer.state_dict()
    second = [tg.nn.Parameter(tg.tensor(p)) for p in first]
    expected = train(optimizer, first, 5, seed=7)
    if through_file:
        tg.save(state, tmp_path / "o")
        state, _ = tg.load(tmp_path / "o")
    again = make(second)
    again.load_state_dict(state)
    assert again.param_groups[0]["lr"] == 0.05
    for a, b in zip(expected, train(again, second, 5, seed=7)):
        np.testing.assert_array_equal(a, b)
    train(again, second, 1)
    third = [tg.nn.Parameter(tg.tensor(p)) for p in first]
    once_more = make(third)
    once_more.load_state_dict(state)
    assert once_more.state_dict()["state"].keys() == state["state"].keys()
    assert all(one["step"] == 5 for one in state["state"].values()), "a state taken or loaded is a copy"


@every_kind
def test_buffers_in_another_layout_load_too(make):
    shape = (3, 4)
    first, second = parameters(shape, shape)
    optimizer = make([first])
    train(optimizer, [first], 2)
    second.detach().copy_(first.detach())
    state = optimizer.state_dict()
    for one in state["state"].values():
        one.update({n: np.asfortranarray(v.numpy()) for n, v in one.items() if isinstance(v, tg.Tensor)})
    again = make([second])
    again.load_state_dict(state)
    np.testing.assert_array_equal(train(optimizer, [first], 3)[0], train(again, [second], 3)[0])


def test_a_state_that_does_not_fit_changes_nothing():
    a, b = parameters((3, 2), (4,))
    optimizer = optim.Adam([a, b])
    train(optimizer, [a, b], 2)
    before = optimizer.state_dict()
    others = [parameters((3, 2)), parameters((3, 2), (5,)), parameters((2, 3), (4,)), parameters((3, 2), (4,), (1,))]
    for other in others:
        wrong = optim.Adam(other, lr=9.0)
        train(wrong, other, 1)
        with pytest.raises(ArgumentError, match="load_state_dict"):
            optimizer.load_state_dict(wrong.state_dict())
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for i, one in before["state"].items():
            for name, value in one.items():
                np.testing.assert_array_equal(after["state"][i][name], value)


# --- Refusals ---


@pytest.mark.parametrize(
    "refuse",
    [
        lambda p: optim.SGD([]),
        lambda p: optim.SGD(iter(())),
        lambda p: optim.SGD([p, p]),
        lambda p: optim.SGD([{"params": [p]}, {"params": [p]}]),
        lambda p: optim.SGD([p], lr=-1.0),
        lambda p: optim.SGD([p], lr=float("nan")),
        lambda p: optim.SGD([p], momentum=-0.1),
        lambda p: optim.SGD([p], nesterov=True),
        lambda p: optim.SGD([p], nesterov=True, momentum=0.9, dampening=0.1),
        lambda p: optim.Adam([p], betas=(1.0, 0.9)),
        lambda p: optim.Adam([p], betas=(0.9, -0.1)),
        lambda p: optim.Adam([p], eps=-1.0),
        lambda p: optim.AdamW([p], weight_decay=-1.0),
        lambda p: optim.RMSprop([{"params": [p], "lr": -1.0}]),
        lambda p: optim.SGD([p * 2.0]),
        lambda p: optim.SGD(p),
        lambda p: optim.SGD([1.0]),
    ],
)
def test_wrong_settings_and_parameters_are_refused(refuse):
    (p,) = parameters((2,))
    with pytest.raises(ArgumentError, match=r"^(SGD|Adam|AdamW|RMSprop): "):
        refuse(p)


@every_kind
def test_a_gradient_of_another_shape_is_refused(make):
    (p,) = parameters((6,))
    before = p.numpy().copy()
    for shape in [(1,), (), (3, 2), (7,)]:
        with pytest.raises(ShapeError, match="gradient does not fit"):
            p.grad = tg.ones(shape, dtype="float64")
        make([p]).step()
    np.testing.assert_array_equal(p.numpy(), before)


def test_memory_that_cannot_be_written_is_refused_and_not_forgotten():
    array = np.ones(3)
    array.flags.writeable = False
    p = tg.nn.Parameter(tg.from_numpy(array))
    p.grad = tg.ones(3, dtype="float64")
    with pytest.raises(GraphError, match="read-only"):
        optim.SGD([p], lr=1.0).step()


# --- Clipping ---

NORMS = [0.5, 1, 2, 3, 10, float("inf")]


def with_gradients(*grads):
    several = [tg.nn.Parameter(tg.zeros(np.shape(g), dtype=np.asarray(g).dtype)) for g in grads]
    for p, g in zip(several, grads):
        p.grad = tg.tensor(np.asarray(g))
    return several


@settings(max_examples=60, deadline=None)
@given(p=st.sampled_from(NORMS), max_norm=st.floats(0, 20), seed=st.integers(0, 999), exponent=st.integers(-40, 40))
def test_clipping_by_its_definition(p, max_norm, seed, exponent):
    rng = np.random.default_rng(seed)
    grads = [rng.standard_normal(shape) * 10.0**exponent for shape in [(3, 2), (), (0,), (5,)]]
    several = [*with_gradients(*grads), tg.nn.Parameter(tg.ones(2))]
    flat = np.concatenate([g.ravel() for g in grads])
    norm = np.linalg.norm(flat, p) if p == np.inf else np.max(np.abs(flat)) * np.linalg.norm(flat / abs(flat).max(), p)
    got = optim.clip_grad_norm_(iter(several), max_norm, p)
    np.testing.assert_allclose(got.item(), norm, rtol=1e-12)
    for q, g in zip(several, grads):
        np.testing.assert_allclose(q.grad.numpy(), g * min(1.0, max_norm / (norm + 1e-6)), rtol=1e-11)
    assert several[-1].grad is None


def test_clipping_at_its_ends():
    (p,) = several = with_gradients(np.float32([3e38, -3e38]))
    assert np.isinf(optim.clip_grad_norm_(several, 1.0).item()), "as a float32 number"
    np.testing.assert_allclose(p.grad.numpy(), [0.5**0.5, -(0.5**0.5)], rtol=1e-6)
    for p_norm in NORMS:
        (p,) = several = with_gradients(np.float32([1e30, 0]))
        np.testing.assert_allclose(optim.clip_grad_norm_(several, 1.0, p_norm).item(), 1e30, rtol=1e-6)
        np.testing.assert_allclose(p.grad.numpy(), [1.0, 0.0], rtol=1e-6)
        (p,) = several = with_gradients(np.zeros(3))
        assert optim.clip_grad_norm_(p, 1.0, p_norm).item() == 0.0
        np.testing.assert_array_equal(p.grad.numpy(), np.zeros(3))
    assert optim.clip_grad_norm_(parameters((2,)), 1.0).item() == 0.0
    for wrong in (0.0, -1.0, float("nan"), -np.inf):
        with pytest.raises(ArgumentError, match="no such norm"):
            optim.clip_grad_norm_(several, 1.0, wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, np.inf])
def test_gradients_that_are_not_finite(bad, norm_type):
    several = with_gradients(np.array([1.0, bad]), np.array([2.0]))
    with pytest.raises(GraphError, match="not finite"):
        optim.clip_grad_norm_(several, 1.0, norm_type, error_if_nonfinite=True)
    np.testing.assert_array_equal(several[0].grad.numpy(), [1.0, bad])
    norm = optim.clip_grad_norm_(several, 1.0, norm_type)
    assert not np.isfinite(norm.item())
    assert np.isnan(several[0].grad.numpy()[1])
    np.testing.assert_array_equal(several[1].grad.numpy(), [np.nan if np.isnan(bad) else 0.0])


def test_gradients_that_backward_hands_to_several_are_clipped_once_each():
    a, b = parameters((3,), (3,))
    c = tg.nn.Parameter(tg.ones(2, 3, dtype="float64"))
    (a + b + c).sum().backward()
    expected = [p.grad.numpy().copy() for p in (a, b, c)]
    norm = np.sqrt(sum((g**2).sum() for g in expected))
    optim.clip_grad_norm_([a, b, c], 1.0)
    for p, g in zip((a, b, c), expected):
        np.testing.assert_allclose(p.grad.numpy(), g / (norm + 1e-6), rtol=1e-12)


def test_gradients_with_a_history_are_clipped_too():
    (p,) = parameters((3,))
    (p**2).sum().backward(create_graph=True)
    optim.clip_grad_norm_([p], 0.5)
    np.testing.assert_allclose(np.linalg.norm(p.grad.numpy()), 0.5, rtol=1e-5)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop])
def test_an_infinite_parameter_stays_infinite(kind):
    p = tg.tensor([1.0, -np.inf], requires_grad=True)
    p.grad = tg.tensor([1.0, 1.0])
    kind([p], lr=0.1).step()
    assert p.numpy()[0] < 1.0 and p.numpy()[1] == -np.inf


@pytest.mark.parametrize("turned_first", [True, False])
def test_two_views_of_one_memory_are_both_updated(turned_first):
    base = np.zeros((3, 3))
    views = [tg.from_numpy(base.T), tg.from_numpy(base)][:: 1 if turned_first else -1]
    for p in views:
        p.requires_grad = True
        p.grad = tg.ones(3, 3, dtype="float64")
    optim.SGD(views, lr=1.0).step()
    np.testing.assert_array_equal(base, -2.0 * np.ones((3, 3)))


# --- Kernels and their references ---


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "buffers", "numbers"),
    [
        ("adam", 2, [0.1, 0.9, 0.99, 0.3, 1e-8, 0.0, 0.0]),
        ("adam", 2, [0.1, 0.5, 0.9, 0.7, 1e-3, 0.2, 0.1]),
        ("adam", 2, [0.1, 0.0, 0.0, 1.0, 1e-8, 0.0, 0.0]),
        ("sgd", 0, [0.1, 0, 0, 0.1, 0, 1]),
        ("sgd", 1, [0.1, 0.9, 0.3, 0.1, 0, 1]),
        ("sgd", 1, [0.1, 0.9, 0.3, 0.1, 0, 0]),
        ("sgd", 1, [0.1, 0.9, 0, 0.1, 1, 0]),
        ("rmsprop", 1, [0.1, 0.9, 1e-8, 0.1, 0]),
        ("rmsprop", 2, [0.1, 0.9, 1e-8, 0, 0]),
        ("rmsprop", 2, [0.1, 0.3, 1e-8, 0, 0]),
        ("rmsprop", 3, [0.1, 0.9, 1e-8, 0.1, 0.8]),
    ],
)
def test_update_kernels_equal_their_numpy_references(name, buffers, numbers, dtype):
    kernel, reference = getattr(kernels, name), getattr(kernels, f"_{name}_reference")
    count = len(inspect.signature(reference).parameters) - 3
    rng = np.random.default_rng(0)
    p, g, a, v, b = (rng.standard_normal(57).astype(dtype) for _ in range(5))
    v = a * a + np.abs(v)  # a variance above the squared mean
    every = [v, a, b] if name == "rmsprop" else [a, v, b]
    first = [p, g, *(x if i < buffers else x[:0] for i, x in enumerate(every[:count]))]
    second = [x.copy() for x in first]
    kernel([(first, numbers)])
    reference(*second, np.array(numbers, np.float64))
    for x, y in zip(first, second):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=1e-12 if dtype == "float64" else 2e-5, atol=1e-7)
    np.testing.assert_array_equal(first[1], g, err_msg="the gradient is not changed")
    assert not np.array_equal(first[0], np.random.default_rng(0).standard_normal(57).astype(dtype))
