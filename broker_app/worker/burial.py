"""How a worker gives a message up: its copy goes to the dead letters, and its result says why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.app.task import Context

from broker_app.dead_letters import dead_letter
from broker_app.errors import PublishError
from broker_app.queues import DeadLetters
from broker_app.worker.requeue import requeued

if TYPE_CHECKING:
    from kombu.message import Message

    from broker_app.app import BrokerApp
    from broker_app.dead_letters import Death
    from broker_app.queues import QueueSpec
    from broker_app.worker.courier import Courier

logger = logging.getLogger(__name__)


class Burial:
    """Gives messages up, in a worker's main process.

    Args:
        app: The worker's app.
        node: The worker's name.
        courier: What publishes the copies.
    """

    def __init__(self, app: BrokerApp, node: str, courier: Courier) -> None:
        self._app = app
        self._node = node
        self._courier = courier

    def keep(self, message: Message, spec: QueueSpec, death: Death) -> bool:
        """Put a copy into the dead letters, unless the queue discards them.

        Returns:
            Whether the original may be acknowledged. If not, it is to be rejected: the broker then puts it there
            itself, without our headers.
        """
        what = f"task {_header(message, 'task')} [{_header(message, 'id')}] from queue {spec.name!r}"
        if spec.dead_letters is DeadLetters.DISCARD:
            logger.error("%s is discarded, %s: %s", what, death.reason, death.exception)
            return True
        self._app.metrics.buried(spec, death)
        try:
            self._courier.send(dead_letter(message, spec, death, self._node))
        except PublishError as error:
            logger.warning("%s goes to the dead letters without its reason, %s: %s", what, death.reason, error)
            return False
        logger.warning("%s goes to the dead letters, %s: %s", what, death.reason, death.exception)
        return True

    def requeue(self, message: Message, spec: QueueSpec) -> bool:
        """Publish a message to the end of its queue again; return whether the original may be acknowledged."""
        try:
            self._courier.send(requeued(message, spec))
        except PublishError as error:
            logger.warning("%s; its message is returned to its queue instead", error)
            return False
        return True

    def fail(self, message: Message, death: Death) -> None:
        """Store FAILURE for a message of which no request could be made, and tell its chord and errbacks.

        They stand in the body: where that cannot be read the result alone says it.
        """
        headers = message.headers or {}
        identity, task = headers.get("id"), headers.get("task")
        if not identity:
            return
        request = Context(
            {"id": identity, "delivery_info": message.delivery_info, **headers, **_embedded(message)}
        )
        request.hostname = self._node
        store = not headers.get("ignore_result")
        try:
            self._app.backend.mark_as_failure(identity, death.error, request=request, store_result=store)
        except Exception:  # each result store has its own; the message must not stay with us for it
            logger.exception("task %s [%s]: its failure could not be stored", task, identity)


def _header(message: Message, name: str) -> Any:
    return (message.headers or {}).get(name, "unknown")


def _embedded(message: Message) -> dict[str, Any]:
    """Return what a task message has in its body, nothing if it cannot be read (docs.celeryq.dev, protocol 2)."""
    try:
        args, kwargs, embed = message.payload
        return dict(embed, args=args, kwargs=kwargs)
    except Exception as error:  # noqa: BLE001 - whatever a decoder may raise
        logger.debug("the body cannot be read: %r", error)
        return {}
