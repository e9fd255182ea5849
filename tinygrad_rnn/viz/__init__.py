"""The drawing tools: the third reader of the tape. `graph` shows what ran, unrolled over time."""

from .picture import Picture, graph

__all__ = ["Picture", "graph"]
