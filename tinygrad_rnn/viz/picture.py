"""`tg.viz.graph`: the unrolled graph of a result, and the object that shows and saves it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..autograd.tensor import Tensor
from ..errors import ArgumentError
from ..nn.module import Module
from .dot import PARAMS, to_dot
from .fold import fold as folded
from .fold import hidden_steps
from .levels import LEVELS, at_level
from .nodes import Graph
from .read import read
from .render import ENGINES, FORMATS, program, render
from .svg import to_svg

if TYPE_CHECKING:
    import graphviz

#: "auto" is the finest level with fewer nodes than this.
MOST_NODES = 400


def graph(
    result: Any,
    level: str = "auto",
    fold: Any = "auto",
    params: str = "ghost",
    *,
    module: Module | None = None,
    names: Mapping[str, Tensor] | None = None,
) -> Picture:
    """The graph that made `result`: time from left to right, layers from bottom to top.

    >>> import tinygrad_rnn as tg
    >>> lstm = tg.nn.LSTM(4, 8)
    >>> outputs, _ = lstm(tg.zeros(3, 1, 4))
    >>> picture = tg.viz.graph(outputs, level="gate", module=lstm)
    >>> picture.stats["steps"], picture.stats["parameters"]
    (3, 4)

    Args:
        result: a tensor, a nest of tensors, or a `Tape`, of which every operation is drawn.
        level: "op" (every operation once), "gate" (one node a named value and step), "cell" (one a step and layer),
            "layer" (time rolled up); "auto" is the finest that stays under 400 nodes.
        fold: "auto" folds more than 6 steps into 1, 2, ..., T; None draws all; (head, tail) says how many to draw.
        params: "ghost": a chip at each use and one node a parameter at the side; "once": one node a parameter with an
            edge to each use; "none".
        module: names its parameters.
        names: tensors by name, to be drawn as parameters.

    Raises:
        ArgumentError: for an argument outside its choices, or a result without a history.
    """
    if level not in ("auto", *LEVELS):
        raise ArgumentError("graph: no such level", expected=f"auto | {' | '.join(LEVELS)}", got=repr(level))
    if params not in PARAMS:
        raise ArgumentError("graph: no such way to draw parameters", expected=" | ".join(PARAMS), got=repr(params))
    named: dict[str, Tensor] = dict(module.named_parameters()) if module is not None else {}
    ops = read(result, {**named, **(names or {})})
    hidden = hidden_steps(ops.steps, fold)
    for chosen in LEVELS if level == "auto" else (level,):
        drawn = folded(at_level(ops, chosen), fold)
        if len(drawn.nodes) < MOST_NODES:
            break
    return Picture(ops, drawn, chosen, params, hidden)


class Picture:
    """A graph that can be looked at. A notebook shows it; where it cannot be drawn, it shows a line of text.

    Attributes:
        graph: what is drawn, as plain nodes and edges.
        stats: what is in it, in numbers.
    """

    def __init__(self, ops: Graph, drawn: Graph, level: str, params: str, hidden: list[int]) -> None:
        self.graph = drawn
        self._params, self._uses = params, ops.uses()
        hidden_nodes = drawn.of_kind("ellipsis")
        self.stats: dict[str, Any] = {
            "level": level,
            "nodes": len(drawn.nodes),
            "edges": len(drawn.edges),
            "ops": len(ops.of_kind("op")),
            "steps": len(ops.steps),
            "layers": len(ops.layers),
            "parameters": len(ops.of_kind("parameter")),
            "parameter_uses": sum(self._uses.values()),
            "hidden_steps": len(hidden) if level != "layer" else 0,
            "hidden_ops": sum(len(node.members) for node in hidden_nodes),
        }

    @property
    def source(self) -> str:
        """The picture as DOT text."""
        return to_dot(self.graph, self._caption(), self._params, self._uses)

    def digraph(self) -> graphviz.Source:
        """The picture as an object of the `graphviz` package."""
        import graphviz

        return graphviz.Source(self.source)

    def to_bytes(self, format: str, engine: str = "auto") -> bytes:
        """The picture as a file's content.

        Args:
            format: svg, png, pdf, dot or json.
            engine: what lays it out: "dot" (Graphviz), "pure" (the program of the graphviz-pure wheel), "builtin" (this
                library, SVG only), or "auto", the first of these that there is and that can write the format.

        Raises:
            ArgumentError: for another format or engine.
            MissingError: where Graphviz is needed and missing.
        """
        if engine not in ENGINES:
            raise ArgumentError("graph: no such engine", expected=" | ".join(ENGINES), got=repr(engine))
        if format == "dot":
            return self.source.encode()
        if format == "json":
            plain = {"stats": self.stats, **self.graph.plain()}
            return (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode()
        if format not in FORMATS:
            raise ArgumentError(
                "graph: no such format", expected=" | ".join((*FORMATS, "dot", "json")), got=repr(format)
            )
        found = None if engine == "builtin" else program(format, engine, needed=engine != "auto" or format != "svg")
        if found is not None:
            return render(found, self.source, format)
        if format != "svg":
            raise ArgumentError("graph: the built-in layout writes SVG", got=format, hint="the engine dot, or pure")
        return to_svg(self.graph, self._caption(), self._params, self._uses).encode()

    def save(self, path: str | os.PathLike[str], format: str | None = None, engine: str = "auto") -> None:
        """Write the picture; the format is the path's suffix unless given. The file is whole or untouched.

        `engine` is that of `to_bytes`.

        Raises:
            ArgumentError: for a format or an engine that there is not.
            MissingError: where Graphviz is needed and missing.
            FileError: where the file cannot be written.
        """
        content = self.to_bytes(format or Path(path).suffix.lower().removeprefix(".") or "none", engine)
        files.write_whole(path, content)

    def _caption(self) -> list[str]:
        stats = self.stats
        cells = list(dict.fromkeys(node.cell.removesuffix("Cell") for node in self.graph.nodes if node.cell))
        title = " and ".join(cells) or "graph"
        sizes = [_count(stats[what], what[:-1]) for what in ("steps", "layers") if stats[what]]
        totals = f"{_count(stats['ops'], 'operation')} drawn as {_count(len(self._drawn()), 'node')}"
        if stats["hidden_steps"]:
            totals += f"; {_count(stats['hidden_steps'], 'step')} with {stats['hidden_ops']} operations folded"
        if stats["parameters"]:
            totals += f"; {_count(stats['parameters'], 'parameter')}, used {stats['parameter_uses']} times"
        return [", ".join([title, *sizes]), totals]

    def _drawn(self) -> list[Any]:
        return [node for node in self.graph.nodes if node.kind != "parameter"]

    def __repr__(self) -> str:
        return f"<graph: {'; '.join(self._caption())}>"

    # --- Notebooks: these never raise ---

    def _repr_svg_(self) -> str | None:
        try:
            text = self.to_bytes("svg").decode()
            return text[text.index("<svg") :]
        except Exception:  # a notebook would show a traceback in place of the cell's output
            return None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        svg = self._repr_svg_()
        bundle = {"text/plain": repr(self)}
        return bundle if svg is None else {**bundle, "image/svg+xml": svg}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
