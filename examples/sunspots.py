"""Sunspots, month by month since 1749: forecasts 1, 12 and 60 months ahead, with intervals, beside honest baselines.

    python examples/sunspots.py --cell lstm --seeds 5     # needs the extra: pip install -e '.[examples]'

The numbers stand in the statsmodels package. Years up to 1929 are learned from, 1930 to 1959 have chosen the settings,
1960 to 2008 are the test. At each month the network has read all months so far, and says the 10th, 50th (the forecast)
and 90th percentile of what will come. It works on roots, where counts spread alike at all heights (Anscombe 1948).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.errors import MissingError, TinygradError
from tinygrad_rnn.files import write_whole
from tinygrad_rnn.viz.typed import positive

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
AHEAD, LEVELS, LAGS, CYCLE = (1, 12, 60), (0.1, 0.5, 0.9), 12, 132
PARTS = {"validation": (1930, 1960), "test": (1960, 2009)}


def monthly():
    """The mean number of each month, and the first year."""
    try:
        import statsmodels
    except ImportError:
        raise MissingError("sunspots: the numbers stand in statsmodels: pip install statsmodels") from None
    path = Path(statsmodels.__file__).parent / "datasets" / "sunspots" / "src" / "sunspots_monthly.dat"
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(str.split, lines) if len(row) == 13 and row[0].isdigit()]
    return np.array([[float(number) for number in row[1:]] for row in rows]).ravel(), int(rows[0][0])


class Forecaster(nn.Module):
    """Months (T, B, 13) -> percentiles (T, B, 3 distances, 3 levels): a linear forecast, and what the memory adds."""

    def __init__(self, cell, hidden):
        self.recurrent, self.dropout = CELLS[cell](LAGS + 1, hidden), nn.Dropout(0.3)
        self.linear, self.correction = nn.Linear(LAGS + 1, 9), nn.Linear(hidden, 9)

    def forward(self, x):
        outputs, _ = self.recurrent(x)
        return (self.linear(x) + self.correction(self.dropout(outputs))).reshape(*x.shape[:2], 3, 3)


def pinball(forecast, true):
    """The loss whose least is at the percentiles (Koenker and Bassett 1978): (T, B, 3, 3) against (T, B, 3)."""
    error, levels = true.expand_dims(-1) - forecast, tg.tensor(np.array(LEVELS, np.float32))
    nearer_is_easier = tg.tensor(np.array([[1.0], [0.6], [0.4]], np.float32))
    return (tg.maximum(levels * error, (levels - 1.0) * error) * nearer_is_easier).mean()


def inputs(numbers):
    """Of each month the roots of the year that ends with it, the newest last, and their mean over a cycle: (T, 13)."""
    root = np.sqrt(numbers) / 7.0
    padded = [np.concatenate([np.full(n - 1, root[:n].mean()), root]) for n in (LAGS, CYCLE)]
    year = np.lib.stride_tricks.sliding_window_view(padded[0], LAGS)
    cycle = np.convolve(padded[1], np.ones(CYCLE) / CYCLE, "valid")
    return np.concatenate([year, cycle[:, None]], 1).astype(np.float32)


def learn(numbers, end, options, seed):
    """Forecasts of a network trained on the months before `end`: windows of 33 years, the first eleven as a start."""
    tg.manual_seed(seed)
    rng, model, x = np.random.default_rng(seed), Forecaster(options.cell, options.hidden), inputs(numbers)
    optimizer, steps = tg.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2), 3 * CYCLE
    with tqdm(range(options.updates), f"seed {seed}", unit="update", disable=None, leave=False) as bar:
        for update in bar:
            optimizer.lr = 3e-3 * (1.0 - update / options.updates)
            at = rng.integers(0, end - steps - max(AHEAD), 32)[None, :] + np.arange(steps)[:, None]
            scale = rng.uniform(0.6, 1.4, (1, 32, 1))  # as if the sun had been calmer, or wilder
            given = x[at] * scale + rng.normal(0.0, 0.02, (steps, 32, LAGS + 1))
            true = np.stack([x[at + ahead, LAGS - 1] for ahead in AHEAD], -1) * scale
            forecast = model(tg.tensor(given.astype(np.float32)))
            optimizer.zero_grad()
            pinball(forecast[CYCLE:], tg.tensor(true[CYCLE:].astype(np.float32))).backward()
            tg.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    model.eval()
    with tg.no_grad():
        made = model(tg.tensor(x[:, None])).numpy()[:, 0]
    return np.square(7.0 * np.maximum(np.sort(made, -1), 0.0))  # (T, distance, level), in sunspots


def autoregression(numbers, end, ahead, order=144):
    """The baseline: least squares on the roots of 24 months and of the means of 12 years, a fit for each distance."""
    root = np.sqrt(numbers)
    rows = np.lib.stride_tricks.sliding_window_view(root, order)  # row i ends at month i + order - 1
    known = np.concatenate([np.ones((len(rows), 1)), rows[:, -24:], rows.reshape(len(rows), -1, 12).mean(-1)], 1)
    train = np.arange(end - ahead - order + 1)
    weights = np.linalg.lstsq(known[train], root[train + order - 1 + ahead], rcond=None)[0]
    made = np.full(len(numbers), np.nan)
    made[order - 1 :] = np.square(np.maximum(known @ weights, 0.0))
    return made


def judged(numbers, first, part, end, runs):
    """Mean errors at each distance, of baselines by name and of runs (runs, 3); the share inside; a run's forecasts."""
    start, stop = (12 * (year - first) for year in PARTS[part])
    errors, mine, inside = {"last value": [], "last cycle": [], "autoregression": []}, [], []
    rows = [("month", "ahead", "low", "middle", "high", "true")]
    for i, ahead in enumerate(AHEAD):
        at = np.arange(start - ahead, min(stop, len(numbers)) - ahead)  # months whose forecasts fall into the part
        true, others = numbers[at + ahead], (numbers, np.roll(numbers, CYCLE - ahead))
        for name, other in zip(errors, (*others, autoregression(numbers, end, ahead))):
            errors[name].append(np.abs(other[at] - true).mean())
        mine.append([np.abs(run[at, i, 1] - true).mean() for run in runs])
        inside.append(np.mean([(run[at, i, 0] <= true) & (true <= run[at, i, 2]) for run in runs]))
        rows += [(first + (m + ahead) / 12, ahead, *runs[0][m, i], t) for m, t in zip(at, true)]
    return errors, np.array(mine).T, inside, rows


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=tuple(PARTS), default="test", help="what is forecast")
    parser.add_argument("--cell", choices=tuple(CELLS), default="gru")
    for name, number in (("hidden", 32), ("updates", 600), ("seeds", 1)):
        parser.add_argument(f"--{name}", type=positive, default=number, metavar="N", help="(%(default)s)")
    parser.add_argument("--output", metavar="FILE.csv", help="write every forecast")
    options = parser.parse_args(arguments)
    try:
        numbers, first = monthly()
        end = 12 * (PARTS["validation"][0] - first)
        runs = [learn(numbers, end, options, seed) for seed in range(options.seeds)]
        errors, mine, inside, rows = judged(numbers, first, options.part, end, runs)
        print(f"{'months ahead':24}" + "".join(f"{n:>8}" for n in AHEAD) + "   mean absolute error, in sunspots")
        for name, values in (errors | {options.cell: mine.mean(0)}).items():
            print(f"{name:24}" + "".join(f"{value:8.1f}" for value in values))
        ends = zip(mine.min(0), mine.max(0))
        print(f"{f'over {len(runs)} seeds':24}" + "".join(f"{f'{low:.1f}-{high:.1f}':>10}" for low, high in ends))
        print(f"{'in the 80 % interval':24}" + "".join(f"{share:8.0%}" for share in inside))
        if options.output:
            write_whole(options.output, "".join(",".join(map(str, row)) + "\n" for row in rows).encode())
    except KeyboardInterrupt:
        return 130
    except TinygradError as trouble:
        print(f"sunspots: {trouble.one_line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
