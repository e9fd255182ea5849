"""Linear, Embedding, Dropout, LayerNorm, and the initialisers."""

from __future__ import annotations

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


def functional(module, x):
    """The module as a function of x and its parameters, for gradcheck."""
    names = [name for name, _ in module.named_parameters()]

    def f(x, *parameters):
        for name, parameter in zip(names, parameters):
            setattr(module, name, parameter)
        return module(x)

    return f, [x, *[tg.tensor(p, requires_grad=True) for p in module.parameters()]]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(3, 2, dtype="float64"), (4, 3)),
        (lambda: nn.Linear(3, 2, bias=False, dtype="float64"), (2, 2, 3)),
        (lambda: nn.Linear(3, 2, dtype="float64"), (3,)),
        (lambda: nn.LayerNorm(4, dtype="float64"), (3, 4)),
        (lambda: nn.LayerNorm((2, 3), dtype="float64"), (2, 2, 3)),
    ],
)
def test_dense_layers_by_gradcheck(make, shape):
    f, inputs = functional(make(), tg.randn(*shape, dtype="float64", requires_grad=True))
    assert tg.gradcheck(f, inputs, atol=1e-7, rtol=1e-6)
    assert tg.gradgradcheck(f, inputs, atol=1e-6, rtol=1e-5)


def test_embedding_by_gradcheck():
    layer = nn.Embedding(5, 3, dtype="float64")
    index = tg.tensor([[0, 2], [2, 4]])
    weight = tg.tensor(layer.weight, requires_grad=True)
    assert tg.gradcheck(lambda w: (setattr(layer, "weight", w), tg.tanh(layer(index)))[1], weight, atol=1e-7, rtol=1e-6)


def test_linear_is_the_formula():
    layer, x = nn.Linear(3, 2, dtype="float64"), np.random.default_rng(0).standard_normal((4, 5, 3))
    expected = x @ layer.weight.numpy().T + layer.bias.numpy()
    np.testing.assert_allclose(layer(tg.tensor(x)).numpy(), expected, rtol=1e-13)
    with pytest.raises(ShapeError, match="linear"):
        layer(tg.ones(4, 2, dtype="float64"))


def test_layer_norm_has_mean_zero_and_variance_one_even_far_from_zero():
    x = np.random.default_rng(0).standard_normal((50, 64)) + 1e6
    y = nn.LayerNorm(64, eps=0.0, dtype="float64")(tg.tensor(x)).numpy()
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-8)
    np.testing.assert_allclose(y.std(-1), 1, rtol=1e-8)
    assert np.isfinite(nn.LayerNorm(3)(tg.ones(2, 3)).numpy()).all(), "no variance"
    for wrong in [(2, 4), (3,), ()]:
        with pytest.raises(ShapeError, match="LayerNorm"):
            nn.LayerNorm((2, 3))(tg.zeros(*wrong))


def test_embedding_takes_rows_and_refuses_what_is_none():
    layer = nn.Embedding(4, 3)
    np.testing.assert_array_equal(layer(tg.tensor([[1, 3]])).numpy(), layer.weight.numpy()[[[1, 3]]])
    for wrong, error in [([4], ArgumentError), ([-1], ArgumentError), ([0.5], DtypeError)]:
        with pytest.raises(error, match="embedding"):
            layer(tg.tensor(wrong))


def test_dropout_drops_p_keeps_the_mean_and_scales_the_gradient_alike():
    x = tg.ones(200, 500, requires_grad=True)
    layer = nn.Dropout(0.3)
    y = layer(x)
    dropped = y.numpy() == 0
    assert abs(dropped.mean() - 0.3) < 0.01
    assert abs(y.numpy().mean() - 1.0) < 0.01
    np.testing.assert_allclose(y.numpy()[~dropped], 1 / 0.7, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert not np.array_equal(layer(x).numpy(), y.numpy()), "each call draws anew"
    np.testing.assert_array_equal(layer.eval()(x).numpy(), x.numpy())


def test_dropout_at_its_ends():
    x = tg.randn(10, requires_grad=True)
    np.testing.assert_array_equal(nn.Dropout(0.0)(x).numpy(), x.numpy())
    y = nn.Dropout(1.0)(x)
    np.testing.assert_array_equal(y.numpy(), np.zeros(10))
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros(10))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), float("inf")])
def test_dropout_out_of_range(p):
    for refuse in (lambda: nn.Dropout(p), lambda: nn.LSTM(2, 2, 2, dropout=p), lambda: tg.dropout(tg.ones(2), p)):
        with pytest.raises(ArgumentError, match="not a probability"):
            refuse()


