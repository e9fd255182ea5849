"""Layers over time: with `lengths` each row is as if it were alone, whatever cells, directions and layers."""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.pytree import leaves, map_leaves
from tinygrad_rnn.errors import ArgumentError, DtypeError, GraphError, ShapeError, TinygradError

nn = tg.nn

CELLS = {
    "rnn": nn.RNNCell,
    "lstm": nn.LSTMCell,
    "projected": lambda i, h, **k: nn.ProjectedLSTMCell(i, h + 1, h, **k),
    "peephole": nn.PeepholeLSTMCell,
    "coupled": nn.CoupledLSTMCell,
    "normalised": nn.LayerNormLSTMCell,
    "gru": nn.GRUCell,
    "gru before": lambda i, h, **k: nn.GRUCell(i, h, reset_after=False, **k),
    "minimal": nn.MinimalGatedCell,
    "independent": lambda i, h, **k: nn.IndRNNCell(i, h, nonlinearity="tanh", **k),
    "zoneout": lambda i, h, **k: nn.Zoneout(nn.LSTMCell(i, h, **k), 0.3).eval(),
    "learned": lambda i, h, **k: nn.LearnedState(nn.LSTMCell(i, h, **k)),
}


SIZES = {"dtype": "float64"}
pieces = st.sampled_from([None, 1, 2, "sqrt"])


@st.composite
def layers(draw, size=3, depth=2, reverse=None):
    """A layer over time for inputs of this size, and the size of its output; all of it reversed or not, where given."""
    kind = draw(st.sampled_from(["recurrent", "built in", "both", "stacked"] if depth else ["recurrent"]))
    if kind == "stacked":
        made = []
        for _ in range(draw(st.integers(1, 3))):
            layer, size = draw(layers(size, depth - 1, reverse))
            made.append(layer)
        return nn.Stacked(made), size
    if kind == "both" and reverse is None:
        (there, first), (back, second) = (draw(layers(size, depth - 1, way)) for way in (False, True))
        return nn.Bidirectional(there, back), first + second
    if kind == "built in" and not reverse:
        name, both = draw(st.sampled_from([nn.RNN, nn.LSTM, nn.GRU])), reverse is None and draw(st.booleans())
        options = {"num_layers": draw(st.integers(1, 3)), "bidirectional": both, "learned_state": draw(st.booleans())}
        if name is nn.LSTM:
            options["proj_size"] = draw(st.sampled_from([0, 1]))
        layer = name(size, 2, bias=draw(st.booleans()), checkpoint=draw(pieces), **options, **SIZES)
        return layer, (options.get("proj_size") or 2) * (1 + both)
    cell = CELLS[draw(st.sampled_from(list(CELLS)))](size, 2, **SIZES)
    backwards = draw(st.booleans()) if reverse is None else reverse
    return nn.Recurrent(cell, reverse=backwards, checkpoint=draw(pieces)), 2


def rows(layer, state, index):
    """The rows of a state: where the batch is depends on the layer."""
    if state is None:
        return None
    inside = layer.layers if isinstance(layer, nn.Stacked) else None
    if isinstance(layer, nn.Bidirectional):
        inside = layer.forwards, layer.backwards
    if inside is not None:
        return tuple(rows(part, one, index) for part, one in zip(inside, state))
    axis = 1 if isinstance(layer, (nn.RNN, nn.LSTM, nn.GRU)) else 0
    return map_leaves(lambda part: part[(slice(None),) * axis + (index,)], state)


def random_state(layer, batch_size, rng, wanted=True):
    """A state as the layer returns it, drawn."""
    with tg.no_grad():
        zero = layer(tg.zeros(0, batch_size, 3, dtype="float64"))[1]
    return map_leaves(lambda part: tg.tensor(rng.normal(size=part.shape), requires_grad=wanted), zero)


def agree(got, expected, e=1e-12):
    """Nests of tensors or arrays agree to e, each measured against its largest number."""
    got, expected = [[np.asarray(part) for part in leaves(nest)] for nest in (got, expected)]
    assert len(got) == len(expected)
    for i, (a, b) in enumerate(zip(got, expected)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), i
        assert np.max(np.abs(a - b), initial=0.0) <= e * max(np.max(np.abs(b), initial=0.0), 1.0), (i, a, b)


