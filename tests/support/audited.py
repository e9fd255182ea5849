"""An audit of every fused run: that its table makes kernels touch what was handed over, and nothing else."""

from __future__ import annotations

import contextlib

import numpy as np

from tinygrad_rnn.compiler.runtime import layout as layouts
from tinygrad_rnn.kernels.runtime import audit
from tinygrad_rnn.kernels.runtime.interpreter import vectors
from tinygrad_rnn.kernels.runtime.table import Head, Slot


def run_of(layout, memory):
    """A sealed layout, as the audit takes it."""
    size, numbers = layout.dtype.itemsize, len(Head) + len(Slot) * len(layout.plan.places)
    functions = {address: name for name, address in layout.functions.items()}
    return audit.Run(
        layout.table, memory, layout.rooms, size, vectors()[0] // size, layout.shards, layout.plan.text, functions,
        numbers,
    )  # fmt: skip


def memory_of(layout, addresses, arrays, inside):
    """What lies at each address."""
    found = {}
    for key, address in addresses.items():
        if key in layout.sizes:
            found[key] = audit.Memory(address, 0, layout.sizes[key])
            continue
        bounds = [np.lib.array_utils.byte_bounds(array) for array in ([arrays[key]] if key in arrays else inside)]
        low, high = next((low, high) for low, high in bounds if low <= address < high)
        found[key] = audit.Memory(address, low - address, high - address)
    return found


def inspected(layout, addresses, arrays, inside):
    audit.audit(run_of(layout, memory_of(layout, addresses, arrays, inside)))


@contextlib.contextmanager
def audited(inspect=inspected):
    """Inside, every run is audited."""
    outer, layouts.inspect = layouts.inspect, inspect
    try:
        yield
    finally:
        layouts.inspect = outer
