"""Data: text as numbers, and streams of it; files from the network."""

from .download import cached
from .text import Streams, Vocabulary, bundled_text, read_text

__all__ = ["Streams", "Vocabulary", "bundled_text", "cached", "read_text"]