def loss_of(outputs, state):
    return sum((tg.sin(part * (1.0 + 0.3 * i)).sum() for i, part in enumerate(leaves([outputs, state]))), 0.0)


def gradients(loss, *nests):
    """For each nest that of the gradients; zeros where there is none."""
    inputs = list(leaves(nests))
    found = tg.grad(loss, inputs, allow_unused=True) if loss.requires_grad else [None] * len(inputs)
    made = iter([np.zeros(t.shape) if g is None else g.numpy() for g, t in zip(found, inputs)])
    return [map_leaves(lambda _: next(made), nest) for nest in nests]


FORMS = [list, tuple, np.array, lambda n: np.array(n, np.uint8), lambda n: tg.tensor(np.array(n, np.int64))]


@settings(max_examples=80, deadline=None)
@given(
    made=layers(),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    more=st.integers(0, 1),
    stated=st.booleans(),
    batch_first=st.booleans(),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_row_is_as_if_it_were_alone(made, lengths, more, stated, batch_first, form, seed):
    """Outputs, final states, gradients with respect to x, the state and all parameters; NaN behind the rows' ends."""
    rng, (steps, batch_size), (layer, width) = np.random.default_rng(seed), (max(lengths) + more, len(lengths)), made
    parameters, values = list(layer.parameters()), rng.normal(size=(steps, batch_size, 3))
    for i, n in enumerate(lengths):
        values[n:, i] = np.nan
    x = tg.tensor(values.swapaxes(0, 1) if batch_first else values, requires_grad=True)
    state = random_state(layer, batch_size, rng) if stated else None
    layer.batch_first = batch_first
    outputs, final = layer(x, state, lengths=form(lengths))
    g_x, g_state, total = gradients(loss_of(outputs, final), x, state, parameters)
    layer.batch_first = False
    if batch_first:
        outputs, g_x = outputs.permute_dims((1, 0, 2)), g_x.swapaxes(0, 1)
    assert outputs.shape == (steps, batch_size, width)
    summed = [np.zeros(p.shape) for p in parameters]
    for i, n in enumerate(lengths):
        one = slice(i, i + 1)
        row = tg.tensor(values[:n, one], requires_grad=True)
        start = map_leaves(lambda part: tg.tensor(part.numpy(), requires_grad=True), rows(layer, state, one))
        alone, end = layer(row, start)
        agree((outputs[:n, one], rows(layer, final, one)), (alone, end))
        assert not outputs[n:, i].numpy().any()
        g_row, g_start, parts = gradients(loss_of(alone, end), row, start, parameters)
        agree((g_x[:n, one], rows(layer, g_state, one)), (g_row, g_start))
        assert not g_x[n:, i].any()
        summed = [a + b for a, b in zip(summed, parts)]
    agree(total, summed)


def test_full_lengths_are_no_lengths_and_none_live_is_the_state_itself():
    for make in (lambda **k: nn.Recurrent(nn.GRUCell(3, 2, **k), reverse=True), lambda **k: nn.LSTM(3, 2, 2, **k)):
        layer, x, rng = make(dtype="float64"), tg.randn(4, 3, 3, dtype="float64"), np.random.default_rng(0)
        state = random_state(layer, 3, rng)
        agree(layer(x, state, [4, 4, 4]), layer(x, state))
        outputs, final = layer(x, state, [0, 0, 0])
        agree((outputs, final), (np.zeros((4, 3, 2)), state))
        (found,) = gradients(sum(part.sum() for part in leaves(final)), state)
        agree(found, map_leaves(lambda part: np.ones(part.shape), state))
        for rows, steps in [(0, 4), (0, 0), (2, 0)]:
            outputs, final = layer(x[:steps, :rows], None, [0] * rows)
            assert outputs.shape == (steps, rows, 2)


@settings(max_examples=40, deadline=None)
@given(made=layers(reverse=False), batch_size=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_step_after_step_is_the_whole(made, batch_size, seed):
    rng, (layer, _) = np.random.default_rng(seed), made
    x, state = tg.tensor(rng.normal(size=(4, batch_size, 3))), random_state(layer, batch_size, rng)
    outputs, final = layer(x, state)
    one = rows(layer, state, 0) if batch_size else None
    for t in range(4):
        y, state = layer.step(x[t], state)
        agree(y, outputs[t])
        if batch_size:
            y, one = layer.step(x[t, 0], one)
            agree(y, outputs[t, 0])
    agree(state, final)
    agree(one, rows(layer, final, 0) if batch_size else None)


class Counting(nn.Cell):
    """A state of a float and an int for each row, or a number for all of them."""

    def __init__(self, for_each=True):
        self.mix, self.for_each = nn.Linear(3, 2, dtype="float64"), for_each

    def initial_state(self, batch_size):
        return self.zeros(batch_size, 2), tg.zeros((batch_size,) if self.for_each else (), dtype="int64")

    def step(self, x, state):
        hidden = tg.tanh(self.mix(x) + state[0])
        return hidden, (hidden, state[1] + 1)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("checkpoint", [None, 2])
def test_whole_numbers_in_a_state(reverse, checkpoint):
    x, lengths = tg.randn(5, 4, 3, dtype="float64"), [3, 5, 0, 1]
    layer = nn.Recurrent(Counting(), reverse=reverse, checkpoint=checkpoint)
    count = layer(x, lengths=lengths)[1][1]
    assert (count.tolist(), count.dtype) == (lengths, np.int64)
    shared = nn.Recurrent(Counting(for_each=False), reverse=reverse, checkpoint=checkpoint)
    assert shared(x)[1][1].item() == 5
    with pytest.raises(ShapeError, match=r"state is the batch\n.*\(4, \.\.\.\)\n.*tensor \(\)[\s\S]*Counting"):
        shared(x, lengths=lengths)


# --- Errors ---


@pytest.mark.parametrize("reverse, at", [(False, "layer 1 step 2"), (True, "layer 1 reverse step 2")])
def test_errors_name_layer_direction_and_step(reverse, at):
    """Of a cell of layer 1 that goes wrong at step 2: in either direction, in pieces, and with lengths."""

    class Late(nn.GRUCell):
        wrong = "features"

        def step(self, x, state):
            self.calls = getattr(self, "calls", 0) + 1
            output, new = super().step(x[:, :1] if self.calls == 3 and self.wrong == "features" else x, state)
            return output, new[:, :1] if self.calls == 3 and self.wrong == "state" else new

    for checkpoint in (None, 1, 2):
        for lengths in (None, [5, 5], [4, 5], [1, 5]):
            for wrong, says in [("features", "linear"), ("state", r"another state.*\n.*\(., 2\)\n.*\(., 1\)")]:
                cell = Late(2, 2)
                cell.wrong = wrong
                layer = nn.Stacked([nn.RNNCell(3, 2), nn.Recurrent(cell, reverse=reverse, checkpoint=checkpoint)])
                with pytest.raises(ShapeError, match=rf"{says}[\s\S]*in Late {at}$"):
                    layer(tg.zeros(5, 2, 3), None, lengths)


def wrong_calls():
    """A layer, what it is called with, the error and what it says."""
    gru, upper = [nn.Recurrent(nn.GRUCell(3, 2), reverse=True) for _ in range(2)]
    lstm, both = nn.LSTM(3, 2, 2, bidirectional=True), nn.Bidirectional(nn.GRUCell(3, 2), nn.LSTMCell(3, 2))
    layers, odd = nn.Stacked([nn.RNNCell(3, 2), upper]), nn.Bidirectional(nn.GRUCell(3, 2), nn.GRUCell(4, 2))
    x, h, five, at = tg.zeros(5, 4, 3), tg.zeros(4, 2), tg.zeros(5, 4, 2), r"\n.*in GRUCell layer 0 reverse$"
    unfit = r"does not fit\n.*\(4, 2\)\n"
    return {
        "floats": (gru, x, None, [1.0] * 4, DtypeError, r"^Recurrent: lengths.*\n.*integers\n.*float64$"),
        "truths": (lstm, x, None, [True] * 4, DtypeError, r"^LSTM: lengths.*\n.*integers\n.*bool$"),
        "None": (lstm, x, None, [1, None, 1, 1], DtypeError, r"^LSTM: lengths.*\n.*integers"),
        "ragged": (lstm, x, None, [[1], [1, 2], 1, 1], TinygradError, r"^LSTM: "),
        "below 0": (both, x, None, [1, 2, -1, 3], ShapeError, r"^Bidirectional: .*row 2.*\n.*0 to 5.*\n.*-1$"),
        "too long": (layers, x, None, [1, 6, 7, 3], ShapeError, r"^Stacked: .*row 1.*\n.*0 to 5.*\n.*6$"),
        "too few": (gru, x, None, [1, 2, 3], ShapeError, r"^Recurrent: one length.*\n.*\(4,\)\n.*\(3,\)$"),
        "one": (gru, x, None, 3, ShapeError, r"^Recurrent: one length.*\n.*\(4,\)\n.*\(\)$"),
        "no batch": (gru, x[:, 0], None, [3], ShapeError, r"^Recurrent: lengths.*\n.*\(T, B, I\)\n.*\(5, 3\)$"),
        "features": (gru, five, None, None, ShapeError, rf"^GRUCell.*features.*\n.*3\)\n.*\(5, 4, 2\){at}"),
        "features back": (odd, x, None, None, ShapeError, rf"features.*\n.*4\)\n.*3\){at}"),
        "state": (gru, x, tg.zeros(3, 2), None, ShapeError, rf"{unfit}.*\(3, 2\){at}"),
        "a nest": (gru, x, (h, h), None, ShapeError, rf"{unfit}.*\(tensor.*{at}"),
        "states": (both, x, (h, h, h), None, ShapeError, r"each direction\n.*\(forward, backward\)\n.*3$"),
        "one state": (layers, x, h, None, ShapeError, r"one state for each layer\n.*2\n.*Tensor$"),
        "layers' state": (lstm, x, (five[:4], h), None, ShapeError, r"^LSTM.*fit\n.*\(4, 4, 2\).*\n.*\(4, 2\)\)$"),
        "a dtype": (gru, x.astype("float64"), None, None, DtypeError, r"linear[\s\S]*float64[\s\S]*reverse step 4$"),
    }  # fmt: skip


@pytest.mark.parametrize("what", wrong_calls())
def test_what_does_not_fit(what):
    layer, x, state, lengths, kind, says = wrong_calls()[what]
    with pytest.raises(kind, match=says):
        layer(x, state, lengths)


def test_combinations_that_cannot_be_meant_are_refused():
    two = [nn.GRUCell(3, 3), nn.GRUCell(3, 3)]
    back = nn.Recurrent(two[0], reverse=True)
    for forward, backward in [
        (back, two[1]), (two[0], nn.Recurrent(two[1])), (nn.Stacked([back]), two[1]),
        (two[0], nn.Stacked([nn.Recurrent(two[1])])), (nn.GRU(3, 3), nn.GRU(3, 3)),
    ]:  # fmt: skip
        with pytest.raises(ArgumentError, match="Bidirectional"):
            nn.Bidirectional(forward, backward)
    for layer in (back, nn.Bidirectional(*two), nn.Stacked([two[1], back]), nn.GRU(3, 2, bidirectional=True)):
        with pytest.raises(ArgumentError, match=rf"^{type(layer).__name__}: .*no end"):
            layer.step(tg.zeros(2, 3))


FREED = {
    "plain": lambda: nn.Recurrent(nn.GRUCell(3, 2)),
    "in pieces": lambda: nn.Recurrent(nn.GRUCell(3, 2), checkpoint=2),
    "LSTM": lambda: nn.LSTM(3, 2, 2),
    "bidirectional": lambda: nn.Bidirectional(nn.GRUCell(3, 2), nn.LSTMCell(3, 2)),
}


@pytest.mark.parametrize("lengths", [None, [5, 2]])
@pytest.mark.parametrize("what", FREED)
def test_a_state_whose_graph_is_freed_is_refused(what, lengths):
    layer, x = FREED[what](), tg.randn(5, 2, 3)
    outputs, state = layer(x, lengths=lengths)
    outputs.sum().backward()
    with pytest.raises(GraphError, match=r"attached to the tape of an earlier pass[\s\S]*detach"):
        layer(x, state)
    with tg.no_grad():
        layer(x, state)
    layer(x, nn.detach(state))[0].sum().backward()


# --- In pieces ---

DRAWING = {
    "zoneout": lambda **k: nn.Zoneout(nn.LSTMCell(3, 2, dtype="float64"), nn.LSTMState(0.3, 0.5), **k),
    "variational": lambda **k: nn.VariationalDropout(nn.GRUCell(3, 2, dtype="float64"), 0.4, 0.4, **k),
    "weights": lambda **k: nn.WeightDropout(nn.LSTMCell(3, 2, dtype="float64"), 0.4, **k),
    "several": lambda **k: nn.Zoneout(
        nn.WeightDropout(nn.LearnedState(nn.LSTMCell(3, 2, dtype="float64")), 0.4, **k), 0.3
    ),
}


@pytest.mark.parametrize("given_rng", [False, True])
@pytest.mark.parametrize("what", DRAWING)
def test_what_is_drawn_is_the_same_in_pieces(what, given_rng):
    x = tg.randn(7, 4, 3, dtype="float64", requires_grad=True)
    for lengths, reverse in [(None, False), ([3, 0, 7, 5], True)]:
        runs = []
        for checkpoint in (None, 1, 3, "sqrt"):
            tg.manual_seed(1)
            named = {"rng": np.random.default_rng(4)} if given_rng else {}
            layer = nn.Recurrent(DRAWING[what](**named), reverse=reverse, checkpoint=checkpoint)
            outputs, state = layer(x, lengths=lengths)
            runs.append([outputs, state, gradients(loss_of(outputs, state), [x, *layer.parameters()])])
            agree(runs[-1], runs[0])


@pytest.mark.parametrize("given_rng", [False, True])
def test_threads_that_go_back_over_one_graph(given_rng):
    cell = nn.Zoneout(nn.GRUCell(3, 2, **SIZES), 0.3, rng=np.random.default_rng(0) if given_rng else None)
    x = tg.randn(20, 2, 3, dtype="float64", requires_grad=True)
    outputs, _ = nn.Recurrent(cell, checkpoint=2)(x)
    go = lambda _: tg.grad(outputs.sum(), [x, *cell.parameters()], retain_graph=True)  # noqa: E731
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(go, range(30)))
    for one in found:
        agree(one, found[0])


@pytest.mark.parametrize("what", ["dropout", "detach"])
def test_eval_between_forward_and_backward_is_never_wrong_in_silence(what):
    class Switching(nn.Cell):
        def __init__(self):
            self.mix, self.hidden_size = nn.Linear(3, 3, dtype="float64"), 3

        def step(self, x, hidden):
            if self.training:
                hidden = hidden.detach() if what == "detach" else tg.dropout(hidden, 0.5)
            hidden = tg.tanh(self.mix(x) + hidden)
            return hidden, hidden

    def run(checkpoint):
        tg.manual_seed(0)
        layer = nn.Recurrent(Switching(), checkpoint=checkpoint)
        x = tg.randn(6, 2, 3, dtype="float64", requires_grad=True)
        outputs, _ = layer(x)
        layer.eval()
        return gradients(outputs.sum(), [x, *layer.parameters()])

    with contextlib.suppress(GraphError):
        agree(run(3), run(None))


def held(run):
    """Bytes that a run's result keeps alive above its values, without help of the garbage collector."""
    loss_of(*run()).backward()  # kernels are compiled
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        made = run()
        return tracemalloc.get_traced_memory()[0] - sum(part.numpy().nbytes for part in leaves(made))
    finally:
        tracemalloc.stop()
        gc.enable()


def test_pieces_hold_a_tenth_of_the_memory():
    x = tg.randn(100, 8, 16, requires_grad=True)
    for make in (lambda **k: nn.LSTM(16, 32, **k), lambda **k: nn.GRU(16, 32, bidirectional=True, **k)):
        layers = {checkpoint: make(checkpoint=checkpoint) for checkpoint in (None, "sqrt", 1)}
        with tg.engine("eager"):
            found = {checkpoint: held(lambda layer=layer: layer(x)) for checkpoint, layer in layers.items()}
        assert found["sqrt"] < 0.1 * found[None], found
        assert found["sqrt"] < found[1] < found[None], found


def test_what_a_piece_computed_dies_with_it():
    made = []

    def step(c, y):
        inner = tg.tanh(c + y)
        made.append(weakref.ref(inner.node))
        return inner * 1.0, inner * 2.0

    results = tg.scan(step, tg.zeros(2), tg.randn(5, 2, requires_grad=True), checkpoint=2)
    assert [reference() for reference in made] == [None] * 5, results
