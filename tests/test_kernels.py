"""Kernels: accuracy over the whole range, and a door to Numba that no trouble with the cache can close."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import scipy.special

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.kernels.codegen import jit

compiled = pytest.mark.skipif(not settings.jit_enabled, reason="the jit is off: the references are NumPy's")

# --- Accuracy ---

EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan]


def grid(dtype, low, high):
    """Numbers over the whole range: dense in [low, high], every magnitude down to the denormals, and the edges."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    parts = [
        np.linspace(low, high, 400_001),
        rng.uniform(low, high, 200_000),
        rng.uniform(-1, 1, 100_000),
        2.0 ** np.linspace(info.minexp - info.nmant, info.maxexp - 1, 50_000),
        np.array([float(info.smallest_subnormal), float(info.tiny), float(info.eps), float(info.max), *EDGES]),
        np.arange(-200, 201) * np.log(2.0) / 2,
    ]
    x = np.concatenate(parts).astype(dtype)
    x = np.concatenate([x, -x])
    return np.concatenate([x, np.nextafter(x, dtype(0))])


REFERENCES = {
    "exp": (np.exp, 4, (-120.0, 100.0), (-760.0, 720.0)),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 4, (-120.0, 100.0), (-760.0, 60.0)),
    "tanh": (np.tanh, 8, (-12.0, 12.0), (-25.0, 25.0)),
}


def stable_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


@compiled
@pytest.mark.parametrize("name", REFERENCES)
def test_float32_is_good_to_a_few_units_in_the_last_place(name):
    reference, ulps, span, _ = REFERENCES[name]
    x = grid(np.float32, *span)
    with np.errstate(all="ignore"):
        got = getattr(tg, name)(tg.from_numpy(x)).numpy()
        wide = stable_sigmoid(x.astype(np.float64)) if name == "sigmoid" else reference(x.astype(np.float64))
        expected = wide.astype(np.float32)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[np.isinf(expected)], expected[np.isinf(expected)])
    unit = np.spacing(np.abs(expected[finite])).astype(np.float64)
    error = np.abs(got[finite].astype(np.float64) - wide[finite]) / unit
    worst = int(np.argmax(error))
    assert error[worst] <= ulps, f"{name}({x[finite][worst]!r}) is {error[worst]:.1f} ulp off"


