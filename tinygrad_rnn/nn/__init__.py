"""Layers: modules and parameters, dense layers, cells, and what runs cells over time."""

from . import init
from .cell import Cell, detach
from .cells import (
    CoupledLSTMCell,
    GRUCell,
    IndRNNCell,
    LayerNormLSTMCell,
    LSTMCell,
    LSTMState,
    MinimalGatedCell,
    PeepholeLSTMCell,
    ProjectedLSTMCell,
    RNNCell,
)
from .dense import Dropout, Embedding, LayerNorm, Linear
from .examine import verify
from .layers import GRU, LSTM, RNN
from .module import Module, ModuleList, Parameter, Sequential
from .recurrent import Bidirectional, Recurrent, Stacked
from .truncated import TruncatedBPTT
from .wrappers import LearnedState, VariationalDropout, WeightDropout, Zoneout

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "Cell",
    "CoupledLSTMCell",
    "Dropout",
    "Embedding",
    "GRUCell",
    "IndRNNCell",
    "LSTMCell",
    "LSTMState",
    "LayerNorm",
    "LayerNormLSTMCell",
    "LearnedState",
    "Linear",
    "MinimalGatedCell",
    "Module",
    "ModuleList",
    "Parameter",
    "PeepholeLSTMCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "Recurrent",
    "Sequential",
    "Stacked",
    "TruncatedBPTT",
    "VariationalDropout",
    "WeightDropout",
    "Zoneout",
    "detach",
    "init",
    "verify",
]
