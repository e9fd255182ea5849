"""Einstein sums, taken apart into the other ops: a product of two operands is one (batched) matrix product.

So derivatives of every order, the speed of BLAS, and pictures follow. A term is an operand and an index for each of
its axes. First every operand becomes a term of which no index comes twice and no axis is to be stretched; then terms
are multiplied two at a time, and summed over the indices that are needed no more, until one is left.
"""

from __future__ import annotations

import functools
import itertools
import math
import string
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError, DtypeError, ShapeError
from .contract import matmul, of_one_dtype
from .declare import Array, Refusal, call, composite
from .elementwise import multiply
from .index import getitem
from .reduce import sum
from .shape import astype, permute_dims, reshape

#: Up to so many operands every order is tried: half a millisecond, once. For seven it would be twenty.
MANY = 5


class Term(NamedTuple):
    """An operand, or a product of several, and the index of each of its axes."""

    x: Any
    indices: tuple[str, ...]


class Subscripts(NamedTuple):
    """What subscripts mean for operands of given shapes.

    An index is a letter, or ".1", ".2", ... for the axes under "...", counted from the last. `order` says which
    operands are multiplied, round after round; the product takes the place of the first.
    """

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    sizes: dict[str, int]
    order: tuple[tuple[int, ...], ...]


def _samples(r: Any) -> list[Any]:
    return [
        call("ij,jk->ik", r(2, 3), r(3, 4)),
        call("bhq , bhk -> bqk", r(2, 3, 4), r(2, 3, 2)),
        call("i,i", r(3), r(3)),
        call("i,j->ji", r(3), r(2)),
        call("ii->i", r(3, 3)),
        call("iji", r(2, 3, 2)),
        call("ijk->", r(2, 3, 2)),
        call("ba", r(2, 3)),
        call("...ij,...jk->...ik", r(2, 1, 2, 3), r(4, 3, 2)),
        call("i...,...j", r(3, 2), r(2, 2)),
        call("...i->i", r(2, 2, 3)),
        call("ij,jk", r(2, 1), r(3, 2)),
        call("ij,jk,kl,ij->li", r(2, 3), r(3, 2), r(2, 2), r(2, 3)),
        call("i,,i->i", r(2), r(), r(2)),
        call("ij,jk->ik", r(2, 0), r(0, 3)),
        call("...->...", r(2, 3)),
    ]


def _refusals(r: Any) -> list[Refusal]:
    return [
        Refusal(call("ij,jk->ik", r(2, 3), r(4, 5)), ShapeError, "index j has two sizes"),
        Refusal(call("...i,...i", r(2, 3), r(4, 3)), ShapeError, "axis .1 has two sizes"),
        Refusal(call("ii", r(1, 3)), ShapeError, "index i has two sizes"),
        Refusal(call("ijk", r(2, 3)), ShapeError, "operand 0"),
        Refusal(call("j,i", r(2), r(2, 3)), ShapeError, "operand 1"),
        Refusal(call("ij...", r(2)), ShapeError, "operand 0"),
        Refusal(call("ij,jk", r(2, 3)), ArgumentError, "number of operands"),
        Refusal(call(""), ArgumentError, "number of operands"),
        Refusal(call("ij->ik", r(2, 3)), ArgumentError, "'k' is in no operand"),
        Refusal(call("ij->ii", r(2, 3)), ArgumentError, "'i' twice"),
        Refusal(call("i1", r(2, 3)), ArgumentError, "'1' is no index"),
        Refusal(call("i.j", r(2, 3)), ArgumentError, "'.' is no index"),
        Refusal(call("...i...", r(2, 3)), ArgumentError, "'.' is no index"),
        Refusal(call("i->j->i", r(2)), ArgumentError, "'-' is no index"),
        Refusal(call("i->i,i", r(2)), ArgumentError, "',' is no index"),
        Refusal(call(r(2), "i"), DtypeError, "first"),
        Refusal(call("i,i->i", r(2), np.ones(2, np.float32)), DtypeError, "one dtype"),
    ]


