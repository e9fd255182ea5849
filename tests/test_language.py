"""The comparison on text: the baseline against its definition, equal parameters, and short runs."""

from __future__ import annotations

import itertools
from argparse import Namespace
from functools import cache

import char_lm
import language
import numpy as np
import pytest

import tinygrad_rnn as tg


def text_of(parts, size):
    return Namespace(vocabulary=range(size), parts=[np.array(part) for part in parts])


def by_definition(train, order, size, discount):
    """Interpolated Kneser-Ney, as it is written: P(symbol | context), recursively."""
    grams = {n: [tuple(train[i : i + n]) for i in range(len(train) - n + 1)] for n in range(1, order + 3)}

    @cache
    def count(gram):
        if len(gram) == order + 1:
            return grams[len(gram)].count(gram)
        return len({longer for longer in grams[len(gram) + 1] if longer[1:] == gram})

    def likely(symbol, context):
        shorter = likely(symbol, context[1:]) if context else 1.0 / size
        counts = [count((*context, other)) for other in range(size)]
        if not sum(counts):
            return shorter
        kinds = sum(n > 0 for n in counts)
        return (max(counts[symbol] - discount, 0.0) + discount * kinds * shorter) / sum(counts)

    return likely


@pytest.mark.parametrize("order", [0, 1, 3])
def test_counts_are_kneser_and_neys(order):
    rng, size = np.random.default_rng(0), 4
    train, test = rng.integers(0, size, 60), rng.integers(0, size, 20)
    likely = by_definition([int(n) for n in train], order, size, 0.9)
    expected = [likely(int(test[i]), tuple(int(n) for n in test[i - order : i])) for i in range(order, len(test))]
    found = language.counted(text_of([train, test, test], size), order)
    assert found[0] == found[1] == pytest.approx(-np.log2(expected).mean(), rel=1e-12)


@pytest.mark.parametrize("order", [1, 4])
def test_counts_are_probabilities(order):
    rng, size = np.random.default_rng(1), 5
    train, context = rng.integers(0, size - 1, 300), rng.integers(0, size, order)  # one symbol is never seen
    each = [language.counted(text_of([train, [*context, s], [*context, s]], size), order)[0] for s in range(size)]
    assert sum(2.0**-bits for bits in each) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("parameters", [20_000, 150_000])
def test_parameters_are_equal(cell, parameters):
    sizes = []
    for more in (-1, 0, 1):
        hidden = language.width(cell, 65, parameters) + more
        sizes.append(sum(p.size for p in char_lm.CharacterModel(65, cell, hidden=hidden).parameters()))
    away = np.abs(np.array(sizes) - parameters)
    assert away.argmin() == 1 and away[1] < 0.02 * parameters


def test_the_parts_do_not_meet():
    text = language.Text("".join(chr(97 + i % 26) for i in range(3000)), 2, 8)
    assert [len(part) for part in text.parts] == [2700, 150, 150]
    assert text.known + text.asked == text.vocabulary.decode(np.concatenate([text.parts[0], text.parts[2]]))


def test_a_short_run(tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat; the dog did not. " * 200, encoding="utf-8")
    asked = [
        "--text",
        str(path),
        "--seconds",
        "0.2",
        "--seeds",
        "2",
        "--parameters",
        "3000",
        "--batch",
        "4",
        "--steps",
        "16",
    ]
    assert language.main([*asked, "--cells", "gru", "rnn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["compressor", "counts", "gru", "rnn"]
    assert all("over 2 seeds" in line and " parameters, rate " in line for line in lines[2:])
    bits = [float(line[24:].split()[0]) for line in lines]
    assert all(0.0 < found < 8.0 for found in bits) and bits[1] < 1.0


def test_what_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        language.main(["--cells", "elman"])
    assert end.value.code == 2
    for asked in (["--seconds", "0"], ["--moments", "0"], ["--seeds", "-1"], ["--dropout", "1"]):
        with pytest.raises(SystemExit) as end:
            language.main(asked)
        assert end.value.code == 2
    assert language.main(["--text", str(tmp_path / "none.txt")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("language: ")


def test_ctrl_c_keeps_what_was_printed(capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(language, "bundled_text", lambda: "abcabcabd" * 5000)
    monkeypatch.setattr(language, "compared", stop)
    assert language.main([]) == 130
    assert "counts after" in capsys.readouterr().out


def test_the_moment_is_chosen_by_validation(monkeypatch):
    marks = iter([3.0, 9.0, 1.0, 8.0, 2.0, 7.0])  # validation and test in turn, and what comes after is worse
    monkeypatch.setattr(language, "measured", lambda *_: next(marks, 5.0))
    clock = itertools.count()
    monkeypatch.setattr(language, "time", Namespace(perf_counter=lambda: next(clock) * 1e-3))  # an update takes 1 ms
    text = language.Text("abcd" * 500, 2, 8)
    options = Namespace(parameters=500, dropout=0.0)
    bar = Namespace(total=1.0, n=0.0, update=lambda _: None, set_postfix_str=lambda *_, **__: None)
    model, chosen, moments = language.learn(text, "rnn", 1e-3, 0.0195, options, 0, bar, 10)
    assert chosen.test == 8.0 and chosen in moments and isinstance(model, tg.nn.Module)
    assert len(moments) == 10 and moments[-1].updates == 21 and moments[-1].seconds == pytest.approx(0.02)
    _, _, moments = language.learn(text, "rnn", 1e-3, 6, options, 0, bar, 3, pace=1)  # updates are told, no clock
    assert [(moment.seconds, moment.updates) for moment in moments] == [(2, 2), (4, 4), (6, 6)]
