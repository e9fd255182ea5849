"""A hidden state is a memory, carried from step to step with the same weights."""

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .article import CELLS, COLOURS, Claim, inline, name_of, number, panel, panels, table


def carried(layer, x, piece=10):
    """The largest difference between one run over all steps and a run in pieces: state handed on, or forgotten."""
    whole, _ = layer(x)
    state, handed_on, forgotten = None, [], []
    for start in range(0, len(x), piece):
        output, state = layer(x[start : start + piece], state)
        handed_on.append(output.numpy())
        forgotten.append(layer(x[start : start + piece])[0].numpy())
    return [float(np.abs(whole.numpy() - np.concatenate(parts)).max()) for parts in (handed_on, forgotten)]


def shared(layer, x):
    """How far the gradient of the weights is from the sum of what each step adds; and what each step adds."""
    flow = tg.viz.flow(layer, x, at="all")
    (0.5 * tg.square(layer(x)[0]).sum()).backward()
    whole = layer.weight_hh_l0.grad.numpy()
    name = next(name for name in flow.sums if "hh" in name and "weight" in name)
    return float(np.abs(flow.sums[name] - whole).max() / np.abs(whole).max()), flow.shares[name]


def remembered(cell, hidden, delays, steps=3000):
    """How much of the input d steps ago can be read off the state, by a linear fit: R² for each d.

    One number of noise a step; the fit is made on one half and judged on the other (after Jaeger 2001).
    """
    x = tg.randn(steps, 1, 1)
    with tg.no_grad():
        outputs = CELLS[cell](1, hidden)(x)[0].numpy()[:, 0].astype(np.float64)
    known = np.concatenate([outputs, np.ones((steps, 1))], 1)[max(delays) :]
    found = []
    for delay in delays:
        true = x.numpy()[max(delays) - delay : steps - delay, 0, 0]
        half = len(true) // 2
        fit = np.linalg.lstsq(known[:half], true[:half], rcond=1e-6)[0]
        found.append(max(1.0 - np.square(true[half:] - known[half:] @ fit).sum() / np.square(true[half:]).sum(), 0.0))
    return np.array(found)


def claim(lab):
    tg.manual_seed(0)
    layer, x = nn.RNN(8, 32), tg.randn(60, 4, 8)
    handed_on, forgotten = carried(layer, x)
    difference, shares = shared(layer, x)
    graph = tg.viz.graph(layer(x[:3])[0][-1].sum(), level="cell", module=layer)
    picture = graph.to_bytes("svg", engine="builtin").decode()
    delays = np.arange(25)
    kept = {cell: remembered(cell, 32, delays) for cell in lab.bar(CELLS, "what a state remembers")}
    reach = {cell: max(int(np.cumprod(r > 0.5).sum()) - 1, 0) for cell, r in kept.items()}

    def steps(axis):
        axis.bar(np.arange(1, 61), shares, color=COLOURS["rnn"])

    def memory(axis):
        for cell, r in kept.items():
            axis.plot(delays, r, color=COLOURS[cell], label=name_of(cell))
        axis.legend()

    return Claim(
        "memory",
        verdict="holds" if difference < 1e-3 and handed_on < 1e-5 < forgotten else "not seen",
        found={
            "handed_on": number(handed_on),
            "forgotten": f"{forgotten:.2f}",
            "difference": number(difference, 1),
            "parameters": f"{sum(p.size for p in layer.parameters()):,}",
            "reach": reach["rnn"],
            "unrolled": panels(inline(picture, "three steps of a simple RNN"), wide=True),
            "pictures": panels(
                panel(steps, "each step's part of dL / dW", "step", "norm"),
                panel(memory, "what the state remembers", "steps ago", "R²"),
            ),
            "table": table(
                ["32 units, as they start", "half is known for", "inputs remembered, in all"],
                [(name_of(cell), f"{reach[cell]} steps", f"{r[1:].sum():.1f}") for cell, r in kept.items()],
            ),
        },
        numbers={
            "difference, state handed on": number(handed_on),
            "state forgotten": f"{forgotten:.2f}",
            "dL / dW against the sum of its steps": number(difference, 1),
        },
        code=(carried, shared, remembered),
    )
