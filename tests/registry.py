"""Samples of every op in the registry, drawn once for all the tests that go through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_rnn.ops import REGISTRY, Op
from tinygrad_rnn.ops.op import Elementwise, Sample

SHAPES = [((3, 4),), ((),), ((2, 0),), ((3, 4), (4,)), ((2, 1), (1, 3)), ((), (2, 2)), ((2, 3), (2, 3))]


class Source:
    """Random arrays: `r(3, 4)` draws float64 numbers."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray[Any, Any]:
        return np.array(self.rng.uniform(-2, 2, shape))


def samples(op: Op, seed: int = 0) -> Iterator[Sample]:
    """Calls of `op`: declared beside it, or for an elementwise op drawn from its domain over broadcast shapes."""
    source = Source(seed)
    if not isinstance(op, Elementwise):
        assert op.samples is not None, f"{op.name} declares no samples"
        yield from op.samples(source)
        return
    count = len(op.inputs)
    for shapes in SHAPES:
        cycle = [shapes[i % len(shapes)] for i in range(count)]
        arrays: list[Any] = [np.array(source.rng.uniform(*op.domain, shape)) for shape in cycle]
        for i in op.truth:
            arrays[i] = arrays[i] > np.mean(op.domain)
        yield Sample(tuple(arrays), {})
    strided = [np.array(source.rng.uniform(*op.domain, (4, 6)))[::2, ::-3].T for _ in range(count)]
    for i in op.truth:
        strided[i] = strided[i] > np.mean(op.domain)
    yield Sample(tuple(strided), {})


def call(op: Op, operands: Any, settings: dict[str, Any]) -> Any:
    """Run an op as its public function does."""
    if isinstance(op, Elementwise):
        return op.call(*operands)
    return op.call(operands[0] if op.variadic else operands, settings)


def flat(op: Op, sample: Sample) -> list[Any]:
    """The operands as one list, a variadic op's sequence opened."""
    return list(sample.operands[0]) if op.variadic else list(sample.operands)


def runner(op: Op, sample: Sample) -> Any:
    """The op as a function of its operands alone."""
    return lambda *tensors: call(op, (list(tensors),) if op.variadic else tensors, full_settings(op, sample))


def full_settings(op: Op, sample: Sample) -> dict[str, Any]:
    """The sample's settings with the rule's defaults for the others."""
    import inspect

    defaults = {name: p.default for name, p in inspect.signature(op.rule).parameters.items() if name in op.settings}
    return {**defaults, **sample.settings}


OPS = list(REGISTRY.values())
CASES = [(op, i) for op in OPS for i, _ in enumerate(samples(op))]
IDS = [f"{op.name}-{i}" for op, i in CASES]


def case(op: Op, i: int, seed: int = 0) -> Sample:
    """Sample number i of an op."""
    return list(samples(op, seed))[i]
