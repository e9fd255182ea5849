"""However the numbers lie that a fused run is given, it finds what the eager one finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import settings

pytestmark = pytest.mark.skipif(not settings.jit_enabled, reason="nothing is compiled here")


def spaced(a, gap):
    """The numbers with `gap` bytes after each: strides may be no multiple of their size."""
    made = np.zeros(a.shape, np.dtype([("number", a.dtype), ("gap", f"V{gap}")]))["number"]
    made[...] = a
    return made


def shifted(a, by):
    """As of a file with a head of so many bytes."""
    return np.frombuffer(b"?" * by + a.tobytes(), a.dtype, offset=by).reshape(a.shape)


def reversed_along(*axes):
    """The numbers backwards along some axes."""
    return lambda a: np.flip(np.flip(a, axes).copy(), axes)


def read_only(a):
    made = a.copy()
    made.flags.writeable = False
    return made


def windows(a):
    """Overlapping rows: each begins one number behind the one before."""
    flat = np.concatenate([a.reshape(-1), a.reshape(-1)])
    strides = (*[8 * (a.ndim - axis) for axis in range(a.ndim - 1)], 8)
    return np.lib.stride_tricks.as_strided(flat, a.shape, strides, writeable=False)


def view_of_views(a):
    """Every second of a part of a reversed transpose."""
    large = np.zeros([2 * n + 3 for n in a.shape[::-1]])
    made = large.T[tuple(slice(-2, -2 * n - 2, -2) for n in a.shape)]
    made[...] = a
    return made


def broadcast(*axes):
    """The same numbers all along some axes: strides of zero."""

    def made(a):
        return np.broadcast_to(
            a[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(a.ndim))], a.shape
        )

    return made


def nonsense(a):
    """Where an axis is of one, its stride says nothing."""
    strides = tuple(8_000_008 if n == 1 else stride for n, stride in zip(a.shape, a.strides))
    return np.lib.stride_tricks.as_strided(a.copy(), a.shape, strides)


LAYOUTS = {
    "reversed along the first axis": reversed_along(0),
    "reversed along the second axis": reversed_along(1),
    "reversed along the last axis": reversed_along(-1),
    "reversed along the first two": reversed_along(0, 1),
    "the same at each first": broadcast(0),
    "the same at each second": broadcast(1),
    "one number along the last axis": broadcast(-1),
    "the same along the first two": broadcast(0, 1),
    "every second number": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "every second along the first axis": lambda a: np.repeat(a, 2, axis=0)[::2],
    "a column of a wider array": lambda a: np.concatenate([a, a + 1, a], axis=-1)[..., : a.shape[-1]],
    "gaps of 16 bytes": lambda a: spaced(a, 16),
    "gaps of 3 bytes": lambda a: spaced(a, 3),
    "not aligned, by 1": lambda a: shifted(a, 1),
    "not aligned, by 4": lambda a: shifted(a, 4),
    "aligned to 8 only": lambda a: shifted(a, 8),
    "read-only": read_only,
    "overlapping windows": windows,
    "Fortran order": np.asfortranarray,
    "a view of views": view_of_views,
    "of the other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "nonsense strides": nonsense,
}
SHAPES = [(9, 4, 5, 6), (9, 1, 5, 6), (1, 4, 5, 6), (9, 4, 1, 1), (1, 1, 1, 1), (2, 40, 3, 33)]
ROLES = ["x", "state", "weight", "recurrent", "bias", "by_row", "gradient"]


def agree(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert np.abs(one - other).max(initial=0.0) <= 1e-12 * max(np.abs(other).max(initial=0.0), 1.0)


def results(engine, arrays, reverse):
    """Values and all gradients of a recurrence over these arrays, as they lie."""
    given = {name: tg.from_numpy(array) for name, array in arrays.items()}
    for name in given.keys() - {"by_row", "gradient"}:
        given[name].requires_grad = True

    def step(h, x):
        h = tg.tanh(x @ given["weight"] + h @ given["recurrent"].T + given["bias"]) * given["by_row"]
        return h, h

    last, ys = tg.scan(step, given["state"], given["x"], reverse=reverse, engine=engine)
    wanted = [tensor for tensor in given.values() if tensor.requires_grad]
    return [t.numpy() for t in (last, ys, *tg.grad(ys, wanted, given["gradient"]))]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_everything_that_a_run_takes(layout, role):
    rng = np.random.default_rng(0)
    for (steps, rows, width, hidden), reverse in itertools.product(SHAPES, (False, True)):
        arrays = {
            "x": rng.standard_normal((steps, rows, width)),
            "state": rng.standard_normal((rows, hidden)),
            "weight": rng.standard_normal((width, hidden)),
            "recurrent": rng.standard_normal((hidden, hidden)),
            "bias": rng.standard_normal((hidden, 1))[:, 0].copy(),
            "by_row": rng.standard_normal((rows, hidden)),
            "gradient": rng.standard_normal((steps, rows, hidden)),
        }
        if arrays[role].ndim == 1 and ("second" in layout or "two" in layout):
            continue
        arrays[role] = LAYOUTS[layout](arrays[role])
        plain = {name: array.astype(np.float64, order="C") for name, array in arrays.items()}
        agree(results("fused", arrays, reverse), results("eager", plain, reverse))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [tg.nn.LSTM, tg.nn.GRU, tg.nn.RNN])
def test_layers_of_every_kind_over_every_layout(make, layout):
    rng = np.random.default_rng(0)
    for settings_, lengths in itertools.product(
        ({}, {"bidirectional": True}, {"batch_first": True}, {"num_layers": 2}), (None, [5, 9, 1, 9])
    ):
        layer = make(5, 7, dtype="float64", **settings_)
        x = LAYOUTS[layout](rng.standard_normal((4, 9, 5) if "batch_first" in settings_ else (9, 4, 5)))
        found = []
        for engine, array in (("fused", x), ("eager", x.astype(np.float64, order="C"))):
            with tg.engine(engine):
                given = tg.from_numpy(array)
                given.requires_grad = True
                y = layer(given, lengths=lengths)[0]
                found.append([t.numpy() for t in (y, *tg.grad((y * y).sum(), [given, *layer.parameters()]))])
        agree(*found)


FLIPPED = {
    "x[::-1]": lambda x: x[::-1],
    "flip of time": lambda x: tg.flip(x, axis=0),
    "flip of rows": lambda x: tg.flip(x, axis=1),
    "flip of features": lambda x: tg.flip(x, axis=2),
    "swapped and flipped": lambda x: tg.permute_dims(tg.flip(tg.permute_dims(x, (1, 0, 2)), axis=1), (1, 0, 2)),
    "every second, backwards": lambda x: tg.concat([x, x])[::-2],
}


@pytest.mark.parametrize("name", FLIPPED)
def test_what_views_of_tensors_look_like(name):
    layer, x = tg.nn.LSTM(5, 7, dtype="float64"), tg.randn(12, 4, 5, dtype="float64", requires_grad=True)
    found = []
    for engine in ("fused", "eager"):
        with tg.engine(engine):
            y = layer(FLIPPED[name](x))[0]
            z = FLIPPED[name](y)  # so the gradient that arrives is such a view too
            found.append([t.numpy() for t in (z, *tg.grad((z * z).sum(), [x, *layer.parameters()]))])
    agree(*found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_and_updates_of_every_layout(layout):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((130, 120)), rng.standard_normal((120, 110))
    large = LAYOUTS[layout](a)
    assert np.abs((tg.from_numpy(large) @ tg.from_numpy(b)).numpy() - large @ b).max() < 1e-11
    right = LAYOUTS[layout](b)
    assert np.abs((tg.from_numpy(a) @ tg.from_numpy(right)).numpy() - a @ right).max() < 1e-11
    values, gradient = LAYOUTS[layout](a), LAYOUTS[layout](a)
    found = []
    for p in (values, values.astype(np.float64, order="C")):
        p = tg.from_numpy(p) if values.flags.writeable and "windows" not in layout else tg.tensor(p)
        p.requires_grad, p.grad = True, tg.from_numpy(gradient)
        optimizer = tg.optim.Adam([p])
        for _ in range(3):
            optimizer.step()
        found.append(p.numpy())
    agree(found[:1], found[1:])
    if gradient.flags.writeable:
        expected = a * 0.5 / (np.linalg.norm(gradient) + 1e-6)
        tg.optim.clip_grad_norm_([p], 0.5)
        agree([p.grad.numpy()], [expected])


@pytest.mark.parametrize("shape", [(0, 4, 5), (9, 0, 5), (9, 4, 0), (0, 0, 0)])
def test_nothing_at_all(shape):
    x = tg.zeros(*shape, dtype="float64", requires_grad=True)
    if shape[2]:
        y = tg.nn.GRU(shape[2], 3, dtype="float64")(x)[0]
    else:
        y = tg.scan(lambda c, x: (c + x, c), tg.zeros(shape[1:], dtype="float64"), x)[1]
    assert y.shape == (*shape[:2], 3 if shape[2] else 0)
    if shape[0]:
        y.sum().backward()
        assert x.grad.shape == shape
