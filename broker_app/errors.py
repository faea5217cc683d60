"""Error classes of the project.

BrokerAppError                     queues/errors.py: base class; the text is one line
├── RoutingError …                 queues/errors.py: refused in the caller, nothing was published
├── SettingsError                  the settings file or the environment is invalid
├── PublishError                   the broker did not confirm a task (also kombu's OperationalError)
│   ├── NoRoute                    the queue does not exist on the broker
│   ├── QueueFull                  the queue refused the message (reject-publish)
│   ├── PublishRefused             the broker refused it: no permission, too large, or another reason
│   ├── PublishTimeout             no confirm in time; the broker may have accepted the message
│   └── BrokerUnreachable          no connection
├── BrokerError                    the broker refused an operation other than publishing
│   ├── BrokerRefused              403: wrong credentials or missing permissions
│   ├── NotOnBroker                404: a virtual host, exchange or queue does not exist
│   ├── BrokerLocked               405: another connection holds it; a retry can help
│   └── ArgumentsDiffer            406: it exists with other arguments; a retry cannot help
├── BrokerNotFound                 no broker could be found or started
├── PrivateNodeError               a private RabbitMQ node did not start, respond or stop
├── FleetError                     a fleet command failed
│   ├── FleetBusy                  another fleet command is running
│   └── NodesFailed                some nodes are not up; has the outcome of each
├── MetricsError                   the metrics cannot be served or written
├── TuningError                    a tuning run could not measure
├── TaskFailure                    the result of a task that will not run (again); raised by `get()`
│   ├── Poisoned                   each of its starts killed the worker
│   ├── Rejected                   it rejected its message
│   ├── OutOfMemory                it raised MemoryError, and its worker survived
│   ├── Unawaited                  a plain function returned an awaitable, which no worker awaits
│   ├── UncaughtBaseException      it raised SystemExit, asyncio.CancelledError or a similar BaseException
│   ├── UnknownTask                the worker does not know the task (also Celery's NotRegistered)
│   └── Undecodable                its message cannot be decoded
├── ResultStoreError               the result store failed while a chord was set up
├── SpoolError                     the spool file cannot be used
│   └── SpoolFull                  the spool has reached a limit
├── SelectionError                 an invalid queue or message filter
├── FetchError                     a download failed
├── UnsupportedTask                no worker can run the task; refused when it is registered
└── CallError                      an invalid task call or command argument
    └── NotEncodable               an argument of a call cannot be encoded (also kombu's EncodeError)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from celery.exceptions import NotRegistered
from kombu.exceptions import EncodeError, OperationalError

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
    "NotEncodable",
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
    """Raised when the settings are invalid. Correct them as the text says; `broker-app check` checks them again.

    Attributes:
        problems: One line per problem: where it is, what was expected, what was found, what to do. Logins in
            URLs are masked.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(_URL_LOGIN.sub("://***@", problem) for problem in problems)
        super().__init__(self.problems)

    def sentence(self) -> str:
        """Return the human-readable text."""
        return "; ".join(self.problems)


