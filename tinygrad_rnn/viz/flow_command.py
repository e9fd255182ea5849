"""`tinygrad-rnn flow`: what can be typed, and what comes of it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from . import typed
from .typed import CELLS

DESCRIPTION = "Measure how the gradient of a loss flows back through a recurrent layer, step by step."

#: The net that is measured where nothing else is said.
_NET = {"cells": ["rnn", "lstm", "gru"], "steps": 50, "input": 8, "hidden": 16, "batch": 4, "seed": 0}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    net = parser.add_argument_group("layers of this library, on random numbers")
    add = net.add_argument
    add("--cells", type=typed.cells, metavar="CELL,CELL", help=f"kinds of cell ({','.join(CELLS)})")
    add("--steps", type=typed.positive, metavar="T", help=f"time steps ({_NET['steps']})")
    add("--input", type=typed.positive, metavar="I", help=f"features of the input ({_NET['input']})")
    add("--hidden", type=typed.positive, metavar="H", help=f"features of the state ({_NET['hidden']})")
    add("--batch", type=typed.positive, metavar="B", help=f"sequences in a batch ({_NET['batch']})")
    add("--seed", type=typed.natural, metavar="N", help=f"of weights and inputs ({_NET['seed']})")
    add = parser.add_argument
    add(
        "--from",
        dest="source",
        metavar="FILE.py:FUNCTION",
        help="measure what a function returns: (layer, x), or (layer, x, loss of a step's output and its number)",
    )
    add("--loss", choices=("last", "all"), default="last", help="of which steps the loss is (%(default)s)")
    add("--format", type=str.lower, metavar="FORMAT", help="svg, png, html or csv (the suffix of the file)")
    add("-o", "--output", metavar="FILE", help="the file to write (a table to standard output)")


def run(chosen: argparse.Namespace, prog: str) -> None:
    """Do it."""
    from tqdm import tqdm

    from .. import files
    from .flow_page import summary, to_bytes

    format = chosen.format or Path(chosen.output or "").suffix.lower().removeprefix(".")
    made = {}
    with tqdm(list(_layers(chosen).items()), unit="layer", file=sys.stderr, leave=False, disable=None) as bar:
        for name, measure in bar:
            bar.set_description(name, refresh=False)
            made[name] = measure()
    if chosen.output is not None:
        files.write_whole(chosen.output, to_bytes(made, format or "none"))
        return
    if chosen.format is not None:
        sys.stdout.buffer.write(to_bytes(made, format))
        return
    table = summary(made)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _layers(chosen: argparse.Namespace) -> dict[str, Any]:
    """By name what measures a layer."""
    from .. import nn
    from ..autograd.create import randn
    from ..ops.random import manual_seed
    from .flow import flow

    said = {name: getattr(chosen, name) for name in _NET if getattr(chosen, name) is not None}
    if chosen.source is not None:
        if said:
            raise ArgumentError("flow: --from says what is measured", got=f"--{next(iter(said))} beside it")

        def measured(result: Any) -> Any:
            if not isinstance(result, tuple) or len(result) not in (2, 3):
                raise ArgumentError(
                    "flow: the function returns something else",
                    expected="(layer, x) or (layer, x, loss)",
                    got=repr(result),
                )
            return flow(*result, at=chosen.loss)

        own = (chosen.source, "flow", contextlib.nullcontext(), measured)
        return {chosen.source.rpartition(":")[2]: lambda: typed.returned(*own)}
    net: dict[str, Any] = {**_NET, **said}

    def measure(cell: str) -> Any:
        manual_seed(net["seed"])
        layer = getattr(nn, CELLS[cell])(net["input"], net["hidden"])
        return flow(layer, randn(net["steps"], net["batch"], net["input"]), at=chosen.loss)

    return {CELLS[cell]: lambda cell=cell: measure(cell) for cell in net["cells"]}
