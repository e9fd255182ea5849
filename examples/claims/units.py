"""What single units of a language model do (after Karpathy, Johnson and Fei-Fei 2015)."""

import numpy as np
from scipy.stats import rankdata

import tinygrad_rnn as tg

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


def follows(cell, known):
    """How far each unit of (T, H) follows what is known at each step: Spearman's correlation; 0 of what never changes.

    That of ranks, as one long run of hyphens would decide that of the numbers themselves.
    """
    cell, known = rankdata(cell, axis=0), rankdata(known)
    cell, known = cell - cell.mean(0), known - known.mean()
    sizes = np.sqrt((cell**2).sum(0) * (known**2).sum())
    return known @ cell / np.where(sizes == 0.0, 1.0, sizes)


def telling(model, text, length=20_000):
    """Of each thing to know: the unit that follows it best on validation text; its correlations there and on test."""
    cells = [recorded(model, part[:length])["cell"][:, 0] for part in text.parts[1:]]
    symbols, found = [text.vocabulary.decode(part[:length]) for part in text.parts[1:]], {}
    for name, known in KNOWN.items():
        chosen, test = (follows(cell, known(shown)) for cell, shown in zip(cells, symbols))
        unit = int(np.argmax(np.abs(chosen)))
        found[name] = (unit, float(chosen[unit]), float(test[unit]))
    return found


def taught(trained, fresh):
    """What training has made the largest difference to, on validation text: of two answers of `telling`."""
    return max(trained, key=lambda name: abs(trained[name][1]) - abs(fresh[name][1]))
