"""Every op and every function made of ops against torch, on the samples declared beside it, by one table.

In float64 values, gradients, and gradients of gradients; in float32 values and gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from registry import differentiable, flat, full_settings, listed, runner, samples

import tinygrad_rnn as tg
from tinygrad_rnn.kernels import random as draw
from tinygrad_rnn.ops import COMPOSITES, REGISTRY
from tinygrad_rnn.ops.op import Composite

torch = pytest.importorskip("torch")
from parity_gradients import compare_gradients, compare_values  # noqa: E402 - it imports torch

pytestmark = pytest.mark.parity
F = torch.nn.functional

SEEDS = (0, 1, 2)
OPS = [op for op in (*REGISTRY.values(), *COMPOSITES.values()) if op.rule.__module__.startswith("tinygrad_rnn.")]


# --- Torch's side: functions that take our operands and settings ---


def axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction with our `axis` and `keepdims`; None is all axes."""

    def call(x: Any, axis: Any, keepdims: bool, **settings: Any) -> Any:
        return function(x, tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims, **settings)

    return call


def one_axis(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axis: function(x, axis)


def one_axis_or_all(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axis, keepdims: function(x, axis, keepdims)


def prod(x: Any, axis: Any, keepdims: bool) -> Any:
    """Torch's takes one axis at a time."""
    for i in sorted(range(x.ndim) if axis is None else {a % x.ndim for a in np.atleast_1d(axis)}, reverse=True):
        x = x.prod(i, keepdim=keepdims)
    return x


def expand_dims(x: Any, axis: Any) -> Any:
    several = axis if isinstance(axis, tuple) else (axis,)
    for place in sorted(i % (x.ndim + len(several)) for i in several):
        x = x.unsqueeze(place)
    return x


def getitem(x: Any, key: Any) -> Any:
    """x[key]; torch has no slice of negative step, so its places are picked one by one."""
    parts, axis = [], 0
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, slice) and (part.step or 1) < 0:
            x = x.index_select(axis, torch.tensor(range(x.shape[axis])[part]))
            part = slice(None)
        parts.append(torch.as_tensor(part) if isinstance(part, np.ndarray) else part)
        axis += isinstance(part, (slice, int))
    return x[tuple(parts)]


def patched(patches: Any, keys: Any, shape: Any) -> Any:
    out = torch.zeros(shape, dtype=patches[0].dtype)
    for patch, key in zip(patches, keys):
        places = torch.arange(out.numel()).reshape(shape)[torch.as_tensor(key)]
        out = out + torch.zeros(out.numel(), dtype=out.dtype).index_add(0, places.ravel(), patch.ravel()).reshape(shape)
    return out


def dropped(x: Any, p: float, key: int) -> Any:
    """With the mask that our key draws."""
    kept = torch.tensor(draw.uniform(key, x.numel()).reshape(x.shape) >= p)
    return torch.where(kept, x / (1.0 - p), torch.zeros_like(x))


def noisy(x: Any, scale: float, key: int) -> Any:
    """With the noise that our key draws."""
    uniform = torch.tensor(draw.uniform(key, x.numel()).reshape(x.shape))
    return x - scale * torch.log(-torch.log(uniform)).to(x.dtype)


def pad(x: Any, pad_width: Any, mode: str, constant_values: Any) -> Any:
    """Axis by axis: torch.nn.functional.pad has neither these widths nor all of these modes."""
    if isinstance(pad_width, dict):
        pad_width = [pad_width.get(i, pad_width.get(i - x.ndim, 0)) for i in range(x.ndim)]
        pad_width = [np.broadcast_to(width, 2) for width in pad_width]
    values = np.broadcast_to(constant_values, (x.ndim, 2))
    for axis, widths in enumerate(np.broadcast_to(pad_width, (x.ndim, 2)).tolist()):
        if mode == "constant":
            shapes = [(*x.shape[:axis], width, *x.shape[axis + 1 :]) for width in widths]
            low, high = (torch.full(shape, value, dtype=x.dtype) for shape, value in zip(shapes, values[axis].tolist()))
            x = torch.cat([low, x, high], axis)
        elif any(widths):
            x = x.index_select(axis, torch.tensor(np.pad(np.arange(x.shape[axis]), widths, mode)))
    return x


def roll(x: Any, shift: Any, axis: Any) -> Any:
    if axis is None:
        return torch.roll(x, shift)
    shifts, axes = np.broadcast_arrays(shift, axis)
    return torch.roll(x, tuple(shifts.ravel().tolist()), tuple(axes.ravel().tolist()))


def take_along_axis(x: Any, index: Any, axis: Any) -> Any:
    x, axis = (x.ravel(), 0) if axis is None else (x, axis)
    return torch.take_along_dim(x, index % max(x.shape[axis], 1), axis)


def one_hot(index: Any, num_classes: Any, dtype: str) -> Any:
    return F.one_hot(index.long(), -1 if num_classes is None else num_classes).to(getattr(torch, dtype))


def ctc(x: Any, targets: Any, frames: Any, labels: Any, blank: int = 0, zero_infinity: bool = False) -> Any:
    """Torch's gradient is that behind a log_softmax, so x goes through one, and what that took away is put back.

    Every alignment has a factor for each frame, so the value grows by the frames' sum of logsumexp(x).
    """
    loss = F.ctc_loss(torch.log_softmax(x, -1), targets, frames, labels, blank, "none", zero_infinity)
    inside = torch.arange(len(x))[:, None] < frames
    taken = torch.where(inside, x.logsumexp(-1), torch.zeros_like(x[..., 0])).sum(0)
    return torch.where((loss == 0.0) & zero_infinity, loss, loss - taken)


def ctc_alignment(x: Any, *operands: Any, **settings: Any) -> Any:
    x = x.detach().requires_grad_()
    return -torch.autograd.grad(ctc(x, *operands, **settings).sum(), x)[0]


def ctc_loss(
    x: Any, targets: Any, frames: Any, labels: Any, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
) -> Any:
    several = x if x.ndim == 3 else x[:, None]
    if targets.ndim == 2 and x.ndim == 2:
        targets = targets.ravel()[: int(labels)]
    loss = ctc(several, targets, frames.reshape(-1), labels.reshape(-1), blank, zero_infinity)
    if reduction == "none":
        return loss if x.ndim == 3 else loss[0]
    return loss.sum() if reduction == "sum" else (loss / labels.clamp(min=1)).mean()


def split(x: Any, sections: Any, axis: int = 0) -> Any:
    return torch.split(x, x.shape[axis] // sections if isinstance(sections, int) else sections, axis)


SAME_NAME = """
    add subtract multiply divide negative abs sign square sqrt rsqrt reciprocal exp expm1 log log1p sin cos tan tanh
    sigmoid relu erf maximum minimum where greater greater_equal less less_equal not_equal logical_and logical_or
    logical_xor logical_not isnan isinf isfinite matmul
"""
LOSSES = "mse_loss l1_loss huber_loss nll_loss cross_entropy"

THEIRS: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in SAME_NAME.split()},
    "power": torch.pow,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),  # softplus() itself is cut off at a threshold
    "clip": lambda *xs: torch.clamp(*torch.broadcast_tensors(*xs)),
    "leaky_relu": lambda x, slope: torch.where(x > 0.0, x, x * slope),  # torch's own takes no tensor for the slope
    "elu": lambda x, alpha: torch.where(x > 0.0, x, alpha * torch.expm1(x)),
    "silu": F.silu,
    "softsign": F.softsign,
    "hard_sigmoid": lambda x: F.relu6(x + 3.0) / 6.0,  # hardsigmoid's slope is 1/6 in float32
    "gelu": lambda x, approximate="none": F.gelu(x, approximate=approximate),
    "gelu_erf": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "equal": torch.eq,
    "sum": axes(torch.sum),
    "mean": axes(torch.mean),
    "max": axes(torch.amax),
    "min": axes(torch.amin),
    "logsumexp": axes(torch.logsumexp),
    "softmax": one_axis(torch.softmax),
    "log_softmax": one_axis(torch.log_softmax),
    "log_softmax_pull": lambda slope, logs, axis: slope - torch.exp(logs) * slope.sum(axis, keepdim=True),
    "argmax": one_axis_or_all(torch.argmax),
    "argmin": one_axis_or_all(torch.argmin),
    "any": axes(torch.any),
    "all": axes(torch.all),
    "var": axes(torch.var),
    "std": axes(torch.std),
    "prod": prod,
    "cumsum": lambda x, axis: x.ravel().cumsum(0) if axis is None else x.cumsum(axis),
    "detach": torch.detach,
    "reshape": torch.reshape,
    "permute_dims": lambda x, axes: x.permute(tuple(range(x.ndim))[::-1] if axes is None else axes),
    "broadcast_to": lambda x, shape: x.expand(shape),
    "expand_dims": expand_dims,
    "squeeze": lambda x, axis: x.squeeze() if axis is None else x.squeeze(axis),
    "concat": torch.concat,
    "stack": torch.stack,
    "split": split,
    "astype": lambda x, dtype: x.to(getattr(torch, dtype)),
    "getitem": getitem,
    "patched": patched,
    "take": lambda x, index, axis: x[(*(slice(None),) * (axis % x.ndim), index)],
    "take_along_axis": take_along_axis,
    "one_hot": one_hot,
    "flip": lambda x, axis: torch.flip(x, tuple(range(x.ndim)) if axis is None else tuple(np.atleast_1d(axis))),
    "roll": roll,
    "pad": pad,
    "repeat": lambda x, repeats, axis: torch.repeat_interleave(x, torch.as_tensor(repeats), axis),
    "tril": lambda x, k: torch.tril(x, k),
    "triu": lambda x, k: torch.triu(x, k),
    "einsum": torch.einsum,
    "outer": lambda a, b: torch.outer(a.ravel(), b.ravel()),
    **{name: getattr(F, name) for name in LOSSES.split()},
    "binary_cross_entropy_with_logits": lambda logits, target, **settings: F.binary_cross_entropy_with_logits(
        logits, target.to(logits.dtype), **settings
    ),
    "ctc": ctc,
    "ctc_alignment": ctc_alignment,
    "ctc_loss": ctc_loss,
    # The samples of these two leave nothing to chance.
    "dropout": F.dropout,
    "categorical": lambda logits, temperature=1.0, top_k=None: logits.argmax(-1),
    "embedding": lambda weight, index: F.embedding(index, weight),
    "linear": F.linear,
    "dropped": dropped,
    "noisy": noisy,
    "kth": lambda x, k: x.topk(k, -1).values[..., -1:],
}

