"""What a gradient should be, found without a tape: values that carry their derivatives forward, in plain NumPy.

A `Ref` is a tensor's counterpart. Its value lies in memory that views share and writes change, as the tensor's does.
Its derivatives were fixed when it was made, from the values that were read then: that is the derivative of the program
as executed, whatever was written afterwards. They are taken with respect to `COLUMNS` numbers: the elements of leaves,
and of intermediate results whose gradient is wanted too.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

COLUMNS = 10


class Ref:
    """A value, and its derivatives of order 1, 2, ...: `parts[k - 1]` has the value's shape and then k columns.

    `parts` is None where no gradient is required.
    """

    __slots__ = ("columns", "grad", "leaf", "parts", "used", "value")

    def __init__(self, value, parts=None):
        self.value, self.parts = value, parts
        self.columns = None  # which columns are derivatives with respect to this one
        self.grad = None
        self.leaf = self.used = False

    @property
    def tracked(self):
        return self.parts is not None

    @property
    def order(self):
        """How often it can still be differentiated."""
        return len(self.parts or ())

    def part(self, k, ndim=None):
        """The derivative of order k; the value itself for 0."""
        if k == 0:
            return self.value
        return self.parts[k - 1] if self.tracked else np.zeros(self.value.shape + (COLUMNS,) * k)

    def follow(self, columns):
        """Let `columns` be the derivatives with respect to this one."""
        self.columns = columns
        identity = np.zeros((self.value.size, COLUMNS))
        identity[np.arange(self.value.size), np.arange(columns.start, columns.stop)] = 1.0
        self.parts[0] = self.parts[0] + identity.reshape(*self.value.shape, COLUMNS)

    def weigh(self, factors):
        """What a hook does that multiplies the gradient: every derivative through here is multiplied."""
        self.parts = [p * np.reshape(factors, np.shape(factors) + (1,) * (k + 1)) for k, p in enumerate(self.parts)]


def leaf(value, columns, order):
    """A leaf: its derivatives with respect to itself are 1."""
    made = Ref(value, [np.zeros(value.shape + (COLUMNS,) * (k + 1)) for k in range(order)])
    made.leaf = True
    made.follow(columns)
    return made


def _order(*refs):
    return min((ref.order for ref in refs if ref.tracked), default=None)


# --- Functions that move elements, and sums: the derivatives move along ---


def moved(function, *refs):
    """A function that moves elements, of one array or several; a view where NumPy makes one."""
    value, order = function(*[ref.value for ref in refs]), _order(*refs)
    if order is None:
        return Ref(value)
    starts = itertools.accumulate((ref.value.size for ref in refs), initial=0)
    places = function(*[np.arange(r.value.size).reshape(r.value.shape) + start for r, start in zip(refs, starts)])

    def part(k):
        rows = [ref.part(k).reshape(ref.value.size, *(COLUMNS,) * k) for ref in refs]
        return (rows[0] if len(rows) == 1 else np.concatenate(rows))[places]

    return Ref(value, [part(k) for k in range(1, order + 1)])


def spread(ref, shape):
    """Broadcast to `shape`."""
    return ref if ref.value.shape == shape else moved(lambda v: np.broadcast_to(v, shape), ref)


def together(*refs):
    """Broadcast against each other."""
    shape = np.broadcast_shapes(*[ref.value.shape for ref in refs])
    return [spread(ref, shape) for ref in refs]


def total(ref, axis=None, keepdims=False):
    """The sum along axes, None being all."""
    n = ref.value.ndim
    axes = tuple(range(n)) if axis is None else tuple(a % n for a in np.atleast_1d(axis))
    made = Ref(np.asarray(ref.value.sum(axes, keepdims=keepdims)))
    if ref.tracked:
        made.parts = [p.sum(axes, keepdims=keepdims) for p in ref.parts]
    return made


def combined(a, b, of_a=1.0, of_b=1.0):
    """of_a * a + of_b * b, the factors being constant."""
    a, b = together(a, b)
    order = _order(a, b)
    parts = [of_a * a.part(k) + of_b * b.part(k) for k in range((order or 0) + 1)]
    return Ref(np.asarray(parts[0]), None if order is None else parts[1:])


def scaled(a, factor):
    """The product with a constant, a number or an array of a's shape."""
    made = Ref(np.asarray(a.value * factor), None if not a.tracked else list(a.parts))
    if a.tracked:
        made.weigh(factor)
    return made


def chosen(condition, a, b):
    """a where the condition holds, else b."""
    shape = np.broadcast_shapes(condition.shape, a.value.shape, b.value.shape)
    mask = np.broadcast_to(condition, shape)
    return combined(scaled(spread(a, shape), mask * 1.0), scaled(spread(b, shape), ~mask * 1.0))


# --- The product rule and the chain rule, of any order ---


def _axes(ndim, chosen_axes, k):
    """An index that puts a derivative's columns at the chosen ones of k, and size 1 at the others."""
    return (slice(None),) * ndim + tuple(slice(None) if i in chosen_axes else None for i in range(k))


@functools.cache
def _subsets(k):
    return [frozenset(s) for n in range(k + 1) for s in itertools.combinations(range(k), n)]


