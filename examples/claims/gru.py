"""The GRU: two gates for three."""

import time

import numpy as np

import tinygrad_rnn as tg

from .article import CELLS, Claim, colour_of, name_of, panel, panels, table


def sizes(hidden):
    """Parameters of each cell, with as many inputs as units."""
    return {cell: sum(p.size for p in made(hidden, hidden).parameters()) for cell, made in CELLS.items()}


def times(hidden, rounds, steps=64, rows=32):
    """Microseconds a step, forward and all gradients: the median of rounds in which the cells take turns."""
    x = tg.randn(steps, rows, hidden)
    layers, found = {cell: made(hidden, hidden) for cell, made in CELLS.items()}, {cell: [] for cell in CELLS}
    for _ in range(rounds + 2):
        for cell, layer in layers.items():
            begin = time.perf_counter()
            layer(x)[0].sum().backward()
            found[cell].append((time.perf_counter() - begin) / steps * 1e6)
    return {cell: float(np.median(each[2:])) for cell, each in found.items()}


def coupling(forget, written):
    """How far a unit's forget gate is 1 minus its input gate, as in a GRU: the mean correlation over units."""
    forget, written = (gate.reshape(-1, gate.shape[-1]).astype(np.float64) for gate in (forget, written))
    each = [np.corrcoef(f, 1.0 - i)[0, 1] for f, i in zip(forget.T, written.T) if f.std() > 0 and i.std() > 0]
    return float(np.mean(each))


def beside(lab):
    """What earlier claims found, the less the better: (what, LSTM's runs, GRU's runs, what counts as a difference).

    Runs are arrays of (lengths of the task, seeds); of what has no lengths (1, seeds).
    """
    rows, pair = [], ("lstm", "gru")
    kept = {name: part for name, part in lab.kept.items() if part.keys() >= {*pair}}
    for task, trials in lab.kept.get("long_range", {}).items():
        shared = [gap for gap in trials["lstm"] if gap in trials["gru"]]
        runs = [[[run["updates"] for run in trials[cell][gap]] for gap in shared] for cell in pair]
        rows.append((f"{task}, updates to learn it", *runs, 0.25))
    if "text" in kept:
        rows.append(("text, bits per character", *[[kept["text"][cell]] for cell in pair], 0.03))
    if "speech" in kept:
        missed = [[[1.0 - share for share in kept["speech"][cell]]] for cell in pair]
        rows.append(("speech, share not recognised", *missed, 0.25))
    for i, ahead in enumerate((1, 12, 60)):
        if "series" in kept:
            errors = [[kept["series"][cell][:, i]] for cell in pair]
            rows.append((f"sunspots, error {ahead} month{'s' if ahead > 1 else ''} ahead", *errors, 0.03))
    return [(what, np.array(lstm), np.array(gru), margin) for what, lstm, gru, margin in rows]


def clearly(less, more, margin):
    """Whether at no length a run of the first is over one of the second, and their mean is under by the margin."""
    return bool((less.max(1) <= more.min(1)).all() and (1.0 + margin) * less.mean() < more.mean())


def claim(lab):
    tg.manual_seed(0)
    hidden = 128
    count, spent = sizes(hidden), times(hidden, lab.size.rounds)
    rows = beside(lab)
    worse = [what for what, lstm, gru, margin in rows if clearly(lstm, gru, margin)]
    better = [what for what, lstm, gru, margin in rows if clearly(gru, lstm, margin)]
    words = "Nothing was tried above to compare them by"
    if rows:
        words = (
            f"Of {len(rows)} comparisons in what was tried above it is better in {len(better)}, worse in {len(worse)}"
        )
        words += f" ({'; '.join(worse)})" if worse else ""
    coupled = coupling(**lab.kept["gates of the LSTM on text"]) if "gates of the LSTM on text" in lab.kept else None

    def bars(of):
        def draw(axis):
            for i, cell in enumerate(CELLS):
                axis.bar(i, of[cell], color=colour_of(cell))
            axis.set_xticks(range(3), [name_of(cell) for cell in CELLS])

        return draw

    faster = spent["gru"] < spent["lstm"]
    return Claim(
        "gru",
        verdict="holds"
        if faster and rows and not worse
        else "partly"
        if faster or (rows and not worse)
        else "not seen",
        found={
            "ratio": f"{count['gru'] / count['lstm']:.2f}",
            "time_ratio": f"{spent['gru'] / spent['lstm']:.2f}",
            "beside": words,
            "threads": tg.get_num_threads(),
            "sizes": table(
                [
                    f"{hidden} inputs, {hidden} units",
                    "parameters",
                    "beside the simple RNN",
                    "µs a step, forward and back",
                ],
                [(name_of(c), f"{count[c]:,}", f"{count[c] / count['rnn']:.0f}", f"{spent[c]:.1f}") for c in CELLS],
            ),
            "pictures": panels(
                panel(bars(count), "parameters at equal width", height=2.3),
                panel(bars(spent), "µs a step, forward and back", height=2.3),
            ),
            "table": "nothing, in this run."
            if not rows
            else table(
                ["", "LSTM", "GRU", "GRU / LSTM"],
                [
                    (what, f"{lstm.mean():.4g}", f"{gru.mean():.4g}", f"{gru.mean() / max(lstm.mean(), 1e-9):.2f}")
                    for what, lstm, gru, _ in rows
                ],
            ),
            "coupled": "was not measured, for want of a text" if coupled is None else f"is {coupled:+.2f}",
        },
        numbers={
            f"parameters at {hidden} units": " / ".join(f"{name_of(c)} {count[c]:,}" for c in CELLS),
            "µs a step": " / ".join(f"{name_of(c)} {spent[c]:.1f}" for c in CELLS),
        }
        | ({} if coupled is None else {"forget gate against 1 - input gate, in the LSTM": f"{coupled:+.2f}"}),
        code=(sizes, times, clearly, coupling),
    )
