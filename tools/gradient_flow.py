"""Measure how gradients flow back through time; the same as `tinygrad-rnn flow`. See `--help`."""

import sys

from tinygrad_rnn.cli import gradient_flow

if __name__ == "__main__":
    sys.exit(gradient_flow())