#: Ops that torch has nothing to compare with, each with its reason.
WITHOUT: dict[str, str] = {}

#: Ops whose second gradient is finite on purpose where torch's is NaN.
FINITE = {"std": "where it is 0, its derivatives are 0, of every order"}


def test_every_op_has_a_counterpart_or_a_reason():
    assert OPS
    assert not [op.name for op in OPS if (op.name in THEIRS) == bool(WITHOUT.get(op.name))]
    assert {*THEIRS, *WITHOUT, *FINITE} <= {op.name for op in OPS}


# --- The comparison ---


def operands_of(op: Any, sample: Any, dtype: str) -> tuple[list[Any], list[Any]]:
    """The sample's arrays as our tensors and as torch's; floating ones require a gradient."""
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in flat(op, sample)]
    mine, theirs = [tg.tensor(a) for a in arrays], [torch.tensor(np.array(a)) for a in arrays]
    for one, two in zip(mine, theirs):
        one.requires_grad = one.dtype.kind == "f" and differentiable(op)
        two.requires_grad_(one.requires_grad)
    return mine, theirs


def torch_call(op: Any, sample: Any, tensors: list[Any]) -> Any:
    """Torch's function on the sample, with `tensors` for its arrays."""

    def translated(name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or name == "key":
            return value
        return torch.tensor(value).to(tensors[0].dtype if value.dtype.kind == "f" else None)

    settings = {name: translated(name, value) for name, value in full_settings(op, sample).items()}
    if isinstance(op, Composite):
        given = iter(tensors)
        return THEIRS[op.name](*[next(given) if isinstance(o, np.ndarray) else o for o in sample.operands], **settings)
    return THEIRS[op.name](*([tensors] if op.variadic else tensors), **settings)


def compare(op: Any, sample: Any, dtype: str, e: float, gradient_e: float, rng: Any) -> int:
    """Both on one sample; how many gradients were compared."""
    mine, theirs = operands_of(op, sample, dtype)
    with np.errstate(all="ignore"):
        ys, zs = listed(runner(op, sample)(*mine)), listed(torch_call(op, sample, theirs))
        compare_values(ys, zs, e)
        return compare_gradients(
            (ys, mine), (zs, theirs), rng, gradient_e, dtype == "float64" and op.derivatives > 1, op.name in FINITE
        )


COUNTS: dict[str, tuple[int, int]] = {}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_float64(op):
    count = gradients = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        for sample in samples(op, seed):
            gradients += compare(op, sample, "float64", 1e-12, 1e-10, rng)
            count += 1
    assert count
    COUNTS[op.name] = count, gradients


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_float32(op):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        for sample in samples(op, seed):
            compare(op, sample, "float32", 1e-5, 1e-5, rng)


def test_summary():
    """What was compared in float64, for `pytest -s`."""
    samples_compared, gradients = map(sum, zip(*COUNTS.values())) if COUNTS else (0, 0)
    print(f"\n{len(COUNTS)} of {len(OPS)} ops: {samples_compared} samples, {gradients} gradients")
    for name, reason in WITHOUT.items():
        print(f"  not compared: {name}: {reason}")
