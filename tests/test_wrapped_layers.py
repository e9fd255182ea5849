"""Wrappers in each other, in layers of every kind, in a user's own cell, and initial states that are learned."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
from test_wrappers import CELLS, N, Pass, Seen, about, agree, every_cell

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.pytree import leaves, unflatten

nn = tg.nn

# --- In each other, in layers ---

V, W, Z, L = nn.VariationalDropout, nn.WeightDropout, nn.Zoneout, nn.LearnedState
NESTS = {
    "zoneout outside": lambda cell, names, rng: Z(V(W(L(cell), 0.4, names, rng), 0.2, 0.3, rng), 0.3, rng),
    "variational outside": lambda cell, names, rng: V(L(Z(W(cell, 0.4, names, rng), 0.3, rng)), 0.2, 0.3, rng),
    "weights outside": lambda cell, names, rng: W(Z(V(cell, 0.2, 0.3, rng), 0.3, rng), 0.4, names, rng),
    "learned outside": lambda cell, names, rng: L(W(V(Z(cell, 0.3, rng), 0.2, 0.3, rng), 0.4, names, rng)),
    "each twice": lambda cell, names, rng: Z(Z(V(W(W(V(cell, 0.1), 0.2, names), 0.3, names), 0, 0.2), 0.1), 0.2),
}
OVER = {
    "forwards": lambda make, **k: nn.Recurrent(make(N), **k),
    "reverse": lambda make, **k: nn.Recurrent(make(N), reverse=True, **k),
    "bidirectional": lambda make, **k: nn.Bidirectional(
        *[nn.Recurrent(make(N), reverse=r, **k) for r in (False, True)]
    ),
    "stacked": lambda make, **k: nn.Stacked([nn.Recurrent(make(N), **k), nn.Recurrent(make(N), **k)], 0.2),
}
INSIDE = {"LSTM": ("weight_hh",), "GRU": ("weight_hh", "bias_ih"), "own": ("last.weight",)}
nests = pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)


def built(over, nest, name, seed=3, given=True, **named):
    """A layer of wrapped cells: the same for the same seed, its masks drawn from a generator given or the library's."""
    tg.manual_seed(seed)
    rng = np.random.default_rng(seed) if given else None
    return OVER[over](lambda n: nest(CELLS[name](), INSIDE[name], rng), **named)


def ran(layer, x, lengths):
    """Outputs, the gradient of x, final states, and the gradients of the parameters."""
    x = tg.tensor(x, requires_grad=True)
    outputs, state = layer(x, None, lengths)
    ((outputs * outputs).sum() + sum((part * part).sum() for part in leaves(state))).backward()
    return [outputs, x.grad, *leaves(state), *[parameter.grad for parameter in layer.parameters()]]


@nests
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("name", ["LSTM", "own"])
def test_the_same_seed_gives_the_same_run_also_recomputed_in_pieces_and_batch_first(nest, over, name):
    x, lengths = tg.randn(5, 3, N, dtype="float64"), [4, 0, 5]
    layer = built(over, nest, name)
    first = ran(layer, x, lengths)
    assert not np.allclose(ran(layer, x, lengths)[0].numpy(), first[0].numpy()), "another sequence, other masks"
    agree(ran(built(over, nest, name, checkpoint="sqrt"), x, lengths), first)
    agree(*[ran(built(over, nest, name, given=False, checkpoint=every), x, lengths) for every in (None, 2)])
    turned = ran(built(over, nest, name, batch_first=True), tg.permute_dims(x, (1, 0, 2)), lengths)
    for i in (0, 1):
        turned[i] = tg.permute_dims(turned[i], (1, 0, 2))
    agree(turned, first)


@nests
@pytest.mark.parametrize("name", INSIDE)
def test_a_layer_runs_the_cell_for_one_sequence_step_after_step(nest, name):
    x = tg.randn(5, 2, N, dtype="float64")
    layer = built("forwards", nest, name)
    outputs, end = layer(x)
    cell = built("forwards", nest, name).cell.for_sequence()
    by_hand, state = [], cell.initial_state(2)
    for t in range(5):
        output, state = cell.step(x[t], state)
        by_hand.append(output)
    agree((outputs, end), (tg.stack(by_hand), state))
    with pytest.raises(AssertionError):
        agree(outputs, built("forwards", nest, name, seed=4)(x)[0])


@nests
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("name", ["GRU", "own"])
def test_eval_and_train_reach_the_cell_inside(nest, over, name):
    x, lengths = tg.randn(6, 3, N, dtype="float64"), [2, 6, 5]
    layer = built(over, nest, name).eval()
    assert not any(module.training for module in layer.modules())
    outputs, state = layer(x, None, lengths)
    agree(layer(x, None, lengths), (outputs, state), 0)
    for row, length in enumerate(lengths):
        agree(layer(x[:length, row : row + 1])[0][:, 0], outputs[:length, row])
    layer.train()
    assert all(module.training for module in layer.modules())
    assert not np.allclose(layer(x)[0].numpy(), layer(x)[0].numpy())


