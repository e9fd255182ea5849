"""Recurrent layers beside torch's, over the product of all settings; cells that torch lacks, beside their equations.

`cases()` lists every comparison, `count()` counts them. A test runs some hundred of them, and names the one that fails.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from parity_equations import CELLS, by_rows

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.pytree import leaves, unflatten

torch = pytest.importorskip("torch", reason="parity needs the extra `parity`")
pytestmark = pytest.mark.parity
nn = tg.nn

E = 1e-10
EITHER = [False, True]
ROWS = ["all steps", "lengths", "empty rows"]
KINDS = {
    "tanh": (nn.RNN, torch.nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (nn.RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, torch.nn.LSTM, {}),
    "projected": (nn.LSTM, torch.nn.LSTM, {"proj_size": None}),
    "gru": (nn.GRU, torch.nn.GRU, {}),
    "gru_before": (nn.GRU, None, {"reset_after": False}),
}
TORCHS = [kind for kind in KINDS if kind != "gru_before"]
#: T, B, I, H: each setting has one of these and one that is drawn.
SMALL = [(1, 1, 3, 2), (4, 1, 1, 2), (1, 3, 2, 2)]
#: How a cell is run: layer by layer, each direction's parameters by prefix and suffix, and whether it reads in reverse.
OVER = {
    "forwards": [[("cell.", "", False)]],
    "reverse": [[("cell.", "", True)]],
    "bidirectional": [[("forwards.cell.", "", False), ("backwards.cell.", "", True)]],
    "stacked": [
        [("layers.0.forwards.cell.", "", False), ("layers.0.backwards.cell.", "", True)],
        [("layers.1.cell.", "", False)],
    ],
}


# --- Cases ---


class Case(NamedTuple):
    """A layer, or a cell run over time, on one input."""

    kind: str
    rows: str
    layers: int = 1
    directions: int = 1
    bias: bool = True
    batch_first: bool = False
    given: bool = True
    size: tuple[int, int, int, int] = (4, 3, 2, 3)
    setting: Any = None


def product(kinds, settings=(None,), rows=("all steps", "lengths"), layers=(1, 2), directions=(1, 2), **more):
    """Cases of all combinations; `more` gives lists of values by name."""
    for kind, setting, row, layer, direction in itertools.product(kinds, settings, rows, layers, directions):
        for values in itertools.product(*more.values()):
            yield Case(kind, row, layer, direction, setting=setting, **dict(zip(more, values)))


def drawn(least, most, seed):
    return tuple(np.random.default_rng(seed).integers(least, most, endpoint=True).tolist())


def layer_cases(kind, rows):
    """The whole product of settings, each with two sizes."""
    named = {"layers": [1, 2, 3], "bias": EITHER, "batch_first": EITHER, "given": EITHER}
    for seed, case in enumerate(product([kind], rows=[rows], **named)):
        for size in [SMALL[seed % 3], drawn([2, 2, 1, 2 if kind == "projected" else 1], [5, 4, 5, 6], seed)]:
            if rows != "empty rows" or size[1] > 1:
                yield case._replace(size=size)


GROUPS = {
    "layers": lambda: (c for kind in TORCHS for rows in [*ROWS, "unbatched"] for c in layer_cases(kind, rows)),
    "cells": lambda: (c for name in CELLS for c in cell_cases(name)),
    "reset before": lambda: product(["gru_before"], rows=ROWS, layers=[1, 2, 3], bias=EITHER, given=EITHER),
    "one result": lambda: (c for c in product(TORCHS, [0, 1, 2]) if c.setting < 2 or c.kind in ("lstm", "projected")),
    "checkpoint": lambda: product(TORCHS, [3, "sqrt"], ROWS),
    "second derivatives": lambda: product(TORCHS, given=EITHER),
    "second derivatives of cells": lambda: product(CELLS, ["stacked"], ROWS, [1], [1], size=[(3, 2, 2, 2)]),
    "padding": lambda: product(KINDS, [None, "sqrt"], ROWS[1:], [1, 2, 3]),
    "padding of cells": lambda: product(CELLS, OVER, ROWS[1:], [1], [1]),
    "no steps": lambda: product(KINDS, layers=[1, 2, 3], rows=["no steps"], batch_first=EITHER, given=EITHER),
    "no rows": lambda: product(TORCHS, rows=["all steps"], given=EITHER, size=[(3, 0, 2, 3)]),
    "state dicts": lambda: product(TORCHS, ["float32", "float64"], ["all steps"], [1, 2, 3], bias=EITHER),
}


def cell_cases(name):
    """Over time in every way, each of a size of its own."""
    features = 2 if name == "layer_norm" else 1  # the size of a single one is normalised away: a gradient of rounding
    for seed, case in enumerate(product([name], OVER, ROWS, [1], [1], bias=EITHER, given=EITHER)):
        yield case._replace(size=drawn([1, 2 if case.rows == "empty rows" else 1, features, 2], [4, 3, 4, 4], seed))


def cases():
    """Every comparison of this file, with its group."""
    return ((group, case) for group, make in GROUPS.items() for case in make())


def count():
    """The number of cases, by group and in all."""
    found = Counter(group for group, _ in cases())
    return {**found, "all": sum(found.values())}


# --- Inputs of a case, and how both libraries run on them ---


class Inputs(NamedTuple):
    x: Any
    states: list[Any]  # its leaves; none where it is not given
    lengths: Any
    end: Any  # a state as the layer returns it


def inputs(case, layer, rng):
    steps, batch, features, _ = case.size
    shape = (batch, steps, features) if case.batch_first else (steps, batch, features)
    x = rng.standard_normal((steps, features) if case.rows == "unbatched" else shape)
    with tg.no_grad():
        end = layer(tg.tensor(x[:, :1] if case.batch_first and x.ndim == 3 else x[:1]))[1]
    states = [rng.standard_normal(part.shape) for part in leaves(end)] if case.given else []
    if case.rows in ("all steps", "unbatched"):
        return Inputs(x, states, None, end)
    lengths = rng.integers(1, steps + 1, batch)
    if case.rows == "empty rows":
        lengths[rng.permutation(batch)[: rng.integers(1, batch)]] = 0
    return Inputs(x, states, lengths * (case.rows != "no steps"), end)


def leaf(a):
    return tg.tensor(a, requires_grad=True)


def torch_leaf(a):
    return torch.tensor(a, requires_grad=True)


def by_name(x, states, parameters):
    return {"x": x, **{f"state {i}": state for i, state in enumerate(states)}, **dict(parameters)}


def ours(layer, given):
    """The results in a list; what they were computed from, by name."""
    x, states = leaf(given.x), [leaf(state) for state in given.states]
    outputs, state = layer(x, unflatten(given.end, iter(states)) if states else None, given.lengths)
    return [outputs, *leaves(state)], by_name(x, states, layer.named_parameters())


def torchs(layer, given):
    """The same by torch's layer, which sees no row of length 0: such a row keeps its state."""
    x, states = torch_leaf(given.x), [torch_leaf(state) for state in given.states]
    names = by_name(x, states, layer.named_parameters())
    if given.lengths is None:
        outputs, state = layer(x, nest(states))
        return [outputs, *leaves(state)], names
    batch, live = 0 if layer.batch_first else 1, torch.tensor(np.flatnonzero(given.lengths))
    rows, lengths = x.index_select(batch, live), torch.tensor(given.lengths)[live]
    packed = torch.nn.utils.rnn.pack_padded_sequence(rows, lengths, layer.batch_first, enforce_sorted=False)
    packed, end = layer(packed, nest([state.index_select(1, live) for state in states]))
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, layer.batch_first, total_length=x.shape[1 - batch])
    shapes = [(*x.shape[:2], outputs.shape[2])] + [(len(part), x.shape[batch], part.shape[2]) for part in leaves(end)]
    zeros, *before = [torch.zeros(shape, dtype=x.dtype) for shape in shapes]
    end = [old.index_copy(1, live, new) for old, new in zip(states or before, leaves(end))]
    return [zeros.index_copy(batch, live, outputs), *end], names


