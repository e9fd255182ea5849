"""The command `tinygrad-rnn`: a subcommand for each tool. What goes wrong is one line on stderr, and exit code 2."""

from __future__ import annotations

import argparse
import functools
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from .errors import ArgumentError, TinygradError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where something was wrong."""
    parser = _Parser(prog="tinygrad-rnn", description="Tools of tinygrad_rnn.")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    graph = tools.add_parser("graph", help="draw the graph of a recurrent net", description=_GRAPH)
    _graph_arguments(graph)
    graph.set_defaults(run=_graph)
    warmup = tools.add_parser("warmup", help="compile the kernels of the library's cells", description=_WARMUP)
    warmup.add_argument("cells", nargs="*", metavar="CELL", help="such as LSTMCell (all of them)")
    warmup.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="of parameters (%(default)s)"
    )
    warmup.set_defaults(run=_warmup)
    return _run(lambda chosen: chosen.run(chosen), parser, arguments)


def render_graph(arguments: Sequence[str] | None = None) -> int:
    """Run `tinygrad-rnn graph` as a command of its own."""
    parser = _Parser(prog="render_graph.py", description=_GRAPH)
    _graph_arguments(parser)
    return _run(_graph, parser, arguments)


def _run(tool: Any, parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    try:
        tool(parser.parse_args(arguments))
        sys.stdout.flush()
    except SystemExit as end:  # argparse has said it
        return int(end.code or 0)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except TinygradError as trouble:
        print(f"{parser.prog}: {trouble.one_line}", file=sys.stderr)
        return 2
    except OSError as trouble:
        print(f"{parser.prog}: {' '.join(str(trouble).split())}", file=sys.stderr)
        return 2
    return 0


# --- graph ---

_GRAPH = "Draw a recurrent net unrolled over time: steps from left to right, layers from bottom to top."

_CELLS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}

#: The net that is drawn where nothing else is said.
_NET = {"cell": "lstm", "layers": 1, "steps": 3, "input": 4, "hidden": 8, "batch": 1}


def _graph_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--from",
        dest="source",
        metavar="FILE.py:FUNCTION",
        help="draw what a function returns: a tensor, or (tensor, module)",
    )
    add("--cell", choices=tuple(_CELLS), help=f"kind of cell ({_NET['cell']})")
    add("--layers", type=_positive, metavar="N", help=f"layers one above another ({_NET['layers']})")
    add("--steps", type=_positive, metavar="T", help=f"time steps ({_NET['steps']})")
    add("--input", type=_positive, metavar="I", help=f"features of the input ({_NET['input']})")
    add("--hidden", type=_positive, metavar="H", help=f"features of the state ({_NET['hidden']})")
    add("--batch", type=_positive, metavar="B", help=f"sequences in a batch ({_NET['batch']})")
    add("--level", choices=("auto", "op", "gate", "cell", "layer"), default="gate", help="how fine (%(default)s)")
    add("--params", choices=("ghost", "once", "none"), default="ghost", help="how parameters are drawn (%(default)s)")
    folding = parser.add_mutually_exclusive_group()
    folding.add_argument("--fold", type=_head_and_tail, default="auto", metavar="HEAD,TAIL", help="steps to draw")
    folding.add_argument("--no-fold", dest="fold", action="store_const", const=None, help="draw every step")
    add("--engine", choices=("auto", "dot", "pure", "builtin"), default="auto", help="what lays it out (%(default)s)")
    add("--format", metavar="FORMAT", help="svg, png, pdf, dot or json (the suffix of the file; else dot)")
    add("-o", "--output", metavar="FILE", help="the file to write (DOT text to standard output)")


def _graph(chosen: argparse.Namespace) -> None:
    from . import viz

    said = {name: getattr(chosen, name) for name in _NET if getattr(chosen, name) is not None}
    if chosen.source is not None and said:
        raise ArgumentError("graph: --from draws what the function does", got=f"--{next(iter(said))} beside it")
    result, net = _own_net(**{**_NET, **said}) if chosen.source is None else _returned(chosen.source)
    picture = viz.graph(result, chosen.level, chosen.fold, chosen.params, module=net)
    if chosen.output is not None:
        picture.save(chosen.output, chosen.format, chosen.engine)
        return
    content = picture.to_bytes(chosen.format or "dot", chosen.engine)
    if chosen.format in ("png", "pdf") and sys.stdout.isatty():
        raise ArgumentError(f"graph: {chosen.format} is not for a terminal", hint="-o FILE")
    sys.stdout.buffer.write(content)


def _own_net(cell: str, layers: int, steps: int, input: int, hidden: int, batch: int) -> tuple[Any, Any]:
    """What one of the library's nets makes of zeros, and the net."""
    from . import nn
    from .autograd.create import zeros
    from .autograd.tape import Tape

    net: Any = getattr(nn, _CELLS[cell])(input, hidden, layers)
    with Tape():  # so that the steps of the input, through which no gradient flows, are recorded too
        outputs, _ = net(zeros(steps, batch, input))
    return outputs, net


