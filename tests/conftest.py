"""Seeds for every test."""

import pytest

import tinygrad_rnn as tg

collect_ignore = ["parity.py", "registry.py"]  # what the tests share; `parity.py` needs torch


@pytest.fixture(autouse=True)
def _seeded():
    tg.manual_seed(0)
