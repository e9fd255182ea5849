"""Draw a recurrent net unrolled over time; the same as `tinygrad-rnn graph`. See `--help`."""

import sys

from tinygrad_rnn.cli import render_graph

if __name__ == "__main__":
    sys.exit(render_graph())
