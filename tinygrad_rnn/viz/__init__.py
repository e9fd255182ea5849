"""The drawing tools: the third reader of the tape. `graph` shows what ran, unrolled over time."""

from .measure import watch
from .picture import Picture, compare, graph

__all__ = ["Picture", "compare", "graph", "watch"]
