"""Layers without time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd.create import zeros
from ..errors import ArgumentError, ShapeError
from ..ops.contract import linear
from ..ops.elementwise import power, square
from ..ops.index import embedding
from ..ops.random import dropout
from ..ops.reduce import mean
from . import init
from .module import Module, Parameter


class Linear(Module):
    """y = x @ weight.T + bias, for x (..., in_features).

    Parameters `weight` (out_features, in_features) and `bias` (out_features,), uniform in +-1/sqrt(in_features) as in
    PyTorch.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: Any = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        bound = 1.0 / math.sqrt(in_features) if in_features else 0.0
        self.weight = Parameter(init.uniform_(zeros(out_features, in_features, dtype=dtype), -bound, bound, rng))
        self.bias = Parameter(init.uniform_(zeros(out_features, dtype=dtype), -bound, bound, rng)) if bias else None

    def forward(self, x: Any) -> Any:
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Row `index` of `weight` (num_embeddings, embedding_dim), which is standard normal at first."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: Any = None, rng: np.random.Generator | None = None
    ) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter(init.normal_(zeros(num_embeddings, embedding_dim, dtype=dtype), rng=rng))

    def forward(self, index: Any) -> Any:
        return embedding(self.weight, index)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class Dropout(Module):
    """In training, each element 0 with probability p, else divided by 1 - p (Srivastava et al. 2014)."""

    def __init__(self, p: float = 0.5, rng: np.random.Generator | None = None) -> None:
        if not 0.0 <= p <= 1.0:
            raise ArgumentError("Dropout: not a probability", expected="0 <= p <= 1", got=p)
        self.p, self.rng = p, rng

    def forward(self, x: Any) -> Any:
        return dropout(x, self.p, self.training, self.rng)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016).

    Mean and variance are over the last axes, of shape `normalized_shape`.
    """

    def __init__(self, normalized_shape: Any, eps: float = 1e-5, *, dtype: Any = None) -> None:
        whole = isinstance(normalized_shape, (int, np.integer))
        self.normalized_shape = (int(normalized_shape),) if whole else tuple(normalized_shape)
        self.eps = eps
        self.weight = Parameter(init.ones_(zeros(self.normalized_shape, dtype=dtype)))
        self.bias = Parameter(zeros(self.normalized_shape, dtype=dtype))

    def forward(self, x: Any) -> Any:
        count = len(self.normalized_shape)
        if x.shape[len(x.shape) - count :] != self.normalized_shape:
            raise ShapeError("LayerNorm: the last axes do not fit", expected=(..., *self.normalized_shape), got=x.shape)
        axes = tuple(range(-count, 0))
        centered = x - mean(x, axes, keepdims=True)
        variance = mean(square(centered), axes, keepdims=True)
        return centered * power(variance + self.eps, -0.5) * self.weight + self.bias

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"
