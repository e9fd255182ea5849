"""Three cells learn one text: with as many parameters, for as long, from the best of three learning rates each.

    python examples/language.py                                 # five minutes, on text that every Python carries
    python examples/language.py --text FILE --seconds 600 --parameters 500000

Nine tenths are learned from; half of the rest has chosen rates and moments, the other half is the test. Beside them: a
compressor (LZMA) that has seen the training text, and counts of what came after the last symbols (Kneser and Ney 1995).
"""

import argparse
import lzma
import sys
import time
from collections import namedtuple

import numpy as np
from char_lm import BITS, CELLS, CharacterModel, fraction, loss_of, positive, update
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.data import Streams, Vocabulary, bundled_text, read_text
from tinygrad_rnn.errors import TinygradError

RATES, TRIAL = (1e-3, 3e-3, 1e-2), 0.2  # a short trial flatters a high rate
BAR = "{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}"

Moment = namedtuple("Moment", "seconds updates validation test")  # where a run was: bits per character


class Text:
    """A text as numbers, in three parts."""

    def __init__(self, text, batch, steps):
        self.vocabulary = Vocabulary(text)
        numbers = self.vocabulary.encode(text)
        ends = int(0.9 * len(numbers)), int(0.95 * len(numbers))
        self.parts, self.known, self.asked = np.split(numbers, ends), text[: ends[0]], text[ends[1] :]
        self.train, self.validation, self.test = (Streams(part, batch, steps) for part in self.parts)


