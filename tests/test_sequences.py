"""A wrong gradient is never returned silently: random programs that write in place, against forward mode (`jets`).

TINYGRAD_RNN_SEQUENCES is the number of programs. Each is drawn from its number alone, so a failure can be had again;
its message is the program, as Python that runs, without what it does not need.
"""

from __future__ import annotations

import os
from collections import Counter

import jets
import numpy as np
import pytest
from sequences import Failure, sequence

import tinygrad_rnn as tg
from tinygrad_rnn.autograd import tape

COUNT = int(os.environ.get("TINYGRAD_RNN_SEQUENCES", "3000"))


def test_the_gradient_is_right_or_an_error_is_raised():
    outcomes, errors, actions = Counter(), Counter(), 0
    for seed in range(COUNT):
        played = sequence(seed)
        outcomes[bool(played.compared), bool(played.errors)] += 1
        errors.update(played.errors)
        actions += len(played.actions)
    names = {(True, False): "gradients", (True, True): "gradients and errors", (False, True): "errors"}
    found = {name: outcomes[key] for key, name in names.items()}
    print(f"\n{COUNT} sequences of {actions / max(COUNT, 1):.1f} actions: {found}; errors {dict(errors.most_common())}")
    if COUNT >= 1000:
        assert outcomes[True, False] + outcomes[True, True] > COUNT / 2
        assert errors["backward: changed in place"] > COUNT / 100


def failures(limit):
    """The first program that fails."""
    for seed in range(limit):
        try:
            sequence(seed)
        except Failure as failure:
            return str(failure)
    return ""


def test_writes_that_are_not_noted_are_found(monkeypatch):
    monkeypatch.setattr(tape.Writes, "note", lambda self, array: None)
    found = failures(2000)
    assert "wrong gradient" in found
    program = found[found.index("import copy") :]
    assert "tg." in program
    exec(compile(program, "the program of the failure", "exec"), {})  # it runs as it is printed


@pytest.mark.parametrize(
    ("text", "compute"),
    [
        ("exp(sin(x) * y)", lambda x, y: jets.of("exp", jets.product(jets.of("sin", x), y))),
        ("softmax", lambda x, y: jets.total(jets.product(jets.softmax(x, 0), y))),
        ("power", lambda x, y: jets.composed(p := jets.plus_one(x), jets.power(1.5)(p.value))),
        ("divide", lambda x, y: jets.divided(jets.of("tanh", x), jets.plus_one(jets.of("sigmoid", y)))),
        ("matmul", lambda x, y: jets.of("square", jets.matmul(x, jets.moved(lambda v: np.stack([v, v]), y)))),
    ],
)
def test_the_reference_agrees_with_finite_differences(text, compute):
    rng = np.random.default_rng(0)
    at = [rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)]

    def run(arrays):
        return compute(*[jets.leaf(a, slice(2 * i, 2 * i + 2), 3) for i, a in enumerate(arrays)])

    step = 1e-5
    for column in range(4):
        moved = np.zeros(4)
        moved[column] = step
        up, down = (run([at[0] + s * moved[:2], at[1] + s * moved[2:]]) for s in (1, -1))
        for k in range(3):
            expected = (up.part(k) - down.part(k)) / (2 * step)
            np.testing.assert_allclose(run(at).part(k + 1)[..., column], expected, rtol=1e-7, atol=1e-7)


def test_the_reference_of_a_known_program():
    x = jets.leaf(np.array([2.0]), slice(0, 1), 2)
    y = jets.product(x, x)
    x.value[...] = 5.0  # after the product was read
    z = jets.combined(y, jets.product(x, x))
    assert jets.gradient([z], [jets.Ref(np.ones(1))], record=False).value[0] == 2 * 2.0 + 2 * 5.0


def test_both_agree_that_a_shared_array_is_one():
    a = np.array([1.0, 2.0])
    x, y = tg.from_numpy(a), tg.from_numpy(a[::-1])
    x += 1.0
    np.testing.assert_array_equal(y, [3.0, 2.0])
