"""Time limits for tasks that share the worker's process: those of a thread pool, and gevent's greenlets.

Celery's own are made for processes, which can be killed: it ignores them on threads, and on gevent the soft one
and the fate of the message. Here a watcher knows what runs. At the soft limit it raises SoftTimeLimitExceeded
inside the task. At the hard limit the task is over: its result fails with TimeLimitExceeded, its message is
settled and stands in the dead letters, and only then the task itself is interrupted, by an error that
``except Exception`` lets pass.

Python can interrupt a thread between two of its own steps, not inside a call that waits (a socket without a
time-out, ``time.sleep``). Such a task runs on until that call returns: it is stuck. It keeps its thread, and the
pool gets another one in its place. When as many are stuck as the node has slots, the node ends, and is started
anew by who started it.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from billiard.exceptions import TimeLimitExceeded
from celery import signals, states
from celery.app import trace
from celery.exceptions import Ignore, SoftTimeLimitExceeded

from broker_app.worker.pools.interrupts import slots_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.worker.pools.interrupts import InterruptiblePool
    from broker_app.worker.request import Request

AGAIN_SECONDS = 1.0
"""How often a task that is over is interrupted again: it may have caught it, or been inside a call."""

STUCK_SECONDS = 2.0
"""How long after its end was told a task that still runs is taken for stuck."""

Value = TypeVar("Value")

logger = logging.getLogger(__name__)


class HardTimeLimit(BaseException):
    """Raised inside a task that is over its hard limit; it has been told already, and nobody is to handle it."""


class OverLimit(Ignore):
    """What a task ends with that is over its hard limit: Celery's tracer has nothing more to tell.

    Attributes:
        failure: What was told.
    """

    def __init__(self, limit_seconds: float | None) -> None:
        super().__init__("over its time limit")
        self.failure = TimeLimitExceeded(limit_seconds)


@dataclass(eq=False, slots=True)
class _Body:
    """A task that runs.

    Attributes:
        request: Its request.
        target: What runs it.
        soft_at: When it is told that it should end, on the clock of time.monotonic; None if never, or it was.
        hard_at: When it is over; None if never.
        limit_seconds: Its hard limit.
        again_at: When it is interrupted again; None unless it is over.
        stuck_at: When it is taken for stuck; None unless it is over, and if it was.
        is_stuck: Whether it is.
        told: Set when its end has been told.
    """

    request: Request
    target: Any
    soft_at: float | None
    hard_at: float | None
    limit_seconds: float | None
    again_at: float | None = None
    stuck_at: float | None = None
    is_stuck: bool = False
    told: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        return self.again_at is not None

    @property
    def next_at(self) -> float:
        moments = (self.again_at, self.stuck_at) if self.is_over else (self.soft_at, self.hard_at)
        return min((moment for moment in moments if moment is not None), default=float("inf"))


def limits_of(consumer: Any, on_too_many: Callable[[], object]) -> TimeLimits | None:
    """Return the time limits of a worker, None if its pool has its own, or none.

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
    """Send Celery's signal that a task has ended; one that was over its limit has failed."""
    result = facts.get("retval")
    if isinstance(result, OverLimit):
        facts |= {"state": states.FAILURE, "retval": result.failure}
    return signals.task_postrun.send(**facts)


class TimeLimits:
    """The time limits of one worker.

    Args:
        slots: Of its pool.
        hard_seconds: Of a task that has none of its own (``--time-limit``); None for no limit.
        soft_seconds: Likewise.
        most_stuck: So many stuck tasks are too many.
        on_too_many: Called then, once, from the watcher.
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
        self._is_told = False

    @property
    def stuck(self) -> int:
        """How many tasks are stuck."""
        return sum(body.is_stuck for body in tuple(self._bodies))

    def close(self) -> None:
        """Let the pool end."""
        self._slots.close()

    def accept(self, request: Request) -> None:
        """Note which request begins, in the thread or greenlet that runs it."""
        self._here.request = request

    def run(self, function: Callable[[], Value]) -> Value:
        """Run the body of the task that was accepted here last.

        Raises:
            Ignore: It is over; its end was told.
            SoftTimeLimitExceeded: It did not handle that.
        """
        body = self._begin(getattr(self._here, "request", None))
        self._here.request = None
        if body is None:
            return function()
        try:
            return function()
        except HardTimeLimit:
            raise OverLimit(body.limit_seconds) from None
        finally:
            self._end(body)

    def _begin(self, request: Request | None) -> _Body | None:
        hard, soft = self._of(request) if request is not None else (None, None)
        if request is None or (hard is None and soft is None):
            return None
        now = time.monotonic()
        body = _Body(
            request=request,
            target=self._slots.current(),
            soft_at=None if soft is None else now + soft,
            hard_at=None if hard is None else now + hard,
            limit_seconds=hard,
        )
        with self._changed:
            self._bodies.add(body)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="time-limits", daemon=True)
                self._watcher.start()
            if body.next_at < self._wakes_at:
                self._changed.notify()
        return body

    def _of(self, request: Request) -> tuple[float | None, float | None]:
        """Return hard and soft limit: the caller's, else the task's, else the worker's."""
        hard, soft = request.time_limits
        task = request.task
        return hard or task.time_limit or self._hard_seconds, soft or task.soft_time_limit or self._soft_seconds

    def _end(self, body: _Body) -> None:
        """Take a task out that has ended, so that nothing is raised in what runs here next.

        What was raised just before may still come, in here too: then once more.
        """
        while True:
            try:
                with self._changed:
                    self._bodies.discard(body)
                    self._slots.interrupt(body.target, None)
                break
            except (HardTimeLimit, SoftTimeLimitExceeded):
                continue
        if body.is_over:
            body.told.wait()
            if body.is_stuck:
                body.is_stuck = False
                self._slots.regain()
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
                except Exception:  # one task must not end the limits of all
                    logger.exception("%s: its time limit failed", body.request.humaninfo())

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
            self._slots.interrupt(body.target, SoftTimeLimitExceeded)
        logger.warning("%s: over its soft time limit", body.request.humaninfo())

    def _end_late(self, body: _Body) -> None:
        """Tell its end first: once it is interrupted it ends, and would be acknowledged."""
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
            body.told.set()
            self._insist(body, now)

    def _insist(self, body: _Body, now: float) -> None:
        with self._changed:
            if body not in self._bodies:
                return
            self._slots.interrupt(body.target, HardTimeLimit)
            body.again_at = now + AGAIN_SECONDS
            is_newly_stuck = body.stuck_at is not None and body.stuck_at <= now
            if is_newly_stuck:
                body.stuck_at, body.is_stuck = None, True
        if is_newly_stuck:
            self._slots.lose()
            stuck = self.stuck
            name = body.request.humaninfo()
            logger.error("%s: over its time limit and cannot be interrupted; stuck: %d", name, stuck)
            if stuck >= self._most_stuck and not self._is_told:
                self._is_told = True
                self._on_too_many()
