"""The command `tinygrad-rnn`: a subcommand for each tool. What goes wrong is one line on stderr, and exit code 2."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .errors import ArgumentError, TinygradError
from .viz import command, flow_command


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where something was wrong."""
    parser = _Parser(prog="tinygrad-rnn", description="Tools of tinygrad_rnn.")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    graph = tools.add_parser("graph", help="draw the graph of a recurrent net", description=command.DESCRIPTION)
    command.arguments(graph)
    graph.set_defaults(run=functools.partial(command.run, prog=graph.prog))
    flow = tools.add_parser(
        "flow", help="measure how gradients flow back through time", description=flow_command.DESCRIPTION
    )
    flow_command.arguments(flow)
    flow.set_defaults(run=functools.partial(flow_command.run, prog=flow.prog))
    warmup = tools.add_parser("warmup", help="compile the kernels of the library's cells", description=_WARMUP)
    warmup.add_argument("cells", nargs="*", metavar="CELL", help="such as LSTMCell (all of them)")
    warmup.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="of parameters (%(default)s)"
    )
    warmup.set_defaults(run=_warmup)
    return _run(lambda chosen: chosen.run(chosen), parser, arguments)


def render_graph(arguments: Sequence[str] | None = None) -> int:
    """Run `tinygrad-rnn graph` as a command of its own."""
    parser = _Parser(prog="render_graph.py", description=command.DESCRIPTION)
    command.arguments(parser)
    return _run(functools.partial(command.run, prog=parser.prog), parser, arguments)


def gradient_flow(arguments: Sequence[str] | None = None) -> int:
    """Run `tinygrad-rnn flow` as a command of its own."""
    parser = _Parser(prog="gradient_flow.py", description=flow_command.DESCRIPTION)
    flow_command.arguments(parser)
    return _run(functools.partial(flow_command.run, prog=parser.prog), parser, arguments)


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
    except MemoryError:
        print(f"{parser.prog}: this takes more memory than there is", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError as trouble:
        print(f"{parser.prog}: {' '.join(str(trouble).split())}", file=sys.stderr)
        return 2
    return 0


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
    from .compiler.scan import engine

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


if __name__ == "__main__":
    sys.exit(main())
