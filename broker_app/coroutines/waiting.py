"""Signals: a wait for another thread that an exception can interrupt at any time."""

from __future__ import annotations

import threading


class Signal:
    """A flag that one thread sets, and another waits for.

    Unlike `threading.Event`, it is one lock: an exception of a signal handler cannot leave it half taken.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._is_set = False

    def set(self) -> None:
        """Set the flag; once only."""
        self._is_set = True
        self._lock.release()

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Wait until the flag is set, or the time is over."""
        self._lock.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds)

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._is_set