MAKERS = {
    "linear": lambda **k: nn.Linear(4, 3, **k),
    "embedding": lambda **k: nn.Embedding(4, 3, **k),
    "cell": lambda **k: nn.LSTMCell(4, 3, **k),
    "layers": lambda **k: nn.GRU(4, 3, 2, **k),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_same_seed_gives_the_same_parameters(make):
    a, b = (make(rng=np.random.default_rng(5)) for _ in range(2))
    same(values(a), values(b))
    tg.manual_seed(3)
    c = make()
    d = make()
    tg.manual_seed(3)
    e = make()
    same(values(c), values(e))
    assert any(not np.array_equal(x, y) for x, y in zip(values(c).values(), values(d).values()))
    tg.manual_seed(4)
    make(rng=np.random.default_rng(5))
    after = tg.rand(3).numpy()
    tg.manual_seed(4)
    np.testing.assert_array_equal(tg.rand(3).numpy(), after, err_msg="rng= leaves the library's numbers alone")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_dtype_of_parameters(make):
    assert {t.dtype for t in make().state_dict().values()} == {np.dtype(np.float32)}
    assert {t.dtype for t in make(dtype="float64").state_dict().values()} == {np.dtype(np.float64)}
    tg.set_default_dtype("float64")
    try:
        assert {t.dtype for t in make().state_dict().values()} == {np.dtype(np.float64)}
    finally:
        tg.set_default_dtype("float32")


# --- Initialisers ---


def spread(tensor, low, high):
    """Inside the bounds, and filling them."""
    a = tensor.numpy()
    assert a.min() >= low
    assert a.max() <= high
    assert a.min() < low + 0.02 * (high - low)
    assert a.max() > high - 0.02 * (high - low)
    assert abs(a.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_uniform_normal_and_constants():
    t = tg.zeros(100, 60)
    assert nn.init.uniform_(t, -2.0, 3.0) is t
    spread(t, -2.0, 3.0)
    nn.init.normal_(t, 1.0, 0.5)
    assert abs(t.numpy().mean() - 1.0) < 0.03
    assert abs(t.numpy().std() - 0.5) < 0.02
    for fill, value in [(nn.init.zeros_, 0), (nn.init.ones_, 1), (lambda t: nn.init.constant_(t, 2.5), 2.5)]:
        assert np.all(fill(t).numpy() == value)


def test_glorot():
    spread(nn.init.xavier_uniform_(tg.zeros(200, 100)), -np.sqrt(6 / 300), np.sqrt(6 / 300))
    spread(nn.init.xavier_uniform_(tg.zeros(200, 100), gain=3.0), -3 * np.sqrt(6 / 300), 3 * np.sqrt(6 / 300))
    assert abs(nn.init.xavier_normal_(tg.zeros(200, 100), gain=2.0).numpy().std() / (2 * np.sqrt(2 / 300)) - 1) < 0.03
    for wrong in (tg.zeros(3), tg.zeros(2, 3, 4)):
        for initialise in (nn.init.xavier_uniform_, nn.init.xavier_normal_, nn.init.orthogonal_):
            with pytest.raises(ShapeError, match="matrix"):
                initialise(wrong)


@pytest.mark.parametrize("make", [lambda: nn.Linear(25, 80), lambda: nn.LSTMCell(40, 25), lambda: nn.GRU(9, 25, 2)])
def test_layers_begin_uniform_as_in_pytorch(make):
    for name, p in make().named_parameters():
        assert abs(p.numpy()).max() <= 0.2, name
        assert p.size < 75 or abs(p.numpy()).max() > 0.18, name


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_each_gate_s_block_is_orthogonal(gates):
    w = (
        nn.init.orthogonal_(tg.zeros(gates * 6, 6, dtype="float64"), gain=2.0, blocks=gates)
        .numpy()
        .reshape(gates, 6, 6)
    )
    for block in w:
        np.testing.assert_allclose(block @ block.T, 4.0 * np.eye(6), atol=1e-12)
    assert gates == 1 or not np.allclose(w[0], w[1])


@pytest.mark.parametrize(("rows", "columns"), [(3, 7), (7, 3), (1, 5), (5, 5)])
def test_the_shorter_side_is_orthonormal(rows, columns):
    w = nn.init.orthogonal_(tg.zeros(rows, columns, dtype="float64")).numpy()
    product = w @ w.T if rows <= columns else w.T @ w
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-12)


def test_orthogonal_matrices_are_drawn_without_a_preferred_sign():
    signs = [np.sign(nn.init.orthogonal_(tg.zeros(2, 2)).numpy()[0, 0]) for _ in range(200)]
    assert 60 < signs.count(1.0) < 140


def test_forget_bias_sets_the_forget_gate_s_bias_and_nothing_else():
    cell = nn.LSTMCell(2, 3)
    before = values(cell)
    nn.init.forget_bias_(cell, 1.5)
    after = values(cell)
    for name, value in (("bias_ih", 1.5), ("bias_hh", 0.0)):
        before[name][3:6] = value
    same(after, before)
    for p in cell.parameters():
        nn.init.zeros_(p)
    nn.init.forget_bias_(cell, 1.5)
    _, memory = cell(tg.zeros(1, 2), (tg.zeros(1, 3), tg.ones(1, 3)))
    np.testing.assert_allclose(memory.numpy(), 1 / (1 + np.exp(-1.5)), rtol=1e-6, err_msg="it keeps the memory")
    for wrong in (nn.LSTMCell(2, 3, bias=False), nn.GRUCell(2, 3)):
        with pytest.raises(ArgumentError, match="forget"):
            nn.init.forget_bias_(wrong)


def test_initialisers_may_write_parameters_and_mind_the_tape():
    layer = nn.Linear(2, 2)
    loss = (layer(tg.ones(1, 2, requires_grad=True)) ** 2).sum()
    nn.init.ones_(layer.weight)
    assert layer.weight.requires_grad
    with pytest.raises(tg.errors.GraphError, match="changed in place"):
        loss.backward()
