"""Arrivals: one thread asks a store for all results that the coroutines of a process await."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from broker_app.results.query_lock import QueryLock
from broker_app.results.waiting import FIRST_PAUSE_SECONDS, SHARE_OF_WAIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from celery import Celery

IDS_PER_QUERY = 500
"""Ids in one query of an SQL store; more of them take several queries."""

QUERIES_PER_SECOND = 15
"""Limit on the queries of a store."""

BURST_QUERIES = 45
"""Queries above the limit, after a time without: a single wait takes about so many in its first second."""

IDLE_SECONDS = 5.0
"""Time without awaited results after which the thread ends."""

LAST_LOOK_SECONDS = 1.0
"""Time after a deadline that a store gets to answer the last query."""


class Wait:
    """Results that a coroutine awaits.

    Args:
        backend: Celery's backend, which is asked.
        ids: The tasks.
        deadline: Time at which to give up, in terms of `time.monotonic`.
        longest_pause: Longest time between two queries, in seconds.

    Attributes:
        is_over: Whether the store was asked after the deadline, or did not answer.
    """

    def __init__(self, backend: Any, ids: AbstractSet[str], deadline: float, longest_pause: float) -> None:
        self.backend = backend
        self.ids = set(ids)
        self.deadline = deadline
        self.longest_pause = longest_pause
        self.since = time.monotonic()
        self.is_over = False
        self.loop = asyncio.get_running_loop()
        self._arrived: dict[str, Any] = {}
        self._error: Exception | None = None
        self._news = asyncio.Event()

    async def arrived(self, longest_wait: float | None = None) -> Mapping[str, Any]:
        """Wait for results, and return those that have arrived since the last call, by their tasks' ids.

        Args:
            longest_wait: Seconds after which to return without a result; None waits until the deadline.

        Raises:
            Exception: The error of the store.
        """
        left = self.deadline + LAST_LOOK_SECONDS - time.monotonic()
        pause = left if longest_wait is None else min(left, longest_wait)
        try:
            async with asyncio.timeout(None if pause == math.inf else pause):
                await self._news.wait()
        except TimeoutError:
            self.is_over = pause == left
        self._news.clear()
        if self._error is not None:
            raise self._error
        arrived, self._arrived = self._arrived, {}
        return arrived

    def tell(self, found: Mapping[str, Any], error: Exception | None, *, is_over: bool) -> None:
        """Wake the coroutine; called in its loop."""
        self._arrived.update(found)
        self._error = error
        self.is_over = is_over
        self._news.set()


class Arrivals:
    """The awaited results of a store."""

    def __init__(self) -> None:
        self._asking = QueryLock()
        self._changed = threading.Condition()
        self._waits: set[Wait] = set()
        self._thread: threading.Thread | None = None
        self._asked_at = -math.inf
        self._paid_until = -math.inf
        self._sleeps_until = math.inf

    def add(self, wait: Wait) -> None:
        """Ask for the results of a wait from now on."""
        with self._changed:
            self._waits.add(wait)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="awaited-results", daemon=True)
                self._thread.start()
            elif self._sleeps_until > wait.since + FIRST_PAUSE_SECONDS:
                self._changed.notify()

    def discard(self, wait: Wait) -> None:
        """Ask for the results of a wait no more."""
        with self._changed:
            self._waits.discard(wait)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waits and not self._sleep(IDLE_SECONDS) and not self._waits:
                    self._thread = None
                    return
                if self._waits and (pause := self._due() - time.monotonic()) > 0:
                    self._sleep(pause)
                    continue
                waits = tuple(self._waits)
            if waits:
                self._ask(waits)

    def _sleep(self, seconds: float) -> bool:
        self._sleeps_until = time.monotonic() + seconds
        return self._changed.wait(seconds)

    def _due(self) -> float:
        """Return when to ask next: soon for young waits, and not more often than the limit allows."""
        now = time.monotonic()
        youngest = max(wait.since for wait in self._waits)
        pause = max(FIRST_PAUSE_SECONDS, (now - youngest) * SHARE_OF_WAIT)
        pause = min(pause, *(wait.longest_pause for wait in self._waits))
        due = self._asked_at + max(FIRST_PAUSE_SECONDS, pause)
        deadline = min(wait.deadline for wait in self._waits)
        return max(min(due, deadline), self._paid_until - BURST_QUERIES / QUERIES_PER_SECOND)

    def _ask(self, waits: tuple[Wait, ...]) -> None:
        """Ask the store for all, and tell each loop once what has arrived."""
        ids = set[str]().union(*(wait.ids for wait in waits))
        self._asked_at = began = time.monotonic()
        self._paid_until = max(self._paid_until, began) + math.ceil(len(ids) / IDS_PER_QUERY) / QUERIES_PER_SECOND
        error, found = None, {}
        try:
            with self._asking:
                found = dict(_ready_in(waits[0].backend, ids))
        except Exception as failure:  # noqa: BLE001 - raised in the coroutines; each store has its own errors
            error = failure
        calls: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = defaultdict(list)
        for wait in waits:
            mine = {task_id: found[task_id] for task_id in wait.ids & found.keys()}
            wait.ids -= mine.keys()
            is_over = began >= wait.deadline or error is not None
            if mine or is_over:
                calls[wait.loop].append(partial(wait.tell, mine, error, is_over=is_over))
            if is_over:
                self.discard(wait)
        for loop, in_loop in calls.items():
            _call_in(loop, in_loop)


def arrivals_of(app: Celery, backend: Any) -> Arrivals:
    """Return the awaited results of a store; a forked process has its own.

    Args:
        app: The app.
        backend: Celery's backend. Some stores have one for each thread.
    """
    store = (type(backend).__name__, getattr(backend, "url", None))
    with _lock:
        return _known.setdefault(app, {}).setdefault(store, Arrivals())


def _ready_in(backend: Any, ids: set[str]) -> Iterable[tuple[str, Any]]:
    """Ask a store once; one query asks for all, if the store can do that."""
    if hasattr(backend, "get_many"):
        yield from backend.get_many(ids, interval=0, max_iterations=1)
        return
    for task_id in ids:
        meta = backend.get_task_meta(task_id)
        if meta["status"] in backend.READY_STATES:
            yield task_id, meta


def _call_in(loop: asyncio.AbstractEventLoop, calls: list[Callable[[], None]]) -> None:
    """Call functions in a loop; one that has been closed awaits nothing."""

    def call_all() -> None:
        for call in calls:
            call()

    try:
        loop.call_soon_threadsafe(call_all)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _begin() -> None:
    """Start a process, also a forked one, with nothing awaited."""
    global _lock, _known  # noqa: PLW0603 - one registry per process
    _lock = threading.Lock()
    _known = WeakKeyDictionary()


_lock: threading.Lock
_known: WeakKeyDictionary[Celery, dict[tuple[str, Any], Arrivals]]

_begin()
os.register_at_fork(after_in_child=_begin)
