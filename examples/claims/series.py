"""Recurrent networks forecast time series: sunspots."""

from argparse import Namespace

import numpy as np
import sunspots

from tinygrad_rnn.errors import MissingError

from .article import Claim, colour_of, listed, name_of, panel, panels, spread, table


def forecast(cell, options, seeds):
    """Forecasts of the test years from each seed: see `sunspots.judged`."""
    numbers, first = sunspots.monthly()
    end = 12 * (sunspots.PARTS["validation"][0] - first)
    runs = [sunspots.learn(numbers, end, Namespace(cell=cell, **vars(options)), seed) for seed in range(seeds)]
    return sunspots.judged(numbers, first, "test", end, runs)


def claim(lab):
    size, found = lab.size, {}
    try:
        for cell in size.series_cells:
            baselines, found[cell], inside, rows = forecast(cell, size.series, size.series_seeds)
    except MissingError as trouble:
        return Claim("series", why=trouble.one_line)
    lab.kept["series"] = found
    cell = size.series_cells[-1]
    means = {cell: errors.mean(0) for cell, errors in found.items()}
    every = {**{name: np.array(errors) for name, errors in baselines.items()}, **means}
    winners = [min(every, key=lambda name: every[name][i]) for i in range(3)]
    known = np.min([errors for name, errors in every.items() if name not in found], 0)
    ahead = {name: errors.max(0) < known for name, errors in found.items()}  # from every seed
    simple = np.minimum(every["last value"], every["last cycle"])
    holds = any(where.all() for where in ahead.values())
    partly = any(where.any() for where in ahead.values()) or any((mean < simple).all() for mean in means.values())

    def drawn(ahead):
        def draw(axis):
            part = np.array([[row[0], *row[2:]] for row in rows[1:] if row[1] == ahead], float)
            axis.fill_between(part[:, 0], part[:, 1], part[:, 3], color=colour_of(cell), alpha=0.25, linewidth=0)
            axis.plot(part[:, 0], part[:, 4], color="#9AA5B1", linewidth=0.7)
            axis.plot(part[:, 0], part[:, 2], color=colour_of(cell), linewidth=1.0)

        return panel(draw, f"{ahead} month{'s' if ahead > 1 else ''} ahead", "year", "sunspots")

    def line(name):
        each = found[name].T if name in found else [()] * 3
        return (name_of(name), *[f"{mean:.1f}{spread(errors, '.1f')}" for mean, errors in zip(every[name], each)])

    return Claim(
        "series",
        verdict="holds" if holds else "partly" if partly else "not seen",
        found={
            "errors": ", ".join(f"{name_of(name)} " + " / ".join(f"{e:.1f}" for e in every[name]) for name in every),
            "winners": ", ".join(f"{months}: {name_of(name)}" for months, name in zip(sunspots.AHEAD, winners)),
            "certain": listed(
                [
                    f"{name_of(name)} at {where.sum() or 'none'} of the {len(where)} distances"
                    for name, where in ahead.items()
                ]
            ),
            "means": "One seed."
            if size.series_seeds == 1
            else f"Means of {size.series_seeds} seeds; in brackets from the least error to the largest.",
            "cell": name_of(cell),
            "inside": " / ".join(f"{share:.0%}" for share in inside),
            "pictures": panels(*[drawn(ahead) for ahead in sunspots.AHEAD]),
            "table": table(["mean absolute error, months ahead", *sunspots.AHEAD], [line(name) for name in every]),
        },
        numbers={
            f"error {' / '.join(map(str, sunspots.AHEAD))} months ahead, {name_of(name)}": " / ".join(
                f"{e:.1f}" for e in every[name]
            )
            for name in every
        },
        code=(sunspots.Forecaster, sunspots.pinball, sunspots.autoregression, forecast),
    )
