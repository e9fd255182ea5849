"""Our own threads: asleep until called, they run compiled parts of one job without Python's lock.

Numba's threads die in a fork and abort where two callers meet; OpenBLAS's spin for long. Here a fork starts anew, and a
caller that finds the threads busy does all parts itself.
"""

from __future__ import annotations

import _thread
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from . import jit
from .locks import lock_across_forks

if TYPE_CHECKING:  # what the kernel's text has around it
    call: Any = None
    number: Any = None
    read_shared: Any = None
    write_shared: Any = None

#: How often a thread looks for more work before it sleeps: some microseconds.
SPINS = 2000

#: A thread's mailbox, each line of the cache written from one side: ticket; what it finished; function, table, job,
#: part and parts.
BOX = 32


def serve(box: int, seen: int, open: int) -> int:
    """Do what the mailbox says, until the caller has left and nothing more has come for a while.

    Returns the last ticket seen.
    """
    idle = 0
    while idle < SPINS or read_shared(open) != 0:
        ticket = read_shared(box)
        if ticket != seen:
            seen = ticket
            call(number(box, 16), number(box, 17), number(box, 18), number(box, 19), number(box, 20))
            write_shared(box + 64, seen)
            idle = 0
        idle += 1
    return seen


def conduct(work: int, table: int, jobs: int, parts: int, boxes: int) -> None:
    """Do the jobs whose bits are set in `jobs`, one after another, each in so many parts."""
    for job in range(3):
        if jobs & (1 << job) == 0:
            continue
        for part in range(1, parts):
            box = boxes + 8 * BOX * (part - 1)
            write_shared(box + 128, work)
            write_shared(box + 136, table)
            write_shared(box + 144, job)
            write_shared(box + 152, part)
            write_shared(box + 160, parts)
            write_shared(box, number(box, 0) + 1)
        call(work, table, job, 0, parts)
        for part in range(1, parts):
            box = boxes + 8 * BOX * (part - 1)
            while read_shared(box + 64) != number(box, 0):
                pass


_compiled = jit.library("threads", (serve, conduct), {"SPINS": SPINS, "BOX": BOX}, ("serve", "conduct"))


class _Pool:
    """Threads that wait for work, one fewer than may run."""

    def __init__(self, count: int) -> None:
        self.compiled = _compiled()
        memory = np.zeros(BOX * (count + 2), np.int64)
        skipped = -memory.ctypes.data % 64 // 8
        self.memory = memory[skipped : skipped + BOX * (count + 1)]
        self.boxes = self.memory.ctypes.data
        self.open = self.memory[BOX * count :]
        self.doors = [_thread.allocate_lock() for _ in range(count)]
        self.awake = [False] * count
        for i, door in enumerate(self.doors):
            door.acquire()
            threading.Thread(target=self._live, args=(i,), daemon=True, name=f"tinygrad_rnn {i + 1}").start()

    def _live(self, i: int) -> None:
        seen, box, open = 0, self.boxes + 8 * BOX * i, self.open.ctypes.data
        while True:
            self.doors[i].acquire()
            while True:
                seen = self.compiled.serve(box, seen, open)
                self.awake[i] = False
                if not self.open[0]:  # else a caller came meanwhile, and took it to be awake
                    break
                self.awake[i] = True

    def run(self, work: int, table: int, jobs: int, parts: int) -> None:
        """Do jobs in parts, one of them here."""
        self.open[0] = 1
        try:
            for i in range(parts - 1):
                if not self.awake[i]:
                    self.awake[i] = True
                    if self.doors[i].locked():
                        self.doors[i].release()
            self.compiled.conduct(work, table, jobs, parts, self.boxes)
        finally:
            self.open[0] = 0


_pool: _Pool | None = None
_busy = lock_across_forks()


def run(work: int, table: int, jobs: int, parts: int) -> None:
    """Do the jobs (a bit for each) that `work` (its address) knows on a table, in up to `parts` parts at once.

    Every part is done by the time this returns. Where the threads are busy for another caller, the parts are done here.
    """
    global _pool
    if parts > 1 and _busy.acquire(blocking=False):
        try:
            if _pool is None or len(_pool.doors) < parts - 1:
                _pool = _Pool(parts - 1)
            _pool.run(work, table, jobs, parts)
        finally:
            _busy.release()
    else:
        _compiled().conduct(work, table, jobs, 1, 0)


def _forget() -> None:
    """A fork has none of the threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
