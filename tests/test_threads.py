"""Several threads, and several processes, at once: right gradients, and never a hang.

Every test runs a program of its own in a process with a time limit, so that a deadlock is a failure.
"""

from __future__ import annotations

import os

import pytest
from programs import run

from tinygrad_rnn import settings

compiled = pytest.mark.skipif(not settings.jit_enabled, reason="the jit is off: nothing is compiled")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


# --- Threads ---


@pytest.mark.parametrize("count", [2, 4])
def test_threads_find_what_one_finds_alone(count):
    program = f"""
    expected = [work(seed) for seed in range(12)]
    trained = [train(seed) for seed in range({count})]

    def run(i):
        for round in range(2):
            for seed in range(12):
                agree(work((seed + 3 * i) % 12), expected[(seed + 3 * i) % 12])
            agree(train(i), trained[i])

    together({count}, run)
    assert all(p.grad is None for p in shared)
    print("right")
    """
    assert run(program) == ["right"]


@compiled
@pytest.mark.parametrize("kept", [True, False], ids=["fresh cache", "no cache"])
def test_the_first_compilation_by_four_threads_at_once(tmp_path, kept):
    program = """
    def step(i):
        x = tg.tensor(np.linspace(-2, 2, 12).reshape(4, 3) + i, requires_grad=True)
        y = tg.tanh(x) * tg.sigmoid(x[np.array([0, 0, 1, 3])])
        y.sum().backward()
        return [y.numpy(), x.grad.numpy()]

    found = {}
    together(4, lambda i: found.__setitem__(i, step(i)))
    for i in range(4):
        x = np.linspace(-2, 2, 12).reshape(4, 3) + i
        s = 1 / (1 + np.exp(-x[[0, 0, 1, 3]]))
        expected = (1 - np.tanh(x) ** 2) * s
        np.add.at(expected, [0, 0, 1, 3], np.tanh(x) * s * (1 - s))
        agree(found[i], [np.tanh(x) * s, expected])
        agree(found[i], step(i))
    print("right")
    """
    cache = tmp_path / "cache"
    if not kept:
        cache.write_text("not a folder")
    assert run(program, cache=cache) == ["right"]
    assert not kept or not list(cache.rglob("*.tmp"))


FUSED = """
    import os
    layer = tg.nn.LSTM(48, 64, engine="fused", rng=np.random.default_rng(0))
    inputs = [np.random.default_rng(i).standard_normal((32, 12, 48)).astype(np.float32) for i in range(4)]

    def turn(i):
        x = tg.tensor(inputs[i], requires_grad=True)
        y, _ = layer(x)
        return [y.numpy(), *[g.numpy() for g in tg.grad((y * y).sum(), [x, *layer.parameters()])]]

    tg.set_num_threads(1)
    expected = [turn(i) for i in range(4)]

    def right(i):
        return all(np.abs(a - b).max() <= 1e-5 * np.abs(b).max() for a, b in zip(turn(i), expected[i]))
"""


@compiled
def test_fused_layers_from_several_threads_each_on_several():
    program = f"""
    {FUSED}
    tg.set_num_threads(2)
    wrong = []

    def run(i):
        for _ in range(40):
            if not right(i):
                wrong.append(i)

    together(4, run)
    tg.set_num_threads(3)  # a larger pool, while the threads of the first still sleep
    together(2, run)
    print(wrong or "right")
    """
    assert run(program) == ["right"]


@compiled
@forks
def test_fused_layers_after_a_fork():
    program = f"""
    {FUSED}
    tg.set_num_threads(2)
    assert right(0)
    child = os.fork()
    if not child:
        os._exit(0 if all(right(i) for i in range(4)) else 1)
    print("right" if all(right(i) for i in range(4)) and os.waitpid(child, 0)[1] == 0 else "wrong")
    """
    assert run(program) == ["right"]


def test_recording_is_a_matter_of_each_thread():
    program = """
    x = tg.tensor(np.ones(2), requires_grad=True)

    def quiet(i):
        for _ in range(200):
            with tg.no_grad():
                assert not tg.is_grad_enabled() and not (x * x).requires_grad
                with tg.enable_grad():
                    assert (x * x).requires_grad
                assert not (x * x).requires_grad
            assert tg.is_grad_enabled()

    def loud(i):
        for n in range(200):
            y = x
            with tg.Tape() as tape:
                for _ in range(n % 7):
                    y = tg.tanh(y)
            assert [node.op.name for node in tape] == ["tanh"] * (n % 7)
            assert tg.grad(y, x, np.ones(2)).shape == (2,) and tg.is_grad_enabled()

    together(4, lambda i: (quiet, loud)[i % 2](i))
    print("right")
    """
    assert run(program) == ["right"]


def test_a_write_is_noticed_whatever_other_threads_write():
    program = """
    x = tg.tensor(np.ones(2), requires_grad=True)

    def run(i):
        for n in range(500):
            c, d = tg.tensor(np.ones(2)), tg.tensor(np.ones(2))
            stale = c * x
            c += 1.0
            try:
                tg.grad(stale, x, np.ones(2))
            except GraphError:
                pass
            else:
                raise AssertionError(f"the gradient after a write, in round {n}")
            tg.grad(d * x, x, np.ones(2))  # not this one

    together(6, run)
    print("right")
    """
    assert run(program) == ["right"]


