"""The tape: a node for each operation that ran, and the clock that orders them.

No list keeps nodes alive. A tensor holds its node, a node holds its parents, so a graph lives as long as its last
result. Inside `with Tape() as tape:` there is a list, and every operation is on it, whether a gradient is wanted or
not.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import GraphError
from ..kernels.runtime.locks import lock_across_forks
from ..ops.op import Op

#: One clock for operations and in-place writes: the next number.
tick = itertools.count(1).__next__


class Place(NamedTuple):
    """Where in a recurrent net an operation ran; all those of one step share one object. What a recorded backward did
    is at the place `of` which it is the gradient."""

    cell: str = ""
    layer: int | None = 0
    reverse: bool = False
    step: int | None = None
    of: Place | None = None

    def __str__(self) -> str:
        parts = [self.cell, "" if self.layer is None else f"layer {self.layer}", "reverse" if self.reverse else ""]
        parts += ["" if self.step is None else f"step {self.step}", "gradient" if self.derivative else ""]
        return " ".join(part for part in parts if part)

    @classmethod
    def of_gradient(cls, place: Place | None) -> Place:
        """Where the gradient of what ran at a place is computed."""
        place = place or cls(layer=None)
        return place._replace(of=place)

    @property
    def derivative(self) -> int:
        """0 for what was asked for, n for what the n-th recorded backward did about it."""
        return 0 if self.of is None else self.of.derivative + 1

    @property
    def root(self) -> Place:
        """Where the operation is whose gradient, or gradient's gradient, this is about."""
        return self if self.of is None else self.of.root


class State:
    """What one thread is doing: whether it records, who watches, and where in a net it is."""

    __slots__ = ("anomaly", "enabled", "named", "outer", "place", "recorder", "watchers")

    def __init__(self) -> None:
        self.enabled = True
        self.outer: list[bool] = []  # what `enabled` was outside each block that set it
        self.watchers: tuple[Watcher, ...] = ()
        self.place: Place | None = None
        self.recorder: Any = None  # the innermost `record`, which keeps what layers name
        self.named: dict[str, Any] | None = None  # what is named while a step is recorded
        self.anomaly: Any = None  # the innermost detect_anomaly, which looks at gradients too


class _Thread(threading.local):
    def __init__(self) -> None:
        self.state = State()


thread = _Thread()

Watching = TypeVar("Watching", bound="Watcher")


class Node:
    """One operation that ran, or (with `op` None) a leaf: a tensor that was given.

    Attributes:
        op: the operation.
        parents: the nodes of its inputs; None for an input that is constant.
        wanted: for each input, whether a gradient flows to it.
        saved: what the vjps need (`BackwardPlan.kept` names it); None once a backward has freed it, and where
            `checkpoint` has not kept it, what brings it back.
        settings: the operation's settings; for an elementwise one, the inputs that are plain numbers.
        order: its number on the clock.
        shape, dtype: the output's.
        place: where in a recurrent net it ran.
        label: the name given by `Tensor.named`.
        owner: a weak reference to the tensor whose `grad` wants what arrives here.
        hooks: functions that see, and may replace, what arrives here.
    """

    __slots__ = (
        "__weakref__",
        "dtype",
        "hooks",
        "label",
        "op",
        "order",
        "owner",
        "parents",
        "place",
        "saved",
        "settings",
        "shape",
        "wanted",
    )

    def __init__(
        self,
        op: Op | None,
        parents: tuple[Node | None, ...],
        wanted: tuple[bool, ...],
        saved: Any,
        settings: dict[str, Any] | None,
        array: np.ndarray[Any, Any],
        place: Place | None,
    ) -> None:
        self.op = op
        self.parents = parents
        self.wanted = wanted
        self.saved = saved
        self.settings = settings
        self.shape = array.shape
        self.dtype = array.dtype
        self.place = place
        self.label: str | None = None
        self.owner: weakref.ref[Any] | None = None
        self.hooks: dict[int, Callable[[Any], Any]] | None = None
        self.order = tick()

    @classmethod
    def leaf(cls, array: np.ndarray[Any, Any]) -> Node:
        """The node of a tensor that no operation made."""
        return cls(None, (), (), (), None, array, None)

    @property
    def name(self) -> str:
        """The label, or the op's name, or "leaf"."""
        return self.label or (self.op.name if self.op is not None else "leaf")

    @property
    def title(self) -> str:
        """The op's name, and the label where there is one: for messages."""
        name = self.op.name if self.op is not None else "leaf"
        return f"{name} ({self.label})" if self.label else name

    def ancestors(self) -> list[Node]:
        """This node and all that it was made from, oldest first."""
        found, stack = {self.order: self}, [self]
        while stack:
            for parent in stack.pop().parents:
                if parent is not None and parent.order not in found:
                    found[parent.order] = parent
                    stack.append(parent)
        return [found[order] for order in sorted(found)]

    def __repr__(self) -> str:
        return f"<node {self.order} {self.name} {self.shape} {self.dtype}>"