def nest(states):
    return tuple(states) if len(states) > 1 else states[0] if states else None


def pair(case, seed, dtype="float64", **more):
    """Ours and torch's layer of a case, with torch's weights in both."""
    mine, other, named = KINDS[case.kind]
    named = {**named, "num_layers": case.layers, "bidirectional": case.directions == 2, "bias": case.bias}
    if "proj_size" in named:
        named["proj_size"] = case.size[3] // 2
    torch.manual_seed(seed)
    layer = mine(*case.size[2:], batch_first=case.batch_first, dtype=dtype, **named, **more)
    if other is None:
        return layer, None
    theirs = other(*case.size[2:], batch_first=case.batch_first, dtype=getattr(torch, dtype), **named)
    layer.load_state_dict(theirs.state_dict())
    return layer, theirs


def agree(a, b, what):
    """max|a - b| <= e max|b|."""
    a, b = a.numpy(), b.detach().numpy()
    assert (a.shape, a.dtype) == (b.shape, b.dtype), what
    error = np.max(np.abs(a - b), initial=0.0)
    assert error <= E * np.max(np.abs(b), initial=0.0), f"{what}: {error}"


def weighted(results, weights):
    return sum((y * w).sum() for y, w in zip(results, weights))


def compare(case, rng, mine, other, chosen=slice(None)):
    """All results; all gradients of those chosen, weighted at random so that none cancels."""
    (found, ours), (expected, theirs) = mine, other
    assert len(found) == len(expected)
    assert list(ours) == list(theirs), case
    for i, (a, b) in enumerate(zip(found, expected)):
        agree(a, b, f"{case}: result {i}")
    weights = [rng.standard_normal(y.shape) for y in found]
    weighted(found[chosen], weights[chosen]).backward()
    weighted(expected[chosen], [torch.tensor(w) for w in weights][chosen]).backward()
    for name, a in ours.items():
        b = theirs[name].grad
        assert (a.grad is None) == (b is None), f"{case}: {name}"
        if b is not None:
            agree(a.grad, b, f"{case}: gradient of {name}")


