"""`tg.viz.graph`: the unrolled graph of a result, and the object that shows and saves it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..autograd.tensor import Tensor
from ..errors import ArgumentError, FileError
from ..nn.module import Module
from . import style
from .colour import COLOURS, Scale, measured
from .dot import PARAMS, to_dot
from .fold import fold as folded
from .fold import hidden_steps
from .html import to_html
from .levels import LEVELS, at_level
from .nodes import Graph, beside
from .read import read
from .render import ENGINES, FORMATS, TIMEOUT, LayoutTimeout, program, render
from .svg import to_svg
from .view import View

if TYPE_CHECKING:
    import graphviz

#: "auto" is the finest level with fewer nodes than this.
MOST_NODES = 400

#: In a picture with more nodes than this there are no chips, and edges are straight.
CROWDED = 800

#: A picture of more nodes than the first is warned of; one of more than the second is made where it is forced.
MANY, TOO_MANY = 1_500, 10_000


def graph(
    result: Any,
    level: str = "auto",
    fold: Any = "auto",
    color: str = "none",
    params: str = "ghost",
    *,
    steps: str | Iterable[int] | None = None,
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
        result: a tensor, a pytree of tensors, or a `Tape`, of which every operation is drawn.
        level: "op" (every operation once), "gate" (one node a named value and step), "cell" (one a step and layer),
            "layer" (time rolled up); "auto" is the finest that stays under 400 nodes.
        fold: "auto" folds more than 6 steps into 1, 2, ..., T; None draws all; (head, tail) says how many to draw.
        color: what fills of nodes and widths of recurrent edges mean. "grad": the norm of the gradient of the result
            (of the sum of its elements) with respect to each value, from a backward of its own: hooks run, and every
            `grad` stays as it was. "value": the norm of each value; "saturation": the share of a gate's units whose
            derivative has all but gone; both of what ran inside `watch()`. "none": the kind of each node.
        params: "ghost": a chip at each use and one node a parameter at the side (left out where more than 800 nodes are
            drawn; the caption says so); "once": one node a parameter with an edge to each use; "none".
        steps: the steps to draw, counted from 1 as in the picture, such as "1,2,50-52"; the others are folded.
        module: names its parameters.
        names: tensors by name, to be drawn as parameters.

    Raises:
        ArgumentError: for an argument outside its choices, or a result without a history.
        GraphError: where gradients are asked for and cannot be had.
    """
    _check(level, color, params)
    with _uncollected():
        ops = read(result, {**_named(module), **_own_names(names)}, color == "grad")
        return Picture(ops, level, fold, color, params, steps)


def compare(
    results: Mapping[str, Any],
    level: str = "cell",
    fold: Any = "auto",
    color: str = "grad",
    params: str = "none",
    *,
    steps: str | Iterable[int] | None = None,
    modules: Mapping[str, Module] | None = None,
) -> Picture:
    """The graphs of several results by name, side by side with one scale of colours.

    >>> import tinygrad_rnn as tg
    >>> nets = {"rnn": tg.nn.RNN(4, 8), "lstm": tg.nn.LSTM(4, 8)}
    >>> losses = {name: net(tg.randn(20, 1, 4))[0][-1].sum() for name, net in nets.items()}
    >>> picture = tg.viz.compare(losses, modules=nets)
    >>> picture.stats["nodes"]
    29

    Args:
        results: by name what `graph` takes.
        level, fold, color, params, steps: as of `graph`; they hold for all.
        modules: by the same names what names the parameters.

    Raises:
        ArgumentError, GraphError: as `graph`.
    """
    _check(level, color, params)
    if not isinstance(results, Mapping) or not results:
        raise ArgumentError("compare: there is nothing to compare", expected="results by name", got=repr(results))
    modules = modules or {}
    with _uncollected():
        graphs = {str(n): read(result, _named(modules.get(n)), color == "grad") for n, result in results.items()}
        return Picture(beside(graphs), level, fold, color, params, steps)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, the garbage collector rests: of ten thousands of nodes it would find none to free."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _named(module: Any) -> dict[str, Tensor]:
    if module is None:
        return {}
    if not isinstance(module, Module):
        raise ArgumentError("graph: this is no module", expected="a tg.nn.Module, or None", got=repr(module))
    return dict(module.named_parameters())


