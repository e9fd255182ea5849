"""How fast, beside PyTorch and NumPy, in one interleaved run.

    python tools/bench.py                    # everything
    python tools/bench.py tape --threads 1   # one part
    python tools/bench.py --json figures.json

Needs the extra `bench`. Every figure is a median over interleaved rounds, every comparison a median of ratios round by
round: machines are noisy, and a ratio within one round is what holds. Each turn comes after a pause and one untimed
call, so that another library's idle threads have gone to sleep.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_cells
import bench_copies
import bench_graph
import bench_processes
import numpy as np
from threadpoolctl import threadpool_limits

import tinygrad_rnn as tg
from tinygrad_rnn.errors import MissingError, TinygradError
from tinygrad_rnn.files import write_whole
from tinygrad_rnn.kernels.runtime import pool

#: Seconds between turns, and how long a turn takes at least.
PAUSE, TURN = 0.04, 0.02


def interleaved(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call, for each contestant in each round: of as many calls in a row as take `TURN`, as in training.

    The first call of a turn, when the caches hold another contestant's code, is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            time.sleep(PAUSE)
            run()
            calls, start = 0, time.perf_counter()
            while not calls or time.perf_counter() - start < TURN:
                run()
                calls += 1
            times[name].append((time.perf_counter() - start) / calls)
    return times


def row(what: str, unit: str, scale: float, times: dict[str, list[float]]) -> dict[str, Any]:
    """A table row: medians in a unit, and the median ratio of the first contestant to each other."""
    ours, *others = times
    found: dict[str, Any] = {"what": what, "unit": unit}
    found.update({name: statistics.median(seconds) * scale for name, seconds in times.items()})
    for other in others:
        found[f"{ours} / {other}"] = statistics.median([a / b for a, b in zip(times[ours], times[other])])
    return found


def tape(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """The tape's cost: a chain of tanh(x * w + b) on 8 floats, forward and backward."""
    links = 1000
    arrays = [np.random.default_rng(i).standard_normal(8).astype(np.float32) for i in range(3)]
    own = [tg.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]

    def chain(tensors: Any, tanh: Any) -> None:
        x, w, b = tensors
        h = x
        for _ in range(links):
            h = tanh(h * w + b)
        h.sum().backward()

    times = interleaved({"ours": lambda: chain(own, tg.tanh), "torch": lambda: chain(theirs, torch.tanh)}, rounds)
    return [row("an op of a chain, forward and backward", "us", 1e6 / (3 * links), times)]


def elementwise(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """A million float32 elements, without a tape, beside NumPy's tanh."""
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32) * 3
    out = np.empty_like(x)
    rows = []
    for name in ("tanh", "exp", "sigmoid"):
        kernel = getattr(tg, name).op.unit
        kernel.call(x)

        def ours(kernel: Any = kernel) -> Any:
            return kernel.call(x, out)

        times = interleaved({name: ours, "numpy tanh": lambda: np.tanh(x, out)}, rounds)
        rows.append(row(f"an element of {name}, float32", "ns", 1e9 / x.size, times))
    return rows


