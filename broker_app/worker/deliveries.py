"""Deliveries: tracks running tasks across reconnects, so that a redelivered task does not start a second time.

When a connection is lost, or a task exceeds the broker's consumer time-out, the broker redelivers every
unacknowledged message, to another worker or to this one. The tasks in the pool are unaware of this and keep
running. A message that is redelivered while its task still runs here is not started: it is held, and settled with
the run. If the task has ended, but its acknowledgement was lost with the connection, the redelivered message is
settled at once.

This works within one worker only: a task that runs here and is redelivered to another node runs there too.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, NamedTuple

from broker_app.queues.headers import PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kombu.message import Message

    from broker_app.worker.acknowledger import Acknowledger
    from broker_app.worker.request import Request

MAX_ENDED = 10_000
"""Ended runs that are remembered, about 300 bytes each; the oldest are dropped first."""

logger = logging.getLogger(__name__)


class Disposition(Enum):
    """The way a finished run settles its message."""

    ACK = auto()
    REJECT = auto()
    """The message is dead-lettered."""
    REQUEUE = auto()
    """The task runs again."""


@dataclass(eq=False, slots=True)
class TaskRun:
    """A task that was handed to the pool.

    Attributes:
        request: Celery's request.
        identity: Key that identifies the message across redeliveries.
        deliveries: The original delivery, then the redeliveries.
        end: How to settle all of them; None until the task has ended.
        since: When it was admitted, in the time of `time.monotonic`.
    """

    request: Request
    identity: _DeliveryKey
    deliveries: list[Message]
    end: Disposition | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def is_started(self) -> bool:
        """True once a process or thread of the pool has started the task."""
        return self.request.time_start is not None


class Deliveries:
    """The running tasks of this worker, and the dispositions of those that ended last.

    Args:
        call_soon: Schedules a function in the worker's loop, where writing to the connection is safe.
        acknowledger: Acknowledges and rejects messages.
        when_stored: Calls a function once a task's result is stored, in any thread.
        on_settled: Called in the loop with each ended request, once its message is settled.
    """

    def __init__(
        self,
        call_soon: Callable[..., Any],
        acknowledger: Acknowledger,
        when_stored: Callable[[str, Callable[[], object]], None],
        on_settled: Callable[[Request], object],
    ) -> None:
        self._call_soon = call_soon
        self._when_stored = when_stored
        self._on_settled = on_settled
        self._acknowledger = acknowledger
        self._ending = threading.Lock()
        self._unsettled: deque[TaskRun] = deque()
        self._is_settling = False
        self._ends, self._run_seconds = 0, 0.0
        self._open: dict[_DeliveryKey, TaskRun] = {}
        self._ended: OrderedDict[_DeliveryKey, Disposition] = OrderedDict()

    def add(self, request: Request) -> None:
        """Track a task before it is handed to the pool; its end settles all of its deliveries."""
        identity = _identity(request.message.headers)
        self._open[identity] = run = TaskRun(request, identity, [request.message])
        request._on_ack = partial(self._on_end, run)  # noqa: SLF001 - Celery has no setter
        request.on_reject = partial(self._on_reject, run)

    def adopt(self, message: Message) -> bool:
        """Take over the redelivery of a task that runs here or has just ended.

        Only messages that the broker marks as redelivered are considered: a retry has the same task id, and a
        message that was published twice must run twice.

        Returns:
            Whether the message was taken over; if so, do not start it.
        """
        if not message.delivery_info.get("redelivered"):
            return False
        identity = _identity(message.headers)
        run = self._open.get(identity)
        if run is not None:  # it runs, or its message waits for its result to be stored
            run.deliveries.append(message)
            logger.info("%s[%s] came again and still runs here: not started twice", identity.task, identity.id)
            return True
        end = self._ended.get(identity)
        if end is None:
            return False
        logger.info("%s[%s] came again and has ended here: not run again", identity.task, identity.id)
        self._settle_delivery(end, message)
        return True

    def has(self, request: Request) -> bool:
        """Return whether a task is still tracked, and was not returned to its queue meanwhile."""
        run = self._open.get(_identity(request.message.headers))
        return run is not None and run.request is request

    def all(self) -> tuple[TaskRun, ...]:
        """Return the runs that have not ended, or whose messages are not settled yet."""
        return tuple(self._open.values())

    def take_ended(self) -> tuple[int, float]:
        """Return how many tasks have ended since the last call, and the sum of their run times.

        That of a task which is acknowledged when it starts is unknown, and counts as infinite.
        """
        with self._ending:
            ended, self._ends, self._run_seconds = (self._ends, self._run_seconds), 0, 0.0
        return ended

    def forget_unstarted(self, pool: Any, *, is_flushed: bool) -> tuple[TaskRun, ...]:
        """Remove unstarted tasks from the pool; the broker redelivers them.

        Args:
            pool: Celery's pool.
            is_flushed: Whether a prefork pool has dropped the tasks that its processes have not started, as Celery
                makes it do when the connection is lost. If False, only tasks that no process has received are
                removed.

        Returns:
            The removed runs.
        """
        _drop_queued(pool)
        gone = {
            identity: run
            for identity, run in tuple(self._open.items())
            if run.end is None and not run.is_started and (is_flushed or not _is_in(pool, run.request))
        }
        for identity in gone:
            del self._open[identity]
        return tuple(gone.values())

    def withdraw(self, pool: Any, is_unwanted: Callable[[Any], bool]) -> tuple[TaskRun, ...]:
        """Remove selected unstarted tasks from the pool; the others keep their order.

        Args:
            pool: Celery's pool.
            is_unwanted: Returns whether to remove a request's task.

        Returns:
            The removed runs.
        """
        gone = tuple(
            run
            for run in self.all()
            if run.end is None and is_unwanted(run.request) and not _is_in(pool, run.request)
            if run.request.withdraw()
        )
        for run in gone:
            del self._open[run.identity]
        return gone

    def settle(self) -> None:
        """Settle all deliveries of ended runs; those of a lost connection are redelivered.

        Call this in the loop, and after a lost connection: if a scheduled call raises, the loop drops the others.
        """
        self._is_settling = False  # first: a run that ends from now on schedules another call
        settled: list[Request] = []
        acknowledged: list[Message] = []
        while self._unsettled:
            run = self._unsettled.popleft()
            self._close(run)
            settled.append(run.request)
            if run.end is Disposition.ACK:
                acknowledged += run.deliveries
            elif run.end is not None:
                self._reject(run.end, run.deliveries)
        self._acknowledger.acknowledge(acknowledged)
        for request in settled:
            self._on_settled(request)

    def _on_reject(self, run: TaskRun, log: Any, errors: Any, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's
        self._on_end(run, log, errors, end=Disposition.REQUEUE if requeue else Disposition.REJECT)

    def _on_end(self, run: TaskRun, _log: Any, _errors: Any, *, end: Disposition = Disposition.ACK) -> None:
        """Record the end at once, in any thread, so that `adopt` finds it if the message is redelivered now.

        The first end counts: Celery may report in one thread that a task was terminated, and its end in another.
        """
        with self._ending:
            if run.end is not None:
                return
            run.end = end
            self._ends += 1
            self._run_seconds += _run_seconds(run.request)
        self._when_stored(run.request.id, partial(self._settle_soon, run))

    def _settle_soon(self, run: TaskRun) -> None:
        self._unsettled.append(run)
        if not self._is_settling:
            self._is_settling = True
            self._call_soon(self.settle)

    def _close(self, run: TaskRun) -> None:
        identity = run.identity
        if self._open.get(identity) is run:
            del self._open[identity]
        if identity.published_at is not None and run.end is not None and run.end is not Disposition.REQUEUE:
            self._ended[identity] = run.end
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def _settle_delivery(self, end: Disposition, message: Message) -> None:
        if end is Disposition.ACK:
            self._acknowledger.acknowledge([message])
        else:
            self._reject(end, [message])

    def _reject(self, end: Disposition, messages: list[Message]) -> None:
        for message in messages:
            if message.channel.connection is not None:
                self._acknowledger.reject(message, is_requeued=end is Disposition.REQUEUE)


def _run_seconds(request: Request) -> float:
    if request.time_start is None:  # it was given up
        return 0.0
    return max(0.0, time.time() - request.time_start) if request.task.acks_late else math.inf


class _DeliveryKey(NamedTuple):
    """Key of one message: a retry or a second publish has the same id, but differs in another field."""

    id: str | None
    task: str | None
    retries: int | None
    published_at: float | None


def _identity(headers: Mapping[str, Any]) -> _DeliveryKey:
    get = headers.get
    return _DeliveryKey(get("id"), get("task"), get("retries"), get(PUBLISHED_AT_HEADER))


def _drop_queued(pool: Any) -> None:
    """Cancel the queued calls of an asyncio or thread pool, as ``shutdown(cancel_futures=True)`` does."""
    drop = getattr(pool, "drop_unstarted", None)
    if drop is not None:
        drop()
    executor = getattr(pool, "executor", None)
    while executor is not None:
        try:
            work = executor._work_queue.get_nowait()  # noqa: SLF001 - a shutdown would end the threads too
        except Empty:
            return
        if work is not None:
            work.future.cancel()


def _is_in(pool: Any, request: Request) -> bool:
    """Return whether a process or greenlet has received the task and may start it at any moment."""
    return not hasattr(pool, "executor") and request._apply_result is not None  # noqa: SLF001 - no public accessor
