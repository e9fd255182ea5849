"""A whole function as one node of the tape: backward runs it again, and differentiates that.

`checkpoint` (in `recompute`) leaves every operation on the tape and drops what it saved. This leaves one node: a
sequence cut into pieces then costs memory for the ends of the pieces, and for one piece at a time.

The node has several outputs. They are picked from it by nodes of their own, and what arrives at those goes back to it
together.
"""

from __future__ import annotations

import copy
import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError
from ..ops.op import Array, Op
from ..ops.random import Draws
from ..ops.shape import astype
from ..settings import FLOAT32, FLOAT64
from .backward import grad
from .pytree import leaves, map_leaves, unflatten
from .tape import Node, Reads, Watcher, enable_grad, is_grad_enabled, root_of, thread, tick, writes
from .tensor import Tensor, as_tensor


def replayed(f: Callable[..., Any], *xs: Any) -> Any:
    """f(*xs), as one node that keeps its inputs only: backward runs f again.

    Args:
        f: a function of pytrees of tensors that returns one. What it closes over gets its gradients too. It must do the
            same again: random numbers drawn through this library do.
        xs: its arguments.

    Raises:
        GraphError: where f registers hooks, retains gradients or makes leaves inside, which would be others the second
            time; and by backward, where f computes other numbers then, or what it reads was changed.
    """
    if not is_grad_enabled():
        return f(*xs)
    run = Run(f, xs)
    with run.draws:
        course, made = run.go(run.inputs)
    course.refuse_side_effects(run.inputs)
    outputs = [as_tensor(y) for y in leaves(made)]
    tensors = run.close(course)
    run.wanted, run.sources = tuple([t._requires_grad for t in tensors]), [t.node for t in tensors]
    return unflatten(made, iter(joined(run, tensors, [y._array for y in outputs], [y._requires_grad for y in outputs])))


#: What a node of several outputs has in the place of one.
_STAND_IN = {dtype: np.zeros((), dtype) for dtype in (FLOAT32, FLOAT64)}


def joined(
    run: Any,
    tensors: Sequence[Tensor],
    arrays: Sequence[Any],
    flows: Sequence[bool],
    held: Sequence[Any] = (),
    read: Sequence[Tensor] = (),
) -> list[Tensor]:
    """The outputs of one node, which has `tensors` as inputs: tensors that lead back to it, where a gradient flows.

    Args:
        run: what the node stands for. `run.gradients(inputs, arrived)` gives the gradients of the inputs (None for
            none), which inputs() makes tensors again, from those of the outputs (None where none arrived); it can be
            differentiated where that is recorded. Each is in memory of its own.
        tensors: its inputs.
        arrays: its outputs.
        flows: for each of these, whether a gradient goes through it.
        held: what the run needs until its gradients are taken; freed with what nodes save.
        read: what else the run reads, for who watches.
    """
    wanted = tuple([t._requires_grad for t in tensors])
    if True not in wanted or True not in flows:
        return [Tensor(array) for array in arrays]
    state = thread.state
    saved = (tuple([t._array for t in tensors]), *held)
    first = _STAND_IN[arrays[flows.index(True)].dtype]
    parents = tuple([t.node for t in tensors])
    node = Node(_replay, parents, wanted, saved, {"run": run, "count": len(arrays)}, first, state.place)
    for watcher in state.watchers:
        watcher.see(node, [*tensors, *read], first)
    picked = []
    for number, (y, flow) in enumerate(zip(arrays, flows)):
        if not flow:
            picked.append(Tensor(y))
            continue
        own = Node(_pick, (node,), (True,), (), {"number": number}, y, state.place)
        picked.append(Tensor(y, own, True))
        for watcher in state.watchers:
            watcher.see(own, (Tensor(first, node, True),), y)
    return picked


