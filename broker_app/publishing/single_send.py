"""Sending of single calls: publishes a message from a template, and does what else Celery's `send_task` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_app.publishing.pipeline import current_pipeline
from broker_app.wire.connection import pooled

if TYPE_CHECKING:
    from celery import Celery
    from celery.app.amqp import AMQP
    from celery.result import AsyncResult

    from broker_app.publishing.single import TemplatedMessage


def send_single(app: Celery, outgoing: TemplatedMessage, deadline: float, options: dict[str, Any]) -> AsyncResult:
    """Publish a message, through the pipeline if there is one, and return its task's result.

    Args:
        app: The app.
        outgoing: The message.
        deadline: The deadline of the call, on the clock of `time.monotonic`.
        options: The options of `send_task`.

    Raises:
        PublishError: The broker did not confirm it.
    """
    is_ignored, retry = options.get("ignore_result"), options.get("retry") is not False
    if (pipeline := current_pipeline()) is not None:
        if not is_ignored:
            app.backend.on_task_call(LateProducer(app.amqp, pipeline.connection), outgoing.task_id)
        pipeline.send(outgoing, deadline, retry=retry)
        return _result_of(app, outgoing.task_id, is_ignored, options)
    with pooled(app.pool, deadline) as connection, connection._reraise_as_library_errors():  # noqa: SLF001 - as Celery
        if not is_ignored:
            app.backend.on_task_call(LateProducer(app.amqp, connection), outgoing.task_id)
        app.amqp.publisher.send_packed(connection, outgoing, deadline, retry=retry)
    return _result_of(app, outgoing.task_id, is_ignored, options)


def _result_of(app: Celery, task_id: str, is_ignored: Any, options: dict[str, Any]) -> AsyncResult:
    result: AsyncResult = (options.get("result_cls") or app.AsyncResult)(task_id)
    result.ignored = is_ignored
    return result


class LateProducer:
    """A producer that is made when it is used: few result backends need one to prepare for a result.

    Args:
        amqp: Makes the producer.
        connection: Its connection.
    """

    def __init__(self, amqp: AMQP, connection: Any) -> None:
        self._amqp = amqp
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._amqp.Producer(self._connection, auto_declare=False), name)
