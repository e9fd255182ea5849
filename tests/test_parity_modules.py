"""Our recurrent layers and cells on torch's own samples (its ModuleInfo database), and on its error inputs."""

from __future__ import annotations

import functools
import itertools
import re
import warnings
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.pytree import leaves, map_leaves

torch = pytest.importorskip("torch", reason="parity needs the extra `parity`")
pytest.importorskip("expecttest", reason="torch's samples need it; the extra `parity` brings it")
from parity_gradients import compare_gradients, compare_values  # noqa: E402 - it imports torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402 - it is torch

pytestmark = pytest.mark.parity

#: How many samples torch has for each, and how many of them come as packed sequences. None is left out.
SAMPLES = {"RNN": 64, "LSTM": 32, "GRU": 32, "RNNCell": 3, "LSTMCell": 2, "GRUCell": 2}
PACKED = {"RNN": 32, "GRU": 16}

#: How many error inputs torch has for each, for one dtype. None is left out.
ERRORS = {"RNN": 14, "LSTM": 14, "GRU": 14, "RNNCell": 6, "LSTMCell": 4, "GRUCell": 6}

# What is said in other words, and how often in the error inputs.
AS_LENGTHS = "a packed sequence: ours takes it padded, with `lengths`"
NO_DEVICE = "`device` is left away: ours has none"
A_NAME_AS_BIAS = "torch's cells take a nonlinearity's name as a true `bias`: ours gets bias=True"
CONVERTED = {
    ("RNN", NO_DEVICE): 1,
    ("LSTM", NO_DEVICE): 1,
    ("GRU", NO_DEVICE): 1,
    ("RNNCell", A_NAME_AS_BIAS): 2,
    ("GRUCell", A_NAME_AS_BIAS): 2,
}

every_kind = pytest.mark.parametrize("kind", SAMPLES)


