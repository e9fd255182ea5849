"""How a drawn step is run: sizes, layouts of memory, kinds of layers, what a loss takes of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import tinygrad_rnn as tg

#: How a tensor lies in memory.
LAYOUTS = (
    "plain", "plain", "plain", "reversed", "flipped", "transposed", "strided", "broadcast", "Fortran", "read-only",
    "part of a larger one", "unaligned", "stride 0", "reversed array", "array",
)  # fmt: skip

WAYS = ("Recurrent", "Recurrent", "Recurrent", "Stacked", "Bidirectional")


@dataclass(frozen=True)
class Circumstance:
    """One call of a step over time, and what is done with what it returns."""

    seed: int
    steps: int
    batch: int
    way: str = "Recurrent"
    reverse: bool = False
    batch_first: bool = False
    lengths: tuple[int, ...] | None = None
    checkpoint: Any = None
    layout: str = "plain"
    state_layout: str = "plain"
    seed_layout: str = "plain"
    state: str = "zeros"  # or "given", or "learned"
    x_learned: bool = True
    used: str = "all"  # or "outputs", "state", "first", "last"
    graph: str = "gradient"  # or "second", "none", "no_grad"
    record: bool = False
    dtype: str = "float64"

    def __str__(self) -> str:
        plain = Circumstance(self.seed, self.steps, self.batch)
        said = [f"{name}={value!r}" for name, value in vars(self).items() if value != getattr(plain, name)]
        return ", ".join([f"T={self.steps}", f"B={self.batch}", *said])


def lengths_of(chance: random.Random, steps: int, batch: int) -> tuple[int, ...]:
    """Lengths of rows, among them 0, or all the same."""
    if chance.random() < 0.2:
        return (chance.randint(0, steps),) * batch
    return tuple(chance.choice((0, steps, chance.randint(0, steps))) for _ in range(batch))


def first_circumstance(chance: random.Random, is_cell: bool, batch: int | None, dtype: str) -> Circumstance:
    """How a structure is run unless something else is said."""
    made = Circumstance(
        chance.randrange(10**6), chance.choice((8, 9, 12, 12, 20)), batch or chance.choice((1, 2, 3, 5)), dtype=dtype,
        way=chance.choice(WAYS), state=chance.choice(("zeros", "given", "learned", "learned")),
        x_learned=chance.random() < 0.7, graph=chance.choices(("gradient", "second", "none", "no_grad"), (8, 2,
        1, 1))[0],
        used=chance.choice(("all", "all", "outputs", "state", "first", "last")), reverse=chance.random() < 0.2,
    )  # fmt: skip
    if is_cell:
        made = replace(made, batch_first=chance.random() < 0.2, record=chance.random() < 0.1)
        if chance.random() < 0.2:
            made = replace(made, lengths=lengths_of(chance, made.steps, made.batch))
    if made.way != "Recurrent" or not is_cell:
        made = replace(made, reverse=made.reverse and not is_cell)
    if chance.random() < 0.15:
        made = replace(made, checkpoint=chance.choice((1, 3, 5, "sqrt")))
    return made


def varied(chance: random.Random, now: Circumstance, is_cell: bool, fixed: bool) -> Circumstance:
    """The same with something else: mostly what needs no other kernel."""
    kind = chance.choices(
        (
            "numbers",
            "steps",
            "batch",
            "layout",
            "state layout",
            "seeds",
            "used",
            "lengths",
            "graph",
            "x",
            "checkpoint",
            "dtype",
        ),
        (2, 4, 3, 6, 3, 3, 2, 2, 2, 1, 1, 0.3),
    )[0]
    new = replace(now, seed=chance.randrange(10**6))
    if kind == "steps":
        new = replace(new, steps=chance.choice((1, 2, 7, 8, 9, 12, 20)))
    elif kind == "batch" and not fixed:
        new = replace(new, batch=chance.choice((1, 2, 3, 5)))
    elif kind == "layout":
        new = replace(new, layout=chance.choice(LAYOUTS))
    elif kind == "state layout" and now.state != "zeros":
        new = replace(new, state_layout=chance.choice(LAYOUTS))
    elif kind == "seeds":
        new = replace(new, seed_layout=chance.choice(LAYOUTS))
    elif kind == "used":
        new = replace(new, used=chance.choice(("all", "outputs", "state", "first", "last")))
    elif kind == "graph":
        new = replace(new, graph=chance.choice(("gradient", "second", "none", "no_grad")))
    elif kind == "x":
        new = replace(new, x_learned=not now.x_learned)
    elif kind == "checkpoint":
        new = replace(new, checkpoint=chance.choice((None, 1, 3, "sqrt")))
    elif kind == "dtype":
        new = replace(new, dtype="float32" if now.dtype == "float64" else "float64")
    if now.lengths is not None or (kind == "lengths" and is_cell):
        new = replace(new, lengths=lengths_of(chance, new.steps, new.batch))
    return new


def laid(a: np.ndarray[Any, Any], layout: str, learned: bool) -> tuple[Any, Any]:
    """An array as a tensor that lies so, and the leaf that it is made of."""

    def leaf(array: Any, shared: bool = False) -> Any:
        made = tg.from_numpy(array) if shared else tg.tensor(array)
        made.requires_grad = learned
        return made

    if layout == "reversed":
        made = leaf(a[::-1])
        return made[::-1], made
    if layout == "flipped":
        made = leaf(a[..., ::-1])
        return tg.flip(made, axis=-1), made
    if layout == "transposed":
        made = leaf(np.swapaxes(a, 0, 1))
        return tg.permute_dims(made, (1, 0, *range(2, a.ndim))), made
    if layout == "strided":
        made = leaf(np.repeat(a, 2, axis=0))
        return made[::2], made
    if layout == "broadcast":
        made = leaf(a[:1])
        return made.broadcast_to(a.shape), made
    if layout == "part of a larger one":
        made = leaf(np.pad(a, 1))
        return made[(slice(1, -1),) * a.ndim], made
    if layout == "Fortran":
        made = leaf(np.asfortranarray(a), shared=True)
    elif layout == "read-only":
        still = a.copy()
        still.setflags(write=False)
        made = leaf(still, shared=True)
    elif layout == "unaligned":
        memory = np.frombuffer(b"x" + a.tobytes(), dtype=a.dtype, count=a.size, offset=1)
        made = leaf(memory.reshape(a.shape), shared=True)
    elif layout == "stride 0":
        made = leaf(np.broadcast_to(a[:1], a.shape), shared=True)
    elif layout == "reversed array":
        made = leaf(a[::-1], shared=True)
    elif layout == "array" and not learned:
        return a, None
    else:
        made = leaf(a)
    return made, made
