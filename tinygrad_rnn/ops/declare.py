"""How ops are declared: the decorators, the same for the library's own and for a user's.

    @elementwise(symbol="tanh", domain=(-3, 3))
    def tanh(x):
        return scalar.tanh(x)

    @tanh.vjp("x")
    def _(g, y):
        return g * (1 - y * y)

What a rule may take, what a vjp may name, and what the traits mean is told in `op.py`. A `composite` is a function
made of other ops: it has no derivative of its own to declare, and no place in a tape, but samples and refusals like
every op.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import DeclarationError
from .op import (
    COMPOSITES,
    REGISTRY,
    Array,
    Composite,
    Contraction,
    Elementwise,
    Limits,
    Op,
    Reduction,
    Refusal,
    Sample,
    Shape,
    call,
)

__all__ = [
    "Array", "Refusal", "bind", "call", "composite", "contraction", "declare", "elementwise", "opaque", "reduction",
    "shape",
]  # fmt: skip

_binders: list[Callable[[Op], None]] = []


def bind(binder: Callable[[Op], None]) -> None:
    """Let `binder` give a `call` to every op there is, and to each that is declared later."""
    _binders.append(binder)
    for op in REGISTRY.values():
        binder(op)


def declare(op: Op) -> Any:
    """Register `op` and return it as a plain function.

    The rule's signature and docstring; to go on declaring with `vjp`, and `prepare`, which takes arrays and settings
    and returns the settings in their canonical form.

    Raises:
        DeclarationError: where the library has an op of that name. A user's own may be declared anew.
    """
    known = REGISTRY.get(op.name)
    if known is not None and known.own:
        raise DeclarationError(f"{op.name}: the library has an op of this name", hint="give the function another name")
    REGISTRY[op.name] = op
    for binder in _binders:
        binder(op)
    signature = inspect.signature(op.rule)
    bare = signature.replace(
        parameters=[
            p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None)
            for p in signature.parameters.values()
        ],
        return_annotation=signature.empty,
    )
    operands = op.inputs[0] if op.variadic else f"({', '.join(op.inputs)},)"
    settings = "{" + ", ".join(f"{name!r}: {name}" for name in op.settings) + "}"
    arguments = ", ".join(op.inputs) if isinstance(op, Elementwise) else f"{operands}, {settings}"
    # Made as text, so that Python itself binds the arguments: inspect.Signature.bind would cost more than most ops.
    scope: dict[str, Any] = {"_op": op}
    text = f"def {op.name}{bare}:\n    return _op.call({arguments})\n"
    exec(compile(text, f"<tinygrad_rnn op {op.name}>", "exec"), scope)
    function: Any = scope[op.name]
    assert isinstance(function, types.FunctionType)
    function.__defaults__, function.__kwdefaults__ = op.rule.__defaults__, op.rule.__kwdefaults__
    function.__doc__, function.__module__ = op.rule.__doc__, op.rule.__module__
    function.__annotations__ = op.rule.__annotations__
    made: Any = function
    op.function, made.op = function, op
    made.vjp = functools.partial(_vjp, op)
    made.prepare = functools.partial(setattr, op, "prepare")
    return made


def _vjp(op: Op, *inputs: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def declare_vjp(function: Callable[..., Any]) -> Callable[..., Any]:
        for of in inputs:
            op.add_vjp(of, function)
        return function

    return declare_vjp


def elementwise(
    *,
    symbol: str | None = None,
    domain: tuple[float, float] = (-2.0, 2.0),
    integers: bool = False,
    truth: tuple[str, ...] = (),
    linear: bool | tuple[str, ...] = False,
    saturates: Limits | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Declare a rule on scalars.

    Args:
        symbol: its label in pictures.
        domain: where its tests draw inputs from.
        integers: True where integers stay integers; otherwise they become the default dtype.
        truth: the inputs that are truth values.
        linear, saturates: its traits.
    """

    def declare_rule(rule: Callable[..., Any]) -> Any:
        op = Elementwise(rule, symbol=symbol, domain=domain, integers=integers, truth=truth)
        op.add_traits(linear=linear, saturates=saturates)
        return declare(op)

    return declare_rule


def _kind(kind: type[Op]) -> Callable[..., Callable[[Callable[..., Any]], Any]]:
    def decorator(
        *,
        symbol: str | None = None,
        promotes: bool = False,
        integers: bool = True,
        samples: Callable[[Any], Iterable[Sample]] | None = None,
        refusals: Callable[[Any], Iterable[Refusal]] | None = None,
        derivatives: float = math.inf,
        view: bool = False,
        linear: bool | tuple[str, ...] | None = None,
        whole_numbers: bool | None = None,
        random: bool = False,
        saturates: Limits | None = None,
    ) -> Callable[[Callable[..., Any]], Any]:
        def declare_rule(rule: Callable[..., Any]) -> Any:
            op = kind(rule, symbol=symbol)
            op.promotes, op.integers = promotes or not integers, integers
            op.samples, op.refusals, op.derivatives = samples, refusals, derivatives
            op.add_traits(view=view, linear=linear, whole_numbers=whole_numbers, random=random, saturates=saturates)
            return declare(op)

        return declare_rule

    decorator.__doc__ = f"""Declare an op of kind {kind.kind}: a rule on whole arrays.

    Args:
        symbol: its label in pictures.
        promotes: True where inputs of several dtypes become one before the rule runs.
        integers: True where integers stay integers; otherwise they become the default dtype.
        samples: calls for its tests, drawn with the random source given.
        refusals: calls that it must refuse.
        derivatives: how many it has, where the vjp of the next one refuses on purpose.
        view, linear, whole_numbers, random, saturates: its traits.
    """
    return decorator


reduction, shape, contraction, opaque = map(_kind, (Reduction, Shape, Contraction, Op))


def composite(
    *,
    samples: Callable[[Any], Iterable[Sample]],
    refusals: Callable[[Any], Iterable[Refusal]] | None = None,
    differentiable: bool = True,
    derivatives: float = math.inf,
) -> Callable[[Callable[..., Any]], Any]:
    """Enter a function made of ops in the table that tests and the reference go through; it stays as it is.

    Args:
        samples: calls for its tests, drawn with the random source given. Arrays among the operands become tensors.
        refusals: calls that it must refuse.
        differentiable: False where there is no gradient.
        derivatives: how many it has, where the next one is refused on purpose.
    """

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        COMPOSITES[name] = Composite(name, function, samples, refusals, differentiable, derivatives)
        return function

    return enter
