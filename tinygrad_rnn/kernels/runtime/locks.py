"""Locks that survive a fork."""

from __future__ import annotations

import os
import threading
from typing import Any


def lock_across_forks() -> Any:
    """A lock that a forked child never inherits in use: a fork waits for it."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
