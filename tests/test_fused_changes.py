"""What changes between a fused run and its gradient is an error; what a run leaves on a layer stays with the layer."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from test_fused import tensor

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.errors import GraphError

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


@pytest.mark.parametrize("name", ["weight_hh", "bias_ih"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_frozen_parameter_that_was_written_to(name, create_graph):
    cell, x = tg.nn.GRUCell(4, 6, dtype="float64"), tensor(1, 9, 2, 4)
    getattr(cell, name).requires_grad = False
    y, _ = tg.nn.Recurrent(cell, engine="fused")(x)
    with tg.no_grad():
        getattr(cell, name).copy_(getattr(cell, name) * 2.0)
    with pytest.raises(GraphError, match="changed in place"):
        tg.grad((y * y).sum(), [x], create_graph=create_graph)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("checkpoint", "lengths"), [(None, None), (3, None), (None, [9, 0, 5])])
def test_a_step_that_does_something_else_when_it_is_differentiated_twice(checkpoint, reverse, lengths):
    cell, x = tg.nn.Zoneout(tg.nn.LSTMCell(4, 6, dtype="float64"), 0.5), tensor(1, 9, 3, 4)
    layer = tg.nn.Recurrent(cell, reverse=reverse, checkpoint=checkpoint, engine="fused")
    y, _ = layer(x, lengths=lengths)
    tg.grad((y * y).sum(), [x], create_graph=True, retain_graph=True)
    layer.eval()
    with pytest.raises(GraphError, match="something else the second time"):
        tg.grad((y * y).sum(), [x], create_graph=True)


def test_layers_that_ran_are_copied_and_pickled():
    layer, x = tg.nn.GRU(4, 6, engine="fused"), tg.randn(9, 2, 4)
    expected = layer(x)[0].numpy()
    for made in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(made(x)[0].numpy(), expected)
        with tg.no_grad():
            made.weight_hh_l0.copy_(made.weight_hh_l0 * 2.0)
        assert not np.array_equal(made(x)[0].numpy(), expected)
    assert np.array_equal(layer(x)[0].numpy(), expected)


def test_what_no_step_takes_gets_no_gradient():
    h, x = tensor(1, 2, 4), tensor(2, 9, 2, 4)
    for engine in ("fused", "eager"):
        carry, y = tg.scan(lambda h, x: (tg.tanh(x[0]), tg.sin(x[0])), h, (x, x * 2.0), engine=engine)
        assert tg.grad(carry.sum() + y.sum(), [h], allow_unused=True) == (None,)
