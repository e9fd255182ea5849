"""Out of memory: the error tells what the tape holds, and what to do about it."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.autograd.memory import holdings, readable
from tinygrad_rnn.errors import OutOfMemoryError
from tinygrad_rnn.ops.declare import Array, opaque

HUGE = (1 << 22, 1 << 22)  # 128 TB of float64, which no machine has: refused at once


def leaf(*shape, dtype="float64"):
    return tg.tensor(np.ones(shape, dtype), requires_grad=True)


def test_what_a_graph_holds():
    x = leaf(1000)
    y = tg.exp(x)  # keeps its result
    z = y[:500] * y[500:]  # keeps two views of it
    w = tg.sin(z).named("gate")  # keeps z
    found = holdings(w.node.ancestors())
    assert found.nodes == 6
    assert found.bytes == 8000 + 4000
    assert [(h.name, h.nodes, h.bytes) for h in found.holders] == [("exp", 1, 8000), ("sin (gate)", 1, 4000)]
    assert str(found) == "6 nodes holding 12 kB: exp 8 kB in 1 node, sin (gate) 4 kB in 1 node"
    w.sum().backward()
    assert holdings(w.node.ancestors()).bytes == 0


def test_numbers_of_bytes():
    assert [readable(n) for n in (0, 999, 1000, 123_456, 5e9, 7e15)] == [
        "0 bytes", "999 bytes", "1 kB", "123 kB", "5 GB", "7e+06 GB"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["one", "two", "number", "whole"])
def test_forward(kind):
    x = leaf(1000)
    y = tg.exp(x).named("big")
    wide = (y.sum() * tg.ones(1, 1, dtype="float64")).broadcast_to(HUGE)
    run = {
        "one": lambda: tg.tanh(wide),
        "two": lambda: wide * wide,
        "number": lambda: wide * 2.0,
        "whole": lambda: tg.concat([wide, wide]),
    }[kind]
    with pytest.raises(OutOfMemoryError) as caught:
        run()
    message = str(caught.value)
    assert "out of memory (Unable to allocate" in message
    assert "exp (big) 8 kB in 1 node" in message
    for advice in ("smaller batch", "tg.checkpoint", "tg.no_grad()", "float32"):
        assert advice in message
    assert isinstance(caught.value, MemoryError)


def test_graphs_that_somebody_keeps_are_found():
    gc.collect()
    losses = []
    for _ in range(3):
        losses.append(tg.exp(leaf(10_000)).sum())
    with pytest.raises(OutOfMemoryError) as caught:
        tg.tanh(tg.ones(1, 1).broadcast_to(HUGE))
    message = str(caught.value)
    assert "other graphs still alive: " in message
    assert "exp 240 kB in 3 nodes" in message
    assert "loss.item()" in message


def test_backward_and_recurrent_layers():
    def declared(vjp):
        @opaque()
        def greedy(x: Array):
            """X, whose gradient no machine can hold."""
            return x * 1.0

        greedy.vjp("x")(vjp)
        return greedy

    def no_room(g):
        raise MemoryError

    for vjp, says in (
        (lambda g: tg.tanh(g.sum().reshape(1, 1).broadcast_to(HUGE)), r"\(Unable to allocate.*, in tanh\)"),
        (no_room, r"\(no room\)"),
    ):
        with pytest.raises(OutOfMemoryError, match=rf"backward: out of memory {says}[\s\S]*exp 24 bytes in 1 node"):
            declared(vjp)(tg.exp(leaf(3))).sum().backward()

    class Greedy(nn.Cell):
        def __init__(self):
            self.input_size = self.hidden_size = 2

        def step(self, x, state):
            return tg.tanh(x.sum().reshape(1, 1).broadcast_to(HUGE)), state

    with pytest.raises(OutOfMemoryError, match="in Greedy layer 0 step 0"):
        nn.Recurrent(Greedy())(leaf(3, 1, 2), tg.zeros(1, 2, dtype="float64"))