@functools.cache
def infos() -> dict[str, Any]:
    """Torch's recurrent entries by name; importing them takes seconds, so it waits for a test that needs them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own files
        from torch.testing._internal.common_modules import module_db
    recurrent = (torch.nn.RNNBase, torch.nn.RNNCellBase)
    return {info.name.removeprefix("nn."): info for info in module_db if issubclass(info.module_cls, recurrent)}


def drawn(draw: Any, kind: str, dtype: Any, requires_grad: bool, training: bool, **more: Any) -> list[Any]:
    """Inputs or error inputs of an entry, the same ones every time."""
    info = infos()[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return list(draw(info)(info, "cpu", dtype, requires_grad, training, **more))


def test_torch_has_no_other_recurrent_module():
    assert set(infos()) == set(SAMPLES) == set(ERRORS)


# --- Samples: values, gradients, gradients of those ---


class Outcome(NamedTuple):
    """What became of the samples of one kind."""

    compared: int
    gradients: int
    converted: Counter[str]
    wrong: list[str]


def compared(kind: str, sample: Any, training: bool, converted: Counter[str], rng: np.random.Generator) -> int:
    """Run both on one sample and compare; how many gradients there were."""
    made = sample.constructor_input
    theirs = getattr(torch.nn, kind)(*made.args, **made.kwargs, dtype=torch.float64).train(training)
    ours = getattr(tg.nn, kind)(*made.args, **made.kwargs, dtype="float64").train(training)
    ours.load_state_dict(theirs.state_dict())

    x, *state = sample.forward_input.args
    assert not sample.forward_input.kwargs
    more, packed = {}, isinstance(x, PackedSequence)
    if packed:
        converted[AS_LENGTHS] += 1
        requires_grad = x.data.requires_grad
        x, lengths = pad_packed_sequence(x, batch_first=theirs.batch_first)
        x = x.detach().requires_grad_(requires_grad)
        more["lengths"] = lengths.numpy()
    other = map_leaves(lambda t: t.detach().clone().requires_grad_(t.requires_grad), [x, *state])
    mine = map_leaves(lambda t: tg.tensor(t.detach().numpy(), requires_grad=t.requires_grad), [x, *state])

    found = ours(*mine, **more)
    if packed:
        output, *rest = theirs(pack_padded_sequence(other[0], lengths, theirs.batch_first), *other[1:])
        expected = [pad_packed_sequence(output, theirs.batch_first)[0], *rest]
    else:
        expected = theirs(*other)
    parameters, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert list(parameters) == list(others)
    ys, zs = list(leaves(found)), list(leaves(expected))
    compare_values(ys, zs, 1e-12)
    x_ours, x_theirs = [*leaves(mine), *parameters.values()], [*leaves(other), *others.values()]
    return compare_gradients((ys, x_ours), (zs, x_theirs), rng, 1e-10, second=True)


@functools.cache
def outcome(kind: str, requires_grad: bool, training: bool) -> Outcome:
    """Every sample of a kind."""
    more = {"with_packed_sequence": True}
    samples = drawn(lambda i: i.module_inputs_func, kind, torch.float64, requires_grad, training, **more)
    rng, converted, wrong, count, gradients = np.random.default_rng(0), Counter[str](), [], 0, 0
    for number, sample in enumerate(samples):
        try:
            with torch.random.fork_rng():
                torch.manual_seed(number)  # of the weights
                gradients += compared(kind, sample, training, converted, rng)
            count += 1
        except Exception as trouble:
            text = re.sub(r"\s+", " ", f"{type(trouble).__name__}: {trouble}")
            wrong.append(f"sample {number}, {kind}({shown(sample.constructor_input)}): {text[:400]}")
    return Outcome(count, gradients, converted, wrong)


def shown(call: Any) -> str:
    return ", ".join([*map(repr, call.args), *(f"{name}={value!r}" for name, value in call.kwargs.items())])


@every_kind
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("requires_grad", [True, False], ids=["inputs", "weights"])
def test_samples(kind, requires_grad, training):
    found = outcome(kind, requires_grad, training)
    if found.wrong:
        pytest.fail(f"{kind}: {len(found.wrong)} of torch's samples differ:\n" + "\n".join(found.wrong), pytrace=False)
    assert found.compared == SAMPLES[kind], "torch has more samples, or fewer"
    assert found.converted == Counter({AS_LENGTHS: PACKED[kind]} if kind in PACKED else {})
    assert found.gradients > found.compared


# --- Error inputs: what torch refuses is refused here, where torch does it, in words that name the trouble ---

#: Torch's message, and ours. `{kind}` is the class; a size is refused by the cell inside a layer.
WORDS = {
    "hidden_size must be greater than zero": r"{kind}: hidden_size .*at least 1.*got 0",
    "input_size must be greater than zero": r"{kind}: input_size .*at least 1.*got (0|-1)",
    "num_layers must be greater than zero": r"{kind}: num_layers .*at least 1.*got 0",
    r"RNN input dtype .* does not match weight dtype .* Convert input: input\.to\(.*\), or convert model: "
    r"model\.to\(.*\)": r"\w+: float(32|64) and float(32|64) meet.*hint: .*astype.*in {cell} layer 0 step 0",
    "input has inconsistent input_size: got 11 expected 10": r"{kind}: .*features.*expected .*10.*got .*\(3, 11\)",
    "hidden0 has inconsistent hidden_size: got 21, expected 20": r"{kind}: the state .*\(3, 20\).*\(3, 21\)",
    "Input batch size 3 doesn't match hidden0 batch size 5": r"{kind}: the state .*\(3, 20\).*\(5, 20\)",
    "Expected hidden to be 1D or 2D, got 4D instead": r"{kind}: the state .*\(3, 20\).*\(3, 1, 1, 20\)",
    r"Expected hx\[0\] to be 1D or 2D, got 4D instead": r"{kind}: the state .*\(3, 20\).*\(3, 1, 1, 20\)",
    "bias should be of type bool, got: int": r"{kind}.*bias.*(0|1|int)",
    "bias should be of type bool, got: str": r"{kind}.*bias.*('True'|str)",
    "batch_first should be of type bool, got: int": r"{kind}.*batch_first.*(0|1|int)",
    "batch_first should be of type bool, got: str": r"{kind}.*batch_first.*('False'|str)",
    "input_size should be of type int, got: float": r"{kind}.*input_size.*(3\.0|float)",
    "input_size should be of type int, got: str": r"{kind}.*input_size.*('10'|str)",
    "hidden_size should be of type int, got: float": r"{kind}.*hidden_size.*(5\.0|float)",
}


class Refusal(NamedTuple):
    """Our answer to an error input, and what is wrong with it ("" where nothing is)."""

    kind: str
    message: str
    trouble: str


def answer(kind: str, case: Any, dtype: str, converted: Counter[tuple[str, str]]) -> str:
    """What is wrong with our answer to an error input: it must come where torch's comes, in words of `WORDS`."""
    from torch.testing._internal.common_modules import ModuleErrorEnum

    made, called = case.module_error_input.constructor_input, case.module_error_input.forward_input
    args, named = list(made.args), {"dtype": dtype, **made.kwargs}
    named["dtype"] = str(named["dtype"]).removeprefix("torch.")
    if named.pop("device", None) is not None:
        converted[kind, NO_DEVICE] += 1
    if kind in ("RNNCell", "GRUCell") and isinstance(args[-1], str):
        converted[kind, A_NAME_AS_BIAS] += 1
        args[-1] = True
    text = f"{kind}({shown(made)})"
    at_construction = case.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR
    try:
        ours = getattr(tg.nn, kind)(*args, **named)
    except Exception as error:
        return judged(text, error, kind, case.error_regex) if at_construction else f"{text} is refused: {error!r}"
    if at_construction:
        return f"{text} is taken"
    try:
        ours(*map_leaves(lambda t: tg.tensor(t.detach().numpy()), called.args))
    except Exception as error:
        return judged(text, error, kind, case.error_regex)
    return f"{text} takes what it is called with"