class PublishError(BrokerAppError, OperationalError):
    """Raised when the broker did not confirm a task; the text says what to do. Also kombu's ``OperationalError``.

    Attributes:
        task: The task's name.
        task_id: The task's id. The broker has no message with this id, unless ``maybe_taken`` is set.
        queue: The destination queue.
        reason: The broker's reply, or what happened instead of a reply.
        maybe_taken: Whether the broker may have accepted the message; sending it again may run the task twice.
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
        """Return the human-readable text."""
        return f"task {self.task} [{self.task_id}] for queue {self.queue!r}: {self.reason}; {self._cure()}"

    def _cure(self) -> str:
        return self.advice


class NoRoute(PublishError):
    """Raised when the queue, or a delay lane to it, does not exist and cannot be declared.

    Run ``broker-app topology declare`` as a user with the configure permission.
    """

    advice = "it was not published; run `broker-app topology declare` as a user with the configure permission"


class QueueFull(PublishError):
    """Raised when the queue refused the message (nack): it has reached its length limit, or has no leader.

    Wait for the queue to drain, or raise its limit.
    """

    advice = "it was not published; wait for the queue to drain or raise its limit"


class PublishRefused(PublishError):
    """Raised when the broker refused the message. Fix the reason that the text gives before a retry."""


class PublishTimeout(PublishError):
    """Raised when no confirm came in time: the broker is slow, blocked by an alarm, or disconnected.

    The broker may have accepted the message. Send it again with the same ``task_id``.
    """

    advice = "the broker may have accepted it; send it again with the same task_id"
    maybe_taken = True


class BrokerUnreachable(PublishError):
    """Raised when the broker could not be reached in time. Check the broker, its alarms and ``broker_url``."""

    advice = "it was not published; check that the broker is up and has no alarm, and that broker_url is correct"

    def _cure(self) -> str:
        is_login = self.reason.startswith(("403 ", "530 "))  # the broker refused the login, or the virtual host
        return "it was not published; correct the login or virtual host in broker_url" if is_login else self.advice


class BrokerError(BrokerAppError):
    """Raised when a broker operation other than publishing fails. The text gives the reason.

    Attributes:
        code: AMQP reply code; 0 if the broker did not reply.
        is_retryable: Whether a retry can help.
    """

    code: ClassVar[int] = 0
    is_retryable: ClassVar[bool] = False


class BrokerRefused(BrokerError):
    """Raised for 403 access refused. Correct the credentials or grant the permission; a retry cannot help."""

    code = 403


class NotOnBroker(BrokerError):
    """Raised for 404 not found. Declare the queue, exchange or virtual host before a retry."""

    code = 404


class BrokerLocked(BrokerError):
    """Raised for 405 resource locked: another connection has exclusive use. Retry after it has closed."""

    code = 405
    is_retryable = True


class ArgumentsDiffer(BrokerError):
    """Raised for 406 precondition failed: the entity exists with other arguments. A retry cannot help.

    ``broker-app topology plan`` shows the difference; ``topology migrate`` recreates a queue with the new ones.
    """

    code = 406


class BrokerNotFound(BrokerAppError):
    """Raised when no broker could be found or started. The text says what to install or correct."""


class PrivateNodeError(BrokerAppError):
    """Raised when a private RabbitMQ node did not start, respond or stop. The text says why."""


class FleetError(BrokerAppError):
    """Raised when a fleet command fails. The text says which node or file is affected."""


class FleetBusy(FleetError):
    """Raised when another fleet command is running on this host. Retry when it has finished."""


class NodesFailed(FleetError):
    """Raised when some nodes did not start; the others keep running. Fix the causes and start the fleet again.

    Attributes:
        outcomes: A `broker_app.fleet.StartedNode` for each node, in the order of the settings.
        reasons: The reason for each node that is not up, by its name.
    """

    def __init__(self, outcomes: Sequence[Any], reasons: Mapping[str, str]) -> None:
        self.outcomes = tuple(outcomes)
        self.reasons = dict(reasons)
        super().__init__(self.outcomes, self.reasons)

    def sentence(self) -> str:
        """Return the human-readable text."""
        shown = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        return f"{len(self.reasons)} of {len(self.outcomes)} nodes are not up: {shown}"


class TuningError(BrokerAppError):
    """Raised when a tuning run could not measure, e.g. because a task failed. The text gives the reason."""


class MetricsError(BrokerAppError):
    """Raised when the metrics cannot be served or written. Correct the address, certificate or file."""


class TaskFailure(BrokerAppError):
    """Raised by ``get()`` for a task that was dead-lettered for a reason other than an ordinary exception.

    Correct the cause, then replay the message from the dead letters.

    Attributes:
        task: The task's name.
        task_id: The task's id.
        queue: The queue that the task came from.
        reason: What happened.
    """

    advice: ClassVar[str] = "its message is in the dead letters"

    def __init__(self, task: str, task_id: str, queue: str, reason: str) -> None:
        self.task = task
        self.task_id = task_id
        self.queue = queue
        self.reason = reason
        super().__init__(task, task_id, queue, reason)

    def sentence(self) -> str:
        """Return the human-readable text."""
        return f"task {self.task} [{self.task_id}] from queue {self.queue!r}: {self.reason}; {self.advice}"


class Poisoned(TaskFailure):
    """Raised by ``get()`` when each start of the task killed its worker, up to the queue's ``delivery_limit``.

    Find the cause, e.g. memory use or a crash in C code, then replay the message from the dead letters.
    """

    advice = "find out how it kills its worker (memory, a crash in C), then replay it from the dead letters"


class Rejected(TaskFailure):
    """Raised by ``get()`` when the task raised Celery's ``Reject`` without a requeue."""


class OutOfMemory(TaskFailure):
    """Raised by ``get()`` when the task raised ``MemoryError`` but its worker survived. Reduce its memory use."""


class Unawaited(TaskFailure):
    """Raised by ``get()`` when a plain task returned an awaitable. Define it with ``async def`` instead."""

    advice = "define the task with `async def` and await inside it, then replay it from the dead letters"


class UncaughtBaseException(TaskFailure):
    """Raised by ``get()`` when the task raised ``SystemExit``, ``asyncio.CancelledError`` or a similar exception.

    These are not subclasses of ``Exception``. If ``get()`` raised the original one, it could end the caller.
    """


class UnknownTask(TaskFailure, NotRegistered):
    """Raised by ``get()`` when the worker does not know the task. Also Celery's ``NotRegistered``.

    Start workers that include the task's module, then replay the message from the dead letters.
    """

    advice = "start workers that include the task's module, then replay it from the dead letters"


class Undecodable(TaskFailure):
    """Raised by ``get()`` when the body or the headers of the message cannot be decoded. Check its producer."""


class SelectionError(BrokerAppError):
    """Raised for an invalid queue or message filter. No message was changed. Correct the selection."""


class ResultStoreError(BrokerAppError):
    """Raised when the result store fails while a chord is set up. Nothing was published. Check the store."""


class SpoolError(BrokerAppError):
    """Raised when the spool file cannot be used. Check the file and the permissions of ``state_dir``."""


class SpoolFull(SpoolError):
    """Raised when the spool has reached a limit. Reconnect the broker, or raise ``publish.spool_max_…``."""


class FetchError(BrokerAppError):
    """Raised when a download failed. The text says where and why."""


class UnsupportedTask(BrokerAppError, TypeError):
    """Raised when a task or lifespan is registered that no worker can run. The text says how to change it."""


class CallError(BrokerAppError):
    """Raised when a task call or a command's argument is invalid. Correct the value that the text names."""


class NotEncodable(CallError, EncodeError):
    """Raised when the serializer cannot encode an argument of a task. Also kombu's ``EncodeError``.

    Pass a value of a type that the serializer knows, or register its type with it.
    """


def shortened(text: str, length: int = 60) -> str:
    """Return the text, truncated to ``length`` characters and an ellipsis."""
    return text if len(text) <= length else f"{text[:length]}…"
