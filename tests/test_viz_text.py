"""Text on the colours of values."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError


def test_each_character_has_its_number_and_its_colour():
    page = tg.viz.text("a<b\n&", [-2.0, 0.0, 1.0, 2.0, np.nan], title="unit <7>")
    spans = re.findall(r'<span style="background:(#\w{6})" title="([^"]*)">([^<]*)</span>', page)
    assert [number for _, number, _ in spans] == ["-2", "0", "1", "2", "nan"]
    assert [shown for _, _, shown in spans] == ["a", "&lt;", "b", "⏎\n", "&amp;"]
    colours = [colour for colour, _, _ in spans]
    assert colours[1] == "#FFFFFF" and colours[4] == "#D5008F" and len(set(colours)) == 5
    red = [int(colour[1:3], 16) - int(colour[5:7], 16) for colour in colours[:4]]
    assert red[0] < 0 == red[1] < red[2] < red[3]  # blue, white, orange and more so
    assert "unit &lt;7&gt;" in page and "http" not in page


def test_a_recorded_unit():
    lstm = tg.nn.LSTM(2, 3)
    with tg.record("cell") as r:
        lstm(tg.randn(10, 1, 2))
    page = tg.viz.text("0123456789", r["cell"][:, 0, 1])
    assert f'title="{float(r["cell"][4, 0, 1]):.4g}">4<' in page


def test_numbers_that_do_not_fit():
    for values in ([1.0], [[1.0, 2.0]], []):
        with pytest.raises(ArgumentError, match="a number for each character"):
            tg.viz.text("ab", values)
