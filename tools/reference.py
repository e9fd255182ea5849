"""The reference table of ops, made from their declarations.

python tools/reference.py            # writes docs/ops.md
python tools/reference.py --check    # exit code 2 where docs/ops.md is not what the declarations say
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tinygrad_rnn as tg
from tinygrad_rnn.errors import FileError, TinygradError
from tinygrad_rnn.files import write_whole
from tinygrad_rnn.ops import COMPOSITES, REGISTRY
from tinygrad_rnn.ops.op import Composite, Elementwise, Op, traced

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "ops.md"

HEAD = """\
# Functions

Made by `python tools/reference.py` from the declarations; do not edit. The third column is the declaration itself:
the vector-Jacobian product for each input, with `g` the incoming gradient and `y` the output; where it takes more than
a line, see the file. Derivatives are checked, to the third order, against finite differences, and to the second against
PyTorch's.

Arguments follow NumPy (`axis`, `keepdims`), losses PyTorch. Operands broadcast; Python numbers take the dtype of the
tensors they meet; float32 stays float32. Without a derivative there, a function's result requires no gradient.
"""


def page() -> str:
    """The whole page."""
    entries: dict[str, list[Op | Composite]] = {}
    every: list[Op | Composite] = [*[op for op in REGISTRY.values() if op.own], *COMPOSITES.values()]
    for entry in every:
        if hasattr(tg, entry.name):
            entries.setdefault(entry.rule.__module__, []).append(entry)
    parts = [HEAD]
    for module, found in entries.items():
        path = module.replace(".", "/") + ".py"
        title = re.split(r"[.:](?:\s|$)", sys.modules[module].__doc__ or "")[0]
        parts.append(f"\n## {title}\n\n[{path}](../{path})\n\n| function | value | gradient |\n|---|---|---|\n")
        parts.extend(f"| {_signature(e)} | {_value(e)} | {_gradient(e)} |\n" for e in found)
    return "".join(parts)


def _signature(entry: Op | Composite) -> str:
    signature = inspect.signature(entry.rule)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return f"`{entry.name}{signature.replace(parameters=bare, return_annotation=signature.empty)}`"


def _value(entry: Op | Composite) -> str:
    paragraph = inspect.cleandoc(entry.rule.__doc__ or "").partition("\n\n")[0]
    rest = inspect.cleandoc(entry.rule.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    more = "" if not rest or rest.startswith((">>>", "Args:", "Raises:", "Returns:")) else f" {rest}"
    return _cell(f"{paragraph}{more}")


def _gradient(entry: Op | Composite) -> str:
    if isinstance(entry, Composite):
        if entry.derivatives == 1:
            return "the first derivative only"
        return "of the ops that it is made of" if entry.differentiable else "none"
    same: dict[str, list[str]] = {}
    for of, vjp in entry.vjps.items():
        if isinstance(entry, Elementwise):
            body: str | None = str(traced(entry.name, vjp.function, vjp.names))
        else:
            body = _body(vjp.function)
        text = f"`{_cell(body)}`" if body else "see the file"
        same.setdefault(text, []).append(of)
    return "<br>".join(f"{', '.join(names)}: {text}" for text, names in same.items()) or "none"


def _body(function: Callable[..., Any]) -> str | None:
    """What a vjp returns, as it is written, where that is one line."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    body = [line.strip() for line in lines if line.strip() and not line.startswith(("@", "def "))]
    body = [line for line in body if not line.startswith("#")]
    return body[0].removeprefix("return ") if len(body) == 1 else None


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description="The reference table of ops, made from their declarations.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 2 where the page is stale")
    given = parser.parse_args(arguments)
    try:
        text = page()
        if not given.check:
            write_whole(PAGE, text.encode())
        elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise FileError(f"{PAGE.relative_to(ROOT)} is stale", hint="python tools/reference.py")
    except TinygradError as trouble:
        print(f"reference: {trouble.one_line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
