"""`tinygrad-rnn graph`: what can be typed, the nets that it makes, and the functions of files that it draws."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from typing import Any

from ..errors import ArgumentError
from . import typed
from .colour import COLOURS
from .dot import PARAMS
from .fold import chosen_steps
from .levels import LEVELS
from .typed import CELLS

DESCRIPTION = "Draw a recurrent net unrolled over time: steps from left to right, layers from bottom to top."

#: The net that is drawn where nothing else is said.
_NET = {"cell": "lstm", "layers": 1, "steps": 3, "input": 4, "hidden": 8, "batch": 1, "seed": 0, "bidirectional": False}

#: Of a comparison, where steps are folded.
_COMPARED_STEPS = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    net = parser.add_argument_group("a net of this library")
    add = net.add_argument
    add("--cell", choices=tuple(CELLS), help=f"kind of cell ({_NET['cell']})")
    add("--layers", type=typed.positive, metavar="N", help=f"layers one above another ({_NET['layers']})")
    add("--bidirectional", action="store_true", default=None, help="a layer that runs backward beside each")
    add(
        "--steps",
        type=typed.steps,
        action="append",
        default=[],
        metavar="T",
        help=f"time steps ({_NET['steps']}); a list such as 1,2,50-52 says which of them to draw",
    )
    add("--input", type=typed.positive, metavar="I", help=f"features of the input ({_NET['input']})")
    add("--hidden", type=typed.positive, metavar="H", help=f"features of the state ({_NET['hidden']})")
    add("--batch", type=typed.positive, metavar="B", help=f"sequences in a batch ({_NET['batch']})")
    add("--seed", type=typed.natural, metavar="N", help=f"of weights and inputs, which are random ({_NET['seed']})")
    add("--compare", type=typed.cells, metavar="CELL,CELL", help="several, side by side with one scale of colours")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FILE.py:FUNCTION",
        help="draw what a function returns: a tensor, or (tensor, module)",
    )
    look = parser.add_argument_group("the picture")
    add = look.add_argument
    add("--level", choices=("auto", *LEVELS), help="how fine (gate; of a comparison, cell; without steps, auto)")
    add("--color", choices=COLOURS, help="what colours mean (none; of a page and of a comparison, grad)")
    add("--params", choices=PARAMS, help="how parameters are drawn (ghost; of a comparison, none)")
    folding = look.add_mutually_exclusive_group()
    folding.add_argument("--fold", type=typed.head_and_tail, default="auto", metavar="HEAD,TAIL", help="steps to draw")
    folding.add_argument("--no-fold", dest="fold", action="store_const", const=None, help="draw every step")
    add("--engine", choices=("auto", "dot", "pure", "builtin"), default="auto", help="what lays it out (%(default)s)")
    add(
        "--format",
        type=str.lower,
        metavar="FORMAT",
        help="svg, png, pdf, html, dot, json (the suffix; else dot)",
    )
    add(
        "--timeout", type=typed.seconds, default=120.0, metavar="S", help="seconds that a layout may take (%(default)g)"
    )
    add("--force", action="store_true", help="draw more than 10,000 nodes too")
    add("-o", "--output", metavar="FILE", help="the file to write (DOT text to standard output)")


def run(chosen: argparse.Namespace, prog: str) -> None:
    """Do it. Warnings are a line each on standard error."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        try:
            _run(chosen)
        finally:
            for warning in seen:
                print(f"{prog}: {' '.join(str(warning.message).split())}", file=sys.stderr)


def _run(chosen: argparse.Namespace) -> None:
    format = chosen.format or (chosen.output or "").rpartition(".")[2].lower()
    picture = _picture(chosen, "grad" if format == "html" else "none")
    if chosen.output is not None:
        picture.save(chosen.output, chosen.format, chosen.engine, chosen.timeout, chosen.force)
        return
    content = picture.to_bytes(chosen.format or "dot", chosen.engine, chosen.timeout, chosen.force)
    if chosen.format in ("png", "pdf") and sys.stdout.isatty():
        raise ArgumentError(f"graph: {chosen.format} is not for a terminal", hint="-o FILE")
    sys.stdout.buffer.write(content)