class _Course(Watcher):
    """What one run did: its nodes, a number for each value to know it again by, and what it used from outside."""

    each = False

    def __init__(self, scales: bool) -> None:
        self.since = tick()
        self.nodes: list[Node] = []
        self.leaves: list[Node] = []  # that need a gradient, and were made inside
        self.outer: dict[int, Tensor] = {}
        self.read: dict[tuple[int, int], Any] = {}
        self.what = 0
        self.numbers = array("d")
        self.scales = array("d") if scales else None

    def see(self, node: Node, inputs: Sequence[Any], y: np.ndarray[Any, Any]) -> None:
        self.nodes.append(node)
        for x in inputs:
            if x is not None:
                self.used(x)
        settings = self.known(node.settings) if node.settings else None
        self.note((node.op.name if node.op is not None else "", node.wanted, settings), y)

    def used(self, x: Tensor) -> None:
        """Note a tensor that the run did not make."""
        node = x.node
        if node is not None and node.order > self.since:
            if node.op is not None:
                return
            if x._requires_grad:
                self.leaves.append(node)
        elif x._requires_grad and node is not None:
            self.outer.setdefault(node.order, x)  # it is saved, and writes to it are noticed
            return
        root = root_of(x._array)
        key = id(root), writes.stamp(root)
        if key not in self.read:
            self.read[key] = root
            self.note("read", x._array)

    def note(self, what: Any, y: np.ndarray[Any, Any]) -> None:
        """Note one value."""
        self.what = hash((self.what, what, y.shape))
        flat = y.ravel() if y.dtype.kind == "f" else y.ravel().astype(np.float64)
        with np.errstate(all="ignore"):
            self.numbers.append(_projected(flat))
            if self.scales is not None:
                rough = 1e-5 if flat.dtype == np.float32 else 1e-12
                finite = math.isfinite(self.numbers[-1])
                self.scales.append(rough * math.sqrt(float(np.dot(flat, flat))) if finite else 0.0)

    def known(self, setting: Any) -> Any:
        """A setting as something to compare; arrays in it are noted like values."""
        if isinstance(setting, dict):
            return tuple([(name, self.known(part)) for name, part in setting.items()])
        if isinstance(setting, (tuple, list)):
            return tuple([self.known(part) for part in setting])
        if isinstance(setting, Tensor):
            setting = setting._array
        if isinstance(setting, np.ndarray) and setting.dtype.kind in "biuf":
            self.note("setting", setting)
            return setting.dtype.char
        return None if isinstance(setting, Run) else repr(setting)

    def refuse_side_effects(self, inputs: Sequence[Tensor]) -> None:
        """Raise for what would happen again, to other tensors, in the second run."""
        outside = [t.node for t in (*inputs, *self.outer.values()) if t.node is not None]
        what = None
        if any(node.hooks and max(node.hooks) > self.since for node in (*self.nodes, *self.leaves, *outside)):
            what = "registers a hook"
        elif any(node.owner is not None and node.owner() is not None for node in (*self.nodes, *self.leaves)):
            what = "makes a tensor that keeps its gradient"
        if what is not None:
            raise GraphError(
                f"scan: with checkpoint, a step that {what} cannot be run again",
                hint="do it outside the step, or without checkpoint",
            )

    def agrees(self, other: _Course) -> bool:
        """Whether another run, which has scales, computed the same."""
        if self.what != other.what or len(self.numbers) != len(other.numbers):
            return False
        a, b = np.frombuffer(self.numbers), np.frombuffer(other.numbers)
        with np.errstate(all="ignore"):
            near = np.abs(a - b) <= np.frombuffer(other.scales or array("d"))
        return bool(np.all(near | (a == b) | (np.isnan(a) & np.isnan(b))))