@functools.cache
def _partitions(k):
    """All ways to divide the numbers below k into blocks."""
    if k == 0:
        return [[]]
    found = []
    for blocks in _partitions(k - 1):
        found += [[*blocks[:i], blocks[i] | {k - 1}, *blocks[i + 1 :]] for i in range(len(blocks))]
        found.append([*blocks, frozenset({k - 1})])
    return found


def product(a, b):
    """a * b (Leibniz)."""
    a, b = together(a, b)
    order, n = _order(a, b), a.value.ndim
    made = Ref(np.asarray(a.value * b.value))
    if order is not None:
        made.parts = []
        for k in range(1, order + 1):
            part = np.zeros(made.value.shape + (COLUMNS,) * k)
            for left in _subsets(k):
                right = frozenset(range(k)) - left
                if (left and not a.tracked) or (right and not b.tracked):
                    continue
                part += a.part(len(left))[_axes(n, left, k)] * b.part(len(right))[_axes(n, right, k)]
            made.parts.append(part)
    return made


def composed(x, derivatives):
    """f(x), given [f(value), f'(value), f''(value), ...] (Faà di Bruno)."""
    made, n = Ref(np.asarray(derivatives[0])), x.value.ndim
    if x.tracked:
        made.parts = []
        for k in range(1, x.order + 1):
            part = np.zeros(x.value.shape + (COLUMNS,) * k)
            for blocks in _partitions(k):
                term = np.asarray(derivatives[len(blocks)])[(..., *(None,) * k)]
                for block in blocks:
                    term = term * x.part(len(block))[_axes(n, block, k)]
                part += term
            made.parts.append(part)
    return made


def _tanh(v):
    y = np.tanh(v)
    first = 1.0 - y * y
    return [y, first, -2.0 * y * first, -2.0 * first * (1.0 - 3.0 * y * y)]


def _sigmoid(v):
    y = 1.0 / (1.0 + np.exp(-v))
    first = y * (1.0 - y)
    second = first * (1.0 - 2.0 * y)
    return [y, first, second, second * (1.0 - 2.0 * y) - 2.0 * first * first]


def power(exponent):
    """The derivatives of v ** exponent."""
    factors = [math.prod(exponent - i for i in range(k)) for k in range(4)]
    return lambda v: [f * v ** (exponent - k) if f else np.zeros_like(v) for k, f in enumerate(factors)]


DERIVATIVES = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "exp": lambda v: [np.exp(v)] * 4,
    "sin": lambda v: [np.sin(v), np.cos(v), -np.sin(v), -np.cos(v)],
    "log": lambda v: [np.log(v), *power(-1)(v)[:3]],
    "sqrt": power(0.5),
    "reciprocal": power(-1),
    "square": power(2),
    "relu": lambda v: [np.maximum(v, 0.0), (v > 0.0) * 1.0, 0.0 * v, 0.0 * v],
    "abs": lambda v: [np.abs(v), np.sign(v), 0.0 * v, 0.0 * v],
}


def of(name, x):
    """The elementwise function `name` of x."""
    return composed(x, DERIVATIVES[name](x.value))


# --- What is made of these ---


def plus_one(x):
    """x * x + 1, which is above 0."""
    return combined(product(x, x), Ref(np.array(1.0)))


def divided(a, b):
    """a / b."""
    return product(a, of("reciprocal", b))


def larger(a, b):
    """The larger of a and b; where they are equal, each has half of the derivative."""
    a, b = together(a, b)
    weight = np.where(a.value == b.value, 0.5, (a.value > b.value) * 1.0)
    return combined(scaled(a, weight), scaled(b, 1.0 - weight))


def largest(x, axis):
    """The largest along an axis; equal ones share the derivative evenly."""
    reached = x.value == x.value.max(axis, keepdims=True)
    return total(scaled(x, reached / reached.sum(axis, keepdims=True)), axis)


def logsumexp(x, axis, keepdims=False):
    """log(sum(e^x))."""
    return of("log", total(of("exp", x), axis, keepdims))


def softmax(x, axis):
    """e^x / sum(e^x)."""
    e = of("exp", x)
    return divided(e, total(e, axis, True))


def matmul(a, b):
    """The matrix product of operands with one or two axes."""
    left = moved(lambda v: v[..., :, None] if b.value.ndim == 2 else v, a)
    right = moved(lambda v: v, b)
    axis = -2 if b.value.ndim == 2 else -1
    return total(product(left, right), axis)


def cross_entropy(logits, labels):
    """The mean of minus log_softmax at the labels, of logits (N, C)."""
    logs = combined(logits, logsumexp(logits, 1, True), 1.0, -1.0)
    picked = moved(lambda v: v[np.arange(len(labels)), labels], logs)
    return scaled(total(picked), -1.0 / len(labels))


def gradient(roots, seeds, record):
    """The gradient of the sum of roots weighted by seeds, for every column; differentiable where `record`."""
    found = None
    for root, seed in zip(roots, seeds):
        jacobian = Ref(root.parts[0], root.parts[1:])
        weights = moved(lambda v: np.broadcast_to(v[..., None], (*v.shape, COLUMNS)), seed)
        part = total(product(weights, jacobian), tuple(range(root.value.ndim)))
        found = part if found is None else combined(found, part)
    return found if record else Ref(found.value)
