"""Cancelled tasks, remembered by the broker: a stream of ids that every worker reads when it starts.

Celery keeps what was revoked in the workers' memory; after a restart a revoked countdown task runs. Here
`Control.revoke` writes the ids to the stream first, and a worker that connects reads the stream to its end
before it takes its first task. Reading needs the right to read and no more, and leaves nothing behind, however
many workers start and how often: what fills the bounded stream are cancellations.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import amqp
from celery import states
from celery.app import control as celery_control
from celery.worker import state as worker_state

from broker_app import topology
from broker_app.confirms import Answer, ConfirmChannel, Outcome
from broker_app.connections import bounded
from broker_app.errors import BrokerError
from broker_app.outgoing import PERSISTENT
from queues import Names, work_topology
from queues.definitions import CANCELLED_CONSUMER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker_app.app import BrokerApp

MAX_REMEMBERED = 100_000
"""Cancelled ids that a worker holds in memory; the oldest go first."""

IDS_PER_ENTRY = 500
"""Ids in one message of the stream: a list is written in few messages, a single id in one."""

READ_TIMEOUT_SECONDS = 10.0
"""How long a worker waits for the first entry of a stream that has some."""

EMPTY_SECONDS = 1.0
"""How long a stream must say nothing to be taken for empty; then its first reader writes an entry without ids."""

PREFETCH = 2_000
"""Entries on their way at once (a stream demands a bound, and acks)."""

WAITING_STATES = frozenset({states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})
"""What Celery's worker lets a revoke overwrite (celery/worker/control.py, ``_revoke``)."""

logger = logging.getLogger(__name__)


class Control(celery_control.Control):
    """Celery's remote control, whose revokes hold over restarts of the workers."""

    def revoke(self, task_id: str | Sequence[str], *args: Any, **options: Any) -> Any:
        """Cancel tasks: written to the broker, then told to the workers that run now.

        A task that does not run says REVOKED at once, if its result store answers; else when a worker meets it.

        Args:
            task_id: An id, or a list of ids.
            *args: Celery's (destination, terminate, signal); a destination is told first, all workers hear of it.
            **options: Celery's.

        Raises:
            BrokerError: The broker did not take the cancellation; of a list, it may have taken some. Cancelling
                again does no harm.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        _write(self.app, ids)
        _mark_revoked(self.app, ids)  # before the workers are told, who would all do it at once
        return super().revoke(ids, *args, **options)


def follow(app: BrokerApp, connection: amqp.Connection) -> None:
    """Learn what was cancelled so far, and go on listening on the same connection as long as it lives.

    Args:
        app: The app, for its prefix.
        connection: The worker's, by py-amqp; its event loop reads on after this call returns.
    """
    # Celery forgets revokes after three hours; ours are bounded by the stream.
    worker_state.revoked.maxlen, worker_state.revoked.expires = MAX_REMEMBERED, 0
    reader = _Reader(connection.channel(), Names(app.settings.prefix).cancelled)
    try:
        reader.start()
    except (amqp.AccessRefused, amqp.NotFound) as error:
        logger.warning("cancelled tasks will run, their list cannot be read: %s", topology.words(error))
        return
    if not _has_begun(app, connection, reader):
        logger.warning("%s: no entry in %g s, cancelled tasks may run", reader.queue, READ_TIMEOUT_SECONDS)
    reader.read_to_end()
    logger.debug("%d cancelled tasks are known", len(worker_state.revoked))


class _Reader:
    """A consumer of the stream, from its beginning."""

    def __init__(self, channel: amqp.Channel, queue: str) -> None:
        self.queue = queue
        self.count = 0
        self._channel = channel
        self._unacked: int | None = None
        self._is_live = False

    def start(self) -> None:
        self._channel.basic_qos(0, PREFETCH, a_global=False)
        self._channel.basic_consume(self.queue, callback=self._on_message, arguments=CANCELLED_CONSUMER)

    def read_to_end(self) -> None:
        """Return when all that the stream held has been read.

        A channel of RabbitMQ sends what a prefetch allows before it answers the next call. So when nothing has
        come with an answer, and all that came before was acknowledged, nothing is left.
        """
        before = -1
        while self.count > before:
            before = self.count
            self._ack()
            self._channel.queue_declare(self.queue, passive=True)
        self._is_live = True

    def _on_message(self, message: amqp.Message) -> None:
        self.count += 1
        self._unacked = message.delivery_tag
        if self._is_live:
            self._ack()
        for identity in _ids(message.body):
            if identity not in worker_state.revoked:
                worker_state.revoked.add(identity)

    def _ack(self) -> None:
        if self._unacked is not None:
            self._channel.basic_ack(self._unacked, multiple=True)
            self._unacked = None


def _has_begun(app: BrokerApp, connection: amqp.Connection, reader: _Reader) -> bool:
    """Wait for the stream's first entry, and write one if there is none: the next reader need not wait."""
    if _wait_for_entry(connection, reader, EMPTY_SECONDS):
        return True
    try:
        _write(app, [])
    except BrokerError as error:
        logger.debug("taken for empty: %s", error)
        return True
    return _wait_for_entry(connection, reader, READ_TIMEOUT_SECONDS)


