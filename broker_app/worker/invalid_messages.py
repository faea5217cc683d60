"""Messages of which no request can be made: they go to the dead letters too, and their results say why."""

from __future__ import annotations

import logging
import traceback
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

    from broker_app.worker.poison.admission import Admission
    from broker_app.worker.request import Request

logger = logging.getLogger(__name__)


def or_given_up(start: Callable[[Request], Any]) -> Callable[[Request], None]:
    """Return what starts a request, or gives it up if that cannot be: its header of time limits is none, say.

    An error here would end this worker, and then every other one that gets the message.
    """

    def start_it(request: Request) -> None:
        try:
            start(request)
        except (TaskRevokedError, *ENDS_OF_WORKER):
            raise
        except BaseException as error:
            if _is_lost(request.message, error):
                raise
            queue = request.spec.name if request.spec else "unknown"
            words = f"it cannot be started: {error!r}"
            told = "".join(traceback.format_exception(error))
            death = DeadLetterCause(
                DeadReason.UNDECODABLE, Undecodable(request.name, str(request.id), queue, words), told
            )
            request.give_up(death)

    return start_it


class InvalidMessages:
    """What Celery's consumer calls for such messages. Celery rejects some and acknowledges others away."""

    gate: Admission
    connection_errors: Any
    event_dispatcher: Any

    def take_or_give_up(self, take: Callable[[Message], None], message: Message) -> None:
        """Take a message as Celery does, which does not look whether its body has the form of a task's."""
        try:
            reason = message.properties.get(UNREADABLE)
            if reason is None:
                take(message)
            else:
                self.on_decode_error(message, ValueError(reason))
        except ENDS_OF_WORKER:
            raise
        except BaseException as error:
            if _is_lost(message, error):
                raise
            if message.acknowledged:  # it was given up, or back
                logger.exception("a message was settled, and what follows failed")
            else:
                self.on_invalid_task(None, message, error)

    def on_decode_error(self, message: Message, exc: BaseException) -> None:
        """Give up what cannot be decoded; Celery would acknowledge it, and it would be gone."""
        self._give_up(message, DeadReason.UNDECODABLE, Undecodable, f"it cannot be decoded: {exc}", exc)

    def on_invalid_task(self, body: Any, message: Message, exc: BaseException) -> None:
        """Give up a task whose content type is not accepted, or whose eta or expires is none."""
        del body
        self._give_up(message, DeadReason.UNDECODABLE, Undecodable, f"it is no valid task: {exc}", exc)
        with contained("telling of a rejected task"):
            signals.task_rejected.send(sender=self, message=message, exc=exc)

    def on_unknown_message(self, body: Any, message: Message) -> None:
        """Give up what is no task message."""
        del body
        words = "it is no task message: the headers task and id are missing"
        self._give_up(message, DeadReason.UNDECODABLE, Undecodable, words)
        with contained("telling of a rejected task"):
            signals.task_rejected.send(sender=self, message=message, exc=None)

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
        """Give up a task that this worker does not know."""
        del body
        name, identity = message.headers.get("task"), message.headers.get("id")
        self._give_up(message, DeadReason.UNKNOWN_TASK, UnknownTask, "the worker has no task of that name")
        with contained("telling of an unknown task"):
            signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=identity)

    def on_close(self) -> None:
        """Drop what waits in this worker, as Celery does with its own; the broker has it again."""
        super().on_close()  # type: ignore[misc] # Celery's consumer comes behind this class
        self.gate.clear()

    def shutdown(self) -> None:
        """Close the connection for dead letters after the last task has ended."""
        super().shutdown()  # type: ignore[misc]
        self.gate.close()

    def _give_up(
        self,
        message: Message,
        reason: DeadReason,
        cls: type[TaskFailure],
        words: str,
        cause: BaseException | None = None,
    ) -> None:
        self.gate.name_queue(message)
        spec = self.gate.spec_of(message)
        name, identity = message.headers.get("task", "unknown"), message.headers.get("id", "unknown")
        error = cls(str(name), str(identity), spec.name if spec else "unknown", words)
        told = "".join(traceback.format_exception(cause)) if cause else ""
        death = DeadLetterCause(reason, error, told)
        self.gate.burial.fail(message, death)
        if spec is not None and self.gate.burial.keep(message, spec, death):
            message.ack_log_error(logger, self.connection_errors)
        else:
            message.reject_log_error(logger, self.connection_errors)
        if self.event_dispatcher and "id" in message.headers:
            with contained("telling of a failed task"):
                self.event_dispatcher.send("task-failed", uuid=str(identity), exception=repr(error))


def _is_lost(message: Message, error: BaseException) -> bool:
    """Return whether an error says that the message's connection is lost: the broker has the message again."""
    if not isinstance(error, (AMQPError, OSError)):
        return False
    connection = message.channel.connection
    return connection is None or not connection.connected
