"""Pytrees: tensors in tuples (plain or named), lists and dictionaries, to any depth. A recurrent state is one.

None is a pytree without leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..errors import ShapeError


def map_leaves(function: Callable[..., Any], *trees: Any) -> Any:
    """The pytree of function(leaf, ...) over pytrees of the same structure, in the types of the first.

    Leaves of dictionaries go in the order of the keys, sorted.
    """
    first = trees[0]
    if len(trees) == 1 and (type(first) is tuple or type(first) is list):  # states at each call: in one go
        return type(first)([function(p) if _is_leaf(p) else map_leaves(function, p) for p in first])
    if isinstance(first, dict):
        return {key: map_leaves(function, *[tree[key] for tree in trees]) for key in sorted(first)}
    if not isinstance(first, (tuple, list)):
        return None if first is None else function(*trees)
    if any(len(tree) != len(first) for tree in trees):
        raise ShapeError("pytrees of different structure", expected=skeleton(first), got=skeleton(trees[-1]))
    parts = [map_leaves(function, *group) for group in zip(*trees)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _is_leaf(part: Any) -> bool:
    return part is not None and not isinstance(part, (tuple, list, dict))


def leaves(tree: Any) -> list[Any]:
    """The leaves in order."""
    if not isinstance(tree, (tuple, list, dict)):
        return [] if tree is None else [tree]
    found: list[Any] = []
    for part in [tree[key] for key in sorted(tree)] if isinstance(tree, dict) else tree:
        if isinstance(part, (tuple, list, dict)):
            found += leaves(part)
        elif part is not None:
            found.append(part)
    return found


def unflatten(tree: Any, values: Iterable[Any]) -> Any:
    """The same pytree with other leaves, taken in order; of an iterator no more than it needs."""
    rest = iter(values)
    if not isinstance(tree, (tuple, list, dict)):
        return None if tree is None else next(rest)
    return map_leaves(lambda _: next(rest), tree)


def form(tree: Any) -> Any:
    """What kinds of containers a pytree is made of, as a value to compare; None for a lone leaf."""
    kind = type(tree)
    if kind is dict or isinstance(tree, dict):
        return kind, tuple([(key, form(tree[key])) for key in sorted(tree)])
    if isinstance(tree, (tuple, list)):
        return kind, tuple([form(part) for part in tree])
    return "none" if tree is None else None


def alike(a: Any, b: Any) -> bool:
    """Whether two pytrees have the same structure; tuples, named tuples and lists are the same."""
    if isinstance(a, dict) or isinstance(b, dict):
        return (
            isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
        )
    if isinstance(a, (tuple, list)) or isinstance(b, (tuple, list)):
        both = isinstance(a, (tuple, list)) and isinstance(b, (tuple, list))
        return both and len(a) == len(b) and all(map(alike, a, b))
    return (a is None) == (b is None)


def structure(tree: Any, leaf: Callable[[Any], str] | None = None) -> str:
    """The structure in words: `(tensor (2, 3), tensor (2, 3))`; what stands for a leaf can be chosen."""
    if isinstance(tree, dict):
        return f"{{{', '.join(f'{key}: {structure(tree[key], leaf)}' for key in sorted(tree))}}}"
    if isinstance(tree, (tuple, list)):
        return f"({', '.join(structure(part, leaf) for part in tree)})"
    if tree is None:
        return "None"
    return (leaf or _in_words)(tree)


def skeleton(tree: Any) -> str:
    """The structure without its leaves' shapes."""
    return structure(tree, lambda _: "*")


def _in_words(leaf: Any) -> str:
    return f"tensor {tuple(leaf.shape)}" if hasattr(leaf, "shape") else type(leaf).__name__
