"""Memory does not grow while a network trains, with the garbage collector switched off.

Everything that a step makes must die with its loss, by reference counts alone: a cycle among tensors and nodes would
show here as growth, and so would a list or a cache that keeps something of every step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings

STEPS, FIRST = 2000, 200

TRAINING = """
import gc, os, sys, tracemalloc
import numpy as np
import tinygrad_rnn as tg

gc.collect()
gc.disable()
VOCABULARY, EMBEDDED, HIDDEN, T, B = 30, 16, 32, 3, 4
rng = np.random.default_rng(0)


class Model(tg.nn.Module):
    def __init__(self):
        self.table = tg.nn.Embedding(VOCABULARY, EMBEDDED, rng=rng)
        self.lstm = tg.nn.LSTM(EMBEDDED, HIDDEN, rng=rng)
        self.head = tg.nn.Linear(HIDDEN, VOCABULARY, rng=rng)

    def forward(self, text, state):
        output, state = self.lstm(self.table(text), state)
        return self.head(output), state


def resident():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the most there ever was
        if sys.platform == "win32":
            return 0  # the standard library cannot tell
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


model = Model()
optimizer = tg.optim.Adam(model.parameters(), lr=1e-3)
text = rng.integers(0, VOCABULARY, (T + 1, B))
state, kept, at_first = None, [], None
for step in range(1, STEPS + 1):
    logits, state = model(text[:-1], state)
    state = tuple(part.detach() for part in state)
    loss = tg.cross_entropy(logits.reshape(-1, VOCABULARY), text[1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    tg.optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if KEEP == "list":
        kept.append(loss)
    if KEEP == "cycle":
        cycle = [loss]
        cycle.append(cycle)
    if step == FIRST // 2:
        gc.collect()  # what compiling left; from here on there shall be nothing to collect
        for n in range(1, 21):  # Python keeps 2,000 freed tuples of each size: were they not there, they would come
            list(map(tuple, [range(n)] * 2500))
        tracemalloc.start()
    if step == FIRST:
        at_first = tracemalloc.get_traced_memory()[0], resident()
at_end = tracemalloc.get_traced_memory()[0], resident()
assert np.isfinite(loss.item())
print(*at_first, *at_end, gc.collect())
"""


def growth(steps, keep):
    """Bytes a step between step FIRST and the last, traced and resident; objects that only the collector would free."""
    head = f"STEPS, FIRST, KEEP = {steps}, {FIRST}, {keep!r}\n"
    folder = os.path.dirname(os.path.dirname(os.path.abspath(settings.__file__)))
    paths = os.pathsep.join(path for path in (folder, os.environ.get("PYTHONPATH", "")) if path)
    process = subprocess.run(
        [sys.executable, "-c", head + TRAINING],
        capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": paths}, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    *figures, unreachable = map(float, process.stdout.split())
    found = []
    for what, at_first, at_end in zip(("traced blocks", "resident memory"), figures[:2], figures[2:]):
        found.append((at_end - at_first) / (steps - FIRST))
        first, last = f"{at_first / 1e6:.3f} MB at step {FIRST}", f"{at_end / 1e6:.3f} MB at step {steps}"
        print(f"\n{what}: {first}, {last}: {found[-1]:.1f} bytes a step", end="")
    print(f"; {unreachable:.0f} objects in cycles")
    return *found, unreachable


# The least that a step could leave for good is a number and a pointer to it in a list, 28 and 8 bytes; a tensor has 72
# without its array. Python's own free lists are still growing at step 200: 5 to 20 bytes a step on three versions.
TRACED = 36.0
# Resident memory comes in pages, and Python's own allocator takes it by the megabyte (an arena): two of them over all
# the steps. A loss that is kept keeps some twenty times as much.
RESIDENT = 2 * 2**20 / (STEPS - FIRST)


def test_memory_of_training_is_flat():
    traced, resident, unreachable = growth(STEPS, keep=None)
    assert traced < TRACED
    assert resident < RESIDENT
    assert unreachable < (STEPS - FIRST // 2) / 10  # none of a step's objects is in a cycle


@pytest.mark.parametrize("keep", ["list", "cycle"])
def test_losses_that_are_kept_are_noticed(keep):
    traced, resident, unreachable = growth(FIRST + 100, keep)
    assert traced > 5 * TRACED
    assert resident > 5 * RESIDENT or sys.platform == "win32"
    assert unreachable > 100 or keep == "list"


@pytest.mark.parametrize("cut", [lambda w: w[:8], lambda w: tg.split(w, 2)[1], lambda w: w[np.arange(8)]])
def test_a_part_of_a_weight_at_every_step_costs_its_memory_a_few_times(cut):
    weight = tg.randn(16, 1024, requires_grad=True)
    h = tg.zeros(1, 8)
    for _ in range(200):
        h = tg.tanh(h + tg.linear(tg.ones(1, 1024), cut(weight)))
    loss = h.sum()
    tracemalloc.start()
    loss.backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * weight.numpy().nbytes
