"""Time limits: soft and hard limits for tasks that share the worker's process, in threads or gevent greenlets.

Celery's own limits are designed for processes, which can be killed. Celery ignores them with threads; with gevent
it ignores the soft limit and does not settle the message. Here a watcher thread tracks the running tasks. At the
soft limit it raises SoftTimeLimitExceeded inside the task. At the hard limit it fails the result with
TimeLimitExceeded, dead-letters the message, and only then interrupts the task, with an exception that
``except Exception`` does not catch.

Python can interrupt a thread between two bytecode instructions, but not inside a blocking call (a socket without a
time-out, ``time.sleep``). Such a task is stuck: it runs until the call returns. It keeps its thread, and the pool
gets a replacement. When all slots of a node have been lost to stuck tasks, the node exits and its supervisor
restarts it.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from billiard.exceptions import TimeLimitExceeded
from celery import signals, states
from celery.app import trace
from celery.exceptions import Ignore, SoftTimeLimitExceeded

from broker_app.celery_integration.task_body import surround
from broker_app.worker.pools.interrupts import slots_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.worker.pools.interrupts import InterruptiblePool
    from broker_app.worker.request import Request

AGAIN_SECONDS = 1.0
"""Interval at which a task is interrupted after its hard limit: it may catch one, or be in a blocking call."""

STUCK_SECONDS = 2.0
"""Time after its reported end at which a task that still runs is considered stuck."""

Value = TypeVar("Value")

logger = logging.getLogger(__name__)


class HardTimeLimit(BaseException):
    """Raised inside a task that exceeded its hard limit. Its failure is already reported; do not catch this."""


_INTERRUPTS = (HardTimeLimit, SoftTimeLimitExceeded)


class OverLimit(Ignore):
    """Ends a task that exceeded its hard limit; as an `Ignore`, it makes Celery's tracer report nothing more.

    Attributes:
        failure: The failure that was reported.
    """

    def __init__(self, limit_seconds: float | None) -> None:
        super().__init__("over its time limit")
        self.failure = TimeLimitExceeded(limit_seconds)


@dataclass(eq=False, slots=True)
class _Body:
    """A running task. All times are those of time.monotonic.

    Attributes:
        request: The task's request.
        target: The thread or greenlet that runs it.
        soft_at: Time of its soft limit; None if it has none or was already interrupted by it.
        hard_at: Time of its hard limit; None if it has none.
        limit_seconds: Its hard limit.
        again_at: Time of the next interrupt; None before the hard limit.
        stuck_at: Time at which it is considered stuck; None before the hard limit and once it is stuck.
        is_stuck: Whether it is stuck.
        is_interrupted: Whether an error was raised in it, or will be soon.
        settled: Set once its failure is reported and its message settled.
    """

    request: Request
    target: Any
    soft_at: float | None
    hard_at: float | None
    limit_seconds: float | None
    again_at: float | None = None
    stuck_at: float | None = None
    is_stuck: bool = False
    is_interrupted: bool = False
    settled: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        return self.again_at is not None

    @property
    def next_at(self) -> float:
        moments = (self.again_at, self.stuck_at) if self.is_over else (self.soft_at, self.hard_at)
        return min((moment for moment in moments if moment is not None), default=float("inf"))


def limits_of(consumer: Any, on_too_many: Callable[[], object]) -> TimeLimits | None:
    """Return the time limits of a worker; None if its pool enforces its own, or cannot enforce any.

    Args:
        consumer: Celery's consumer.
        on_too_many: See `TimeLimits`.
    """
    slots = slots_of(consumer.pool)
    if slots is None:
        return None
    trace.send_postrun = _send_postrun
    return TimeLimits(
        slots,
        hard_seconds=consumer.controller.time_limit,
        soft_seconds=consumer.controller.soft_time_limit,
        most_stuck=consumer.pool.limit,
        on_too_many=on_too_many,
    )


def _send_postrun(**facts: Any) -> Any:
    """Send Celery's signal ``task_postrun``, with FAILURE for a task that exceeded its hard limit."""
    result = facts.get("retval")
    if isinstance(result, OverLimit):
        facts |= {"state": states.FAILURE, "retval": result.failure}
    return signals.task_postrun.send(**facts)


