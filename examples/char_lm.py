"""A character-level language model: learn a text symbol by symbol, then write more of it.

    python examples/char_lm.py train                     # a minute, on text that every Python carries
    python examples/char_lm.py train --text FILE --cell gru --hidden 256 --seconds 600
    python examples/char_lm.py sample --prompt "The "

The model reads one symbol a step and says what the next will be. Its loss is the cross-entropy in bits per character:
how many bits a perfect compressor that used its predictions would need for each. The first three parts below are the
whole idea (model, one update, writing); the rest keeps a run safe and repeatable.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.autograd.pytree import map_leaves
from tinygrad_rnn.data import Streams, Vocabulary, bundled_text, read_text
from tinygrad_rnn.errors import ArgumentError, FileError, TinygradError
from tinygrad_rnn.files import write_whole

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
BITS = 1.0 / math.log(2.0)


# --- 1. The model ---


class CharacterModel(nn.Module):
    """Symbol -> vector -> recurrent layers -> a score for each symbol that may come next.

    The state is all that the model remembers of the text so far. The same weights are used at every step. The cell is
    a name, or what makes a layer of a cell of yours.
    """

    def __init__(self, symbols, cell="lstm", embedding=64, hidden=128, layers=1, dropout=0.0, rng=None):
        self.embedding = nn.Embedding(symbols, embedding, rng=rng)
        between = dropout if layers > 1 else 0.0
        self.recurrent = CELLS.get(cell, cell)(embedding, hidden, layers, dropout=between, rng=rng)
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.scores = nn.Linear(hidden, symbols, rng=rng)

    def forward(self, symbols, state=None):
        """Symbols (T, B) and a state -> scores (T, B, V) for the next symbol, and the state after the last step."""
        output, state = self.recurrent(self.embedding(symbols), state)
        return self.scores(self.dropout(output)), state

    def step(self, symbols, states):
        """One step: symbols (B,) and a state for each cell -> scores (B, V), and the states after it."""
        output, after = self.embedding(symbols), []
        for cell, state in zip(self.recurrent.cells, states):
            output, state = cell.step(output, state)
            after.append(state)
        return self.scores(output), after


# --- 2. One update ---


def loss_of(model, inputs, targets, state):
    """Mean cross-entropy, in nats, of predicting each symbol from those before it."""
    scores, state = model(inputs, state)
    return tg.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1)), state


def update(model, optimizer, inputs, targets, state, clip):
    """Learn from one chunk (T, B). The state is carried on, but cut off from the tape: gradients stop at the chunk.

    That is truncated backpropagation through time: memory reaches further back than learning does.
    """
    loss, state = loss_of(model, inputs, targets, nn.detach(state))
    optimizer.zero_grad()
    loss.backward()
    norm = tg.optim.clip_grad_norm_(model.parameters(), clip)  # one steep place must not throw the weights far away
    if not math.isfinite(norm.item()):
        raise ArgumentError("the gradient is no longer finite", hint="a smaller --lr or --clip")
    optimizer.step()
    return loss.item(), state


# --- 3. Writing text ---


@tg.no_grad()
def write(model, vocabulary, length, prompt="\n", temperature=1.0, top_k=None, rng=None):
    """Read the prompt, then draw `length` symbols, each from what the model expects after all before it."""

    def drawn(carry, _):
        scores, states = carry
        symbol = tg.categorical(scores, temperature, top_k, rng)
        return model.step(symbol, states), symbol

    model.eval()
    scores, state = model(vocabulary.encode(prompt)[:, None])
    states = [map_leaves(lambda part, i=i: part[i], state) for i in range(len(model.recurrent.cells))]
    _, written = tg.scan(drawn, (scores[-1], states), tg.arange(length))
    model.train()
    return vocabulary.decode(written[:, 0].numpy())


# --- 4. A run: what is kept, and how it goes on ---


class Run:
    """A model in training, with all that a run needs to go on later as if nothing had happened."""

    def __init__(self, options, text):
        self.options = options
        self.vocabulary = Vocabulary(text)
        numbers = self.vocabulary.encode(text)
        cut = len(numbers) - len(numbers) // 10  # the last tenth is held out
        self.streams = Streams(numbers[:cut], options["batch"], options["steps"])
        held_out = numbers[cut:]
        few = max(1, min(options["batch"], (len(held_out) - 1) // options["steps"]))
        self.held_out = Streams(held_out, few, min(options["steps"], max(1, len(held_out) - 1)))
        self.rng = np.random.default_rng(options["seed"])
        shape = {name: options[name] for name in ("cell", "embedding", "hidden", "layers", "dropout")}
        self.model = CharacterModel(len(self.vocabulary), **shape, rng=self.rng)
        self.optimizer = tg.optim.Adam(self.model.parameters(), lr=options["lr"])
        self.state, self.updates, self.seconds = None, 0, 0.0
        self.recent: list[float] = []  # losses since the last row of the curve
        self.curve: list[list] = []  # update, seconds, bits in training, bits on held-out text or None

    @property
    def epochs(self):
        """How often the training text has been read."""
        return self.updates / len(self.streams)

    def advance(self):
        """One update; at the end of the text the streams start anew, with an empty state."""
        place = self.updates % len(self.streams)
        if place == 0:
            self.state = None
        loss, self.state = update(
            self.model, self.optimizer, *self.streams[place], self.state, clip=self.options["clip"]
        )
        self.updates += 1
        self.recent.append(loss * BITS)

    def measured(self, chunks=None):
        """Bits per character on held-out text: all of it, or its first chunks."""
        self.model.eval()
        losses, state = [], None
        count = len(self.held_out) if chunks is None else min(chunks, len(self.held_out))
        with tg.no_grad():
            for i in tqdm(range(count), "held-out text", leave=False, delay=2, unit="chunk"):
                loss, state = loss_of(self.model, *self.held_out[i], state)
                losses.append(loss.item() * BITS)
        self.model.train()
        return float(np.mean(losses))

    def note(self, held_out=None):
        """Add a row to the curve."""
        if self.recent or held_out is not None:
            mean = float(np.mean(self.recent)) if self.recent else None
            self.curve.append([self.updates, round(self.seconds, 3), mean, held_out])
            self.recent = []

    def save(self, folder):
        """Write checkpoint and curve; each file is whole at any moment."""
        state = [] if self.state is None else [self.state] if isinstance(self.state, tg.Tensor) else list(self.state)
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": state,
            "rng": json.dumps(self.rng.bit_generator.state),
            "progress": [self.updates, self.seconds],
            "recent": self.recent,
            "curve": self.curve,
        }
        about = {"options": json.dumps(self.options), "symbols": json.dumps(self.vocabulary.symbols)}
        tg.save(content, folder / "checkpoint.safetensors", about)
        rows = ["update,seconds,bits_training,bits_held_out"]
        rows += [",".join("" if value is None else str(value) for value in row) for row in self.curve]
        write_whole(folder / "curve.csv", ("\n".join(rows) + "\n").encode())

    def load(self, content):
        """Take up what `save` wrote."""
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        state = content["state"]
        self.state = None if not state else state[0] if len(state) == 1 else nn.LSTMState(*state)
        self.rng.bit_generator.state = json.loads(content["rng"])
        self.updates, self.seconds = content["progress"]
        self.recent, self.curve = content["recent"], content["curve"]


def checkpoint_of(folder):
    """A run's checkpoint: (content, options, symbols)."""
    content, about = tg.load(Path(folder) / "checkpoint.safetensors")
    try:
        return content, json.loads(about["options"]), json.loads(about["symbols"])
    except KeyError:
        raise FileError(f"{folder}/checkpoint.safetensors: not a checkpoint of this program") from None


