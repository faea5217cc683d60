"""Every error of the project, one tree.

BrokerAppError                     queues/errors.py: the root; its text is one line
├── RoutingError …                 queues/errors.py: refused in the caller, nothing was published
├── SettingsError                  a settings file or the environment is wrong
├── PublishError                   the broker did not take a task (also kombu's OperationalError)
│   ├── NoRoute                    the queue is not on the broker
│   ├── QueueFull                  the queue refused it (reject-publish)
│   ├── PublishRefused             no right to, too large, or another reason of the broker's
│   ├── PublishTimeout             no answer in time; it may have been taken
│   └── BrokerUnreachable          no connection
├── BrokerError                    an answer of the broker outside publishing
│   ├── BrokerRefused              403: wrong credentials, or a right is missing
│   ├── NotOnBroker                404: a virtual host, an exchange or a queue is not there
│   ├── BrokerLocked               405: another connection holds it; a retry can help
│   └── ArgumentsDiffer            406: it exists with other arguments; a retry cannot help
├── BrokerNotFound                 no broker could be found or started
├── PrivateNodeError               a private RabbitMQ node did not do what it should
├── FleetError                     a fleet did not start or stop as asked
│   ├── FleetBusy                  another fleet command is at work
│   └── NodesFailed                nodes are not up; it carries the outcome of each
├── MetricsError                   the metrics cannot be served or written as asked
├── TuningError                    slots could not be measured
├── TaskFailure                    a result: the task does not run (again); `get()` raises it
│   ├── Poisoned                   its worker died in each of its starts
│   ├── Rejected                   it rejected its message
│   ├── OutOfMemory                it raised MemoryError, and its worker lived
│   ├── Unawaited                  it returned an awaitable, which no worker awaits
│   ├── UncaughtBaseException      it raised what is no Exception: SystemExit, asyncio.CancelledError
│   ├── UnknownTask                no task of that name on the worker (also Celery's NotRegistered)
│   └── Undecodable                no worker can read its message
├── ResultStoreError               the result store does not take what a chord needs
├── SpoolError                     the spool's file cannot be used
│   └── SpoolFull                  a bound of the spool is reached
├── SelectionError                 a queue or a filter for looking at messages that cannot be
├── FetchError                     a download failed; its text says where and why
├── UnsupportedTask                no worker can run this task; refused when it is registered
└── CallError                      a task cannot be called as asked (its name, its arguments)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from celery.exceptions import NotRegistered
from kombu.exceptions import OperationalError

from broker_app.queues.errors import (
    BrokerAppError,
    InvalidDelay,
    InvalidPriority,
    InvalidQueueName,
    RoutingError,
    UnknownQueue,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


__all__ = [
    "ArgumentsDiffer",
    "BrokerAppError",
    "BrokerError",
    "BrokerLocked",
    "BrokerNotFound",
    "BrokerRefused",
    "BrokerUnreachable",
    "CallError",
    "FetchError",
    "FleetBusy",
    "FleetError",
    "InvalidDelay",
    "InvalidPriority",
    "InvalidQueueName",
    "MetricsError",
    "NoRoute",
    "NodesFailed",
    "NotOnBroker",
    "OutOfMemory",
    "Poisoned",
    "PrivateNodeError",
    "PublishError",
    "PublishRefused",
    "PublishTimeout",
    "QueueFull",
    "Rejected",
    "ResultStoreError",
    "RoutingError",
    "SelectionError",
    "SettingsError",
    "SpoolError",
    "SpoolFull",
    "TaskFailure",
    "TuningError",
    "Unawaited",
    "UncaughtBaseException",
    "Undecodable",
    "UnknownQueue",
    "UnknownTask",
    "UnsupportedTask",
]


_URL_LOGIN = re.compile(r"://.*@")


class SettingsError(BrokerAppError):
    """The settings are wrong.

    Attributes:
        problems: One line each: where, what was expected, what came, what to do. The login of a URL, wherever
            it was written, is not shown.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(_URL_LOGIN.sub("://***@", problem) for problem in problems)
        super().__init__(self.problems)

    def sentence(self) -> str:
        """Return the text that people read."""
        return "; ".join(self.problems)


class PublishError(BrokerAppError, OperationalError):
    """The broker did not confirm a task. Celery's callers may catch kombu's ``OperationalError``.

    Attributes:
        task: The task's name.
        task_id: Its id. No message with this id was taken, unless ``maybe_taken``.
        queue: The queue that it was for.
        reason: The broker's words, or what happened instead of an answer.
        maybe_taken: Whether the broker may have taken it all the same; sending it again may run it twice.
    """

    advice: ClassVar[str] = "it was not published"
    maybe_taken: ClassVar[bool] = False

    def __init__(self, task: str, task_id: str, queue: str, reason: str) -> None:
        self.task = task
        self.task_id = task_id
        self.queue = queue
        self.reason = reason
        super().__init__(task, task_id, queue, reason)

    def sentence(self) -> str:
        """Return the text that people read."""
        return f"task {self.task} [{self.task_id}] for queue {self.queue!r}: {self.reason}; {self.advice}"


class NoRoute(PublishError):
    """The queue, or a lane on the way to it, is not on the broker and could not be declared."""

    advice = "it was not published; run `broker-app topology declare` with a user who may configure"