@composite(samples=_samples, refusals=_refusals)
def einsum(subscripts: str, *operands: Array) -> Any:
    """A sum of products by Einstein's convention: "ij,jk->ik" is y[i,k] = sum over j of a[i,j] b[j,k].

    Args:
        subscripts: for each operand an index (a letter) for each axis, and "..." for any number of further axes, which
            broadcast; after "->" the indices of the result. Without "->" these are "..." and then, in alphabetical
            order, the letters that come once. A letter twice in one operand takes its diagonal; an axis of size 1
            is stretched; what the result does not name is summed (the axes of "..." too, as in PyTorch); spaces do
            not count.
        operands: tensors of one dtype; three and more are multiplied two at a time, in an order that costs little.

    Raises:
        ArgumentError: for subscripts that cannot be read.
        ShapeError: for operands that do not fit them.
        DtypeError: where float32 and float64 meet.

    >>> import tinygrad_rnn as tg
    >>> tg.einsum("bi,bj->bij", tg.ones(2, 3), tg.ones(2, 4)).shape
    (2, 3, 4)
    """
    if not isinstance(subscripts, str):
        raise DtypeError("einsum: the subscripts come first", expected='"ij,jk->ik"', got=type(subscripts).__name__)
    given = of_one_dtype("einsum", operands)
    plan = _plan(subscripts.replace(" ", ""), tuple(x.shape for x in given))
    terms = {i: _distinct(Term(x, plan.operands[i]), plan.sizes) for i, x in enumerate(given)}
    for first, *others in plan.order:
        for other in others:
            a, b = terms.pop(first), terms.pop(other)
            needed = {*plan.result}.union(*[term.indices for term in terms.values()])
            terms[first] = _product(a, b, needed)
    y = _ordered(_summed(terms[0], plan.result), plan.result)
    return permute_dims(y, tuple(range(len(plan.result)))) if y is given[0] else y


# --- What the subscripts say ---


