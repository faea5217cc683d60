"""Thread pool: runs tasks on an executor's threads without creating a future for each task.

A future holds a lock, a condition and the result, but Celery's tasks report through callbacks. So a task here is
just a function and its arguments. The executor still starts and stops the threads.
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
    """An executor that discards the results of calls.

    Each of the first calls starts a thread, up to the maximum; idle threads are not counted.

    Args:
        slots: Number of threads.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._idle_semaphore: Any = _NoIdleThreads()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in one of the threads."""
        self._work_queue.put(_Call(function, arguments))  # type: ignore[arg-type] # threads only call its `run`
        if len(self._threads) < self._max_workers:
            with self._shutdown_lock:
                self._adjust_thread_count()


class _NoIdleThreads:
    """Replaces an executor's semaphore that counts idle threads."""

    def acquire(self, timeout: float | None = None) -> bool:
        """Return False: no thread is idle."""
        del timeout
        return False

    def release(self) -> None:
        """Do nothing."""


class _Call:
    """A queued call. It is also its own future, of which the executor uses only `cancel`."""

    __slots__ = ("_arguments", "_function", "_is_cancelled")

    def __init__(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._is_cancelled = False

    @property
    def future(self) -> _Call:
        """This call, which can be cancelled."""
        return self

    def cancel(self) -> None:
        """Prevent the call unless it has started."""
        self._is_cancelled = True

    def run(self, *_context: Any) -> None:
        """Call the function; its exceptions do not end the thread."""
        if not self._is_cancelled:
            guarded(self._function, *self._arguments)


def guarded(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function that runs a task; its exceptions do not end the calling thread."""
    try:
        function(*arguments)
    except TaskRevokedError as error:
        logger.debug("not run: %s", error)
    except BaseException:  # SystemExit too, which would end this thread and lose its slot
        logger.exception("failed to report a task's outcome")


def lighten(pool: Any) -> None:
    """Make Celery's thread pool use `ThreadExecutor`; call this before its first task. Ignores other pools."""
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