def _returned(source: str) -> tuple[Any, Any]:
    """What a function of a file returns, and the module that names its parameters, or None.

    Raises:
        ArgumentError: where there is no such function, or it fails: with its error, and the line.
    """
    from .autograd.tape import Tape
    from .nn.module import Module

    path, _, name = source.rpartition(":")
    if not path or not name:
        raise ArgumentError("graph: no such function", expected="--from FILE.py:FUNCTION", got=source)
    try:
        function = runpy.run_path(path, run_name="graph").get(name)
        if not callable(function):
            raise ArgumentError(f"graph: {path} has no function {name}")
        with Tape():
            result = function()
    except (TinygradError, OSError):
        raise
    except Exception as trouble:
        last = traceback.extract_tb(trouble.__traceback__)[-1]
        raise ArgumentError(
            f"graph: {name} failed: {type(trouble).__name__}: {trouble}", hint=f"look at {last.filename}:{last.lineno}"
        ) from None
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Module):
        return result
    return result, None


# --- warmup ---

_WARMUP = "Compile the kernels of the library's own cells, so that no program waits for them: a minute or two, once."


#: Settings that make other equations.
_VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "RNNCell": ({}, {"nonlinearity": "relu"}),
    "GRUCell": ({}, {"reset_after": False}),
    "ProjectedLSTMCell": ({"proj_size": 2},),
}


def _warmup(chosen: argparse.Namespace) -> None:
    from tqdm import tqdm

    from . import nn, settings
    from .autograd.create import zeros
    from .autograd.tape import no_grad
    from .compiler.run import engine

    if not settings.jit_enabled:
        raise ArgumentError("warmup: nothing is compiled here", got="TINYGRAD_RNN_JIT=0")
    kinds: dict[str, Any] = {name: getattr(nn, name) for name in nn.__all__ if name.endswith("Cell") and name != "Cell"}
    for name in chosen.cells:
        if name not in kinds:
            raise ArgumentError("warmup: no such cell", expected=" | ".join(kinds), got=name)
    cells = []
    for name in chosen.cells or kinds:
        kind = functools.partial(kinds[name], 4, 4, dtype=chosen.dtype)
        cells += [(name, kind(**more)) for more in _VARIANTS.get(name, ({},))]
    with tqdm(cells, unit="cell", file=sys.stderr) as bar, engine("fused"):
        for name, cell in bar:
            bar.set_description(name)
            layer = nn.Recurrent(cell)
            for requires_grad in (False, True):  # as the first layer, and as one above
                x = zeros(2, 2, 4, dtype=chosen.dtype, requires_grad=requires_grad)
                layer(x)[0].sum().backward()
            with no_grad():
                layer(x)
    print(f"all there, in {settings.cache_folder()}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _head_and_tail(text: str) -> str | tuple[int, int]:
    if text == "auto":
        return text
    head, comma, tail = text.partition(",")
    if not (comma and head.isdecimal() and tail.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HEAD,TAIL such as 2,1, got {text!r}")
    return int(head), int(tail)


if __name__ == "__main__":
    sys.exit(main())
