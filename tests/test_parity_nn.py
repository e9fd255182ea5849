"""The same numbers as torch: layers with their gradients, state dicts, optimizers, clipping, whole trainings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tinygrad_rnn as tg

torch = pytest.importorskip("torch", reason="parity needs the extra `parity`")
pytestmark = pytest.mark.parity

KINDS = {
    "tanh": (tg.nn.RNN, torch.nn.RNN, {}),
    "relu": (tg.nn.RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (tg.nn.LSTM, torch.nn.LSTM, {}),
    "gru": (tg.nn.GRU, torch.nn.GRU, {}),
}
CELLS = {
    "tanh": (tg.nn.RNNCell, torch.nn.RNNCell, {}),
    "relu": (tg.nn.RNNCell, torch.nn.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (tg.nn.LSTMCell, torch.nn.LSTMCell, {}),
    "gru": (tg.nn.GRUCell, torch.nn.GRUCell, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _seeded_torch():
    torch.manual_seed(0)


def array(x):
    return x.detach().numpy() if isinstance(x, (torch.Tensor, tg.Tensor)) else np.asarray(x)


def agree(ours, theirs, e=1e-10, what=""):
    a, b = array(ours), array(theirs)
    assert a.shape == b.shape, what
    assert a.dtype == b.dtype, what
    assert np.max(np.abs(a - b), initial=0) <= e * np.max(np.abs(b), initial=0), what


def pair(a):
    """One array as a leaf of each library."""
    return tg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)


def both(of_ours, of_theirs, *arguments, **named):
    """A module of each library with the same parameters: torch's state dict, loaded as it is."""
    theirs = of_theirs(*arguments, **named, dtype=torch.float64)
    ours = of_ours(*arguments, **named, dtype="float64")
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def agree_on_gradients(ours, theirs):
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert list(mine) == list(other)
    for name in mine:
        agree(mine[name].grad, other[name].grad, what=name)


def flat(state):
    return list(state) if isinstance(state, tuple) else [state]


def compare(ours, theirs, arguments, state):
    """Outputs, final states and all gradients of layers or cells, weighted at random so that none cancels."""
    rng = np.random.default_rng(5)
    (x, y), states = pair(arguments), [pair(s) for s in state]
    of_ours = tuple(s for s, _ in states) if len(states) > 1 else states[0][0] if states else None
    of_theirs = tuple(s for _, s in states) if len(states) > 1 else states[0][1] if states else None
    found, expected = ours(x, of_ours), theirs(y, of_theirs)
    found = [found[0], *flat(found[1])] if isinstance(theirs, torch.nn.RNNBase) else flat(found)
    expected = [expected[0], *flat(expected[1])] if isinstance(theirs, torch.nn.RNNBase) else flat(expected)
    assert len(found) == len(expected)
    loss, other = 0.0, 0.0
    for a, b in zip(found, expected):
        agree(a, b)
        weight = rng.standard_normal(a.shape)
        loss, other = loss + (a * weight).sum(), other + (b * torch.tensor(weight)).sum()
    loss.backward()
    other.backward()
    agree_on_gradients(ours, theirs)
    for a, b in [(x, y), *states]:
        agree(a.grad, b.grad)


# --- Layers ---


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_cells(kind, bias):
    rng = np.random.default_rng(0)
    mine, other, more = CELLS[kind]
    for batched, given in itertools.product([True, False], [True, False]):
        ours, theirs = both(mine, other, 3, 4, bias=bias, **more)
        state = [rng.standard_normal((5, 4) if batched else (4,)) for _ in range((2 if kind == "lstm" else 1) * given)]
        compare(ours, theirs, rng.standard_normal((5, 3) if batched else (3,)), state)


@every_kind
def test_saturated_gates_and_large_numbers(kind):
    mine, other, more = KINDS[kind]
    ours, theirs = both(mine, other, 3, 4, 2, **more)
    x, y = pair(np.random.default_rng(0).standard_normal((6, 2, 3)) * 1e3)
    found, expected = ours(x)[0], theirs(y)[0]
    agree(found, expected)
    found.sum().backward()  # y * (1 - y) of a gate at 1 is rounding alone, in both: only finite, then
    assert all(np.isfinite(p.grad.numpy()).all() for p in [x, *ours.parameters()])


