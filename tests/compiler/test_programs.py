"""Programs that nobody chose: whatever a step reads, does and shares, every engine gives what the eager one gives.

A sample with fixed seeds; `tools/try_programs.py` draws as many as are wanted. Where nothing is compiled
(TINYGRAD_RNN_JIT=0), the reference engine is compared with the eager one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from generator import Case, examined

TOOL = Path(__file__).resolve().parents[2] / "tools" / "try_programs.py"

#: Programs tried here; set TINYGRAD_RNN_PROGRAMS for more.
COUNT = int(os.environ.get("TINYGRAD_RNN_PROGRAMS", "60"))

#: Programs that one process runs: a crash ends it, and is told from the others.
SHARE = 10


@pytest.mark.parametrize("first", range(0, COUNT, SHARE))
def test_every_engine_does_what_the_eager_one_does(first):
    count = min(SHARE, COUNT - first)
    run = subprocess.run(
        [sys.executable, str(TOOL), "--seed", str(first), "--count", str(count), "--quiet", "--show", "1"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_program_is_its_seed():
    for seed in range(40):
        one, two = Case(seed), Case(seed)
        assert one.describe() == two.describe()
        compile(one.program.text, "program", "exec")


def test_a_smaller_program_still_runs():
    for seed in range(12):
        case = Case(seed)
        case = Case(seed, frozenset(case.droppable()[:2]), (0,))
        seen = case.played("eager")
        assert len(seen) == 1
        assert not seen[0].internal, seen[0].text


def test_the_eager_engine_does_the_same_again():
    """Otherwise nothing that is found says anything about an engine."""
    for seed in range(30):
        report = examined(Case(seed), ("eager",))
        assert not report.differences, f"program {seed}: {report.differences[0]}"


def test_most_programs_run_without_an_exception():
    errors = sum(bool(one.error) for seed in range(40) for one in Case(seed).played("eager"))
    calls = sum(len(Case(seed).calls) for seed in range(40))
    assert errors < 0.05 * calls


def test_programs_are_of_every_style():
    assert len({Case(seed).style for seed in range(60)}) == 7


def test_a_worker_answers_a_line_for_a_task():
    run = subprocess.run(
        [sys.executable, str(TOOL), "--worker"],
        input=json.dumps([1, [], [0]]) + "\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert json.loads(run.stdout)["calls"] == 1
