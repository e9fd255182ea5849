"""The drawing tools: the third reader of the tape. `graph` shows what ran, unrolled over time."""

from .flow import Flow, flow
from .measure import watch
from .picture import Picture, compare, graph
from .text import text

__all__ = ["Flow", "Picture", "compare", "flow", "graph", "text", "watch"]
