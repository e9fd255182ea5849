"""Programs that run in a process of their own, with a time limit: a deadlock is a failure, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tinygrad_rnn import settings

LIMIT = 120  # seconds; each program takes a few

#: What every program begins with: `work(seed)` builds and differentiates a graph of its own, over shared parameters.
COMMON = """
import os, sys, threading, time
import numpy as np
import tinygrad_rnn as tg
from tinygrad_rnn.errors import GraphError

rng = np.random.default_rng(0)
lstm = tg.nn.LSTM(3, 5, num_layers=2, dtype="float64", rng=rng)
table, head = tg.nn.Embedding(7, 3, dtype="float64", rng=rng), tg.nn.Linear(5, 7, dtype="float64", rng=rng)
shared = [*lstm.parameters(), *table.parameters(), *head.parameters()]


def work(seed, parameters=shared):
    rng = np.random.default_rng(seed)
    own = tg.tensor(rng.normal(size=3), requires_grad=True)
    text = rng.integers(0, 7, (4, 2))
    output, _ = lstm(table(text) * own)
    loss = tg.cross_entropy(head(output).reshape(-1, 7), rng.integers(0, 7, 8))
    loss = loss + tg.softplus(output[:, [0, 0]]).mean() + tg.dropout(output, 0.3, rng=rng).sum() * 0.01
    first = tg.grad(loss, [own, *parameters], create_graph=True)
    second = tg.grad(sum((g * g).sum() for g in first), [own, *parameters])
    (own * own).sum().backward()
    return [loss.item(), own.grad.numpy(), *[g.numpy() for g in (*first, *second)]]


def train(seed):
    rng = np.random.default_rng(seed)
    layer = tg.nn.GRU(3, 4, dtype="float64", rng=rng)
    optimizer = tg.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        output, _ = layer(tg.tensor(rng.normal(size=(3, 2, 3))))
        (output * output).sum().backward()
        tg.optim.clip_grad_norm_(layer.parameters(), 0.5)
        optimizer.step()
    return [p.numpy().copy() for p in layer.parameters()]


def agree(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert np.max(np.abs(a - b), initial=0.0) <= 1e-12 * (1.0 + np.max(np.abs(b), initial=0.0))


def together(count, run):
    \"\"\"Run run(0), run(1), ... in threads that begin at once and change places as often as they can.\"\"\"
    barrier, troubles = threading.Barrier(count), []

    def begin(i):
        try:
            barrier.wait()
            run(i)
        except BaseException as trouble:
            troubles.append(trouble)

    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=begin, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(0.005)
    if troubles:
        raise troubles[0]
"""


def run(*programs, cache=None, before="", path=None):
    """Run COMMON and the programs, one text; what it printed. It is a file where `path` is given, to be imported by
    workers that are spawned.
    """
    text = before + COMMON + "".join(map(textwrap.dedent, programs))
    if path is not None:
        path.write_text(text)
    environment = {**os.environ, **({"TINYGRAD_RNN_CACHE": str(cache)} if cache is not None else {})}
    folders = [os.path.dirname(os.path.dirname(os.path.abspath(settings.__file__))), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", *([str(path)] if path is not None else ["-c", text])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # so that its children can be ended with it
    )
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        end(process)
        pytest.fail(f"still running after {LIMIT} s: a deadlock")
    assert process.returncode == 0, out + err
    return out.split()


def end(process):
    """End a process and the children that it left waiting."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, 9)
    else:
        process.kill()
    process.communicate()
