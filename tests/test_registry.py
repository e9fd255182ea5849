"""Every op there is, by one table: value, first and second derivative, layouts, dtypes, refusals."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
from registry import CASES, IDS, OPS, Source, call, case, differentiable, flat, full_settings, listed, runner

import tinygrad_rnn as tg
from tinygrad_rnn.errors import GraphError
from tinygrad_rnn.ops.op import Composite, Elementwise


def tensors_of(op, sample, dtype=np.float64, requires_grad=True):
    made = []
    for operand in flat(op, sample):
        floating = operand.dtype.kind == "f"
        made.append(tg.tensor(operand, dtype=dtype if floating else None, requires_grad=floating and requires_grad))
    return made


@pytest.mark.parametrize(("op", "i"), CASES, ids=IDS)
def test_first_derivative(op, i):
    sample = case(op, i)
    if op.derivatives < 1:
        with pytest.raises(GraphError, match="derivative"):
            tg.gradcheck(runner(op, sample), tensors_of(op, sample))
    elif differentiable(op):
        assert tg.gradcheck(runner(op, sample), tensors_of(op, sample), atol=1e-7, rtol=1e-6)
    else:
        assert not any(y.requires_grad for y in listed(runner(op, sample)(*tensors_of(op, sample))))


@pytest.mark.parametrize(("op", "i"), CASES, ids=IDS)
def test_second_derivative(op, i):
    sample = case(op, i)
    if op.derivatives < 2:
        with pytest.raises(GraphError, match="derivative"):
            tg.gradgradcheck(runner(op, sample), tensors_of(op, sample))
    elif differentiable(op):
        assert tg.gradgradcheck(runner(op, sample), tensors_of(op, sample), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("op", "i"), CASES, ids=IDS)
def test_value_agrees_with_the_plain_numpy_reference(op, i):
    sample = case(op, i)
    arrays = flat(op, sample)
    if isinstance(op, Composite):
        return  # its parts have references
    if not isinstance(op, Elementwise):
        settings = op.prepare(arrays, full_settings(op, sample))
        expected = op.forward(arrays, settings)
    else:
        with np.errstate(all="ignore"):
            expected = op.expression.evaluate(dict(zip(op.inputs, arrays)))
    got = runner(op, sample)(*tensors_of(op, sample)).numpy()
    assert got.dtype == np.asarray(expected).dtype
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize(("op", "i"), CASES, ids=IDS)
def test_vjps_agree_with_their_numpy_references(op, i):
    if not isinstance(op, Elementwise) or not op.vjps:
        return
    from tinygrad_rnn.ir.expression import Expression

    arrays = dict(zip(op.inputs, case(op, i).operands))
    arrays["y"] = op.expression.evaluate(arrays)
    arrays["g"] = Source(9)(*np.shape(arrays["y"]))
    every = tuple(True for _ in op.inputs)
    saved = tuple(arrays[name] for name in op.plan(every).kept) if not op.truth else None
    for place, of in enumerate(op.inputs):
        if of not in op.vjps:
            continue
        vjp = op.vjps[of]
        with np.errstate(all="ignore"):
            expected = Expression.of(vjp.function(*map(Expression.symbol, vjp.names))).evaluate(arrays)
        wanted = tuple(name == of for name in op.inputs)
        kept = tuple(arrays[name] for name in op.plan(wanted).kept)
        ((where, pull),) = op.pulls(wanted)
        assert where == place
        np.testing.assert_allclose(pull(arrays["g"], kept), expected, rtol=1e-13, atol=1e-15)
    assert saved is None or len(saved) == len(op.plan(every).kept)


@pytest.mark.parametrize(("op", "i"), CASES, ids=IDS)
def test_float32_stays_float32(op, i):
    sample = case(op, i)
    if "dtype" in sample.settings:
        return
    tensors = tensors_of(op, sample, np.float32)
    for single, double in zip(
        listed(runner(op, sample)(*tensors)), listed(runner(op, sample)(*tensors_of(op, sample, np.float64)))
    ):
        if double.dtype.kind != "f":
            assert single.dtype == double.dtype
            continue
        assert single.dtype == np.float32
        scale = np.max(np.abs(double.numpy()), initial=0.0)
        assert np.max(np.abs(single.numpy() - double.numpy()), initial=0.0) <= 1e-5 * scale
        if single.requires_grad and differentiable(op):
            single.sum().backward()
    for t in tensors:
        assert t.grad is None or t.grad.dtype == np.float32


@pytest.mark.parametrize(("op", "i"), CASES, ids=IDS)
def test_layout_and_writability_of_inputs_change_nothing(op, i):
    sample = case(op, i)
    arrays = flat(op, sample)
    results = []
    for change in (np.ascontiguousarray, np.asfortranarray, lambda a: np.flip(np.flip(a).copy()), read_only):
        tensors = [tg.from_numpy(np.asarray(change(a)).reshape(a.shape)) for a in arrays]
        for t in tensors:
            if t.dtype.kind == "f" and differentiable(op):
                t.requires_grad = True
        ys = listed(runner(op, sample)(*tensors))
        for y in ys:
            if y.requires_grad:
                y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
        results.append([*[y.numpy() for y in ys], *[t.grad.numpy() for t in tensors if t.grad is not None]])
    for other in results[1:]:
        for a, b in itertools.zip_longest(results[0], other):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def read_only(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


REFUSALS = [(op, i) for op in OPS if op.refusals for i, _ in enumerate(op.refusals(Source(0)))]


@pytest.mark.parametrize(("op", "i"), REFUSALS, ids=[f"{op.name}-{i}" for op, i in REFUSALS])
def test_refusals(op, i):
    refusal = list(op.refusals(Source(0)))[i]
    with pytest.raises(refusal.error, match=refusal.says) as caught:
        call(op, refusal.sample.operands, full_settings(op, refusal.sample))
    assert str(caught.value).startswith((op.name.rstrip("_"), "indexing"))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_op_is_documented_and_public_or_internal_on_purpose(op):
    assert op.rule.__doc__
    internal = {
        "getitem",
        "patched",
        "dropped",
        "noisy",
        "kth",
        "astype",
        "gelu_erf",
        "gelu_tanh",
        "ctc",
        "ctc_alignment",
        "log_softmax_pull",
        "detach",  # a method of tensors; tg.nn.detach is that of states
    }
    assert (op.name in internal) != hasattr(tg, op.name)
    if op.name not in internal:
        assert str(inspect.signature(getattr(tg, op.name))) == str(inspect.signature(op.rule))
