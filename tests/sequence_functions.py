"""The functions that `sequences` calls: a template, which shapes it takes, and what it computes by `jets`."""

from __future__ import annotations

import functools

import jets
import numpy as np
from jets import Ref

UNARY = [
    ("tg.tanh({0})", lambda a: jets.of("tanh", a)),
    ("tg.sigmoid({0})", lambda a: jets.of("sigmoid", a)),
    ("tg.exp({0} * 0.5)", lambda a: jets.of("exp", jets.scaled(a, 0.5))),
    ("tg.exp(tg.tanh({0}))", lambda a: jets.of("exp", jets.of("tanh", a))),
    ("tg.sin({0})", lambda a: jets.of("sin", a)),
    ("np.sin({0})", lambda a: jets.of("sin", a)),
    ("tg.relu({0})", lambda a: jets.of("relu", a)),
    ("abs({0})", lambda a: jets.of("abs", a)),
    ("{0} ** 2", lambda a: jets.of("square", a)),
    ("tg.sqrt({0} * {0} + 1.0)", lambda a: jets.of("sqrt", jets.plus_one(a))),
    ("tg.log({0} * {0} + 1.0)", lambda a: jets.of("log", jets.plus_one(a))),
    ("({0} * {0} + 1.0) ** 1.5", lambda a: jets.composed(p := jets.plus_one(a), jets.power(1.5)(p.value))),
    ("1.0 / ({0} * {0} + 1.0)", lambda a: jets.of("reciprocal", jets.plus_one(a))),
    ("-{0}", lambda a: jets.scaled(a, -1.0)),
    ("0.5 - {0} * 1.5", lambda a: jets.combined(Ref(np.array(0.5)), a, 1.0, -1.5)),
    ("{0}.sum()", jets.total),
    ("{0}.sum()", jets.total),
    ("{0}.mean()", lambda a: jets.scaled(jets.total(a), 1.0 / a.value.size)),
]

#: Those that need an axis.
ALONG = [
    ("{0}.sum(-1)", lambda a: jets.total(a, -1)),
    ("{0}.sum(0, keepdims=True)", lambda a: jets.total(a, 0, True)),
    ("{0}.max(0)", lambda a: jets.largest(a, 0)),
    ("tg.softmax({0}, -1)", lambda a: jets.softmax(a, -1)),
    ("tg.logsumexp({0}, 0)", lambda a: jets.logsumexp(a, 0)),
    ("tg.log_softmax({0}, -1)", lambda a: jets.combined(a, jets.logsumexp(a, -1, True), 1.0, -1.0)),
    ("{0}[[-1, 0, -1]]", lambda a: jets.moved(lambda v: v[[-1, 0, -1]], a)),
    ("{0}[..., np.array([0, 0])]", lambda a: jets.moved(lambda v: v[..., np.array([0, 0])], a)),
]


def broadcasts(a, b):
    return all(n == m or 1 in (n, m) for n, m in zip(a[::-1], b[::-1]))


def equal(a, b):
    return a == b


def matrices(a, b):
    return bool(a) and bool(b) and len(a) < 3 and len(b) < 3 and a[-1] == b[0]


BINARY = [
    ("{0} + {1}", broadcasts, jets.combined),
    ("{0} + {1}", broadcasts, jets.combined),
    ("{0} + {1}", broadcasts, jets.combined),
    ("{0} - {1}", broadcasts, lambda a, b: jets.combined(a, b, 1.0, -1.0)),
    ("{0} * {1}", broadcasts, jets.product),
    ("{0} * {1}", broadcasts, jets.product),
    ("{0} * {1} + {0}", broadcasts, lambda a, b: jets.combined(jets.product(a, b), a)),
    ("{0} / ({1} * {1} + 1.0)", broadcasts, lambda a, b: jets.divided(a, jets.plus_one(b))),
    ("tg.maximum({0}, {1})", broadcasts, jets.larger),
    ("tg.where({0} > 0.3, {0}, {1} * 0.5)", broadcasts,
     lambda a, b: jets.chosen(a.value > 0.3, a, jets.scaled(b, 0.5))),
    ("tg.where({0} < {1}, {0}, 0.25)", broadcasts,
     lambda a, b: jets.chosen(a.value < b.value, a, Ref(np.array(0.25)))),
    ("tg.mse_loss({0}, {1})", equal,
     lambda a, b: jets.scaled(jets.total(jets.of("square", jets.combined(a, b, 1.0, -1.0))), 1.0 / a.value.size)),
    ("tg.stack([{0}, {1}])", equal, functools.partial(jets.moved, lambda a, b: np.stack([a, b]))),
    ("tg.concat([{0}, {1}, {0}], axis=-1)", lambda a, b: bool(a) and a == b,
     lambda a, b: jets.moved(lambda a, b, c: np.concatenate([a, b, c], -1), a, b, a)),
    ("{0} @ {1}", matrices, jets.matmul),
    ("tg.linear({0}, {1})", lambda a, b: bool(a) and len(b) == 2 and len(a) < 3 and a[-1] == b[1],
     lambda a, b: jets.matmul(a, jets.moved(np.transpose, b))),
    ("tg.linear({0}, {1}, {1}[:, 0])", lambda a, b: bool(a) and len(b) == 2 and len(a) < 3 and a[-1] == b[1],
     lambda a, b: jets.combined(jets.matmul(a, jets.moved(np.transpose, b)), jets.moved(lambda v: v[:, 0], b))),
]  # fmt: skip

#: Results that share memory.
VIEWS = [
    ("{0}[0]", lambda s: bool(s), lambda v: v[0, ...]),
    ("{0}[-1:]", lambda s: bool(s), lambda v: v[-1:]),
    ("{0}[::-1]", lambda s: bool(s), lambda v: v[::-1]),
    ("{0}[..., :1]", lambda s: bool(s), lambda v: v[..., :1]),
    ("{0}[None]", lambda s: len(s) < 3, lambda v: v[None]),
    ("{0}[...]", lambda s: True, lambda v: v[...]),
    ("{0}.T", lambda s: True, lambda v: v.T),
    ("{0}.reshape(-1)", lambda s: True, lambda v: v.reshape(-1)),
    ("{0}.reshape(1, -1)", lambda s: True, lambda v: v.reshape(1, -1)),
    ("tg.expand_dims({0}, -1)", lambda s: len(s) < 3, lambda v: v[..., None]),
    ("{0}.squeeze()", lambda s: True, np.squeeze),
    ("{0}.broadcast_to((2, 2))", lambda s: len(s) < 3 and broadcasts(s, (2, 2)), lambda v: np.broadcast_to(v, (2, 2))),
    ("tg.split({0}, 2)[1]", lambda s: bool(s) and s[0] == 2, lambda v: v[1:]),
    ("list({0})[-1]", lambda s: bool(s), lambda v: v[-1, ...]),
]
