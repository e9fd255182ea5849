"""The ops: declarations of rules and their vector-Jacobian products, one file a kind."""

from . import activation, arrange, compare, contract, ctc, einsum, elementwise, index, loss, random, reduce, shape
from .op import COMPOSITES, REGISTRY, Op

__all__ = [
    "COMPOSITES", "REGISTRY", "Op", "activation", "arrange", "compare", "contract", "ctc", "einsum", "elementwise",
    "index", "loss", "random", "reduce", "shape",
]  # fmt: skip
