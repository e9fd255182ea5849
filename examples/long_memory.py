"""How far back can a cell remember? Four tasks whose answer depends on something long past, for gaps of many lengths.

    python examples/long_memory.py                                     # the adding problem, some minutes
    python examples/long_memory.py --tasks adding,copying,order --gaps 25,50,100,200 --seeds 5 --output runs/memory.png
    python examples/long_memory.py --tasks digits --seeds 3            # scikit-learn's digits, a pixel a step
    python examples/long_memory.py --cells gru --from own.py:cell      # and a cell of yours: `cell` returns its class

adding   two numbers of T are marked: their sum. Guessing 1 has an error of 0.167.    (Hochreiter and Schmidhuber 1997)
copying  ten symbols, T - 20 blanks, then the ten again.                              (the same; Arjovsky et al. 2016)
order    two of four kinds of symbols, far apart in noise: which came first?          (the same)
digits   the 64 pixels of a written digit, one after another: which is it?

Every cell has the same budget: three learning rates from two starts, a sixth of the updates each; the best goes on. The
second start is the literature's for long memories: gates open for 1 to T steps (chrono, Tallec and Ollivier 2018), and
of the simple RNN a ReLU and the identity (IRNN, Le et al. 2015); a cell of yours may have none. A run stops where fresh
examples show it learned, and where another has learned it with fewer updates.
"""

import argparse
import contextlib
import csv
import io
import itertools
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.errors import ArgumentError, MissingError, TinygradError
from tinygrad_rnn.files import write_whole
from tinygrad_rnn.viz.typed import positive, returned

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
RATES, STARTS = (1e-2, 3e-3, 1e-3), ("plain", "long")


# --- 1. The tasks: inputs (T, B, I), what is asked for, and the limit of the error ---


