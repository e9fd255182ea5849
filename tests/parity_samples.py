"""Torch's own samples for each of our functions: the table of what says the same.

A row names an OpInfo of torch's and our call in torch's signature. Torch is not imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import parity_adapters as say
from parity_adapters import our

import tinygrad_rnn as tg


class Row(NamedTuple):
    """An OpInfo of torch and our call in torch's signature.

    `passes` says how many samples may be passed over for which reason; `fixed`, which named tensors torch gives no
    gradient; `gradient`, how closely gradients agree; `derivatives`, how many there are; `normalized`, that both take
    the log_softmax of the input.
    """

    theirs: str
    ours: Callable[..., Any]
    variant: str = ""
    passes: dict[str, int] = {}  # noqa: RUF012 - never written
    fixed: tuple[str, ...] = ()
    gradient: float = 1e-10
    derivatives: int = 2
    normalized: bool = False


# --- The table: our name, and every OpInfo that says the same ---

_SAME = {
    "negative": "neg",
    "abs": "abs",
    "sign": "sign",
    "square": "square",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "reciprocal": "reciprocal",
    "exp": "exp",
    "expm1": "expm1",
    "log": "log",
    "log1p": "log1p",
    "sin": "sin",
    "cos": "cos",
    "tan": "tan",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "relu": "nn.functional.relu",
    "leaky_relu": "nn.functional.leaky_relu",
    "elu": "nn.functional.elu",
    "gelu": "nn.functional.gelu",
    "silu": "nn.functional.silu",
    "softsign": "nn.functional.softsign",
    "erf": "erf",
    "multiply": "mul",
    "power": "pow",
    "maximum": "maximum",
    "minimum": "minimum",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "equal": "eq",
    "not_equal": "ne",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    "logical_xor": "logical_xor",
    "logical_not": "logical_not",
    "isnan": "isnan",
    "isinf": "isinf",
    "isfinite": "isfinite",
    "reshape": "reshape",
    "permute_dims": "permute",
    "expand_dims": "unsqueeze",
    "broadcast_to": "broadcast_to",
    "stack": "stack",
    "tril": "tril",
    "triu": "triu",
    "matmul": "matmul",
    "outer": "outer",
    "linear": "nn.functional.linear",
    "embedding": "nn.functional.embedding",
    "mse_loss": "nn.functional.mse_loss",
    "l1_loss": "nn.functional.l1_loss",
    "huber_loss": "nn.functional.huber_loss",
}

TABLE: dict[str, list[Row]] = {ours: [Row(theirs, our(ours))] for ours, theirs in _SAME.items()}

_MORE: dict[str, list[Row]] = {
    "add": [Row("add", say.with_alpha("add")), Row("__radd__", lambda x, other: other + x)],
    "subtract": [
        Row("sub", say.with_alpha("subtract")),
        Row("rsub", say.rsub),
        Row("__rsub__", lambda x, other: other - x),
    ],
    "multiply": [Row("__rmul__", lambda x, other: other * x)],
    "divide": [
        Row("div", our("divide"), "no_rounding_mode"),
        Row("true_divide", our("divide")),
        Row("__rdiv__", lambda x, other: other / x),
    ],
    "power": [Row("float_power", our("power")), Row("__rpow__", lambda x, other: other**x)],
    "maximum": [Row("max", our("maximum"), "binary")],
    "minimum": [Row("min", our("minimum"), "binary")],
    "where": [
        Row("where", lambda x, condition, other: tg.where(condition, x, other)),
        Row("masked_fill", lambda x, mask, value: tg.where(mask, value, x)),
    ],
    "clip": [
        Row("clamp", our("clip")),
        Row("clamp_min", lambda x, low: tg.clip(x, low)),
        Row("clamp_max", lambda x, high: tg.clip(x, max=high)),
    ],
    "hard_sigmoid": [
        Row("nn.functional.hardsigmoid", our("hard_sigmoid"), gradient=1e-7),  # torch's slope is 1/6 in float32
        Row("nn.functional.relu6", lambda x: tg.hard_sigmoid(x - 3.0) * 6.0),
    ],
    "softplus": [Row("nn.functional.softplus", say.softplus)],
    "sum": [Row("sum", say.reducing("sum"))],
    "mean": [Row("mean", say.reducing("mean"))],
    "var": [
        Row("var", say.spread("var")),
        Row("var", say.spread("var"), "unbiased"),
        Row("var_mean", say.spread("var", "mean")),
    ],
    "std": [
        Row("std", say.spread("std")),
        Row("std", say.spread("std"), "unbiased"),
        Row("std_mean", say.spread("std", "mean")),
    ],
    "max": [
        Row("amax", say.reducing("max")),
        Row("max", say.reducing("max"), "reduction_no_dim"),
        Row("max", say.best("max"), "reduction_with_dim"),
    ],
    "min": [
        Row("amin", say.reducing("min")),
        Row("min", say.reducing("min"), "reduction_no_dim"),
        Row("min", say.best("min"), "reduction_with_dim"),
    ],
    "prod": [Row("prod", say.reducing("prod"))],
    "logsumexp": [Row("logsumexp", say.reducing("logsumexp"))],
    "softmax": [
        Row("softmax", say.along("softmax")),
        Row("softmax", say.along("softmax"), "with_dtype"),
        Row("nn.functional.softmin", say.softmin),
        Row("nn.functional.softmin", say.softmin, "with_dtype"),
    ],
    "log_softmax": [
        Row("log_softmax", say.along("log_softmax")),
        Row("log_softmax", say.along("log_softmax"), "with_dtype"),
    ],
    "cumsum": [Row("cumsum", say.along("cumsum"))],
    "argmax": [Row("argmax", say.reducing("argmax"))],
    "argmin": [Row("argmin", say.reducing("argmin"))],
    "any": [Row("any", say.reducing("any"))],
    "all": [Row("all", say.reducing("all"))],
    "reshape": [
        Row("view", our("reshape")),
        Row("reshape_as", lambda x, other: tg.reshape(x, other.shape)),
        Row("view_as", lambda x, other: tg.reshape(x, other.shape)),
        Row("ravel", lambda x: tg.reshape(x, (-1,))),
        Row("flatten", say.flatten),
        Row("unflatten", say.unflatten),
    ],
    "permute_dims": [Row("t", our("permute_dims")), Row("transpose", say.transpose), Row("movedim", say.movedim)],
    "squeeze": [
        Row("squeeze", say.squeeze, passes={say.NOT_OF_SIZE_1: 2}),
        Row("squeeze", say.squeeze, "multiple", {say.NOT_OF_SIZE_1: 1}),
    ],
    "broadcast_to": [Row("expand", say.expand), Row("expand_as", lambda x, other: tg.broadcast_to(x, other.shape))],
    "concat": [Row("cat", say.cat, passes={say.LEGACY_EMPTY: 1})],
    "split": [
        Row("split", say.split),
        Row("split", say.split, "list_args"),
        Row("split_with_sizes", say.split),
        Row("chunk", say.chunk),
        Row("tensor_split", say.tensor_split),
    ],
    "flip": [Row("flip", lambda x, dims: tg.flip(x, axis=dims))],
    "roll": [Row("roll", say.roll)],
    "pad": [
        Row("nn.functional.pad", say.pad, variant)
        for variant in ("constant", "reflect", "replicate", "replicate_negative", "circular")
    ],
    "repeat": [Row("repeat_interleave", say.repeat_interleave)],
    "matmul": [
        Row("__rmatmul__", lambda x, other: other @ x),
        *[Row(theirs, our("matmul")) for theirs in ("mm", "bmm", "mv", "dot")],
    ],
    "einsum": [Row("einsum", lambda tensors, equation: tg.einsum(equation, *tensors))],
    "take": [Row("take", say.take), Row("index_select", say.index_select, passes={say.NO_AXIS: 1})],
    "take_along_axis": [
        Row("take_along_dim", say.take_along_dim),
        Row("gather", say.gather, passes={say.NO_AXIS: 2, say.EMPTY_INDEX: 1}),
    ],
    "one_hot": [Row("nn.functional.one_hot", say.one_hot)],
    "x[...]": [
        Row("__getitem__", lambda x, key: x[key]),
        Row("narrow", say.narrow),
        Row("select", lambda x, dim, place: x[(*say.before(x, dim), place)]),
        Row("unbind", say.unbind),
    ],
    "cross_entropy": [Row("nn.functional.cross_entropy", our("cross_entropy"), fixed=("weight",))],
    "nll_loss": [Row("nn.functional.nll_loss", our("nll_loss"), fixed=("weight",))],
    "huber_loss": [Row("nn.functional.smooth_l1_loss", say.smooth_l1_loss, passes={say.NO_BETA: 1})],
    "binary_cross_entropy_with_logits": [
        Row(
            "nn.functional.binary_cross_entropy_with_logits",
            our("binary_cross_entropy_with_logits"),
            fixed=("weight", "pos_weight"),
        )
    ],
    "ctc_loss": [Row("nn.functional.ctc_loss", say.ctc_loss, derivatives=1, normalized=True)],
    "dropout": [Row("nn.functional.dropout", say.dropout, passes={say.RANDOM: 4})],
    "T": [Row("T", lambda x: x.T)],
    "mT": [Row("mT", lambda x: x.mT)],
    "astype": [
        Row(theirs, lambda x, dtype=dtype, **_: x.astype(dtype))
        for theirs, dtype in (("float", "float32"), ("double", "float64"), ("long", "int64"), ("bool", "bool"))
    ],
}

for _name, _rows in _MORE.items():
    TABLE.setdefault(_name, []).extend(_rows)

#: Ours that torch has no samples for.
WITHOUT = {"categorical": "random: torch.multinomial draws other numbers from the same distribution"}
