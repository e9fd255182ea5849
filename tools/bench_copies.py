"""One's own copies of the LSTM's equations, in several ways of writing them: each should cost what the layer costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn


class _Own(nn.Cell):
    b: Any
    d: Any
    u: Any
    w: Any

    def __init__(self, size: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self.input_size = self.hidden_size = size
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(tg.rand(*shape) * (2 / size**0.5) - 1 / size**0.5))

    def initial_state(self, batch_size: int) -> Any:
        return self.zeros(batch_size, self.hidden_size), self.zeros(batch_size, self.hidden_size)


class Copied(_Own):
    """The same, gate by gate."""

    def __init__(self, size: int) -> None:
        super().__init__(size, {"w": (4 * size, size), "u": (4 * size, size), "b": (4 * size,), "d": (4 * size,)})

    def step(self, x: Any, state: Any) -> Any:
        h, c = state
        i, f, g, o = tg.split(tg.linear(x, self.w, self.b) + tg.linear(h, self.u, self.d), 4, -1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        h = tg.sigmoid(o) * tg.tanh(c)
        return h, (h, c)


class Reordered(Copied):
    """Other names, another order."""

    def step(self, x: Any, state: Any) -> Any:
        shown, memory = state
        write, show, keep, new = tg.split(tg.linear(shown, self.u, self.d) + tg.linear(x, self.w, self.b), 4, -1)
        memory = tg.tanh(new) * tg.sigmoid(write) + memory * tg.sigmoid(keep)
        shown = tg.tanh(memory) * tg.sigmoid(show)
        return shown, (shown, memory)


class Separate(_Own):
    """Weights of its own for each gate."""

    wi: Any
    wf: Any
    wg: Any
    wo: Any
    ui: Any
    uf: Any
    ug: Any
    uo: Any
    bi: Any
    bf: Any
    bg: Any
    bo: Any

    def __init__(self, size: int) -> None:
        shapes: dict[str, tuple[int, ...]] = {}
        for gate in "ifgo":
            shapes |= {f"w{gate}": (size, size), f"u{gate}": (size, size), f"b{gate}": (size,)}
        super().__init__(size, shapes)

    def step(self, x: Any, state: Any) -> Any:
        h, c = state
        i = tg.sigmoid(x @ self.wi + h @ self.ui + self.bi)
        f = tg.sigmoid(x @ self.wf + h @ self.uf + self.bf)
        g = tg.tanh(x @ self.wg + h @ self.ug + self.bg)
        o = tg.sigmoid(x @ self.wo + h @ self.uo + self.bo)
        c = f * c + i * g
        h = o * tg.tanh(c)
        return h, (h, c)


class Joined(_Own):
    """Input and state side by side, one matrix."""

    def __init__(self, size: int) -> None:
        super().__init__(size, {"w": (2 * size, 4 * size), "b": (4 * size,)})

    def step(self, x: Any, state: Any) -> Any:
        h, c = state
        i, f, g, o = tg.split(tg.concat([x, h], -1) @ self.w + self.b, 4, -1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        h = tg.sigmoid(o) * tg.tanh(c)
        return h, (h, c)


def contestants(batch: int, steps: int, size: int) -> dict[str, Callable[[], Any]]:
    """A turn, forward and all gradients, for each way of writing and for the layer."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((steps, batch, size)).astype(np.float32) for _ in range(2)]
    layers = {kind.__name__.lower(): nn.Recurrent(kind(size)) for kind in (Copied, Reordered, Separate, Joined)}
    turns: dict[str, Callable[[], Any]] = {}
    for name, layer in {**layers, "layer": nn.LSTM(size, size)}.items():
        x, g = tg.tensor(arrays[0], requires_grad=True), tg.tensor(arrays[1])

        def turn(layer: Any = layer, x: Any = x, g: Any = g) -> None:
            x.grad = None
            layer.zero_grad()
            layer(x)[0].backward(g)

        turns[name] = turn
    return turns
