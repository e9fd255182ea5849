"""What an op is: a rule on arrays, and one vector-Jacobian product for each input. And the registry of all ops.

A declaration is a decorated function and its vjps:

    @elementwise(symbol="tanh", domain=(-3, 3))
    def tanh(x):
        return scalar.tanh(x)

    @tanh.vjp("x")
    def _(g, y):
        return g * (1 - y * y)

The parameters annotated `Array`, or with neither annotation nor default, are the inputs; the others are settings. A
vjp names what it wants, and that is the retention contract, because only what the vjps of the inputs in need of a
gradient name is kept on the tape:

    g               the incoming gradient, of the output's shape
    y               the output
    x               an input, by its name
    x_shape         an input's shape, likewise x_dtype; nothing is kept for it
    axis            a setting, by its name

Five kinds: `elementwise` (a rule on scalars, in arithmetic, `kernels.scalar` and other elementwise ops), `reduction`,
`shape`, `contraction` and `opaque` (a rule on whole arrays). A vjp may return a gradient that still has to be summed
to the input's shape; whoever runs it does that. It calls arithmetic and declared functions only, so that it can
itself be differentiated.

What else is to be known of an op are its traits, said where it is declared, for whoever asks: nobody keeps a list of
ops by name.

    view            the output shows elements of the one input; which, the input's shape and the settings tell. It
                    shares the input's memory where NumPy can, and then shows each element at most once; else it is a
                    copy. So where it shares, a gradient of the output is written through the same view of the input's.
    linear          True: the output is linear in all inputs together, as x + y is. Names: it is linear in each of these
                    inputs as long as the others are fixed, as x * y is. True for a view. It is said of real numbers:
                    rounding, or a setting that asks for whole numbers, is another matter.
    whole_numbers   an input of whole numbers is passed on, or looked up by, and not computed with. So where a kernel
                    holds them as floating numbers, the result is the same. True for what moves elements and `promotes`
                    nothing.
    random          its setting `key` decides which random numbers it takes, and a call draws a new one. With the same
                    key it does the same.
    saturates       (low, high): an output at most the one, or at least the other, has all but lost its derivative. None
                    for an end that it has not.
    moves           each element of the output is one of an input, or a constant. True for the kind `shape`.

How much a function of numbers costs is a trait of its primitives: `kernels.scalar`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from ..errors import DeclarationError, GraphError, ShapeError, TinygradError
from ..ir import emit
from ..ir.expression import Expression

#: The annotation of an input: whatever becomes a tensor. Its text says Array, postponed or not.
Array = Annotated[Any, "Array"]

#: Every op by name, in the order of declaration.
REGISTRY: dict[str, Op] = {}

#: Every function made of ops by name, in the order of declaration.
COMPOSITES: dict[str, Composite] = {}


class Sample(NamedTuple):
    """One call of an op, for its tests: operands and settings."""

    operands: tuple[Any, ...]
    settings: dict[str, Any]


class Refusal(NamedTuple):
    """One call that an op must refuse: with which error, saying what."""

    sample: Sample
    error: type[TinygradError]
    says: str


def call(*operands: Any, **settings: Any) -> Sample:
    """A sample, written as the call is."""
    return Sample(operands, settings)


#: Places of inputs, and for each the function of (gradient array, kept arrays) that gives its gradient.
Pulls = list[tuple[int, Callable[[Any, tuple[Any, ...]], Any]]]


class Composite(NamedTuple):
    """A function made of ops: what its tests and the reference need to know of it."""

    name: str
    rule: Callable[..., Any]
    samples: Callable[[Any], Iterable[Sample]]
    refusals: Callable[[Any], Iterable[Refusal]] | None
    differentiable: bool
    derivatives: float = math.inf
    kind: str = "composite"


class Vjp(NamedTuple):
    """A vector-Jacobian product: the function, and the names of what it takes."""

    function: Callable[..., Any]
    names: tuple[str, ...]


class BackwardPlan(NamedTuple):
    """What one call keeps and what its backward runs, for one choice of inputs that need a gradient.

    `sources` tells for each kept name where it comes from, `pulls` for each of those inputs its place, its vjp's
    function, and that function's arguments: -1 is the gradient, another number a kept value, a name a setting.
    """

    kept: tuple[str, ...]
    sources: tuple[tuple[str, int], ...]
    pulls: tuple[tuple[int, Callable[..., Any], tuple[Any, ...]], ...]


class Piece:
    """A gradient that is not made yet. Pieces for one input are collected, and made one tensor when its turn comes.

    So T slices of one array, or T products with one weight, cost one array and one product.
    """

    __slots__ = ()

    g: Any

    #: How many elements it holds that the whole gradient has too.
    size = 0

    @staticmethod
    def made(pieces: Sequence[Any], shape: tuple[int, ...]) -> Any:
        """The sum of pieces of this type, as a tensor of `shape`."""
        raise TypeError("a piece defines made(pieces, shape)")


#: The outputs from which on a derivative has all but gone: at most, and at least.
Limits = tuple[float | None, float | None]


class Op:
    """One operation. `call` runs it on tensors; whoever records tensors puts it there (`bind`).

    Raises:
        DeclarationError: for a rule without inputs, and for a parameter called g or y, which mean the gradient and the
            output in vjps.
    """

    kind = "opaque"
    moves = False
    view = False
    linear: bool | tuple[str, ...] = False
    random = False
    saturates: Limits | None = None
    whole_numbers = False

    def __init__(self, rule: Callable[..., Any], *, symbol: str | None = None, name: str | None = None) -> None:
        self.rule = rule
        self.name = name or rule.__name__
        self.own = str(rule.__module__).startswith(f"{__package__}.")  # the library's, not a user's
        self.symbol = symbol or self.name
        self.vjps: dict[str, Vjp] = {}
        self.samples: Callable[[Any], Iterable[Sample]] | None = None
        self.refusals: Callable[[Any], Iterable[Refusal]] | None = None
        self.promotes = False
        self.integers = True
        self.derivatives = math.inf
        self.call: Callable[..., Any] = _unbound
        self.function: Callable[..., Any] = _unbound  # the public one
        self._plans: dict[tuple[bool, ...], BackwardPlan] = {}

        parameters = inspect.signature(rule).parameters.values()
        for taken in {"g", "y"} & {p.name for p in parameters}:
            raise DeclarationError(
                f"{self.name}: a parameter is called {taken}",
                hint="in a vjp g is the incoming gradient and y the output; call it a, b or x",
            )
        self.variadic = any("Sequence" in str(p.annotation) and "Array" in str(p.annotation) for p in parameters)
        is_input = [
            "Array" in str(p.annotation) or (p.default is p.empty and p.annotation is p.empty) for p in parameters
        ]
        self.inputs = tuple(p.name for p, chosen in zip(parameters, is_input) if chosen)
        if not self.inputs:
            raise DeclarationError(f"{self.name}: it has no input", hint="annotate tensors Array, or not at all")
        several = self.variadic and len(self.inputs) > 1
        if several or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise DeclarationError(
                f"{self.name}: inputs that cannot be told apart",
                expected="inputs by name, or one input of many tensors",
                got=str(inspect.signature(rule)),
                hint="arrays: Sequence[Array] is one input of many tensors",
            )
        self.optional = frozenset(
            i for i, p in enumerate(p for p, chosen in zip(parameters, is_input) if chosen) if p.default is not p.empty
        )
        self.settings = tuple(p.name for p, chosen in zip(parameters, is_input) if not chosen)
        self.defaults = tuple(None if p.default is p.empty else p.default for p, c in zip(parameters, is_input) if c)

    def add_vjp(self, of: str, function: Callable[..., Any]) -> None:
        """Declare the vector-Jacobian product for the input `of`.

        Raises:
            DeclarationError: where `of` is no input or has a vjp, or the function takes a name that the op has not.
        """
        if of in self.vjps:
            raise DeclarationError(
                f"{self.name}: the vjp for {of} is declared already", hint="declare the op anew, then its vjps"
            )
        if of not in self.inputs:
            raise DeclarationError(f"{self.name}: no such input", expected=f"one of {self.inputs}", got=repr(of))
        names = tuple(inspect.signature(function).parameters)
        known = {"g", "y", *self.inputs, *self.settings}
        known |= {f"{name}_{what}" for name in self.inputs for what in ("shape", "dtype")}
        for name in names:
            if name not in known:
                raise DeclarationError(
                    f"{self.name}: the vjp for {of} takes {name!r}, which the op does not have",
                    expected=f"names among {sorted(known)}",
                )
        self.vjps[of] = Vjp(function, names)

    def add_traits(
        self,
        *,
        view: bool = False,
        linear: bool | tuple[str, ...] | None = None,
        whole_numbers: bool | None = None,
        random: bool = False,
        saturates: Limits | None = None,
    ) -> None:
        """Declare what the head of this file tells; None is what follows from the others.

        Raises:
            DeclarationError: for a view of several inputs, an input that the op has not, a random op without a key.
        """
        if view and (self.variadic or len(self.inputs) > 1):
            raise DeclarationError(f"{self.name}: a view is of one input", got=f"inputs {self.inputs}")
        if random and "key" not in self.settings:
            raise DeclarationError(
                f"{self.name}: a random op takes its numbers from its key",
                expected="a setting key",
                got=f"settings {self.settings}",
            )
        for name in linear if isinstance(linear, tuple) else ():
            if name not in self.inputs:
                raise DeclarationError(f"{self.name}: no such input", expected=f"one of {self.inputs}", got=repr(name))
        self.view, self.random, self.saturates = view, random, saturates
        self.linear = view if linear is None else linear
        self.whole_numbers = self.moves and not self.promotes if whole_numbers is None else whole_numbers

    def linear_in(self, changing: Sequence[bool | None]) -> bool:
        """Whether the output is linear in the inputs that are `changing`; None marks one that is not given."""
        if isinstance(self.linear, bool):
            return self.linear and False not in changing
        return changing.count(True) == 1 and not self.variadic and self.inputs[changing.index(True)] in self.linear

    def plan(self, wanted: tuple[bool, ...]) -> BackwardPlan:
        """What a call keeps and runs in which the inputs marked in `wanted` need a gradient.

        Raises:
            GraphError: where one of them has no derivative declared.
        """
        found = self._plans.get(wanted)
        return found if found is not None else self._plans.setdefault(wanted, self._planned(wanted))

    def _planned(self, wanted: tuple[bool, ...]) -> BackwardPlan:
        names: dict[str, None] = {}
        vjps: list[tuple[int, Vjp]] = []
        for i, wants in enumerate(wanted):
            if not wants:
                continue
            of = self.inputs[0 if self.variadic else i]
            if of not in self.vjps:
                raise GraphError(
                    f"{self.name}: no derivative is declared with respect to {of}",
                    hint="pass it without one: .detach()",
                )
            if not (self.variadic and vjps):
                vjps.append((i, self.vjps[of]))
            names.update(dict.fromkeys(n for n in self.vjps[of].names if n != "g" and n not in self.settings))
        place: dict[str, Any] = {"g": -1, **{name: j for j, name in enumerate(names)}}
        pulls = [(i, vjp.function, tuple(place.get(name, name) for name in vjp.names)) for i, vjp in vjps]
        return BackwardPlan(tuple(names), tuple(self._source(name) for name in names), tuple(pulls))

    def _source(self, name: str) -> tuple[str, int]:
        """Where a kept value comes from: ("value", input number, -1 for the output), ("shape", i) or ("dtype", i)."""
        if name == "y":
            return "value", -1
        if name in self.inputs:
            return "value", self.inputs.index(name)
        base, _, what = name.rpartition("_")
        return what, self.inputs.index(base)

    def forward(self, arrays: Sequence[Any], settings: Mapping[str, Any]) -> Any:
        """The output array, for arrays and settings that `prepare` returned."""
        return self.rule(arrays, **settings) if self.variadic else self.rule(*arrays, **settings)

    def prepare(self, arrays: Sequence[Any], settings: dict[str, Any]) -> dict[str, Any]:
        """The settings in their canonical form; raises where they do not fit the arrays."""
        return settings

    #: Of an op with several outputs, in the place of vjps: (node, saved, the gradients that arrived by output,
    #: create_graph) -> the gradients of all inputs, None for none.
    joint: Callable[[Any, tuple[Any, ...], dict[int, Any], bool], list[Any]] | None = None

    #: Whether the op is one output of such, that of its `number`.
    picks = False

    #: How an output-shaped tensor is shown to the vjps, where not as it is: (tensor, settings, shape of the input).
    restored: Callable[[Any, Mapping[str, Any], tuple[int, ...]], Any] | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} op {self.name}>"


class Elementwise(Op):
    """y[i] = rule(x[i], ...) over broadcast inputs. The rule and its vjps are expressions, compiled when first used."""

    kind = "elementwise"

    def __init__(
        self,
        rule: Callable[..., Any],
        *,
        symbol: str | None = None,
        domain: tuple[float, float] = (-2.0, 2.0),
        integers: bool = False,
        truth: tuple[str, ...] = (),
        name: str | None = None,
    ) -> None:
        super().__init__(rule, symbol=symbol, name=name)
        if self.settings:
            raise DeclarationError(
                f"{self.name}: {self.settings[0]} is no input, and an elementwise rule has nothing else",
                hint=f"{self.settings[0]}: Array = ..., with Array from tinygrad_rnn.ops.declare",
            )
        self.domain, self.integers, self.promotes = domain, integers, True
        self.truth = frozenset(self.inputs.index(name) for name in truth)
        self.expression = traced(self.name, rule, self.inputs)
        used = {e.name for e in self.expression.schedule()}
        for unused in [name for name in self.inputs if name not in used]:
            raise DeclarationError(
                f"{self.name}: the rule does not use {unused}", hint="the result would not have its broadcast shape"
            )
        self.boolean = self.expression.primitive is not None and self.expression.primitive.boolean
        self.unit = emit.function(f"k_{self.name}", self.inputs, self.expression)
        self._pulls: dict[tuple[bool, ...], Pulls] = {}

    def forward(self, arrays: Sequence[Any], settings: Mapping[str, Any]) -> Any:
        if self.integers and not any(a.dtype.kind == "f" for a in arrays):
            return self.expression.evaluate(dict(zip(self.inputs, arrays)))
        return self.unit.call(*arrays)

    def pulls(self, wanted: tuple[bool, ...]) -> Pulls:
        """For each input that needs a gradient.

        Its place, and its vjp as a function of (gradient array, kept arrays).
        """
        found = self._pulls.get(wanted)
        if found is None:
            kept = self.plan(wanted).kept
            made = [(i, self._pull(of, kept)) for i, of in enumerate(self.inputs) if wanted[i]]
            found = self._pulls.setdefault(wanted, made)
        return found

    def _pull(self, of: str, kept: tuple[str, ...]) -> Callable[[Any, tuple[Any, ...]], Any]:
        vjp = self.vjps[of]
        expression = traced(f"{self.name}: the vjp for {of}", vjp.function, vjp.names)
        if expression.name == "g":
            return lambda g, saved: g
        if expression.primitive is None and expression.name is None:
            return lambda g, saved: np.full(g.shape, expression.value, g.dtype)
        unit = emit.function(f"k_{self.name}_vjp_{of}", vjp.names, expression)
        if vjp.names[:1] == ("g",):
            places = [kept.index(name) for name in vjp.names[1:]]
            if not places:
                return lambda g, saved: unit.call(g)
            if len(places) == 1:
                (first,) = places
                return lambda g, saved: unit.call(g, saved[first])
            if len(places) == 2:
                first, second = places
                return lambda g, saved: unit.call(g, saved[first], saved[second])
        return lambda g, saved: unit.call(*[g if name == "g" else saved[kept.index(name)] for name in vjp.names])


class Reduction(Op):
    """A rule that works along axes. Where it has `keepdims`, its vjps see g and y with the reduced axes of size 1."""

    kind = "reduction"

    def prepare(self, arrays: Sequence[Any], settings: dict[str, Any]) -> dict[str, Any]:
        axis, ndim = settings["axis"], arrays[0].ndim
        return {**settings, "axis": normalized_axes(self.name, axis, ndim, several="keepdims" in settings)}

    @staticmethod
    def restored(tensor: Any, settings: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
        """The tensor with the reduced axes of size 1."""
        if settings.get("keepdims", True):
            return tensor
        return tensor.reshape(tuple(1 if i in settings["axis"] else n for i, n in enumerate(shape)))


class Shape(Op):
    """A rule that moves elements and computes nothing."""

    kind = "shape"
    moves = True


class Contraction(Op):
    """A sum of products."""

    kind = "contraction"


def traced(what: str, rule: Callable[..., Any], names: Sequence[str]) -> Expression:
    """What a rule on scalars computes, as an expression in symbols of these names.

    Raises:
        DeclarationError: for a rule that does anything but arithmetic and calls of elementwise ops.
    """
    hint = "arithmetic, and elementwise functions of this library (tg.exp, tg.where) instead of math, numpy and if"
    try:
        made = rule(*map(Expression.symbol, names))
    except TypeError as trouble:
        raise DeclarationError(f"{what}: this rule cannot be followed", got=str(trouble), hint=hint) from None
    if not isinstance(made, (Expression, int, float)):
        raise DeclarationError(
            f"{what}: the rule returns no expression", expected="a scalar expression", got=repr(made), hint=hint
        )
    return Expression.of(made)


def normalized_axes(name: str, axis: Any, ndim: int, *, several: bool = True) -> Any:
    """`axis` without negative numbers: a sorted tuple (all axes for None), or one int where not `several`.

    Raises:
        ShapeError: for an axis out of range, or one named twice.
    """
    if type(axis) is int and -ndim <= axis < ndim:  # what is given most often
        return (axis % ndim,) if several else axis % ndim
    if axis is None and several:
        return tuple(range(ndim))
    found = []
    for one in axis if isinstance(axis, (tuple, list)) and several else (axis,):
        if not isinstance(one, (int, np.integer)) or not -max(ndim, 1) <= one < max(ndim, 1):
            raise ShapeError(f"{name}: no such axis", expected=f"ints from {-ndim} to {ndim - 1}", got=repr(axis))
        if ndim:
            found.append(int(one) % ndim)
    if len(set(found)) < len(found):
        raise ShapeError(f"{name}: an axis is named twice", expected="each axis once", got=repr(axis))
    return tuple(sorted(found)) if several else (found[0] if found else 0)


def _unbound(*arguments: Any) -> Any:
    raise DeclarationError("an op was called before tinygrad_rnn.autograd was imported")
