"""Our own threads: asleep until called, they run compiled shards of a job, and never wait for Python's lock.

Numba's threads die in a fork and abort where two callers meet; OpenBLAS's spin for long. Here a fork starts anew, a
caller that finds the threads busy does all shards itself, and so does one whose threads are slow to wake: shards are
taken, not given. A thread sleeps on a semaphore of the system, inside compiled code: one that slept in Python would
have to wait for Python's lock before it could start.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..codegen import jit
from .locks import lock_across_forks

if TYPE_CHECKING:  # what the kernel's text has around it
    add_shared: Any = None
    call: Any = None
    number: Any = None
    read_shared: Any = None
    replace_shared: Any = None
    write_shared: Any = None

#: How often a thread looks for work before it sleeps, or for the end of it before it lets others run: some 100 us.
SPINS = 20_000

#: Integers of the board where a job is posted, before those of each thread: each that changes has a line of the cache
#: of its own. The ticket (the job's number, how many shards, and the next one); how many of them are done; then
#: function, table and job. For each thread: whether it sleeps, and its semaphore.
BOARD, EACH = 24, 8

#: A ticket is the number of a job times 2**32, its shards times 2**16, and the next shard.
SHARDS, JOB = 1 << 16, 1 << 32


def post(board: int, work: int, table: int, job: int, shards: int) -> None:
    """Put up a job, when all shards of the one before are done."""
    write_shared(board + 64, 0)
    write_shared(board + 128, work)
    write_shared(board + 136, table)
    write_shared(board + 144, job)
    write_shared(board, (read_shared(board) // JOB + 1) * JOB + shards * SHARDS)


def take(board: int) -> int:
    """Do shards of the job that is up until none is left; returns how many."""
    count = 0
    while True:
        ticket = read_shared(board)
        shard, shards = ticket % SHARDS, ticket % JOB // SHARDS
        if shard >= shards:
            return count
        work, table, job = number(board, 16), number(board, 17), number(board, 18)
        if replace_shared(board, ticket, ticket + 1):  # then what was read belongs to this job
            call(work, table, job, shard, shards)
            add_shared(board + 64, 1)
            count += 1


def rouse(board: int, threads: int, wake: int) -> None:
    """Wake so many threads, those that sleep."""
    for i in range(threads):
        mine = board + 8 * (BOARD + EACH * i)
        if read_shared(mine) == 1 and replace_shared(mine, 1, 0):
            call(wake, number(mine, 1), 1, 0)


def live(board: int, i: int, sleep: int) -> None:
    """What a thread does, for ever: take shards, look for more for a while, sleep."""
    mine = board + 8 * (BOARD + EACH * i)
    while True:
        idle = 0
        while idle < SPINS:
            idle = 0 if take(board) else idle + 1
        write_shared(mine, 1)
        ticket = read_shared(board)
        if ticket % SHARDS < ticket % JOB // SHARDS and replace_shared(mine, 1, 0):
            continue  # posted just before it could be seen that this thread sleeps
        call(sleep, number(mine, 1), -1)  # may end early, for a signal
        write_shared(mine, 0)


def go(
    board: int, work: int, table: int, first: int, second: int, third: int, threads: int, wake: int, others: int
) -> None:
    """Jobs 0, 1 and 2 in so many shards each, one after another; returns when all are done."""
    for job in range(3):
        shards = first if job == 0 else second if job == 1 else third
        if shards > 0:
            post(board, work, table, job, shards)
            if shards > 1:
                rouse(board, threads, wake)
            take(board)
            spins = 0
            while read_shared(board + 64) != shards:
                spins += 1
                if spins % SPINS == 0:
                    call(others, 0)


_compiled = jit.library(
    "threads",
    (post, take, rouse, live, go),
    {"SPINS": SPINS, "BOARD": BOARD, "EACH": EACH, "SHARDS": SHARDS, "JOB": JOB},
    ("rouse", "live", "go"),
)


class _System(NamedTuple):
    """The system's own semaphores, by address: `sleep(semaphore, -1)`, `wake(semaphore, 1, 0)`, `others(0)`.

    Each is called with as many numbers as the system with the most of them wants; `others` lets other threads run.
    """

    make: Callable[[], int]
    sleep: int
    wake: int
    others: int


def _system() -> _System | None:
    """None where there are none: then every caller works alone."""

    def address(function: Any) -> int:
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    try:
        if sys.platform == "win32":
            system = ctypes.WinDLL("kernel32")
            system.CreateSemaphoreW.restype = ctypes.c_void_p
            functions = system.WaitForSingleObject, system.ReleaseSemaphore, system.SwitchToThread
            return _System(lambda: int(system.CreateSemaphoreW(None, 0, 1 << 30, None)), *map(address, functions))
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            library.dispatch_semaphore_create.restype = ctypes.c_void_p
            functions = library.dispatch_semaphore_wait, library.dispatch_semaphore_signal, library.sched_yield
            return _System(lambda: int(library.dispatch_semaphore_create(0)), *map(address, functions))

        def make() -> int:
            memory = np.zeros(16, np.int64)
            _kept.append(memory)
            library.sem_init(ctypes.c_void_p(memory.ctypes.data), 0, 0)
            return int(memory.ctypes.data)

        return _System(make, *map(address, (library.sem_wait, library.sem_post, library.sched_yield)))
    except (AttributeError, OSError):
        return None


#: Memory that a sleeping thread looks at, for as long as the process lives.
_kept: list[Any] = []

#: The number of the processor that runs this thread; None where the system does not tell.
_processor: Callable[[], int] | None = None
if hasattr(os, "sched_setaffinity"):
    _processor = getattr(ctypes.PyDLL(None), "sched_getcpu", None)


class _Pool:
    """Threads that wait for work, one fewer than may run."""

    def __init__(self, count: int, system: _System) -> None:
        self.compiled, self.system, self.count = _compiled(), system, count
        self.board = _board(count)
        self.threads = [0] * count  # as the system numbers them
        self.away_from = -1
        for i in range(count):
            _write(self.board, BOARD + EACH * i + 1, system.make())
            threading.Thread(target=self._live, args=(i,), daemon=True, name=f"tinygrad_rnn {i + 1}").start()

    def _live(self, i: int) -> None:
        self.threads[i] = threading.get_native_id()
        self.compiled.live(self.board, i, self.system.sleep)

    def make_room(self) -> None:
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


_pool: _Pool | None = None
_busy = lock_across_forks()
_alone = threading.local()
_has = _system()


def run(work: int, table: int, shards: Sequence[int], count: int) -> None:
    """Do jobs 0, 1 and 2 that `work` (its address) knows on a table, one after another, in so many shards each.

    Every shard is done by the time this returns. Where the threads are busy for another caller, all is done here.

    Args:
        work: the address of a function of table, job, shard and shards.
        table: the address of a table.
        shards: for each job how many shards it has; 0 for one that is left out.
        count: how many threads may take part, with this one.
    """
    global _pool
    if count > 1 and _has is not None and _busy.acquire(blocking=False):
        try:
            if _pool is None or _pool.count < count - 1:
                _pool = _Pool(count - 1, _has)
            _pool.make_room()
            _pool.compiled.go(_pool.board, work, table, *shards, count - 1, _has.wake, _has.others)
        finally:
            _busy.release()
        return
    if not hasattr(_alone, "board"):
        _alone.board = _board(0)
    _compiled().go(_alone.board, work, table, *shards, 0, 0, 0)


def ready(count: int) -> None:
    """Wake the threads for a `run` that comes soon, `count` of them with this one."""
    if count > 1 and _pool is not None and _has is not None:
        _pool.compiled.rouse(_pool.board, min(count - 1, _pool.count), _has.wake)


def _board(count: int) -> int:
    """The address of a new board; it is kept, as its threads live on when a larger pool has taken their place."""
    memory = np.zeros(BOARD + EACH * count + 8, np.int64)
    _kept.append(memory)
    address = int(memory.ctypes.data)
    return address + -address % 64


def _write(board: int, index: int, value: int) -> None:
    ctypes.c_int64.from_address(board + 8 * index).value = value


def _forget() -> None:
    """A fork has none of the threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
