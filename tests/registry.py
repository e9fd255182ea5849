"""Samples of every op and of every function made of ops, for all the tests that go through the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_rnn.ops import COMPOSITES, REGISTRY
from tinygrad_rnn.ops.op import Composite, Elementwise, Sample

SHAPES = [((3, 4),), ((),), ((2, 0),), ((3, 4), (4,)), ((2, 1), (1, 3)), ((), (2, 2)), ((2, 3), (2, 3))]


class Source:
    """Random arrays: `r(3, 4)` draws float64 numbers."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray[Any, Any]:
        return np.array(self.rng.uniform(-2, 2, shape))


def samples(op: Any, seed: int = 0) -> Iterator[Sample]:
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


def differentiable(op: Any) -> bool:
    """Whether a gradient flows through it."""
    return bool(op.differentiable if isinstance(op, Composite) else op.vjps) and op.derivatives > 0


def call(op: Any, operands: Any, settings: dict[str, Any]) -> Any:
    """Run an op as its public function does."""
    if isinstance(op, Composite):
        return op.rule(*operands, **settings)
    if isinstance(op, Elementwise):
        return op.call(*operands)
    return op.call(operands[0] if op.variadic else operands, settings)


def flat(op: Any, sample: Sample) -> list[Any]:
    """The arrays among the operands as one list, a variadic op's sequence opened."""
    if isinstance(op, Composite):
        return [operand for operand in sample.operands if isinstance(operand, np.ndarray)]
    return list(sample.operands[0]) if op.variadic else list(sample.operands)


def runner(op: Any, sample: Sample) -> Any:
    """The op as a function of those arrays alone."""
    if isinstance(op, Composite):

        def run(*tensors: Any) -> Any:
            given = iter(tensors)
            operands = [next(given) if isinstance(o, np.ndarray) else o for o in sample.operands]
            return op.rule(*operands, **sample.settings)

        return run
    return lambda *tensors: call(op, (list(tensors),) if op.variadic else tensors, full_settings(op, sample))


def listed(outputs: Any) -> list[Any]:
    """The outputs of a call, one or several, as a list."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def full_settings(op: Any, sample: Sample) -> dict[str, Any]:
    """The sample's settings with the rule's defaults for the others."""
    import inspect

    if isinstance(op, Composite):
        return sample.settings
    parameters = inspect.signature(op.rule).parameters
    defaults = {name: parameters[name].default for name in op.settings}
    return {name: sample.settings.get(name, default) for name, default in defaults.items()}


OPS = [*REGISTRY.values(), *COMPOSITES.values()]
CASES = [(op, i) for op in OPS for i, _ in enumerate(samples(op))]
IDS = [f"{op.name}-{i}" for op, i in CASES]


def case(op: Any, i: int, seed: int = 0) -> Sample:
    """Sample number i of an op."""
    return list(samples(op, seed))[i]
