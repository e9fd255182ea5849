"""Recurrent networks learn language, character by character."""

import html

import char_lm
import language
import numpy as np

import tinygrad_rnn as tg

from . import units
from .article import Claim, colour_of, framed, name_of, panel, panels, seeds_of, spread, table


def compared(text, options, bar):
    """Each cell with as many parameters, for as long: {cell: (rate, [(model, chosen moment, moments), ...])}."""
    found = {}
    for cell in ("rnn", "lstm", "gru"):
        bar.set_description(f"text, {name_of(cell)}")
        found[cell] = language.compared(text, cell, options, bar)
    return found


def claim(lab):
    text, size = lab.text, lab.size.language
    squeezed, counts, order = language.baselines(text)
    seconds = size.seconds * (size.seeds + language.TRIAL * len(language.RATES)) * 3
    with lab.clock("text", seconds) as bar:
        found = compared(text, size, bar)
    bits = {cell: np.array([chosen.test for _, chosen, _ in runs]) for cell, (_, runs) in found.items()}
    best = min(bits, key=lambda cell: bits[cell].mean())
    model = found[best][1][0][0]
    lstm = found["lstm"][1][0][0]
    fresh = char_lm.CharacterModel(len(text.vocabulary), "lstm", hidden=lstm.scores.weight.shape[1])
    told, untold = units.telling(lstm, text), units.telling(fresh, text)
    learned, r = units.taught(told, untold), units.recorded(lstm, text.parts[2][: units.LENGTH])
    unit, _, knows = told[learned]
    memory = np.sort(r.time_constant("forget_gate"))
    lab.kept["text"] = bits
    lab.kept["gates of the LSTM on text"] = {"forget": r["forget_gate"], "written": r["input_gate"]}
    rng, first = np.random.default_rng(0), char_lm.start(text.vocabulary)
    written = char_lm.write(model, text.vocabulary, 500, first, temperature=0.7, rng=rng)

    def learning(of, label):
        def draw(axis):
            for cell, (_, runs) in found.items():
                for i, (_, _, moments) in enumerate(runs):
                    axis.plot([of(m) for m in moments], [m.test for m in moments], color=colour_of(cell), linewidth=1.2,
                              label=None if i else name_of(cell))  # fmt: skip
            for symbols in sorted({1, 2, 3, order}):
                axis.axhline(counts[symbols], color="#616E7C", linestyle=":", linewidth=1)
                axis.annotate(f"{symbols}", (1.0, counts[symbols]), xycoords=("axes fraction", "data"), fontsize=8)
            axis.legend()

        return panel(draw, f"learning against {label[0]}", label[1], "bits per character, test")

    def line(cell):
        rate, runs = found[cell]
        model, _, moments = runs[0]
        read = moments[-1].updates * size.batch * size.steps / 1e6
        count = sum(p.size for p in model.parameters())
        return (
            name_of(cell),
            f"{bits[cell].mean():.3f}{spread(bits[cell])}",
            f"{count:,}",
            model.scores.weight.shape[1],
            f"{rate:g}",
            f"{read:.1f}",
        )

    nearest = min(counts, key=lambda symbols: abs(counts[symbols] - bits[best].mean()))
    baselines = {"compressor": squeezed} | {
        f"counts after {n} symbol{'s' if n > 1 else ''}": counts[n] for n in sorted({1, 2, order})
    }
    return Claim(
        "text",
        verdict="holds"
        if bits[best].mean() < counts[order]
        else "partly"
        if bits[best].mean() < counts[1]
        else "not seen",
        found={
            "seconds": f"{size.seconds:g}",
            "characters": f"{len(text.known):,}",
            "bits": ", ".join(f"{name_of(cell)} {part.mean():.3f}" for cell, part in bits.items()),
            "squeezed": f"{squeezed:.3f}",
            "counts": f"{counts[order]:.3f}",
            "order": order,
            "nearest": nearest,
            "parameters": f"{size.parameters:,}",
            "seeds": seeds_of(size.seeds),
            "pictures": panels(
                learning(lambda m: m.seconds, ("time", "seconds of training")),
                learning(lambda m: m.updates * size.batch * size.steps / 1e6, ("text read", "million characters")),
            ),
            "table": table(
                ["", "bits per character", "parameters", "units", "rate", "million characters read"],
                [line(cell) for cell in found]
                + [(name, f"{value:.3f}", *[""] * 4) for name, value in baselines.items()],
            ),
            "best": name_of(best),
            "sample": f"<pre class='text'>{html.escape(written.strip())}</pre>",
            "known": table(
                ["", "unit", "correlation", "nothing learned"],
                [(name, told[name][0], f"{told[name][2]:+.2f}", f"{untold[name][2]:+.2f}") for name in told],
            ),
            "learned": learned,
            "unit": unit,
            "knows": f"{knows:+.2f}",
            "untrained": f"{untold[learned][2]:+.2f}",
            "nearest_bits": f"{counts[nearest]:.3f}",
            "coloured": framed(
                tg.viz.text(text.asked[:700], r["cell"][:700, 0, unit], title=f"cell state of unit {unit}"),
                "coloured text",
                330,
            ),
            "median_memory": f"{np.median(memory):.1f}",
            "longest_memory": f"{memory[-1]:.0f}",
        },
        numbers={name_of(cell): f"{part.mean():.3f} bits per character{spread(part)}" for cell, part in bits.items()}
        | {name: f"{value:.3f}" for name, value in baselines.items()},
        code=(language.counted, char_lm.CharacterModel, char_lm.update, language.learn, units.ranked, units.telling),
    )