def compare_second(case, rng, mine, other):
    """The gradients of all squared gradients, summed."""
    (found, ours), (expected, theirs) = mine, other
    weights = [rng.standard_normal(y.shape) for y in found]
    loss, other = weighted(found, weights), weighted(expected, [torch.tensor(w) for w in weights])
    first = tg.grad(loss, [*ours.values()], create_graph=True)
    second = torch.autograd.grad(other, [*theirs.values()], create_graph=True)
    squares, others = sum((g * g).sum() for g in first), sum((g * g).sum() for g in second)
    found = tg.grad(squares, [*ours.values()], allow_unused=True)
    expected = torch.autograd.grad(others, [*theirs.values()], allow_unused=True)
    for name, a, b in zip(ours, found, expected):
        assert a is not None or b is None or not b.any(), f"{case}: {name}"
        if a is not None:
            b = b if b is not None else torch.zeros(a.shape, dtype=torch.float64)
            agree(a, b, f"{case}: second derivative of {name}")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """In torch; on arrays this small its threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- Layers beside torch's ---


@pytest.mark.parametrize("kind", TORCHS)
@pytest.mark.parametrize("rows", [*ROWS, "unbatched"])
def test_layers(kind, rows):
    for seed, case in enumerate(layer_cases(kind, rows)):
        rng = np.random.default_rng(seed)
        layer, theirs = pair(case, seed)
        given = inputs(case, layer, rng)
        compare(case, rng, ours(layer, given), torchs(theirs, given))


@pytest.mark.parametrize("kind", TORCHS)
@pytest.mark.parametrize("group", ["one result", "checkpoint", "second derivatives", "no rows"])
def test_more_of_layers(kind, group):
    for seed, case in enumerate(c for c in GROUPS[group]() if c.kind == kind):
        rng = np.random.default_rng(seed)
        layer, theirs = pair(case, seed, checkpoint=case.setting if group == "checkpoint" else None)
        given = inputs(case, layer, rng)
        check = compare_second if group == "second derivatives" else compare
        more = [slice(case.setting, case.setting + 1)] if group == "one result" else []
        check(case, rng, ours(layer, given), torchs(theirs, given), *more)


@pytest.mark.parametrize("kind", TORCHS)
def test_state_dicts_go_both_ways(kind):
    for seed, case in enumerate(c for c in GROUPS["state dicts"]() if c.kind == kind):
        layer, theirs = pair(case, seed, dtype=case.setting)
        _, third = pair(case, seed + 1, dtype=case.setting)
        mine, given = layer.state_dict(), theirs.state_dict()
        assert list(mine) == list(given)
        assert not torch.equal(third.weight_hh_l0, theirs.weight_hh_l0)
        third.load_state_dict({name: torch.tensor(t.numpy()) for name, t in mine.items()})
        for name, t in given.items():
            assert mine[name].numpy().tobytes() == t.numpy().tobytes(), f"{case}: {name}"
            assert torch.equal(third.state_dict()[name], t), f"{case}: {name}"


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_row_has_a_step_the_state_stays(kind):
    for seed, case in enumerate(c for c in GROUPS["no steps"]() if c.kind == kind):
        rng = np.random.default_rng(seed)
        layer, _ = pair(case, seed)
        given = inputs(case, layer, rng)
        (outputs, *state), names = ours(layer, given)
        before = given.states or [np.zeros(part.shape) for part in state]
        weights = [rng.standard_normal(part.shape) for part in before]
        loss = outputs.sum() + weighted(state, weights)
        assert loss.requires_grad or not case.given, case
        if loss.requires_grad:  # else it hangs on no state, and on no step
            loss.backward()
        assert outputs.shape == (*names["x"].shape[:2], outputs.shape[2])
        assert not outputs.numpy().any(), case
        for a, b in zip(state, before):
            np.testing.assert_array_equal(a.numpy(), b, err_msg=str(case))
        for i in range(len(given.states)):
            np.testing.assert_array_equal(names.pop(f"state {i}").grad.numpy(), weights[i], err_msg=str(case))
        assert all(t.grad is None or not t.grad.numpy().any() for t in names.values()), case


# --- Beside the equations ---


def over_time(case, rng):
    """A cell's layer, with random parameters."""
    make, named, _ = CELLS[case.kind]
    _, _, features, hidden = case.size

    def cell(features):
        return make(features, hidden, **{"bias": case.bias, "dtype": "float64", **named})

    def twice(features):
        return nn.Bidirectional(cell(features), cell(features))

    if case.setting in ("forwards", "reverse"):
        layer = nn.Recurrent(cell(features), reverse=case.setting == "reverse")
    else:
        layer = twice(features)
        if case.setting == "stacked":
            width = len(leaves(layer.forwards.cell.initial_state(1))[0][0])
            layer = nn.Stacked([layer, cell(2 * width)])
    layer.load_state_dict({name: 0.7 * rng.standard_normal(p.shape) for name, p in layer.named_parameters()})
    return layer


