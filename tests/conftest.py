"""Seeds for every test, and an audit of every fused run."""

import pytest
from support.audited import audited

import tinygrad_rnn as tg

#: What the tests share; the parity modules need torch.
collect_ignore = [
    "expressions.py", "ir/interpreted.py", "jets.py", "parity.py", "parity_adapters.py", "parity_equations.py",
    "parity_gradients.py", "parity_onnx.py", "parity_samples.py", "programs.py", "registry.py",
    "sequence_actions.py", "sequence_functions.py", "sequence_gradients.py", "sequences.py",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def _audited():
    with audited():
        yield


@pytest.fixture(autouse=True)
def _seeded():
    tg.manual_seed(0)