@compiled
@pytest.mark.parametrize("name", REFERENCES)
def test_float64_is_good_to_1e_14(name):
    reference, _, _, span = REFERENCES[name]
    x = grid(np.float64, *span)
    with np.errstate(all="ignore"):
        got = getattr(tg, name)(tg.from_numpy(x)).numpy()
        if np.finfo(np.longdouble).eps < 1e-18:
            long = x.astype(np.longdouble)
            expected = stable_sigmoid(long) if name == "sigmoid" else reference(long)
        else:  # systems whose long double is a double
            expected = scipy.special.expit(x) if name == "sigmoid" else reference(x)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
        rounded = expected.astype(np.float64)
    np.testing.assert_array_equal(got[np.isinf(rounded)], rounded[np.isinf(rounded)])
    normal = np.isfinite(rounded) & (np.abs(rounded) >= np.finfo(np.float64).tiny)
    error = np.abs((got[normal] - expected[normal]) / expected[normal])
    worst = int(np.argmax(error))
    assert error[worst] <= 1e-14, f"{name}({x[normal][worst]!r}) is {float(error[worst]):.1e} off"
    tail = np.isfinite(rounded) & ~normal
    assert np.max(np.abs(got[tail] - rounded[tail]), initial=0.0) <= 4 * np.finfo(np.float64).smallest_subnormal


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_at_the_edges(dtype):
    x = np.array(EDGES, dtype)
    table = {
        "exp": [1, 1, np.inf, 0, np.nan],
        "sigmoid": [0.5, 0.5, 1, 0, np.nan],
        "tanh": [0.0, -0.0, 1, -1, np.nan],
        "softplus": [np.log(2), np.log(2), np.inf, 0, np.nan],
        "relu": [0, 0, np.inf, 0, np.nan],
        "erf": [0.0, -0.0, 1, -1, np.nan],
    }
    for name, expected in table.items():
        with np.errstate(all="ignore"):
            got = getattr(tg, name)(tg.tensor(x)).numpy()
            alone = [getattr(tg, name)(tg.tensor(one)).numpy() for one in x]  # a kernel's remainder loop differs
        np.testing.assert_allclose(got, np.array(expected, dtype), rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(got, np.array(alone), rtol=1e-6)
        if name in ("tanh", "erf"):
            np.testing.assert_array_equal(np.signbit(got[:2]), [False, True])


@compiled
@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh", "softplus"])
def test_compiled_kernels_raise_no_warning_that_numpy_would_not(name):
    x = np.array([0.0, -1e4, -90.0, 3e-39, 1.0] * 5, np.float32)
    for t in (x, x[::2], x[:3], x[0]):
        getattr(tg, name)(tg.tensor(t))


@compiled
@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh", "softplus"])
def test_values_do_not_depend_on_the_place_in_the_array(name):
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        x = rng.normal(scale=5, size=67).astype(dtype)
        whole = getattr(tg, name)(tg.tensor(x)).numpy()
        for start, stop, step in ((0, 1, 1), (3, 40, 1), (0, 67, 3), (66, None, -2)):
            part = getattr(tg, name)(tg.from_numpy(x[start:stop:step])).numpy()
            np.testing.assert_array_equal(part, whole[start:stop:step])


# --- The door ---

STEP = """
import numpy as np, warnings
import tinygrad_rnn as tg
x = tg.tensor(np.linspace(-2, 2, 12).reshape(4, 3), dtype="float32", requires_grad=True)
y = tg.tanh(x) * tg.sigmoid(x[np.array([0, 0, 1, 3])])
y.sum().backward()
a = x.numpy().astype(float)
s = 1 / (1 + np.exp(-a[[0, 0, 1, 3]]))
expected = (1 - np.tanh(a) ** 2) * s
np.add.at(expected, [0, 0, 1, 3], np.tanh(a) * s * (1 - s))
assert abs(x.grad.numpy() - expected).max() < 1e-6
x.grad = tg.ones_like(x)
before = x.numpy().copy()
tg.optim.SGD([x], 0.5).step()
assert abs(x.numpy() - (before - 0.5)).max() < 1e-6
print("right")
"""


LIGHT = """
import numpy as np, tinygrad_rnn as tg
x = np.linspace(-2, 2, 12)
assert abs(tg.tanh(tg.tensor(x)).numpy() - np.tanh(x)).max() < 1e-14
print("right")
"""


def start(code, cache, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TINYGRAD_RNN", "NUMBA", "PYTHON"))}
    env.update({"TINYGRAD_RNN_CACHE": str(cache), **environment})
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        env={k: v for k, v in env.items() if v is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(__file__),
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def run(code, cache, **environment):
    return finish(start(code, cache, **environment))


def listing(folder):
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache that one process has filled."""
    folder = tmp_path_factory.mktemp("cache")
    out, err = run(STEP, folder)
    assert "right" in out
    assert "Warning" not in err
    assert err.count("compiling") == 1
    return folder


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A cache that holds one kernel."""
    folder = tmp_path_factory.mktemp("light")
    run(LIGHT, folder)
    return folder


@compiled
def test_a_second_process_compiles_nothing(warm):
    before = listing(warm)
    assert any(name.endswith(".nbc") for name in before)
    code = "import numba.core.compiler as c, tinygrad_rnn\nreal = c.CompilerBase.compile_extra\n"
    code += "def refuse(*a, **k): raise SystemExit('compiled')\nc.CompilerBase.compile_extra = refuse\n"
    out, err = run(code + STEP, warm)
    assert "right" in out
    assert err == ""
    assert listing(warm) == before


@compiled
def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path):
    obstacle = tmp_path / "file"
    obstacle.write_text("not a folder")
    out, err = run(LIGHT + LIGHT.replace("tanh", "exp").replace("14", "13"), obstacle / "below")
    assert "right" in out
    assert err.count("RuntimeWarning") == 1
    assert obstacle.read_text() == "not a folder"


def truncate(paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(paths):
    for path in paths:
        path.write_bytes(b"\xff\xfe\x00garbage" * 20)


def empty(paths):
    for path in paths:
        path.write_bytes(b"")


def remove(paths):
    for path in paths:
        path.unlink()


HARMS = [
    (truncate, "*.nbi"),
    (empty, "*.nbi"),
    (truncate, "*.nbc"),
    (remove, "*.nbc"),
    (truncate, "*.py"),
    (garble, "*.py"),
    (truncate, "*.pyc"),
]


@compiled
@pytest.mark.parametrize(("harm", "pattern"), HARMS, ids=[f"{harm.__name__} {pattern}" for harm, pattern in HARMS])
def test_a_damaged_cache_costs_at_most_one_warning(light, tmp_path, harm, pattern):
    cache = shutil.copytree(light, tmp_path / "cache")  # the files' times come along
    found = sorted(cache.rglob(pattern))
    assert found
    harm(found)
    out, err = run(LIGHT, cache)
    assert "right" in out
    assert err.count("Warning") <= 1, err
    mended = listing(cache)
    out, err = run(LIGHT, cache)
    assert "right" in out
    assert err == ""
    assert listing(cache) == mended


@compiled
def test_four_cold_processes_at_once(tmp_path):
    started = [start(LIGHT, tmp_path / "cache") for _ in range(4)]
    results = [None] * 4

    def wait(i):
        results[i] = started[i].communicate(timeout=300)

    waiters = [threading.Thread(target=wait, args=(i,)) for i in range(4)]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        waiter.join()
    for process, (out, err) in zip(started, results):
        assert process.returncode == 0, err
        assert "right" in out
        assert err.count("Warning") <= 1, err
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@compiled
def test_a_user_without_a_home_can_still_compute():
    code = "import pwd, os\ndef nobody(uid): raise KeyError(uid)\npwd.getpwuid = nobody\n"
    out, err = run(code + LIGHT, "", HOME=None, XDG_CACHE_HOME=None, LOCALAPPDATA=None)
    assert "right" in out
    assert err.count("Warning") <= 1, err


TRAIN = """
import sys
import numpy as np
import tinygrad_rnn as tg
assert "numba" not in sys.modules
rng = np.random.default_rng(0)
x = tg.tensor(rng.normal(size=(5, 3, 4)), dtype="float32")
for layer in (tg.nn.RNN, tg.nn.LSTM, tg.nn.GRU):
    for options in ({}, {"num_layers": 2, "dropout": 0.5}):
        net = layer(4, 6, rng=rng, **options)
        head = tg.nn.Sequential(tg.nn.LayerNorm(6), tg.nn.Dropout(0.2), tg.nn.Linear(6, 3))
        table = tg.nn.Embedding(3, 4)
        parameters = [*net.parameters(), *head.parameters(), *table.parameters()]
        for optimizer in (tg.optim.SGD, tg.optim.Adam, tg.optim.AdamW, tg.optim.RMSprop):
            chosen = optimizer(parameters, lr=0.01)
            output, state = net(x + table(np.array([0, 2, 2])))
            loss = tg.cross_entropy(head(output).reshape(-1, 3), rng.integers(0, 3, 15))
            loss = loss + tg.softplus(tg.erf(output)).mean() + tg.relu(output[:, [0, 0]]).sum()
            chosen.zero_grad()
            loss.backward()
            tg.optim.clip_grad_norm_(parameters, 1.0)
            chosen.step()
            assert np.isfinite(loss.item())
for cell in (tg.nn.RNNCell, tg.nn.LSTMCell, tg.nn.GRUCell):
    cell(4, 6)(x[0])
"""


def test_without_the_jit_nothing_compiled_runs(tmp_path):
    ask = "bad = [m for m in sys.modules if m.split('.')[0] in ('numba', 'llvmlite', 'tinygrad_rnn_kernels')]\n"
    out, err = run(TRAIN + ask + "print('right' if not bad else bad)\n" + STEP, tmp_path / "c", TINYGRAD_RNN_JIT="0")
    assert out.split() == ["right", "right"]
    assert err == ""
    assert not (tmp_path / "c").exists()


@compiled
def test_with_the_jit_compiled_kernels_do_run(warm):
    ask = "print(any(m.startswith('tinygrad_rnn_kernels') for m in sys.modules))\n"
    out, _ = run(f"import sys\n{STEP}\n{ask}", warm)
    assert out.split() == ["right", "True"]


def test_importing_is_light(tmp_path):
    code = """
    import sys
    import tinygrad_rnn
    heavy = {"numba", "llvmlite", "torch", "matplotlib", "graphviz", "scipy", "jax", "tqdm", "safetensors"}
    print(sorted(heavy & set(sys.modules)))
    """
    out, err = run(code, tmp_path / "c")
    assert out.strip() == "[]"
    assert err == ""
    assert not (tmp_path / "c").exists()


@compiled
def test_a_function_of_numbers_is_one_for_all_who_call_it_and_another_where_it_calls_another():
    ninth, tenth = ("@scalar\ndef part(x):\n    return x / " + n for n in ("9.0", "10.0"))
    twice = "@scalar\ndef twice(x):\n    return part(x) * 2.0"
    found = []
    for part in (ninth, tenth, ninth):
        exec("\n".join(jit.shared((part, twice))), names := {})
        found.append(names["twice"])
    assert found[0] is found[2] is not found[1]
    assert [function(1.0) for function in found] == [2 / 9, 0.2, 2 / 9]
