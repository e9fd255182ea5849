"""Seeds for every test."""

import pytest

import tinygrad_rnn as tg


@pytest.fixture(autouse=True)
def _seeded():
    tg.manual_seed(0)