@functools.lru_cache(maxsize=1024)
def _plan(subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> Subscripts:
    inputs, arrow, output = subscripts.partition("->")
    texts = inputs.split(",")
    if len(texts) != len(shapes):
        raise ArgumentError(
            "einsum: the number of operands differs", expected=f"{len(texts)} for {subscripts!r}", got=len(shapes)
        )
    operands = tuple(_operand(i, text, len(shape)) for i, (text, shape) in enumerate(zip(texts, shapes)))
    sizes = _sizes(operands, shapes)
    if not arrow:
        often = Counter(itertools.chain(*operands))
        output = "..." + "".join(sorted(index for index in sizes if index.isalpha() and often[index] == 1))
    result = _indices(output, len([index for index in sizes if not index.isalpha()]))
    for index in result:
        if index not in sizes:
            raise ArgumentError(f"einsum: the result's index {index!r} is in no operand", got=repr(subscripts))
        if result.count(index) > 1:
            raise ArgumentError(f"einsum: the result has the index {index!r} twice", got=repr(subscripts))
    return Subscripts(operands, result, sizes, _order(subscripts, shapes))


def _order(subscripts: str, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Which operands to multiply, round after round: the cheapest way, or for many operands a good one."""
    if len(shapes) < 3:
        return (tuple(range(len(shapes))),)
    search = "optimal" if len(shapes) <= MANY else "greedy"
    path = np.einsum_path(subscripts, *[np.broadcast_to(np.empty(()), shape) for shape in shapes], optimize=search)[0]
    left, rounds = list(range(len(shapes))), []
    for places in path[1:]:
        rounds.append(tuple(sorted(left[place] for place in places)))
        left = [i for i in left if i not in rounds[-1]] + [rounds[-1][0]]
    return tuple(rounds)


def _operand(i: int, text: str, ndim: int) -> tuple[str, ...]:
    """The indices of operand `i`, which has so many axes."""
    named = len(text.replace("...", "", 1))
    indices = _indices(text, max(ndim - named, 0))
    if len(indices) != ndim:
        raise ShapeError(
            f"einsum: operand {i} does not fit its subscripts", expected=f"axes for {text!r}", got=f"{ndim} axes"
        )
    return indices


def _indices(text: str, dots: int) -> tuple[str, ...]:
    """The indices that a text names, of which "..." stands for so many."""
    before, found, after = text.partition("...")
    for letter in before + after:
        if letter not in string.ascii_letters:
            raise ArgumentError(
                f"einsum: {letter!r} is no index", expected='letters, "..." once, "->" once', got=repr(text)
            )
    return (*before, *[f".{n}" for n in range(dots, 0, -1) if found], *after)


def _sizes(operands: Sequence[tuple[str, ...]], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The size of each index. It may be 1 in some operands, but not along a diagonal."""
    sizes: dict[str, int] = {}
    for indices, shape in zip(operands, shapes):
        own: dict[str, int] = {}
        for index, size in zip(indices, shape):
            if own.setdefault(index, size) != size:
                raise _two_sizes(index, own[index], size)
        for index, size in own.items():
            known = sizes.setdefault(index, size)
            if known == 1:
                sizes[index] = size
            elif size not in (1, known):
                raise _two_sizes(index, known, size)
    return sizes


def _two_sizes(index: str, one: int, other: int) -> ShapeError:
    what = f"index {index}" if index.isalpha() else f'of "...", axis {index}'
    return ShapeError(f"einsum: {what} has two sizes", expected="equal sizes, or 1", got=f"{one} and {other}")


# --- Terms ---


def _distinct(term: Term, sizes: dict[str, int]) -> Term:
    """The term without axes that only stretch, and with the diagonal for an index that comes twice."""
    x, indices = term
    stretched = [size == 1 != sizes[index] for size, index in zip(x.shape, indices)]
    if any(stretched):
        x = reshape(x, tuple(n for n, drop in zip(x.shape, stretched) if not drop))
        indices = tuple(index for index, drop in zip(indices, stretched) if not drop)
    for index, often in Counter(indices).items():
        if often > 1:
            others = tuple(other for other in indices if other != index)
            axes = [axis for axis, other in enumerate(indices) if other == index]
            rest = [axis for axis, other in enumerate(indices) if other != index]
            x = getitem(permute_dims(x, (*axes, *rest)), (np.arange(sizes[index]),) * often)
            indices = (index, *others)
    return Term(x, indices)


def _summed(term: Term, needed: Collection[str]) -> Term:
    """The term summed over the indices that are not needed."""
    x, indices = term
    axes = tuple(axis for axis, index in enumerate(indices) if index not in needed)
    if not axes:
        return term
    total = sum(x, axes)
    if total.dtype != x.dtype:  # integers were widened
        total = astype(total, x.dtype)
    return Term(total, tuple(index for index in indices if index in needed))


def _ordered(term: Term, indices: Sequence[str]) -> Any:
    """The operand with its axes in the order of `indices`."""
    if term.indices == tuple(indices):
        return term.x
    return permute_dims(term.x, tuple(term.indices.index(index) for index in indices))


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    return x if x.shape == shape else reshape(x, shape)


def _product(a: Term, b: Term, needed: Collection[str]) -> Term:
    """a times b, summed over the indices that are not needed."""
    a = _summed(a, {*needed, *b.indices})
    b = _summed(b, {*needed, *a.indices})
    batch = tuple(index for index in a.indices if index in b.indices and index in needed)
    inner = tuple(index for index in a.indices if index in b.indices and index not in needed)
    left = tuple(index for index in a.indices if index not in b.indices)
    right = tuple(index for index in b.indices if index not in a.indices)
    size = {**dict(zip(a.indices, a.x.shape)), **dict(zip(b.indices, b.x.shape))}
    shape = {part: tuple(size[index] for index in part) for part in (batch, inner, left, right)}
    result = (*batch, *left, *right)
    if not inner:
        x = _reshaped(_ordered(a, batch + left), shape[batch] + shape[left] + (1,) * len(right))
        y = _reshaped(_ordered(b, batch + right), shape[batch] + (1,) * len(left) + shape[right])
        return Term(multiply(x, y), result)
    rows, depth, columns = (math.prod(shape[part]) for part in (left, inner, right))
    x = _reshaped(_ordered(a, batch + left + inner), (*shape[batch], rows, depth))
    y = _reshaped(_ordered(b, batch + inner + right), (*shape[batch], depth, columns))
    return Term(_reshaped(matmul(x, y), shape[batch] + shape[left] + shape[right]), result)