def by_equations(case, layer, given, cells):
    """What `ours` returns, from a loop in torch."""
    x, states = torch_leaf(given.x), [torch_leaf(state) for state in given.states]
    parameters = {name: torch_leaf(p.numpy()) for name, p in layer.named_parameters()}
    names, step = by_name(x, states, parameters.items()), CELLS[case.kind][2]
    before = states or [torch.zeros(part.shape, dtype=x.dtype) for part in leaves(given.end)]
    stacked = isinstance(layer, nn.GRU)
    before = [part[i] for i in range(before[0].shape[0]) for part in before] if stacked else before
    lengths = given.lengths if given.lengths is not None else [len(x)] * x.shape[1]
    count, final = len(before) // sum(map(len, cells)), []
    for directions in cells:
        outputs = []
        for prefix, suffix, reverse in directions:
            mine = {n: p for n, p in parameters.items() if n.startswith(prefix) and n.endswith(suffix)}
            w = {n[len(prefix) : len(n) - len(suffix)]: p for n, p in mine.items()}
            y, end = by_rows(step, w, x, before[len(final) : len(final) + count], lengths, reverse)
            outputs.append(y)
            final += end
        x = torch.cat(outputs, -1)
    return [x, *([torch.stack(final)] if stacked else final)], names


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("group", ["cells", "second derivatives of cells"])
def test_cells(name, group):
    check = compare if group == "cells" else compare_second
    for seed, case in enumerate(c for c in GROUPS[group]() if c.kind == name):
        rng = np.random.default_rng(seed)
        layer = over_time(case, rng)
        given = inputs(case, layer, rng)
        check(case, rng, ours(layer, given), by_equations(case, layer, given, OVER[case.setting]))


def test_reset_before_the_product():
    for seed, case in enumerate(GROUPS["reset before"]()):
        rng = np.random.default_rng(seed)
        layer, _ = pair(case, seed)
        given = inputs(case, layer, rng)
        ways = [("", False), ("_reverse", True)][: case.directions]
        cells = [[("", f"_l{i}{way}", reverse) for way, reverse in ways] for i in range(case.layers)]
        compare(case, rng, ours(layer, given), by_equations(case, layer, given, cells))


# --- Padding ---


def bits(layer, given):
    """Results and gradients, bit for bit."""
    results, names = ours(layer, given)
    rng = np.random.default_rng(0)
    layer.zero_grad()
    weighted(results, [rng.standard_normal(y.shape) for y in results]).backward()
    return [t.numpy().tobytes() for t in results] + [t.grad.numpy().tobytes() for t in names.values()]


def padding_is_never_read(case, rng, layer):
    given = inputs(case, layer, rng)
    padding = np.arange(len(given.x))[:, None] >= given.lengths
    assert padding.any(), case
    expected = bits(layer, given)
    for value in (np.nan, -np.inf, 0.0):
        other = np.where(padding[:, :, None], value, given.x)
        for i, (a, b) in enumerate(zip(bits(layer, given._replace(x=other)), expected)):
            assert a == b, f"{case}: padding {value}, result or gradient {i}"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_never_read_by_layers(kind):
    for seed, case in enumerate(c for c in GROUPS["padding"]() if c.kind == kind):
        padding_is_never_read(case, np.random.default_rng(seed), pair(case, seed, checkpoint=case.setting)[0])


@pytest.mark.parametrize("name", CELLS)
def test_padding_is_never_read_by_cells(name):
    for seed, case in enumerate(c for c in GROUPS["padding of cells"]() if c.kind == name):
        rng = np.random.default_rng(seed)
        padding_is_never_read(case, rng, over_time(case, rng))
