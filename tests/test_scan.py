"""`tg.scan`: the loop by hand, whatever the nests, and with `checkpoint` the same numbers, or an error."""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.pytree import leaves, map_leaves
from tinygrad_rnn.errors import AnomalyError, ArgumentError, DtypeError, GraphError, ShapeError

PIECES = [1, 2, "sqrt", 100]
zeros = functools.partial(tg.zeros, dtype="float64")


class Pair(NamedTuple):
    left: Any
    right: Any


def leaf(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).normal(size=shape), requires_grad=True)


def plain(w):
    return lambda c, x: (tg.tanh(c @ w + x), c * x)


def by_hand(step, carry, xs, reverse=False):
    """The loop that `scan` stands for."""
    steps, ys = leaves(xs)[0].shape[0], {}
    for t in reversed(range(steps)) if reverse else range(steps):
        carry, ys[t] = step(carry, map_leaves(lambda x, t=t: x[t], xs))
    return carry, map_leaves(lambda *parts: tg.stack(parts), *[ys[t] for t in range(steps)])


def agree(got, expected, e=1e-12):
    """Two lists of arrays agree to e, each measured against its largest number."""
    assert len(got) == len(expected)
    for i, (a, b) in enumerate(zip(got, expected)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), i
        assert np.max(np.abs(a - b), initial=0.0) <= e * np.max(np.abs(b), initial=0.0), (i, a, b)


def derivatives(outputs, inputs, order=2):
    """The outputs' values, and the gradients with respect to the inputs of a sum of sines of them, to some order.

    The sines are of numbers up to about 1: those of large ones would make much of the last digit.
    """
    values = list(outputs)
    found = [y.numpy() for y in values]
    for _ in range(order):
        scales = [2.0 ** -max(np.ceil(np.log2(np.abs(y.numpy()).max(initial=1.0))), 0.0) for y in values]
        factors = [scale * (1.0 + 0.3 * i) for i, scale in enumerate(scales)]
        parts = [tg.sin(y * factor).sum() for y, factor in zip(values, factors) if y.requires_grad]
        if not parts:
            break
        total = sum((part.astype("float64") for part in parts), zeros())
        grads = tg.grad(total, inputs, create_graph=True, allow_unused=True)
        values = [tg.zeros(x.shape, dtype=x.dtype) if g is None else g for g, x in zip(grads, inputs)]
        found += [g.numpy() for g in values]
    return found


# --- The loop by hand ---

CARRIED = ["mixed", "mixed", "same", "fresh", "count", None]
RETURNED = ["old", "new", "input", "weight", "product", "count", None]


def nests(kinds):
    """Nests whose leaves are names of what stands there."""
    return st.recursive(
        st.sampled_from(kinds),
        lambda inside: st.one_of(
            st.tuples(), st.tuples(inside), st.tuples(inside, inside), st.builds(Pair, inside, inside),
            st.lists(inside, max_size=2), st.dictionaries(st.sampled_from("abc"), inside, max_size=2),
        ),
        max_leaves=4,
    )  # fmt: skip


def step_of(carried, returned, weight, derived):
    """A step whose carry and output are these nests, each leaf made as its name says."""

    def step(carry, x):
        old = [part for part in leaves(carry) if part.dtype == np.float64]
        given_x = sum(leaves(x), zeros(2))
        past = sum((tg.sin(part * (1.0 + i)) for i, part in enumerate(old)), zeros(2))
        makers = {
            "mixed": lambda part: tg.tanh(weight * part + derived * past + given_x),
            "same": lambda part: part,
            "fresh": lambda part: given_x * weight,
            "count": lambda part: part + 1,
        }
        new = map_leaves(lambda kind, part: makers[kind](part), carried, carry)
        shown = {
            "old": [*old, given_x][0],
            "new": next((part for part in leaves(new) if part.dtype == np.float64), given_x),
            "input": leaves(x)[0],
            "weight": weight,
            "product": past * given_x * derived,
            "count": sum((part for part in leaves(carry) if part.dtype == np.int64), tg.tensor(0)),
        }
        return new, map_leaves(shown.get, returned)

    return step