@nests
def test_state_dicts_and_copies(nest):
    layer, other = built("stacked", nest, "GRU"), built("stacked", nest, "GRU", seed=4)
    x = tg.randn(4, 2, N, dtype="float64")
    again, shallow = copy.deepcopy(layer), copy.copy(layer.layers[0].cell)
    runs = [tg.manual_seed(5) or ran(module, x, None) for module in (layer, again)]
    agree(*runs, 0)
    assert all(a is b for a, b in zip(shallow.parameters(), layer.parameters()))
    assert not any(a is b for a, b in zip(again.parameters(), layer.parameters()))
    assert all(
        name.split(".")[-1] in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "initial_0")
        for name in layer.state_dict()
    )
    other.load_state_dict(layer.state_dict())
    agree(other.eval()(x), layer.eval()(x), 0)


TWICE = {
    "inputs": (lambda cell: V(V(cell, 0.5), 0.5), 0),
    "past": (lambda cell: V(V(cell, 0.0, 0.5), 0.0, 0.5), 1),
    "weights": (lambda cell: W(W(cell, 0.5), 0.5), 2),
}


@pytest.mark.parametrize("wrap, which", TWICE.values(), ids=TWICE)
def test_masks_of_two_wrappers_of_one_kind_multiply(wrap, which):
    cell = Seen()
    seen = cell.over(wrap(cell))[which]
    about(seen[0] != 0, 0.25)
    assert set(np.unique(seen[0])) == {0.0, 4.0}
    assert all((each == seen[0]).all() for each in seen)


def test_two_variational_dropouts_leave_the_memory_alone_as_one_does():
    gru = nn.GRUCell(N, 90)
    for parameter in gru.parameters():
        nn.init.zeros_(parameter)
    gru.bias_ih.detach()[90:180] = 100.0  # the update gate keeps everything
    agree(V(V(gru, 0.0, 0.5), 0.0, 0.5).step(tg.zeros(1, N), tg.ones(1, 90))[1], np.ones((1, 90)), 0)


def looks(self, x, state):
    return x, state + 0.0 * self.seen(state)


SEEN = {  # what a cell defines, and what is left of ones in a memory that it carries on
    "in a lambda": ({"step": lambda self, x, state: (x, state + (lambda: 0.0 * self.seen(state))())}, {1.0}),
    "in a function": ({"step": lambda *given: looks(*given)}, {1.0}),
    "not at all": ({"step": lambda self, x, state: (x, state), "seen": lambda self, h: nn.Cell.seen(self, h)}, {0, 2}),
}


@pytest.mark.parametrize("defined, left", SEEN.values(), ids=SEEN)
def test_whether_a_cell_calls_seen_is_told_by_what_it_does(defined, left):
    cell = V(type("Carries", (Pass,), defined)(), 0.0, 0.5, np.random.default_rng(0))
    assert set(np.unique(cell.step(tg.ones(9, N), tg.ones(9, N))[1].numpy())) == left


def test_a_state_may_be_a_dictionary():
    class InDictionary(Pass):
        def initial_state(self, batch_size):
            return {"fast": self.zeros(batch_size, N), "slow": self.zeros(batch_size, N)}

        def step(self, x, state):
            return x, {"fast": x, "slow": state["slow"] + x}

    cell = InDictionary()
    ends = [{"fast": 1.0, "slow": 4.0}] * 3 + [{"fast": 0.0, "slow": 4.0}]
    for wrapped, end in zip([V(cell, 0.0, 0.5), L(cell), Z(cell, 0.0), Z(cell, {"fast": 1.0, "slow": 0.0})], ends):
        state = nn.Recurrent(wrapped)(tg.ones(4, 2, N))[1]
        agree(state, {name: np.full((2, N), value) for name, value in end.items()})


def test_a_probability_may_be_a_numpy_scalar():
    p = np.float32(0.25)
    for wrapped in (Z(nn.RNNCell(N, N), p), V(nn.RNNCell(N, N), p, p), W(nn.RNNCell(N, N), p)):
        nn.Recurrent(wrapped)(tg.ones(2, 1, N))


class Around(nn.Cell):
    """A user's cell around another."""

    def __init__(self, inner):
        self.inner, self.input_size, self.hidden_size = inner, inner.input_size, inner.hidden_size

    def initial_state(self, batch_size):
        return self.inner.initial_state(batch_size)

    def step(self, x, state):
        return self.inner.step(x, state)


@pytest.mark.parametrize(
    "wrap, which",
    [(lambda cell: V(cell, 0.5), 0), (lambda cell: V(cell, 0.0, 0.5), 1), (lambda cell: W(cell, 0.5), 2)],
    ids=["inputs", "past", "weights"],
)
def test_masks_hold_for_a_sequence_also_inside_a_user_s_cell(wrap, which):
    cell = Seen()
    around = Around(wrap(cell))
    seen = cell.over(around)[which]
    about(seen[0] == 0, 0.5)
    assert all((each == seen[0]).all() for each in seen)
    about((cell.over(around)[which][0] == 0) == (seen[0] == 0), 0.5)


