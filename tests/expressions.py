"""Expressions drawn at random: what one step may be, and a program of steps as a function of its leaves.

Every op of the table takes part, so a new one does without a line here: an elementwise one on its domain, any other
near to its samples. The common ones are called with settings of their own too.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from registry import OPS, differentiable, flat, full_settings, listed, runner, samples

import tinygrad_rnn as tg
from tinygrad_rnn.ops import REGISTRY
from tinygrad_rnn.ops.op import Composite, Elementwise, Sample

DEPTH, ELEMENTS, LARGE, SMALL = 8, 40, 1.5, 0.1
#: Why an op takes no part.
EXEMPT = {"ctc": "its second derivative raises", "ctc_loss": "likewise"}
#: Drawn by their samples only: along an axis of size 1 their derivative does not exist.
DELICATE = {"std"}

ALL = {op.name: op for op in OPS if differentiable(op) and op.name not in EXEMPT}
SAMPLES = {
    name: [s for s in samples(op) if all(np.size(a) for a in flat(op, s))]
    for name, op in ALL.items()
    if not isinstance(op, Elementwise)
}
AXIS = [n for n, op in ALL.items() if op.kind == "reduction" and "axis" in op.settings and n not in DELICATE]
ELEMENTWISE = [name for name, op in ALL.items() if isinstance(op, Elementwise)]


class Library:
    """The library's functions, `m.tanh(x)`; it notes each that is an op."""

    def __init__(self):
        self.called = []
        self.complete = True  # False once a function ran that is made of several ops

    def __getattr__(self, name):
        def run(*operands, **given):
            self.called.append(name)
            op = REGISTRY[name]
            if isinstance(op, Elementwise):
                return op.call(*operands)
            return op.call(operands[0] if op.variadic else operands, {**defaults(name), **given})

        return run


@functools.cache
def defaults(name):
    return full_settings(REGISTRY[name], Sample((), {}))


# --- What one step does: functions of (library, operands a and b that broadcast, random source for settings) ---


def elementwise(name):
    op = ALL[name]

    def inside(m, x):
        low, high = op.domain
        if low <= -2.0 and high >= 2.0:
            return x
        return m.add(m.multiply(m.tanh(x), 0.45 * (high - low)), (high + low) / 2)

    def step(m, a, b, r):
        operands = itertools.islice(itertools.cycle((a, b) if r.integers(4) else (b, a)), len(op.inputs))
        operands = [inside(m, x) if i not in op.truth else m.greater(a, b) for i, x in enumerate(operands)]
        return getattr(m, name)(*operands)

    return step


def along(name):
    op = ALL[name]

    def step(m, a, b, r):
        if "keepdims" not in op.settings:
            return getattr(m, name)(a, axis=int(r.integers(-max(a.ndim, 1), max(a.ndim, 1))))
        axis = tuple(int(i) for i in range(a.ndim) if r.integers(2))
        return getattr(m, name)(a, axis=axis if r.integers(3) else None, keepdims=bool(r.integers(2)))

    return step


def sampled(name):
    op = ALL[name]
    runs, arrays = [runner(op, s) for s in SAMPLES[name]], [flat(op, s) for s in SAMPLES[name]]

    def step(m, a, b, r):
        n = r.integers(len(runs))
        tensors, operands = [], itertools.cycle((a, b))
        for array in arrays[n]:
            tensors.append(moved(m, array, next(operands)) if array.dtype.kind == "f" else tg.tensor(array))
        if isinstance(op, Composite):
            m.complete = False
        else:
            m.called.append(name)
        outputs = [y for y in listed(runs[n](*tensors)) if y.dtype.kind == "f" and y.size]
        return outputs[r.integers(len(outputs))] if outputs else a

    return step


def moved(m, array, x):
    """The sample's array, changed by the elements of x: near to where the op is known to have a derivative."""
    fitted = m.getitem(m.reshape(x, shape=(-1,)), key=np.arange(array.size).reshape(array.shape) % x.size)
    return m.add(tg.tensor(array), m.multiply(fitted, 0.2))


def indexed(m, a, b, r):
    keys = []
    for n in a.shape[: r.integers(a.ndim + 1)]:
        start = int(r.integers(n))
        keys.append([start, -1, slice(start, None), slice(None, None, -1), slice(start, start + 1)][r.integers(5)])
    spare = [None] * int(r.integers(2))
    return m.getitem(a, key=(*keys, Ellipsis, *spare) if r.integers(2) else (*spare, *keys))


def indexed_by_arrays(m, a, b, r):
    if a.ndim == 0:
        return indexed(m, a, b, r)
    integers = r.integers(-a.shape[0], a.shape[0], (2, 2) if r.integers(2) else 3)
    mask = r.integers(2, size=a.shape[0]) > 0
    mask[r.integers(a.shape[0])] = True
    return m.getitem(a, key=[integers, mask, (Ellipsis, r.integers(a.shape[-1], size=2))][r.integers(3)])


def reshaped(m, a, b, r):
    return m.reshape(a, shape=[(-1,), a.shape[::-1], (1, *a.shape), (*a.shape, 1), (a.size,)][r.integers(5)])


def broadcast(m, a, b, r):
    stretched = tuple(3 if n == 1 and r.integers(2) else n for n in a.shape)
    return m.broadcast_to(a, shape=(2, *stretched) if a.ndim < 3 and r.integers(2) else stretched)