@settings(max_examples=100, deadline=None)
@given(
    nests(CARRIED), nests(RETURNED), nests(["x", None]), st.integers(1, 5), st.booleans(),
    st.sampled_from([None, *PIECES]), st.sampled_from(["nothing", "weight", "xs", "init"]),
)  # fmt: skip
def test_scan_is_the_loop_by_hand(carried, returned, extra, steps, reverse, checkpoint, frozen):
    """Types and values of nests, gradients with respect to init, xs, a weight and what is made of it; their own too."""
    seeds, weight, source = iter(range(2, 100)), leaf(2, seed=0), leaf(2, seed=1)
    weight = weight.detach() if frozen == "weight" else weight
    derived = source * weight  # both are closed over, and one is made from the other
    xs = map_leaves(lambda _: leaf(steps, 2, seed=next(seeds)), {"first": "x", "extra": extra})
    init = map_leaves(lambda kind: tg.tensor(3) if kind == "count" else leaf(2, seed=next(seeds)), carried)
    xs = map_leaves(lambda t: t.detach(), xs) if frozen == "xs" else xs
    init = map_leaves(lambda t: t.detach(), init) if frozen == "init" else init
    inputs = [t for t in [weight, source, derived, *leaves(xs), *leaves(init)] if t.requires_grad]
    step = step_of(carried, returned, weight, derived)
    expected = by_hand(step, init, xs, reverse)
    found = tg.scan(step, init, xs, reverse=reverse, checkpoint=checkpoint)
    first, second = (repr(map_leaves(lambda t: t.requires_grad, nest)) for nest in (found, expected))
    assert first == second, "types of nests, and what needs a gradient"
    agree(derivatives(leaves(found), inputs), derivatives(leaves(expected), inputs))


def test_no_steps_look_at_one_and_leave_no_trace():
    calls = []
    carry, ys = tg.scan(lambda c, x: (calls.append(tg.dropout(x, 0.5)) or c, {"y": (x, None)}), 1.0, tg.ones(0, 4))
    assert (carry.item(), ys["y"][0].shape, ys["y"][1], len(calls)) == (1.0, (0, 4), None, 1)
    after = tg.rand(1).item()
    tg.manual_seed(0)
    assert after == tg.rand(1).item(), "the step that was only looked at drew numbers"


# --- In pieces: the same ---


def cases(h, x, w, k=None):
    """A step, init and xs; scans inside a step are in pieces too."""
    view, grown, rng = w[1], (w * 2.0).T, np.random.default_rng(5)

    def scan_in_scan(c, y):
        end, ys = tg.scan(lambda a, b: (tg.tanh(a @ w * b), a * y), c, x[:2], checkpoint=k)
        (g,) = tg.grad((end * y).sum(), [c], create_graph=True)
        return tg.tanh(c + g), ys.sum(0)

    def both_dtypes(c, y):
        return (tg.tanh(c[0] * y + c[1].astype("float64")), tg.sin(c[1] * y.astype("float32"))), (c[1], c[0])

    return {
        "scan in scan, and its gradient": (scan_in_scan, h, x),
        "checkpoint in the step": (lambda c, y: tg.checkpoint(plain(w), c, y), h, x),
        "init and xs are closed over": (lambda c, y: (c * w[0] + h, y * x[0] + h), h, x),
        "a weight is init and output": (lambda c, y: (w, c), w, x),
        "views": (lambda c, y: (tg.tanh(c[::-1] @ grown + view), y[1:]), h, x),
        "one value twice": (lambda c, y: ((z := c * y), (z, z, y)), h, x),
        "a part under no_grad": (lambda c, y: (tg.tanh(c + y) + tg.no_grad()(lambda: c * w[0])(), c), h, x),
        "dropout": (lambda c, y: plain(w)(tg.dropout(c, 0.5), tg.dropout(y, 0.3, rng=rng)), h, x),
        "both dtypes": (both_dtypes, (h, h.astype("float32")), x),
        "no steps": (plain(w), h, x[:0]),
        "no rows": (plain(w), h[None][:0], x[:, None][:, :0]),
    }


@pytest.mark.parametrize("case", cases(leaf(3), leaf(7, 3), leaf(3, 3)))
def test_pieces_give_the_same_to_the_third_derivative(case):
    inputs = leaf(3), leaf(7, 3, seed=1), leaf(3, 3, seed=2)
    # The third derivative is the cosine of large numbers, of which float32 knows the first digits only.
    order, e = (2, 1e-6) if case == "both dtypes" else (3, 1e-12)

    def run(checkpoint, around=False):
        tg.manual_seed(3)
        step, init, xs = cases(*inputs, checkpoint)[case]
        scan = lambda init, xs: tg.scan(step, init, xs, checkpoint=checkpoint)  # noqa: E731
        return derivatives(leaves(tg.checkpoint(scan, init, xs) if around else scan(init, xs)), inputs, order)

    expected = run(None)
    for checkpoint, around in [*((k, False) for k in PIECES), (3, True)]:
        agree(run(checkpoint, around), expected, e)