# --- 5. The commands ---

DEFAULTS = {
    "text": None, "cell": "lstm", "embedding": 64, "hidden": 128, "layers": 1, "dropout": 0.0, "batch": 16, "steps": 64,
    "lr": 4e-3, "clip": 1.0, "seed": 0, "seconds": None, "epochs": None,
}  # fmt: skip
FIXED = ("text", "cell", "embedding", "hidden", "layers", "batch", "steps", "seed")  # a resumed run cannot change these


def train(given):
    """The command `train`."""
    folder, content, options = prepared(given)
    text = read_text(options["text"]) if options["text"] else bundled_text()
    run = Run(options, text)
    if content is not None:
        run.load(content)
    folder.mkdir(parents=True, exist_ok=True)
    held, total = len(text) // 10, len(text)
    count = sum(p.size for p in run.model.parameters())
    print(
        f"{total:,} characters ({held:,} held out), {len(run.vocabulary)} symbols; "
        f"{options['cell']} model of {count:,} parameters"
    )
    if content is not None:
        print(f"going on at update {run.updates:,}")

    stopped: list[int] = []

    def stop(number, frame):
        if stopped:
            raise KeyboardInterrupt  # the second time, at once
        stopped.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    progress(run, folder, given.save_every, stopped)
    run.save(folder)
    if stopped:
        print(f"\nstopped and saved. To go on: python {sys.argv[0]} train --resume {folder}")
        return 128 + stopped[0]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    run.note(run.measured())
    run.save(folder)
    drawn = draw_curve(run.curve, folder / "curve.png")
    print(f"\n{run.updates:,} updates ({run.epochs:.2f} times through the text) in {run.seconds:.0f} s")
    print(f"held-out text: {run.curve[-1][3]:.3f} bits per character\n\na sample:")
    rng = np.random.default_rng(options["seed"])
    print(write(run.model, run.vocabulary, 400, start(run.vocabulary), temperature=0.8, rng=rng))
    print(f"\nin {folder}: checkpoint.safetensors, curve.csv{', curve.png' if drawn else ''}")
    print(f"more text: python {sys.argv[0]} sample --run {folder}")
    return 0


