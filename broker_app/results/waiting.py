"""Waiting for results: one query asks for all results that the threads of a process await."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakMethod

from broker_app.results.query_lock import QueryLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

FIRST_PAUSE_SECONDS = 0.002
"""Pause after the first query."""

SHARE_OF_WAIT = 0.1
"""Later pauses are this share of the time waited so far: a result is found at most so much later."""


@dataclass(eq=False, slots=True)
class _Waiter:
    ids: AbstractSet[str]
    since: float
    longest_pause: float
    found: set[str] = field(default_factory=set)
    event: threading.Event = field(default_factory=threading.Event)

    def pause(self, now: float) -> float:
        return min(self.longest_pause, max(FIRST_PAUSE_SECONDS, (now - self.since) * SHARE_OF_WAIT))


class ResultWaiter:
    """Waits for results of a store that must be polled. A forked process starts with nothing awaited.

    The thread whose pause ends first asks for the results of all. The youngest wait has the shortest pause.

    Args:
        find_ready: Returns those of the given task ids whose results are ready.
    """

    def __init__(self, find_ready: Callable[[AbstractSet[str]], AbstractSet[str]]) -> None:
        self._find_ready = find_ready
        self._begin()
        call_after_fork(self._begin)

    def wait(
        self,
        ids: AbstractSet[str],
        *,
        deadline: float,
        longest_pause: float,
        on_pause: Callable[[], object] | None = None,
    ) -> AbstractSet[str]:
        """Wait until at least one result is ready.

        Args:
            ids: The awaited tasks.
            deadline: Time at which to give up, in terms of time.monotonic.
            longest_pause: Longest time between two queries, in seconds.
            on_pause: Called before each pause.

        Returns:
            The tasks whose results are ready; empty at the deadline.

        Raises:
            Exception: The error of the store, or of `on_pause`.
        """
        waiter = _Waiter(ids, time.monotonic(), longest_pause)
        with self._lock:
            self._waiters.add(waiter)
        try:
            while not waiter.found:
                now = time.monotonic()
                self._ask_if_due(waiter, now)
                if waiter.found or now >= deadline:
                    break
                if on_pause is not None:
                    on_pause()
                due = min(deadline, self._asked_at + waiter.pause(now))
                waiter.event.wait(max(0.0, due - time.monotonic()))
            return waiter.found
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._asking = QueryLock()
        self._asked_at = 0.0
        self._waiters: set[_Waiter] = set()

    def _ask_if_due(self, waiter: _Waiter, now: float) -> None:
        """Ask for all results, unless a thread is asking or has asked a moment ago."""
        if now < self._asked_at + waiter.pause(now) and self._asked_at >= waiter.since:
            return
        with self._asking:
            if waiter.found or self._asked_at >= now:
                return
            with self._lock:
                waiters = tuple(self._waiters)
            began = time.monotonic()
            try:
                ready = self._find_ready(frozenset().union(*(one.ids for one in waiters)))
            finally:
                self._asked_at = began
            for one in waiters:
                if found := one.ids & ready:
                    one.found = set(found)
                    one.event.set()


def call_after_fork(method: Callable[[], object]) -> None:
    """Call a bound method in each process that is forked while its object exists."""
    reference = WeakMethod(method)

    def call() -> None:
        living = reference()
        if living is not None:
            living()

    os.register_at_fork(after_in_child=call)
