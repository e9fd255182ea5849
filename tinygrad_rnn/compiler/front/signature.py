"""What must be the same at every step: the pytree, shapes and dtypes of what it returns."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...autograd.pytree import alike, leaves, map_leaves, structure
from ...autograd.tensor import Tensor, as_tensor
from ...errors import ShapeError


class CarrySignature:
    """What every step must keep: the pytree, shapes and dtypes of the carry; of the outputs those of the first."""

    def __init__(self, carry: Any) -> None:
        self.carry, self.parts = carry, _parts(carry)
        self.outputs: Any = None

    def checked(self, made: Any) -> tuple[Any, Any]:
        """What a step returned, where it is a carry as given and a y."""
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            got = f"{len(made)} parts" if isinstance(made, (tuple, list)) else type(made).__name__
            raise ShapeError("the step returns two things", expected="(carry, y)", got=got)
        carry, y = made
        if not all(isinstance(part, Tensor) for part in leaves(carry)):
            carry = map_leaves(as_tensor, carry)
        if not alike(carry, self.carry) or _parts(carry) != self.parts:
            raise ShapeError(
                "the step returned another state than it was given",
                expected=_in_words(self.carry),
                got=_in_words(carry),
                hint="every step returns a state of the same pytree, shapes and dtypes, so that the next can take it",
            )
        if not all(isinstance(part, Tensor) for part in leaves(y)):
            y = map_leaves(as_tensor, y)
        if self.outputs is None:
            self.outputs = map_leaves(lambda part: np.broadcast_to(part.dtype.type(0), part.shape), y), _parts(y)
        elif not alike(y, self.outputs[0]) or _parts(y) != self.outputs[1]:
            raise ShapeError(
                "the step returned another output than at first", expected=_in_words(self.outputs[0]), got=_in_words(y)
            )
        return carry, y


def _parts(tree: Any) -> list[Any]:
    return [(part.shape, part.dtype) for part in leaves(tree)]


def _in_words(tree: Any) -> str:
    return structure(tree, lambda part: f"{part.dtype} {part.shape}")