def test_a_write_is_noticed_while_another_thread_is_in_the_midst_of_one():
    """The other thread has drawn its number, an older one, and says so only after the write that counts here."""
    program = """
    from tinygrad_rnn.autograd import tape
    x, c, buffer = tg.tensor(np.ones(2), requires_grad=True), tg.tensor(np.ones(2)), tg.tensor(np.ones(2))
    real, drawn, go = tape.tick, threading.Event(), threading.Event()

    def paused():
        number = real()
        if threading.current_thread() is other:
            drawn.set()
            go.wait(0.5)  # no longer: this thread may have to wait for the other's write to end
        return number

    tape.tick = paused
    other = threading.Thread(target=lambda: buffer.copy_(2.0))
    other.start()
    drawn.wait()
    stale = c * x
    c += 1.0
    go.set()
    other.join()
    try:
        tg.grad(stale, x, np.ones(2))
    except GraphError:
        print("noticed")
    """
    assert run(program) == ["noticed"]


# --- Processes ---

IN_WORKERS = """
    def child(seed, connection):
        big = np.random.default_rng(1).normal(size=(600, 600))
        connection.send((work(seed), float((tg.tensor(big) @ tg.tensor(big)).sum().item())))

    def main(way):
        import multiprocessing
        context = multiprocessing.get_context(way)
        big = np.random.default_rng(1).normal(size=(600, 600))
        total = float((tg.tensor(big) @ tg.tensor(big)).sum().item())
        np.matmul(big, big)  # on all threads that BLAS has
        expected = [work(seed) for seed in range(3)]
        pairs = [context.Pipe(duplex=False) for _ in range(3)]
        workers = [context.Process(target=child, args=(i, pairs[i][1])) for i in range(3)]
        for worker in workers:
            worker.start()
        for i, worker in enumerate(workers):
            assert pairs[i][0].poll(60), "a worker says nothing"
            found, product = pairs[i][0].recv()
            agree(found, expected[i])
            assert abs(product - total) <= 1e-9 * abs(total)
            worker.join(60)
            assert worker.exitcode == 0
        print("right")

    if __name__ == "__main__":
        main({way!r})
"""


@pytest.mark.parametrize("way", [pytest.param("fork", marks=forks), "spawn"])
def test_workers_find_what_their_parent_finds(tmp_path, way):
    assert run(IN_WORKERS.replace("{way!r}", repr(way)), path=tmp_path / "program.py") == ["right"]


FORKING = """
    from tinygrad_rnn.kernels.codegen import jit

    def forked(function, limit):
        \"\"\"The exit code of a child that runs a function; None where it hangs.\"\"\"
        number = os.fork()
        if number == 0:
            code = 1
            try:
                function()
                code = 0
            finally:
                os._exit(code)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            found, status = os.waitpid(number, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(number, 9)
        os.waitpid(number, 0)
        return None

    def compute():
        x = tg.tensor(np.array([0.5, -1.0]), requires_grad=True)
        tg.tanh(x).sum().backward()
        agree([x.grad.numpy()], [1 - np.tanh([0.5, -1.0]) ** 2])
"""


@forks
@compiled
def test_a_fork_while_another_thread_compiles(tmp_path):
    program = """
    compiling = threading.Thread(target=compute)
    compiling.start()
    codes = []
    while compiling.is_alive() or not codes:
        codes.append(forked(compute, 60))
        time.sleep(0.05)
    compiling.join()
    codes.append(forked(compute, 60))
    assert set(codes) == {0}, codes
    print("right")
    """
    assert run(FORKING, program, cache=tmp_path / "cache") == ["right"]


@forks
def test_forks_while_another_thread_multiplies():
    """Products of this size run on one thread here. NumPy's own `a @ b` on several threads does hang a fork."""
    program = """
    large = np.random.default_rng(1).normal(size=(600, 600))
    np.matmul(large, large)  # BLAS has its threads from here on
    some = tg.tensor(large[:200, :200], requires_grad=True)
    rows, columns, enough = some.numpy().sum(0), some.numpy().sum(1), threading.Event()

    def multiply():
        while not enough.is_set():
            tg.grad((some @ some).sum(), some)

    def once():
        agree([tg.grad((some @ some).sum(), some).numpy()], [columns + rows[:, None]])

    once()
    busy = threading.Thread(target=multiply)
    busy.start()
    codes = {forked(once, 30) for _ in range(20)}
    enough.set()
    busy.join()
    assert codes == {0}, codes
    print("right")
    """
    assert run(FORKING, program) == ["right"]


@forks
def test_a_fork_during_another_threads_first_product():
    """Finding NumPy's BLAS walks the loaded libraries, under the loader's lock: no child may inherit that in use."""
    program = """
    import threadpoolctl
    real, loader, inside = threadpoolctl.ThreadpoolController, threading.Lock(), threading.Event()

    def slow():
        with loader:
            inside.set()
            time.sleep(1.0)
            return real()

    threadpoolctl.ThreadpoolController = slow
    some = tg.tensor(np.ones((3, 3)))
    other = threading.Thread(target=lambda: some @ some)
    other.start()
    inside.wait()
    print(forked(lambda: some @ some, 10))
    other.join()
    """
    assert run(FORKING, program) == ["0"]


HELD = """
    held, enough = threading.Event(), threading.Event()

    def hold():
        with jit.lock:  # as a thread does that compiles
            held.set()
            enough.wait(1.0)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    print(forked(compute, 8))
    holder.join()
"""


@forks
@compiled
def test_a_fork_while_another_thread_holds_the_lock():
    assert run(FORKING, HELD) == ["0"]


@forks
@compiled
def test_without_precautions_that_fork_hangs():
    """The test above can fail: here nothing is registered for a fork."""
    before = "import os\nos.register_at_fork = lambda **functions: None\n"
    assert run(FORKING, HELD.replace("compute, 8", "compute, 2"), before=before) == ["None"]
