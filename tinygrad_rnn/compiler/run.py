"""`scan`: a step run over time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..autograd.nest import leaves, map_nest, skeleton, structure
from ..autograd.replay import replayed
from ..autograd.tape import Place, State, no_grad, thread
from ..autograd.tensor import Tensor, as_tensor
from ..errors import ArgumentError, ShapeError, TinygradError
from ..ops.random import Draws
from ..ops.shape import concat, stack

Step = Callable[[Any, Any], tuple[Any, Any]]


def scan(step: Step, init: Any, xs: Any, *, reverse: bool = False, checkpoint: str | int | None = None) -> Any:
    """Run step(carry, x) -> (carry, y) over the first axis of xs: the carry of one step goes into the next.

    carry_t, y_t = step(carry_{t-1}, xs[t])          t = 0, 1, ..., T - 1, or T - 1, ..., 0 with `reverse`

    Carry, x and y are nests: tensors in tuples, named tuples, lists and dicts, or None.

    Args:
        step: one step.
        init: the first carry. Every step must return one of the same nest, shapes and dtypes.
        xs: a nest of tensors (T, ...); `tg.arange(T)` where only the number of steps matters. T may be 0: then `step`
            is called once, on zeros, to see what it returns.
        reverse: run from the last step to the first; ys[t] is still what belongs to xs[t].
        checkpoint: memory for time: keep carries at every k-th step only (k an int, or "sqrt" for the root of T), and
            run the steps between again in backward (Chen et al. 2016). The gradients are the same.

    Returns:
        The last carry, and ys: the nest that `step` returns second, its tensors stacked to (T, ...).

    Raises:
        ShapeError: for xs of unequal lengths, and for a carry or a y that changes; the message names the step. Errors
            of the step itself name it too.
        ArgumentError: for another `checkpoint`.

    >>> import tinygrad_rnn as tg
    >>> tg.scan(lambda total, x: (total + x, total), tg.tensor(0.0), tg.tensor([1.0, 2.0, 3.0]))
    (tensor(6.), tensor([0., 1., 3.]))
    """
    name = getattr(step, "__name__", type(step).__name__)
    return unrolled(
        step, map_nest(as_tensor, init), map_nest(as_tensor, xs), Place(name, 0, reverse), checkpoint=checkpoint
    )


def unrolled(
    step: Step, carry: Any, xs: Any, place: Place, *, first: int = 0, checkpoint: str | int | None = None
) -> tuple[Any, Any]:
    """`scan` for what knows its place in a net; `first` is the number of the first step."""
    steps, every = _length(xs), _pieces(checkpoint, _length(xs))
    given = structure(carry), [(leaf.shape, leaf.dtype) for leaf in leaves(carry)]

    def piece(carry: Any, xs: Any, first: int) -> tuple[Any, list[Any]]:
        """Some of the steps, one after another."""
        count = _length(xs)
        ys: list[Any] = [None] * count
        with at(place) as here:
            for t in reversed(range(count)) if place.reverse else range(count):
                here.place = Place(place.cell, place.layer, place.reverse, first + t)
                x = xs[t] if isinstance(xs, Tensor) else map_nest(lambda x, t=t: x[t], xs)
                carry, ys[t] = _checked(step(carry, x), carry, given)
        if not count:
            return carry, _nothing(step, carry, xs, place)
        return carry, _stacked(ys, place)

    if every is None or steps == 0:
        return piece(carry, xs, first)
    parts: dict[int, Any] = {}
    starts = range(0, steps, every)
    for a in reversed(starts) if place.reverse else starts:

        def run(carry: Any, xs: Any, a: int = a) -> tuple[Any, list[Any]]:
            return piece(carry, xs, first + a)

        run.__name__ = place.cell
        carry, parts[a] = replayed(run, carry, map_nest(lambda x, a=a: x[a : a + every], xs))
    return carry, map_nest(lambda *ys: concat(ys), *[parts[a] for a in starts])


@contextlib.contextmanager
def at(place: Place) -> Iterator[State]:
    """Inside, operations belong to this place, or the one that is set in the state given; errors name it."""
    state = thread.state
    outer, state.place = state.place, place
    try:
        yield state
    except TinygradError as trouble:
        trouble.args = (f"{trouble}\n  in {state.place}",)
        raise
    except Exception as trouble:
        if hasattr(trouble, "add_note"):  # Python 3.11
            trouble.add_note(f"in {state.place}")
        raise
    finally:
        state.place = outer


def _length(xs: Any) -> int:
    sizes = {x.shape[0] if x.ndim else -1 for x in leaves(xs)}
    if len(sizes) != 1 or -1 in sizes:
        raise ShapeError(
            "scan: time is the first axis of xs",
            expected="at least one tensor (T, ...), all of the same T",
            got=structure(xs),
            hint=None if sizes else "tg.arange(T) where only the number of steps matters",
        )
    return int(sizes.pop())


def _pieces(checkpoint: str | int | None, steps: int) -> int | None:
    if checkpoint is None:
        return None
    if checkpoint == "sqrt":
        return max(math.isqrt(max(steps - 1, 0)) + 1, 1)
    if isinstance(checkpoint, (int, np.integer)) and not isinstance(checkpoint, bool) and checkpoint >= 1:
        return int(checkpoint)
    raise ArgumentError(
        "scan: no such checkpoint", expected='None, "sqrt" or an int of 1 or more', got=repr(checkpoint)
    )


def _checked(made: Any, before: Any, given: tuple[str, list[Any]]) -> tuple[Any, Any]:
    """What the step returned, where it is a carry as given and a y."""
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        got = f"{len(made)} parts" if isinstance(made, (tuple, list)) else type(made).__name__
        raise ShapeError("the step returns two things", expected="(carry, y)", got=got)
    carry, y = made
    parts = list(leaves(carry))
    if not all(isinstance(part, Tensor) for part in parts):
        carry = map_nest(as_tensor, carry)
        parts = list(leaves(carry))
    same_nest = type(carry) is type(before) or structure(carry) == given[0]
    if not same_nest or [(part.shape, part.dtype) for part in parts] != given[1]:
        dtypes = structure(before, lambda t: f"{t.dtype} {t.shape}"), structure(carry, lambda t: f"{t.dtype} {t.shape}")
        raise ShapeError(
            "the step returned another state than it was given",
            expected=dtypes[0],
            got=dtypes[1],
            hint="every step returns a state of the same nest, shapes and dtypes, so that the next can take it",
        )
    return carry, y


def _stacked(ys: list[Any], place: Place) -> Any:
    shape = skeleton(ys[0])
    for t, y in enumerate(ys):
        if skeleton(y) != shape:
            with at(place._replace(step=t)):
                raise ShapeError("the step returned another output than at first", expected=shape, got=skeleton(y))
    return map_nest(lambda *parts: stack(parts), *ys)


def _nothing(step: Step, carry: Any, xs: Any, place: Place) -> Any:
    """The outputs of no steps: empty, in the shapes of those that one step on zeros gives."""
    draws = Draws()
    with no_grad(), draws, at(place):
        _, y = step(carry, map_nest(lambda x: Tensor(np.zeros(x.shape[1:], x.dtype)), xs))
    draws.take_back()
    return map_nest(lambda part: Tensor(np.zeros((0, *as_tensor(part).shape), as_tensor(part).dtype)), y)
