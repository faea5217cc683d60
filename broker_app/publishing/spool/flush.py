"""Spool flushing: sends spooled tasks in order, one process at a time, and marks possible duplicates."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amqp.serialization import decode_properties_basic

from broker_app.errors import BrokerUnreachable, PublishError, PublishTimeout, QueueFull, RoutingError
from broker_app.publishing.bulk.item import BulkItem
from broker_app.publishing.bulk.window import Window
from broker_app.publishing.message import MessageBuilder, OutgoingMessage
from broker_app.queues import split_rest
from broker_app.queues.headers import MAYBE_TWICE_HEADER, PUBLISHED_AT_HEADER
from broker_app.settings.private_files import open_private
from broker_app.wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from broker_app.publishing.spool.store import SpooledMessage, SpoolFile

logger = logging.getLogger(__name__)

BATCH = 500
"""Number of messages between two writes to the file."""


@dataclass(slots=True)
class FlushResult:
    """The result of a flush.

    Attributes:
        sent: Number of messages that the broker confirmed.
        refused: Number of messages that were refused and set aside.
        left: Whether messages are still waiting.
        error: Why it stopped early; None if it did not.
        is_busy: Whether it did nothing because another process is flushing.
    """

    sent: int = 0
    refused: int = 0
    left: bool = False
    error: PublishError | None = None
    is_busy: bool = False


class Flusher:
    """Sends the messages in the spool.

    Args:
        app: The app.
        store: The spool.
    """

    def __init__(self, app: Celery, store: SpoolFile) -> None:
        self._app = app
        self._store = store
        self._table = app.settings.routing_table()
        self._way = MessageBuilder(app, self._table, app.settings.prefix).way

    def flush(self, timeout_seconds: float, on_batch: Callable[[int], None] = lambda _: None) -> FlushResult:
        """Send all waiting messages until the spool is empty or the broker stops answering.

        Args:
            timeout_seconds: How long to wait for an answer.
            on_batch: Called with the number of messages sent so far.

        Raises:
            SpoolError: The file cannot be used.
        """
        flushed = FlushResult()
        with self._alone() as is_alone:
            if not is_alone:
                return FlushResult(is_busy=True, left=True)
            with self._app.connection_for_write() as connection:
                while flushed.error is None and (batch := self._store.first(BATCH)):
                    window = Window(self._app, connection, timeout_seconds)
                    try:
                        self._flush(batch, window, flushed)
                    finally:
                        window.close()
                    on_batch(flushed.sent)
            flushed.left = self._store.has_waiting()
        return flushed

    def _flush(self, batch: list[SpooledMessage], window: Window, flushed: FlushResult) -> None:
        items = {message.number: self._item(message, window) for message in batch}
        known = {message.number for message in batch if message.maybe_taken}
        sending = [item for item in items.values() if not item.is_settled]
        self._store.mark([item.number for item in sending], maybe_taken=True)  # in case this process is killed now
        for item in sending:
            window.send(item)
            if window.failure is not None:
                break
        window.finish()
        self._note(items, known, flushed)

    def _note(self, items: dict[int, BulkItem], known: set[int], flushed: FlushResult) -> None:
        """Remove confirmed messages, set refused ones aside, and leave the rest unchanged."""
        sent = [number for number, item in items.items() if item.is_settled and item.error is None]
        refused = {number: item.error for number, item in items.items() if _is_refused(item)}
        left = [item for number, item in items.items() if number not in refused and number not in sent]
        for number in (*sent, *refused):
            item = items[number]
            self._app.metrics.bulk_item(item.task, item.spec, item.error)
        self._store.remove(sent)
        self._store.refuse({number: str(error) for number, error in refused.items()})
        untouched = [item.number for item in left if not _may_be_there(item) and item.number not in known]
        self._store.mark(untouched, maybe_taken=False)
        for error in refused.values():
            logger.error("a spooled task was refused and stays in the spool: %s", error)
        flushed.sent += len(sent)
        flushed.refused += len(refused)
        flushed.error = next((item.error for item in left if isinstance(item.error, PublishError)), None)

    def _item(self, message: SpooledMessage, window: Window) -> BulkItem:
        item = BulkItem(message.number, message.task, message.task_id, place=message.queue or message.exchange)
        try:
            outgoing = self._outgoing(message)
        except RoutingError as error:  # its queue is no longer in the settings
            item.settle(error)
            return item
        item.spec, item.delay, item.place = outgoing.spec, outgoing.delay, outgoing.place
        item.due = outgoing.due
        item.address = (message.task_id, outgoing.exchange, outgoing.routing_key)
        item.channel = window.channel
        item.sent = frames.encode(*window.channel, outgoing.address, outgoing.properties, outgoing.body)
        item.maybe_twice = message.maybe_taken
        return item

    def _outgoing(self, message: SpooledMessage) -> OutgoingMessage:
        properties, _ = decode_properties_basic(message.properties, 0)
        headers = properties["application_headers"]
        if message.maybe_taken:
            headers[MAYBE_TWICE_HEADER] = True
        spec = None if message.queue is None else self._table.queue(message.queue)
        left = (headers.get(PUBLISHED_AT_HEADER) or message.spooled_at) + message.delay_seconds - time.time()
        delay = split_rest(left)
        exchange, key = (message.exchange, message.routing_key) if spec is None else self._way(spec, delay)
        return OutgoingMessage(
            task=message.task,
            task_id=message.task_id,
            spec=spec,
            delay=delay,
            exchange=exchange,
            routing_key=key,
            body=message.body,
            properties=properties,
            due=time.monotonic() + left if delay.lanes else None,
        )

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Try to take the flush lock and yield whether it was free. It ends with the process (flock(2))."""
        if not self._store.file.exists():
            yield True
            return
        lock = open_private(self._store.file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # gevent's `os.close` closes later
            os.close(lock)


def _is_refused(item: BulkItem) -> bool:
    """Return whether retrying is pointless; a full queue may drain and a lost broker may return."""
    error = item.error
    return error is not None and not isinstance(error, (QueueFull, BrokerUnreachable, PublishTimeout))


def _may_be_there(item: BulkItem) -> bool:
    return bool(getattr(item.error, "maybe_taken", False)) or (item.error is None and item.is_unanswered)
