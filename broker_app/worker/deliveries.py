"""What a worker holds, over the loss of its connection: nothing that still runs here starts beside itself.

When a connection is lost, or a task outlives the broker's consumer time-out, the broker gives every message that
was not acknowledged to somebody else, or to us again; what runs in the pool knows nothing of it and runs on. A
message that comes again while its task still runs here is not started: it is held, and ends with the run. One
whose task has ended, but whose acknowledgement was lost with the connection, ends at once.

Another worker cannot know: a task that runs here and is given to another node runs there too.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from dataclasses import dataclass
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
"""Ended runs that are remembered, the oldest go first; each takes some 300 bytes."""

logger = logging.getLogger(__name__)


class Disposition(Enum):
    """What a run tells the broker of its message."""

    ACK = auto()
    REJECT = auto()
    """It goes to the dead letters."""
    REQUEUE = auto()
    """It runs again."""


@dataclass(eq=False, slots=True)
class TaskRun:
    """A task that was handed to the pool.

    Attributes:
        request: Celery's.
        identity: What it is known by.
        deliveries: Its messages: the one that it came with, then those with which it came again.
        end: How each of them ends; None as long as the task has not ended.
    """

    request: Request
    identity: _DeliveryKey
    deliveries: list[Message]
    end: Disposition | None = None

    @property
    def is_started(self) -> bool:
        """Whether a process or thread of the pool has begun it."""
        return self.request.time_start is not None


class Deliveries:
    """All that this worker runs, and the end of what it ran last.

    Args:
        call_soon: Calls a function in the worker's loop, where the connection may be written to.
        settlements: What tells the broker of the ends.
    """

    def __init__(self, call_soon: Callable[..., Any], settlements: Acknowledger) -> None:
        self._call_soon = call_soon
        self._settlements = settlements
        self._unsettled: deque[TaskRun] = deque()
        self._is_settling = False
        self._open: dict[_DeliveryKey, TaskRun] = {}
        self._ended: OrderedDict[_DeliveryKey, Disposition] = OrderedDict()

    def add(self, request: Request) -> None:
        """Take note of a task before the pool gets it; its end goes to every delivery of it."""
        identity = _identity(request.message.headers)
        self._open[identity] = run = TaskRun(request, identity, [request.message])
        request._on_ack = partial(self._on_end, run)  # noqa: SLF001 - it has no setter
        request.on_reject = partial(self._on_reject, run)

    def adopt(self, message: Message) -> bool:
        """Return whether a message is of a task that runs here, or has just ended: it must not be started.

        Only what the broker marks as redelivered is looked at: a retry has its task's id too, and a message that
        was sent twice is wanted twice.
        """
        if not message.delivery_info.get("redelivered"):
            return False
        identity = _identity(message.headers)
        run = self._open.get(identity)
        if run is not None and run.end is None:
            run.deliveries.append(message)
            logger.info("%s[%s] came again and still runs here: not started twice", identity.task, identity.id)
            return True
        end = run.end if run is not None else self._ended.get(identity)
        if end is None:
            return False
        logger.info("%s[%s] came again and has ended here: not run again", identity.task, identity.id)
        self._tell(end, message)
        return True

    def has(self, request: Request) -> bool:
        """Return whether a task was not given back meanwhile."""
        run = self._open.get(_identity(request.message.headers))
        return run is not None and run.request is request

    def all(self) -> tuple[TaskRun, ...]:
        """Return what was handed to the pool and has not ended, or not told the broker so."""
        return tuple(self._open.values())

    def forget_unstarted(self, pool: Any, *, is_flushed: bool) -> tuple[TaskRun, ...]:
        """Take back from the pool what it has not begun; the broker has it, or gets it, and gives it out again.

        Args:
            pool: Celery's.
            is_flushed: Whether a prefork pool has dropped what its processes have not begun, as Celery makes it do
                when the connection is lost. Else only what no process was given is taken back.

        Returns:
            What is forgotten.
        """
        _empty(pool)
        gone = {
            identity: run
            for identity, run in tuple(self._open.items())
            if run.end is None and not run.is_started and (is_flushed or not _is_in(pool, run.request))
        }
        for identity in gone:
            del self._open[identity]
        return tuple(gone.values())

    def withdraw(self, pool: Any, is_unwanted: Callable[[Any], bool]) -> tuple[TaskRun, ...]:
        """Take back from the pool what it has not begun and is no longer wanted here; the others keep their turn.

        Args:
            pool: Celery's.
            is_unwanted: Says it of a request.

        Returns:
            What is forgotten.
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

    def _on_reject(self, run: TaskRun, log: Any, errors: Any, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's
        self._on_end(run, log, errors, end=Disposition.REQUEUE if requeue else Disposition.REJECT)

    def _on_end(self, run: TaskRun, _log: Any, _errors: Any, *, end: Disposition = Disposition.ACK) -> None:
        """Take note at once, in whatever thread: a message that comes again now must find it."""
        run.end = end
        self._unsettled.append(run)
        if not self._is_settling:
            self._is_settling = True
            self._call_soon(self._settle)

    def _settle(self) -> None:
        """End all deliveries of what has ended; those that are no longer ours come again."""
        self._is_settling = False  # before it looks: what ends from now on calls again
        acknowledged: list[Message] = []
        while self._unsettled:
            run = self._unsettled.popleft()
            self._close(run)
            if run.end is Disposition.ACK:
                acknowledged += run.deliveries
            elif run.end is not None:
                self._reject(run.end, run.deliveries)
        self._settlements.acknowledge(acknowledged)

    def _close(self, run: TaskRun) -> None:
        identity = run.identity
        if self._open.get(identity) is run:
            del self._open[identity]
        if identity.published_at is not None and run.end is not None and run.end is not Disposition.REQUEUE:
            self._ended[identity] = run.end
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def _tell(self, end: Disposition, message: Message) -> None:
        if end is Disposition.ACK:
            self._settlements.acknowledge([message])
        else:
            self._reject(end, [message])

    def _reject(self, end: Disposition, messages: list[Message]) -> None:
        for message in messages:
            if message.channel.connection is not None:
                self._settlements.reject(message, is_requeued=end is Disposition.REQUEUE)


class _DeliveryKey(NamedTuple):
    """What one message has alone: a retry, and a second sending, have the id, but not all of it."""

    id: str | None
    task: str | None
    retries: int | None
    published_at: float | None


def _identity(headers: Mapping[str, Any]) -> _DeliveryKey:
    get = headers.get
    return _DeliveryKey(get("id"), get("task"), get("retries"), get(PUBLISHED_AT_HEADER))


def _empty(pool: Any) -> None:
    """Take out of a thread pool's queue what no thread has begun, as shutdown(cancel_futures=True) does."""
    executor = getattr(pool, "executor", None)
    while executor is not None:
        try:
            work = executor._work_queue.get_nowait()  # noqa: SLF001 - a shutdown would end the threads too
        except Empty:
            return
        if work is not None:
            work.future.cancel()


def _is_in(pool: Any, request: Request) -> bool:
    """Return whether a process or greenlet was given the task, and begins it any moment."""
    return not hasattr(pool, "executor") and request._apply_result is not None  # noqa: SLF001 - told nowhere else
