"""Random ops, and the one door to random numbers.

Dropout takes one key a call, and each number is a function of (key, element): a replayed call draws the same.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..kernels import random as draw
from ..kernels.runtime.locks import lock_across_forks
from .declare import Array, Refusal, call, composite, opaque
from .elementwise import where
from .reduce import argmax, kth

_generator = np.random.default_rng()
_thread = threading.local()
_repeating = lock_across_forks()


def manual_seed(n: int) -> None:
    """Start the library's random numbers anew from the whole number n >= 0."""
    global _generator
    _generator = np.random.default_rng(n)


def generator(rng: np.random.Generator | None = None) -> np.random.Generator:
    """The generator given, or the library's own: the one door to random numbers."""
    found: np.random.Generator = getattr(_thread, "repeated", _generator) if rng is None else rng
    for draws in getattr(_thread, "draws", ()):
        draws.note(rng, found)
    return found


class RandomKey(int):
    """What a random op's numbers are a function of, and whose draw it was: the `source` is an argument `rng`."""

    source: np.random.Generator | None

    def __repr__(self) -> str:
        return "key"


def fresh_key(rng: np.random.Generator | None = None) -> RandomKey:
    """A key for one call of a random op, drawn from the generator given, or the library's own."""
    key = RandomKey(generator(rng).integers(2**63))
    key.source = rng
    for draws in getattr(_thread, "draws", ()):
        draws.keys.append(key)
    return key


def fresh_keys(sources: Sequence[np.random.Generator | None], count: int) -> list[np.ndarray[Any, Any]]:
    """For each source `count` keys, as `fresh_key` gives them to all of these in turn, so often."""
    found: list[Any] = [None] * len(sources)
    for source in {id(source): source for source in sources}.values():
        here = [i for i, other in enumerate(sources) if other is source]
        drawn = generator(source).integers(2**63, size=(count, len(here)))
        for i, keys in zip(here, drawn.T):
            found[i] = keys
    return found


class Draws:
    """Remembers how the generators used inside a `with` block stood before, so that the same numbers come again.

    Attributes:
        keys: those drawn inside.
        count: how often a generator was used.
    """

    def __init__(self) -> None:
        self.own: np.random.Generator | None = None
        self.given: dict[int, tuple[np.random.Generator, Any]] = {}
        self.keys: list[RandomKey] = []
        self.count = 0

    def note(self, rng: np.random.Generator | None, found: np.random.Generator) -> None:
        """A generator is about to be used: `found`, for the argument `rng`."""
        self.count += 1
        if rng is not None:
            self.given.setdefault(id(rng), (rng, rng.bit_generator.state))
        elif self.own is None:
            self.own = copy.deepcopy(found)

    def __enter__(self) -> Draws:
        _thread.draws = (*getattr(_thread, "draws", ()), self)
        return self

    def __exit__(self, *trouble: object) -> None:
        _thread.draws = tuple(draws for draws in _thread.draws if draws is not self)

    def take_back(self) -> None:
        """Set the generators back to where they stood before."""
        for rng, state in self.given.values():
            rng.bit_generator.state = state
        if self.own is not None:
            generator().bit_generator.state = self.own.bit_generator.state

    @contextlib.contextmanager
    def repeated(self) -> Iterator[None]:
        """Inside, the generators give the same numbers again; afterwards they stand where they stood."""
        outer, before = getattr(_thread, "repeated", None), []
        if self.given:
            _repeating.acquire()  # another thread would set the same generators
        for rng, state in self.given.values():
            before.append((rng, rng.bit_generator.state))
            rng.bit_generator.state = state
        if self.own is not None:
            _thread.repeated = copy.deepcopy(self.own)
        try:
            yield
        finally:
            for rng, state in before:
                rng.bit_generator.state = state
            if self.given:
                _repeating.release()
            if outer is not None:
                _thread.repeated = outer
            elif self.own is not None:
                del _thread.repeated


@opaque(
    random=True,
    symbol="dropout",
    integers=False,
    samples=lambda r: [call(r(4, 5), p=0.4, key=7), call(r(0, 2), p=0.4, key=7)],
)
def dropped(x: Array, p: float, key: int) -> Any:
    """x / (1 - p) where the uniform number of (key, element) is at least p, else 0."""
    kept = draw.uniform(key, x.size).reshape(x.shape) >= p
    return np.where(kept, x * x.dtype.type(1.0 / (1.0 - p) if p < 1.0 else 1.0), x.dtype.type(0))


@dropped.vjp("x")
def _(g, p, key):
    return dropped(g, p, key)


@opaque(
    random=True,
    symbol="+ noise",
    integers=False,
    samples=lambda r: [call(r(4, 5), scale=0.4, key=7), call(r(0, 2), scale=1.0, key=7)],
)
def noisy(x: Array, scale: float, key: int) -> Any:
    """x + scale times the standard Gumbel noise of (key, element)."""
    noise = np.empty((1, x.size), x.dtype)
    draw.gumbels(np.array([key], np.uint64), noise)
    return x + noise.reshape(x.shape) * x.dtype.type(scale)


@noisy.vjp("x")
def _(g):
    return g


# The samples draw nothing that matters: a call with the same operands must give the same result each time.


@composite(
    samples=lambda r: [call(r(4, 5), 0.4, training=False), call(r(4, 5), 0.0), call(r(2, 3), 1.0), call(r(0, 2), 0.4)],
    refusals=lambda r: [
        Refusal(call(r(3), 1.5), ArgumentError, "not a probability"),
        Refusal(call(r(3), float("nan")), ArgumentError, "not a probability"),
    ],
)
def dropout(x: Array, p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None) -> Any:
    """Each element 0 with probability p, else divided by 1 - p; x itself where not training (Srivastava et al. 2014).

    Raises:
        ArgumentError: for a p outside 0 to 1.
    """
    if not 0.0 <= p <= 1.0:
        raise ArgumentError("dropout: not a probability", expected="0 <= p <= 1", got=p)
    if not training or p == 0.0:
        return x
    return dropped(x, p, fresh_key(rng))


@composite(
    differentiable=False,
    samples=lambda r: [call(r(4, 5), 0.0), call(r(5), 2.0, top_k=1), call(r(2, 3, 4), 0.0, top_k=2), call(r(0, 3))],
    refusals=lambda r: [
        Refusal(call(r(3), -1.0), ArgumentError, "temperature"),
        Refusal(call(r(3), 1.0, 0), ArgumentError, "top_k"),
    ],
)
def categorical(
    logits: Array, temperature: float = 1.0, top_k: int | None = None, rng: np.random.Generator | None = None
) -> Any:
    """Numbers drawn with probability softmax(logits / temperature), along the last axis; no gradient.

    Args:
        logits: (..., C).
        temperature: above 0; towards 0 the largest logit is always taken. Exactly 0 takes it.
        top_k: draw among the k largest only.
        rng: a numpy.random.Generator.

    Returns:
        An int64 tensor (...).

    Raises:
        ArgumentError: for a temperature below 0 or a top_k below 1.
    """
    if not temperature >= 0.0:
        raise ArgumentError("categorical: a temperature is at least 0", got=temperature)
    if top_k is not None and top_k < 1:
        raise ArgumentError("categorical: top_k is at least 1", got=top_k)
    if top_k is not None and top_k < logits.shape[-1]:
        logits = where(logits < kth(logits, int(top_k)), -np.inf, logits)
    if temperature > 0.0:
        # The largest of logits / temperature + Gumbel noise is a draw from the softmax (Gumbel 1954).
        logits = noisy(logits, temperature, fresh_key(rng))
    return argmax(logits, -1)
