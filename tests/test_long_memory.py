"""The tasks of long memory: that the answer is in the input and nowhere else, and a short run of the example."""

from __future__ import annotations

import csv
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "long_memory.py"))
MAIN = EXAMPLE["main"]


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("steps", [21, 50])
def test_adding_asks_for_the_sum_of_one_number_of_each_half(steps):
    x, target = EXAMPLE["adding"](rng(), 200, steps)
    assert x.shape == (steps, 200, 2)
    marks = x[..., 1]
    assert (marks[: steps // 2].sum(0) == 1).all() and (marks[steps // 2 :].sum(0) == 1).all()
    np.testing.assert_allclose((x[..., 0] * marks).sum(0), target[:, 0])
    _, many = EXAMPLE["adding"](rng(), 100_000, 21)
    assert np.square(many - 1.0).mean() == pytest.approx(1 / 6, rel=0.02)  # of guessing


@pytest.mark.parametrize("steps", [21, 50])
def test_copying_shows_ten_symbols_and_asks_for_them_at_the_end(steps):
    x, symbols = EXAMPLE["copying"](rng(), 30, steps)
    shown = x.argmax(-1)
    assert x.shape == (steps, 30, 10) and (x.sum(-1) == 1).all()
    np.testing.assert_array_equal(shown[:10], symbols)
    assert symbols.max() <= 7 and (shown[10:-10] == 8).all() and (shown[-10:] == 9).all()


@pytest.mark.parametrize("steps", [21, 100])
def test_order_asks_which_two_symbols_came(steps):
    x, target = EXAMPLE["order"](rng(), 500, steps)
    shown = x.argmax(-1)
    kinds = [column[column < 2] for column in shown.T]
    assert all(len(found) == 2 for found in kinds)
    np.testing.assert_array_equal([2 * a + b for a, b in kinds], target[0])
    assert set(target[0]) == {0, 1, 2, 3}


def test_digits_are_never_measured_on_what_is_learned_from():
    pytest.importorskip("sklearn", reason="digits need the extra `examples`")
    digits = EXAMPLE["Digits"]()
    x, target = digits(rng(), 32, 64)
    assert x.shape == (64, 32, 1) and target.shape == (1, 32) and x.min() >= 0.0 and x.max() == 1.0
    held, _ = digits.held(rng(), 600, 64)
    learned, _ = digits(rng(), 600, 64)
    rows = [{row.tobytes() for row in part[..., 0].T} for part in (held, learned)]
    assert not rows[0] & rows[1]


def test_a_run_is_measured_on_what_is_held(monkeypatch):
    asked = []

    class Task:
        def __call__(self, rng, rows, steps):
            asked.append(("learn", rows))
            return EXAMPLE["adding"](rng, rows, steps)

        def held(self, rng, rows, steps):
            asked.append(("measure", rows))
            return EXAMPLE["adding"](rng, rows, steps)

    monkeypatch.setitem(EXAMPLE["TASKS"], "digits", (Task(), 0, 0.01))
    options = Namespace(hidden=4, batch=600)
    EXAMPLE["Learner"]("digits", "rnn", 21, 1e-3, "plain", 0, options).run(2, EXAMPLE["tqdm"](disable=True))
    assert asked == [("learn", 2), ("learn", 600), ("learn", 600), ("measure", 600)]


def test_a_short_run(tmp_path, capsys):
    path = tmp_path / "memory.csv"
    asked = ["--tasks", "adding,order", "--cells", "rnn,lstm,gru", "--gaps", "21", "--updates", "12", "--hidden", "4"]
    assert MAIN([*asked, "--seeds", "2", "--output", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["adding"] * 3 + ["order"] * 3
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 12 and {row["start"] for row in rows} <= {"plain", "long"}
    assert all(float(row["error"]) > 0.0 for row in rows)


def test_a_cell_of_the_user(tmp_path, capsys):
    path = tmp_path / "own.py"
    path.write_text("from tinygrad_rnn import nn\ndef minimal():\n    return nn.MinimalGatedCell\n", encoding="utf-8")
    asked = ["--cells", "gru", "--from", f"{path}:minimal", "--gaps", "21", "--updates", "12", "--hidden", "4"]
    assert MAIN([*asked, "--output", str(tmp_path / "memory.csv")]) == 0
    assert [line.split()[3] for line in capsys.readouterr().out.splitlines()] == ["gru", "minimal"]
    assert MAIN(["--from", f"{path}:none", "--gaps", "21"]) == 2
    assert "has no function none" in capsys.readouterr().err


def test_who_takes_longer_than_the_best_is_stopped(monkeypatch):
    """A way that has learned it bounds the updates of those after it."""
    asked, answers = [], iter([(0.5, 100), (0.005, 40), (0.004, 40)])

    class Learner:
        limit, seconds = 0.01, 0.0

        def __init__(self, *_):
            self.updates = 0

        def run(self, updates, bar):
            asked.append(updates)
            error, self.updates = next(answers)
            return error

    monkeypatch.setitem(MAIN.__globals__, "Learner", Learner)
    found = EXAMPLE["trial"]("adding", "gru", 50, 0, Namespace(updates=300), None, ("plain",))
    assert asked == [100, 100, 40]
    assert (found["error"], found["updates"], found["learned"], found["rate"]) == (0.004, 40, True, 1e-3)


def test_a_cell_that_can_learn_it_does():
    options, bar = Namespace(updates=1000, hidden=32, batch=32), EXAMPLE["tqdm"](disable=True)
    found = EXAMPLE["trial"]("adding", "gru", 21, 0, options, bar, ("plain",), (1e-2,))
    assert found["learned"] and found["error"] < 0.01 and found["updates"] < 1000


def test_what_is_done_is_kept(tmp_path, capsys, monkeypatch):
    calls = []

    def trial(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {
            "error": 1.0,
            "learned": False,
            "updates": 1,
            "seconds": 0.1,
            "tuned": 0.1,
            "rate": 1.0,
            "start": "plain",
        }

    monkeypatch.setitem(MAIN.__globals__, "trial", trial)
    path = tmp_path / "memory.csv"
    assert MAIN(["--gaps", "25", "--output", str(path)]) == 130
    assert "what is done is kept" in capsys.readouterr().err
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_what_is_refused(tmp_path, capsys, monkeypatch):
    for asked, says in (
        (["--gaps", "5"], "at least 21"),
        (["--gaps", "x"], "whole number"),
        (["--seeds", "0"], "from 1"),
        (["--output", "memory.gif"], "FILE.csv, .png or .svg"),
        (["--output", "memory"], "FILE.csv, .png or .svg"),
        (["--cells", "elman"], "some of"),
    ):
        try:
            code = MAIN(asked)
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        assert code == 2 and says in said.err
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert MAIN(["--tasks", "digits"]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