def product(m, a, b, r):
    if not a.ndim or not b.ndim:
        return m.multiply(a, b)
    if a.shape[-1] == b.shape[-min(b.ndim, 2)] and (min(a.ndim, b.ndim) < 3 or a.shape[:-2] == b.shape[:-2]):
        return m.matmul(a, b)
    axes = (*range(a.ndim - 2), a.ndim - 1, a.ndim - 2)
    return m.matmul(a, m.permute_dims(a, axes=axes) if a.ndim > 1 else a)


def linear(m, a, b, r):
    weight = b if b.ndim == 2 and a.ndim and a.shape[-1] == b.shape[1] else m.reshape(a, shape=(1, -1))
    x = a if a.ndim and a.shape[-1] == weight.shape[1] else m.reshape(a, shape=(-1,))
    bias = m.getitem(weight, key=(slice(None), -1)) if r.integers(2) else None
    return m.linear(x, weight, bias)


def joined(m, a, b, r):
    same = b if b.shape == a.shape else a
    if a.ndim and r.integers(2):
        return m.concat([a, same, a], axis=int(r.integers(-a.ndim, a.ndim)))
    return m.stack([a, same], axis=int(r.integers(a.ndim + 1)))


def looked_up(m, a, b, r):
    if a.ndim != 2:
        a = m.reshape(a, shape=(-1, 1))
    return m.embedding(a, tg.tensor(r.integers(len(a), size=[(3,), (2, 2), ()][r.integers(3)])))


def taken(m, a, b, r):
    if a.ndim == 0:
        a = m.expand_dims(a, axis=0)
    axis = int(r.integers(-a.ndim, a.ndim))
    return m.take(a, tg.tensor(r.integers(a.shape[axis], size=[(2,), (2, 2), ()][r.integers(3)])), axis=axis)


STEPS = {
    **{name: elementwise(name) for name in ELEMENTWISE},
    **{f"{name} along": along(name) for name in AXIS},
    **{f"sample of {name}": sampled(name) for name in SAMPLES},
    "index": indexed, "index by arrays": indexed_by_arrays, "reshape": reshaped, "broadcast": broadcast,
    "matmul": product, "linear": linear, "join": joined, "look up": looked_up, "take": taken,
    "permute": lambda m, a, b, r: m.permute_dims(a, axes=tuple(int(i) for i in r.permutation(a.ndim))),
    "expand": lambda m, a, b, r: m.expand_dims(a, axis=int(r.integers(-a.ndim - 1, a.ndim + 1))),
    "squeeze": lambda m, a, b, r: m.squeeze(a),
}  # fmt: skip


# --- An expression ---


class Expression:
    """A program and the constant factors that keep its values about 1: a function of its leaves."""

    def __init__(self, shapes, program, seed):
        rng = np.random.default_rng(seed)
        self.leaves = [np.array(rng.uniform(-LARGE, LARGE, shape)) for shape in shapes]
        self.depths = [0] * len(shapes)
        self.steps = []
        values = [tg.tensor(leaf) for leaf in self.leaves]
        for kind, i, j, settings_seed in program:
            able = [n for n, depth in enumerate(self.depths) if depth < DEPTH]
            a = able[max(-1 - i, -len(able))]
            fitting = [n for n in able if broadcasts(values[a].shape, values[n].shape)]
            step = (STEPS[kind], a, fitting[j % len(fitting)], settings_seed)
            y = made(Library(), step, values)
            top = float(np.max(np.abs(y.numpy())))
            assert math.isfinite(top), kind
            wild = top > LARGE or 1e-3 < top < SMALL
            self.steps.append((step, 1.0 / top if wild else None))
            values.append(y * (1.0 / top) if wild else y)
            self.depths.append(1 + max(self.depths[a], self.depths[step[2]]))
        chosen = sorted({len(values) - 1, int(rng.integers(len(values)))})
        self.outputs = [(n, rng.normal(size=values[n].shape)) for n in chosen]

    def values(self, leaves, m=None):
        """The weighted outputs, each times its weights and summed by the caller, and their weights."""
        m = m or Library()
        found = list(leaves)
        for step, factor in self.steps:
            y = made(m, step, found)
            found.append(y if factor is None else m.multiply(y, factor))
        return [found[n] for n, _ in self.outputs]

    def value(self, arrays):
        """The sum of the weighted outputs, a number."""
        return sum(float(np.sum(w * y.numpy())) for (_, w), y in zip(self.outputs, self.values(map(tg.tensor, arrays))))

    def gradient(self, arrays, create_graph=False):
        """Its gradients with respect to the leaves, and the leaves."""
        leaves = [tg.tensor(a, requires_grad=True) for a in arrays]
        weights = [w for _, w in self.outputs]
        found = tg.grad(self.values(leaves), leaves, weights, create_graph=create_graph, allow_unused=True)
        return list(found), leaves

    def curvature(self, arrays, direction, other):
        """direction . Hessian . other."""
        gradients, leaves = self.gradient(arrays, create_graph=True)
        pairs = [(g, d) for g, d in zip(gradients, direction) if g is not None and g.requires_grad]
        if not pairs:
            return 0.0
        second = tg.grad([g for g, _ in pairs], leaves, [d for _, d in pairs], allow_unused=True)
        return inner(second, other)


def made(m, step, values):
    function, a, b, settings_seed = step
    y = function(m, values[a], values[b], np.random.default_rng(settings_seed))
    while y.size > ELEMENTS:
        y = m.mean(y, axis=0, keepdims=False)
    return y


def broadcasts(one, other):
    return all(n == m or 1 in (n, m) for n, m in zip(one[::-1], other[::-1]))


def inner(gradients, direction):
    return sum(float(np.sum(g.numpy() * d)) for g, d in zip(gradients, direction) if g is not None)
