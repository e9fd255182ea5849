"""Layers: modules and parameters, dense layers, cells, and what runs cells over time."""

from . import init
from .cells import Cell, GRUCell, LSTMCell, LSTMState, RNNCell
from .dense import Dropout, Embedding, LayerNorm, Linear
from .layers import GRU, LSTM, RNN
from .module import Module, ModuleList, Parameter, Sequential
from .recurrent import Recurrent, Stacked

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "Dropout",
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "LSTMState",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "RNNCell",
    "Recurrent",
    "Sequential",
    "Stacked",
    "init",
]