def judged(text: str, error: Exception, kind: str, message: str) -> str:
    said = str(error).replace("\n", " ")
    if not isinstance(error, tg.errors.TinygradError):
        return f"{text} gives a bare {type(error).__name__}: {said}"
    wanted = WORDS[message].format(kind=kind, cell=kind if kind.endswith("Cell") else f"{kind}Cell")
    return "" if re.match(wanted, said) else f"{text} is refused in other words than {wanted!r}: {said}"


@functools.cache
def refusals(dtype: str) -> tuple[list[Refusal], Counter[tuple[str, str]]]:
    """Our answers to all error inputs, and what was said in other words."""
    found, converted = [], Counter[tuple[str, str]]()
    for kind in ERRORS:
        for case in drawn(lambda i: i.module_error_inputs_func, kind, getattr(torch, dtype), False, True):
            found.append(Refusal(kind, case.error_regex, answer(kind, case, dtype, converted)))
    return found, converted


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("message", WORDS)
def test_error_inputs(message, dtype):
    cases = [found for found in refusals(dtype)[0] if found.message == message]
    assert cases, "torch has no such error input"
    wrong = [found.trouble for found in cases if found.trouble]
    if wrong:
        pytest.fail(f"torch: {message!r}; here, {len(wrong)} of {len(cases)}:\n" + "\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_error_input_is_lost(dtype):
    found, converted = refusals(dtype)
    assert Counter(one.kind for one in found) == ERRORS
    assert {one.message for one in found} == set(WORDS)
    assert converted == CONVERTED


def test_summary():
    """What was compared, for `pytest -s`."""
    samples = [outcome(kind, *flags) for kind in SAMPLES for flags in itertools.product([True, False], repeat=2)]
    answers = [one for dtype in ("float32", "float64") for one in refusals(dtype)[0]]
    print(
        f"\n{sum(SAMPLES.values())} samples of torch's for {len(SAMPLES)} modules, each with and without gradients of "
        f"the inputs, in training and not: {sum(one.compared for one in samples)} compared, "
        f"{sum(one.gradients for one in samples)} gradients; {len(answers)} error inputs, of which "
        f"{sum(bool(one.trouble) for one in answers)} are not refused as they should be"
    )
    for reason in (AS_LENGTHS, NO_DEVICE, A_NAME_AS_BIAS):
        print(f"  converted: {reason}")
