"""The GRU: two gates for three."""

import time

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .article import Claim, colour_of, name_of, panel, panels, table

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


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
    """What earlier claims found for GRU and LSTM: (what, LSTM's mean, GRU's mean, whether less is better)."""
    rows = []
    for task, trials in lab.kept.get("long_range", {}).items():
        done = {cell: [run for runs in trials[cell].values() for run in runs] for cell in ("lstm", "gru")}
        shared = min(len(runs) for runs in done.values())  # the gaps that both were tried at
        for what, of in (("updates", "updates"), ("seconds", "seconds")):
            means = [np.mean([run[of] for run in done[cell][:shared]]) for cell in ("lstm", "gru")]
            rows.append((f"{task}, {what} to learn it", *means, True))
    for name, unit, less in (("text", "bits per character", True), ("speech", "share recognised", False)):
        if {"lstm", "gru"} <= lab.kept.get(name, {}).keys():
            rows.append((f"{name}, {unit}", *[np.mean(lab.kept[name][cell]) for cell in ("lstm", "gru")], less))
    for i, ahead in enumerate((1, 12, 60)):
        if {"lstm", "gru"} <= lab.kept.get("series", {}).keys():
            means = [lab.kept["series"][cell][:, i].mean() for cell in ("lstm", "gru")]
            rows.append((f"sunspots, error {ahead} months ahead", *means, True))
    return rows


def claim(lab):
    tg.manual_seed(0)
    hidden = 128
    count, spent = sizes(hidden), times(hidden, lab.size.rounds)
    rows = beside(lab)
    worse = [what for what, lstm, gru, less in rows if (gru > 1.03 * lstm if less else gru < 0.97 * lstm)]
    scores = [what for what in worse if "to learn" not in what]
    coupled = coupling(*lab.kept["gates of the LSTM on text"]) if "gates of the LSTM on text" in lab.kept else None

    def bars(of):
        def draw(axis):
            for i, cell in enumerate(CELLS):
                axis.bar(i, of[cell], color=colour_of(cell))
            axis.set_xticks(range(3), [name_of(cell) for cell in CELLS])

        return draw

    faster = spent["gru"] < spent["lstm"]
    return Claim(
        "gru",
        verdict="holds" if faster and not worse else "partly" if faster or not scores else "not seen",
        found={
            "ratio": f"{count['gru'] / count['lstm']:.2f}",
            "time_ratio": f"{spent['gru'] / spent['lstm']:.2f}",
            "worse": f"it is more than 3 % worse in {len(worse)}: {'; '.join(worse) or 'none'}",
            "compared": len(rows),
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
            "table": table(
                ["", "LSTM", "GRU", "GRU / LSTM"],
                [(what, f"{lstm:.4g}", f"{gru:.4g}", f"{gru / lstm:.2f}") for what, lstm, gru, _ in rows],
            ),
            "coupled": "was not measured, for want of a text" if coupled is None else f"is {coupled:+.2f}",
        },
        numbers={
            f"parameters at {hidden} units": " / ".join(f"{name_of(c)} {count[c]:,}" for c in CELLS),
            "µs a step": " / ".join(f"{name_of(c)} {spent[c]:.1f}" for c in CELLS),
            "forget gate against 1 - input gate, in the LSTM": "" if coupled is None else f"{coupled:+.2f}",
        },
        code=(sizes, times, coupling),
    )
