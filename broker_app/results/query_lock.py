"""Query locks: a fork waits until the queries of this process have ended.

A process that is forked during a query of SQLite inherits its locks, which nothing will ever release there.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Self
from weakref import WeakSet

FORK_SECONDS = 2.0
"""Longest time that a fork waits for all queries."""


class QueryLock:
    """A lock to hold during a query."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        _all.add(self)

    def __enter__(self) -> Self:
        self.lock.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        self.lock.release()


_all: WeakSet[QueryLock] = WeakSet()
_held: list[threading.Lock] = []


def _before_fork() -> None:
    deadline = time.monotonic() + FORK_SECONDS
    locks = [one.lock for one in tuple(_all)]
    _held.extend(lock for lock in locks if lock.acquire(timeout=max(0.0, deadline - time.monotonic())))


def _after_fork() -> None:
    while _held:
        _held.pop().release()


def _in_child() -> None:
    _held.clear()
    for one in tuple(_all):
        one.lock = threading.Lock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