@every_kind
def test_a_state_dict_goes_to_torch_as_it_is_and_comes_back(kind):
    mine, other, more = KINDS[kind]
    ours, theirs = mine(3, 4, 2, **more), other(3, 4, 2, **more)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict({name: torch.tensor(t.numpy()) for name, t in ours.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    agree(ours(tg.tensor(x))[0], theirs(torch.tensor(x))[0], e=1e-5)
    third = mine(3, 4, 2, **more)
    third.load_state_dict(theirs.state_dict())
    for name, t in third.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), ours.state_dict()[name].numpy(), err_msg=name)


@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 0, 3), (2, 4, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    ours, theirs = both(tg.nn.Linear, torch.nn.Linear, 3, 2, bias=bias)
    compare(Single(ours), Single(theirs), np.random.default_rng(0).standard_normal(shape), [])


@pytest.mark.parametrize(("size", "shape"), [(4, (3, 4)), ((2, 4), (3, 2, 4)), ((4,), (2, 3, 4))])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm(size, shape, eps):
    rng = np.random.default_rng(0)
    ours, theirs = both(tg.nn.LayerNorm, torch.nn.LayerNorm, size, eps)
    weight, bias = rng.standard_normal(ours.weight.shape), rng.standard_normal(ours.bias.shape)
    ours.load_state_dict({"weight": weight, "bias": bias})
    theirs.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    compare(Single(ours), Single(theirs), rng.standard_normal(shape) * 3 + 1, [])


def test_embedding():
    ours, theirs = both(tg.nn.Embedding, torch.nn.Embedding, 6, 3)
    index, weight = np.array([[0, 5, 0], [2, 2, 2]]), np.random.default_rng(0).standard_normal((2, 3, 3))
    found, expected = ours(tg.tensor(index)), theirs(torch.tensor(index))
    agree(found, expected)
    (found * weight).sum().backward()
    (expected * torch.tensor(weight)).sum().backward()
    agree_on_gradients(ours, theirs)


class Single:
    """A module called with one argument, without a state."""

    def __init__(self, module):
        self.module, self.named_parameters = module, module.named_parameters

    def __call__(self, x, state):
        assert state is None
        return self.module(x)


# --- Optimizers ---

OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.0, 0.0)}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.5}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.8, "weight_decay": 0.1, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.05, "centered": True}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.5, "eps": 1e-3, "centered": True, "momentum": 0.5, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "settings"), OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "e"), [("float64", 1e-12), ("float32", 1e-5)])
def test_optimizers_over_fifty_steps(name, settings, dtype, e):
    rng = np.random.default_rng(0)
    starts = [np.array(rng.standard_normal(shape), dtype) for shape in [(4, 3), (), (3,), (2, 5)]]
    starts[3] = starts[3].T  # not contiguous in either library
    mine, other = [tg.nn.Parameter(tg.from_numpy(a.copy("K"))) for a in starts], [torch.tensor(a) for a in starts]
    groups = [[0, 1, 3], [2]]
    more = [{}, {"lr": 0.003, "weight_decay": 0.02}]
    a = getattr(tg.optim, name)([{"params": [mine[i] for i in g], **m} for g, m in zip(groups, more)], **settings)
    b = getattr(torch.optim, name)([{"params": [other[i] for i in g], **m} for g, m in zip(groups, more)], **settings)
    for step in range(50):
        for i, (p, q) in enumerate(zip(mine, other)):
            g = np.array(rng.standard_normal(p.shape) * 10.0 ** rng.integers(-3, 3), dtype)
            missing = i == 1 and step % 3 == 0
            p.grad = None if missing else tg.tensor(g)
            q.grad = None if missing else torch.tensor(g)
        if step == 25:
            for optimizer in (a, b):
                optimizer.param_groups[0]["lr"] *= 0.5
        a.step()
        b.step()
        for p, q in zip(mine, other):
            agree(p, q, e, f"step {step}")


def test_defaults_are_torch_s():
    p, q = tg.nn.Parameter(tg.ones(1)), torch.ones(1, requires_grad=True)
    for name in ("SGD", "Adam", "AdamW", "RMSprop"):
        ours, theirs = getattr(tg.optim, name)([p]).param_groups[0], getattr(torch.optim, name)([q]).param_groups[0]
        for setting in set(ours) - {"params"}:
            assert ours[setting] == theirs[setting], f"{name} {setting}"


