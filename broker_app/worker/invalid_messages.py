"""Invalid messages: dead-letters messages that Celery cannot parse or run, and fails their results."""

from __future__ import annotations

import logging
import traceback
from functools import wraps
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError
from celery import signals
from celery.exceptions import TaskRevokedError

from broker_app.celery_integration.tracer import ENDS_OF_WORKER, contained
from broker_app.errors import TaskFailure, Undecodable, UnknownTask
from broker_app.queues.dead_letters import DeadLetterCause, DeadReason
from broker_app.wire.field_tables import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu.message import Message

    from broker_app.worker.consumption import Consumption
    from broker_app.worker.dead_letter_publisher import DeadLetterPublisher
    from broker_app.worker.request import Request

logger = logging.getLogger(__name__)


def or_given_up(admit: Callable[[Request], Any]) -> Callable[[Request], None]:
    """Wrap a function that admits requests: a request that it fails to admit is given up.

    Otherwise an error, such as from malformed headers, would end this worker and then every other one that
    receives the message.
    """

    def admit_it(request: Request) -> None:
        try:
            admit(request)
        except (TaskRevokedError, *ENDS_OF_WORKER):
            raise
        except BaseException as error:  # noqa: BLE001 - raised again if the connection is lost
            _give_up_unstartable(request, error)

    return admit_it


def executed(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a request's start in the pool: one that cannot be started is given up, and its slot is free again.

    Celery frees the slot of a prefork pool only after `TaskRevokedError`. After any other error, such as from
    malformed time limits, the worker would have a slot less for each such message.
    """

    @wraps(execute)
    def execute_using_pool(self: Request, *args: Any, **options: Any) -> Any:
        try:
            return execute(self, *args, **options)
        except (TaskRevokedError, *ENDS_OF_WORKER):
            raise
        except BaseException as error:
            _give_up_unstartable(self, error)
            raise TaskRevokedError(f"{self.humaninfo()} cannot be started") from error

    return execute_using_pool


class InvalidMessages:
    """Gives up invalid messages, which Celery would reject or acknowledge, and lose.

    Args:
        consumer: Celery's consumer, which sends the signals and events.
        dead_letters: Dead-letters messages.
        consumption: Knows the queue that delivered a message.
    """

    def __init__(self, consumer: Any, dead_letters: DeadLetterPublisher, consumption: Consumption) -> None:
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._consumption = consumption

    def take_or_give_up(self, take: Callable[[Message], None], message: Message) -> None:
        """Pass a message on, and give it up if that fails: Celery does not validate the body."""
        try:
            reason = message.properties.get(UNREADABLE)
            if reason is None:
                take(message)
            else:
                self.give_up_undecodable(message, ValueError(reason))
        except ENDS_OF_WORKER:
            raise
        except BaseException as error:
            if _is_lost(message, error):
                raise
            if message.acknowledged:  # it was given up or requeued
                logger.exception("a message was settled, but handling it then failed")
            else:
                self.give_up_malformed(message, error)

    def give_up_undecodable(self, message: Message, error: BaseException) -> None:
        """Give up an undecodable message; Celery would acknowledge and lose it."""
        self._give_up(message, DeadReason.UNDECODABLE, Undecodable, f"it cannot be decoded: {error}", error)

    def give_up_malformed(self, message: Message, error: BaseException) -> None:
        """Give up a task whose content type is not accepted, or whose eta or expires is malformed."""
        self._give_up(message, DeadReason.UNDECODABLE, Undecodable, f"it is not a valid task: {error}", error)
        with contained("sending the signal task_rejected"):
            signals.task_rejected.send(sender=self._consumer, message=message, exc=error)

    def give_up_foreign(self, message: Message) -> None:
        """Give up a message that does not contain a task."""
        words = "it is not a task message: the headers task and id are missing"
        self._give_up(message, DeadReason.UNDECODABLE, Undecodable, words)
        with contained("sending the signal task_rejected"):
            signals.task_rejected.send(sender=self._consumer, message=message, exc=None)

    def give_up_unknown(self, message: Message, error: Exception) -> None:
        """Give up a task that is not registered in this worker."""
        name, identity = message.headers.get("task"), message.headers.get("id")
        self._give_up(message, DeadReason.UNKNOWN_TASK, UnknownTask, "the worker has no task of that name")
        with contained("sending the signal task_unknown"):
            signals.task_unknown.send(sender=self._consumer, message=message, exc=error, name=name, id=identity)

    def _give_up(
        self,
        message: Message,
        reason: DeadReason,
        cls: type[TaskFailure],
        words: str,
        cause: BaseException | None = None,
    ) -> None:
        self._consumption.name_queue(message)
        spec = self._consumption.spec_of(message)
        name, identity = message.headers.get("task", "unknown"), message.headers.get("id", "unknown")
        error = cls(str(name), str(identity), spec.name if spec else "unknown", words)
        text = "".join(traceback.format_exception(cause)) if cause else ""
        death = DeadLetterCause(reason, error, text)
        self._dead_letters.fail(message, death)
        if spec is not None and self._dead_letters.keep(message, spec, death):
            message.ack_log_error(logger, self._consumer.connection_errors)
        else:
            message.reject_log_error(logger, self._consumer.connection_errors)
        events = self._consumer.event_dispatcher
        if events and "id" in message.headers:
            with contained("sending the event task-failed"):
                events.send("task-failed", uuid=str(identity), exception=repr(error))


def _give_up_unstartable(request: Request, error: BaseException) -> None:
    """Give up a request that cannot be started; raise the error if it means that the connection is lost."""
    if _is_lost(request.message, error):
        raise error
    queue = request.spec.name if request.spec else "unknown"
    words = f"it cannot be started: {error!r}"
    text = "".join(traceback.format_exception(error))
    undecodable = Undecodable(request.name, str(request.id), queue, words)
    request.give_up(DeadLetterCause(DeadReason.UNDECODABLE, undecodable, text))


def _is_lost(message: Message, error: BaseException) -> bool:
    """Return whether an error means that the message's connection is lost, so that the broker redelivers it."""
    if not isinstance(error, (AMQPError, OSError)):
        return False
    connection = message.channel.connection
    return connection is None or not connection.connected
