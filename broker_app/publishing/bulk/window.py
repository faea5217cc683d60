"""Publishing window: keeps many messages in flight on one connection and tracks each until it is settled.

Every item ends settled: confirmed, refused, or given up because the broker did not answer in time.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from amqp import exceptions as amqp_errors

from broker_app.errors import BrokerUnreachable, PublishError, PublishTimeout, QueueFull
from broker_app.publishing.message import MessageBuilder
from broker_app.publishing.publisher import RETRY_INTERVALS_SECONDS
from broker_app.publishing.routes import MOST_AT_ONCE, KnownRoutes
from broker_app.queues.headers import MAYBE_TWICE_HEADER
from broker_app.wire import frames
from broker_app.wire.confirm_channel import BlockedError, ConfirmChannel, ConfirmOutcome, ConfirmTimeoutError
from broker_app.wire.connection import discard, open_connection
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery

    from broker_app.publishing.bulk.item import BulkItem
    from broker_app.publishing.publisher import Publisher
    from broker_app.wire.confirm_channel import Confirmation

WINDOW_ITEMS = 1_000
"""Maximum number of messages in flight."""

WINDOW_BYTES = 8 * 1024 * 1024
"""Maximum bytes in flight; beyond this the next message waits."""

MOST_CATCH_UPS = 2
"""Limit on moving an item to shorter delay lanes, because declaring lanes takes time as well."""

_LOOK_EVERY = 32
"""Messages sent between two checks for answers."""

_AT_ONCE_SECONDS = 0.02
"""Messages that arrive within this interval may be held back so that their routes are declared together. A slower
producer has each message sent at once."""


class Window:
    """Sends items over one connection.

    Args:
        app: The app.
        connection: A kombu connection for exclusive use.
        timeout_seconds: Give up after this long without an answer, reconnecting included.
        waited_seconds: Time already spent waiting for the connection; it counts against the first answer.

    Attributes:
        failure: Why it gave up; None while it works. After a failure nothing more is sent.
    """

    def __init__(self, app: Celery, connection: Any, timeout_seconds: float, waited_seconds: float = 0.0) -> None:
        self.failure: PublishError | None = None
        self._app = app
        self._connection = connection
        self._publisher: Publisher = app.amqp.publisher
        self._way = MessageBuilder(app, app.settings.routing_table(), app.settings.prefix).way
        self._known_routes = KnownRoutes(app.settings.prefix, self._way, self._publisher.new_queues)
        self._timeout_seconds = timeout_seconds
        self._channel: ConfirmChannel | None = None
        self._queue: deque[BulkItem] = deque()  # to be sent next
        self._in_flight: dict[int, BulkItem] = {}  # by tag, in the order of sending
        self._one_by_one: deque[BulkItem] = deque()  # to be sent one by one when nothing is in flight
        self._bytes = 0
        self._unread = 0
        self._sent_at: float | None = None
        self._usual_bound: float | None = None
        self._waited_seconds = waited_seconds
        self._progress()

    @property
    def channel(self) -> tuple[int, int]:
        """The channel number and frame_max to encode messages for; a guess until the channel is open."""
        if self._channel is None:
            return _USUAL_CHANNEL
        return self._channel.number, self._channel.connection.frame_max

    def send(self, item: BulkItem) -> None:
        """Send an item as soon as the window and the broker allow it; a refused item is settled at once.

        An item whose route is unknown may be held back so that its route is declared with those that follow.
        """
        if not self._in_flight:
            self._progress()
        self._queue.append(item)
        if not self._is_gathering():
            self._work_until(lambda: not self._queue and not self._is_full)
        self._sent_at = time.monotonic()

    def settle(self, item: BulkItem) -> None:
        """Wait until a sent item is settled."""
        self._work_until(lambda: item.is_settled)

    def finish(self) -> None:
        """Wait until every item is settled."""
        self._work_until(lambda: not (self._queue or self._in_flight or self._one_by_one))

    def fail(self, error: PublishError) -> None:
        """Give up because another call timed out waiting for the broker."""
        self._give_up(error)

    def close(self) -> None:
        """Restore the connection's time-out, or drop the connection if answers are still outstanding."""
        if self._in_flight or self._queue:
            discard(self._connection)
        elif self._channel is not None and self._channel.is_usable:
            self._channel.connection.sock.settimeout(self._usual_bound)

    @property
    def _is_full(self) -> bool:
        return len(self._in_flight) >= WINDOW_ITEMS or self._bytes >= WINDOW_BYTES

    def _is_gathering(self) -> bool:
        """Return whether to hold back queued items, to declare their routes together with the next ones."""
        if self._sent_at is None or time.monotonic() - self._sent_at > _AT_ONCE_SECONDS:
            return False
        is_room = len(self._queue) < MOST_AT_ONCE and len(self._queue[-1].sent) < WINDOW_BYTES // MOST_AT_ONCE
        return is_room and not self._known_routes.is_known(self._queue[0])

    def _work_until(self, is_done: Callable[[], bool]) -> None:
        while self.failure is None and not is_done():
            try:
                self._step()
            except (BlockedError, ConfirmTimeoutError) as error:
                self._give_up(error)
            except self._connection.recoverable_connection_errors as error:
                self._queue.extendleft(reversed(self._lost()))
                self._pause(error)
            except amqp_errors.AMQPError:  # caused by a message in flight; the broker does not say which
                self._one_by_one.extend(self._lost() or [self._queue.popleft()])

    def _step(self) -> None:
        if self._one_by_one and not self._in_flight:
            self._deliver(self._one_by_one.popleft())
        elif self._queue and not self._one_by_one and not self._is_full:
            self._send_next()
        else:
            self._read(self._give_up_at)

    def _send_next(self) -> None:
        item, channel = self._queue[0], self._open()
        if channel is None:
            return
        if not self._in_flight:
            self._read(None)  # notices a connection that the broker closed in the meantime
        channel.wait_until_unblocked(self._give_up_at)
        self._catch_up(item)
        if not self._known_routes.is_known(item):
            self._known_routes.ensure(channel, self._queue, self._give_up_at)
            self._progress()
            self._catch_up(item)
            while self._queue and self._queue[0].is_settled:
                self._queue.popleft()
            return
        if item.is_unanswered or item.channel != self.channel:
            self._encode_again(item)
        item.is_unanswered = True  # the outcome is unknown until the broker answers
        self._in_flight[channel.write(item.sent, item.address)] = item
        self._queue.popleft()
        self._bytes += len(item.sent)
        self._unread += 1
        if self._unread >= _LOOK_EVERY:
            self._read(None)

    def _catch_up(self, item: BulkItem) -> None:
        if item.catch_ups < MOST_CATCH_UPS and item.catch_up(self._way):
            item.catch_ups += 1

    def _encode_again(self, item: BulkItem) -> None:
        outgoing = item.outgoing()
        if item.is_unanswered:
            item.maybe_twice = True
            outgoing.properties["application_headers"][MAYBE_TWICE_HEADER] = True
        item.channel = self.channel
        item.sent = frames.encode(*item.channel, outgoing.address, outgoing.properties, outgoing.body)

    def _read(self, deadline: float | None) -> None:
        """Process the answers that have arrived; with a deadline, wait for at least one."""
        self._unread = 0
        if self._channel is None:  # the connection was lost
            return
        self._channel.read(deadline)
        self._note(self._channel.take_answers())

    def _note(self, answers: dict[int, Confirmation]) -> None:
        for tag, answer in answers.items():
            item = self._in_flight.pop(tag)
            self._bytes -= len(item.sent)
            item.is_unanswered = False
            if answer.outcome is ConfirmOutcome.CONFIRMED:
                item.settle()
            elif answer.outcome is ConfirmOutcome.REFUSED and not self._publisher.is_refused_for_now(item):
                item.settle(_error(QueueFull, item, answer.reason))
            else:  # returned: its queue was deleted, or that or a lane has no leader yet
                self._one_by_one.append(item)
        if answers:
            self._waited_seconds = 0.0
            self._progress()

    def _deliver(self, item: BulkItem) -> None:
        """Send one item and wait for its answer, as `apply_async` does, declaring what is missing."""
        outgoing = item.outgoing()
        self._channel = None
        try:
            self._publisher.deliver(self._connection, outgoing, time.monotonic() + self._timeout_seconds)
        except PublishError as error:
            item.settle(error)
            if isinstance(error, (BrokerUnreachable, PublishTimeout)):
                self._give_up(error)
        else:
            item.settle()
        item.maybe_twice = MAYBE_TWICE_HEADER in outgoing.properties["application_headers"]
        self._progress()

    def _open(self) -> ConfirmChannel | None:
        """Return the channel, connecting if needed; None if the broker refuses the connection."""
        if self._channel is not None:
            return self._channel
        try:
            open_connection(self._connection, self._app.conf.broker_connection_timeout, self._give_up_at)
        except self._connection.recoverable_connection_errors:
            raise
        except amqp_errors.AMQPError as error:
            self._give_up(error)
            return None
        raw = self._connection.connection
        self._usual_bound = raw.sock.gettimeout()
        raw.sock.settimeout(self._timeout_seconds)  # a broker with an alarm stops reading
        self._channel = ConfirmChannel.of(raw)
        self._known_routes.forget()
        return self._channel

    def _lost(self) -> list[BulkItem]:
        """Drop the connection and return the items that were in flight."""
        if self._channel is not None:
            self._note(self._channel.take_answers())
        items = list(self._in_flight.values())
        self._in_flight.clear()
        self._bytes = 0
        self._channel = None
        discard(self._connection)
        return items

    def _progress(self) -> None:
        self._give_up_at = time.monotonic() + self._timeout_seconds - self._waited_seconds
        self._pauses = chain(RETRY_INTERVALS_SECONDS, repeat(RETRY_INTERVALS_SECONDS[-1]))

    def _pause(self, error: Exception) -> None:
        pause = next(self._pauses)
        if time.monotonic() + pause >= self._give_up_at:
            self._give_up(error)
        else:
            time.sleep(pause)

    def _give_up(self, error: Exception) -> None:
        reason = error.reason if isinstance(error, PublishError) else error_text(error)
        left: Iterable[BulkItem] = [*self._one_by_one, *self._lost(), *self._queue]
        for item in sorted(left, key=lambda one: one.number):
            item.settle(_error(PublishTimeout if item.is_unanswered else BrokerUnreachable, item, reason))
            self.failure = self.failure or item.error  # type: ignore[assignment]  # just set by settle
        self._one_by_one.clear()
        self._queue.clear()
        if self.failure is None and isinstance(error, PublishError):
            self.failure = error


def _error(cls: type[PublishError], item: BulkItem, reason: str) -> PublishError:
    return cls(task=item.task, task_id=item.task_id, queue=item.place, reason=reason)


_USUAL_CHANNEL = (1, 131_072)
