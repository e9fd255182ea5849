"""What only a process of its own shows: how long a first step takes, and how much memory a step needs.

python tools/bench_processes.py first "an LSTM"  # seconds of the first steps, as JSON
python tools/bench_processes.py memory torch     # bytes that training steps add to the process, as JSON
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: Batch, steps and features of the step whose memory is measured.
LARGEST = 64, 128, 512


def child(*arguments: str, **environment: str) -> dict[str, float]:
    """What this program prints in a process of its own."""
    made = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    found: dict[str, float] = json.loads(made.stdout)
    return found


def first_steps() -> list[dict[str, Any]]:
    """Seconds of the first training step of a process: with no kernels compiled yet, and with all of them on disk."""
    rows = []
    for name in FIRST:
        with tempfile.TemporaryDirectory() as folder:
            cold = child("first", name, TINYGRAD_RNN_CACHE=folder)
            kept = [child("first", name, TINYGRAD_RNN_CACHE=folder) for _ in range(3)]
        rows.append({
            "what": f"the first step of {name}", "unit": "s", "cold": cold["first"],
            "from cache": sorted(one["first"] for one in kept)[1],
            "another T or B": cold["other sizes"], "compiled for them": cold["compiled for them"],
        })  # fmt: skip
    return rows


def memory(threads: int) -> list[dict[str, Any]]:
    """Bytes that a training step of the largest LSTM adds to a process, beside torch's."""
    found = {side: child("memory", side, str(threads))["bytes"] for side in ("ours", "torch")}
    what = "memory of an LSTM's step (B {}, T {}, H {})".format(*LARGEST)
    return [{"what": what, "unit": "MB", **{side: count / 1e6 for side, count in found.items()},
             "ours / torch": found["ours"] / found["torch"]}]  # fmt: skip


# --- In the process ---


def _sixty_operations() -> Any:
    """A cell of 60 operations and more, of no use: a chain of gates."""
    import tinygrad_rnn as tg

    class Chain(tg.nn.Cell):
        def __init__(self, size: int) -> None:
            self.input_size = self.hidden_size = size
            self.mixed, self.given = tg.nn.Linear(2 * size, 4 * size), tg.nn.Linear(size, 4 * size)

        def step(self, x: Any, state: Any) -> Any:
            values = [*tg.split(self.mixed(tg.concat([x, state], -1)), 4, -1), *tg.split(self.given(x), 4, -1)]
            h = state
            for i in range(13):  # four operations each, and more before
                a, b = values[i % 8], values[(i + 3) % 8]
                h = tg.sigmoid(a) * h + tg.tanh(b)
            return h / 13, h / 13

    return tg.nn.Recurrent(Chain(64))


def _lstm() -> Any:
    import tinygrad_rnn as tg

    return tg.nn.LSTM(64, 64)


FIRST: dict[str, Callable[[], Any]] = {"an LSTM": _lstm, "a cell of 60 operations": _sixty_operations}


def _first(name: str) -> dict[str, float]:
    import tinygrad_rnn as tg

    def step(layer: Any, steps: int, batch: int) -> float:
        x = tg.randn(steps, batch, 64, requires_grad=True)
        start = time.perf_counter()
        layer(x)[0].sum().backward()
        return time.perf_counter() - start

    def files() -> int:
        return len(list(Path(os.environ["TINYGRAD_RNN_CACHE"]).rglob("*.nbc")))

    layer = FIRST[name]()
    first, before = step(layer, 16, 8), files()
    others = step(layer, 33, 8) + step(layer, 16, 5) + step(layer, 9, 1)
    return {"first": first, "other sizes": others / 3, "compiled for them": float(files() - before)}


def _memory(side: str, threads: int) -> dict[str, float]:
    batch, steps, size = LARGEST
    library: Any = importlib.import_module("torch" if side == "torch" else "tinygrad_rnn")
    library.set_num_threads(threads)
    tensor: Any = library.tensor

    def train(layer: Any, x: Any, g: Any) -> None:
        x.grad = None
        for parameter in layer.parameters():
            parameter.grad = None
        layer(x)[0].backward(g)

    def arrays(steps: int, batch: int, size: int) -> Any:
        rng = np.random.default_rng(0)
        x, g = (rng.standard_normal((steps, batch, size)).astype(np.float32) for _ in range(2))
        return tensor(x, requires_grad=True), tensor(g)

    train(library.nn.LSTM(16, 16), *arrays(16, 8, 16))  # what is loaded or compiled once is there
    layer, given = library.nn.LSTM(size, size), arrays(steps, batch, size)
    before = _most()
    for _ in range(3):
        train(layer, *given)
    return {"bytes": float(_most() - before)}


def _most() -> int:
    """The most memory that this process had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # here `getrusage` would count what the process that started this one had
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line[:6] == "VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(_first(sys.argv[2]) if sys.argv[1] == "first" else _memory(sys.argv[2], int(sys.argv[3]))))