class Run:
    """One call of `replayed`: how to do it again."""

    def __init__(self, f: Callable[..., Any], xs: tuple[Any, ...]) -> None:
        self.f, self.xs = f, map_leaves(lambda _: 0, xs)
        self.inputs: list[Tensor] = [as_tensor(x) for x in leaves(xs)]
        self.place = thread.state.place
        self.draws = Draws()
        self.course = _Course(scales=False)
        self.read = Reads()
        self.sources: list[Node | None] = []
        self.wanted: tuple[bool, ...] = ()

    def __repr__(self) -> str:
        return getattr(self.f, "__name__", type(self.f).__name__)

    def go(self, inputs: Sequence[Tensor], scales: bool = False) -> tuple[_Course, Any]:
        """Run the function on these inputs."""
        course = _Course(scales)
        with course:
            made = self.f(*unflatten(self.xs, iter(inputs)))
        for y in leaves(made):
            y = as_tensor(y)
            course.used(y)
            course.note(("an output", y._requires_grad), y._array)
        return course, made

    def close(self, course: _Course) -> list[Tensor]:
        """Keep what the second run is compared with. Returns the inputs, and the other tensors that were used."""
        own = {x.node.order for x in self.inputs if x.node is not None}
        tensors = [*self.inputs, *[x for order, x in course.outer.items() if order not in own]]
        self.read = Reads(course.read.values())
        course.nodes, course.leaves, course.outer, course.read, self.inputs = [], [], {}, {}, []
        self.course = course
        return tensors

    def gradients(self, inputs: Callable[[], list[Tensor]], arrived: Sequence[Tensor | None]) -> list[Any]:
        """The gradients of all inputs and of what is closed over, from a second run. They can be differentiated."""
        differentiable, tensors = is_grad_enabled(), inputs()
        # Names of their own for what the run starts from: its inner graph ends at them, whatever made the values.
        starts = [
            Tensor(x._array) if not wants else astype(x, x.dtype) if differentiable else _leaf(x)
            for x, wants in zip(tensors, self.wanted)
        ]
        there = [(y, g) for y, g in zip(self.again(starts)[1], arrived) if g is not None]
        wanted = [x for x in starts if x._requires_grad]
        found = iter(
            grad([y for y, _ in there], wanted, [g for _, g in there], create_graph=differentiable, allow_unused=True)
        )
        return [next(found) if x._requires_grad else None for x in starts]

    def opened(
        self, starts: Sequence[Tensor], watchers: tuple[Watcher, ...] = ()
    ) -> tuple[Sequence[Node], list[Tensor]]:
        """The function run again on these inputs, and compared: for who wants to see inside."""
        return self.again(starts, watchers)

    def again(
        self, starts: Sequence[Tensor], watchers: tuple[Watcher, ...] = ()
    ) -> tuple[Sequence[Node], list[Tensor]]:
        """The function run again on these inputs: its nodes, and its outputs."""
        self.read.check(f"scan: a value that {self} reads")
        state = thread.state
        outer = state.watchers, state.place
        try:
            state.watchers, state.place = watchers, self.place
            with enable_grad(), self.draws.repeated():
                course, made = self.go(starts[: len(list(leaves(self.xs)))], scales=True)
        finally:
            state.watchers, state.place = outer
        own = {x.node.order for x in starts if x.node is not None}
        known = {source.order: x for source, x in zip(self.sources, starts) if source is not None}
        same = self.course.agrees(course) and all(order in known or order in own for order in course.outer)
        if not same:
            raise GraphError(
                f"scan: {self} computed something else the second time, which gradients over pieces need",
                expected="the same values from the same inputs",
                hint="train(), eval(), requires_grad and values that it reads stay as they were until backward(), and "
                "random numbers are drawn through this library",
            )
        return course.nodes, redirected(course.nodes, known, made)


