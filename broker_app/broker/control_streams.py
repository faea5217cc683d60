"""Bounded streams by which workers, and operators, tell all workers, and those to come, what they must know.

A worker that connects reads each `Stream` to its end before it takes its first task, and goes on listening on the
same connection. Reading needs the right to read and no more, and leaves nothing behind, however many workers start
and how often.
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
"""How long a worker waits for the first entry of a stream that has some."""

EMPTY_SECONDS = 1.0
"""How long a stream must say nothing to be taken for empty; then its first reader writes an entry that says
nothing, so that the next reader need not wait."""

PREFETCH = 2_000
"""Entries on their way at once (a stream demands a bound, and acks)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream to read.

    Attributes:
        queue: Its name on the broker.
        on_entry: Takes each entry, a JSON object; those that say nothing too. If it raises an exception, the entry
            is passed over.
        begin: Writes the first entry. Raises BrokerError.
        unread: What follows if it cannot be read, for the log.
        on_read: Called with whether it could be read, each time that it is followed.
    """

    queue: str
    on_entry: Callable[[dict[str, Any]], None]
    begin: Callable[[], None]
    unread: str
    on_read: Callable[[bool], object] = bool


def follow(connection: amqp.Connection, streams: Sequence[Stream]) -> None:
    """Read streams to their ends, and go on listening as long as the connection lives.

    Args:
        connection: The worker's, by py-amqp; its event loop reads on after this call returns.
        streams: They are waited for together.
    """
    readers = [reader for stream in streams if (reader := _started(connection, stream))]
    deadline = time.monotonic() + EMPTY_SECONDS
    for reader in readers:
        if not _has_begun(connection, reader, deadline):
            logger.warning("%s: no entry in %g s, %s", reader.queue, READ_TIMEOUT_SECONDS, reader.stream.unread)
        reader.read_to_end()
        reader.stream.on_read(True)  # noqa: FBT003 - a callable's arguments have no names


def append(app: Broker, name: str, entries: Sequence[Mapping[str, Any]], *, verb: str) -> None:
    """Write entries to the end of a stream, confirmed, on a connection of its own.

    Args:
        app: The app.
        name: The stream, as on the broker; it is declared if it is not there.
        entries: What a `Stream.on_entry` takes.
        verb: What is to be done again if it fails.

    Raises:
        BrokerError: The broker did not take them all; it may have taken some.
    """
    deadline = time.monotonic() + app.settings.publish.timeout_seconds
    with connect(app) as connection, bounded(connection, deadline):
        if not queue_exists(connection, name):
            declare_topology(connection, work_topology([], app.settings.prefix))
        try:
            answers = _publish(ConfirmChannel.of(connection), name, entries, deadline)
        except (amqp.AMQPError, OSError) as error:  # a time-out, too, is one
            raise BrokerError(f"queue {name!r}: {error_text(error)}; then {verb} again") from error
    for answer in answers:
        if answer.outcome is not ConfirmOutcome.CONFIRMED:
            raise BrokerError(f"queue {name!r}: {answer.reason}; run `broker-app topology declare`, {verb} again")


class _Reader:
    """A consumer of one stream, from its beginning."""

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
        try:
            self.stream.on_entry(json.loads(message.body))
        except Exception as error:  # noqa: BLE001 - whatever somebody wrote there: it cannot be taken out
            logger.warning("%s: an entry that is none is passed over: %r", self.queue, error)

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
    """Wait for the stream's first entry, and write one if there is none."""
    if _wait_for_entry(connection, reader, deadline):
        return True
    try:
        reader.stream.begin()
    except BrokerError as error:
        logger.debug("taken for empty: %s", error)
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
