"""What an article is made of: claims, each with what was tried, pictures, numbers and code; one page of HTML.

The words of a claim stand in a text file beside its code, with {names} where the run puts in what it found:

    # the title                > the claim                ! what was found
    a paragraph                {picture}                  (each a block, with empty lines between)
"""

from __future__ import annotations

import html
import inspect
import io
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from tinygrad_rnn import nn

HERE = Path(__file__).parent
CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
#: The three cells, and others, in colours that colour-blind readers can tell apart (Okabe and Ito 2008).
COLOURS = {"rnn": "#D55E00", "lstm": "#0072B2", "gru": "#009E73"}
OTHERS = ("#AA4499", "#8A6D00", "#56B4E9", "#616E7C", "#1F2933")
LOOK = {
    "font.size": 10, "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 10.5, "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8.5,
    "svg.fonttype": "none", "svg.hashsalt": "article", "text.color": "#1F2933", "axes.labelcolor": "#1F2933",
}  # fmt: skip
VERDICTS = {"holds": "so it is", "partly": "only in part", "not seen": "not seen here", "not run": "not run"}


@dataclass
class Claim:
    """A claim, and what came of it.

    Attributes:
        text: the name of its text file.
        verdict: a key of VERDICTS.
        found: what the text puts in, by name: words, numbers as words, HTML.
        numbers: for the table of claims, what was measured and its value.
        code: the functions and classes whose source made it.
        why: it was not run.
        seconds: how long it took.
    """

    text: str
    verdict: str = "not run"
    found: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    code: tuple = ()
    why: str = ""
    seconds: float = 0.0

    def blocks(self) -> list[str]:
        """Its text, filled in; of a claim that was not run the head, and why."""
        blocks = [block.replace("\n", " ") for block in (HERE / f"{self.text}.txt").read_text("utf-8").split("\n\n")]
        if self.verdict == "not run":
            return [*blocks[:2], f"! {html.escape(self.why)}"]
        return [block.strip().format(**self.found) for block in blocks]

    @property
    def said(self) -> str:
        """The claim, as texts have it."""
        return self.blocks()[1].removeprefix("> ")

    @property
    def words(self) -> str:
        """The verdict."""
        return VERDICTS[self.verdict]


# --- What the text puts in ---


def name_of(cell):
    """As texts write it."""
    return {"rnn": "simple RNN", "lstm": "LSTM", "gru": "GRU"}.get(cell, cell)


def colour_of(name, i=0):
    """A cell's colour, or the i-th of the others."""
    return COLOURS.get(name, OTHERS[i % len(OTHERS)])


def number(value, digits=2):
    """A number for people: 0.0023, 12, 9 × 10⁻²⁴."""
    if not np.isfinite(value):
        return str(value)
    if value == 0.0 or 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.{digits}g}'):g}"
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa} × 10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def table(head, rows):
    """A table: the first column is words, the others are numbers already written out."""
    cells = "".join(f"<th scope='col'>{html.escape(str(cell))}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='table'><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"


def panel(draw, title="", xlabel="", ylabel="", height=3.0):
    """A picture of one panel, as SVG: `draw(axis)` draws into it."""
    with mpl.rc_context(LOOK):
        made = Figure(figsize=(3.9, height), layout="constrained")
        axis = made.subplots()
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
        draw(axis)
        for scale in (axis.xaxis, axis.yaxis):
            if isinstance(scale.get_major_formatter(), LogFormatter):  # its own powers take twice as long to draw
                scale.set_major_formatter(lambda value, _: number(value, 1).removeprefix("1 × "))
        content = io.StringIO()
        made.savefig(content, format="svg", metadata={"Date": None})
    return inline(content.getvalue(), title)


def inline(svg, title):
    """An SVG file as a part of a page."""
    return svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def panels(*drawn, wide=False):
    """Pictures side by side where there is room. What there is to see in them, the text says after them."""
    parts = "".join(f"<div>{one}</div>" for one in drawn)
    return f"<figure class='{'wide' if wide else 'panels'}'>{parts}</figure>"


def framed(page, title, height=260):
    """A page inside the page."""
    return f'<iframe title="{html.escape(title)}" srcdoc="{html.escape(page)}" height="{height}"></iframe>'


def listed(words):
    """Words as a sentence lists them."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def spread(values, form=".3f"):
    """From the least to the largest, in brackets; nothing of one."""
    return f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""


def seeds_of(number):
    """How many seeds, in words."""
    return "one seed" if number == 1 else f"{number} seeds"


# --- The page ---


def mark(verdict):
    """A verdict as a badge."""
    return f"<span class='verdict {verdict.replace(' ', '-')}'>{VERDICTS[verdict]}</span>"


def block_of(block, claim):
    """A block of text as HTML."""
    if block.startswith("> "):
        return f"<blockquote>{block[2:]}</blockquote>"
    if block.startswith("! "):
        return f"<p class='answer'>{mark(claim.verdict)} {block[2:]}</p>"
    if block.startswith("~ "):
        return f"<p class='caption'>{block[2:]}</p>"
    return block if block.startswith(("<figure", "<div", "<iframe", "<pre")) else f"<p>{block}</p>"


def section_of(number, claim):
    """A claim as a section."""
    (title, *blocks) = claim.blocks()
    body = "".join(block_of(block, claim) for block in blocks)
    source = "\n\n\n".join(textwrap.dedent(inspect.getsource(one)).rstrip() for one in claim.code)
    if source:
        body += (
            f"<details><summary>the code that made it</summary><pre><code>{html.escape(source)}</code></pre></details>"
        )
    return f"<section id='claim-{number}'><h2><span>{number}</span> {title.removeprefix('# ')}</h2>{body}</section>"


def row_of(number, claim):
    """A claim as a row of the table of claims."""
    measured = "".join(
        f"<div>{html.escape(what)}: <b>{html.escape(value)}</b></div>" for what, value in claim.numbers.items()
    )
    said = f"<a href='#claim-{number}'>{claim.said}</a>"
    return f"<tr><td>{said}</td><td>{mark(claim.verdict)}</td><td>{measured}</td></tr>"


def page(claims, **about):
    """The article as one file of HTML, which fetches nothing."""
    title, *lead = (HERE / "article.txt").read_text("utf-8").strip().format(**about).split("\n\n")
    title, notes = title.removeprefix("# "), lead.pop()
    rows = "".join(row_of(i, claim) for i, claim in enumerate(claims, 1))
    body = "".join(section_of(i, claim) for i, claim in enumerate(claims, 1))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{(HERE / "article.css").read_text("utf-8")}</style></head><body><main>
<h1>{html.escape(title)}</h1>
{"".join(f"<p class='lead'>{part}</p>" for part in lead)}
<div class="table claims"><table><thead><tr><th>what one reads</th><th>what was found</th><th>measured</th></tr></thead>
<tbody>{rows}</tbody></table></div>
{body}
<footer>{notes}</footer>
</main></body></html>
"""
