"""What each gate of the LSTM is for: take it away."""

from functools import partial

import language
import long_memory
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .article import Claim, colour_of, listed, panel, panels, seeds_of, spread, table


class Gated(nn.Cell):
    """An LSTM, some of whose gates may be left out: they are 1 then."""

    def __init__(self, input_size, hidden_size, without=()):
        self.input_size, self.hidden_size, self.without = input_size, hidden_size, without
        self.weights = nn.Linear(input_size + hidden_size, 4 * hidden_size)

    def initial_state(self, batch_size):
        return nn.LSTMState(self.zeros(batch_size, self.hidden_size), self.zeros(batch_size, self.hidden_size))

    def step(self, x, state):
        hidden, cell = state
        i, f, g, o = tg.split(self.weights(tg.concat([x, hidden], axis=-1)), 4, axis=-1)
        written, kept = tg.tanh(g).named("candidate"), cell
        if "input" not in self.without:
            written = tg.sigmoid(i).named("input_gate") * written
        if "forget" not in self.without:
            kept = tg.sigmoid(f).named("forget_gate") * kept
        cell = (kept + written).named("cell")
        hidden = tg.tanh(cell)
        if "output" not in self.without:
            hidden = tg.sigmoid(o).named("output_gate") * hidden
        return hidden, nn.LSTMState(hidden, cell)


#: What each kind is without.
KINDS = {
    "LSTM": (),
    "no forget gate": ("forget",),
    "no input gate": ("input",),
    "no output gate": ("output",),
    "no gate at all": ("input", "forget", "output"),
}


def layer_of(kind):
    """What makes a layer of it, for the other examples."""
    return lambda i, h, *_, **__: nn.Recurrent(Gated(i, h, KINDS[kind]))


