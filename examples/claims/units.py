"""What single units of a language model do (after Karpathy, Johnson and Fei-Fei 2015)."""

import numpy as np
from scipy.stats import rankdata

import tinygrad_rnn as tg

LENGTH = 20_000  # symbols of a part that are looked at

# --- What a reader may know at each symbol of a text, as numbers ---


def since(symbols, ends):
    """How many symbols ago one of the ends was read."""
    at = np.arange(len(symbols))
    return at - np.maximum.accumulate(np.where([symbol in ends for symbol in symbols], at, -1))


def indentation(symbols):
    """1 before the first word of a line, 0 after."""
    found, before = np.zeros(len(symbols)), True
    for i, symbol in enumerate(symbols):
        before = symbol == "\n" or (before and symbol == " ")
        found[i] = before
    return found


def quoted(symbols):
    """1 inside quotation marks, 0 outside, as it is at the start of each paragraph."""
    found, inside = np.zeros(len(symbols)), False
    for i, symbol in enumerate(symbols):
        inside = not inside if symbol == '"' else inside and symbols[max(i - 1, 0) : i + 1] != "\n\n"
        found[i] = inside
    return found


def brackets(symbols):
    """How many brackets are open; none at the start of each paragraph."""
    found, depth = np.zeros(len(symbols)), 0
    for i, symbol in enumerate(symbols):
        depth = max(depth + (symbol in "([{") - (symbol in ")]}"), 0)
        depth = 0 if symbols[max(i - 1, 0) : i + 1] == "\n\n" else depth
        found[i] = depth
    return found


KNOWN = {
    "how far the line has come": lambda symbols: since(symbols, "\n"),
    "how far the word has come": lambda symbols: since(symbols, " \n"),
    "whether a line's first word is still to come": indentation,
    "whether it is inside quotation marks": quoted,
    "how many brackets are open": brackets,
}

# --- What units do ---


def recorded(model, numbers):
    """The cell state and the gates at each symbol: (T, 1, H)."""
    model.eval()
    with tg.no_grad(), tg.record("cell", "forget_gate", "input_gate") as r:
        model(numbers[:, None])
    return r


def ranked(values):
    """Ranks along the first axis, centred and of length 1 (0 of what never changes).

    Products of these are Spearman's correlations: one long run of hyphens would decide those of the numbers themselves.
    """
    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(0)
    lengths = np.sqrt((ranks**2).sum(0))
    return ranks / np.where(lengths == 0.0, 1.0, lengths)


def telling(model, text, length=LENGTH):
    """Of each thing to know: the unit that follows it best on validation text; its correlations there and on test."""
    parts = [part[:length] for part in text.parts[1:]]
    cells = [ranked(recorded(model, part)["cell"][:, 0]) for part in parts]
    symbols, found = [text.vocabulary.decode(part) for part in parts], {}
    for name, known in KNOWN.items():
        chosen, test = (ranked(known(shown)) @ cell for cell, shown in zip(cells, symbols))
        unit = int(np.argmax(np.abs(chosen)))
        found[name] = (unit, float(chosen[unit]), float(test[unit]))
    return found


def taught(trained, fresh):
    """What training has made the largest difference to, on validation text: of two answers of `telling`."""
    return max(trained, key=lambda name: abs(trained[name][1]) - abs(fresh[name][1]))