@pytest.mark.parametrize("k2", [4, 6])
def test_a_mask_holds_for_all_steps_that_a_chunk_of_truncated_backpropagation_runs(k2):
    cell = Seen()
    tbptt = nn.TruncatedBPTT(nn.Recurrent(V(cell, 0.5)), 4, k2)
    for _ in range(3):
        cell.noted.clear()
        tbptt(tg.ones(4, 1, 40))
        assert all((x == cell.noted[0][0]).all() for x, _, _ in cell.noted)


# --- LearnedState ---


@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_a_learned_state_has_the_summed_gradient_of_a_given_one_and_serves_where_none_is_given(make, reverse):
    cell = make()
    learned = nn.LearnedState(cell)
    layer, lengths = nn.Recurrent(learned, reverse=reverse), [2, 0, 4]
    parts = [parameter for name, parameter in learned.named_parameters() if name.startswith("initial_")]
    for part in parts:
        part.detach().copy_(tg.randn(part.shape))
    shape = cell.initial_state(3)
    given = unflatten(shape, iter([tg.tensor(np.tile(part, (3, 1)), requires_grad=True) for part in parts]))
    x, results = tg.randn(4, 3, N, dtype="float64"), []
    for state in (None, given):
        outputs, end = results.append(layer(x, state, lengths)) or results[-1]
        ((outputs * outputs).sum() + sum((part * part).sum() for part in leaves(end))).backward()
        if state is None:
            gradients = [part.grad for part in parts]
            learned.zero_grad()
    agree(*results)
    agree(gradients, [part.grad.numpy().sum(0) for part in leaves(given)])
    assert all(part.grad is None for part in parts), "a given state takes its place"


@pytest.mark.parametrize("start", [lambda s, b: s.broadcast_to((b, N)), lambda s, b: s.expand_dims(0)[[0] * b]])
def test_learned_states_are_parameters_of_their_own(start):
    class Started(Pass):
        def __init__(self):
            self.register_buffer("start", tg.ones(N))

        def initial_state(self, batch_size):
            return start(self.start, batch_size)

        def step(self, x, state):
            return state, state

    cell = Started()
    learned = nn.LearnedState(nn.LearnedState(cell))
    nn.Recurrent(learned)(tg.ones(1, 1, N))[0].sum().backward()
    tg.optim.SGD([learned.initial_0], 0.5).step()
    agree([learned.initial_0, learned.cell.initial_0, cell.start], [np.full(N, v) for v in (0.5, 1.0, 1.0)])


KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "projected": functools.partial(nn.LSTM, proj_size=2), "gru": nn.GRU}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True], ids=["one direction", "both"])
@pytest.mark.parametrize("lengths", [None, [3, 0, 5]], ids=["all steps", "lengths"])
def test_layers_learn_their_initial_state(make, layers, both, lengths):
    layer = make(2, 3, layers, bidirectional=both, learned_state=True, dtype="float64")
    plain = make(2, 3, layers, bidirectional=both, dtype="float64")
    count, width = layers * (2 if both else 1), 2 if make is KINDS["projected"] else 3
    own = {"initial_hidden": (count, width)}
    if isinstance(layer, nn.LSTM):
        own["initial_cell"] = (count, 3)
    shapes = {name: parameter.shape for name, parameter in layer.named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in plain.named_parameters()} | own
    assert all((getattr(layer, name).numpy() == 0).all() for name in own)
    for name in own:
        getattr(layer, name).detach().copy_(tg.randn(own[name]))
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if name not in own})
    x = tg.randn(5, 3, 2, dtype="float64")
    given = [tg.tensor(np.repeat(getattr(layer, name).numpy()[:, None], 3, 1), requires_grad=True) for name in own]
    results = []
    for module, state in ((layer, None), (plain, tuple(given) if len(own) > 1 else given[0])):
        outputs, end = module(x, state, lengths)
        ((outputs * outputs).sum() + sum((part * part).sum() for part in leaves(end))).backward()
        results.append([outputs, *leaves(end)])
    agree(*results)
    agree([getattr(layer, name).grad for name in own], [part.grad.numpy().sum(1) for part in given])
    agree([p.grad for n, p in layer.named_parameters() if n not in own], [p.grad for p in plain.parameters()])
    layer.zero_grad()
    layer(x, nn.detach(end))[0].sum().backward()
    assert all(getattr(layer, name).grad is None for name in own), "a given state takes its place"
    again = make(2, 3, layers, bidirectional=both, learned_state=True, dtype="float64")
    again.load_state_dict(layer.state_dict())
    agree(again(x, None, lengths), results[0])
    agree(layer(x[:, 0])[0], layer(x)[0][:, 0])


def test_variational_dropout_leaves_the_memory_of_a_cell_inside_a_user_s_cell_alone():
    gru = nn.GRUCell(N, N)
    for parameter in gru.parameters():
        nn.init.zeros_(parameter)
    for cell in (gru, Around(gru)):
        state = nn.Recurrent(V(cell, 0.0, 0.5))(tg.zeros(2, 3, N), tg.ones(3, N))[1]
        agree(state, np.full((3, N), 0.25))
