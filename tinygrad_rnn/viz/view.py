"""What is drawn and how: the one argument of everything that draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from . import colour, style
from .colour import Scale
from .nodes import Edge, Graph, Node


@dataclass(frozen=True)
class View:
    """A graph, at a level and folded or not, and what is to be seen of it.

    Attributes:
        graph: the nodes and edges that are drawn.
        caption: a title and lines of text to stand below the picture.
        params: "ghost": a chip at each use and one node each at the side; "once": one node and an edge to each use;
            "none": not drawn.
        uses: for each parameter's id, how often it is used in the whole graph.
        shared: ids of the parameters that several steps use.
        scale: what colours mean; None for colours that mean the kind of a node.
        straight: whether edges are straight lines, where Graphviz draws.
    """

    graph: Graph
    caption: tuple[str, ...]
    params: str
    uses: dict[str, int]
    shared: frozenset[str]
    scale: Scale | None = None
    straight: bool = False

    @cached_property
    def recurrent(self) -> list[Edge]:
        """The edges from step to step."""
        return [edge for edge in self.graph.edges if edge.kind == "recurrent"]

    @cached_property
    def states(self) -> dict[str, str]:
        """The colour of each state."""
        return style.states(list(dict.fromkeys(edge.name for edge in self.recurrent)))

    @cached_property
    def parameters(self) -> list[Node]:
        """The parameters that have a node at the side."""
        return self.graph.of_kind("parameter") if self.params != "none" else []

    @cached_property
    def chips(self) -> dict[str, list[Node]]:
        """For nodes by id the parameters whose chip stands beside them."""
        used: dict[str, list[Node]] = {}
        for edge in self.graph.edges:
            if edge.kind == "parameter" and self.params == "ghost" and self.graph[edge.target].kind != "ellipsis":
                used.setdefault(edge.target, []).append(self.graph[edge.source])
        return used

    @cached_property
    def short(self) -> dict[str, str]:
        """Of each parameter's name as much of its end as tells it from the others that chips stand for."""
        parameters = self.graph.of_kind("parameter")
        found, size = {node.id: node.name for node in parameters}, 1
        while parameters and size < 9:
            ends = {node.id: ".".join(node.name.split(".")[-size:]) for node in parameters}
            if all(len({ends[n.id] for n in chip}) == len(chip) for chip in self._together):
                return ends
            size += 1
        return found

    @property
    def _together(self) -> list[list[Node]]:
        """Parameters that must not look alike: those of each cell."""
        cells: dict[object, dict[str, Node]] = {}
        for edge in self.graph.edges:
            if edge.kind == "parameter":
                target = self.graph[edge.target]
                cells.setdefault((target.lane, target.column), {})[edge.source] = self.graph[edge.source]
        return [list(found.values()) for found in cells.values()]

    def paint(self, node: Node) -> tuple[str, str]:
        """Fill and border of a node."""
        fill, line = style.paint(node, self.states)
        if self.scale is None or node.kind == "ellipsis":
            return fill, line
        return self.scale.fill(node) or "#FFFFFF", line

    def ink(self, node: Node) -> tuple[str, str]:
        """The colours of a node's title, and of what stands below it."""
        fill = self.paint(node)[0]
        if colour.is_dark(fill):
            return "#FFFFFF", "#FFFFFF"
        return style.INK, style.INK if self.scale is not None and fill != "#FFFFFF" else style.FAINT

    def edge(self, edge: Edge) -> tuple[str, float]:
        """Colour and width of an edge that carries a state."""
        tint = self.states[edge.name]
        if self.graph[edge.target].leftward:
            tint = style.REVERSED.get(tint, tint)
        source = self.graph[edge.source]
        if self.scale is None or self.scale.what == "saturation":
            return tint, 2.2
        if self.scale.trouble(source):
            tint = colour.STRANGE
        return tint, self.scale.width(source) or 0.8

    def legend(self) -> list[tuple[str, str, bool]]:
        """Lines that mean something: colour, words, and whether they are dashed."""
        found = []
        for name, tint in self.states.items():
            back = {self.graph[edge.target].leftward for edge in self.recurrent if edge.name == name}
            if name == "gradient":
                found.append((tint, "gradient, back in time", False))
                continue
            if False in back:
                found.append((tint, f"{name} state", False))
            if True in back:
                found.append((style.REVERSED.get(tint, tint), f"{name} state, time backward", False))
        if self.chips:
            found.append((style.PARAMETER[1], self.same("parameters", self.parameters), True))
        if any(node.derivative for node in self.graph.nodes):
            found.append((style.GRADIENT[1], "computed by backward", True))
        return found

    def share(self, parameters: list[Node]) -> bool:
        """Whether several steps use these parameters, all of them."""
        return bool(parameters) and all(parameter.id in self.shared for parameter in parameters)

    def same(self, words: str, parameters: list[Node]) -> str:
        """Words, and that these parameters are the same at every step where they are."""
        return words + (", the same at every step" if self.share(parameters) else "")

    def trouble(self, node: Node) -> str:
        """A word for numbers that are not finite, where they are painted."""
        return self.scale.trouble(node) if self.scale is not None else ""
