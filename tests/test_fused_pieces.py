"""Memory for time with compiled kernels: a sequence in pieces, each of them fused, and run again in backward."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from test_fused import CELLS, agree, both, tensor, weighted

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.autograd.pytree import leaves, map_leaves
from tinygrad_rnn.compiler import scan as scanning
from tinygrad_rnn.errors import FusionError, GraphError
from tinygrad_rnn.kernels.runtime import pool

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("checkpoint", [1, 4, "sqrt", 100])
@pytest.mark.parametrize("name", ["lstm", "gru before", "layer norm", "learned"])
def test_pieces_agree(name, checkpoint, reverse):
    """With the eager loop in one piece: values, and all gradients."""
    tg.manual_seed(0)
    cell, x = CELLS[name](4, 6, "float64"), tensor(1, 10, 3, 4)
    state = map_leaves(lambda part: tensor(2, *part.shape), cell.initial_state(3))

    def outputs(engine):
        pieces = checkpoint if engine == "fused" else None
        return tg.nn.Recurrent(cell, reverse=reverse, checkpoint=pieces, engine=engine)(x, state)

    both(outputs, [x, *leaves(state), *(p for n, p in cell.named_parameters() if not n.startswith("initial"))])


@pytest.mark.parametrize("around", [lambda cell: tg.nn.Zoneout(cell, 0.3), lambda cell: tg.nn.WeightDropout(cell, 0.4)])
def test_random_masks_are_the_same_again(around):
    tg.manual_seed(0)
    cell, x = around(CELLS["lstm"](4, 6, "float64")), tensor(1, 9, 3, 4)

    def outputs(engine):
        tg.manual_seed(5)
        return tg.nn.Recurrent(cell, checkpoint=3 if engine == "fused" else None, engine=engine)(x)

    both(outputs, [x, *cell.parameters()])


def test_second_derivatives_and_closures():
    w, made = tensor(3, 4, 4), []
    x, h = tensor(1, 9, 3, 4), tensor(2, 3, 4)
    for engine, pieces in (("fused", 4), ("eager", None)):
        carry, ys = tg.scan(lambda h, x: (tg.tanh(h @ w * 0.3 + x), tg.sin(h)), h, x, checkpoint=pieces, engine=engine)
        first = tg.grad(weighted((carry, ys)), [x, h, w], create_graph=True)
        made.append([*first, *tg.grad(sum((g * g).sum() for g in first), [x, h, w])])
    agree(*made)


def test_a_step_is_traced_once_for_all_pieces(monkeypatch):
    made, planned = [], scanning.Planned
    monkeypatch.setattr(scanning, "Planned", lambda *given: made.append(0) or planned(*given))
    w, x = tensor(3, 4, 4), tensor(1, 16, 3, 4)
    tg.scan(lambda h, x: (tg.tanh(h @ w + x), h), tensor(2, 3, 4), x, checkpoint=4)[0].sum().backward()
    assert len(made) == 1


def test_it_needs_less_memory():
    peaks = []
    x = tg.randn(1024, 4, 32, requires_grad=True)
    for checkpoint in (None, "sqrt"):
        layer = tg.nn.LSTM(32, 32, checkpoint=checkpoint, engine="fused")
        layer(x)[1][0].sum().backward()
        x.grad = None
        pool._free.clear()  # or what was used before would be used again, unseen
        tracemalloc.start()
        layer(x)[1][0].sum().backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.75 * peaks[0]  # what is left: outputs and the gradient of x


@pytest.mark.parametrize("what", ["parameter", "constant"])
def test_what_a_piece_reads_and_was_changed_is_an_error(what):
    """Also where the change shows in no value: the gate is closed."""
    w, m = tensor(3, 4, 4), tg.ones(4, dtype="float64")
    x, zero = tensor(1, 9, 3, 4), tg.zeros(3, 4, dtype="float64")
    carry, _ = tg.scan(lambda h, x: (h + 0.0 * (x @ w * m), h), zero, x, checkpoint=3, engine="fused")
    with tg.no_grad():
        (w if what == "parameter" else m)[0] = 7.0
    with pytest.raises(GraphError, match="changed"):
        carry.sum().backward()


def test_rows_of_different_lengths_are_left_eager():
    tg.manual_seed(0)
    cell, x = CELLS["gru"](4, 6, "float64"), tensor(1, 9, 3, 4)
    lengths = np.array([9, 2, 5])
    with pytest.raises(FusionError, match="rows end at different steps"):
        tg.nn.Recurrent(cell, checkpoint=3, engine="fused")(x, lengths=lengths)
    found = [tg.nn.Recurrent(cell, checkpoint=k)(x, lengths=lengths) for k in (3, None)]
    agree(*[list(leaves(one)) for one in found])
