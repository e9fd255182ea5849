"""Recurrent networks understand speech: spoken digits."""

import zipfile
import zlib
from argparse import Namespace

import numpy as np
import spoken_digits

from tinygrad_rnn.data import cached
from tinygrad_rnn.errors import TinygradError

from .article import Claim, colour_of, name_of, panel, panels, seeds_of, spread, table


def heard(sounds, digits, chosen, cells, options, seeds):
    """The share of recordings recognised, for each cell from each seed."""
    return {
        cell: [
            spoken_digits.learn(sounds, digits, *chosen, Namespace(cell=cell, **vars(options)), seed)
            for seed in range(seeds)
        ]
        for cell in cells
    }


def claim(lab):
    try:
        path = lab.digits or cached(spoken_digits.URL, "spoken_digits.zip", "--digits FILE.zip")
        sounds, digits, _, takes = spoken_digits.read(path)
    except (TinygradError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as trouble:
        return Claim("speech", why=f"The recordings are not there: {' '.join(str(trouble).split())}")
    size, chosen = lab.size, (np.flatnonzero(takes >= 10), np.flatnonzero(takes < 5))
    found = heard(sounds, digits, chosen, size.speech_cells, size.speech, size.speech_seeds)
    lab.kept["speech"] = found
    line = spoken_digits.linear(sounds, digits, *chosen)
    means = {cell: float(np.mean(scores)) for cell, scores in found.items()}
    scored = {cell: f"{means[cell]:.1%}{spread(scores, '.1%')}" for cell, scores in found.items()}
    everyone = [*[(name_of(cell), score) for cell, score in scored.items()], ("linear classifier", f"{line:.1%}")]
    best = max(means, key=means.get)
    margin = 2.0 * np.sqrt(line * (1.0 - line) / len(chosen[1]))  # two standard errors of the baseline
    seven = spoken_digits.scaled(sounds, chosen[0])[int(np.flatnonzero(digits == 7)[0])]

    def spectrum(axis):
        axis.imshow(seven[:, :13].T, origin="lower", aspect="auto", cmap="YlGnBu", interpolation="nearest")

    def scores(axis):
        for i, (cell, each) in enumerate(found.items()):
            axis.scatter(each, [i] * len(each), color=colour_of(cell))
        axis.axvline(line, color="#616E7C", linestyle=":")
        axis.set(yticks=range(len(found)), yticklabels=[name_of(cell) for cell in found], ylim=(-0.5, len(found) - 0.5))

    return Claim(
        "speech",
        verdict="holds" if min(found[best]) > line + margin else "partly" if means[best] > line else "not seen",
        found={
            "best": name_of(best),
            "score": scored[best],
            "seeds": seeds_of(size.speech_seeds),
            "linear": f"{line:.1%}",
            "recordings": f"{len(sounds):,}",
            "tested": f"{len(chosen[1]):,}",
            "margin": f"{margin:.1%}",
            "pictures": panels(
                panel(spectrum, "a spoken seven", "frame, one every 10 ms", "coefficient"),
                panel(scores, "recognised", "share of the test"),
            ),
            "table": table(["", "recognised"], everyone),
        },
        numbers={f"digits of known speakers, {name}": score for name, score in everyone},
        code=(spoken_digits.features, spoken_digits.Listener, spoken_digits.varied, spoken_digits.linear, heard),
    )