def _picture(chosen: argparse.Namespace, color: str) -> Any:
    from ..autograd.tape import Tape
    from .picture import Picture, compare, graph

    said = {name: getattr(chosen, name) for name in _NET if getattr(chosen, name) not in (None, [])}
    shown, counts = _split(said.pop("steps", []))
    if counts:
        said["steps"] = counts[-1]
    elif shown is not None and chosen.source is None:
        said["steps"] = max(chosen_steps(shown))
    for name, given in (("--from", chosen.source), ("--compare", chosen.compare)):
        other = {
            "--from": [*said, *(["compare"] if chosen.compare else [])],
            "--compare": ["cell"] if chosen.cell else [],
        }
        if given is not None and other[name]:
            raise ArgumentError(f"graph: {name} says what is drawn", got=f"--{other[name][0]} beside it")
    look = {"fold": chosen.fold, "steps": shown, "params": chosen.params or "ghost"}
    if chosen.compare is not None:
        color = chosen.color or "grad"
        wanted = {"steps": _COMPARED_STEPS, **said}
        made = {cell: _own_net(**{**_NET, **wanted, "cell": cell}, color=color) for cell in chosen.compare}
        return compare(
            {cell: result for cell, (result, _) in made.items()},
            chosen.level or "cell",
            **{**look, "params": chosen.params or "none"},
            color=color,
            modules={cell: net for cell, (_, net) in made.items()},
        )
    color = chosen.color or color
    if chosen.source is None:
        result, net = _own_net(**{**_NET, **said}, color=color)
    else:
        watched = color if chosen.color or color == "none" else "value"
        with Tape():
            result, net = _with_module(typed.returned(chosen.source, "graph", _watching(watched)))
        if chosen.color is None and color == "grad" and not _differentiable(result):
            color = "value"
    picture = graph(result, chosen.level or "gate", color=color, module=net, **look)
    if chosen.level is None and not picture.stats["steps"]:  # nothing that is done again and again: show it all
        return Picture(picture.ops, "auto", color=color, **look)
    return picture


def _own_net(
    cell: str, layers: int, steps: int, input: int, hidden: int, batch: int, seed: int, bidirectional: bool, color: str
) -> tuple[Any, Any]:
    """What one of the library's nets makes of random numbers, and the net; where colours are wanted, a loss: the mean
    square of what comes out at the last step."""
    from .. import nn
    from ..autograd.create import randn
    from ..autograd.tape import Tape
    from ..ops.elementwise import square
    from ..ops.random import manual_seed

    manual_seed(seed)
    net: Any = getattr(nn, CELLS[cell])(input, hidden, layers, bidirectional=bidirectional)
    with Tape(), _watching(color):  # so that the steps of the input, through which no gradient flows, are recorded too
        outputs, _ = net(randn(steps, batch, input))
        result = outputs if color == "none" else square(outputs[-1]).mean().named("loss")
    return result, net


def _with_module(result: Any) -> tuple[Any, Any]:
    """A result, and the module that came with it and names its parameters, or None."""
    from ..nn.module import Module

    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Module):
        return result
    return result, None


def _watching(color: str) -> contextlib.AbstractContextManager[Any]:
    """`watch()`, where values are to be seen too."""
    from .measure import watch

    return contextlib.nullcontext() if color == "none" else watch()


def _differentiable(result: Any) -> bool:
    from ..autograd.pytree import leaves

    return any(getattr(part, "requires_grad", False) for part in leaves(result))


def _split(steps: list[int | str]) -> tuple[str | None, list[int]]:
    """Of what `--steps` was given: which to draw, and how many there are."""
    shown = [part for part in steps if isinstance(part, str)]
    return (",".join(shown) if shown else None), [part for part in steps if isinstance(part, int)]