class QueueFull(PublishError):
    """The queue refused the message (nack): its length limit is reached, or it has no leader."""

    advice = "it was not published; wait for the queue to drain or raise its limit"


class PublishRefused(PublishError):
    """The broker refused to take the message."""


class PublishTimeout(PublishError):
    """No confirmation came in time: the broker is slow, blocked by an alarm, or cut off."""

    advice = "the broker may have taken it all the same: send it again with the same task_id"
    maybe_taken = True


class BrokerUnreachable(PublishError):
    """No connection to the broker could be made in time."""

    advice = "it was not published; check that the broker runs, without an alarm, and that broker_url is right"


class BrokerError(BrokerAppError):
    """The broker's answer to something other than publishing.

    Attributes:
        code: AMQP's reply code, or 0 if no answer came.
    """

    code: ClassVar[int] = 0
    is_retryable: ClassVar[bool] = False


class BrokerRefused(BrokerError):
    """403 access refused: credentials or rights. A retry cannot help."""

    code = 403


class NotOnBroker(BrokerError):
    """404 not found. A retry helps only after somebody declared it."""

    code = 404


class BrokerLocked(BrokerError):
    """405 resource locked: exclusive to another connection. A retry can help when that one is gone."""

    code = 405
    is_retryable = True


class ArgumentsDiffer(BrokerError):
    """406 precondition failed: it exists with other arguments. A retry cannot help."""

    code = 406


class BrokerNotFound(BrokerAppError):
    """No broker could be found or started; the text says what to install."""


class PrivateNodeError(BrokerAppError):
    """The private RabbitMQ node did not start, answer or stop."""


class FleetError(BrokerAppError):
    """A fleet did not start or stop as asked."""


class FleetBusy(FleetError):
    """Another fleet command is at work on this host."""


class NodesFailed(FleetError):
    """At least one node of those that were to be started is not up; the others stay up.

    Attributes:
        outcomes: A `broker_app.fleet.StartedNode` for each node, in the order of the settings.
        reasons: Why nodes are not up, by their names.
    """

    def __init__(self, outcomes: Sequence[Any], reasons: Mapping[str, str]) -> None:
        self.outcomes = tuple(outcomes)
        self.reasons = dict(reasons)
        super().__init__(self.outcomes, self.reasons)

    def sentence(self) -> str:
        """Return the text that people read."""
        shown = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        return f"{len(self.reasons)} of {len(self.outcomes)} nodes are not up: {shown}"


class TuningError(BrokerAppError):
    """A tuning run could not measure: a task failed, a worker ended, there is no memory for the next step."""


class MetricsError(BrokerAppError):
    """The metrics cannot be served or written as asked."""


class TaskFailure(BrokerAppError):
    """The result of a task that was given up without, or in spite of, an exception of its own.

    Attributes:
        task: The task's name.
        task_id: Its id.
        queue: The queue that it was taken from.
        reason: What happened.
    """

    advice: ClassVar[str] = "it stands in the dead letters"

    def __init__(self, task: str, task_id: str, queue: str, reason: str) -> None:
        self.task = task
        self.task_id = task_id
        self.queue = queue
        self.reason = reason
        super().__init__(task, task_id, queue, reason)

    def sentence(self) -> str:
        """Return the text that people read."""
        return f"task {self.task} [{self.task_id}] from queue {self.queue!r}: {self.reason}; {self.advice}"


class Poisoned(TaskFailure):
    """The worker died in each of its starts, as often as the queue's ``delivery_limit`` allows."""

    advice = "find out what it does to its worker (memory, a crash in C), then replay it from the dead letters"


class Rejected(TaskFailure):
    """The task raised Celery's ``Reject`` without a requeue."""


class OutOfMemory(TaskFailure):
    """The task raised ``MemoryError``, and its worker lived to tell."""


class Unawaited(TaskFailure):
    """The task returned a coroutine or another awaitable, which no worker awaits."""

    advice = "call `asyncio.run(…)` inside the task, then replay it from the dead letters"


class UncaughtBaseException(TaskFailure):
    """The task raised a BaseException that is no Exception: ``SystemExit``, ``asyncio.CancelledError``, its own.

    Raised by ``get()`` as it is, it would end the caller instead.
    """


class UnknownTask(TaskFailure, NotRegistered):
    """The worker has no task of that name. Callers may catch Celery's ``NotRegistered``."""

    advice = "start workers that include the task's module, then replay it from the dead letters"


class Undecodable(TaskFailure):
    """The body or the headers of the message cannot be read."""


class SelectionError(BrokerAppError):
    """A queue, or a filter of messages, that cannot be; nothing was touched."""


class ResultStoreError(BrokerAppError):
    """The result store does not take what a chord needs; nothing was published."""


class SpoolError(BrokerAppError):
    """The spool's file cannot be used."""


class SpoolFull(SpoolError):
    """A bound of the spool is reached."""


class FetchError(BrokerAppError):
    """A download failed."""


class UnsupportedTask(BrokerAppError, TypeError):
    """A task that no worker can run as promised; it is not registered."""


class CallError(BrokerAppError):
    """A task cannot be called as asked."""


def shortened(text: str, length: int = 60) -> str:
    """Return what came, short enough for a line."""
    return text if len(text) <= length else f"{text[:length]}…"