def learned(kind, steps, seed, rates, options, bar):
    """Adding: what came of the best learning rate."""
    learners = [long_memory.Learner("adding", layer_of(kind), steps, rate, "plain", seed, options) for rate in rates]
    best, errors = long_memory.searched(learners, options.updates // len(rates), bar)
    return errors[best], learners[best].updates, learners[best].model


def inside(model, steps):
    """What a trained model does: its gates and cell state on fresh examples, and the way its gradient takes back."""
    x, _ = long_memory.adding(np.random.default_rng(5), 64, steps)
    x = tg.tensor(x.astype(np.float32))
    with tg.no_grad(), tg.record("input_gate", "forget_gate", "cell") as r:
        model.recurrent(x)
    flow = tg.viz.flow(model.recurrent, x[:, :4], loss=lambda y, t: model.answer(y).sum())
    return x.numpy(), r, flow


def succeeded(run):
    """Whether a run has learned to add."""
    return run[0] < 0.01


def needed(runs, bits):
    """Of each kind whether what it is without is needed: by every run on text, or by every run of adding."""
    whole = all(succeeded(run) for run in runs["LSTM"])
    fails = {kind for kind, found in runs.items() if whole and not any(succeeded(run) for run in found)}
    return {kind: kind in fails or bits["LSTM"].max() < bits[kind].min() for kind in bits if kind != "LSTM"}


def claim(lab):
    size, runs, bits = lab.size, {}, {}
    steps, seeds, kinds = size.gate_steps, size.gate_seeds, list(KINDS)[: size.kinds]
    with lab.counter("one gate less") as bar:
        for kind in kinds[: size.adders]:
            bar.set_description(f"adding {steps}, {kind}")
            runs[kind] = [learned(kind, steps, seed, size.rates, size.gates, bar) for seed in range(seeds)]
    with lab.counter("one gate less, text", size.gate_text_updates * len(kinds) * size.gate_texts) as bar:
        for kind in kinds:
            learn = partial(language.learn, lab.text, layer_of(kind), 1e-2, size.gate_text_updates, size.language)
            bits[kind] = np.array([learn(seed, bar, times=1, pace=1)[1].test for seed in range(size.gate_texts)])
    done = {kind: [run for run in found if succeeded(run)] for kind, found in runs.items()}
    model = min(runs["LSTM"], key=lambda run: np.nan_to_num(run[0], nan=np.inf))[2]
    x, r, flow = inside(model, steps)
    marks, gate = x[..., 1] > 0, r["input_gate"]
    at_marks, elsewhere = gate[marks].mean(0), gate[~marks].mean(0)
    unit = int(np.argmax(at_marks - elsewhere))
    back = steps * 9 // 10
    share = float(flow.through("cell")[0][-1 - back] / max(flow.norms("cell")[-1 - back], 1e-30))
    memory = np.sort(r.time_constant("forget_gate"))

    def over_time(axis):
        at = np.arange(1, steps + 1)
        axis.plot(at, r["cell"][:, 0, unit], color=colour_of("lstm"), label="cell state")
        axis.plot(at, gate[:, 0, unit], color=colour_of("rnn"), linewidth=0.9, label="input gate")
        for mark in np.flatnonzero(marks[:, 0]):
            axis.axvline(mark + 1, color="#616E7C", linestyle=":")
        axis.legend()

    def memories(axis):
        axis.semilogy(np.arange(1, len(memory) + 1), memory, color=colour_of("lstm"))
        axis.axhline(steps, color="#616E7C", linestyle=":")

    def spent(axis):
        for i, found in enumerate(runs.values()):
            colour = colour_of("lstm" if i == 0 else "", i)
            for run in found:
                axis.scatter(run[1], i, edgecolors=colour, facecolors=colour if succeeded(run) else "none")
        axis.set(yticks=range(len(runs)), yticklabels=list(runs), xlim=(0, None))
        axis.invert_yaxis()

    def line(kind):
        scored = f"{bits[kind].mean():.3f}{spread(bits[kind])}"
        if kind not in runs:
            return (kind, "not tried", "", "", scored)
        found, learns = runs[kind], done[kind]
        updates = f"{np.mean([run[1] for run in learns]):,.0f}" if learns else ""
        error = np.median([run[0] for run in found])
        return (kind, f"{len(learns)} of {len(found)}", updates, f"{error:.4f}" if error < 100 else "diverged", scored)

    costs = {kind: float(each.mean() - bits["LSTM"].mean()) for kind, each in bits.items() if kind != "LSTM"}
    need = needed(runs, bits)
    single = [need[kind] for kind in need if len(KINDS[kind]) == 1]
    return Claim(
        "gates",
        verdict="holds" if len(single) == 3 and all(single) else "partly" if any(need.values()) else "not seen",
        found={
            "costs": listed([f"{kind} {cost:+.3f}" for kind, cost in costs.items()]),
            "whole": f"{bits['LSTM'].mean():.3f}",
            "steps": steps,
            "adders": listed([*runs]),
            "updates": f"{size.gates.updates:,}",
            "rates": listed([f"{rate:g}" for rate in size.rates]),
            "seeds": seeds_of(seeds),
            "texts": seeds_of(size.gate_texts),
            "learning": "learned" if done["LSTM"] else "not learned",
            "learned": listed([f"{kind} {len(done[kind])} of {seeds}" for kind in runs]),
            "text_updates": f"{size.gate_text_updates:,}",
            "table": table(
                ["", f"adding {steps}: learned", "updates", "median error", "text: bits per character"],
                [line(kind) for kind in bits],
            ),
            "at_marks": f"{at_marks.mean():.2f}",
            "elsewhere": f"{elsewhere.mean():.2f}",
            "unit": unit,
            "unit_at_marks": f"{at_marks[unit]:.2f}",
            "unit_elsewhere": f"{elsewhere[unit]:.2f}",
            "median_memory": f"{np.median(memory):.1f}",
            "longest_memory": f"{memory[-1]:.1f}",
            "back": back,
            "share": f"{share:.0%}",
            "pictures": panels(
                panel(over_time, f"unit {unit} of the LSTM", "step"),
                panel(memories, "how long units remember", "unit, sorted", "steps"),
                panel(spent, "updates used", "updates"),
            ),
        },
        numbers={
            **{f"{kind}, text": f"{cost:+.3f} bits per character" for kind, cost in costs.items()},
            f"input gate at marks / elsewhere, unit {unit}": f"{at_marks[unit]:.2f} / {elsewhere[unit]:.2f}",
            f"gradient {back} steps back, along the cell state alone": f"{share:.0%}",
        },
        code=(Gated, learned, long_memory.searched, succeeded, needed, inside),
    )
