"""Nests: a tensor, or tuples (plain or named) of nests. A recurrent state is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def map_nest(function: Callable[..., Any], *nests: Any) -> Any:
    """The nest of function(leaf, ...) over nests of the same structure.

    Named tuples stay named, lists become tuples.
    """
    first = nests[0]
    if not isinstance(first, (tuple, list)):
        return function(*nests)
    parts = [map_nest(function, *group) for group in zip(*nests)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def leaves(nest: Any) -> Iterator[Any]:
    """The leaves in order."""
    if isinstance(nest, (tuple, list)):
        for part in nest:
            yield from leaves(part)
    else:
        yield nest


def structure(nest: Any) -> str:
    """The structure in words: `(tensor (2, 3), tensor (2, 3))`."""
    if isinstance(nest, (tuple, list)):
        return f"({', '.join(structure(part) for part in nest)})"
    return f"tensor {tuple(nest.shape)}" if hasattr(nest, "shape") else type(nest).__name__