def step(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """One training step of an LSTM over a sequence, every op on the tape, beside the same loop in PyTorch."""
    batch, steps, size = 16, 64, 128
    x = np.random.default_rng(0).standard_normal((steps, batch, size)).astype(np.float32)
    layer = tg.nn.Recurrent(tg.nn.LSTMCell(size, size), engine="eager")
    weights = torch.nn.LSTMCell(size, size)
    optimizer, torch_optimizer = tg.optim.Adam(layer.parameters()), torch.optim.Adam(weights.parameters())
    x_ours, x_torch = tg.tensor(x), torch.tensor(x)
    linear = torch.nn.functional.linear

    def ours() -> None:
        optimizer.zero_grad()
        output, _ = layer(x_ours)
        tg.mean(output * output).backward()
        optimizer.step()

    def theirs() -> None:
        torch_optimizer.zero_grad()
        h = c = torch.zeros(batch, size)
        outputs = []
        for t in range(steps):
            gates = linear(x_torch[t], weights.weight_ih, weights.bias_ih) + linear(
                h, weights.weight_hh, weights.bias_hh
            )
            i, f, g, o = gates.chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        output = torch.stack(outputs)
        (output * output).mean().backward()
        torch_optimizer.step()

    times = interleaved({"ours": ours, "torch": theirs}, rounds)
    return [row(f"an LSTM training step, op by op (B {batch}, T {steps}, H {size})", "ms", 1e3, times)]


def checkpoint(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """An LSTM over a long sequence, forward and backward: keeping everything, and every 64th state only."""
    steps, batch, size = 4096, 16, 128
    rng = np.random.default_rng(0)
    x, weight = (tg.tensor(rng.standard_normal((steps, batch, size)).astype(np.float32)) for _ in range(2))
    x.requires_grad = True
    layers = {
        name: tg.nn.LSTM(size, size, checkpoint=name if name == "sqrt" else None) for name in ("sqrt", "all kept")
    }

    def turn(name: str) -> None:
        x.grad = None
        layers[name].zero_grad()
        layers[name](x)[0].backward(weight)

    memory = {}
    for name in layers:
        turn(name)
        x.grad = None
        pool._free.clear()  # or what was used before would be used again, unseen
        tracemalloc.start()
        turn(name)
        # Above what there is in any case: the outputs, their gradient, and that of the inputs.
        memory[name] = [float(tracemalloc.get_traced_memory()[1] - 3 * x.numpy().nbytes)]
        tracemalloc.stop()
    what = f"an LSTM with checkpoint='sqrt' (B {batch}, T {steps}, H {size})"
    times = interleaved({name: lambda name=name: turn(name) for name in layers}, min(rounds, 3))  # type: ignore[misc]
    return [row(what, "s", 1.0, times), row(f"{what}: memory", "MB", 1e-6, memory)]


#: Batch, steps, and features of input and state.
SHAPES = ((1, 25, 100), (16, 64, 128), (32, 64, 256), (64, 128, 512))


def layers(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """LSTM, GRU and RNN, forward and all gradients, beside the kernels that PyTorch has for these three."""
    rows, ratios = [], []
    for name in ("LSTM", "GRU", "RNN"):
        for batch, steps, size in SHAPES:
            rng = np.random.default_rng(0)
            arrays = [rng.standard_normal((steps, batch, size)).astype(np.float32) for _ in range(2)]
            layer, theirs = getattr(tg.nn, name)(size, size), getattr(torch.nn, name)(size, size)
            sides = {"ours": (layer, tg.tensor), "torch": (theirs, torch.tensor)}
            contestants: dict[str, Callable[[], Any]] = {}
            for side, (net, tensor) in sides.items():
                x, g = tensor(arrays[0], requires_grad=True), tensor(arrays[1])

                def turn(net: Any = net, x: Any = x, g: Any = g) -> None:
                    x.grad = None
                    for parameter in net.parameters():
                        parameter.grad = None
                    net(x)[0].backward(g)

                contestants[side] = turn
            times = interleaved(contestants, rounds if size < 512 else max(rounds // 3, 3))
            rows.append(row(f"{name} (B {batch}, T {steps}, H {size})", "ms", 1e3, times))
            ratios.append([b / a for a, b in zip(times["ours"], times["torch"])])
            rows[-1]["times as fast"] = statistics.median(ratios[-1])
    means = [statistics.geometric_mean(one) for one in zip(*[each[: min(map(len, ratios))] for each in ratios])]
    return [*rows, {"what": "geometric mean", "unit": "1", "times as fast": statistics.median(means)}]


def cells(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """Cells that a user wrote, beside jit of `jax.lax.scan` and beside a loop in PyTorch."""
    rows: list[dict[str, Any]] = []
    ratios: dict[str, list[float]] = {"jax": [], "torch": []}
    for name in bench_cells.CELLS:
        for batch, steps, size in SHAPES[:3]:
            sides = bench_cells.contestants(name, batch, steps, size, torch)
            gradients = {side: turn() for side, turn in sides.items()}
            for side in ratios if not bench_cells.CELLS[name].masks else ():
                for a, b in zip(gradients["ours"], gradients[side]):
                    assert abs(a - b).max() <= 1e-3 * abs(b).max(), f"{name}: another gradient than {side}'s"
            times = interleaved(sides, rounds)
            rows.append(row(f"{name} (B {batch}, T {steps}, H {size})", "ms", 1e3, times))
            for other, found in ratios.items():
                found.append(statistics.median([b / a for a, b in zip(times["ours"], times[other])]))
                rows[-1][f"times as fast as {other}"] = found[-1]
    means = {f"times as fast as {other}": statistics.geometric_mean(found) for other, found in ratios.items()}
    return [*rows, {"what": "geometric mean", "unit": "1", **means}]


def character(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """A whole update of a character model: embedding, LSTM, scores, loss, clipping, Adam (PyTorch's fused one)."""
    symbols, rows, ratios = 65, [], []
    for batch, steps, size in SHAPES:
        text = np.random.default_rng(0).integers(0, symbols, (2, steps, batch))
        contestants: dict[str, Callable[[], Any]] = {}
        for side, library, clip in (("ours", tg, tg.optim.clip_grad_norm_), ("torch", torch, None)):
            net: Any = library.nn
            parts = net.Embedding(symbols, 64), net.LSTM(64, size), net.Linear(size, symbols)
            parameters = [p for part in parts for p in part.parameters()]
            named = {"fused": True} if clip is None else {}
            optimizer = library.optim.Adam(parameters, lr=1e-3, **named)
            loss_of = torch.nn.functional.cross_entropy if clip is None else tg.cross_entropy
            tensor = torch.tensor if clip is None else tg.tensor
            inputs, targets = tensor(text[0]), tensor(text[1].reshape(-1))

            def turn(
                parts: Any = parts, optimizer: Any = optimizer, loss_of: Any = loss_of, inputs: Any = inputs,
                targets: Any = targets, parameters: Any = parameters,
                clip: Any = clip or torch.nn.utils.clip_grad_norm_,
            ) -> None:  # fmt: skip
                scores = parts[2](parts[1](parts[0](inputs))[0])
                loss = loss_of(scores.reshape(-1, symbols), targets)
                optimizer.zero_grad()
                loss.backward()
                clip(parameters, 1.0)
                optimizer.step()
                loss.item()

            contestants[side] = turn
        times = interleaved(contestants, rounds if size < 512 else max(rounds // 3, 3))
        rows.append(row(f"a character model's update (B {batch}, T {steps}, H {size})", "ms", 1e3, times))
        ratios.append(statistics.median([b / a for a, b in zip(times["ours"], times["torch"])]))
        rows[-1]["times as fast"] = ratios[-1]
    return [*rows, {"what": "geometric mean", "unit": "1", "times as fast": statistics.geometric_mean(ratios)}]


def sampling(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """A thousand characters, each drawn from what an LSTM expects after all before it, beside a loop in PyTorch."""
    symbols, count, size = 65, 1000, 256
    table, cell, scores_of = tg.nn.Embedding(symbols, 64), tg.nn.LSTMCell(64, size), tg.nn.Linear(size, symbols)
    embedding, linear = torch.nn.Embedding(symbols, 64), torch.nn.Linear(size, symbols)
    layer, their_cell = torch.nn.LSTM(64, size), torch.nn.LSTMCell(64, size)

    def drawn(carry: Any, _: Any) -> Any:
        output, state = cell.step(table(carry[0]), carry[1])
        symbol = tg.categorical(scores_of(output))
        return (symbol, state), symbol

    def ours() -> Any:
        with tg.no_grad():
            return tg.scan(drawn, (tg.tensor([0]), cell.initial_state(1)), tg.arange(count), engine="fused")[1]

    def theirs(step: Callable[[Any, Any], Any]) -> Any:
        symbol, written = torch.zeros(1, dtype=torch.int64), []
        with torch.inference_mode():
            state = None
            for _ in range(count):
                state = step(embedding(symbol), state)
                symbol = torch.multinomial(torch.softmax(linear(state[0]), -1), 1)[:, 0]
                written.append(symbol)
            return torch.stack(written)

    sides = {
        "ours": ours,
        "torch's LSTM": lambda: theirs(lambda x, state: layer(x, state)[1]),
        "torch's LSTMCell": lambda: theirs(their_cell),
    }
    times = interleaved(sides, rounds)
    found = row(f"{count} characters written (H {size})", "ms", 1e3, times)
    for other in list(times)[1:]:
        ratios = [b / a for a, b in zip(times["ours"], times[other])]
        found[f"times as fast as {other}"] = statistics.median(ratios)
    return [found]


def copies(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """One's own copies of the LSTM's equations beside the layer."""
    rows = []
    for batch, steps, size in SHAPES[:3]:
        times = interleaved(bench_copies.contestants(batch, steps, size), rounds)
        found = row(f"an LSTM (B {batch}, T {steps}, H {size})", "ms", 1e3, times)
        for name in list(times)[:-1]:
            ratio = statistics.median([a / b for a, b in zip(times[name], times["layer"])])
            rows.append({"what": f"{found['what']}, {name}", "unit": "ms", "own": found[name],
                         "layer": found["layer"], "own / layer": ratio})  # fmt: skip
    return rows


def peak(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """Multiplications and additions a second of an LSTM, beside the best that a large product reaches here."""
    rows, n = [], 2048
    square = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    ours, theirs = tg.tensor(square), torch.tensor(square)
    products = {"product": lambda: ours @ ours, "numpy's": lambda: square @ square, "torch's": lambda: theirs @ theirs}
    for batch, steps, size in SHAPES[2:]:
        layer = tg.nn.LSTM(size, size)
        x, g = tg.randn(steps, batch, size, requires_grad=True), tg.randn(steps, batch, size)

        def turn(layer: Any = layer, x: Any = x, g: Any = g) -> None:
            x.grad = None
            layer.zero_grad()
            layer(x)[0].backward(g)

        with threadpool_limits(tg.get_num_threads()):
            times = interleaved({"LSTM": turn, **products}, rounds if size < 512 else max(rounds // 3, 3))
        # Both matrices, forward, back, and for their own gradient; a multiplication and an addition each.
        flops = {"LSTM": 3 * 2 * steps * batch * 2 * size * 4 * size, **dict.fromkeys(products, 2 * n**3)}
        rates = {name: [flops[name] / t / 1e9 for t in found] for name, found in times.items()}
        shares = [of_lstm / max(best) for of_lstm, *best in zip(*rates.values())]
        rows.append({"what": f"an LSTM (B {batch}, T {steps}, H {size})", "unit": "GFLOP/s",
                     **{name: statistics.median(found) for name, found in rates.items()},
                     "share of the best": statistics.median(shares)})  # fmt: skip
    return rows


def first(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """First steps, with and without kernels on disk."""
    return bench_processes.first_steps()


def memory(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """Memory of a training step."""
    return bench_processes.memory(tg.get_num_threads())


def graph(torch: Any, rounds: int) -> list[dict[str, Any]]:
    """From a tape to a picture."""
    return bench_graph.graphs(min(rounds, 5))


PARTS = {
    "tape": tape, "elementwise": elementwise, "step": step, "checkpoint": checkpoint, "layers": layers, "cells": cells,
    "copies": copies, "character": character, "sampling": sampling, "peak": peak, "first": first, "memory": memory,
    "graph": graph,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the parts asked for and print a table."""
    parser = argparse.ArgumentParser(description="Speed beside PyTorch and NumPy, in one interleaved run.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=" | ".join(PARTS))
    parser.add_argument("--threads", type=int, default=tg.get_num_threads(), metavar="N", help="for both sides")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="interleaved rounds (default 15)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    given = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):  # JAX takes all the processors that it may
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    try:
        try:
            import torch
        except ImportError:
            raise MissingError("bench: PyTorch is missing", hint="pip install 'tinygrad_rnn[bench]'") from None
        tg.set_num_threads(given.threads)
        torch.set_num_threads(given.threads)
        rows = []
        print(f"{given.threads} thread{'s' * (given.threads > 1)} for both sides, medians of {given.rounds} rounds")
        for name in given.parts or PARTS:
            for found in PARTS[name](torch, given.rounds):
                rows.append(found)
                figures = [f"{k} {v:.3g}" for k, v in found.items() if isinstance(v, float)]
                print(f"{found['what']} ({found['unit']}): {', '.join(figures)}")
        if given.json:
            content = {"threads": given.threads, "rounds": given.rounds, "rows": rows}
            write_whole(Path(given.json), json.dumps(content, indent=1).encode())
    except TinygradError as trouble:
        print(f"bench: {trouble.one_line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
