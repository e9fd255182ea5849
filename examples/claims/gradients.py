"""Gradients of a simple RNN vanish."""

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .article import CELLS, Claim, colour_of, name_of, number, panel, panels, table

DISTANCE, OPEN = 100, "LSTM, gates open for long"


def scaled(gain):
    """A simple RNN whose recurrent matrix is orthogonal, times a gain."""
    layer = nn.RNN(4, 32)
    nn.init.orthogonal_recurrent_(layer, gain)
    return layer


def kept_open(layer):
    """Gates that are open for 1 to 100 steps at first (Tallec and Ollivier 2018)."""
    nn.init.chrono_(layer, DISTANCE)
    return layer


def rectified():
    """A simple RNN of ReLUs whose recurrent matrix is the identity (Le et al. 2015)."""
    layer = nn.RNN(4, 32, nonlinearity="relu")
    nn.init.identity_(layer)
    return layer


def layers():
    """Layers of 32 units and 4 inputs, as they start."""
    return {
        "rnn": nn.RNN(4, 32),
        "lstm": nn.LSTM(4, 32),
        "gru": nn.GRU(4, 32),
        "orthogonal × 0.9": scaled(0.9),
        "orthogonal": scaled(1.0),
        "orthogonal × 1.5": scaled(1.5),
        "ReLU, identity": rectified(),
        "LSTM, forget bias 1": opened(nn.LSTM(4, 32)),
        OPEN: kept_open(nn.LSTM(4, 32)),
        "GRU, gates open for long": kept_open(nn.GRU(4, 32)),
    }


def opened(layer):
    """Forget gates with a bias of 1 (Jozefowicz et al. 2015)."""
    nn.init.forget_bias_(layer, 1.0)
    return layer


def against_distance(flow):
    """The norm of dL / ds, s the whole state, 0, 1, 2... steps before the loss; 1 at no distance."""
    norms = np.sqrt(sum(np.square(flow.norms(part)) for part in flow.parts))[::-1]
    return norms / norms[0]


def claim(lab):
    tg.manual_seed(0)
    x, found = 0.5 * tg.randn(DISTANCE + 1, 2, 4), {}
    for name, layer in lab.bar(layers().items(), "gradients over 100 steps"):
        found[name] = tg.viz.flow(layer, x)
    curves = {name: against_distance(flow) for name, flow in found.items()}
    ratio = {name: float(curve[DISTANCE]) for name, curve in curves.items()}

    def drawn(names, title):
        def draw(axis):
            for i, name in enumerate(names):
                axis.semilogy(np.maximum(curves[name], 1e-40), color=colour_of(name, i), label=name_of(name))
            axis.set_ylim(1e-32, 1e4)
            axis.legend(loc="lower left")

        return panel(draw, title, "steps before the loss", "norm, relative")

    def matrix(name, title):
        def draw(axis):
            flow = found[name]
            whole = np.sqrt(sum(np.square(flow.matrix(part)) for part in flow.parts))
            values = np.log10(np.maximum(whole, 1e-12))
            values[np.triu_indices(DISTANCE + 1, 1)] = np.nan
            shown = axis.imshow(values, origin="lower", cmap="YlGnBu", vmin=-12, vmax=1, interpolation="nearest")
            axis.figure.colorbar(shown, ax=axis, shrink=0.8, label="log10")

        return panel(draw, title, "state after step k", "loss of step t", height=3.4)

    def row(name):
        per_step = ratio[name] ** (1 / DISTANCE)
        return (name_of(name), number(ratio[name]), f"{per_step:.3f}", f"{np.exp(found[name].exponents[0]):.3f}")

    vanishes = ratio["rnn"] < 1e-3
    too_simple = ratio["lstm"] < 1e-3 or ratio["gru"] < 1e-3 or ratio["ReLU, identity"] > 1e-3
    return Claim(
        "gradients",
        verdict="not seen" if not vanishes else "partly" if too_simple else "holds",
        found={
            **{cell: number(ratio[cell], 1) for cell in CELLS},
            "open": number(ratio[OPEN]),
            "identity": number(ratio["ReLU, identity"]),
            "lstm_step": f"{ratio['lstm'] ** (1 / DISTANCE):.2f}",
            "grown": number(ratio["orthogonal × 1.5"]),
            "no_cure": "So the LSTM is no cure by itself; but its" if ratio["lstm"] < 1e-3 else "Its",
            "curves": panels(
                drawn(["rnn", "lstm", "gru"], "three cells as they start"),
                drawn(["rnn", "orthogonal × 0.9", "orthogonal", "orthogonal × 1.5", "ReLU, identity"], "simple RNNs"),
                drawn(["lstm", "LSTM, forget bias 1", OPEN, "gru", "GRU, gates open for long"], "gated cells"),
            ),
            "table": table(
                ["as it starts, 32 units", f"left after {DISTANCE} steps", "a step leaves", "largest exponent says"],
                [row(name) for name in found],
            ),
            "matrices": panels(matrix("rnn", "simple RNN as it starts"), matrix(OPEN, OPEN)),
        },
        numbers={
            **{f"gradient left at distance {DISTANCE}, {name_of(name)}": number(ratio[name]) for name in CELLS},
            **{name: number(ratio[name]) for name in (OPEN, "ReLU, identity")},
        },
        code=(layers, scaled, rectified, opened, kept_open, against_distance),
    )
