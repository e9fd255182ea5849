"""The deep dive: what its experiments measure, its verdicts, and the page."""

from __future__ import annotations

import re
import string
import sys
from argparse import Namespace
from html.parser import HTMLParser

import char_lm
import deep_dive
import language
import numpy as np
import pytest
from scipy.stats import spearmanr

import tinygrad_rnn as tg
from tinygrad_rnn import nn

pytest.importorskip("matplotlib", reason="the deep dive's pictures need matplotlib, from the extra `plot`")

from claims import article, gates, gradients, gru, long_range, memory, series, units

TINY = Namespace(
    gaps={"adding": (21, 25)},
    memory=Namespace(updates=6, hidden=4, batch=2),
    memory_seeds=1,
    rates=(1e-2,),
    gates=Namespace(updates=4, hidden=4, batch=2),
    gate_steps=21,
    gate_seeds=1,
    gate_text_updates=3,
    gate_texts=2,
    kinds=2,
    adders=1,
    language=Namespace(seconds=0.05, parameters=3000, dropout=0.0, seeds=2, moments=2, batch=4, steps=16),
    speech=Namespace(hidden=4, epochs=1),
    speech_cells=("gru",),
    speech_seeds=1,
    series=Namespace(hidden=4, updates=2),
    series_cells=("gru",),
    series_seeds=2,
    rounds=2,
)
EMPTY = {"br", "hr", "img", "meta", "link", "input", "path", "use", "rect", "circle", "line", "polygon", "image"}


class Read(HTMLParser):
    """Which tags are open, and what is fetched."""

    def __init__(self, page):
        super().__init__()
        self.open, self.fetched, self.ids = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.ids += [known["id"]] if tag == "section" else []
        self.fetched += [known[name] for name in ("src", "href", "xlink:href") if name in known]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.setattr(deep_dive, "QUICK", TINY)
    monkeypatch.setattr(gradients, "DISTANCE", 12)
    path = tmp_path / "text.txt"
    path.write_text("the <cat> sat & stood,\nthe dog {did} not.\n" * 300, encoding="utf-8")
    (tmp_path / "none.zip").write_text("no archive")
    return str(path)


def run(text, tmp_path, *more):
    path = tmp_path / "out" / "page.html"
    code = deep_dive.main(
        ["--quick", "--text", text, "--digits", str(tmp_path / "none.zip"), "--output", str(path), *more]
    )
    return code, path.read_text(encoding="utf-8")


def test_a_page_of_every_claim(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    claims, real = [], deep_dive.tried
    monkeypatch.setattr(deep_dive, "tried", lambda *given: claims.append(real(*given)) or claims[-1])
    code, page = run(text, tmp_path)
    read = Read(page)
    assert code == 0 and not read.open
    assert read.ids == [f"claim-{i}" for i in range(1, 9)]
    assert all(target.startswith("#") for target in read.fetched)  # it works offline
    assert page.count("<summary>the code that made it") == 6 and "def counted(" in page and "class Gated(" in page
    assert "The recordings are not there: " in page and "pip install statsmodels" in page
    assert not re.search(r"\bnan\b|Traceback", re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL))
    said = capsys.readouterr().out
    assert said.count("not run") == 2 and "6 of 8 claims" in said
    for claim in claims:
        words = (article.HERE / f"{claim.text}.txt").read_text("utf-8")
        names = {name for _, name, _, _ in string.Formatter().parse(words) if name}
        assert claim.why or names == set(claim.found)  # nothing is written down, nothing left out
        assert claim.verdict in article.VERDICTS and claim.seconds > 0.0 and all(claim.numbers)


def test_what_is_done_is_kept(text, tmp_path, monkeypatch, capsys):
    real = deep_dive.tried

    def tried(name, lab):
        if name == "gru":
            raise KeyboardInterrupt
        return real(name, lab)

    monkeypatch.setattr(deep_dive, "tried", tried)
    code, page = run(text, tmp_path, "--only", "memory", "gru")
    assert code == 130 and page.count("Stopped before this was done.") == 1
    assert "handed on" in page and "1 of 2 claims" in capsys.readouterr().out


