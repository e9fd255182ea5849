"""A flow as a picture, a page and a table: matplotlib draws the curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from ..errors import ArgumentError, MissingError
from . import style, words
from .flow import Flow

FORMATS = ("svg", "png", "html", "csv")

#: What is less has all but vanished, what is more exploded: nothing is drawn of it.
_LEAST, _MOST = 1e-30, 1e100


def to_bytes(flows: Mapping[str, Flow], format: str) -> bytes:
    """Flows by name as a file's content: svg, png, html or csv.

    Raises:
        ArgumentError: for another format.
        MissingError: where matplotlib is needed and missing.
    """
    if format == "csv":
        return to_csv(flows).encode()
    if format == "html":
        return to_html(flows).encode()
    if format in ("svg", "png"):
        return _drawn(flows, format)
    raise ArgumentError("flow: no such format", expected=" | ".join(FORMATS), got=repr(format))


def to_csv(flows: Mapping[str, Flow]) -> str:
    """A row for each net and step."""
    rows = [{"net": name, **row} for name, flow in flows.items() for row in flow.rows()]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    made = io.StringIO()
    writer = csv.DictWriter(made, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


def summary(flows: Mapping[str, Flow]) -> list[tuple[str, ...]]:
    """A table of a few numbers: a head, and a row for each net."""
    rows: list[tuple[str, ...]] = [
        (
            "net",
            "steps",
            "gradient at the first step / at the last",
            "each step back leaves",
            "largest Lyapunov exponent",
        )
    ]
    for name, flow in flows.items():
        norms = _largest_part(flow)
        ratio = norms[0] / norms[-1] if norms[-1] > 0.0 else float("nan")
        left = ratio ** (1.0 / max(flow.steps - 1, 1)) if ratio > 0.0 else ratio
        rows.append((name, str(flow.steps), f"{ratio:.3g}", f"{left:.3f}", f"{flow.exponents[0]:+.3f}"))
    return rows


def _largest_part(flow: Flow) -> Any:
    """The norm of the gradient of the whole state, step by step."""
    return np.hypot.reduce([flow.norms(part) for part in flow.parts])


def figure(flows: Mapping[str, Flow]) -> Any:
    """A matplotlib figure: a row for each net; the gradient over time, the matrix, the shares, the singular values."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        need = "flow: pictures need matplotlib, which is not installed: pip install tinygrad_rnn[plot]"
        raise MissingError(f"{need} (csv needs nothing)") from None
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        made = Figure(figsize=(15.0, 3.5 * len(flows)), layout="constrained")
        axes = made.subplots(len(flows), 4, squeeze=False)
        low, high = _range(flows)
        for row, (name, flow) in zip(axes, flows.items()):
            _over_time(row[0], name, flow, low, high)
            made.colorbar(_matrix(row[1], flow), ax=row[1], shrink=0.9, label="log10 of the norm")
            _shares(row[2], flow)
            _singular(row[3], flow)
    return made


def _range(flows: Mapping[str, Flow]) -> tuple[float, float]:
    """One scale for all: of the gradients over time."""
    found = [norm for flow in flows.values() for part in flow.parts for norm in flow.norms(part)]
    found = [norm for norm in found if _LEAST < norm < _MOST]
    return (min(found, default=1.0) / 2, max(found, default=1.0) * 2)


def _over_time(axis: Any, name: str, flow: Flow, low: float, high: float) -> None:
    steps = np.arange(1, flow.steps + 1)
    for part in flow.parts:
        colour = style.states([part])[part]
        direct, gated = flow.through(part)
        axis.semilogy(steps, _seen(flow.norms(part)), color=colour, label=f"dL/d {part}", linewidth=2)
        for values, look, label in ((direct, "--", "directly"), (gated, ":", "through gates")):
            if gated.any() and np.count_nonzero(values > _LEAST) > 1:  # of a single step there is no line
                axis.semilogy(steps, _seen(values), color=colour, linestyle=look, label=label, linewidth=1)
    axis.set(title=f"{name}: norm of the gradient", xlabel="step", ylim=(max(low, _LEAST), high))
    axis.legend(fontsize=7, loc="lower right")


def _seen(norms: Any) -> Any:
    """What is 0, or next to it, or all but infinite has no place on a scale of powers."""
    return np.where((norms > _LEAST) & (norms < _MOST), norms, np.nan)