def unfolded(
    history: Sequence[Node], strict: bool = False, watchers: tuple[Watcher, ...] = ()
) -> tuple[list[Node], dict[int, Node]]:
    """Nodes, oldest first, with those that stand for a whole run replaced by what the run does; and by id, what a node
    of the history has become, where it is another.

    One whose values backward has freed stays as it is, and so does one that computes something else now. What follows
    from a run is copied, the tape itself stays untouched. Gradients go through the copies as through the nodes
    themselves; whoever asks for them looks for writes.

    Args:
        history: what leads to something.
        strict: whether a run that computes something else now is an error.
        watchers: see what the runs do.

    Raises:
        GraphError: where a run computes something else now, if `strict`.
    """
    found: list[Node] = []
    now: dict[int, Node] = {}
    outputs: dict[int, list[Tensor]] = {}
    waiting, known = list(reversed(history)), []
    while waiting:
        node = waiting.pop()
        known.append(node)  # or another could get its id
        inner: Sequence[Node] | None = None
        if node.op is _replay and node.saved is not None and node.settings is not None:
            parents = [now.get(id(p), p) for p in node.parents]
            tensors = [Tensor(*each) for each in zip(node.saved[0], parents, node.wanted)]
            try:
                inner, outputs[id(node)] = node.settings["run"].opened(tensors, watchers)
            except GraphError:
                if strict:
                    raise
        if inner is not None:
            waiting += reversed(inner)
        elif node.op is _pick and node.parents and id(node.parents[0]) in outputs and node.settings is not None:
            made = outputs[id(node.parents[0])][node.settings["number"]].node
            assert made is not None
            now[id(node)] = now.get(id(made), made)
        elif any(id(p) in now for p in node.parents):
            copied = now[id(node)] = copy.copy(node)
            copied.parents, copied.order = tuple([now.get(id(p), p) for p in node.parents]), tick()
            found.append(copied)
        else:
            found.append(node)
    return found, now


def redirected(nodes: Sequence[Node], known: dict[int, Tensor], made: Any) -> list[Tensor]:
    """The outputs of a run whose `nodes` lead to what is `known` for a source (by order) instead of to the source."""
    for node in nodes:
        if any(p is not None and p.order in known for p in node.parents):
            node.parents = tuple([known[p.order].node if p and p.order in known else p for p in node.parents])
    outputs = [as_tensor(y) for y in leaves(made)]
    return [known.get(y.node.order, y) if y.node is not None else y for y in outputs]


def _leaf(t: Tensor) -> Tensor:
    made = Tensor(t._array)
    made.requires_grad = True
    return made


_WIDTH = 4096
_DIRECTIONS = {dtype: np.random.default_rng(0).standard_normal(_WIDTH).astype(dtype) for dtype in (FLOAT32, FLOAT64)}


def _projected(flat: np.ndarray[Any, Any]) -> float:
    """The product with a fixed random vector: a number that hardly any other array has."""
    direction = _DIRECTIONS[flat.dtype]
    while flat.size > _WIDTH:
        cut = flat.size // _WIDTH * _WIDTH
        flat = np.concatenate([flat[:cut].reshape(-1, _WIDTH) @ direction, flat[cut:]])
    return float(np.dot(flat, direction[: flat.size]))


def _replayed(arrays: Sequence[Array], run: Run, count: int) -> Any:
    raise TypeError("a node of this op is made by `joined`")


def _picked(whole: Array, number: int) -> Any:
    raise TypeError("a node of this op is made by `joined`")


def _joint(node: Node, saved: tuple[Any, ...], arrived: dict[int, Any], create_graph: bool) -> list[Any]:
    def inputs() -> list[Tensor]:
        if not create_graph:
            return [Tensor(array) for array in saved[0]]
        return [Tensor(*each) for each in zip(saved[0], node.parents, node.wanted)]

    settings = node.settings or {}
    found: list[Any] = settings["run"].gradients(inputs, [arrived.get(i) for i in range(settings["count"])])
    return found


_replay, _pick = Op(_replayed, name="replay"), Op(_picked, name="pick")
_replay.own = _pick.own = _pick.picks = _pick.moves = True
_replay.joint = _joint