def _own_names(names: Any) -> dict[str, Tensor]:
    found = {} if names is None else names
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ArgumentError("graph: these are no names", expected="tensors by name", got=repr(names))
    return {str(name) or "unnamed": tensor for name, tensor in found.items()}


def _check(level: str, color: str, params: str) -> None:
    for what, choice, choices in (
        ("level", level, ("auto", *LEVELS)),
        ("color", color, COLOURS),
        ("way to draw parameters", params, PARAMS),
    ):
        if choice not in choices:
            raise ArgumentError(f"graph: no such {what}", expected=" | ".join(choices), got=repr(choice))


class Picture:
    """A graph that can be looked at. A notebook shows it; where it cannot be drawn, it shows a line of text.

    Attributes:
        ops: every operation, as plain nodes and edges.
        graph: what of it is drawn, at a level and folded.
        stats: what is in it, in numbers; and under "done" what was done to keep the picture readable.
    """

    def __init__(
        self, ops: Graph, level: str, fold: Any, color: str, params: str, steps: str | Iterable[int] | None = None
    ) -> None:
        hidden = hidden_steps(ops.steps, fold, steps)
        for chosen in LEVELS if level == "auto" else (level,):
            drawn = at_level(ops, chosen)
            drawn = folded(drawn, hidden, ops) if chosen != "layer" else drawn
            if len(drawn.nodes) < MOST_NODES:
                break
        if color != "none" and not any(measured(node, color) for node in ops.nodes if node.kind == "op"):
            raise ArgumentError(
                f"graph: nothing was measured to colour by {color}", hint="with tg.viz.watch(): around the forward pass"
            )
        hidden = hidden if chosen != "layer" else []
        crowded = len(drawn.nodes) > CROWDED
        done = [f"{_count(len(hidden), 'step')} folded"] if hidden and fold == "auto" and steps is None else []
        done += [f"level {chosen}"] if level == "auto" and chosen != LEVELS[0] else []
        done += ["no chips of parameters"] if crowded and params == "ghost" else []
        done += ["straight edges"] if crowded else []
        params = "none" if crowded and params == "ghost" else params
        uses = ops.uses()
        self.ops, self.graph = ops, drawn
        self._hidden, self._color = hidden, color
        self.stats: dict[str, Any] = {
            "level": chosen,
            "nodes": len(drawn.nodes),
            "edges": len(drawn.edges),
            "ops": len(ops.of_kind("op")),
            "steps": len(ops.steps),
            "layers": len(ops.layers),
            "parameters": len(ops.of_kind("parameter")),
            "parameter_uses": sum(uses.values()),
            "hidden_steps": len(hidden),
            "hidden_ops": sum(len(node.members) for node in drawn.of_kind("ellipsis")),
            "done": done,
        }
        scale = None if color == "none" else Scale.of(drawn.nodes, color, (ops.nodes[-1].label or "").replace("_", " "))
        self.view = View(drawn, tuple(self._caption()), params, uses, ops.shared, scale, crowded)

    @property
    def source(self) -> str:
        """The picture as DOT text."""
        return to_dot(self.view)

    def digraph(self) -> graphviz.Source:
        """The picture as an object of the `graphviz` package."""
        import graphviz

        return graphviz.Source(self.source)

    def to_bytes(self, format: str, engine: str = "auto", timeout: float = TIMEOUT, force: bool = False) -> bytes:
        """The picture as a file's content.

        Args:
            format: svg, png, pdf, html, dot or json.
            engine: what lays it out: "dot" (Graphviz), "pure" (the program of the graphviz-pure wheel), "builtin" (this
                library; SVG and HTML), or "auto", the first of these that there is and that can write the format.
            timeout: seconds that a program may take for the layout.
            force: draw more than 10,000 nodes too.

        Raises:
            ArgumentError: for another format or engine, and for more than 10,000 nodes that are not forced.
            MissingError: where Graphviz is needed and missing.
            FileError: where the layout fails, or takes longer than `timeout`.
        """
        if engine not in ENGINES:
            raise ArgumentError("graph: no such engine", expected=" | ".join(ENGINES), got=repr(engine))
        if format == "json":
            plain = {"stats": self.stats, **self.graph.plain()}
            return (json.dumps(style.in_json(plain), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        if format not in (*FORMATS, "html", "dot"):
            raise ArgumentError(
                "graph: no such format", expected=" | ".join((*FORMATS, "html", "dot", "json")), got=repr(format)
            )
        self._check_size(force)
        if format == "dot":
            return self.source.encode()
        if format == "html":
            totals = _totals(self.stats)
            return to_html(self.view, self.ops, self.stats["level"], self._hidden, self._color, totals).encode()
        found = None
        if engine != "builtin":
            found = program(format, engine, needed=engine != "auto" or format != "svg")
        if found is not None:
            return render(found, self.source, format, timeout)
        if format != "svg":
            raise ArgumentError("graph: the built-in layout writes SVG", got=format, hint="the engine dot, or pure")
        return to_svg(self.view).encode()

    def save(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        engine: str = "auto",
        timeout: float = TIMEOUT,
        force: bool = False,
    ) -> None:
        """Write the picture; the format is the path's suffix unless given. The file is whole or untouched.

        The other arguments are those of `to_bytes`. Where the layout takes longer than `timeout`, the DOT text is
        kept beside the path.

        Raises:
            ArgumentError: for a format or an engine that there is not, and for too many nodes.
            MissingError: where Graphviz is needed and missing.
            FileError: where the layout fails or takes too long, or the file cannot be written.
        """
        path = Path(path)
        try:
            content = self.to_bytes(format or path.suffix.lower().removeprefix(".") or "none", engine, timeout, force)
        except LayoutTimeout as trouble:
            kept = path.with_name(f"{path.name}.dot")
            files.write_whole(kept, self.source.encode())
            raise FileError(f"{trouble.one_line}; its text is kept in {kept}") from None
        files.write_whole(path, content)

    def to_html(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write the picture as a page of one file, to explore in a browser: it needs no network and no server.

        Raises:
            ArgumentError: for too many nodes that are not forced.
            FileError: where the file cannot be written.
        """
        self.save(path, "html", force=force)

    def _check_size(self, force: bool) -> None:
        count = len(self.graph.nodes)
        if count > TOO_MANY and not force:
            raise ArgumentError(
                "graph: too many nodes for a picture",
                expected=f"at most {TOO_MANY:,}",
                got=f"{count:,}",
                hint="a coarser level, a fold, JSON, or --force (force=True)",
            )
        if count > MANY:
            warnings.warn(
                f"graph: {count:,} nodes take time to lay out and to read; a coarser level or a fold has fewer",
                stacklevel=4,
            )

    def _caption(self) -> list[str]:
        stats = self.stats
        cells = list(dict.fromkeys(node.cell.removesuffix("Cell") for node in self.graph.nodes if node.cell))
        title = " and ".join(cells) or "graph"
        directions = {node.reverse for node in self.graph.nodes if node.layer is not None}
        title += ", bidirectional" if len(directions) == 2 else ""
        sizes = [_count(stats[what], what[:-1]) for what in ("steps", "layers") if stats[what]]
        drawn = [node for node in self.graph.nodes if node.kind != "parameter"]
        totals = f"{_count(stats['ops'], 'operation')} drawn as {_count(len(drawn), 'node')}"
        if stats["hidden_steps"]:
            totals += f"; {_count(stats['hidden_steps'], 'step')} with {stats['hidden_ops']} operations folded"
        totals += f"; {_parameters(stats)}" if stats["parameters"] else ""
        done = [f"To stay readable: {', '.join(stats['done'])}"] if stats["done"] else []
        return [", ".join([title, *sizes]), totals, *done]

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


def _parameters(stats: dict[str, Any]) -> str:
    return f"{_count(stats['parameters'], 'parameter')}, used {stats['parameter_uses']} times"


def _totals(stats: dict[str, Any]) -> str:
    parts = [_count(stats["ops"], "operation"), _parameters(stats) if stats["parameters"] else ""]
    return "; ".join(part for part in parts if part)
