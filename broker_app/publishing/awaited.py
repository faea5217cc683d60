"""Awaitable calls: a few threads of the process make Celery's blocking calls for coroutines.

Each call runs in a copy of its caller's context, so that it has the caller's task as its parent, and its trace.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from celery._state import _set_task_join_will_block, task_join_will_block
from celery.local import Proxy

from broker_app.publishing.call_start import set_call_start
from broker_app.publishing.shared_calls import SharedCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

USUAL_THREADS = 10
"""Threads for an app without our settings: as many as Celery's connection pool has connections."""

Value = TypeVar("Value")

logger = logging.getLogger(__name__)


async def awaited(
    app: Celery, call: Callable[[], Value], name: str, task_id: str | None = None, *, is_shared: bool = False
) -> Value:
    """Make a blocking call in a thread, and await its outcome.

    Args:
        app: The app, whose connection pool limits the number of threads.
        call: The call.
        name: The task's name.
        task_id: The task's id; None if the call may publish several tasks.
        is_shared: Whether the call publishes one task and then does nothing, so that it may share a connection.

    Raises:
        Exception: That of the call.
        CancelledError: The await was cancelled. It has the attributes ``task_id`` and ``maybe_taken``: False if
            nothing was published, and never will be by this call.
    """
    if is_shared and not app.conf.task_always_eager:
        shared = _threads_of(app).shared
        if not shared.is_apart:
            return await _shared_outcome(app, shared, call, name, task_id)
    return await outcome_of(submit(app, call), name, task_id)


def submit(app: Celery, call: Callable[[], Value]) -> Future[Value]:
    """Make a call in a thread, as soon as one is free.

    In eager mode a call runs a task, which may await another one. So it gets a thread of its own.
    """
    if not app.conf.task_always_eager:
        return _threads_of(app).submit(call)
    thread = ThreadPoolExecutor(1, thread_name_prefix="eager-call")
    try:
        return thread.submit(copy_context().run, _eager.make, call)
    finally:
        thread.shutdown(wait=False)


async def outcome_of(work: Future[Value], name: str, task_id: str | None) -> Value:
    """Await the outcome of a call; see `awaited`."""
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError as error:
        work.cancel()
        _explain(error, work, name, task_id)
        raise


async def _shared_outcome(
    app: Celery, shared: SharedCalls, call: Callable[[], Value], name: str, task_id: str | None
) -> Value:
    work: Future[Value] = Future()
    try:
        await shared.add(app, call, work)
    except asyncio.CancelledError as error:
        work.cancel()
        _explain(error, work, name, task_id)
        raise
    return work.result()


class CallThreads:
    """The threads of an app.

    While the broker answers, the time that a call waits for a thread does not count: the caller is held back.
    During an outage it counts against the call's time limit, so that calls behind others do not fail later.

    Args:
        count: The number of threads.

    Attributes:
        shared: The calls that share connections.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="awaited-call")
        self._succeeded_at = -math.inf
        self.shared = SharedCalls(self._pool)

    def submit(self, call: Callable[[], Value]) -> Future[Value]:
        """Make a call in the first free thread."""
        return self._pool.submit(copy_context().run, self._make, call, time.monotonic())

    def _make(self, call: Callable[[], Value], asked_at: float) -> Value:
        set_call_start(max(asked_at, self._succeeded_at))
        value = call()
        self._succeeded_at = time.monotonic()
        return value


class EagerCalls:
    """The calls that run tasks in eager mode.

    Celery sets a flag of the process while such a task runs, and its threads would not restore it in their order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._usual = False

    def make(self, call: Callable[[], Value]) -> Value:
        """Make a call; after the last of those that overlap, the flag is as before the first."""
        with self._lock:
            if not self._running:
                self._usual = task_join_will_block()
            self._running += 1
        try:
            return call()
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    _set_task_join_will_block(self._usual)


def _explain(error: Any, work: Future[Any], name: str, task_id: str | None) -> None:
    """Say in a CancelledError what became of the call."""
    error.task_id, error.maybe_taken = task_id, _maybe_taken(work, is_single=task_id is not None)
    outcome = "it may have been published" if error.maybe_taken else "it was not published"
    error.add_note(f"{_shown(name, task_id)}: the await was cancelled; {outcome}")
    if not work.cancelled():
        work.add_done_callback(partial(_log_outcome, _shown(name, task_id)))


def _maybe_taken(work: Future[Any], *, is_single: bool) -> bool:
    if work.cancelled():
        return False
    if not work.done() or not is_single:
        return True
    failure = work.exception()
    return failure is None or bool(getattr(failure, "maybe_taken", False))


def _log_outcome(shown: str, work: Future[Any]) -> None:
    failure = work.exception()
    if failure is None:
        logger.info("%s: was published after its await was cancelled", shown)
    else:
        logger.warning("%s: failed after its await was cancelled: %s", shown, failure)


def _shown(name: str, task_id: str | None) -> str:
    return name if task_id is None else f"task {name} [{task_id}]"


def _threads_of(app: Celery) -> CallThreads:
    app = app._get_current_object() if isinstance(app, Proxy) else app  # noqa: SLF001 - that of an empty canvas
    with _lock:
        threads = _threads.get(app)
        if threads is None:
            settings = getattr(app, "settings", None)
            count = USUAL_THREADS if settings is None else settings.publish.pool_limit
            threads = _threads[app] = CallThreads(count)
        return threads


def _begin() -> None:
    """Start a process, also a forked one, without threads."""
    global _eager, _lock, _threads  # noqa: PLW0603 - one registry per process
    _eager = EagerCalls()
    _lock = threading.Lock()
    _threads = WeakKeyDictionary()


_eager: EagerCalls
_lock: threading.Lock
_threads: WeakKeyDictionary[Celery, CallThreads]

_begin()
os.register_at_fork(after_in_child=_begin)
