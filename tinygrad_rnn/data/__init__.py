"""Data: text as numbers, and streams of it."""

from .text import Streams, Vocabulary, bundled_text, read_text

__all__ = ["Streams", "Vocabulary", "bundled_text", "read_text"]
