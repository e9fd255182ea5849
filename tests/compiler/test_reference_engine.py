"""The reference engine: the compiler's program on NumPy, beside the eager engine, nothing compiled."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings
from tinygrad_rnn.autograd.pytree import leaves
from tinygrad_rnn.errors import FusionError


def tensor(seed, *shape, grad=True):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape) * 0.5, requires_grad=grad)


def both(run, wanted):
    found = []
    for engine in ("eager", "reference"):
        tg.manual_seed(5)
        with tg.engine(engine):
            made = [y for y in leaves(run()) if y.dtype.kind == "f"]
        loss = sum((y * tg.tensor(np.cos(np.arange(y.size)).reshape(y.shape))).sum() for y in made if y.requires_grad)
        gradients = tg.grad(loss, wanted, allow_unused=True)
        found.append([*[y.numpy() for y in made], *[None if g is None else g.numpy() for g in gradients]])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.abs(a - b).max(initial=0.0) <= 1e-12 * max(np.abs(a).max(initial=0.0), 1.0)


LAYERS = {
    "lstm": lambda: tg.nn.LSTM(3, 4, dtype="float64"),
    "gru": lambda: tg.nn.GRU(3, 4, 2, dtype="float64", bidirectional=True),
    "rnn": lambda: tg.nn.RNN(3, 4, dtype="float64", checkpoint=3),
    "projected": lambda: tg.nn.LSTM(3, 4, dtype="float64", proj_size=2),
    "normalised": lambda: tg.nn.Recurrent(tg.nn.LayerNormLSTMCell(3, 4, dtype="float64")),
    "zoneout": lambda: tg.nn.Recurrent(tg.nn.Zoneout(tg.nn.LSTMCell(3, 4, dtype="float64"), 0.3), reverse=True),
    "variational": lambda: tg.nn.Recurrent(
        tg.nn.VariationalDropout(tg.nn.GRUCell(3, 4, dtype="float64"), 0.3, 0.3), reverse=True
    ),
}


@pytest.mark.parametrize("lengths", [None, (3, 0, 9, 5, 9)])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_agree(name, lengths):
    if lengths is not None and name == "rnn":
        pytest.skip("checkpoint cuts a sequence into pieces, and rows end at different steps: no engine but the eager")
    tg.manual_seed(0)
    layer, x = LAYERS[name](), tensor(1, 9, 5, 3)
    both(lambda: layer(x, lengths=lengths), [x, *layer.parameters()])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_scans_agree(reverse, steps):
    w, h, x, row = tensor(0, 3, 3), tensor(1, 4, 3), tensor(2, steps, 4, 3), tensor(4, 4, 3, grad=False)

    def step(carry, x):
        a, b = carry
        a = tg.tanh(a @ w + x * row) + tg.checkpoint(tg.sin, b)
        return (b, a.detach() * 0.5 + a * 0.1), (a * a).sum(-1, keepdims=True)

    both(lambda: tg.scan(step, (h, h), x, reverse=reverse), [w, h, x])


def test_no_part_of_the_carry_need_want_a_gradient():
    w, h, x = tensor(0, 3), tensor(1, 4, 3, grad=False), tensor(2, 9, 4, 3)
    both(lambda: tg.scan(lambda h, x: (h * 0.5, tg.tanh(h + x * w)), h, x), [w, x])


def test_the_gradient_of_a_carry_of_one_number_may_be_a_constant():
    h, c, x = tensor(0, 4, 3), tensor(1, 4, 1), tensor(2, 9, 4, 3)

    def step(carry, x):
        h, _ = carry
        return (tg.tanh(h + x), x[:, :1] * 2.0), h

    both(lambda: tg.scan(step, (h, c), x), [h, x])


def test_a_second_run_makes_what_is_outside_again():
    layer, x = tg.nn.Recurrent(tg.nn.MinimalGatedCell(3, 4, dtype="float64")), tensor(1, 9, 5, 3)
    for _ in range(2):
        both(lambda: layer(x), [x, *layer.parameters()])


def test_second_derivatives_are_those_of_the_steps():
    w, h, x = tensor(0, 3, 3), tensor(1, 4, 3), tensor(2, 9, 4, 3)
    found = []
    for engine in ("eager", "reference"):
        ys = tg.scan(lambda h, x: (tg.tanh(h @ w + x), h), h, x, engine=engine)[1]
        (g,) = tg.grad((ys * ys).sum(), [w], create_graph=True)
        found.append(tg.grad((g * g).sum(), [w])[0].numpy())
    assert np.abs(found[0] - found[1]).max() <= 1e-10 * np.abs(found[0]).max()


def test_what_cannot_be_a_program_is_refused():
    with pytest.raises(FusionError, match="cumsum"):
        tg.scan(lambda h, x: (tg.cumsum(h, 1) * 0.1 + x, h), tensor(1, 4, 3), tensor(2, 9, 4, 3), engine="reference")


def test_nothing_is_compiled(tmp_path):
    text = (
        "import sys, numpy as np, tinygrad_rnn as tg\n"
        "with tg.engine('reference'): tg.nn.GRU(3, 4)(tg.randn(9, 2, 3))[0].sum().backward()\n"
    )
    environment = os.environ | {"TINYGRAD_RNN_CACHE": str(tmp_path)}
    made = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    machines = [
        p.name for p in tmp_path.iterdir() if p.name.startswith(("interpreter", "forward", "backward", "tiles"))
    ]
    assert not machines


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("engine", ["fused", "reference"])
def test_truth_values_among_the_inputs(engine, reverse):
    """A mask of time gaps: of each row one, or one a feature."""
    if engine == "fused" and not settings.jit_enabled:
        pytest.skip("nothing is compiled here")
    rng = np.random.default_rng(0)
    w, h, x = tensor(0, 6, 6), tensor(1, 3, 6), tensor(2, 9, 3, 6)
    row, each = tg.tensor(rng.random((9, 3, 1)) < 0.5), tg.tensor(rng.random((9, 3, 6)) < 0.5)

    def step(h, x):
        new, keep, show = x
        h = tg.where(keep, h, tg.tanh(h @ w + new))
        return h, (tg.where(show, h, 0.5 * new), show)

    found = []
    for name in ("eager", engine):
        last, (ys, shown) = tg.scan(step, h, (x, row, each), reverse=reverse, engine=name)
        gradients = tg.grad((last * last).sum() + (ys * ys).sum(), [w, h, x])
        assert shown.dtype == bool
        found.append([a.numpy() for a in (last, ys, shown, *gradients)])
    for a, b in zip(*found):
        assert np.abs(a.astype(float) - b.astype(float)).max() <= 1e-12 * np.abs(a).max()
