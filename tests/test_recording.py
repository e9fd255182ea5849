"""Recording: who records, on which tapes, in which thread, and that exceptions leave no trace."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.tape import thread
from tinygrad_rnn.errors import GraphError


def leaf(*values, dtype="float64"):
    return tg.tensor(np.array(values, dtype), requires_grad=True)


# --- Whether anything is recorded ---


def test_no_grad_nested_with_enable_grad_as_context_and_decorator():
    x = leaf(2.0)
    assert tg.is_grad_enabled()
    with tg.no_grad():
        assert not (x * x).requires_grad
        with tg.enable_grad():
            assert (x * x).requires_grad
            with tg.no_grad():
                assert not (x * x).requires_grad
            assert (x * x).requires_grad
        assert not tg.is_grad_enabled()
    assert tg.is_grad_enabled()

    @tg.no_grad()
    def quiet(n):
        """Doc."""
        assert not tg.is_grad_enabled()
        return quiet(n - 1) if n else x * x

    @tg.enable_grad()
    def loud():
        return x * x

    assert quiet.__name__ == "quiet"
    assert quiet.__doc__ == "Doc."
    assert not quiet(3).requires_grad
    assert tg.is_grad_enabled()
    with tg.no_grad():
        assert loud().requires_grad


@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt, GraphError])
def test_every_state_of_the_thread_is_restored_after_an_exception(trouble):
    x = leaf(1.0)

    def fail(g):
        assert not tg.is_grad_enabled()
        raise trouble("on purpose")

    with pytest.raises(trouble), tg.no_grad(), tg.enable_grad(), tg.Tape():
        raise trouble("on purpose")
    assert tg.is_grad_enabled()
    assert thread.state.watchers == ()
    x.register_hook(fail)
    with pytest.raises(trouble), tg.Tape():
        (x * x).backward()
    assert tg.is_grad_enabled()
    assert thread.state.watchers == ()
    before = np.geterr()
    reusable = tg.no_grad()
    for _ in range(2):
        with reusable, reusable:
            pass
    assert tg.is_grad_enabled()
    assert np.geterr() == before


def test_no_grad_holds_for_its_thread_only():
    seen = {}

    def other():
        seen["enabled"] = tg.is_grad_enabled()
        seen["watchers"] = thread.state.watchers

    with tg.no_grad(), tg.Tape():
        worker = threading.Thread(target=other)
        worker.start()
        worker.join()
    assert seen == {"enabled": True, "watchers": ()}


def test_threads_build_graphs_at_once_over_shared_leaves():
    w = leaf(*np.linspace(0.1, 0.9, 7))
    expected, found, failures = {}, {}, []

    def compute(seed):
        rng = np.random.default_rng(seed)
        y = w
        for _ in range(60):
            y = tg.tanh(y * tg.tensor(rng.normal(size=7)) + w[rng.integers(0, 7, 7)])
        return tg.grad((y * y).sum(), w).numpy()

    def run(seed):
        try:
            found[seed] = compute(seed)
        except BaseException as trouble:
            failures.append(trouble)

    for seed in range(8):
        expected[seed] = compute(seed)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    for seed in range(8):
        np.testing.assert_array_equal(found[seed], expected[seed])
    assert w.grad is None


# --- The tape ---


def test_tapes_nest_and_record_under_no_grad_and_print():
    x, w = tg.tensor([1.0, 2.0]), leaf(1.0, 1.0, dtype="float32")
    with tg.Tape() as outer:
        y = x * w
        with tg.no_grad(), tg.Tape() as inner:
            z = tg.tanh(y).named("gate")
        u = z.sum() + 1.0
    tg.exp(u)
    assert [node.op.name for node in outer] == ["multiply", "tanh", "sum", "add"]
    assert [node.op.name for node in inner] == ["tanh"]
    assert len(outer) == 4
    lines = str(outer).splitlines()
    names = [line.split("=", 1)[1].split("(")[0].split()[0] for line in lines]
    assert [n for n in names if n != "leaf"] == ["multiply", "tanh", "sum", "add"]
    assert "# gate" in str(inner)
    numbers = {line.split()[0] for line in lines}
    for line in lines:  # every value that is used was numbered before
        used = {word.strip("(),") for word in line.split("=", 1)[1].split() if word.strip("(),").startswith("%")}
        assert used <= numbers
    assert str(tg.Tape()) == ""


def test_a_tape_changes_no_gradient():
    def run():
        x, c = leaf(1.0, 2.0), tg.tensor([3.0, 4.0])
        y = (tg.tanh(c) * c)[::-1] * x
        return tg.grad((y * y).sum(), x).numpy()

    plain = run()
    with tg.Tape(), tg.Tape():
        np.testing.assert_array_equal(run(), plain)


def test_a_tape_and_a_picture_show_the_numbers_in_an_equation():
    gate = tg.tensor([0.25, 0.5], requires_grad=True)
    with tg.Tape() as tape:
        (1.0 - gate) * 2
    assert "subtract(1.0, %0)" in str(tape)
    assert "multiply(%1, 2)" in str(tape)
    layer = tg.nn.GRU(2, 2)
    picture = tg.viz.graph(layer(tg.ones(2, 1, 2))[0], level="gate", module=layer)
    assert "(1 − update gate) × candidate" in picture.source


def test_no_grad_on_a_generator_holds_between_its_yields_only():
    x = tg.tensor([1.0], requires_grad=True)
    log = []

    @tg.no_grad()
    def halves():
        try:
            while True:
                log.append((yield x * 0.5))
                log.append((x * 2.0).requires_grad)
        except KeyError:
            yield x * 3.0
        return "done"

    steps = halves()
    assert not next(steps).requires_grad
    assert (x * 2.0).requires_grad
    assert not steps.send("sent").requires_grad
    assert log == ["sent", False]
    assert not steps.throw(KeyError).requires_grad
    with pytest.raises(StopIteration, match="done"):
        next(steps)
    again = halves()
    next(again)
    again.close()
    assert (x * 2.0).requires_grad


def test_one_object_may_serve_two_threads():
    quiet, inside, done, seen = tg.no_grad(), threading.Event(), threading.Event(), []

    def other():
        inside.wait(10)
        with quiet:
            seen.append(tg.is_grad_enabled())
        seen.append(tg.is_grad_enabled())
        done.set()

    worker = threading.Thread(target=other)
    worker.start()
    with quiet:
        inside.set()
        done.wait(10)
        seen.append(tg.is_grad_enabled())
    worker.join()
    assert seen == [False, True, False]
    assert tg.is_grad_enabled()


def test_several_threads_add_to_the_gradient_of_one_leaf():
    w, x = tg.ones(300, 300, dtype="float64", requires_grad=True), tg.ones(50, 300, dtype="float64")

    def work():
        for _ in range(50):
            (x @ w).sum().backward()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(w.grad, 4 * 50 * 50.0)


def test_a_leaf_that_is_frozen_before_backward_gets_no_gradient():
    x, w = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    y = (x * w).sum()
    w.requires_grad = False
    y.backward()
    assert w.grad is None
    assert x.grad is not None
