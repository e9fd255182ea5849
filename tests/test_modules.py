"""Modules as a user of PyTorch expects them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DtypeError, ShapeError

nn = tg.nn


def values(module):
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Tree(nn.Module):
    """Own parameters, children that are modules, a child's child, a buffer, and a shared weight."""

    def __init__(self):
        self.first = nn.Linear(3, 4)
        self.scale = nn.Parameter(tg.ones(4))
        self.inner = nn.Sequential(nn.Linear(4, 4, bias=False), tg.tanh, nn.Dropout(0.5))
        self.rest = nn.ModuleList([nn.LayerNorm(4), nn.Embedding(5, 4)])
        self.tied = self.first
        self.also = self.inner[0].weight
        self.register_buffer("seen", tg.zeros(2))

    def forward(self, x):
        return self.rest[0](self.inner(self.first(x) * self.scale))


NAMES = ["scale", "also", "first.weight", "first.bias", "rest.0.weight", "rest.0.bias", "rest.1.weight"]


# --- Modules ---


def test_parameters_come_own_first_then_children_in_order_and_shared_ones_once():
    tree = Tree()
    named = list(tree.named_parameters())
    assert [name for name, _ in named] == NAMES
    assert [id(p) for p in tree.parameters()] == [id(p) for _, p in named]
    assert dict(named)["first.weight"] is tree.tied.weight
    assert dict(named)["also"] is tree.inner[0].weight
    assert [name for name, _ in tree.named_buffers()] == ["seen"]
    assert all(p.is_leaf and p.requires_grad for p in tree.parameters())


def test_state_dict_has_every_name_and_shares_memory():
    tree = Tree()
    state = tree.state_dict()
    assert set(state) == {*NAMES, "seen", "tied.weight", "tied.bias", "inner.0.weight"}
    assert not any(t.requires_grad for t in state.values())
    state["scale"][0] = 7.0
    assert tree.scale.numpy()[0] == 7.0


def test_modules_lists_each_once():
    tree = Tree()
    kinds = [type(m).__name__ for m in tree.modules()]
    assert kinds == ["Tree", "Linear", "Sequential", "Linear", "Dropout", "ModuleList", "LayerNorm", "Embedding"]
    assert dict(tree.named_modules())["inner.2"] is tree.inner[2]


def test_train_and_eval_reach_every_module_and_return_the_module():
    tree = Tree()
    assert all(m.training for m in tree.modules())
    assert tree.eval() is tree
    assert not any(m.training for m in tree.modules())
    assert tree.train() is tree
    assert all(m.training for m in tree.modules())


@pytest.mark.parametrize("make", [nn.RNN, nn.LSTM, nn.GRU])
def test_eval_reaches_the_dropout_between_recurrent_layers(make):
    layer = make(2, 3, 2, dropout=0.5)
    x = tg.randn(4, 2, 2)
    assert not np.array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())


def test_zero_grad_drops_every_gradient():
    tree = Tree()
    tree(tg.ones(2, 3)).sum().backward()
    assert tree.first.weight.grad is not None
    tree.zero_grad()
    assert all(p.grad is None for p in tree.parameters())


@pytest.mark.parametrize(
    "as_given", [lambda t: t, lambda t: t.numpy(), lambda t: t.numpy().T.copy().T, lambda t: t.data]
)
def test_load_state_dict_takes_tensors_and_arrays(as_given):
    source, target = Tree(), Tree()
    source.seen[1] = 3.0
    held = target.first.weight
    target.load_state_dict({name: as_given(t) for name, t in source.state_dict().items()})
    same(values(source), values(target))
    assert target.first.weight is held
    assert held.requires_grad
    source.scale.detach()[0] = -1.0
    assert target.scale.numpy()[0] == 1.0, "values are copied"


def test_load_state_dict_casts_to_the_parameter_s_dtype():
    layer = nn.Linear(2, 2)
    layer.load_state_dict({"weight": np.eye(2), "bias": np.array([1, 2])})
    assert layer.weight.dtype == np.float32
    np.testing.assert_array_equal(layer.bias.numpy(), [1, 2])


def without(name):
    return lambda state: state.pop(name)


def put(**more):
    return lambda state: state.update({name.replace("__", "."): value for name, value in more.items()})


@pytest.mark.parametrize(
    ("spoil", "error", "named"),
    [
        (without("first.bias"), ArgumentError, ["first.bias"]),
        (put(stranger=np.zeros(1), other=np.zeros(1)), ArgumentError, ["stranger", "other"]),
        (lambda s: (s.pop("seen"), s.update(stranger=np.zeros(1))), ArgumentError, ["seen", "stranger"]),
        (put(first__weight=np.zeros((4, 4)), seen=np.zeros(3)), ShapeError, ["first.weight", "seen", "(4, 4)", "(3,)"]),
        (put(scale=np.zeros((4, 1))), ShapeError, ["scale"]),
        (put(seen=np.array(["a", "b"])), DtypeError, ["not of numbers"]),
        (put(seen=None), DtypeError, ["not of numbers"]),
    ],
)
def test_load_state_dict_is_all_or_nothing(spoil, error, named):
    source, target = Tree(), Tree()
    state = dict(source.state_dict())
    spoil(state)
    before = values(target)
    with pytest.raises(error) as caught:
        target.load_state_dict(state)
    same(values(target), before)
    assert all(name in str(caught.value) for name in named)


