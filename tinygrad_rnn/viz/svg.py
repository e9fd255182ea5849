"""A picture as SVG, from the built-in layout: needs no program. The same graph gives the same bytes.

Edges inside a step go up in curves. Those from step to step leave east and enter west (where time runs backward the
other way round), a colour each state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from xml.sax.saxutils import quoteattr

from . import style, words
from .colour import Scale, is_dark
from .nodes import Edge, Node
from .place import CHIP, Box, Places, letters
from .view import View

_MARGIN = 18.0


def to_svg(view: View) -> str:
    """The SVG text of a graph."""
    return _Drawing(view).text()


class _Drawing:
    def __init__(self, view: View) -> None:
        self.view, self.graph, self.places = view, view.graph, Places(view)

    def text(self) -> str:
        body = [*self._frames(), *self._axis(), *self._edges(), *self._nodes()]
        foot = list(self._caption())
        xs = [box.x for box in self.places.boxes.values()] + [frame.box.x for frame in self.places.frames] + [0.0]
        ys = [box.y for box in self.places.boxes.values()] + [frame.box.y for frame in self.places.frames] + [0.0]
        left, top = min(xs) - _MARGIN, min(ys) - _MARGIN
        width = max(self.places.width, self.foot_width) - left + _MARGIN
        height = self.foot - top + _MARGIN
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
            f'viewBox="{_n(left)} {_n(top)} {_n(width)} {_n(height)}" '
            f'font-family="{style.FONT}, Helvetica, sans-serif">'
        )
        ground = f'<rect x="{_n(left)}" y="{_n(top)}" width="{_n(width)}" height="{_n(height)}" fill="#FFFFFF"/>'
        title = f"<title>{words.escaped(self.view.caption[0])}</title>"
        return "\n".join([head, title, ground, *body, *foot, "</svg>"]) + "\n"

    # --- Around the nodes ---

    def _frames(self) -> Iterator[str]:
        for frame in self.places.frames:
            colour = style.PARAMETER[1] if frame.kind == "parameters" else style.FAINT
            look = f'fill="none" stroke="{colour}" stroke-dasharray="4 3"' if frame.kind == "parameters" else (
                'fill="#FAFBFC" stroke="#CBD2D9"'
            )  # fmt: skip
            yield _rect(frame.box, look, 6)
            yield _words(frame.title, frame.box.x + 8.0, frame.box.y + 12.5, 11.0, colour, anchor="start")

    def _axis(self) -> Iterator[str]:
        before: float | None = None
        nets = [band.net for band in self.places.grid.bands]
        for i, (x, y, text) in enumerate(self.places.axis):
            before = before if i and nets[i] == nets[i - 1] else None
            several = text.split("\n")
            for k, line in enumerate(several):
                yield _words(line, x, y + 14.0 + 13.0 * k, 12.0 if not k else 10.0, style.FAINT)
            half = letters(several[0], 12.0) / 2 + 6.0
            if before is not None and x - half - before > 4.0:
                yield _path(
                    f"M{_n(before)} {_n(y + 10)}H{_n(x - half)}", style.RULE, 1.0, arrow=(x - half, y + 10, 1, 0)
                )
            before = x + half

    def _caption(self) -> Iterator[str]:
        axis = [y + 13.0 * text.count("\n") for _, y, text in self.places.axis]
        y, x = max([self.places.height, *axis]) + 44.0, 0.0
        first, *rest = self.view.caption
        yield _words(first, x, y, 15.0, style.INK, strong=True, anchor="start")
        self.foot_width, y = letters(first, 15.0) * 1.06, y + 20.0
        legend = self.view.legend()
        for colour, text, dashed in legend:
            look = ' stroke-dasharray="4 3"' if dashed else ""
            yield _path(f"M{_n(x)} {_n(y - 4)}h22", colour, 2.2, look, arrow=(x + 26, y - 4, 1, 0))
            yield _words(text, x + 32.0, y, 12.0, style.INK, anchor="start")
            x += letters(text, 12.0) + 56.0
        self.foot_width = max(self.foot_width, x)
        y += 18.0 if legend else 0.0
        if self.view.scale is not None:
            yield from self._scale(self.view.scale, y)
            y += 22.0
        for line in rest:
            yield _words(line, 0.0, y, 10.0, style.FAINT, anchor="start")
            self.foot_width, y = max(self.foot_width, letters(line, 10.0)), y + 14.0
        self.foot = y

    def _scale(self, scale: Scale, y: float) -> Iterator[str]:
        yield _words(scale.title, 0.0, y, 12.0, style.INK, anchor="start")
        x = letters(scale.title, 12.0) + 14.0
        for colour, text in scale.marks():
            yield _rect(Box(x, y - 11.0, 34.0, 15.0), f'fill="{colour}"', 0)
            yield _words(text, x + 17.0, y, 9.0, "#FFFFFF" if is_dark(colour) else style.INK)
            x += 34.0
        self.foot_width = max(self.foot_width, x)

    # --- Nodes ---

    def _nodes(self) -> Iterator[str]:
        for node in self.graph.nodes:
            box = self.places.boxes.get(node.id)
            if box is None:
                continue
            (fill, line), (ink, faint) = self.view.paint(node), self.view.ink(node)
            several = words.lines(node, self.view.trouble(node))
            if node.kind == "parameter":
                several = words.parameter_lines(node, self.view.uses.get(node.id, 0))
            yield f"<g id={quoteattr(style.clean(node.id))}><title>{words.escaped(words.tooltip(node))}</title>"
            if node.kind != "ellipsis":
                dashes = "" if node.trains and not node.derivative else ' stroke-dasharray="4 3"'
                yield _rect(box, f'fill="{fill}" stroke="{line}" stroke-width="1.2"{dashes}', 5)
            y = box.y + (box.height - sum(size + 3.0 for _, size, _ in several)) / 2
            for text, size, strong in several:
                y += size + 3.0
                yield _words(text, box.middle[0], y - 4.0, size, ink if size > 10.0 else faint, strong)
            yield "</g>"
        for id, parameters in self.places.chips.items():
            yield from self._chip(id, self.places.boxes[f"chip {id}"], parameters)

    def _chip(self, id: str, box: Box, parameters: list[Node]) -> Iterator[str]:
        fill, line = style.PARAMETER
        names = ", ".join(parameter.name for parameter in parameters)
        hint = words.escaped(self.view.same(names, parameters))
        yield f'<g class="chip"><title>{hint}</title>'
        yield _rect(box, f'fill="{fill}" stroke="{line}" stroke-dasharray="3 2"', 4)
        y = box.y + 4.0
        for text in words.chip_lines(parameters, self.view.short):
            y += CHIP + 2.0
            yield _words(text, box.middle[0], y - 2.0, CHIP, line)
        yield "</g>"
        node = self.places.boxes[id]
        if box.y > node.y + node.height:
            way = _n(min(max(node.middle[0], box.x + 12.0), box.x + box.width - 12.0))
            yield _path(f"M{way} {_n(box.y)}V{_n(node.y + node.height)}", line, 0.9, ' stroke-dasharray="3 2"')
            return
        start, end = (box.x + box.width, node.x) if box.x < node.x else (box.x, node.x + node.width)
        yield _path(
            f"M{_n(start)} {_n(box.middle[1])}L{_n(end)} {_n(node.middle[1])}", line, 0.9, ' stroke-dasharray="3 2"'
        )

    # --- Edges ---

    def _edges(self) -> Iterator[str]:
        together: dict[tuple[str, str], list[Edge]] = {}
        for edge in self.graph.edges:
            ends = self.places.boxes.get(edge.source), self.places.boxes.get(edge.target)
            if ends[0] is None or ends[1] is None:
                continue
            if edge.kind == "data":
                yield from self._data(edge, ends[0], ends[1])
            elif edge.kind == "recurrent":
                together.setdefault((edge.source, edge.target), []).append(edge)
            elif self.view.params == "once":
                yield from self._once(ends[0], ends[1])
        for (source, target), edges in together.items():
            for i, edge in enumerate(edges):
                yield from self._state(
                    edge, self.places.boxes[source], self.places.boxes[target], 4.0 * i - 2.0 * (len(edges) - 1)
                )

    def _data(self, edge: Edge, source: Box, target: Box) -> Iterator[str]:
        (x, _), (to_x, _) = source.middle, target.middle
        hint = f"<title>×{edge.times}</title>" if edge.times > 1 else ""
        columns, top = self.places.columns, self.places.tops.get(edge.source, -math.inf)
        if target.y + target.height <= top and columns.get(edge.target) != columns[edge.source]:
            left, right = columns[edge.source]
            aside = right + 22.0 if to_x >= x else left - 22.0  # past the layers above
            y, to_y = source.y, target.y + target.height
            yield _path(
                f"M{_n(x)} {_n(y)}C{_n(x)} {_n(y - 16)} {_n(aside)} {_n(y - 6)} {_n(aside)} {_n(y - 26)}V{_n(top)}"
                f"C{_n(aside)} {_n(top - 30)} {_n(to_x)} {_n(to_y + 35)} {_n(to_x)} {_n(to_y + 5)}",
                style.RULE, 1.1, arrow=(to_x, to_y, 0, -1), hint=hint,
            )  # fmt: skip
        elif (beside := self.places.around(edge)) is not None:
            y, to_y = source.y, target.y + target.height
            yield _path(
                f"M{_n(x)} {_n(y)}C{_n(x)} {_n(y - 12)} {_n(beside)} {_n(y - 4)} {_n(beside)} {_n(y - 18)}"
                f"V{_n(to_y + 20)}"
                f"C{_n(beside)} {_n(to_y + 8)} {_n(to_x)} {_n(to_y + 18)} {_n(to_x)} {_n(to_y + 5)}",
                style.RULE, 1.1, arrow=(to_x, to_y, 0, -1), hint=hint,
            )  # fmt: skip
        elif source.y >= target.y + target.height:  # up, as most go
            y, to_y = source.y, target.y + target.height
            bend = min((y - to_y) / 2, 40.0)
            yield _path(
                f"M{_n(x)} {_n(y)}C{_n(x)} {_n(y - bend)} {_n(to_x)} {_n(to_y + 5 + bend)} {_n(to_x)} {_n(to_y + 5)}",
                style.RULE, 1.1, arrow=(to_x, to_y, 0, -1), hint=hint,
            )  # fmt: skip
        else:
            right = to_x > x
            start = source.x + source.width if right else source.x
            end = target.x if right else target.x + target.width
            way = 5.0 if right else -5.0
            yield _path(
                f"M{_n(start)} {_n(source.middle[1])}L{_n(end - way)} {_n(target.middle[1])}", style.RULE, 1.1,
                arrow=(end, target.middle[1], 1 if right else -1, 0), hint=hint,
            )  # fmt: skip
        if edge.times > 1 and any(self.graph[end].kind == "ellipsis" for end in (edge.source, edge.target)):
            yield _words(f"×{edge.times}", x + 14.0, source.y - 7.0, 10.0, style.FAINT)

    def _once(self, source: Box, target: Box) -> Iterator[str]:
        (x, y), (to_x, to_y) = source.middle, target.middle
        yield _path(f"M{_n(x)} {_n(y)}L{_n(to_x)} {_n(to_y)}", style.PARAMETER[1], 0.8, ' stroke-dasharray="4 3"')

    def _state(self, edge: Edge, source: Box, target: Box, aside: float) -> Iterator[str]:
        colour, width = self.view.edge(edge)
        back = self.graph[edge.target].leftward
        hint = f"<title>{words.escaped(edge.name)} state</title>"
        if edge.source == edge.target:
            x, y = source.x + source.width, source.middle[1] + aside
            yield _path(
                f"M{_n(x)} {_n(y - 6)}C{_n(x + 34)} {_n(y - 22)} {_n(x + 34)} {_n(y + 22)} {_n(x + 6)} {_n(y + 6)}",
                colour, width, arrow=(x, y + 5, -1, 0), hint=hint,
            )  # fmt: skip
            if aside <= 0.0:  # once for all of them
                yield _words("every step", x + 60.0, source.middle[1] + 4.0, 10.0, style.FAINT)
            return
        way = -1 if back else 1
        start = source.x if back else source.x + source.width
        end = target.x + target.width if back else target.x
        y, to_y = source.middle[1] + aside, target.middle[1] + aside
        tip = end - 6.0 * way
        leave = self.places.columns.get(edge.source, (start, start))[0 if back else 1]
        enter = self.places.columns.get(edge.target, (tip, tip))[1 if back else 0]
        leave, enter = (min(leave, start), max(enter, tip)) if back else (max(leave, start), min(enter, tip))
        bend = (enter - leave) / 2  # from row to row it goes between the columns
        yield _path(
            f"M{_n(start)} {_n(y)}H{_n(leave)}C{_n(leave + bend)} {_n(y)} {_n(enter - bend)} {_n(to_y)} "
            f"{_n(enter)} {_n(to_y)}H{_n(tip)}",
            colour, width, arrow=(end, to_y, way, 0), hint=hint,
        )  # fmt: skip


def _n(number: float) -> str:
    """A number of points, to a tenth."""
    return f"{round(number, 1) + 0.0:.1f}".removesuffix(".0")  # + 0.0 makes a -0.0 a 0.0


def _rect(box: Box, look: str, radius: int) -> str:
    size = f'width="{_n(box.width)}" height="{_n(box.height)}"'
    return f'<rect x="{_n(box.x)}" y="{_n(box.y)}" {size} rx="{radius}" {look}/>'


def _words(
    text: str, x: float, y: float, size: float, colour: str, strong: bool = False, anchor: str = "middle"
) -> str:
    weight = ' font-weight="bold"' if strong else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{colour}" text-anchor="{anchor}"{weight} '
        f'xml:space="preserve">{words.escaped(text)}</text>'
    )


def _path(
    course: str,
    colour: str,
    width: float,
    look: str = "",
    arrow: tuple[float, float, int, int] | None = None,
    hint: str = "",
) -> str:
    """A line, and the head of an arrow whose tip is at (x, y), in one of four directions."""
    line = f'<path d="{course}" fill="none" stroke="{colour}" stroke-width="{_n(width)}"{look}'
    line += f">{hint}</path>" if hint else "/>"
    if arrow is None:
        return line
    x, y, right, down = arrow
    size, half = 5.5 + width, 2.2 + width / 2
    ends = [(x - size * right + half * down, y - size * down + half * right)]
    ends.append((x - size * right - half * down, y - size * down - half * right))
    (a, b), (c, d) = ends
    return line + f'<path d="M{_n(x)} {_n(y)}L{_n(a)} {_n(b)}L{_n(c)} {_n(d)}Z" fill="{colour}"/>'