def test_transforms_go_through_pieces():
    h, x, w = leaf(2), leaf(4, 2, seed=1), leaf(2, 2, seed=2)
    inner = lambda h, x, w: list(tg.scan(plain(w), h, x, checkpoint=2))  # noqa: E731
    assert tg.gradcheck(inner, [h, x, w], atol=1e-7, rtol=1e-6)
    assert tg.gradgradcheck(inner, [h, x, w], atol=1e-6, rtol=1e-5)
    at, made = x.detach(), []
    for k in (None, 3):
        end = lambda x, k=k: tg.scan(plain(w), h, x, checkpoint=k)[0]  # noqa: E731
        total = lambda x, end=end: tg.sin(end(x)).sum()  # noqa: E731
        found = tg.jacobian(end, at), *tg.jvp(end, [at], [at * 2.0]), tg.hvp(total, at, at), tg.hessian(total, at)
        made.append([t.numpy() for t in found])
    agree(*made)


def test_backward_again_and_hooks_on_what_is_outside():
    runs = []
    for k in (None, 1, 3, "sqrt"):
        h, x, w, seen = leaf(3), leaf(7, 3, seed=1), leaf(3, 3, seed=2), []
        w.register_hook(lambda g, seen=seen: seen.append(1) or g * 2.0)
        carry, ys = tg.scan(plain(w), h, x, checkpoint=k)
        carry.retain_grad()
        ys.register_hook(lambda g: g * 3.0)
        loss = carry.sum() + (ys * ys).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        assert seen == [1, 1]
        runs.append([t.grad.numpy() for t in (h, x, w, carry)])
        agree(runs[-1], runs[0])
        with pytest.raises(GraphError, match="freed"):
            loss.backward()
        assert not tg.no_grad()(tg.scan)(plain(w), h, x, checkpoint=k)[0].requires_grad


# --- In pieces: right, or refused ---


def never_wrong_in_silence(run):
    """run(checkpoint), a list of arrays, is in pieces what it is without, or an error."""
    expected = None
    for checkpoint in (None, 1, 2):
        with contextlib.suppress(GraphError):
            found = run(checkpoint)
            expected = found if checkpoint is None else expected
            assert expected is not None, "an error without pieces, and none with them"
            agree(found, expected)


def test_an_output_that_nothing_uses_changes_no_gradient():
    """Its derivative may be infinite, and zero times that is no number."""
    for k in (None, 1, 2):
        x, w = tg.tensor(np.array([[1.0, 2.0], [0.0, 1.0]]), requires_grad=True), leaf(2, seed=1)
        carry, _ = tg.scan(lambda c, y, w=w: (c + tg.sin(y), tg.sqrt(y) * w), zeros(2), x, checkpoint=k)
        carry.sum().backward()
        agree([x.grad.numpy()], [np.cos(x.numpy())])
        assert w.grad is None, "nothing that was used depends on it"


BESIDE = ["a value kept", "the past kept", "a hook on c", "a hook on w", "retain_grad", "a leaf", "grad of all"]


@pytest.mark.parametrize("what", BESIDE)
def test_what_a_step_does_beside_its_carry(what):
    def run(k):
        w, x, kept = leaf(3, 3), leaf(4, 3, seed=1), {-1: zeros(3)}

        def step(c, xs):
            y, t = xs[0], xs[1].item()
            if what.startswith("a hook") and c.requires_grad:
                (c if what == "a hook on c" else w).register_hook(lambda g: tg.clip(g * 1.1, -0.5, 0.5))
            kept[t] = new = tg.tanh((kept[t - 1] if what == "the past kept" else c) @ w + y)
            if what == "retain_grad":
                new.retain_grad()
            if what == "a leaf":
                kept[t] = tg.tensor(np.ones(3), requires_grad=True)
                new = new * kept[t]
            if what == "grad of all":
                new = new + tg.grad(new.sum(), [w], retain_graph=True)[0].sum()
            return new, new

        carry, ys = tg.scan(step, zeros(3), (x, tg.arange(4)), checkpoint=k)
        (carry.sum() + (ys * ys).sum() + (kept[2].sum() if what == "a value kept" else 0.0)).backward()
        inner = [kept[2].grad] if what in ("retain_grad", "a leaf") else []
        return [ys.numpy(), *[np.zeros(0) if g is None else g.numpy() for g in [w.grad, x.grad, *inner]]]

    never_wrong_in_silence(run)