@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.0, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("kind", ["ordinary", "zero", "tiny", "huge", "infinite", "nan", "aliased", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_grad_norm(norm_type, max_norm, kind, dtype):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape).astype(dtype) for shape in [(3, 2), (), (4,)]]
    scale = {"zero": 0, "tiny": 1e-20, "huge": 1e15}.get(kind, 1)
    grads = [g * np.dtype(dtype).type(scale) for g in grads]
    if kind in ("infinite", "nan"):
        grads[0][1, 1] = np.inf if kind == "infinite" else np.nan
    torch_overflows = kind in ("tiny", "huge") and dtype == "float32" and norm_type == 3.0
    e = 1e-5 if dtype == "float32" else 1e-12
    mine = [tg.nn.Parameter(tg.zeros(g.shape, dtype=dtype)) for g in grads]
    other = [torch.zeros(g.shape, dtype=getattr(torch, dtype), requires_grad=True) for g in grads]
    for p, q, g in zip(mine, other, grads):
        if kind != "none":
            p.grad, q.grad = tg.tensor(np.asarray(g)), torch.tensor(np.asarray(g))
    if kind == "aliased":  # what backward hands to several in either library
        mine[2].grad, other[2].grad = mine[0].grad.reshape(-1)[:4], other[0].grad.reshape(-1)[:4]
    found = tg.optim.clip_grad_norm_(mine, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(other, max_norm, norm_type)
    if torch_overflows:
        assert expected.item() in (0.0, np.inf)
        assert 1e-21 < found.item() < 1e17
        return
    np.testing.assert_allclose(found.item(), expected.item(), rtol=e)
    for p, q in zip(mine, other):
        if kind == "none":
            assert p.grad is None
        else:
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=e, atol=0)


# --- A whole training ---


class Model:
    """Embedding, recurrent layers, Linear, in either library: the same code."""

    def __init__(self, nn, kind, dtype):
        self.embedding = nn.Embedding(11, 6, dtype=dtype)
        self.layers = getattr(nn, kind)(6, 8, 2, dtype=dtype)
        self.head = nn.Linear(8, 11, dtype=dtype)
        self.parts = {"embedding": self.embedding, "layers": self.layers, "head": self.head}

    def parameters(self):
        return [p for part in self.parts.values() for p in part.parameters()]

    def __call__(self, index, state):
        hidden, state = self.layers(self.embedding(index), state)
        return self.head(hidden), state


def detached(state):
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


def losses(model, optimizer, clip, cross_entropy, tensor, text, chunk=7):
    """Truncated backpropagation through time: the state is carried from chunk to chunk, and cut off."""
    found, state = [], None
    for _ in range(100):
        start = len(found) * chunk % (len(text) - chunk - 1)
        state = None if start < chunk else state
        inputs, target = text[start : start + chunk], text[start + 1 : start + chunk + 1]
        logits, state = model(tensor(inputs), state)
        loss = cross_entropy(logits.reshape(-1, 11), tensor(target.reshape(-1)))
        optimizer.zero_grad()
        loss.backward()
        clip(model.parameters(), 0.5)
        optimizer.step()
        state = detached(state)
        found.append(loss.item())
    return found


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_hundred_steps_of_a_character_model(kind):
    text = (np.arange(60)[:, None] ** 2 + np.arange(4)) % 11
    theirs, ours = Model(torch.nn, kind, torch.float64), Model(tg.nn, kind, "float64")
    for name, part in ours.parts.items():
        part.load_state_dict(theirs.parts[name].state_dict())
    expected = losses(
        theirs,
        torch.optim.Adam(theirs.parameters(), lr=0.01),
        torch.nn.utils.clip_grad_norm_,
        torch.nn.functional.cross_entropy,
        torch.tensor,
        text,
    )
    found = losses(
        ours,
        tg.optim.Adam(ours.parameters(), lr=0.01),
        tg.optim.clip_grad_norm_,
        tg.cross_entropy,
        tg.tensor,
        text,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert found[-1] < 0.9 * found[0], "it learns, or the comparison is one of constants"
