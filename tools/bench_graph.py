"""How long the graph tool takes: the whole way from a tape to SVG text, by each engine that there is.

python tools/bench_graph.py          # or as the part "graph" of bench.py
"""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import tinygrad_rnn as tg
from tinygrad_rnn.errors import FileError, MissingError

#: Steps and layers of an LSTM, the level, whether steps are folded, and the engines: of the last `dot` takes minutes.
GRAPHS = (
    ("30 steps of 2 layers, level op, unfolded", 30, 2, "op", None, ("builtin", "dot", "pure")),
    ("1,000 steps of 2 layers, level auto", 1000, 2, "auto", "auto", ("builtin", "dot", "pure")),
    ("600 steps, level op, unfolded: 10,000 nodes", 600, 1, "op", None, ("builtin", "dot", "pure")),
)

#: Seconds that a layout may take.
PATIENCE = 120.0


def graphs(rounds: int) -> list[dict[str, Any]]:
    """For each graph the seconds of each engine, and of the DOT text alone; infinite where patience ended."""
    rows = []
    for what, steps, layers, level, fold, engines in GRAPHS:
        net = tg.nn.LSTM(4, 8, layers)
        with tg.Tape() as tape:
            net(tg.zeros(steps, 1, 4))

        def draw(engine: str, tape: tg.Tape = tape, level: str = level, fold: Any = fold, net: Any = net) -> float:
            start = time.perf_counter()
            picture = tg.viz.graph(tape, level=level, fold=fold, module=net)
            try:
                if engine == "text":
                    picture.to_bytes("dot", force=True)
                else:
                    picture.to_bytes("svg", engine, PATIENCE, force=True)
            except MissingError:
                return float("nan")
            except FileError:
                return float("inf")
            return time.perf_counter() - start

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            nodes = len(tg.viz.graph(tape, level=level, fold=fold, module=net).graph.nodes)
            found = {}
            for engine in (*engines, "text"):
                times = [draw(engine)]
                while len(times) < rounds and times[0] < 10.0:
                    times.append(draw(engine))
                found[engine] = statistics.median(times)
        rows.append({"what": f"the graph of an LSTM, {what} ({nodes:,} nodes)", "unit": "s", **found})
    return rows


if __name__ == "__main__":
    for row in graphs(3):
        print(row["what"], {name: round(value, 3) for name, value in row.items() if isinstance(value, float)})