def progress(run, folder, save_every, stopped):
    """Updates until the time is up, the text was read often enough, or somebody wants to stop."""
    seconds, epochs = run.options["seconds"], run.options["epochs"]
    by_time = epochs is None
    end = seconds if by_time else math.ceil(epochs * len(run.streams))
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} " + ("s" if by_time else "updates") + "{postfix}"
    done = min(end, run.seconds if by_time else run.updates)
    with tqdm(total=end, initial=done, bar_format=form, mininterval=0.5) as bar:
        before = time.perf_counter()
        while (run.seconds if by_time else run.updates) < end and not stopped:
            run.advance()
            now = time.perf_counter()
            run.seconds, before = run.seconds + now - before, now
            bar.n = min(end, run.seconds if by_time else run.updates)
            if run.updates % 10 == 0:
                run.note()
                recent = [row[2] for row in run.curve[-10:] if row[2] is not None]
                held = next((f", held out {row[3]:.3f}" for row in reversed(run.curve) if row[3] is not None), "")
                bar.set_postfix_str(f"{np.mean(recent):.3f} bits per character{held}", refresh=False)
                bar.update(0)
            if run.updates % 500 == 0:
                run.note(run.measured(chunks=64))
            if run.updates % save_every == 0:
                run.save(folder)
            before = time.perf_counter()  # measuring and saving are not training


def prepared(given):
    """The run's folder, the checkpoint to go on from or None, and all options; nothing is written yet."""
    asked = {name: getattr(given, name) for name in DEFAULTS if getattr(given, name) is not None}
    if given.resume is None:
        options = {**DEFAULTS, **asked}
        if options["seconds"] is None and options["epochs"] is None:
            options["seconds"] = 60.0
        folder = Path(given.out) if given.out else fresh_folder(f"char_lm-{options['cell']}")
        if (folder / "checkpoint.safetensors").exists():
            raise ArgumentError(f"{folder} holds a run already", hint=f"--resume {folder}, or another --out")
        if options["text"]:
            options["text"] = str(Path(options["text"]).resolve())
        return folder, None, options
    folder = Path(given.resume or given.out or newest_run())
    content, options, _ = checkpoint_of(folder)
    for name in FIXED:
        value = asked.get(name, options[name])
        if name == "text" and name in asked:
            value = str(Path(value).resolve())
        if value != options[name]:
            raise ArgumentError(f"--{name} differs from the run in {folder}", expected=options[name], got=value)
    if "epochs" in asked:
        options["seconds"] = None
    elif "seconds" in asked:
        options["epochs"] = None
    return folder, content, {**options, **asked, "text": options["text"]}


def fresh_folder(name):
    """A folder below runs/ that does not exist."""
    folder, i = Path("runs") / name, 1
    while folder.exists():
        i += 1
        folder = Path("runs") / f"{name}-{i}"
    return folder


