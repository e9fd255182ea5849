"""Nests: tensors in tuples (plain or named), lists and dictionaries, to any depth. A recurrent state is one.

None is a nest without leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..errors import ShapeError


def map_nest(function: Callable[..., Any], *nests: Any) -> Any:
    """The nest of function(leaf, ...) over nests of the same structure, in the types of the first.

    Leaves of dictionaries go in the order of the keys, sorted.
    """
    first = nests[0]
    if len(nests) == 1 and (type(first) is tuple or type(first) is list):  # states at each call: in one go
        return type(first)([function(p) if _is_leaf(p) else map_nest(function, p) for p in first])
    if isinstance(first, dict):
        return {key: map_nest(function, *[nest[key] for nest in nests]) for key in sorted(first)}
    if not isinstance(first, (tuple, list)):
        return None if first is None else function(*nests)
    if any(len(nest) != len(first) for nest in nests):
        raise ShapeError("nests of different structure", expected=skeleton(first), got=skeleton(nests[-1]))
    parts = [map_nest(function, *group) for group in zip(*nests)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _is_leaf(part: Any) -> bool:
    return part is not None and not isinstance(part, (tuple, list, dict))


def leaves(nest: Any) -> list[Any]:
    """The leaves in order."""
    if not isinstance(nest, (tuple, list, dict)):
        return [] if nest is None else [nest]
    found: list[Any] = []
    for part in [nest[key] for key in sorted(nest)] if isinstance(nest, dict) else nest:
        if isinstance(part, (tuple, list, dict)):
            found += leaves(part)
        elif part is not None:
            found.append(part)
    return found


def like(nest: Any, values: Iterable[Any]) -> Any:
    """The same nest with other leaves, taken in order; of an iterator no more than it needs."""
    rest = iter(values)
    if not isinstance(nest, (tuple, list, dict)):
        return None if nest is None else next(rest)
    return map_nest(lambda _: next(rest), nest)


def form(nest: Any) -> Any:
    """What kinds of containers a nest is made of, as a value to compare; None for a lone leaf."""
    kind = type(nest)
    if kind is dict or isinstance(nest, dict):
        return kind, tuple([(key, form(nest[key])) for key in sorted(nest)])
    if isinstance(nest, (tuple, list)):
        return kind, tuple([form(part) for part in nest])
    return "none" if nest is None else None


def alike(a: Any, b: Any) -> bool:
    """Whether two nests have the same structure; tuples, named tuples and lists are the same."""
    if isinstance(a, dict) or isinstance(b, dict):
        return (
            isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
        )
    if isinstance(a, (tuple, list)) or isinstance(b, (tuple, list)):
        both = isinstance(a, (tuple, list)) and isinstance(b, (tuple, list))
        return both and len(a) == len(b) and all(map(alike, a, b))
    return (a is None) == (b is None)


def structure(nest: Any, leaf: Callable[[Any], str] | None = None) -> str:
    """The structure in words: `(tensor (2, 3), tensor (2, 3))`; what stands for a leaf can be chosen."""
    if isinstance(nest, dict):
        return f"{{{', '.join(f'{key}: {structure(nest[key], leaf)}' for key in sorted(nest))}}}"
    if isinstance(nest, (tuple, list)):
        return f"({', '.join(structure(part, leaf) for part in nest)})"
    if nest is None:
        return "None"
    return (leaf or _in_words)(nest)


def skeleton(nest: Any) -> str:
    """The structure without its leaves' shapes."""
    return structure(nest, lambda _: "*")


def _in_words(leaf: Any) -> str:
    return f"tensor {tuple(leaf.shape)}" if hasattr(leaf, "shape") else type(leaf).__name__
