"""A program run: where its memory lies, what it takes from outside, the kernels, and the node on the tape."""
