"""The tape, the tensor, and backward."""

from . import record
from .backward import grad
from .tape import Node, Place, Tape, enable_grad, no_grad
from .tensor import Tensor

__all__ = ["Node", "Place", "Tape", "Tensor", "enable_grad", "grad", "no_grad", "record"]
