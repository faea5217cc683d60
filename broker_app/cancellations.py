"""Cancelled tasks, remembered by the broker: a stream of ids that every worker reads when it starts.

Celery keeps what was revoked in the workers' memory; after a restart a revoked countdown task runs. Here
`Control.revoke` writes the id to the stream first, and a worker that connects reads the stream to its end
before it takes its first task.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery.app import control as celery_control
from celery.states import PENDING
from celery.worker import state as worker_state
from kombu.messaging import Consumer

from broker_app import topology
from broker_app.confirms import ConfirmChannel, Outcome
from broker_app.errors import BrokerError
from queues import Names, work_topology
from queues.definitions import cancelled_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kombu.connection import Connection
    from kombu.message import Message

    from broker_app.app import BrokerApp

MAX_REMEMBERED = 100_000
"""Cancelled ids that a worker holds in memory; the oldest go first."""

READ_TIMEOUT_SECONDS = 10.0
_PREFETCH = 500
_MARK = "mark"

logger = logging.getLogger(__name__)


class Control(celery_control.Control):
    """Celery's remote control, whose revokes hold over restarts of the workers."""

    def revoke(self, task_id: str | Sequence[str], *args: Any, **options: Any) -> Any:
        """Cancel tasks: written to the broker, then told to the workers that run now.

        A task that has not started says REVOKED at once.

        Args:
            task_id: An id, or a list of ids.
            *args: Celery's (destination, terminate, signal).
            **options: Celery's.

        Raises:
            BrokerError: The broker did not take the cancellation; nothing was cancelled.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        _write(self.app, [{"id": identity} for identity in ids])
        for identity in ids:
            if self.app.backend.get_state(identity) == PENDING:
                self.app.backend.mark_as_revoked(identity, reason="cancelled")
        return super().revoke(task_id, *args, **options)


def follow(app: BrokerApp, connection: Connection) -> Consumer:
    """Learn what was cancelled so far, and go on listening on the same connection.

    Args:
        app: The app, for its prefix.
        connection: The worker's; its event loop reads on after this call returns.

    Returns:
        The consumer, which lives as long as the connection.
    """
    # Celery forgets revokes after three hours; ours are bounded by the stream.
    worker_state.revoked.maxlen, worker_state.revoked.expires = MAX_REMEMBERED, None
    mark, seen = uuid4().hex, []

    def remember(body: Any, message: Message) -> None:
        message.ack()
        if _MARK in body:
            seen.append(body[_MARK])
        else:
            worker_state.revoked.add(body["id"])

    queue = cancelled_stream(app.settings.prefix)
    consumer = Consumer(
        connection.channel(),
        [queue],
        callbacks=[remember],
        accept=["json"],
        auto_declare=False,
        prefetch_count=_PREFETCH,
    )
    consumer.consume()
    _write(app, [{_MARK: mark}])  # what stands before it was there when the worker started
    deadline = time.monotonic() + READ_TIMEOUT_SECONDS
    while mark not in seen and time.monotonic() < deadline:
        connection.drain_events(timeout=max(0.01, deadline - time.monotonic()))
    logger.debug("%d cancelled tasks are known", len(worker_state.revoked))
    return consumer


def _write(app: BrokerApp, entries: list[dict[str, str]]) -> None:
    settings = app.settings
    names = Names(settings.prefix)
    deadline = time.monotonic() + settings.publish.timeout_seconds
    with topology.connect(app) as connection:
        if not topology.has_queue(connection, names.cancelled):
            topology.declare(connection, work_topology([], settings.prefix))
        channel = ConfirmChannel.of(connection)
        for entry in entries:
            properties = {
                "correlation_id": entry.get("id", ""),
                "content_type": "application/json",
                "content_encoding": "utf-8",
                "delivery_mode": 2,
            }
            tag = channel.publish(json.dumps(entry).encode(), properties, names.cancelled, "")
            if channel.wait(tag, deadline).outcome is not Outcome.CONFIRMED:
                raise BrokerError(
                    f"queue {names.cancelled!r}: the broker did not take the cancellation; try again"
                )
