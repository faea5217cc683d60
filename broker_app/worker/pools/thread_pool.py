"""The threads of a worker's pool, without what `concurrent.futures` does for each task and nobody asks for.

A future has a lock and a condition, and takes its result; a task of Celery's answers through its callbacks. So a
task here is a function and its arguments. The threads are the executor's own, and so is their end.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from celery.concurrency.base import apply_target
from celery.concurrency.thread import TaskPool
from celery.exceptions import TaskRevokedError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class ThreadExecutor(ThreadPoolExecutor):
    """An executor that does not tell how a call ended.

    Each of the first calls starts a thread, until there are all: it does not count which are idle.

    Args:
        slots: The threads.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._idle_semaphore: Any = _NoIdleThreads()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Let a thread call a function."""
        self._work_queue.put(_Call(function, arguments))  # type: ignore[arg-type] # it calls `run`, no more
        if len(self._threads) < self._max_workers:
            with self._shutdown_lock:
                self._adjust_thread_count()


class _NoIdleThreads:
    """In place of an executor's count of idle threads."""

    def acquire(self, timeout: float | None = None) -> bool:
        """Return that no thread is idle."""
        del timeout
        return False

    def release(self) -> None:
        """Do not count."""


class _Call:
    """What an executor's threads run; it is its own future, of which the executor wants only `cancel`."""

    __slots__ = ("_arguments", "_function", "_is_cancelled")

    def __init__(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._is_cancelled = False

    @property
    def future(self) -> _Call:
        """What can be cancelled."""
        return self

    def cancel(self) -> None:
        """Keep it from being run, if it was not begun."""
        self._is_cancelled = True

    def run(self, *_context: Any) -> None:
        """Call the function; the thread outlives whatever comes out of it."""
        if self._is_cancelled:
            return
        try:
            self._function(*self._arguments)
        except TaskRevokedError as error:
            logger.debug("not run: %s", error)
        except BaseException:  # also SystemExit: it would end this thread, and its slot
            logger.exception("a task's end could not be told")


def lighten(pool: Any) -> None:
    """Let Celery's thread pool, before it has run anything, use `ThreadExecutor`; other pools stay as they are."""
    if not isinstance(pool, TaskPool):
        return
    threads = ThreadExecutor(pool.limit)
    pool.executor = threads

    def on_apply(
        target: Callable[..., object],
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **_: Any,
    ) -> None:
        threads.call(apply_target, target, args, kwargs, callback, accept_callback)

    pool.on_apply = on_apply
