"""Optimizers, with PyTorch's names, defaults and numbers."""

from .clip import clip_grad_norm_
from .optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm_"]
