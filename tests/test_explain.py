"""`tg.explain` says what becomes of a step; and what is compiled once stays so."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import cli, settings
from tinygrad_rnn.compiler.runtime import executable as compiled


def test_an_lstm_pass_by_pass():
    layer = tg.nn.LSTM(3, 4)
    found = tg.explain(layer, tg.zeros(10, 2, 3))
    text = str(found)
    assert found.fused
    for part in (
        "LSTMCell, layer 0: fused",
        "%2 @ weight_ih_l0.T",
        "# forget_gate",
        "prologue, for many steps at once",
        "loop, at every step",
        "rematerialise: saved by the forward run",
        "sum of",
    ):
        assert part in text, part
    hoisted = text.index("product  %3 = %2 @ weight_ih_l0.T")
    assert text.index("prologue, for many steps at once") < hoisted < text.index("loop, at every step")
    assert "runs eagerly" not in text


def test_every_layer_and_both_directions():
    layer = tg.nn.GRU(3, 4, 2, bidirectional=True)
    found = tg.explain(layer, tg.zeros(8, 2, 3))
    assert [(place.layer, place.reverse) for place, *_ in found.parts] == [(0, False), (0, True), (1, False), (1, True)]
    assert found.fused and "GRUCell, layer 1, in reverse: fused" in str(found)


def test_what_is_left_says_why():
    def step(h, x):
        return tg.tanh(h - h.mean(0) + x), h

    found = tg.explain(lambda x: tg.scan(step, tg.zeros(2, 3), x), tg.zeros(10, 2, 3))
    assert not found.fused
    assert "runs eagerly, step by step\n  because mean: it mixes rows (test_explain.py, line" in str(found)
    assert str(tg.explain(tg.tanh, tg.zeros(3))) == "nothing runs over time here"


def test_explaining_changes_nothing():
    layer, x = tg.nn.Recurrent(tg.nn.Zoneout(tg.nn.GRUCell(3, 4), 0.5)), tg.randn(10, 2, 3)
    tg.manual_seed(1)
    tg.explain(layer, x)
    explained = tg.rand(3).numpy()
    tg.manual_seed(1)
    with tg.engine("eager"):
        layer(x)
    assert np.array_equal(explained, tg.rand(3).numpy())  # as one run draws
    assert all(p.grad is None for p in layer.parameters())


needs_compiling = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


@needs_compiling
def test_other_sizes_compile_nothing(monkeypatch):
    """Neither another T or B, nor other sizes of x and state."""
    texts = []
    rows = compiled.jit.rows
    monkeypatch.setattr(compiled.jit, "rows", lambda *given: texts.append(given) or rows(*given))
    for steps, batch_size, size in ((2, 1, 3), (9, 1, 3), (9, 5, 3), (30, 20, 33), (3, 2, 1000)):
        layer, x = tg.nn.LSTM(size, size, engine="fused"), tg.randn(steps, batch_size, size, requires_grad=True)
        layer(x)[0].sum().backward()
    assert len(texts) == 10 and len(set(map(repr, texts))) == 2


@needs_compiling
def test_warmup(capsys):
    assert cli.main(["warmup", "MinimalGatedCell"]) == 0
    assert "all there, in" in capsys.readouterr().out
    assert cli.main(["warmup", "NoCell"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tinygrad-rnn: warmup: no such cell") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("layer", "steps", "said"),
    [
        (lambda: tg.nn.GRU(2, 3), 7, "runs eagerly, as engine=\"auto\" fuses from 8 steps on, and here are 7"),
        (lambda: tg.nn.GRU(2, 3, engine="eager"), 9, "runs eagerly, as engine=\"eager\" says so"),
    ],
)  # fmt: skip
def test_it_says_what_runs_eagerly_though_it_could_be_fused(layer, steps, said):
    found = tg.explain(layer(), tg.zeros(steps, 1, 2))
    assert said in str(found) and not found.fused
