"""Our functions on torch's own samples (its OpInfo database): values, gradients, gradients of those, in float64."""

from __future__ import annotations

import functools
import re
import warnings
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_rnn as tg

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="torch's samples need it; the extra `parity` brings it")
from parity_adapters import PassedOver  # noqa: E402 - it stands with the others
from parity_gradients import compare_gradients, compare_values  # noqa: E402 - it imports torch
from parity_samples import TABLE, WITHOUT, Row  # noqa: E402

pytestmark = pytest.mark.parity

#: The public functions. One that is missing in the table of samples fails a test here.
FUNCTIONS = """
    negative abs sign square sqrt rsqrt reciprocal exp expm1 log log1p sin cos tan tanh sigmoid relu leaky_relu elu gelu
    silu softplus softsign hard_sigmoid erf add subtract multiply divide power maximum minimum where clip
    greater greater_equal less less_equal equal not_equal logical_and logical_or logical_xor logical_not
    isnan isinf isfinite
    sum mean var std max min prod logsumexp softmax log_softmax cumsum argmax argmin any all
    reshape permute_dims expand_dims squeeze broadcast_to concat stack split flip roll pad repeat tril triu
    matmul einsum outer linear
    take take_along_axis embedding one_hot x[...]
    cross_entropy nll_loss mse_loss l1_loss huber_loss binary_cross_entropy_with_logits ctc_loss
    dropout categorical
"""

ROWS = [(name, row) for name, rows in TABLE.items() for row in rows]


@functools.cache
def opinfos() -> dict[tuple[str, str], Any]:
    """Torch's samples by name and variant; importing them takes seconds, so it waits for a test that needs them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own files
        from torch.testing._internal.common_methods_invocations import op_db
    return {(op.name, op.variant_test_name): op for op in op_db}


class Outcome(NamedTuple):
    """What became of the samples of one row."""

    compared: int
    gradients: int
    passed: Counter[str]
    wrong: list[str]


def mapped(change: Any, nest: Any) -> Any:
    """`nest` with `change` applied to everything that is no list, tuple or dict."""
    if isinstance(nest, (list, tuple)):
        return (list if isinstance(nest, list) else tuple)(mapped(change, part) for part in nest)
    if isinstance(nest, dict):
        return {key: mapped(change, part) for key, part in nest.items()}
    return change(nest)


def compared(row: Row, sample: Any, rng: np.random.Generator) -> int:
    """Run both on one sample and compare; how many gradients there were."""
    op = opinfos()[row.theirs, row.variant]
    theirs, mine = [], []

    def leaf(part: Any) -> Any:
        if not isinstance(part, torch.Tensor):
            return part
        fixed = any(part is sample.kwargs.get(name) for name in row.fixed)
        copy = part.detach().requires_grad_(part.is_floating_point() and not fixed)
        theirs.append(copy)
        return copy

    def translated(part: Any) -> Any:
        if isinstance(part, torch.dtype):
            return str(part).removeprefix("torch.")
        if not isinstance(part, torch.Tensor):
            return part
        tensor = tg.from_numpy(part.detach().numpy())  # with torch's strides
        tensor.requires_grad = part.requires_grad
        mine.append(tensor)
        return tensor

    call = mapped(leaf, (sample.input, sample.args, sample.kwargs))
    first, rest, named = mapped(translated, call)
    with np.errstate(all="ignore"):
        ours = row.ours(first, *rest, **named)
        first, rest, named = call
        first = torch.log_softmax(first, -1) if row.normalized else first
        other = op.op(first, *rest, **named)
        several = isinstance(other, (list, tuple))
        ys, zs = (list(ours), list(other)) if several else ([ours], [other])
        compare_values(ys, zs, 1e-12)
        return compare_gradients(
            (ys, mine), (zs, theirs), rng, row.gradient, row.derivatives > 1 and op.supports_gradgrad
        )


@functools.cache
def outcome(i: int) -> Outcome:
    """Every sample of row `i`."""
    row = ROWS[i][1]
    op = opinfos()[row.theirs, row.variant]
    dtype = torch.float64 if torch.float64 in op.dtypes else torch.int64
    rng, passed, wrong, count, gradients = np.random.default_rng(i), Counter[str](), [], 0, 0
    with torch.random.fork_rng():
        torch.manual_seed(i)
        samples = list(op.sample_inputs(torch.device("cpu"), dtype, requires_grad=dtype.is_floating_point))
    for number, sample in enumerate(samples):
        try:
            gradients += compared(row, sample, rng)
            count += 1
        except PassedOver as reason:
            passed[str(reason)] += 1
        except Exception as trouble:
            text = re.sub(r"\s+", " ", f"{type(trouble).__name__}: {trouble}")
            wrong.append(f"sample {number}, {shown(sample)}: {text[:400]}")
    return Outcome(count, gradients, passed, wrong)


def shown(sample: Any) -> str:
    def short(part: Any) -> Any:
        return f"{part.dtype}{list(part.shape)}" if isinstance(part, torch.Tensor) else part

    return str(mapped(short, (sample.input, sample.args, sample.kwargs)))


@pytest.mark.parametrize("i", range(len(ROWS)), ids=[f"{name}-{r.theirs}-{r.variant}".strip("-") for name, r in ROWS])
def test_samples(i):
    name, row = ROWS[i]
    found = outcome(i)
    if found.wrong:
        pytest.fail(f"{name}: {len(found.wrong)} of torch's samples differ:\n" + "\n".join(found.wrong), pytrace=False)
    assert found.compared, f"{name}: not one of torch's samples was compared"
    for reason, count in found.passed.items():
        assert count <= row.passes.get(reason, 0), f"{name}: {count} samples passed over: {reason}"


def test_every_function_is_in_the_table():
    assert not [name for name in FUNCTIONS.split() if name not in TABLE and name not in WITHOUT]
    assert not set(TABLE) & set(WITHOUT)
    assert all(reason for reason in WITHOUT.values())


def test_summary():
    """What was compared, for `pytest -s`."""
    outcomes = [outcome(i) for i in range(len(ROWS))]
    passed = sum((found.passed for found in outcomes), Counter[str]())
    print(
        f"\n{len(TABLE)} functions on the samples of {len({(r.theirs, r.variant) for _, r in ROWS})} OpInfos of torch: "
        f"{sum(found.compared for found in outcomes)} samples and {sum(found.gradients for found in outcomes)} "
        f"gradients compared, {passed.total()} samples passed over"
    )
    for reason, count in passed.most_common():
        print(f"  {count:3} {reason}")
    for name, reason in WITHOUT.items():
        print(f"  without samples: {name}: {reason}")
