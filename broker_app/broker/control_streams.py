"""Control streams: bounded broker streams that carry pauses, cancellations and crash records to all workers.

A worker that connects reads each `Stream` to its end before it takes its first task, and keeps listening on the
same connection, so workers that start later see the same entries. Reading needs only the read permission and
leaves nothing behind on the broker.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import amqp

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, queue_exists
from broker_app.errors import BrokerError
from broker_app.queues import work_topology
from broker_app.queues.headers import PERSISTENT
from broker_app.queues.rabbitmq import STREAM_CONSUMER
from broker_app.wire.confirm_channel import Confirmation, ConfirmChannel, ConfirmOutcome
from broker_app.wire.connection import bounded
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker_app.broker.access import Broker

READ_TIMEOUT_SECONDS = 10.0
"""Time that a worker waits for the first entry of a non-empty stream."""

EMPTY_SECONDS = 1.0
"""A stream that delivers no entry for this long is considered empty. Its first reader then writes an empty entry,
so that later readers need not wait."""

PREFETCH = 2_000
"""Prefetch of a stream consumer (streams require a prefetch and acknowledgements)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream to read.

    Attributes:
        queue: Its name on the broker.
        on_entry: Called with each entry, a JSON object, including empty ones. If it raises, the entry is skipped.
        begin: Writes the first entry. Raises BrokerError.
        unread: The consequence of not reading the stream, for the log.
        on_read: Called each time the stream is followed, with True if it was read to its end.
    """

    queue: str
    on_entry: Callable[[dict[str, Any]], None]
    begin: Callable[[], None]
    unread: str
    on_read: Callable[[bool], object] = bool


def follow(connection: amqp.Connection, streams: Sequence[Stream]) -> None:
    """Read streams to their ends, and keep listening for as long as the connection lives.

    Args:
        connection: The worker's py-amqp connection; its event loop keeps reading after this call returns.
        streams: The streams; the waits for their first entries overlap.
    """
    readers = [reader for stream in streams if (reader := _started(connection, stream))]
    deadline = time.monotonic() + EMPTY_SECONDS
    for reader in readers:
        if not _has_begun(connection, reader, deadline):
            logger.warning("%s: no entry in %g s, %s", reader.queue, READ_TIMEOUT_SECONDS, reader.stream.unread)
        reader.read_to_end()
        reader.stream.on_read(True)  # noqa: FBT003 - a callable's arguments have no names


def append(app: Broker, name: str, entries: Sequence[Mapping[str, Any]], *, verb: str) -> None:
    """Append entries to a stream on a dedicated connection, and wait for the confirms.

    Args:
        app: The app.
        name: The stream's name on the broker; it is declared if missing.
        entries: JSON objects, as passed to `Stream.on_entry`.
        verb: The operation to repeat on failure, for the error message.

    Raises:
        BrokerError: The broker did not confirm every entry; it may have stored some of them.
    """
    deadline = time.monotonic() + app.settings.publish.timeout_seconds
    with connect(app) as connection, bounded(connection, deadline):
        if not queue_exists(connection, name):
            declare_topology(connection, work_topology([], app.settings.prefix))
        try:
            answers = _publish(ConfirmChannel.of(connection), name, entries, deadline)
        except (amqp.AMQPError, OSError) as error:  # TimeoutError is an OSError
            raise BrokerError(f"queue {name!r}: {error_text(error)}; then {verb} again") from error
    for answer in answers:
        if answer.outcome is not ConfirmOutcome.CONFIRMED:
            raise BrokerError(f"queue {name!r}: {answer.reason}; run `broker-app topology declare`, {verb} again")


class _Reader:
    """A consumer that reads one stream from its beginning."""

    def __init__(self, channel: amqp.Channel, stream: Stream) -> None:
        self.stream = stream
        self.queue = stream.queue
        self.count = 0
        self._channel = channel
        self._unacked: int | None = None
        self._is_live = False

    def start(self) -> None:
        self._channel.basic_qos(0, PREFETCH, a_global=False)
        self._channel.basic_consume(self.queue, callback=self._on_message, arguments=STREAM_CONSUMER)

    def read_to_end(self) -> None:
        """Return when every entry in the stream has been read.

        Before a RabbitMQ channel answers the next call, it sends as many messages as the prefetch allows. So once
        all entries are acknowledged and a call returns without a new one, the stream has been read.
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
        try:
            self.stream.on_entry(json.loads(message.body))
        except Exception as error:  # noqa: BLE001 - anyone may write to the stream, and entries cannot be removed
            logger.warning("%s: skipped an invalid entry: %r", self.queue, error)

    def _ack(self) -> None:
        if self._unacked is not None:
            self._channel.basic_ack(self._unacked, multiple=True)
            self._unacked = None


def _started(connection: amqp.Connection, stream: Stream) -> _Reader | None:
    reader = _Reader(connection.channel(), stream)
    try:
        reader.start()
    except (amqp.AccessRefused, amqp.NotFound) as error:
        logger.warning("%s, their list cannot be read: %s", stream.unread, error_text(error))
        stream.on_read(False)  # noqa: FBT003 - as above
        return None
    return reader


def _has_begun(connection: amqp.Connection, reader: _Reader, deadline: float) -> bool:
    """Wait for the stream's first entry; write an empty one if none arrives."""
    if _wait_for_entry(connection, reader, deadline):
        return True
    try:
        reader.stream.begin()
    except BrokerError as error:
        logger.debug("%s: assumed to be empty: %s", reader.queue, error)
        return True
    return _wait_for_entry(connection, reader, time.monotonic() + READ_TIMEOUT_SECONDS)


def _wait_for_entry(connection: amqp.Connection, reader: _Reader, deadline: float) -> bool:
    while not reader.count and (left := deadline - time.monotonic()) > 0:
        try:
            connection.drain_events(timeout=left)
        except TimeoutError:
            break
    return reader.count > 0


def _publish(
    channel: ConfirmChannel, name: str, entries: Sequence[Mapping[str, Any]], deadline: float
) -> list[Confirmation]:
    channel.wait_until_unblocked(deadline)
    tags = []
    for number, entry in enumerate(entries):
        properties = {
            "correlation_id": str(number),
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": PERSISTENT,
        }
        tags.append(channel.publish(json.dumps(entry).encode(), properties, name, ""))
    return [channel.wait(tag, deadline) for tag in tags]