def counted(text, order, discount=0.9):
    """Bits per character of counts: of validation and test, whose first symbols are left out."""
    size, window = len(text.vocabulary), np.lib.stride_tricks.sliding_window_view
    order = min(order, int(62 / np.log2(size + 1)) - 1)  # a context and what follows it are one number of 62 bits
    likely = [np.full(len(part) - order, 1.0 / size) for part in text.parts[1:]]
    for n in range(order + 1):
        place = size ** np.arange(order + 1)[::-1]
        seen = window(text.parts[0], n + 1) @ place[-n - 1 :]
        if n < order:  # after how many symbols, not how often
            seen = np.unique(window(text.parts[0], n + 2) @ place[-n - 2 :]) % size ** (n + 1)
        found, times = np.unique(seen, return_counts=True)
        contexts, first, kinds = np.unique(found // size, return_index=True, return_counts=True)
        totals = np.add.reduceat(times, first)
        for i, part in enumerate(text.parts[1:]):
            wanted = window(part[order - n :], n + 1) @ place[-n - 1 :]
            at = np.searchsorted(found, wanted).clip(max=len(found) - 1)
            here = np.searchsorted(contexts, wanted // size).clip(max=len(contexts) - 1)
            mixed = np.maximum(times[at] - discount, 0.0) * (found[at] == wanted) + discount * kinds[here] * likely[i]
            likely[i] = np.where(contexts[here] == wanted // size, mixed / totals[here], likely[i])
    return [float(-np.log2(part).mean()) for part in likely]


def baselines(text):
    """Bits per character of the test: of the compressor, of counts by order, and the order that validation chooses."""
    tried = {order: counted(text, order) for order in tqdm(range(1, 9), "counts", leave=False, disable=None)}
    known, whole = (len(lzma.compress(part.encode(), preset=9)) for part in (text.known, text.known + text.asked))
    order, more = min(tried, key=lambda order: tried[order][0]), 8.0 * (whole - known)
    return more / len(text.asked), {n: test for n, (_, test) in tried.items()}, order


def width(cell, symbols, parameters):
    """The size of the state with which a model has nearest to so many parameters: three sizes tell their polynomial."""
    few, hidden = (1, 2, 3), np.arange(1, 10_000)
    counts = [sum(p.size for p in CharacterModel(symbols, cell, hidden=size).parameters()) for size in few]
    return int(hidden[np.argmin(np.abs(np.polyval(np.polyfit(few, counts, 2), hidden) - parameters))])


def measured(model, streams):
    """Bits per character of a part."""
    model.eval()
    losses, state = [], None
    with tg.no_grad():
        for i in range(len(streams)):
            loss, state = loss_of(model, *streams[i], state)
            losses.append(loss.item() * BITS)
    model.train()
    return float(np.mean(losses))


def learn(text, cell, rate, seconds, options, seed, bar, times, pace=None):
    """A model after so many seconds (or updates of a given pace), the moment validation chooses, and all moments."""
    hidden = width(cell, len(text.vocabulary), options.parameters)
    tg.manual_seed(seed)
    model = CharacterModel(len(text.vocabulary), cell, hidden=hidden, dropout=options.dropout)
    optimizer, spent, updates, state, moments = tg.optim.Adam(model.parameters(), lr=rate), 0.0, 0, None, []
    while spent < seconds:
        begin = time.perf_counter()
        optimizer.lr = rate * (1.0 - 0.95 * spent / seconds)
        place = updates % len(text.train)
        _, state = update(model, optimizer, *text.train[place], state if place else None, clip=1.0)
        took, updates = pace or time.perf_counter() - begin, updates + 1
        spent += took if pace or updates > 1 else 0.0  # kernels are compiled at the first
        bar.update(min(took, bar.total - bar.n))
        if spent >= seconds * (len(moments) + 1) / times:
            moments.append(Moment(spent, updates, measured(model, text.validation), measured(model, text.test)))
            bar.set_postfix_str(f"{moments[-1].validation:.3f} bits per character", refresh=False)
    return model, min(moments, key=lambda moment: moment.validation), moments


def compared(text, cell, options, bar):
    """The best of the rates, which were each tried for a part of the time; and with it a run from each seed."""
    tried = {rate: learn(text, cell, rate, TRIAL * options.seconds, options, 99, bar, 1)[1] for rate in RATES}
    rate, seeds = min(tried, key=lambda rate: tried[rate].validation), range(options.seeds)
    return rate, [learn(text, cell, rate, options.seconds, options, seed, bar, options.moments) for seed in seeds]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text (default: Python's help topics)")
    parser.add_argument("--cells", nargs="+", choices=tuple(CELLS), default=list(CELLS))
    many = {"seconds": 60.0, "parameters": 200_000, "dropout": 0.1, "seeds": 1, "moments": 10, "batch": 32, "steps": 64}
    for name, number in many.items():
        kind = {"seconds": positive(float), "dropout": fraction}.get(name, positive(int))
        parser.add_argument(f"--{name}", type=kind, default=number, metavar="N", help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        text = Text(read_text(options.text) if options.text else bundled_text(), options.batch, options.steps)
        squeezed, counts, order = baselines(text)
        print(f"{'compressor':24} {squeezed:.3f} bits per character")
        print(f"{f'counts after {order} symbols':24} {counts[order]:.3f} bits per character", flush=True)
        for cell in options.cells:
            total = options.seconds * (options.seeds + TRIAL * len(RATES))
            with tqdm(total=total, desc=cell, disable=None, leave=False, bar_format=BAR) as bar:
                rate, runs = compared(text, cell, options, bar)
            found, (model, _, moments) = [chosen.test for _, chosen, _ in runs], runs[0]
            spread = f" ({min(found):.3f} to {max(found):.3f} over {len(found)} seeds)" if len(found) > 1 else ""
            size, read = sum(p.size for p in model.parameters()), moments[-1].updates * options.batch * options.steps
            print(f"{cell:24} {np.mean(found):.3f} bits per character{spread}: {size:,} parameters, rate {rate:g},",
                  f"{read / 1e6:.1f} million characters in {moments[-1].seconds:.0f} s", flush=True)  # fmt: skip
    except KeyboardInterrupt:
        return 130
    except TinygradError as trouble:
        print(f"language: {trouble.one_line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
