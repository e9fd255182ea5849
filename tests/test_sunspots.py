"""The sunspots: what the network is given, its loss, the baseline, and a short run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg

EXAMPLE = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "sunspots.py"))


def test_inputs_know_the_past_only():
    numbers = np.random.default_rng(0).uniform(0.0, 100.0, 600)
    x = EXAMPLE["inputs"](numbers)
    assert x.shape == (600, 13) and x.dtype == np.float32
    np.testing.assert_allclose(x[300, :12], np.sqrt(numbers[289:301]) / 7.0, rtol=1e-6)
    np.testing.assert_allclose(x[300, 12], np.sqrt(numbers[169:301]).mean() / 7.0, rtol=1e-6)
    other = numbers.copy()
    other[301:] = 0.0
    np.testing.assert_array_equal(EXAMPLE["inputs"](other)[:301], x[:301])


def test_the_loss_is_least_at_the_percentiles():
    true = np.random.default_rng(1).standard_normal((4000, 1, 1)).repeat(3, 2).astype(np.float32)
    best = np.quantile(true[:, 0, 0], (0.1, 0.5, 0.9)).astype(np.float32)

    def loss(values):
        return EXAMPLE["pinball"](tg.tensor(np.broadcast_to(values, (4000, 1, 3, 3)).copy()), tg.tensor(true)).item()

    for level in range(3):
        for step in (-0.1, 0.1):
            moved = best.copy()
            moved[level] += step
            assert loss(moved) > loss(best)


def test_the_baseline_finds_an_autoregression():
    rng, root = np.random.default_rng(2), [5.0, 5.0]
    for _ in range(1500):
        root.append(1.6 * root[-1] - 0.7 * root[-2] + 0.5 + rng.normal(0.0, 0.02))
    numbers = np.square(root)
    made = EXAMPLE["autoregression"](numbers, 1000, 1)
    assert np.isnan(made[:143]).all()
    errors = np.abs(np.sqrt(made[1100:1400]) - np.sqrt(numbers[1101:1401]))
    assert errors.mean() < 1.3 * 0.02 * np.sqrt(2 / np.pi)


def test_a_short_run(tmp_path, capsys):
    pytest.importorskip("statsmodels", reason="the numbers stand in the extra `examples`")
    path = tmp_path / "out.csv"
    assert EXAMPLE["main"](["--updates", "3", "--hidden", "4", "--output", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["months", "last", "last", "autoregression", "gru", "over", "in"]
    assert [line.split()[0] for line in lines] == names
    assert [float(number) for number in lines[2].split()[2:]] == [float(lines[2].split()[2])] * 3  # one true value each
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1 + 3 * 12 * 49


def test_without_the_numbers_there_is_a_line(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        EXAMPLE["main"](["--seeds", "0"])
    assert end.value.code == 2 and "from 1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    assert EXAMPLE["main"]([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "pip install statsmodels" in said.err
