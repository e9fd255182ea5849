"""Text coloured by what a unit of a network does at each character (Karpathy, Johnson and Fei-Fei 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError
from . import words

#: From -1 over 0 to 1: blue, white, orange, which colour-blind readers tell apart.
_ENDS = ((0, 114, 178), (255, 255, 255), (213, 94, 0))


def text(characters: Sequence[str], values: Any, title: str = "") -> str:
    """A page (HTML, one file, nothing fetched) that shows a text with each character on the colour of its value.

    >>> import tinygrad_rnn as tg
    >>> page = tg.viz.text("abc", [-1.0, 0.0, 0.5], title="cell 7")
    >>> page.count("<span")
    3

    Args:
        characters: a string, or any pieces of text.
        values: as many numbers, such as `r["cell"][:, 0, 7]` of `tg.record`: blue below 0, orange above; the largest
            magnitude has the full colour. The number stands in the hint of each.
        title: what it is about.

    Raises:
        ArgumentError: where there are not as many numbers as characters.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (len(characters),):
        raise ArgumentError("text: a number for each character", expected=(len(characters),), got=numbers.shape)
    finite = np.abs(numbers[np.isfinite(numbers)])
    largest = float(finite.max(initial=0.0)) or 1.0
    spans = [
        f'<span style="background:{_colour(number / largest)}" title="{number:.4g}">{_shown(character)}</span>'
        for character, number in zip(characters, numbers)
    ]
    name = title or "values"
    bar = "".join(f'<i style="background:{_colour(part / 4)}">{part / 4 * largest:.2g}</i>' for part in range(-4, 5))
    look = """
body { margin: 16px auto; max-width: 900px; padding: 0 16px; font: 15px/1.6 Arial, Helvetica, sans-serif; }
pre { font: 15px/1.7 Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; color: #1F2933; }
i { display: inline-block; padding: 1px 7px; font-style: normal; font-size: 12px; color: #1F2933; }
* { print-color-adjust: exact; -webkit-print-color-adjust: exact; }"""
    body = f"""<h1>{words.escaped(name)}</h1>
<p>{bar}</p>
<pre>{"".join(spans)}</pre>"""
    return words.document(name, look, body)


def _shown(character: str) -> str:
    """The character; of a line's end a sign too, or its colour would not be seen."""
    return "⏎\n" if character == "\n" else words.escaped(character)


def _colour(part: float) -> str:
    if not np.isfinite(part):
        return "#D5008F"
    low, high = (_ENDS[1], _ENDS[2]) if part > 0.0 else (_ENDS[1], _ENDS[0])
    share = min(abs(part), 1.0) * 0.85  # dark letters stay readable
    mixed = (round(a + (b - a) * share) for a, b in zip(low, high))
    return "#" + "".join(f"{number:02X}" for number in mixed)