class TimeLimits:
    """The time limits of one worker.

    Args:
        slots: The worker's pool.
        hard_seconds: Default hard limit (``--time-limit``); None for no limit.
        soft_seconds: Default soft limit (``--soft-time-limit``); None for no limit.
        most_stuck: Number of stuck tasks at which `on_too_many` is called.
        on_too_many: Called once, in the watcher thread.
    """

    def __init__(
        self,
        slots: InterruptiblePool,
        *,
        hard_seconds: float | None,
        soft_seconds: float | None,
        most_stuck: int,
        on_too_many: Callable[[], object],
    ) -> None:
        self._slots = slots
        self._hard_seconds, self._soft_seconds = hard_seconds, soft_seconds
        self._most_stuck = most_stuck
        self._on_too_many = on_too_many
        self._here = threading.local()
        self._changed = threading.Condition()
        self._bodies: set[_Body] = set()
        self._wakes_at = float("inf")
        self._watcher: threading.Thread | None = None
        self._is_reported = False

    @property
    def stuck(self) -> int:
        """Number of stuck tasks."""
        return sum(body.is_stuck for body in tuple(self._bodies))

    def close(self) -> None:
        """Release the pool's waiting threads so that it can close."""
        self._slots.close()

    def accept(self, request: Request) -> None:
        """Record the request that starts in the calling thread or greenlet, whose task's body `run` will run."""
        self._here.request = request
        surround(self.run)

    def run(self, function: Callable[[], Value]) -> Value:
        """Run the body of the task that this thread or greenlet accepted last.

        Raises:
            Ignore: The task exceeded its hard limit; its failure is already reported.
            SoftTimeLimitExceeded: The task did not catch it.
        """
        body = self._body(getattr(self._here, "request", None))
        self._here.request = None
        if body is None:
            return function()
        try:
            self._begin(body)
            return function()
        except HardTimeLimit:
            raise OverLimit(body.limit_seconds) from None
        finally:
            # An interrupt scheduled just before may still be raised, even on entry to a function. At most two
            # follow each other at once, for the soft and the hard limit; the third is `AGAIN_SECONDS` away.
            try:
                self._end(body)
            except _INTERRUPTS:
                try:
                    self._end(body)
                except _INTERRUPTS:
                    self._end(body)
            self._release()
            self._settle(body)

    def _body(self, request: Request | None) -> _Body | None:
        """Return the task to watch; None if it has no limit."""
        hard, soft = self._of(request) if request is not None else (None, None)
        if request is None or (hard is None and soft is None):
            return None
        now = time.monotonic()
        return _Body(
            request=request,
            target=self._slots.current(),
            soft_at=None if soft is None else now + soft,
            hard_at=None if hard is None else now + hard,
            limit_seconds=hard,
        )

    def _of(self, request: Request) -> tuple[float | None, float | None]:
        """Return the hard and the soft limit: the caller's, or else the task's, or else the worker's."""
        hard, soft = request.time_limits
        task = request.task
        return hard or task.time_limit or self._hard_seconds, soft or task.soft_time_limit or self._soft_seconds

    def _begin(self, body: _Body) -> None:
        with self._changed:
            self._bodies.add(body)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="time-limits", daemon=True)
                self._watcher.start()
            if body.next_at < self._wakes_at:
                self._changed.notify()

    def _end(self, body: _Body) -> None:
        """Remove an ended task and cancel its interrupt, so that the next task here is not interrupted."""
        with self._changed:
            self._bodies.discard(body)
            if body.is_interrupted:
                self._slots.interrupt(body.target, None)

    def _release(self) -> None:
        """Release the lock if an interrupt was raised just after it was taken, before its block was entered."""
        with suppress(RuntimeError):  # raised when this thread does not hold it
            while True:
                self._changed.release()

    def _settle(self, body: _Body) -> None:
        """End a task that exceeded its hard limit once its failure is reported."""
        if body.is_over:
            body.settled.wait()
            if body.is_stuck:
                body.is_stuck = False
                self._slots.regain(body.target)
            raise OverLimit(body.limit_seconds)

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._wakes_at = min((body.next_at for body in self._bodies), default=float("inf"))
                left = self._wakes_at - time.monotonic()
                if left > 0:
                    self._changed.wait(None if left == float("inf") else min(left, threading.TIMEOUT_MAX))
                now = time.monotonic()
                due = [body for body in self._bodies if body.next_at <= now]
            for body in due:
                try:
                    self._act(body, now)
                except Exception:  # one task must not end the watcher
                    logger.exception("%s: failed to apply its time limit", body.request.humaninfo())

    def _act(self, body: _Body, now: float) -> None:
        if body.is_over:
            self._insist(body, now)
        elif body.hard_at is not None and body.hard_at <= now:
            self._end_late(body)
        else:
            self._warn(body)

    def _warn(self, body: _Body) -> None:
        with self._changed:
            body.soft_at = None
            if body not in self._bodies:
                return
            body.is_interrupted = True
            self._slots.interrupt(body.target, SoftTimeLimitExceeded)
        logger.warning("%s: exceeded its soft time limit", body.request.humaninfo())

    def _end_late(self, body: _Body) -> None:
        """Report the failure before the interrupt, which would end the task and acknowledge its message."""
        with self._changed:
            if body not in self._bodies:
                return
            body.again_at, body.stuck_at = float("inf"), None
            where = "".join(traceback.format_stack(self._slots.frame(body.target)))
        try:
            body.request.time_out(body.limit_seconds or 0.0, where)
        finally:
            now = time.monotonic()
            body.again_at, body.stuck_at = now, now + STUCK_SECONDS
            body.settled.set()
            self._insist(body, now)

    def _insist(self, body: _Body, now: float) -> None:
        with self._changed:
            if body not in self._bodies:
                return
            body.is_interrupted = True
            self._slots.interrupt(body.target, HardTimeLimit)
            body.again_at = now + AGAIN_SECONDS
            is_newly_stuck = body.stuck_at is not None and body.stuck_at <= now
            if is_newly_stuck:
                body.stuck_at, body.is_stuck = None, True
        if is_newly_stuck:
            self._slots.lose(body.target)
            stuck = self.stuck
            name = body.request.humaninfo()
            logger.error("%s: exceeded its time limit and cannot be interrupted; stuck tasks: %d", name, stuck)
            if stuck >= self._most_stuck and not self._is_reported:
                self._is_reported = True
                self._on_too_many()
