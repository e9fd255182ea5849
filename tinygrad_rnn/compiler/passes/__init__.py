"""What becomes of a program: each pass takes one and returns one, the last what kernels run."""
