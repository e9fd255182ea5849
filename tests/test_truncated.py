"""Truncated backpropagation through time beside a loop by hand, and what happens to a state whose graph is gone."""

from __future__ import annotations

import copy
import gc
import re
import tracemalloc

import numpy as np
import pytest
from test_wrappers import agree

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.pytree import leaves, map_leaves
from tinygrad_rnn.errors import ArgumentError, GraphError, ShapeError

nn = tg.nn
I, H, B = 2, 3, 2
lstm, gru = (lambda: nn.LSTMCell(I, H, dtype="float64")), (lambda: nn.GRUCell(I, H, dtype="float64"))
LAYERS = {
    "lstm": lambda **k: nn.LSTM(I, H, 2, dtype="float64", **k),
    "gru": lambda **k: nn.GRU(I, H, dtype="float64", **k),
    "recurrent": lambda **k: nn.Recurrent(lstm(), **k),
    "in pieces": lambda **k: nn.Recurrent(gru(), checkpoint="sqrt", **k),
    "stacked": lambda **k: nn.Stacked([nn.Recurrent(gru(), **k), nn.RNN(H, H, dtype="float64", **k)]),
    "learned": lambda **k: nn.Recurrent(nn.LearnedState(gru()), **k),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
STEPS = [(3, 3), (3, 4), (3, 5), (2, 7), (1, 4), (4, 8), (5, 50), (20, 20), (1, 1)]
k1_and_k2 = pytest.mark.parametrize("k1, k2", STEPS)


def windows(steps, k1, k2):
    """(first step, first step of the chunk, end): what a gradient sees is the chunk and k2 - k1 steps before it."""
    return [(max(a - (k2 - k1), 0), a, min(a + k1, steps)) for a in range(0, steps, k1)]


def by_hand(layer, x, state, first, end):
    """Outputs of steps first to end - 1, one at a time, and the state after each."""
    outputs, states = [], {}
    for t in range(first, end):
        output, state = layer(x[t : t + 1], state)
        outputs.append(output)
        states[t + 1] = nn.detach(state)
    return outputs, states


def loss_of(outputs, target):
    return tg.mse_loss(outputs, target) + (outputs**3).sum()


def total(nest):
    return sum(part.sum() for part in leaves(nest))


def gradients(layer):
    """Those there are, which are dropped."""
    found = [p.grad for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    return found


def series(steps=11):
    return tg.randn(steps, B, I, dtype="float64"), tg.randn(steps, B, H, dtype="float64")


# --- Values and gradients ---


@every_layer
@k1_and_k2
def test_values_go_on_as_in_one_long_run(make, k1, k2):
    layer, (x, _) = make(), series()
    outputs, state = layer(x)
    tbptt = nn.TruncatedBPTT(layer, k1, k2)
    parts = list(tbptt.chunks(x))
    assert [len(part) for part in parts] == [end - a for _, a, end in windows(11, k1, k2)]
    agree(tg.concat(parts), outputs)
    agree(tbptt.state, state)
    assert type(tbptt.state) is type(state)
    assert all(part.node is None and not part.requires_grad for part in leaves(tbptt.state))


@every_layer
@k1_and_k2
@pytest.mark.parametrize("rate", [0.0, 0.05], ids=["weights stay", "weights change between chunks"])
def test_gradients_are_those_of_a_loop_that_detaches_by_hand(make, k1, k2, rate):
    layer, (x, target) = make(), series()
    other = copy.deepcopy(layer)
    tbptt, found = nn.TruncatedBPTT(layer, k1, k2), []
    optimizers = [tg.optim.SGD(module.parameters(), lr=rate) for module in (layer, other)]
    for output, wanted in tbptt.chunks(x, target):
        loss_of(output, wanted).backward()
        optimizers[0].step()
        found.append([output.detach(), *gradients(layer)])
    known = {0: None}  # the state after so many steps, with the weights with which they last ran
    for (first, a, end), got in zip(windows(11, k1, k2), found):
        outputs, states = by_hand(other, x, known[first], first, end)
        known.update(states)
        output = tg.concat(outputs[a - first :])
        loss_of(output, target[a:end]).backward()
        optimizers[1].step()
        agree(got, [output, *gradients(other)])
    agree(tbptt.state, known[11])
    agree(list(layer.parameters()), list(other.parameters()))


@pytest.mark.parametrize("k1, k2", [(2, 2), (2, 3), (2, 5), (3, 6)])
def test_steps_further_back_than_k2_contribute_nothing_and_the_k2th_does(k1, k2):
    layer, (x, target) = LAYERS["gru"](), series(9 // k1 * k1)
    tbptt = nn.TruncatedBPTT(layer, k1, k2)
    for output, wanted in tbptt.chunks(x, target):
        layer.zero_grad()
        loss_of(output, wanted).backward()
    end, directions = len(x), [tg.randn(p.shape, dtype="float64").numpy() for p in layer.parameters()]
    slope = sum((p.grad.numpy() * d).sum() for p, d in zip(layer.parameters(), directions))
    before = [p.numpy().copy() for p in layer.parameters()]
    states = {0: None, **by_hand(layer, x, None, 0, end)[1]}

    def change(reach):
        """The change of the last chunk's loss where the weights change in the last `reach` steps alone."""
        losses = []
        for move in (1e-5, -1e-5):
            for p, was, direction in zip(layer.parameters(), before, directions):
                p.detach().copy_(was + move * direction)
            with tg.no_grad():
                outputs, _ = by_hand(layer, x, states[end - reach], end - reach, end)
                losses.append(loss_of(tg.concat(outputs[reach - k1 :]), target[end - k1 :]).item())
        return (losses[0] - losses[1]) / 2e-5

    np.testing.assert_allclose(slope, change(k2), rtol=1e-7)
    for other in (k2 - 1, k2 + 1) if k2 > k1 else (k2 + 1,):
        assert abs(slope - change(other)) > 1e-4 * abs(slope)


# --- Shapes of input, and what is fed by hand ---


@every_layer
@pytest.mark.parametrize("k1, k2", [(3, 3), (3, 5), (2, 7)])
def test_batch_first_and_without_a_batch(make, k1, k2):
    layer, turned, (x, target) = make(), make(batch_first=True), series()
    turned.load_state_dict(layer.state_dict())
    expected = list(nn.TruncatedBPTT(layer, k1, k2).chunks(x))
    other = nn.TruncatedBPTT(turned, k1, k2)
    for (output, wanted), part in zip(other.chunks(*(tg.permute_dims(s, (1, 0, 2)) for s in (x, target))), expected):
        agree(tg.permute_dims(output, (1, 0, 2)), part)
        assert wanted.shape == output.shape
    single = nn.TruncatedBPTT(turned, k1, k2)
    agree(tg.concat(list(single.chunks(x[:, 1]))), tg.concat(expected)[:, 1])
    agree(single.state, turned(x[:, 1])[1])


@every_layer
def test_chunks_of_any_length_up_to_k1_and_of_no_steps(make):
    layer, (x, _) = make(), series()
    for k2 in (4, 6):
        tbptt, known, t = nn.TruncatedBPTT(layer, 4, k2), {0: None}, 0
        for n in (0, 1, 3, 0, 2, 4, 1):
            output = tbptt(x[t : t + n])
            (output**2).sum().backward() if n else None
            got, first = [output.detach(), *gradients(layer)], max(t - (k2 - 4), 0)
            outputs, states = by_hand(layer, x, known[first], first, t + n)
            known.update(states)
            if n:
                expected = tg.concat(outputs[t - first :])
                (expected**2).sum().backward()
                agree(got, [expected, *gradients(layer)])
            assert output.shape == (n, B, H)
            t += n
        agree(tbptt.state, layer(x)[1])


@every_layer
@pytest.mark.parametrize("k2", [3, 5])
def test_reset_and_a_state_set_by_hand(make, k2):
    layer, (x, _) = make(), series(6)
    tbptt = nn.TruncatedBPTT(layer, 3, k2)
    first, second = [part.detach() for part in tbptt.chunks(x)]
    for forget in (tbptt.reset, lambda: setattr(tbptt, "state", None)):
        forget()
        agree(tbptt(x[:3]), first)
    middle = layer(x[:3])[1]  # hangs on its graph, which is still there
    half = map_leaves(lambda part: 0.5 * part, middle)
    for state, expected in ((middle, second), (half, layer(x[3:], half)[0])):
        tbptt.state = state
        assert all(part.node is None for part in leaves(tbptt.state))
        agree(tbptt(x[3:]), expected)
    tbptt(x[3:]).sum().backward()
    total(middle).backward()  # its own graph was left alone


@pytest.mark.parametrize("k2", [2, 4])
def test_an_input_that_is_written_over_between_chunks_changes_nothing(k2):
    layer, (x, _) = LAYERS["gru"](), series(6)
    for buffer in (tg.zeros(2, B, I, dtype="float64"), np.zeros((2, B, I))):
        tbptt, outputs = nn.TruncatedBPTT(layer, 2, k2), []
        for t in (0, 2, 4):
            buffer[...] = x[t : t + 2].numpy()
            outputs.append(tbptt(buffer).detach())
        agree(tg.concat(outputs), layer(x)[0])


def test_it_is_a_module():
    layer, (x, _) = nn.Recurrent(nn.Zoneout(gru(), 0.5)), series(6)
    tbptt = nn.TruncatedBPTT(layer, 2, 4)
    assert list(tbptt.state_dict()) == [f"layer.{name}" for name in layer.state_dict()]
    assert not tbptt.eval().layer.cell.training
    agree(tg.concat(list(tbptt.chunks(x[:4]))), layer(x[:4])[0])
    again = copy.deepcopy(tbptt)
    agree(again(x[4:]), tbptt(x[4:]))
    agree(tbptt.state, layer(x)[1])


# --- A state whose graph is gone ---

GONE = {
    **{name: make for name, make in LAYERS.items() if name != "learned"},
    "both directions": lambda: nn.GRU(I, H, 2, bidirectional=True, dtype="float64"),
    "lstm in pieces": lambda: nn.LSTM(I, H, dtype="float64", checkpoint="sqrt"),
    "bidirectional": lambda: nn.Bidirectional(lstm(), lstm()),
}
ATTACHED = r"^{}: the state given is still attached(.|\n)*tg.nn.detach"


@pytest.mark.parametrize("make", GONE.values(), ids=GONE)
@pytest.mark.parametrize("lengths", [None, [4, 3]], ids=["all steps", "lengths"])
@pytest.mark.parametrize("learns_from", [0, 1], ids=["outputs", "state"])
def test_a_state_on_a_freed_graph_is_refused_by_name(make, lengths, learns_from):
    layer, (x, _) = make(), series(4)
    made = layer(x, None, lengths)
    total(made[learns_from]).backward(retain_graph=True)
    total(layer(x, made[1], lengths)).backward()  # its graph is still there: through both
    made = layer(x, None, lengths)
    total(made[learns_from]).backward()
    with pytest.raises(GraphError, match=ATTACHED.format(type(layer).__name__)):
        layer(x, made[1], lengths)
    layer(x, nn.detach(made[1]), lengths)[0].sum().backward()
    with tg.no_grad():
        layer(x, made[1], lengths)


@pytest.mark.parametrize("make", [nn.RNNCell, nn.LSTMCell, nn.GRUCell, lambda *a: nn.Zoneout(nn.LSTMCell(*a), 0.5)])
def test_a_cell_and_tbptt_refuse_it_too(make):
    cell, x = make(I, H), tg.randn(B, I)
    state = cell(x)
    leaves(state)[0].sum().backward()
    with pytest.raises(GraphError, match=ATTACHED.format(re.escape(cell.title))) as caught:
        cell(x, state)
    assert re.search(r"(hidden|state) \(2, 3\)", str(caught.value))
    with pytest.raises(GraphError, match=ATTACHED.format("TruncatedBPTT")):
        nn.TruncatedBPTT(nn.Recurrent(cell), 2).state = state


# --- Refusals, memory ---


def test_what_does_not_fit_is_refused_and_the_state_stays():
    back = nn.Recurrent(gru(), reverse=True)
    for layer in (back, GONE["both directions"](), nn.Bidirectional(gru(), back), nn.Stacked([gru(), back])):
        with pytest.raises(ArgumentError, match="forwards"):
            nn.TruncatedBPTT(layer, 3)
    for thing in (nn.GRUCell(I, H), nn.Linear(I, H), None):
        with pytest.raises(ArgumentError, match=r"^TruncatedBPTT: this goes around a layer over time"):
            nn.TruncatedBPTT(thing, 3)
    layer, (x, target) = LAYERS["gru"](), series(6)
    for steps in ((0,), (-1,), (3, 2), (3, 0), (2.5,), (2, 3.5)):
        with pytest.raises(ArgumentError, match=r"^TruncatedBPTT: "):
            nn.TruncatedBPTT(layer, *steps)
    tbptt = nn.TruncatedBPTT(layer, 2, 3)
    outputs = [tbptt(x[:2])]
    for wrong in (x, x[0, 0], x[:2, :, :1], x[:2, :1], x[None, :2]):
        with pytest.raises(ShapeError):
            tbptt(wrong)
    with pytest.raises(ShapeError, match=r"^TruncatedBPTT: not as many steps as x"):
        next(tbptt.chunks(x, target[:5]))
    agree(tg.concat([*outputs, *tbptt.chunks(x[2:])]), layer(x)[0])


@pytest.mark.parametrize("name, k1, k2", [("gru", 2, 3), ("in pieces", 1, 2)])
def test_memory_stays_flat_over_200_chunks(name, k1, k2):
    layer, x, sizes = LAYERS[name](), tg.randn(k1, 16, I, dtype="float64"), []
    tbptt = nn.TruncatedBPTT(layer, k1, k2)
    gc.disable()  # all must go by reference counts
    tracemalloc.start(1)
    try:
        for chunk in range(221):
            tbptt(x).sum().backward()
            gradients(layer)
            if chunk in (20, 220):  # Python keeps freed tuples for later: count arrays' bytes, and objects
                arrays = [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
                traces = tracemalloc.take_snapshot().filter_traces(arrays).traces
                sizes.append((sum(trace.size for trace in traces), len(gc.get_objects())))
    finally:
        tracemalloc.stop()
        gc.enable()
    assert sizes[1][0] == sizes[0][0]
    assert sizes[1][1] - sizes[0][1] < 20
