"""Dead letter publisher: dead-letters a copy of a message with its reason, and fails its result."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.app.task import Context

from broker_app.celery_integration.tracer import ENDS_OF_WORKER, contained
from broker_app.errors import PublishError
from broker_app.publishing.validation import following
from broker_app.queues import DeadLetters
from broker_app.queues.dead_letters import TRACEBACK_HEADER
from broker_app.wire import frames
from broker_app.worker.dead_letters import dead_letter
from broker_app.worker.requeue import requeued

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery
    from kombu.message import Message

    from broker_app.publishing.message import OutgoingMessage
    from broker_app.queues import QueueSpec
    from broker_app.queues.dead_letters import DeadLetterCause
    from broker_app.worker.side_publisher import SidePublisher

MAX_PROPERTIES_BYTES = 131_072 - 64
"""RabbitMQ's default ``frame_max`` less the frame's overhead: all properties of a message travel in one frame."""

_FACTS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "root_id", "parent_id", "group", "argsrepr", "kwargsrepr"), (str,)),
    **dict.fromkeys(("retries", "group_index"), (int,)),
    **dict.fromkeys(("stamps",), (dict,)),
    **dict.fromkeys(("stamped_headers",), (list,)),
}

logger = logging.getLogger(__name__)


class DeadLetterPublisher:
    """Dead-letters messages from a worker's main process.

    Args:
        app: The worker's app.
        node: The worker's name.
        side_publisher: Publishes the copies.
    """

    def __init__(self, app: Celery, node: str, side_publisher: SidePublisher) -> None:
        self._app = app
        self._node = node
        self._side_publisher = side_publisher

    def keep(self, message: Message, spec: QueueSpec, death: DeadLetterCause) -> bool:
        """Dead-letter a copy of a message, unless its queue discards dead letters.

        Returns:
            Whether the original may be acknowledged. If not, reject it: the broker then dead-letters it itself,
            without our headers.
        """
        what = f"task {_header(message, 'task')} [{_header(message, 'id')}] from queue {spec.name!r}"
        if spec.dead_letters is DeadLetters.DISCARD:
            logger.error("%s is discarded, %s: %s", what, death.reason, death.exception)
            return True
        try:
            self._app.metrics.buried(spec, death)
            self._side_publisher.send(self._copy(message, spec, death))
        except ENDS_OF_WORKER:
            raise
        except BaseException as error:  # noqa: BLE001 - no permission to publish, or an odd message
            cause = error if isinstance(error, PublishError) else repr(error)
            logger.warning("%s goes to the dead letters without its reason, %s: %s", what, death.reason, cause)
            return False
        logger.warning("%s goes to the dead letters, %s: %s", what, death.reason, death.exception)
        return True

    def requeue(self, message: Message, spec: QueueSpec) -> bool:
        """Publish a copy of a message to the end of its queue; return whether the original may be acknowledged."""
        try:
            self._side_publisher.send(requeued(message, spec))
        except PublishError as error:
            logger.warning("%s; its message is returned to its queue instead", error)
            return False
        return True

    def fail(self, message: Message, death: DeadLetterCause) -> None:
        """Store FAILURE for a message that could not be turned into a request, and run its errbacks and chord.

        Errbacks and chord are in the body. If the body cannot be decoded, only the result is stored.
        """
        headers = message.headers or {}
        identity, task = headers.get("id"), headers.get("task")
        if not identity or not isinstance(identity, str | int):
            return
        with contained("task %s [%s]: storing its failure", task, identity):
            request = Context(_facts(headers) | _embedded(message))
            request.update(id=identity, delivery_info=message.delivery_info, hostname=self._node)
            store = not headers.get("ignore_result")
            self._app.backend.mark_as_failure(identity, death.error, request=request, store_result=store)

    def _copy(self, message: Message, spec: QueueSpec, death: DeadLetterCause) -> OutgoingMessage:
        """Return the dead letter, without the traceback if the headers would exceed one AMQP frame.

        Raises:
            ValueError: The original's headers leave no room for the reason.
        """
        outgoing = dead_letter(message, spec, death, self._node)
        if len(frames.properties(outgoing.properties)) > MAX_PROPERTIES_BYTES:
            outgoing.properties["application_headers"].pop(TRACEBACK_HEADER, None)
        size = len(frames.properties(outgoing.properties))
        if size > MAX_PROPERTIES_BYTES:
            raise ValueError(f"headers of {size:,} bytes with the reason: more than {MAX_PROPERTIES_BYTES:,}")
        return outgoing


def _facts(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that result backends and errbacks use; those of a wrong type are left out."""
    return {name: value for name in headers if isinstance(value := headers[name], _FACTS.get(name, ()))}


def _header(message: Message, name: str) -> Any:
    return (message.headers or {}).get(name, "unknown")


def _embedded(message: Message) -> dict[str, Any]:
    """Return the contents of a task message's body, empty if it is undecodable (docs.celeryq.dev, protocol 2)."""
    try:
        args, kwargs, embed = message.payload
    except Exception as error:  # noqa: BLE001 - whatever a decoder may raise
        logger.debug("the body cannot be decoded: %r", error)
        return {}
    return following(embed) | {"args": args, "kwargs": kwargs}
