"""A simple RNN cannot learn long-range dependencies; gated cells can."""

import long_memory
import numpy as np

from .article import Claim, colour_of, listed, name_of, panel, panels, seeds_of, table

#: A cell, and the starts it may choose from.
WAYS = {
    "tanh RNN": ("rnn", ("plain",)),
    "rnn": ("rnn", long_memory.STARTS),
    "lstm": ("lstm", long_memory.STARTS),
    "gru": ("gru", long_memory.STARTS),
}

NAMES = {"rnn": "RNN, any start"}


def tried(task, gaps, seeds, rates, options, bar):
    """Each cell on each gap from each seed, with one budget for all: {name: {gap: [trial, ...]}}."""
    found = {name: {} for name in WAYS}
    for name, (cell, starts) in WAYS.items():
        for gap in gaps:
            bar.set_description(f"{task} {gap}, {name_of(name)}")
            runs = [long_memory.trial(task, cell, gap, seed, options, bar, starts, rates) for seed in range(seeds)]
            found[name][gap] = runs
            if not any(run["learned"] for run in runs):
                break  # what is not learned at this gap is not tried at a longer one
    return found


def longest(trials, share=0.5):
    """The longest gap that at least so large a share of the runs learned; 0 for none."""
    return max((gap for gap, runs in trials.items() if np.mean([run["learned"] for run in runs]) >= share), default=0)


def surely(one, other):
    """The longest gap that every run of both cells learned; 0 for none."""
    both = {gap: [*one[gap], *other[gap]] for gap in one if gap in other}
    return longest(both, 1.0)


def claim(lab):
    size, found = lab.size, {}
    with lab.counter("long memory") as bar:
        for task, gaps in size.gaps.items():
            found[task] = tried(task, gaps, size.memory_seeds, size.rates, size.memory, bar)
    lab.kept["long_range"] = found

    def success(task):
        gaps = size.gaps[task]

        def draw(axis):
            for i, (name, trials) in enumerate(found[task].items()):
                share = np.array(
                    [np.mean([run["learned"] for run in trials[gap]]) if gap in trials else np.nan for gap in gaps]
                )
                axis.plot(
                    gaps,
                    share - 0.015 * i,
                    "os^D"[i] + "-",
                    color=colour_of(name, i),
                    label=NAMES.get(name, name_of(name)),
                )
            axis.set(ylim=(-0.1, 1.05), xscale="log")
            axis.set_xticks(gaps, [str(gap) for gap in gaps])
            axis.minorticks_off()
            axis.legend(loc="center left")

        return panel(draw, f"the {task} task", "steps", "share of runs that learn it")

    def row(task, name, gap):
        runs = found[task][name][gap]
        done = [run for run in runs if run["learned"]]
        means = [
            f"{np.mean([run[of] for run in done]):,.{n}f}" if done else "" for of, n in (("updates", 0), ("seconds", 1))
        ]
        error = np.median([run["error"] for run in runs])
        starts = " or ".join(sorted({run["start"] for run in done}, reverse=True))
        return (
            task,
            gap,
            NAMES.get(name, name_of(name)),
            f"{len(done)} of {len(runs)}",
            f"{error:.4f}" if error < 100 else "diverged",
            *means,
            starts,
        )

    reach = {name: {task: longest(trials[name]) for task, trials in found.items()} for name in WAYS}
    gated = {task: surely(trials["lstm"], trials["gru"]) for task, trials in found.items()}
    ways = {"tanh RNN": ("tanh RNN",), "rnn": ("tanh RNN", "rnn")}  # any start may be the plain one
    behind = {
        name: [task for task in found if max(longest(found[task][way], 1e-9) for way in those) < gated[task]]
        for name, those in ways.items()
    }

    def lesson(task):
        steps, said = gated[task], "that every run of both gated cells learns"
        if not steps:
            return f"on {task} some run of a gated cell failed even at the shortest, so it decides nothing"
        if task in behind["rnn"]:
            return f"on {task} no run of the simple RNN, from any start, learns the {steps} steps {said}"
        limit = ", the longest tried" if steps == size.gaps[task][-1] else ""
        who = "but not as the tanh RNN" if task in behind["tanh RNN"] else "the tanh RNN too"
        return f"on {task} the simple RNN learns the {steps} steps {said}{limit}, {who}"

    reached = {
        name: " and ".join(f"{gap or 'none'} ({task})" for task, gap in gaps.items()) for name, gaps in reach.items()
    }
    return Claim(
        "long_range",
        verdict="holds" if len(behind["rnn"]) == len(found) else "partly" if any(behind.values()) else "not seen",
        found={
            **{name.replace(" ", "_"): words for name, words in reached.items()},
            "tried": " and ".join(f"{gaps[-1]} ({task})" for task, gaps in size.gaps.items()),
            "budget": f"{size.memory.updates:,}",
            "hidden": size.memory.hidden,
            "rates": listed([f"{rate:g}" for rate in size.rates]),
            "pictures": panels(*[success(task) for task in found]),
            "table": table(
                ["task", "steps", "cell", "learned", "median error", "updates", "seconds", "from start"],
                [row(task, name, gap) for task in found for name in WAYS for gap in found[task][name]],
            ),
            "lesson": "; ".join(lesson(task) for task in found),
            "seeds": seeds_of(size.memory_seeds),
        },
        numbers={
            f"longest sequence learned, {NAMES.get(name, name_of(name))}": words for name, words in reached.items()
        },
        code=(long_memory.adding, tried, long_memory.trial, longest),
    )
