"""How kernels are made: their texts, what they call that Numba lacks, and the one door to the compiler."""
