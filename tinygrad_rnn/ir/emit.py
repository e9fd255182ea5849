"""An expression as kernel text, and as a function on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..kernels.codegen import jit
from .expression import Expression


def text(name: str, symbols: Sequence[str], expression: Expression) -> str:
    """Return the source of a scalar function `name(*symbols)` that computes `expression`, and of what it calls.

    Names are prefixed, so that no symbol meets a function or another name; a shared part is computed once; constants
    take the dtype of the first floating symbol, because a plain literal is a float64 and would widen the kernel.
    """
    truths = truth_symbols(expression)
    floating = next(s for s in symbols if s not in truths)
    sources: dict[str, None] = {}
    lines: list[str] = []
    found: dict[int, str] = {}
    for e in expression.schedule():
        if e.primitive is None:
            found[id(e)] = f"s_{e.name}" if e.name is not None else f"like({_literal(e.value or 0)}, s_{floating})"
            continue
        sources.update(dict.fromkeys(e.primitive.sources))
        found[id(e)] = f"t_{len(lines)}"
        lines.append(f"    t_{len(lines)} = {e.primitive.text.format(*[found[id(operand)] for operand in e.operands])}")
    head = "".join(source + "\n\n" for source in sources)
    arguments = ", ".join(f"s_{s}" for s in symbols)
    return f"{head}\ndef {name}({arguments}):\n" + "\n".join(lines) + f"\n    return {found[id(expression)]}\n"


def _literal(value: float) -> str:
    value = float(value)
    return repr(value) if math.isfinite(value) else f"{'-' * (value < 0.0)}np.{abs(value)!r}"


def truth_symbols(expression: Expression) -> set[str]:
    """The symbols that stand where a truth value does: as the condition of a `where`."""
    return {
        e.operands[0].name
        for e in expression.schedule()
        if e.primitive is not None and e.primitive.name == "where" and e.operands[0].name is not None
    }


def function(name: str, symbols: Sequence[str], expression: Expression) -> jit.Kernel:
    """Return a kernel over arrays, in the order of `symbols`, that computes `expression`.

    Where there is nothing to compile, a lone symbol or one primitive that NumPy does as fast, it is NumPy's own
    function.
    """

    def reference(*arrays: Any) -> Any:
        return expression.evaluate(dict(zip(symbols, arrays)))

    primitive = expression.primitive
    if primitive is None or (primitive.exact and all(operand.primitive is None for operand in expression.operands)):
        if primitive is not None and [operand.name for operand in expression.operands] == list(symbols):
            return jit.plain(name, primitive.reference)
        return jit.plain(name, reference)
    truths = truth_symbols(expression)
    signature = f"F({','.join('b1' if s in truths else 'F' for s in symbols)})"
    return jit.ufunc(name, text(name, symbols, expression), signature, reference)