def test_load_state_dict_not_strict_takes_the_names_that_fit():
    target = nn.Linear(2, 2)
    bias = target.bias.numpy().copy()
    target.load_state_dict({"weight": np.ones((2, 2)), "stranger": np.zeros(9)}, strict=False)
    np.testing.assert_array_equal(target.weight.numpy(), np.ones((2, 2)))
    np.testing.assert_array_equal(target.bias.numpy(), bias)
    with pytest.raises(ShapeError):
        target.load_state_dict({"weight": np.ones((2, 3))}, strict=False)


def test_astype_keeps_identity_sharing_and_autograd():
    tree = Tree()
    tree.register_buffer("count", tg.tensor([1, 2]))
    held = list(tree.parameters())
    tree(tg.ones(2, 3)).sum().backward()
    assert tree.astype("float64") is tree
    assert all(a is b for a, b in zip(held, tree.parameters()))
    assert {t.dtype for n, t in tree.state_dict().items() if n != "count"} == {np.dtype(np.float64)}
    assert tree.count.dtype == np.int64
    assert all(p.grad is None for p in held)
    tree.eval()(tg.ones(2, 3, dtype="float64")).sum().backward()
    assert {p.grad.dtype for p in held if p.grad is not None} == {np.dtype(np.float64)}
    assert tree.first.weight.grad is not None
    frozen = nn.Parameter(tg.ones(2), requires_grad=False)
    tree.frozen = frozen
    tree.astype("float32")
    assert not frozen.requires_grad
    with pytest.raises(DtypeError):
        tree.astype("int64")


def test_frozen_parameters_get_no_gradient():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad = False
    layer(tg.ones(1, 2)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


@pytest.mark.parametrize("make", [Tree, lambda: nn.LSTM(3, 2, 2)])
def test_a_deep_copy_has_values_and_gradients_of_its_own(make):
    module = make().eval()
    twin = copy.deepcopy(module)
    same(values(module), values(twin))
    result = twin(tg.ones(2, 3))
    (result[0] if isinstance(result, tuple) else result).sum().backward()
    assert all(p.grad is None for p in module.parameters())
    assert next(p for name, p in twin.named_parameters() if "weight" in name).grad is not None
    assert len(list(twin.parameters())) == len(list(module.parameters())), "sharing is kept"
    tg.optim.SGD(twin.parameters(), lr=1.0).step()
    assert any(not np.array_equal(a.numpy(), b.numpy()) for a, b in zip(module.parameters(), twin.parameters()))


def test_a_deep_copy_of_a_leaf_has_a_gradient_of_its_own():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = copy.deepcopy(x)
    (y * y).sum().backward()
    assert x.grad is None
    np.testing.assert_array_equal(y.grad.numpy(), [2.0, 4.0])


def test_sequential_runs_modules_and_functions_in_order():
    layers = nn.Sequential(nn.Linear(2, 3), tg.tanh, lambda x: x * 2.0, nn.Linear(3, 1))
    x = tg.randn(4, 2)
    expected = layers[3](tg.tanh(layers[0](x)) * 2.0)
    np.testing.assert_array_equal(layers(x).numpy(), expected.numpy())
    assert [n for n, _ in layers.named_parameters()] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert len(layers) == 4
    assert [n for n, _ in layers[:1].named_parameters()] == ["0.weight", "0.bias"]
    np.testing.assert_array_equal(layers[:2](x).numpy(), tg.tanh(layers[0](x)).numpy())


def test_module_list_holds_modules_without_running_them():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    layers.append(nn.Dropout())
    assert len(layers) == 3
    assert [type(m).__name__ for m in layers] == ["Linear", "Linear", "Dropout"]
    assert layers[-1] is list(layers)[2]
    assert len(list(layers[1:].parameters())) == 2
    with pytest.raises(TypeError, match="forward"):
        layers(tg.ones(2))


@pytest.mark.parametrize(("base", "sizes"), [(nn.Sequential, ()), (nn.ModuleList, ()), (nn.LSTM, (2, 3))])
def test_a_subclass_of_a_container_may_hold_more(base, sizes):
    class Larger(base):
        def __init__(self):
            super().__init__(*sizes)
            self.head = nn.Linear(3, 1)
            self.gain = nn.Parameter(tg.ones(1))

    names = {name for name, _ in Larger().named_parameters()}
    assert {"head.weight", "head.bias", "gain"} <= names
    assert base is not nn.LSTM or "weight_ih_l0" in names


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.Linear(2, 3), "Linear(2, 3, bias=True)"),
        (nn.Embedding(5, 2), "Embedding(5, 2)"),
        (nn.Dropout(0.1), "Dropout(p=0.1)"),
        (nn.LayerNorm(4), "LayerNorm((4,), eps=1e-05)"),
        (nn.LSTM(2, 3, 2), "LSTM(2, 3, num_layers=2)"),
        (nn.GRUCell(2, 3), "GRUCell(2, 3)"),
        (nn.Sequential(nn.Linear(1, 1), tg.tanh), "Sequential(\n  (0): Linear(1, 1, bias=True)\n)"),
        (
            nn.ModuleList([nn.Sequential(nn.Dropout(0.5))]),
            "ModuleList(\n  (0): Sequential(\n    (0): Dropout(p=0.5)\n  )\n)",
        ),
    ],
)
def test_repr(module, text):
    assert repr(module) == text


def test_a_module_without_forward_says_so():
    with pytest.raises(TypeError, match=r"Module does not define forward"):
        nn.Module()(1)


def test_parameter_is_a_leaf_of_floating_dtype():
    assert nn.Parameter([1.0, 2.0]).requires_grad
    assert nn.Parameter(tg.ones(2) * 2.0).is_leaf
    with pytest.raises(DtypeError):
        nn.Parameter(tg.tensor([1, 2]))
