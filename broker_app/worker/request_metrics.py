"""Request metrics: counts each request when it is received, starts and ends, in the worker's main process."""

from __future__ import annotations

import time
from functools import wraps
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry

from broker_app.metrics.catalogue import TaskOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.metrics.worker import NodeMetrics

_OUTCOMES: tuple[tuple[type[BaseException], TaskOutcome | None], ...] = (
    (Retry, TaskOutcome.RETRIED),
    (Ignore, TaskOutcome.SUCCEEDED),
    (Reject, None),  # requeued; one that is not requeued counts as dead
    (Terminated, None),  # counted as revoked, or redelivered
    (TimeLimitExceeded, TaskOutcome.TIMED_OUT),
    (SoftTimeLimitExceeded, TaskOutcome.TIMED_OUT),
)
"""Outcomes by exception; any other exception is a failure."""


class CountedRequest:
    """Mix-in for the workers' request class.

    Celery creates a subclass of it for each task (celery/worker/request.py, ``create_request_cls``) that overrides
    the methods called by the pool, so the methods of that subclass are wrapped.
    """

    _counts: NodeMetrics | None = None
    _count_queue = ""
    _count_received = 0.0
    _run_seconds: float | None = None
    _is_requeued = False
    _is_counted = False

    delivery_info: Any
    name: str
    time_start: float | None
    spec: Any
    _app: Any
    _request_dict: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "execute_using_pool" in vars(cls):
            for name, wrap in _WRAPPERS.items():
                setattr(cls, name, wrap(getattr(cls, name)))

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)  # type: ignore[call-arg] # Celery's request follows in the MRO
        counts: NodeMetrics | None = self._app.metrics.node
        if counts is None:
            return
        self._counts = counts
        self._count_received = counts.last_received = time.time()
        self._count_queue = counts.queue_of(self.delivery_info)
        counts.received(self._count_queue, self.name, is_redelivered=bool(self.delivery_info.get("redelivered")))

    def _count_start(self) -> None:
        if self._counts is not None and self.time_start is not None:
            self._counts.started(self._count_queue, self._request_dict, self._count_received, self.time_start)

    def _count_end(self, outcome: TaskOutcome) -> None:
        """Count the first outcome that is reported: one may lead to another."""
        if self._counts is None or self._is_counted:
            return
        self._is_counted = True
        if self._run_seconds is None and self.time_start is not None:
            self._run_seconds = max(0.0, time.time() - self.time_start)
        self._counts.finished(self._count_queue, self.name, outcome, self._run_seconds)

    def _count_failure(self, error: BaseException) -> None:
        outcome = next((outcome for cls, outcome in _OUTCOMES if isinstance(error, cls)), TaskOutcome.FAILED)
        if outcome is not None and not (self._is_requeued and outcome is TaskOutcome.FAILED):
            self._count_end(outcome)


def _accepted(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def on_accepted(self: CountedRequest, *args: Any) -> None:
        method(self, *args)
        self._count_start()

    return on_accepted


def _succeeded(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def on_success(self: CountedRequest, outcome: tuple[bool, Any, float], **options: Any) -> None:
        is_failed, _, self._run_seconds = outcome
        method(self, outcome, **options)
        if not is_failed:
            self._count_end(TaskOutcome.SUCCEEDED)

    return on_success


def _failed(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def on_failure(self: CountedRequest, exc_info: Any, *args: Any, **options: Any) -> None:
        method(self, exc_info, *args, **options)
        error = exc_info.exception
        self._count_failure(error.exc if isinstance(error, ExceptionWithTraceback) else error)

    return on_failure


def _rejected(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def reject(self: CountedRequest, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        self._is_requeued = requeue
        method(self, requeue=requeue)

    return reject


def _revoked(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def announce(self: CountedRequest, *args: Any, **options: Any) -> None:
        method(self, *args, **options)
        self._count_end(TaskOutcome.REVOKED)

    return announce


def _given_up(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def give_up(self: CountedRequest, *args: Any, **options: Any) -> None:
        method(self, *args, **options)
        self._count_end(TaskOutcome.DEAD)

    return give_up


_WRAPPERS = {
    "on_accepted": _accepted,
    "on_success": _succeeded,
    "on_failure": _failed,
    "reject": _rejected,
    "give_up": _given_up,
    "_announce_revoked": _revoked,
}