UNSEEN = ["a constant", "one of many", "a truth", "an index", "draws", "draws by inf", "a cut carry", "a cut output"]


@pytest.mark.parametrize("what", UNSEEN)
def test_a_change_that_the_outputs_do_not_show(what):
    """What is behind a gate of zero is written, numbers come from elsewhere, a flag cuts the graph."""

    def run(k):
        gate, x, ones = tg.tensor(np.zeros(3), requires_grad=True), leaf(4, 3), tg.tensor(np.ones(3))
        truth, index, minus = tg.tensor([True, True, False]), tg.tensor([2, 0, 1]), tg.tensor(np.array([-np.inf]))
        wide, many = tg.ones(1000, 1000, requires_grad=True), tg.ones(1000, 1000)
        noise, cut = np.random.default_rng(0), [False]
        steps = {
            "a constant": lambda c, y: (c, gate * (y * ones)),
            "one of many": lambda c, y: (c, (wide * many).sum(0)),
            "a truth": lambda c, y: (c, tg.where(truth, gate, zeros(3)) * y),
            "an index": lambda c, y: (c, gate[index] * y),
            "draws": lambda c, y: (c, gate * (y * tg.tensor(noise.normal(size=3)))),
            "draws by inf": lambda c, y: (c, tg.concat([(1.0 + gate) * tg.tensor(noise.normal(size=3)), minus])),
            "a cut carry": lambda c, y: (tg.tanh((c.detach() if cut[0] else c) + y), c),
            "a cut output": lambda c, y: (c, ((c * y).detach() if cut[0] else c * y, tg.sin(y))),
        }
        carry, ys = tg.scan(steps[what], leaf(3, seed=1), x, checkpoint=k)
        loss = carry.sum() + sum((y[:, :3] * (1.0 + i)).sum() for i, y in enumerate(leaves(ys)))
        ones[0], many[0, 1], truth[0], index[0], cut[0] = 5.0, 0.0, False, 1, True
        loss.backward()
        return [g.numpy() for g in (t.grad for t in (x, gate, wide)) if g is not None]

    never_wrong_in_silence(run)


@pytest.mark.parametrize("what", ["weight", "input", "constant", "frozen", "optimizer"])
def test_changes_before_backward_are_errors(what):
    w, x, m = leaf(3, 3), leaf(5, 3, seed=1), tg.tensor(np.ones(3))
    carry, _ = tg.scan(lambda c, y: (tg.tanh(c @ w * m + y), c), zeros(3), x, checkpoint=2)
    with tg.no_grad():
        if what == "frozen":
            w.requires_grad = False
        elif what == "optimizer":
            w.grad = w
            tg.optim.SGD([w], lr=0.1).step()
        else:
            {"weight": w, "input": x, "constant": m}[what][0] = 1.5
    with pytest.raises(GraphError, match=r"in place|second time[\s\S]*requires_grad"):
        carry.sum().backward()


