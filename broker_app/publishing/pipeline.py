"""Pipeline: sends the messages of several plain calls together, then waits for all of the broker's answers.

A call is plain if its message comes from a template (`SingleCalls`). Any other call is made as usual.
"""

from __future__ import annotations

import struct
import time
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError

from broker_app.errors import BrokerUnreachable
from broker_app.publishing.group import GroupPublisher, Member
from broker_app.wire.confirm_channel import ConfirmChannel
from broker_app.wire.connection import bounded, discard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from broker_app.metrics.producer import PublishScope
    from broker_app.publishing.message import OutgoingMessage
    from broker_app.publishing.single import TemplatedMessage
    from broker_app.wire.confirm_channel import Address

MAX_BYTES = 1024 * 1024
"""Bytes of messages that are sent at once."""

_current: ContextVar[Pipeline | None] = ContextVar("broker_app_pipeline", default=None)


def current_pipeline() -> Pipeline | None:
    """Return the pipeline for a plain call in the current context; None if it is published on its own."""
    return _current.get()


def use_pipeline(pipeline: Pipeline) -> None:
    """Publish the plain calls of the current context through a pipeline."""
    _current.set(pipeline)


@dataclass(eq=False, slots=True)
class SentCall:
    """A call whose message was sent, or will be with the next ones.

    Attributes:
        outgoing: The message.
        deadline: The deadline of the call, on the clock of `time.monotonic`.
        retry: Whether to send it again after a lost connection.
        frames: The encoded message.
        publication: Counts the outcome.
        error: Why it is not confirmed; None if it is, or not yet.
    """

    outgoing: OutgoingMessage
    deadline: float
    retry: bool
    frames: tuple[bytes, Address]
    publication: PublishScope
    error: Exception | None = None


class _Frames:
    """A channel that keeps the frames of a message."""

    def __init__(self, channel: ConfirmChannel) -> None:
        self.number, self.connection = channel.number, channel.connection
        self.kept: tuple[bytes, Address] = (b"", ("", "", ""))

    def send(self, frames: bytes, address: Address) -> int:
        self.kept = frames, address
        return 0


class Pipeline(GroupPublisher):
    """The messages of several calls on one connection, each with its own outcome.

    System calls let other threads run, and cost most of the time then: there are few for all messages.

    Args:
        app: The app.
        connection: The connection, which no other thread uses.

    Attributes:
        plain: Number of plain calls without a delay.
    """

    def __init__(self, app: Celery, connection: Any) -> None:
        super().__init__(app, SimpleNamespace(connection=connection))  # type: ignore[arg-type] # all that it uses
        self.connection = connection
        self.plain = 0
        self._unreachable: str | None = None
        self._channel = self._open_channel()
        self._kept: list[SentCall] = []
        self._bytes = 0
        self._last: SentCall | None = None

    def send(self, outgoing: TemplatedMessage, deadline: float, *, retry: bool) -> None:
        """Send a message with the next ones; one that waits in a delay lane, or a first one, is published.

        Raises:
            PublishError: It was published, and not confirmed.
        """
        if self._channel is None or not self._channel.is_usable:
            self.settle()
            self._channel = self._open_channel()
        frames = self._encoded(outgoing)
        self.plain += not outgoing.delay.lanes
        if frames is None:
            self._publish(outgoing, deadline, retry=retry)
            return
        publication = self._app.metrics.publication(outgoing.task, outgoing.spec)
        self._last = SentCall(outgoing, deadline, retry, frames, publication)
        self._kept.append(self._last)
        self._bytes += len(frames[0])
        if self._bytes >= MAX_BYTES:
            self.settle()

    def take_last(self) -> SentCall | None:
        """Return the message of the call that was just made; None if its outcome is known."""
        last, self._last = self._last, None
        return last

    def settle(self) -> None:
        """Send all messages, wait for the answers, and keep each one's error."""
        channel, kept = self._channel, self._kept
        self._kept, self._bytes = [], 0
        if channel is None or not kept:
            return
        for call, tag in zip(kept, self._send_all(channel, kept), strict=True):
            limits = call.deadline, call.retry
            try:
                self._settle(Member(call.outgoing, channel, tag, *limits, call.publication, _tell_nobody))
            except Exception as error:  # noqa: BLE001 - raised in the call's coroutine
                call.error = error

    def _open_channel(self) -> ConfirmChannel | None:
        """Return the channel; None if the first message has to open it, or the broker blocks publishers."""
        connection = self.connection
        if not connection.connected or ConfirmChannel.is_inherited(connection.connection):
            return None
        try:
            channel = ConfirmChannel.of(connection.connection)
        except (*connection.recoverable_connection_errors, AMQPError):
            return None
        return None if channel.is_blocked else channel

    def _publish(self, outgoing: TemplatedMessage, deadline: float, *, retry: bool) -> None:
        """Publish a message on its own; if its time is over and the broker was just away, it still is."""
        if self._unreachable is not None and time.monotonic() >= deadline:
            with self._app.metrics.publication(outgoing.task, outgoing.spec):
                raise outgoing.refused(BrokerUnreachable, self._unreachable)
        try:
            with self.connection._reraise_as_library_errors():  # noqa: SLF001 - as Celery
                self._publisher.send_packed(self.connection, outgoing, deadline, retry=retry)
        except BrokerUnreachable as error:
            self._unreachable = error.reason
            raise
        self._unreachable = None

    def _encoded(self, outgoing: TemplatedMessage) -> tuple[bytes, Address] | None:
        """Return a message's frames; None if it has to be published on its own."""
        if self._channel is None or outgoing.delay.lanes:
            return None
        frames = _Frames(self._channel)
        try:
            outgoing.publish_on(frames)  # type: ignore[arg-type] # all that it uses
        except struct.error:
            return None
        return frames.kept

    def _send_all(self, channel: ConfirmChannel, calls: list[SentCall]) -> Sequence[int]:
        """Send messages and return their tags; after an error, the channel is gone and no tag has an answer."""
        unsent = [0] * len(calls)
        if not channel.is_usable:
            return unsent
        for call in calls:
            call.outgoing.is_unanswered = True
        try:
            with bounded(channel.connection, min(call.deadline for call in calls)):
                return channel.send_all([call.frames for call in calls])
        except (*self.connection.recoverable_connection_errors, AMQPError):
            discard(self.connection)
            return unsent


def _tell_nobody() -> None:
    """Announce nothing: plain calls have no receivers of signals."""