def input_names(op: Op, count: int) -> list[str]:
    """The names of an op's first `count` inputs."""
    return [f"{op.inputs[0]}[{i}]" for i in range(count)] if op.variadic else list(op.inputs[:count])


class Watcher:
    """Sees every operation that this thread runs inside a `with` block, whether a gradient is wanted or not.

    Attributes:
        each: whether it wants to see each of them, or a whole sequence, run at once, may be one.
        names_constants: whether every input shall have a node, constants too, to be known by.
    """

    each = True
    names_constants = False

    def __enter__(self: Watching) -> Watching:
        state = thread.state
        state.watchers = (*state.watchers, self)
        return self

    def __exit__(self, *trouble: object) -> None:
        state = thread.state
        last = max(i for i, watcher in enumerate(state.watchers) if watcher is self)
        state.watchers = (*state.watchers[:last], *state.watchers[last + 1 :])

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        """Called for each operation: its node, its inputs as tensors (None where not given), its output's array."""
        raise NotImplementedError

    def see_read(self, x: Any) -> None:
        """Called where the values of a tensor go into something else than an operation."""


def read(x: Any) -> None:
    """Tell who watches that the values of a tensor are read."""
    for watcher in thread.state.watchers:
        watcher.see_read(x)


class Tape(Watcher):
    """A list of the operations run inside a `with` block, in order. It prints as a Wengert list.

    >>> import tinygrad_rnn as tg
    >>> x = tg.tensor([1.0, 2.0])
    >>> with tg.Tape() as tape:
    ...     y = tg.tanh(x * x).sum()
    >>> print(tape)
    %0 = leaf                          (2,) float32
    %1 = multiply(%0, %0)              (2,) float32
    %2 = tanh(%1)                      (2,) float32
    %3 = sum(%2, axis=(0,))            () float32
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        self.nodes.append(node)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __str__(self) -> str:
        return wengert(self.nodes)


def wengert(nodes: list[Node]) -> str:
    """Nodes in order as a Wengert list: one numbered value a line, with the leaves that they start from."""
    inner = {id(node) for node in nodes}
    leaves = {id(p): p for node in nodes for p in node.parents if p is not None and id(p) not in inner}
    every = sorted([*leaves.values(), *nodes], key=lambda node: node.order)
    number = {id(node): f"%{i}" for i, node in enumerate(every)}
    lines = []
    for node in every:
        text = "leaf" if node.op is None or id(node) in leaves else f"{node.op.name}({_arguments(node, number)})"
        label = f"  # {node.label}" if node.label else ""
        lines.append(f"{number[id(node)]} = {text}".ljust(34) + f" {node.shape} {node.dtype}{label}")
    return "\n".join(lines)


def _arguments(node: Node, number: dict[int, str]) -> str:
    settings, op = dict(node.settings or {}), node.op
    assert op is not None
    inputs = []
    for i, parent in enumerate(node.parents):
        name = op.inputs[0 if op.variadic else i]
        constant = _short(settings.pop(name)) if name in settings else "const"
        inputs.append(constant if parent is None else number.get(id(parent), constant))
    shown = [f"{k}={_short(v)}" for k, v in settings.items() if v is not None and v is not False]
    return ", ".join([*inputs, *shown])


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    if isinstance(value, slice):
        parts = ["" if part is None else str(part) for part in (value.start, value.stop)]
        return ":".join(parts) + (f":{value.step}" if value.step is not None else "")
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))}{',' if len(value) == 1 else ''})"
    return "..." if value is Ellipsis else repr(value)


class Writes:
    """When memory was last written in place. Views share memory, so they share this too.

    An operation saves arrays; if their memory was written after it ran, its gradient would be wrong, and `check`
    raises. Nothing is counted for an array: the clock tells whether a write came later than the operation.
    """

    def __init__(self) -> None:
        self.latest = 0
        self._stamps: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._noting = lock_across_forks()

    def note(self, array: np.ndarray[Any, Any]) -> None:
        """Remember that `array` was written just now."""
        root = root_of(array)
        key = id(root)
        with self._noting:  # or a thread that drew its number first could store it last
            self.latest = stamp = tick()
            known = self._stamps.get(key)
            reference = known[1] if known is not None else weakref.ref(root, lambda _: self._stamps.pop(key, None))
            self._stamps[key] = (stamp, reference)

    def stamp(self, root: Any) -> int:
        """When the memory of this root array was last written; 0 for never."""
        known = self._stamps.get(id(root))
        return known[0] if known is not None else 0

    def refuse(self, arrays: Iterable[Any], since: int, what: str) -> None:
        """Raise if the memory of any of these was written after `since`; `what` begins the message."""
        for array in arrays if self.latest > since else ():
            root = root_of(array)
            if self.stamp(root) > since:
                raise GraphError(
                    f"{what}, of {root.nbytes} bytes, was changed in place since",
                    expected="the values of the first time, to compute the same again",
                    hint="run backward() before optimizer.step(), or change a copy",
                )

    def check(self, node: Node, saved: tuple[Any, ...]) -> None:
        """Raise if something in `saved`, kept by `node`, was written after it ran."""
        for value in saved:
            if type(value) is tuple:
                self.check(node, value)
            elif isinstance(value, np.ndarray) and self.stamp(root_of(value)) > node.order:
                raise GraphError(
                    f"backward: {node.name} needs a value {value.shape} that was changed in place after it ran",
                    expected="values that backward needs to stay as they were",
                    hint="change it after backward(), or change a copy",
                )


def root_of(array: Any) -> Any:
    """The array that owns the memory; what stands between (for strided and for read-only views) has a base too."""
    while True:
        base = array.base
        if isinstance(base, memoryview):
            base = base.obj
        if not isinstance(base, np.ndarray) and getattr(base, "base", None) is None:
            return array
        array = base


writes = Writes()


class Reads:
    """Memory that a function read, which must be as it was when the function is to do the same again."""

    def __init__(self, roots: Iterable[Any] = ()) -> None:
        self.end = tick()
        self._roots: list[weakref.ref[Any]] = []
        for root in roots:
            with contextlib.suppress(TypeError):  # memory of a foreign kind, which is not written through tensors
                self._roots.append(weakref.ref(root))

    def check(self, what: str) -> None:
        """Raise if any was written since; `what` begins the message."""
        roots = [reference() for reference in self._roots]
        writes.refuse([root for root in roots if root is not None], self.end, what)


class _Recording:
    """Sets whether this thread records; a context manager and a decorator."""

    _enabled = True

    def __enter__(self) -> None:
        state = thread.state
        state.outer.append(state.enabled)
        state.enabled = self._enabled

    def __exit__(self, *trouble: object) -> None:
        state = thread.state
        state.enabled = state.outer.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            with type(self)():
                return function(*arguments, **named)

        @functools.wraps(function)
        def generator(*arguments: Any, **named: Any) -> Any:
            """Each stretch from one yield to the next runs inside; what is between them does not."""
            made, resume, given = function(*arguments, **named), "send", None
            while True:
                try:
                    with type(self)():
                        value = getattr(made, resume)(given)
                except StopIteration as end:
                    return end.value
                try:
                    resume, given = "send", (yield value)
                except GeneratorExit:
                    made.close()
                    raise
                except BaseException as trouble:
                    resume, given = "throw", trouble

        return generator if inspect.isgeneratorfunction(function) else wrapped


class no_grad(_Recording):
    """Inside, nothing is recorded for backward: results do not require a gradient. Also a decorator.

    Holds for this thread.
    """

    _enabled = False


class enable_grad(_Recording):
    """Inside, recording is on again, within a `no_grad`. Also a decorator; holds for this thread."""


def is_grad_enabled() -> bool:
    """Whether this thread records."""
    return thread.state.enabled
