"""Text as numbers, cut into parallel streams so that a recurrent state can be carried from chunk to chunk."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import ArgumentError, FileError


def bundled_text() -> str:
    """English text that every Python carries: its help topics, some 370,000 characters.

    Topics share passages. Each paragraph stands here once, so that what is held out was not learned.
    """
    from pydoc_data.topics import topics

    every = "\n\n".join(topics[name].strip("\n") for name in sorted(topics))
    return "\n\n".join(dict.fromkeys(every.split("\n\n")))


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file.

    Raises:
        FileError: where it is missing, empty, or not UTF-8 text.
    """
    name = os.fspath(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as trouble:
        raise FileError(f"{name}: not UTF-8 text (byte {trouble.start})") from None
    except OSError as trouble:
        raise FileError(f"{name}: cannot be read: {trouble.strerror}") from None
    if not text:
        raise FileError(f"{name}: the file is empty")
    return text


class Vocabulary:
    """The symbols of a text and their numbers, in the order of their code points.

    >>> vocabulary = Vocabulary("abracadabra")
    >>> vocabulary.encode("bad").tolist(), vocabulary.decode([1, 0, 3])
    ([1, 0, 3], 'bad')
    """

    def __init__(self, text: str) -> None:
        self.symbols = "".join(sorted(set(text)))
        self._number = {symbol: i for i, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray[Any, Any]:
        """The numbers (int64) of the text's symbols.

        Raises:
            ArgumentError: naming the symbols that are not known.
        """
        unknown = sorted(set(text) - self._number.keys())
        if unknown:
            raise ArgumentError(
                f"unknown symbol{'s' if len(unknown) > 1 else ''} {' '.join(map(repr, unknown[:10]))}",
                expected=f"the {len(self)} symbols of the training text",
            )
        return np.array([self._number[symbol] for symbol in text], np.int64)

    def decode(self, numbers: Any) -> str:
        """The text of numbers."""
        return "".join(self.symbols[int(i)] for i in numbers)


class Streams:
    """A long sequence as `batch` streams side by side, read in chunks of `steps`.

    Chunk i is (inputs, targets), each (steps, batch); a target is the symbol after its input. The next chunk goes on
    where it ends, in every stream, so the state after chunk i is the state before chunk i + 1.

    Raises:
        ArgumentError: where the sequence is too short for one chunk.
    """

    def __init__(self, numbers: np.ndarray[Any, Any], batch: int, steps: int) -> None:
        if batch < 1 or steps < 1:
            raise ArgumentError("Streams: at least one stream and one step", got=f"{batch=}, {steps=}")
        length = (len(numbers) - 1) // batch
        if length < steps:
            raise ArgumentError(
                "the text is too short",
                expected=f"at least {batch * steps + 1} symbols for {batch} streams of {steps} steps",
                got=len(numbers),
                hint="a smaller batch, fewer steps, or more text",
            )
        self.steps = steps
        self._inputs = numbers[: batch * length].reshape(batch, length).T
        self._targets = numbers[1 : batch * length + 1].reshape(batch, length).T

    def __len__(self) -> int:
        return len(self._inputs) // self.steps

    def __getitem__(self, i: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        if not 0 <= i < len(self):
            raise IndexError(f"chunk {i} of {len(self)}")
        here = slice(i * self.steps, (i + 1) * self.steps)
        return self._inputs[here], self._targets[here]