def adding(rng, rows, steps):
    """Targets (B,): the sum of the two marked numbers, one in each half."""
    x = np.stack([rng.uniform(0.0, 1.0, (steps, rows)), np.zeros((steps, rows))], -1)
    first, second = rng.integers(0, steps // 2, rows), rng.integers(steps // 2, steps, rows)
    at = np.arange(rows)
    x[first, at, 1] = x[second, at, 1] = 1.0
    return x, (x[first, at, 0] + x[second, at, 0])[:, None]


def copying(rng, rows, steps):
    """Targets (10, B): the symbols, asked for at the last ten steps. Symbol 8 is a blank, 9 asks."""
    symbols = rng.integers(0, 8, (10, rows))
    shown = np.full((steps, rows), 8)
    shown[:10], shown[-10:] = symbols, 9
    return np.eye(10)[shown], symbols


def order(rng, rows, steps):
    """Targets (1, B): of four, which of X and Y came first and which second, near the start and past the middle."""
    shown = rng.integers(2, 6, (steps, rows))
    kinds, at = rng.integers(0, 2, (2, rows)), np.arange(rows)
    shown[rng.integers(0, max(steps // 10, 1), rows), at] = kinds[0]
    shown[rng.integers(steps // 2, max(6 * steps // 10, steps // 2 + 1), rows), at] = kinds[1]
    return np.eye(6)[shown], (2 * kinds[0] + kinds[1])[None]


class Digits:
    """Targets (1, B): the digit. A part is never learned from: it says what is learned, and which way is best."""

    def __init__(self):
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise MissingError("long_memory: digits need scikit-learn: pip install scikit-learn") from None
        self.x, self.y = load_digits(return_X_y=True)

    def __call__(self, rng, rows, steps):
        return self.chosen(rng.integers(300, len(self.x), rows))

    def held(self, rng, rows, steps):
        """Those of the other part."""
        return self.chosen(rng.integers(0, 300, rows))

    def chosen(self, which):
        return self.x[which].T[:, :, None] / 16.0, self.y[which][None]


#: The task, its outputs (0 for a number), and the error below which it is learned.
TASKS = {
    "adding": (adding, 0, 0.01),
    "copying": (copying, 8, 0.01),
    "order": (order, 4, 0.01),
    "digits": (None, 10, 0.1),
}


# --- 2. Learning one ---


class Rememberer(nn.Module):
    """A layer over time, of a cell's name or what makes one, and an answer from each of its last outputs."""

    def __init__(self, cell, inputs, hidden, outputs, start, steps):
        identity = {"nonlinearity": "relu"} if (cell, start) == ("rnn", "long") else {}
        made = CELLS.get(cell, cell)(inputs, hidden, **identity)
        self.recurrent = nn.Recurrent(made) if isinstance(made, nn.Cell) else made
        self.answer = nn.Linear(hidden, outputs or 1)
        if identity:
            nn.init.identity_(self)
        elif start == "long":
            with contextlib.suppress(ArgumentError):  # a cell of yours may have no gate that keeps
                nn.init.chrono_(self, steps)

    def forward(self, x, answers):
        outputs, _ = self.recurrent(x)
        return self.answer(outputs[-answers:])


def judged(model, x, target, outputs):
    """The loss, and the error that says whether it is learned: mean square, or the share of wrong answers."""
    answers = model(tg.tensor(x.astype(np.float32)), len(target) if outputs else 1)
    if not outputs:
        loss = tg.mse_loss(answers[0], tg.tensor(target.astype(np.float32)))
        return loss, loss.item()
    loss = tg.cross_entropy(answers.reshape(-1, outputs), tg.tensor(target.reshape(-1)))
    return loss, float((answers.numpy().argmax(-1) != target).mean())


class Learner:
    """A model on its way to a task."""

    def __init__(self, task, cell, steps, rate, start, seed, options):
        self.make, self.outputs, self.limit = TASKS[task]
        self.held = getattr(self.make, "held", self.make)  # what is drawn anew is fresh anyway
        tg.manual_seed(seed)
        self.rng, self.steps, self.updates, self.rows = np.random.default_rng(seed), steps, 0, options.batch
        self.seconds = 0.0
        x, _ = self.make(self.rng, 2, steps)
        self.model = Rememberer(cell, x.shape[-1], options.hidden, self.outputs, start, steps)
        self.optimizer = tg.optim.Adam(self.model.parameters(), lr=rate)

    def run(self, updates, bar):
        """Go on for some updates, or until it is learned: the error of fresh examples."""
        error, begin = float("inf"), time.perf_counter()
        for update in range(updates):
            loss, _ = judged(self.model, *self.make(self.rng, self.rows, self.steps), self.outputs)
            self.optimizer.zero_grad()
            loss.backward()
            tg.optim.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.updates += 1
            if self.updates == 1:
                begin = time.perf_counter()  # kernels are compiled at the first
            bar.update(1)
            if self.updates % 100 == 0 or update == updates - 1:
                with tg.no_grad():
                    _, error = judged(self.model, *self.held(np.random.default_rng(99), 600, self.steps), self.outputs)
                bar.set_postfix(error=f"{error:.3f}", refresh=False)
                if error < self.limit:
                    break
        self.seconds += time.perf_counter() - begin
        return error


def searched(learners, updates, bar):
    """Each runs for so many updates, or as many as the best so far needed: (which is the best, the errors of all)."""
    errors = []
    for learner in learners:
        errors.append(learner.run(updates, bar))
        if errors[-1] < learner.limit:
            updates = learner.updates  # who takes longer is not the best

    def rank(i):
        learned = errors[i] < learners[i].limit
        return (learners[i].updates if learned else np.inf, np.nan_to_num(errors[i], nan=np.inf))

    return min(range(len(learners)), key=rank), errors


def trial(task, cell, steps, seed, options, bar, starts=STARTS, rates=RATES):
    """What came of the best rate and start: error, updates, seconds of its own and of all."""
    begin = time.perf_counter()
    ways = [(rate, start) for start in starts for rate in rates]
    learners = [Learner(task, cell, steps, *way, seed, options) for way in ways]
    best, errors = searched(learners, options.updates // len(ways), bar)
    if not errors[best] < learners[best].limit:  # none has learned it yet
        errors[best] = learners[best].run(options.updates, bar)
    found, (rate, start) = learners[best], ways[best]
    tuned, learned = time.perf_counter() - begin, errors[best] < found.limit
    names = ("error", "learned", "updates", "seconds", "tuned", "rate", "start")
    return dict(zip(names, (errors[best], learned, found.updates, found.seconds, tuned, rate, start)))


# --- 3. The command ---


def listed(choices):
    def read(text):
        if any(part not in choices for part in text.split(",")):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(choices)}, got {text!r}")
        return text.split(",")

    return read


def lengths(text):
    found = [positive(part) for part in text.split(",")]
    if min(found) < 21:
        raise argparse.ArgumentTypeError(f"expected at least 21 steps, got {text!r}")
    return found


def file(text):
    if Path(text).suffix not in (".csv", ".png", ".svg"):
        raise argparse.ArgumentTypeError(f"expected FILE.csv, .png or .svg, got {text!r}")
    return text


def picture(rows, path):
    """Success against the gap, a panel for each task."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingError(
            "long_memory: pictures need matplotlib: pip install matplotlib (csv needs nothing)"
        ) from None
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    made = Figure(figsize=(4.2 * len(tasks), 3.4), layout="constrained")
    for axis, task in zip(made.subplots(1, len(tasks), squeeze=False)[0], tasks):
        for cell, look in zip(CELLS, itertools.cycle(("o:", "s-", "^--", "D-."))):
            mine = [row for row in rows if (row["task"], row["cell"]) == (task, cell)]
            gaps = sorted({row["gap"] for row in mine})
            shares = [np.mean([row["learned"] for row in mine if row["gap"] == gap]) for gap in gaps]
            if gaps:
                axis.plot(gaps, shares, look, label=cell)
        axis.set(title=task, xlabel="steps", ylabel="share of runs that learn it", ylim=(-0.05, 1.05))
        axis.legend()
    content = io.BytesIO()
    made.savefig(content, format=path.rpartition(".")[2], dpi=120)
    write_whole(path, content.getvalue())


def summary(rows):
    """A line for the seeds of a cell."""
    numbers = ("error", "updates", "seconds", "tuned")
    first, mean = rows[0], {name: np.mean([row[name] for row in rows]) for name in numbers}
    errors = [row["error"] for row in rows]
    return (
        f"{first['task']:8} {first['gap']:5} steps  {first['cell']:5} learned {sum(row['learned'] for row in rows)} of "
        f"{len(rows)}  error {mean['error']:.4f} ({min(errors):.4f} to {max(errors):.4f})  updates "
        f"{mean['updates']:.0f}, {mean['seconds']:.0f} s  tuned in {mean['tuned']:.0f} s"
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=listed(TASKS), default=["adding"], metavar="TASK,TASK", help=",".join(TASKS))
    parser.add_argument("--cells", type=listed(CELLS), default=list(CELLS), metavar="CELL,CELL", help=",".join(CELLS))
    parser.add_argument(
        "--from", dest="own", action="append", default=[], metavar="FILE.py:FUNCTION", help="one of yours"
    )
    parser.add_argument("--gaps", type=lengths, default=[25, 50, 100], metavar="T,T", help="steps (25,50,100)")
    for name, number in (("seeds", 1), ("updates", 6000), ("hidden", 64), ("batch", 32)):
        parser.add_argument(f"--{name}", type=positive, default=number, metavar="N", help="(%(default)s)")
    parser.add_argument("--output", type=file, metavar="FILE", help="csv, png or svg")
    options = parser.parse_args(arguments)
    rows, stopped = [], False
    try:
        for source in options.own:
            name = source.rpartition(":")[2]
            CELLS[name] = returned(source, "long_memory", contextlib.nullcontext())
            options.cells = [*options.cells, name]
        if "digits" in options.tasks:
            TASKS["digits"] = (Digits(), *TASKS["digits"][1:])
        plan = [(task, gap) for task in options.tasks for gap in ([64] if task == "digits" else options.gaps)]
        with tqdm(total=None, unit="update", disable=None, leave=False) as bar:
            for task, gap in plan:
                for cell in options.cells:
                    for seed in range(options.seeds):
                        bar.set_description(f"{task} {gap} {cell} seed {seed}")
                        found = trial(task, cell, gap, seed, options, bar)
                        rows.append({"task": task, "gap": gap, "cell": cell, "seed": seed, **found})
                    tqdm.write(summary(rows[-options.seeds :]))
    except KeyboardInterrupt:
        stopped = True
        print(f"stopped{': what is done is kept' if options.output and rows else ''}", file=sys.stderr)
    except TinygradError as trouble:
        print(f"long_memory: {trouble.one_line}", file=sys.stderr)
        return 2
    try:
        if options.output and rows:
            if options.output.endswith(".csv"):
                writer = csv.DictWriter(text := io.StringIO(), list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
                write_whole(options.output, text.getvalue().encode())
            else:
                picture(rows, options.output)
    except TinygradError as trouble:
        print(f"long_memory: {trouble.one_line}", file=sys.stderr)
        return 2
    return 130 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