def newest_run():
    """The folder below runs/ with the newest checkpoint."""
    found = sorted(Path("runs").glob("*/checkpoint.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileError("no run found below runs/", hint=f"python {sys.argv[0]} train")
    return found[-1].parent


def start(vocabulary):
    """What a text begins after: a line break, where the vocabulary has one."""
    return "\n" if "\n" in vocabulary.symbols else vocabulary.symbols[0]


def sample(given):
    """The command `sample`."""
    folder = Path(given.run or newest_run())
    content, options, symbols = checkpoint_of(folder)
    vocabulary = Vocabulary(symbols)
    shape = {name: options[name] for name in ("cell", "embedding", "hidden", "layers")}
    model = CharacterModel(len(vocabulary), **shape)
    model.load_state_dict(content["model"])
    prompt = given.prompt or start(vocabulary)
    rng = np.random.default_rng(given.seed)
    text = write(model, vocabulary, given.length, prompt, given.temperature, given.top_k, rng)
    print((given.prompt or "") + text)
    return 0


def draw_curve(curve, path):
    """The learning curve as a picture, where matplotlib is there to draw it."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for column, label in ((2, "training"), (3, "held-out text")):
        rows = [row for row in curve if row[column] is not None]
        axes.plot(
            [row[0] for row in rows], [row[column] for row in rows], "o-" if column == 3 else "-", ms=4, label=label
        )
    axes.set(xlabel="updates", ylabel="bits per character")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


class Parser(argparse.ArgumentParser):
    """A parser that tells trouble in one line."""

    def error(self, message):
        self.exit(2, f"char_lm: {message} (--help tells more)\n")


def positive(kind):
    """An argument type: a number above zero."""

    def parse(text):
        value = kind(text)
        if not value > 0 or not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def fraction(text):
    """An argument type: a probability below one."""
    if not 0.0 <= float(text) < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return float(text)


def parser():
    """The command line."""
    top = Parser(description="A character-level language model: train one, then let it write.")
    commands = top.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="learn from a text")
    one.add_argument("--text", metavar="FILE", help="UTF-8 text to learn (default: Python's help topics)")
    one.add_argument("--cell", choices=CELLS, help="(default lstm)")
    for name, kind, meaning in (
        ("--hidden", int, "size of the state (default 128)"),
        ("--layers", int, "recurrent layers (default 1)"),
        ("--embedding", int, "size of a symbol's vector (default 64)"),
        ("--batch", int, "streams of text read side by side (default 16)"),
        ("--steps", int, "symbols in a chunk, through which gradients flow (default 64)"),
        ("--lr", float, "learning rate of Adam (default 0.004)"),
        ("--clip", float, "largest norm of the gradient (default 1)"),
    ):
        one.add_argument(name, type=positive(kind), metavar="N", help=meaning)
    one.add_argument("--dropout", type=fraction, metavar="P", help="of outputs, in training (default 0)")
    one.add_argument("--seed", type=int, metavar="N", help="of everything random (default 0)")
    length = one.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=positive(float), metavar="S", help="how long to train (default 60)")
    length.add_argument("--epochs", type=positive(float), metavar="N", help="how often to read the text, instead")
    one.add_argument("--out", metavar="DIR", help="where the run is kept (default: a new folder below runs/)")
    one.add_argument(
        "--resume", nargs="?", const="", metavar="DIR", help="go on with that run (or --out, or the newest)"
    )
    one.add_argument(
        "--save-every", type=positive(int), default=200, metavar="N", help="updates between saves (default 200)"
    )
    two = commands.add_parser("sample", help="let a trained model write")
    two.add_argument("--run", metavar="DIR", help="(default: the newest below runs/)")
    two.add_argument("--length", type=positive(int), default=500, metavar="N", help="symbols to write (default 500)")
    two.add_argument(
        "--temperature",
        type=positive(float),
        default=0.8,
        metavar="T",
        help="below 1 bolder, above 1 wilder (default 0.8)",
    )
    two.add_argument("--top-k", type=positive(int), metavar="K", help="choose among the K likeliest symbols only")
    two.add_argument("--prompt", help="text to go on from")
    two.add_argument("--seed", type=int, default=0, metavar="N", help="(default 0)")
    return top


def main(arguments=None):
    """Run a command; trouble is told in one line, with exit code 2."""
    given = parser().parse_args(arguments)
    try:
        return {"train": train, "sample": sample}[given.command](given)
    except TinygradError as trouble:
        print(f"char_lm: {trouble.one_line}", file=sys.stderr)
    except KeyboardInterrupt:
        print("char_lm: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as trouble:
        print(f"char_lm: {trouble.filename or ''}: {trouble.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
