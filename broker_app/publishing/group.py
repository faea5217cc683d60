"""Group publishing: sends the members of a group one after the other, then waits for all of the broker's answers.

Celery publishes a group, and the header of a chord, in one block with one producer. When the block ends, each
member is confirmed, or the block raises the error of the first one that is not.
"""

from __future__ import annotations

import struct
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from amqp.exceptions import AMQPError

from broker_app.errors import BrokerError, PublishError, PublishTimeout, QueueFull
from broker_app.wire.confirm_channel import ConfirmChannel, ConfirmOutcome, ConfirmTimeoutError
from broker_app.wire.connection import bounded, discard
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextvars import Context

    from celery import Celery
    from kombu.messaging import Producer

    from broker_app.metrics.producer import PublishScope
    from broker_app.publishing.message import OutgoingMessage
    from broker_app.publishing.publisher import Publisher
    from broker_app.wire.confirm_channel import Confirmation

MAX_IN_FLIGHT = 200
"""Unconfirmed messages of one group; the next one waits for the oldest."""

_ATTRIBUTE = "broker_app_group"


class Member(NamedTuple):
    """A member that was sent.

    Attributes:
        outgoing: The message.
        channel: The channel it was sent on.
        tag: Its tag there.
        deadline: The deadline of its call, on the clock of `time.monotonic`.
        retry: Whether to send it again after a lost connection.
        publication: Counts the outcome.
        tell: Announces that it is confirmed.
    """

    outgoing: OutgoingMessage
    channel: ConfirmChannel
    tag: int
    deadline: float
    retry: bool
    publication: PublishScope
    tell: Callable[[], object]


class GroupPublisher:
    """The unconfirmed members of one group.

    Args:
        app: The app.
        producer: The producer of the group's block, which no other thread uses.
    """

    def __init__(self, app: Celery, producer: Producer) -> None:
        self._app = app
        self._publisher: Publisher = app.amqp.publisher
        self._producer = producer
        self._members: deque[Member] = deque()

    def take(
        self, context: Context, outgoing: OutgoingMessage, message: Any, deadline: float, *, retry: bool
    ) -> bool:
        """Send a member, and return True; return False if it has to be published on its own.

        Args:
            context: The context of the call's signals.
            outgoing: The member.
            message: Celery's message.
            deadline: The deadline of the call, on the clock of `time.monotonic`.
            retry: Whether to send it again after a lost connection.

        Raises:
            PublishError: An earlier member is not confirmed.
        """
        publication = self._app.metrics.publication(outgoing.task, outgoing.spec)
        sent = self._send(outgoing, deadline) if self._publisher.can_send_ahead else None
        if sent is None:
            self.finish()
            return False

        def tell() -> None:
            context.run(self._publisher.tell, self._producer, outgoing, message, retry=retry)

        self._members.append(Member(outgoing, *sent, deadline, retry, publication, tell))
        if len(self._members) > MAX_IN_FLIGHT:
            self._settle(self._members.popleft())
        return True

    def finish(self) -> None:
        """Wait until each member is confirmed or refused.

        Raises:
            PublishError: The error of the first one that was refused; those behind it are not sent again.
        """
        fault: PublishError | None = None
        while self._members:
            try:
                self._settle(self._members.popleft(), is_sent_again=fault is None)
            except PublishError as error:
                fault = fault or error
        if fault is not None:
            raise fault

    def _send(self, outgoing: OutgoingMessage, deadline: float) -> tuple[ConfirmChannel, int] | None:
        """Send a message and return its channel and tag; None if `Publisher.deliver` has to do it."""
        connection = self._producer.connection
        if not connection.connected or ConfirmChannel.is_inherited(connection.connection):
            return None
        try:
            with bounded(connection.connection, deadline):
                channel = ConfirmChannel.of(connection.connection)
                if channel.is_blocked:
                    return None
                self._publisher.ensure_rest(channel, outgoing, deadline)
                outgoing.is_unanswered = True
                return channel, _publish_with_others(outgoing, channel)
        except (*connection.recoverable_connection_errors, AMQPError, BrokerError, PublishError, struct.error):
            return None

    def _settle(self, member: Member, *, is_sent_again: bool = True) -> None:
        """Wait for the answer to a member; if need be, publish it on its own.

        Raises:
            PublishError: It is not confirmed. Also kombu's OperationalError.
        """
        connection = self._producer.connection
        with connection._reraise_as_library_errors(), member.publication as publication:  # noqa: SLF001 - as Celery
            answer = self._answer_to(member)
            member.outgoing.is_unanswered = answer is None
            is_confirmed = answer is not None and answer.outcome is ConfirmOutcome.CONFIRMED
            if not is_confirmed:
                self._check_again(member, answer, is_sent_again=is_sent_again)
                is_confirmed = self._publisher.hand_over(
                    connection, member.outgoing, member.deadline, retry=member.retry
                )
            publication.is_taken = is_confirmed
        if publication.is_taken:
            member.tell()

    def _answer_to(self, member: Member) -> Confirmation | None:
        """Return the broker's answer; None if the channel was lost before it came."""
        channel, connection = member.channel, self._producer.connection
        answer = channel.take_answer(member.tag)
        if answer is not None or not channel.is_usable:
            return answer
        try:
            with bounded(channel.connection, member.deadline):
                return channel.wait(member.tag, member.deadline)
        except ConfirmTimeoutError as error:
            discard(connection)
            raise member.outgoing.refused(PublishTimeout, error_text(error)) from error
        except (*connection.recoverable_connection_errors, AMQPError):
            return None

    def _check_again(self, member: Member, answer: Confirmation | None, *, is_sent_again: bool) -> None:
        """Raise the error of a member that must not be sent again, with the broker's answer or after none."""
        outgoing = member.outgoing
        if answer is None and not (member.retry and is_sent_again):
            raise outgoing.refused(PublishTimeout, "the connection was lost before the broker answered")
        if answer is None or answer.outcome is not ConfirmOutcome.REFUSED:
            return
        if not self._publisher.is_refused_for_now(outgoing):
            raise outgoing.refused(QueueFull, answer.reason)


def _publish_with_others(outgoing: OutgoingMessage, channel: ConfirmChannel) -> int:
    channel.gathers = True
    try:
        return outgoing.publish_on(channel)
    finally:
        channel.gathers = False


@contextmanager
def publishing_group(app: Celery, block: Any) -> Iterator[Producer]:
    """Yield a producer whose groups are published by a `GroupPublisher`; at the end, all members are confirmed.

    Args:
        app: The app.
        block: A context manager that yields a producer.

    Raises:
        PublishError: A member is not confirmed.
    """
    with block as producer:
        group = GroupPublisher(app, producer)
        setattr(producer, _ATTRIBUTE, group)
        try:
            yield producer
        except Exception:
            group.finish()
            raise
        else:
            group.finish()
        finally:
            delattr(producer, _ATTRIBUTE)


def group_of(options: Mapping[str, Any]) -> GroupPublisher | None:
    """Return the group that a call with these options is a member of; None if it is published on its own."""
    if options.get("add_to_parent") is not False or not options.get("group_id"):
        return None
    return getattr(options.get("producer"), _ATTRIBUTE, None)