def _wait_for_entry(connection: amqp.Connection, reader: _Reader, timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not reader.count and (left := deadline - time.monotonic()) > 0:
        try:
            connection.drain_events(timeout=left)
        except TimeoutError:
            break
    return reader.count > 0


def _ids(body: str | bytes) -> list[str]:
    """Return the ids of an entry, none if it is not ours: a stream's message cannot be taken out of it."""
    try:
        ids = json.loads(body)["ids"]
        return [identity for identity in ids if isinstance(identity, str)]
    except (ValueError, LookupError, TypeError) as error:
        logger.warning("an entry that is none is passed over in the list of cancelled tasks: %r", error)
        return []


def _write(app: BrokerApp, ids: Sequence[str]) -> None:
    """Append ids to the stream; none at all is an entry too."""
    name = Names(app.settings.prefix).cancelled
    deadline = time.monotonic() + app.settings.publish.timeout_seconds
    entries = [ids[start : start + IDS_PER_ENTRY] for start in range(0, max(1, len(ids)), IDS_PER_ENTRY)]
    with topology.connect(app) as connection, bounded(connection, deadline):
        if not topology.has_queue(connection, name):
            topology.declare(connection, work_topology([], app.settings.prefix))
        try:
            answers = _publish(ConfirmChannel.of(connection), name, entries, deadline)
        except (amqp.AMQPError, OSError) as error:  # a time-out, too, is one
            raise BrokerError(f"queue {name!r}: {topology.words(error)}; then cancel again") from error
    for answer in answers:
        if answer.outcome is not Outcome.CONFIRMED:
            raise BrokerError(f"queue {name!r}: {answer.reason}; run `broker-app topology declare`, cancel again")


def _publish(
    channel: ConfirmChannel, name: str, entries: Sequence[Sequence[str]], deadline: float
) -> list[Answer]:
    channel.wait_until_unblocked(deadline)
    tags = []
    for number, entry in enumerate(entries):
        properties = {
            "correlation_id": str(number),
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": PERSISTENT,
        }
        tags.append(channel.publish(json.dumps({"ids": list(entry)}).encode(), properties, name, ""))
    return [channel.wait(tag, deadline) for tag in tags]


def _mark_revoked(app: BrokerApp, ids: Sequence[str]) -> None:
    """Say REVOKED in the result store for tasks that do not run; the cancellation holds without it."""
    try:
        for identity in ids:
            if app.backend.get_state(identity) in WAITING_STATES:
                app.backend.mark_as_revoked(identity, reason="revoked")
    except NotImplementedError as error:  # result_backend="disabled://"
        logger.debug("no result store: %s", error)
    except Exception as error:  # noqa: BLE001 - each store has its own
        logger.warning("cancelled, but the result store cannot be told: %s", topology.words(error))
