"""`tinygrad-rnn graph`: what can be typed, the nets that it makes, and the functions of files that it draws."""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import sys
import traceback
import warnings
from typing import Any

from ..errors import ArgumentError, TinygradError
from .colour import COLOURS
from .dot import PARAMS
from .fold import chosen_steps
from .levels import LEVELS

DESCRIPTION = "Draw a recurrent net unrolled over time: steps from left to right, layers from bottom to top."

_CELLS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}

#: The net that is drawn where nothing else is said.
_NET = {"cell": "lstm", "layers": 1, "steps": 3, "input": 4, "hidden": 8, "batch": 1, "seed": 0, "bidirectional": False}

#: Of a comparison, where steps are folded.
_COMPARED_STEPS = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    net = parser.add_argument_group("a net of this library")
    add = net.add_argument
    add("--cell", choices=tuple(_CELLS), help=f"kind of cell ({_NET['cell']})")
    add("--layers", type=_positive, metavar="N", help=f"layers one above another ({_NET['layers']})")
    add("--bidirectional", action="store_true", default=None, help="a layer that runs backward beside each")
    add(
        "--steps",
        type=_steps,
        action="append",
        default=[],
        metavar="T",
        help=f"time steps ({_NET['steps']}); a list such as 1,2,50-52 says which of them to draw",
    )
    add("--input", type=_positive, metavar="I", help=f"features of the input ({_NET['input']})")
    add("--hidden", type=_positive, metavar="H", help=f"features of the state ({_NET['hidden']})")
    add("--batch", type=_positive, metavar="B", help=f"sequences in a batch ({_NET['batch']})")
    add("--seed", type=_natural, metavar="N", help=f"of weights and inputs, which are random ({_NET['seed']})")
    add("--compare", type=_cells, metavar="CELL,CELL", help="several, side by side with one scale of colours")
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
    folding.add_argument("--fold", type=_head_and_tail, default="auto", metavar="HEAD,TAIL", help="steps to draw")
    folding.add_argument("--no-fold", dest="fold", action="store_const", const=None, help="draw every step")
    add("--engine", choices=("auto", "dot", "pure", "builtin"), default="auto", help="what lays it out (%(default)s)")
    add(
        "--format",
        type=str.lower,
        metavar="FORMAT",
        help="svg, png, pdf, html, dot, json (the suffix; else dot)",
    )
    add("--timeout", type=_seconds, default=120.0, metavar="S", help="seconds that a layout may take (%(default)g)")
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
    from .picture import compare, graph

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
        result, net = _returned(chosen.source, color if chosen.color or color == "none" else "value")
        if chosen.color is None and color == "grad" and not _differentiable(result):
            color = "value"
    picture = graph(result, chosen.level or "gate", color=color, module=net, **look)
    if chosen.level is None and not picture.stats["steps"]:  # nothing that is done again and again: show it all
        picture = graph(result, "auto", color=color, module=net, **look)
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
    net: Any = getattr(nn, _CELLS[cell])(input, hidden, layers, bidirectional=bidirectional)
    with Tape(), _watching(color):  # so that the steps of the input, through which no gradient flows, are recorded too
        outputs, _ = net(randn(steps, batch, input))
        result = outputs if color == "none" else square(outputs[-1]).mean().named("loss")
    return result, net


def _watching(color: str) -> contextlib.AbstractContextManager[Any]:
    """`watch()`, where values are to be seen too."""
    from .measure import watch

    return contextlib.nullcontext() if color == "none" else watch()


def _differentiable(result: Any) -> bool:
    from ..autograd.nest import leaves

    return any(getattr(part, "requires_grad", False) for part in leaves(result))


def _returned(source: str, color: str) -> tuple[Any, Any]:
    """What a function of a file returns, and the module that names its parameters, or None.

    Raises:
        ArgumentError: where there is no such function, or it fails: with its error, and the line.
    """
    from ..autograd.tape import Tape
    from ..nn.module import Module

    path, _, name = source.rpartition(":")
    if not path or not name:
        raise ArgumentError("graph: no such function", expected="--from FILE.py:FUNCTION", got=source)
    folder = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, folder)  # as where a file is run
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the picture's
            function = runpy.run_path(path, run_name="graph").get(name)
            if not callable(function):
                raise ArgumentError(f"graph: {path} has no function {name}")
            with Tape(), _watching(color):
                result = function()
    except (TinygradError, OSError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as trouble:
        where = _where(trouble, path)
        raise ArgumentError(
            f"graph: {name} failed: {type(trouble).__name__}: {trouble}", hint=f"look at {where}" if where else None
        ) from None
    finally:
        sys.path.remove(folder)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Module):
        return result
    return result, None


def _where(trouble: BaseException, path: str) -> str:
    """The line of a user's file where it went wrong; "" where it was no line of theirs."""
    if isinstance(trouble, SyntaxError):
        return f"{trouble.filename}:{trouble.lineno}"
    lines = [f"{at.filename}:{at.lineno}" for at in traceback.extract_tb(trouble.__traceback__)]
    own = [line for line in lines if not line.startswith((__file__, "<frozen"))]
    return own[-1] if own else ""


# --- What is typed ---


def _split(steps: list[int | str]) -> tuple[str | None, list[int]]:
    """Of what `--steps` was given: which to draw, and how many there are."""
    shown = [part for part in steps if isinstance(part, str)]
    return (",".join(shown) if shown else None), [part for part in steps if isinstance(part, int)]


def _steps(text: str) -> int | str:
    if "," in text or "-" in text.strip("-"):
        try:
            chosen_steps(text)
        except ArgumentError as trouble:
            raise argparse.ArgumentTypeError(trouble.one_line) from None
        return text
    return _positive(text)


def _cells(text: str) -> list[str]:
    found = text.split(",")
    strange = [cell for cell in found if cell not in _CELLS]
    if strange or len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(_CELLS)}, each once, got {text!r}")
    return found


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return number


def _head_and_tail(text: str) -> str | tuple[int, int]:
    if text == "auto":
        return text
    head, comma, tail = text.partition(",")
    if not (comma and head.isdecimal() and tail.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEAD,TAIL such as 2,1, got {text!r}")
    return int(head), int(tail)
