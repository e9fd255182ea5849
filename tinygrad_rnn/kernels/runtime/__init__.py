"""How kernels run: threads, memory, and the interpreter of tables."""