def _matrix(axis: Any, flow: Flow) -> Any:
    matrix = flow.matrix(next(iter(flow.parts)))
    shown = np.log10(np.clip(matrix, _LEAST, _MOST))
    shown[np.triu_indices(flow.steps, 1)] = np.nan
    ends = (0.5, flow.steps + 0.5)
    least = max(float(np.nanmin(shown)), float(np.nanmax(shown)) - 12.0)
    image = axis.imshow(shown, origin="lower", extent=(*ends, *ends), cmap="YlGnBu", vmin=least, aspect="auto")
    axis.set(title="norm of dL_t / dh_k", xlabel="k: state after step", ylabel="t: loss of step")
    return image


def _shares(axis: Any, flow: Flow) -> None:
    steps = np.arange(1, flow.steps + 1)
    for i, (name, share) in enumerate(flow.shares.items()):
        colour = (*style.STATES.values(), *style.OTHERS)[i % (len(style.STATES) + len(style.OTHERS))]
        axis.semilogy(steps, _seen(share), label=name, color=colour, linestyle=("-", "--")[i // 5 % 2])
    seen = [norm for share in flow.shares.values() for norm in share if _LEAST < norm < _MOST] or [1.0]
    ends = (max(min(seen) / 2, max(seen) * 1e-12), max(seen) * 2)
    axis.set(title="each step's part of dL / dW", xlabel="step", ylim=ends)
    axis.legend(fontsize=7, loc="lower right")


def _singular(axis: Any, flow: Flow) -> None:
    last = flow.steps - 1
    chosen = sorted({int(k) for k in np.linspace(0, last, min(flow.steps, 40))})
    part = next(iter(flow.parts))
    values = np.array([flow.singular_values(last, k, part).mean(0) for k in chosen])
    for column, look in ((0, "-"), (values.shape[1] // 2, "--"), (values.shape[1] - 1, ":")):
        label = {"-": "largest", "--": "median", ":": "smallest"}[look]
        axis.semilogy(np.array(chosen) + 1, _seen(values[:, column]), look, color=style.INK, label=label)
    exponents = f"exponents from {flow.exponents[0]:+.2f} to {flow.exponents[-1]:+.2f}"
    axis.set(title="singular values of dh_T / dh_k", xlabel=f"k; {exponents}")
    axis.legend(fontsize=7, loc="lower right")


def _drawn(flows: Mapping[str, Flow], format: str) -> bytes:
    made, content = figure(flows), io.BytesIO()
    plain = {"Date": None} if format == "svg" else {"Software": None}
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "flow"}):  # the same picture, the same file
        made.savefig(content, format=format, dpi=110, metadata=plain)
    return content.getvalue()


def to_html(flows: Mapping[str, Flow]) -> str:
    """A page of one file: the picture, what it shows, and the numbers as a table."""
    svg = _drawn(flows, "svg").decode()
    svg = svg[svg.index("<svg") :]
    head, *rows = summary(flows)
    cells = "".join(f"<th scope='col'>{words.escaped(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{words.escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)
    css = (files(__package__) / "page" / "page.css").read_text(encoding="utf-8")
    title = "How gradients flow back: " + ", ".join(flows)
    look = f"""{css}
main {{ padding: 0 16px 24px; max-width: 1500px; margin: auto; }}
.drawn {{ background: #ffffff; border-radius: 6px; overflow-x: auto; }}
.drawn svg {{ display: block; width: 100%; min-width: 900px; height: auto; }}"""
    body = f"""<main>
<h1>{words.escaped(title)}</h1>
<div class="table"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>
<figure class="drawn">{svg}</figure>
<p><b>Norm of the gradient.</b> How much the loss changes with the state after each step; dashed, what reaches it
directly from state to state with every gate as it is; dotted, what reaches it through the gates. <b>dL_t / dh_k.</b>
The loss of step t (upward) and the state after step k (to the right): dark is strong. A band along the diagonal is a
short memory. <b>Parts of dL / dW.</b> What each step adds to the gradient of the weights, which are the same at every
step. <b>Singular values.</b> How a small change of the state after step k grows or shrinks until the end; an exponent
below 0 shrinks, above 0 grows, by its power of e at each step.</p>
</main>"""
    return words.document(title, look, body)
