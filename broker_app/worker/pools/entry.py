"""Pool entry: hands requests to the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.worker.pools.time_limits import TimeLimits
    from broker_app.worker.request import Request


class PoolEntry:
    """The way into a worker's pool.

    Args:
        pool: Celery's pool.
        start: Celery's function that starts a request in the pool.
        is_tracked: Returns whether a request is still to be started, and was not returned to its queue meanwhile.
        limits: The time limits of running tasks; None if the pool enforces its own, or cannot enforce any.
    """

    def __init__(
        self,
        pool: Any,
        start: Callable[[Request], object],
        is_tracked: Callable[[Request], bool],
        limits: TimeLimits | None,
    ) -> None:
        self._pool = pool
        self._start = start
        self._is_tracked = is_tracked
        self._limits = limits
        self._is_green = getattr(pool, "is_green", False)

    @property
    def shares_memory(self) -> bool:
        """True if the pool's tasks run in this process."""
        return bool(self._pool.body_can_be_buffer or self._is_green)

    def run(self, request: Request) -> None:
        """Start a request, or queue it in the pool."""
        if self._is_green:
            self._pool.spawn_n(self._run_when_free, request)
        else:
            self._start(request)

    def accept(self, request: Request) -> None:
        """Record that a request starts, in the thread or greenlet that runs it."""
        if self._limits is not None:
            self._limits.accept(request)

    def _run_when_free(self, request: Request) -> None:
        """Wait for a free slot of a green pool in a separate greenlet, then start the task unless it was returned.

        Celery waits in the worker's loop, which then reads no heartbeats, so that the connection is lost.
        """
        slots = self._pool._pool  # noqa: SLF001 - gevent's own pool; Celery's cannot wait
        while slots.full():
            slots.wait_available()
        if self._is_tracked(request):
            self._start(request)
