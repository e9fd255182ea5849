"""Our own threads: asleep until called, they run compiled parts of one job without Python's lock.

Numba's threads die in a fork and abort where two callers meet; OpenBLAS's spin for long. Here a fork starts anew, a
caller that finds the threads busy does all parts itself, and so does one whose threads are slow to wake: parts are
taken, not given.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import jit
from .locks import lock_across_forks

if TYPE_CHECKING:  # what the kernel's text has around it
    add_shared: Any = None
    call: Any = None
    number: Any = None
    read_shared: Any = None
    replace_shared: Any = None
    write_shared: Any = None

#: How often a thread looks for work, or for the end of it, before it lets others run: some microseconds.
SPINS = 2000

#: How often it does so before it sleeps.
PATIENCE = 5

#: The board where a job is posted, each number that changes in a line of the cache of its own: the job's number times
#: 2**16 plus the next part; how many parts are done; then function, table, job and parts.
BOARD = 32

#: The number of the processor that runs this thread; None where the system does not tell.
_processor: Callable[[], int] | None = None
if hasattr(os, "sched_setaffinity"):
    _processor = getattr(ctypes.PyDLL(None), "sched_getcpu", None)

_yield: Callable[[], Any] = getattr(os, "sched_yield", lambda: time.sleep(0))


def post(board: int, work: int, table: int, job: int, parts: int) -> None:
    """Put up a job."""
    write_shared(board + 64, 0)
    write_shared(board + 128, work)
    write_shared(board + 136, table)
    write_shared(board + 144, job)
    write_shared(board + 152, parts)
    write_shared(board, (read_shared(board) // 65536 + 1) * 65536)


def take(board: int) -> int:
    """Do parts of the job that is up until none is left; returns how many."""
    count = 0
    while True:
        ticket = read_shared(board)
        work, table, job, parts = number(board, 16), number(board, 17), number(board, 18), number(board, 19)
        if ticket % 65536 >= parts:
            return count
        if replace_shared(board, ticket, ticket + 1):  # then what was read belongs to this job
            call(work, table, job, ticket % 65536, parts)
            add_shared(board + 64, 1)
            count += 1


def serve(board: int) -> int:
    """Take parts, of one job or several, until there has been none for a while; returns how many."""
    count, idle = 0, 0
    while idle < SPINS:
        taken = take(board)
        count += taken
        idle = 0 if taken else idle + 1
    return count


def wait(board: int) -> int:
    """Whether all parts are done, after some patience."""
    parts = number(board, 19)
    for _ in range(SPINS):
        if read_shared(board + 64) == parts:
            return 1
    return 0


_compiled = jit.library("threads", (post, take, serve, wait), {"SPINS": SPINS}, ("post", "take", "serve", "wait"))


class _Pool:
    """Threads that wait for work, one fewer than may run."""

    def __init__(self, count: int) -> None:
        self.compiled = _compiled()
        memory = np.zeros(BOARD + 8, np.int64)
        skipped = -memory.ctypes.data % 64 // 8
        self.memory = memory[skipped : skipped + BOARD]
        self.board = self.memory.ctypes.data
        self.doors = [_thread.allocate_lock() for _ in range(count)]
        self.threads = [0] * count  # as the system numbers them
        self.away_from = -1
        for i, door in enumerate(self.doors):
            door.acquire()
            threading.Thread(target=self._live, args=(i,), daemon=True, name=f"tinygrad_rnn {i + 1}").start()

    def _live(self, i: int) -> None:
        self.threads[i] = threading.get_native_id()
        serve, board, door = self.compiled.serve, self.board, self.doors[i]
        while True:
            door.acquire()
            idle = 0
            while idle < PATIENCE:
                idle = 0 if serve(board) else idle + 1
                _yield()

    def _make_room(self) -> None:
        """Keep the threads off the processor that this one runs on, where the system can be told so.

        Left alone, the system wakes them on that same processor, and may move them only milliseconds later.
        """
        if _processor is None or not all(self.threads):
            return
        here = _processor()
        if here != self.away_from:
            self.away_from = here
            others = os.sched_getaffinity(0) - {here}
            for thread in self.threads if others else ():
                os.sched_setaffinity(thread, others)

    def run(self, work: int, table: int, jobs: Sequence[tuple[int, int]], helpers: int) -> None:
        """Do jobs in parts, some of them here."""
        compiled, board = self.compiled, self.board
        self._make_room()
        for job, parts in jobs:
            if parts:
                compiled.post(board, work, table, job, parts)
                for door in self.doors[:helpers]:
                    if door.locked():
                        door.release()
                compiled.take(board)
                while not compiled.wait(board):
                    _yield()


_pool: _Pool | None = None
_busy = lock_across_forks()
_alone = threading.local()


def run(work: int, table: int, jobs: Sequence[tuple[int, int]], count: int) -> None:
    """Do jobs that `work` (its address) knows on a table, one after another.

    Every part is done by the time this returns. Where the threads are busy for another caller, all is done here.

    Args:
        work: the address of a function of table, job, part and parts.
        table: the address of a table.
        jobs: for each its number, and how many parts it has; 0 for one that is left out.
        count: how many threads may take part, with this one.
    """
    global _pool
    if count > 1 and _busy.acquire(blocking=False):
        try:
            if _pool is None or len(_pool.doors) < count - 1:
                _pool = _Pool(count - 1)
            _pool.run(work, table, jobs, count - 1)
        finally:
            _busy.release()
        return
    if not hasattr(_alone, "board"):
        _alone.board = np.zeros(BOARD, np.int64)
    compiled, board = _compiled(), _alone.board.ctypes.data
    for job, parts in jobs:
        if parts:
            compiled.post(board, work, table, job, parts)
            compiled.take(board)


def _forget() -> None:
    """A fork has none of the threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