def test_a_step_that_fails_or_differs_the_second_time_is_an_error_and_leaves_nothing_behind():
    calls, x = [], leaf(6)
    failing = lambda c, y: (calls.append(1) or c + tg.dropout(y, 0.5), 6 // (7 - len(calls)))  # noqa: E731
    carry, _ = tg.scan(failing, zeros(), x, checkpoint=2)
    with pytest.raises(ZeroDivisionError):
        carry.backward()
    assert tg.exp(x).node.place is None
    assert tg.rand(1).item() != tg.rand(1).item()
    counting = lambda c, y: (calls.append(1) or c + y * len(calls), c)  # noqa: E731
    with pytest.raises(GraphError, match="something else the second time"):
        tg.scan(counting, zeros(), x, checkpoint=2)[0].backward()


# --- Errors ---


def wrong():
    """A step, its xs, the error and what it says."""
    x, zero = tg.ones(3, 2), tg.zeros(2)

    def later(first, then):
        """A step whose output is something else from its third call on."""
        outputs = itertools.chain([first, first], itertools.repeat(then))
        return lambda c, x: (c, next(outputs))

    return {
        "one thing": (lambda c, x: c, x, ShapeError, r"two things\n.*\(carry, y\)\n.*Tensor\n.*step 0$"),
        "three things": (lambda c, x: (c, x, x), x, ShapeError, r"two things\n.*\n.*3 parts\n.*step 0$"),
        "one thing, no steps": (lambda c, x: c, x[:0], ShapeError, r"two things\n.*\(carry, y\)"),
        "a shape": (lambda c, x: (c[:1], x), x, ShapeError, r"another state.*\n.*\(2,\)\n.*\(1,\)\n.*\n.*step 0$"),
        "a dtype": (lambda c, x: (c.astype("float64"), x), x, ShapeError, r"float32.*\n.*float64.*\n.*\n.*step 0$"),
        "an output's nest": (later(zero, (zero,)), x, ShapeError, r"another output[\s\S]*step 2$"),
        "no output later": (later(zero, None), x, ShapeError, r"another output[\s\S]*step 2$"),
        "more output": (later((zero,), (zero, zero)), x, ShapeError, r"another output[\s\S]*step 2$"),
        "other keys": (later({"a": zero}, {"b": zero}), x, ShapeError, r"another output[\s\S]*step 2$"),
        "an output's shape": (later(zero, zero[:1]), x, ShapeError, r"\(2,\)[\s\S]*\(1,\)[\s\S]*step 2$"),
        "no number": (lambda c, x: ("a", x), x, DtypeError, r"step 0$"),
        "no time": (lambda c, x: (c, x), tg.zeros(()), ShapeError, r"time is the first axis.*\n.*\n.*tensor \(\)"),
        "two times": (lambda c, x: (c, x), (x, x[1:]), ShapeError, r"same T\n.*\(3, 2\).*\(2, 2\)"),
        "nothing": (lambda c, x: (c, x), {"a": None}, ShapeError, r"at least one tensor[\s\S]*arange"),
        "inside": (lambda c, x: (c + tg.zeros(5), x), x, ShapeError, r"add.*\n[\s\S]*in .* step 0$"),
    }


@pytest.mark.parametrize("checkpoint", [None, 1, 2])
@pytest.mark.parametrize("what", wrong())
def test_errors_say_expected_got_and_step(what, checkpoint):
    step, xs, kind, says = wrong()[what]
    with pytest.raises(kind, match=says):
        tg.scan(step, tg.zeros(2), xs, checkpoint=checkpoint)


def test_a_carry_of_another_nest_is_an_error_though_its_tensors_fit():
    a, x = tg.zeros(2), tg.ones(1)
    for init, then in [((a, (a, a)), ((a, a), a)), ((a, None), (None, a)), ({"a": a}, {"b": a}), ([a, ()], [(), a])]:
        with pytest.raises(ShapeError, match=r"another state[\s\S]*step 0$"):
            tg.scan(lambda c, x, then=then: (then, x), init, x)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_checkpoint_is_known_and_numpy_s_integers_are(steps):
    for wrong in (0, -1, True, 2.0, "root", ()):
        with pytest.raises(ArgumentError, match=r"no such checkpoint[\s\S]*sqrt"):
            tg.scan(lambda c, x: (c, x), 0.0, tg.ones(steps), checkpoint=wrong)
    assert tg.scan(lambda c, x: (c + x, x), 0.0, tg.ones(steps), checkpoint=np.int64(2))[0].item() == steps


@pytest.mark.parametrize("reverse", [False, True])
def test_other_errors_and_anomalies_name_the_step_too(reverse):
    at, x = f"layer 0{' reverse' if reverse else ''} step 1", tg.tensor(np.array([1.0, 0.0, 2.0]), requires_grad=True)
    with pytest.raises(ZeroDivisionError) as caught:
        tg.scan(lambda c, i: (tg.tensor(1 // (int(i) - 1)), i), 1, tg.arange(3), reverse=reverse, checkpoint=2)
    assert at in getattr(caught.value, "__notes__", [at])[0]  # Python 3.11
    with tg.detect_anomaly(), pytest.raises(AnomalyError, match=f"backward of sqrt.*{at}"):
        tg.scan(lambda c, y: (c, tg.sqrt(y)), 0.0, x, reverse=reverse, checkpoint=2)[1].sum().backward()
