"""tinygrad_rnn: autograd from scratch, made for recurrent networks.

    import tinygrad_rnn as tg

One tape, three readers: backward, a compiler and the drawing tools all read the record of what ran.
"""

from . import data, nn, optim
from .autograd import record as _record
from .autograd.backward import grad
from .autograd.check import gradcheck, gradgradcheck
from .autograd.tape import Tape, enable_grad, is_grad_enabled, no_grad
from .autograd.tensor import (
    Tensor,
    arange,
    eye,
    from_numpy,
    full,
    linspace,
    ones,
    ones_like,
    rand,
    randn,
    tensor,
    zeros,
    zeros_like,
)
from .files import load, save
from .ops.contract import linear, matmul
from .ops.elementwise import (
    abs,
    add,
    clip,
    cos,
    divide,
    equal,
    erf,
    exp,
    greater,
    greater_equal,
    isnan,
    less,
    less_equal,
    log,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    power,
    relu,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    square,
    subtract,
    tanh,
    where,
)
from .ops.index import embedding, take
from .ops.loss import cross_entropy, mse_loss
from .ops.random import categorical, dropout, manual_seed
from .ops.reduce import argmax, log_softmax, logsumexp, max, mean, min, softmax, sum
from .ops.shape import broadcast_to, concat, expand_dims, permute_dims, reshape, split, squeeze, stack
from .settings import __version__, get_default_dtype, get_num_threads, set_default_dtype, set_num_threads
