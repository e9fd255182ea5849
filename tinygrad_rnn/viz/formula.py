"""What a node computes, in terms of its neighbours' names: `forget gate × previous cell + input gate × candidate`."""

from __future__ import annotations

from ..ops.op import REGISTRY
from .nodes import Graph, Node

#: Deeper than this an expression is an ellipsis.
_DEPTH = 6

_INFIX = {"add": 1, "subtract": 1, "multiply": 2, "divide": 2, "matmul": 2}

UNKNOWN = "…"


def formula(graph: Graph, inside: set[str], output: Node) -> str:
    """The expression of `output` over what comes in from outside the set `inside`.

    Values without a name are left out; where nothing else is left, the op's symbol says it all.
    """
    text = _Writer(graph, inside, output).text
    if text == UNKNOWN:
        return output.symbol
    if UNKNOWN not in text:
        return text
    # A part that is named nowhere: say what it is made of, as long as it is of this step.
    near = {n.id for n in graph.nodes if n.kind == "op" and not n.label and n.step == output.step}
    return _Writer(graph, inside | near, output).text


class _Writer:
    def __init__(self, graph: Graph, inside: set[str], output: Node) -> None:
        self.nodes, self.inside, self.output = graph.by_id, inside, output
        self.text, _ = self.write(output, 0)

    def write(self, node: Node, depth: int) -> tuple[str, int]:
        """The text of a node inside, and how tightly it binds."""
        if depth > _DEPTH:
            return UNKNOWN, 9
        if node.kind == "op" and node.name in REGISTRY and REGISTRY[node.name].view:  # it computes nothing
            return self.operand(node.operands[0], depth)
        numbers = node.numbers or (None,) * len(node.operands)
        operands = [
            (number, 9) if number is not None else self.operand(id, depth + 1)
            for id, number in zip(node.operands, numbers)
            if not self.is_parameter(id)
        ]
        if all(text == UNKNOWN for text, _ in operands):
            return UNKNOWN, 9
        if node.name in _INFIX and len(operands) == 2:
            binds = _INFIX[node.name]
            (left, left_binds), (right, right_binds) = operands
            left = f"({left})" if left_binds < binds else left
            # a - (b + c) and a / (b * c) keep their brackets
            tight = right_binds < binds + (node.name in ("subtract", "divide"))
            return f"{left} {'−' if node.symbol == '-' else node.symbol} {f'({right})' if tight else right}", binds
        name = node.symbol if node.symbol.isalpha() else node.name
        return f"{name}({', '.join(text for text, _ in operands)})", 9

    def is_parameter(self, id: str | None) -> bool:
        return id is not None and self.nodes[id].kind == "parameter"

    def operand(self, id: str | None, depth: int) -> tuple[str, int]:
        if id is None:
            return "const", 9
        if id in self.inside:
            return self.write(self.nodes[id], depth)
        node = self.nodes[id]
        if node.kind == "input":
            return "x", 9
        if not node.label:
            return UNKNOWN, 9
        name = node.label.replace("_", " ")
        if node.layer != self.output.layer:
            return f"{name} below", 9
        return (f"previous {name}" if node.step != self.output.step else name), 9