def test_what_is_refused(tmp_path, capsys, monkeypatch):
    path = tmp_path / "page.html"
    assert deep_dive.main(["--text", str(tmp_path / "none"), "--output", str(path)]) == 2
    (tmp_path / "file").write_text("")
    assert deep_dive.main(["--only", "gru", "--output", str(tmp_path / "file" / "page.html")]) == 2
    assert deep_dive.main(["--only", "gru", "--output", str(tmp_path)]) == 2
    assert deep_dive.main(["--only", "gru", "--digits", str(tmp_path / "none.zip"), "--output", str(path)]) == 2
    (tmp_path / "short").write_text("a short text")
    assert deep_dive.main(["--only", "gru", "--text", str(tmp_path / "short"), "--output", str(path)]) == 2
    monkeypatch.setitem(sys.modules, "claims.article", None)
    assert deep_dive.main(["--output", str(path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 6 and all(line.startswith("deep_dive: ") for line in errors)
    assert not path.exists()


# --- The experiments ---


def test_a_gated_cell_with_all_gates_is_an_lstm():
    mine, theirs = gates.Gated(3, 5), nn.LSTM(3, 5)
    both = np.concatenate([theirs.weight_ih_l0.numpy(), theirs.weight_hh_l0.numpy()], 1)
    mine.weights.weight = nn.Parameter(tg.tensor(both))
    mine.weights.bias = nn.Parameter(tg.tensor(theirs.bias_ih_l0.numpy() + theirs.bias_hh_l0.numpy()))
    x = tg.randn(12, 2, 3)
    outputs, state = nn.Recurrent(mine)(x)
    expected, (_, cell) = theirs(x)
    np.testing.assert_allclose(outputs.numpy(), expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(state.cell.numpy(), cell.numpy()[0], atol=1e-6)


def test_a_gate_that_is_left_out_is_open():
    x = tg.randn(12, 2, 3)
    for kind in gates.KINDS:
        with tg.record("input_gate", "forget_gate", "output_gate", "cell") as r:
            gates.layer_of(kind)(3, 5)(x)
        left = {f"{name}_gate" for name in ("input", "forget", "output") if f"no {name}" not in kind}
        assert {where.name for where in r.values} == {"cell"} | (left if kind != "no gate at all" else set())


def test_a_state_that_is_handed_on_changes_nothing():
    handed_on, forgotten = memory.carried(nn.GRU(3, 8), tg.randn(40, 2, 3))
    assert handed_on < 1e-6 < 1e-2 < forgotten


def test_coupled_gates_are_told():
    f = np.random.default_rng(0).uniform(0.1, 0.9, (50, 4, 3))
    assert gru.coupling(f, 1.0 - f) == pytest.approx(1.0)
    assert gru.coupling(f, f) == pytest.approx(-1.0)
    assert abs(gru.coupling(f, np.random.default_rng(1).uniform(0.1, 0.9, f.shape))) < 0.2


def test_the_longest_gap_is_one_that_half_of_the_runs_learn():
    def runs(*learned):
        return [{"learned": one} for one in learned]

    assert long_range.longest({50: runs(True, True), 100: runs(True, False), 200: runs(False, False, True)}) == 100
    assert long_range.longest({50: runs(False)}) == 0


def test_a_gap_that_nobody_learns_is_the_last(monkeypatch):
    asked = []

    def trial(task, cell, gap, seed, options, bar, starts, rates):
        asked.append((cell, starts, gap))
        return {"learned": cell == "gru"}

    monkeypatch.setattr(long_range.long_memory, "trial", trial)
    found = long_range.tried("adding", (25, 50), 1, (0.01,), None, Namespace(set_description=lambda _: None))
    assert [*found["gru"]] == [25, 50] and [*found["rnn"]] == [*found["lstm"]] == [25]
    assert ("rnn", ("plain",), 25) in asked and ("rnn", ("plain", "long"), 25) in asked


@pytest.mark.parametrize(
    ("faster", "gru_bits", "verdict"),
    [(True, 2.0, "holds"), (True, 2.2, "partly"), (False, 2.0, "partly"), (False, 2.2, "not seen")],
)
def test_the_verdict_on_the_gru_follows_the_numbers(monkeypatch, faster, gru_bits, verdict):
    spent = {"rnn": 5.0, "lstm": 20.0, "gru": 15.0 if faster else 25.0}
    monkeypatch.setattr(gru, "times", lambda *_: spent)
    kept = {"text": {"lstm": np.array([2.0]), "gru": np.array([gru_bits])}}
    claim = gru.claim(Namespace(size=TINY, kept=kept))
    assert claim.verdict == verdict
    assert ("(text, bits per character)" in claim.found["beside"]) == (gru_bits > 2.1)


@pytest.mark.parametrize(
    ("less", "more", "margin", "so"),
    [
        ([[1.0]], [[1.1]], 0.03, True),
        ([[1.0]], [[1.1]], 0.25, False),  # not by the margin
        ([[1.0, 1.2]], [[1.1, 1.9]], 0.03, False),  # the runs overlap
        ([[1.0, 1.0], [2.0, 2.0]], [[1.5, 1.5], [3.0, 3.0]], 0.25, True),  # lengths are not mixed
        ([[1.0, 1.0], [2.0, 2.0]], [[1.5, 1.5], [1.9, 9.0]], 0.25, False),
        ([[0.0]], [[0.0]], 0.03, False),
        ([[1.0, 1.0], [9.0, 9.0]], [[5.0, 5.0], [9.0, 9.0]], 0.25, True),  # both spent the whole budget at one length
    ],
)
def test_one_is_better_only_where_no_run_says_otherwise(less, more, margin, so):
    assert gru.clearly(np.array(less), np.array(more), margin) == so
    assert not gru.clearly(np.array(more), np.array(less), margin)


def test_a_forecast_is_ahead_for_certain_where_every_seed_is(monkeypatch):
    """A month ahead the network from each seed, a year ahead from one of two, five years ahead the autoregression."""
    errors = {"last value": [9.0] * 3, "last cycle": [9.0] * 3, "autoregression": [5.0, 5.0, 5.0]}
    mine = np.array([[4.0, 3.0, 7.0], [4.5, 6.0, 8.0]])
    rows = [
        ("month", "ahead", "low", "middle", "high", "true"),
        *[(1960.0, ahead, 0.0, 1.0, 2.0, 1.0) for ahead in (1, 12, 60)],
    ]
    monkeypatch.setattr(series, "forecast", lambda *_: (errors, mine, [0.8] * 3, rows))
    claim = series.claim(Namespace(size=TINY, kept={}))
    assert claim.found["winners"] == "1: GRU, 12: GRU, 60: autoregression"
    assert claim.found["certain"] == "GRU at 1 of the 3 distances" and claim.verdict == "partly"
    mine[:] = 5.0
    assert series.claim(Namespace(size=TINY, kept={})).found["certain"] == "GRU at none of the 3 distances"
    mine[:] = 4.0
    assert series.claim(Namespace(size=TINY, kept={})).verdict == "holds"


def test_a_gate_is_needed_where_every_run_with_it_learns_and_none_without():
    def run(error):
        return (error, 9, None)

    good, bad = [run(0.001), run(0.002)], [run(0.5), run(0.6)]
    bits = {"LSTM": np.array([2.0, 2.2]), "no input gate": np.array([2.1, 2.3]), "no forget gate": np.array([2.3, 2.4])}
    runs = {"LSTM": good, "no input gate": bad, "no forget gate": good}
    assert gates.needed(runs, bits) == {"no input gate": True, "no forget gate": True}  # by adding; by text
    runs["LSTM"] = [run(0.001), run(0.5)]  # a run of the whole LSTM fails as well: adding says nothing
    assert gates.needed(runs, bits) == {"no input gate": False, "no forget gate": True}


def test_comparisons_take_runs_of_the_lengths_that_both_cells_tried():
    def runs(*updates):
        return [{"updates": each} for each in updates]

    trials = {"lstm": {50: runs(600, 700)}, "gru": {50: runs(300, 200), 100: runs(900, 900)}}
    kept = {"long_range": {"adding": trials}, "speech": {"lstm": [1.0, 0.9], "gru": [0.8, 0.9]}, "gates": {"forget": 0}}
    rows = {what: (lstm.tolist(), gru.tolist()) for what, lstm, gru, _ in gru.beside(Namespace(kept=kept))}
    assert rows["adding, updates to learn it"] == ([[600, 700]], [[300, 200]])
    lstm, gated = rows["speech, share not recognised"]
    assert lstm == [pytest.approx([0.0, 0.1])] and gated == [pytest.approx([0.2, 0.1])]


@pytest.mark.parametrize(
    ("tanh", "simple", "lstm", "gru", "verdict", "says"),
    [
        (0, 25, 50, 50, "holds", "no run of the simple RNN, from any start, learns the 50 steps that every run"),
        (
            0,
            50,
            50,
            50,
            "partly",
            "learns the 50 steps that every run of both gated cells learns, the longest tried, but not as the tanh RNN",
        ),
        (25, 25, 25, 50, "not seen", "25 steps that every run of both gated cells learns, the tanh RNN too"),
        (0, 0, 0, 50, "not seen", "it decides nothing"),
        (50, 25, 50, 50, "not seen", "learns the 50 steps"),  # any start may be the plain one
    ],
)
def test_the_verdict_on_long_memory_follows_the_numbers(monkeypatch, tanh, simple, lstm, gru, verdict, says):
    def runs(longest):
        run = {"error": 0.5, "updates": 10, "seconds": 1.0, "start": "plain"}
        return {gap: [{**run, "learned": gap <= longest}] for gap in (25, 50) if gap <= longest or gap == 25}

    reach = {"tanh RNN": runs(tanh), "rnn": runs(simple), "lstm": runs(lstm), "gru": runs(gru)}
    monkeypatch.setattr(long_range, "tried", lambda *_: reach)
    size = Namespace(**{**vars(TINY), "gaps": {"adding": (25, 50)}})
    lab = deep_dive.Lab(size, "abc" * 2000, None)
    claim = long_range.claim(lab)
    assert claim.verdict == verdict and says in claim.found["lesson"]
    assert lab.kept["long_range"] == {"adding": reach}
    if verdict == "holds":  # one run of a gated cell that fails, and nothing is decided at that length
        reach["lstm"][50].append({**reach["lstm"][50][0], "learned": False})
        claim = long_range.claim(lab)
        assert claim.verdict == "partly" and long_range.surely(reach["lstm"], reach["gru"]) == 25
        assert "learns the 25 steps that every run" in claim.found["lesson"]


@pytest.mark.parametrize("kind", [tg.errors.ArgumentError, KeyError])
def test_trouble_with_one_claim_leaves_the_others(text, tmp_path, monkeypatch, kind):
    real = deep_dive.tried

    def tried(name, lab):
        if name == "memory":
            raise kind("the gradient is no longer finite")
        return real(name, lab)

    monkeypatch.setattr(deep_dive, "tried", tried)
    code, page = run(text, tmp_path, "--only", "memory", "gru")
    assert code == (kind is KeyError) and "the gradient is no longer finite" in page and "Two gates for three" in page


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (0.097, "0.097"), (123.4, "120"), (8300.0, "8300"), (7.2, "7.2"), (-0.5, "-0.5"),
     (1.94e-20, "1.9 × 10⁻²⁰"), (2e5, "2.0 × 10⁵"), (float("inf"), "inf"), (float("nan"), "nan")],
)  # fmt: skip
def test_numbers_for_people(value, words):
    assert article.number(value) == words


def test_a_run_that_diverged_is_not_the_best(monkeypatch):
    ends = iter([(float("nan"), 10), (0.3, 20), (0.2, 20)])
    asked = []

    class Learner:
        limit, model = 0.01, None

        def __init__(self, *_):
            pass

        def run(self, updates, bar):
            asked.append(updates)
            error, self.updates = next(ends)
            return error

    monkeypatch.setattr(gates.long_memory, "Learner", Learner)
    assert gates.learned("LSTM", 21, 0, (1e-2, 3e-3), Namespace(updates=40), None)[:2] == (0.3, 20)
    assert asked == [20, 20]
    ends = iter([(0.005, 10), (0.2, 10)])
    assert gates.learned("LSTM", 21, 0, (1e-2, 3e-3), Namespace(updates=40), None)[0] == 0.005
    assert asked[2:] == [20, 10]  # who takes longer is not the best


def test_what_a_reader_may_know():
    said = {name: known('a "b(\n  c[d\n\n]e').tolist() for name, known in units.KNOWN.items()}
    assert said == {
        "how far the line has come": [1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 0, 1, 2],
        "how far the word has come": [1, 0, 1, 2, 3, 0, 0, 0, 1, 2, 3, 0, 0, 1, 2],
        "whether a line's first word is still to come": [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0],
        "whether it is inside quotation marks": [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "how many brackets are open": [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 0, 0, 0],
    }
    assert units.indentation("  a").tolist() == [1, 1, 0] and units.brackets(")(a").tolist() == [0, 1, 1]


def test_units_that_follow_what_is_known():
    rng = np.random.default_rng(0)
    cell, known = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=50)
    known[::5] = 0.5  # as many have the same rank
    cell[:, 1], cell[:, 2] = np.exp(-3.0 * known), 7.0
    exact = [spearmanr(cell[:, unit], known).statistic for unit in (0, 3)]
    np.testing.assert_allclose(units.ranked(known) @ units.ranked(cell), [exact[0], -1.0, 0.0, exact[1]], rtol=1e-12)
    assert not units.ranked(np.ones(50)).any()  # what never changes is followed by nobody


def test_units_are_chosen_on_validation_and_asked_on_test(monkeypatch):
    monkeypatch.setattr(units, "KNOWN", {"line": units.KNOWN["how far the line has come"]})
    text = language.Text("abcdefgh\nij\n" * 300, 2, 16)
    model = char_lm.CharacterModel(len(text.vocabulary), "lstm", hidden=6)
    (unit, *found), parts = units.telling(model, text, 100)["line"], [part[:100] for part in text.parts[1:]]
    every = [
        [spearmanr(one, units.since(text.vocabulary.decode(part), "\n")).statistic for one in cell.T]
        for part in parts
        for cell in [units.recorded(model, part)["cell"][:, 0]]
    ]
    assert unit == np.argmax(np.abs(every[0]))
    np.testing.assert_allclose(found, [every[0][unit], every[1][unit]], rtol=1e-5)
    more, less = {"a": (0, -0.9, 0.0), "b": (0, 0.8, 1.0)}, {"a": (0, 0.5, 0.0), "b": (0, 0.1, 1.0)}
    assert units.taught(more, less) == "b"
