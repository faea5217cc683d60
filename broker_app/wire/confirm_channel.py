"""Confirm channel: publisher confirms, with each answer matched to its own message.

py-amqp can wait for an ack but does not check which message it confirms: after a returned message or a time-out,
the next publish would take the late ack as its own. Here every publish is tracked by its delivery tag.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import amqp
from amqp.transport import TCPTransport

from broker_app.wire import frames
from broker_app.wire.pending_confirms import PendingConfirms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class ConfirmOutcome(Enum):
    """The broker's answer to one message."""

    CONFIRMED = auto()
    REFUSED = auto()
    RETURNED = auto()


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The broker's answer to one publish.

    Attributes:
        outcome: CONFIRMED: it is in a queue (for quorum queues, on a majority of nodes). REFUSED: a nack.
            RETURNED: it could not be routed to a queue.
        reason: Why it was refused or returned.
    """

    outcome: ConfirmOutcome
    reason: str = ""


class BlockedError(TimeoutError):
    """The broker blocks publishers (a memory or disk alarm): nothing was sent."""


class ConfirmTimeoutError(TimeoutError):
    """The message was sent, but the broker did not answer in time."""


class ConfirmChannel:
    """A dedicated channel for publishing. Nothing else publishes on it, so it can count delivery tags.

    Attributes:
        gathers: Whether `send` lets the kernel buffer, as `write` does.
    """

    def __init__(self, connection: amqp.Connection) -> None:
        self.is_blocked = False
        self.gathers = False
        self.seen: dict[str, float] = {}  # when each queue was last seen, on the clock of time.monotonic
        self.connection = connection
        self._is_open = True
        self._process = os.getpid()
        self._channel = connection.channel()
        self._channel.confirm_select(nowait=True)  # no round trip: if it fails, the broker closes the channel
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        connection.on_blocked = self._on_blocked
        connection.on_unblocked = self._on_unblocked
        self._is_readable: Callable[[], bool] | None = None
        if isinstance(connection.transport, TCPTransport):  # TLS reads ahead by itself
            self._is_readable = _readiness(connection.sock)
            _read_ahead(connection.transport)
        self._can_gather = bool(_MSG_MORE) and not isinstance(connection.sock, ssl.SSLSocket)
        self._is_gathering = False
        self._pending: PendingConfirms[Address] = PendingConfirms()
        self._answers: dict[int, Confirmation] = {}
        self._returns: dict[int, Confirmation] = {}

    @classmethod
    def of(cls, connection: amqp.Connection) -> ConfirmChannel:
        """Return the connection's confirm channel, opening one if needed.

        The channel is stored on the connection object and so shares its lifetime.
        """
        channel: ConfirmChannel | None = getattr(connection, _ATTRIBUTE, None)
        if channel is None or not channel.is_usable:
            channel = cls(connection)
            setattr(connection, _ATTRIBUTE, channel)
        return channel

    @classmethod
    def is_inherited(cls, connection: amqp.Connection) -> bool:
        """Return whether the connection was opened by the parent process before a fork."""
        channel: ConfirmChannel | None = getattr(connection, _ATTRIBUTE, None)
        return channel is not None and channel._process != os.getpid()  # noqa: SLF001 - its own class

    @property
    def number(self) -> int:
        """The AMQP channel number."""
        number: int = self._channel.channel_id
        return number

    @property
    def is_usable(self) -> bool:
        """True if neither side has closed the channel."""
        return self._is_open and self._channel.connection is not None

    def publish(self, body: bytes, properties: Mapping[str, Any], exchange: str, routing_key: str) -> int:
        """Send one mandatory message and return its tag.

        Args:
            body: The serialised body.
            properties: AMQP basic properties by py-amqp's names. The ``correlation_id`` matches a returned message
                to its tag. Among messages with the same one (or none), exchange and key, it is the oldest.
            exchange: The exchange's name.
            routing_key: At most 255 bytes.

        Raises:
            amqp.AMQPError, OSError: The channel or the connection is closed.
            amqp.FrameSyntaxError, struct.error: AMQP cannot encode a property; nothing was sent.
        """
        sent = frames.encode(self.number, self.connection.frame_max, (exchange, routing_key), properties, body)
        return self.send(sent, (properties.get("correlation_id"), exchange, routing_key))

    def send(self, frames: bytes, address: Address) -> int:
        """Send one encoded mandatory message, at once unless `gathers` is set, and return its tag.

        Args:
            frames: From `broker_app.wire.frames`, for this channel's `number`.
            address: Matches the message to its tag if it is returned.

        Raises:
            amqp.AMQPError, OSError: The channel or the connection is closed.
        """
        if self._has_news():
            self._read_news()
        try:
            if self.gathers:
                return self.write(frames, address)
            self.connection.transport.write(frames)
        except TimeoutError as error:  # a partial frame may be written, so the connection is unusable
            raise amqp.RecoverableConnectionError("the broker did not read in time") from error
        # Only now: the broker does not count a message that could not be encoded.
        return self._pending.add(address)

    def send_all(self, messages: Sequence[tuple[bytes, Address]]) -> list[int]:
        """Send several encoded mandatory messages at once, with one system call; see `send`."""
        first, *rest = messages
        tag = self.send(b"".join(frames for frames, _ in messages), first[1])
        return [tag, *(self._pending.add(address) for _, address in rest)]

    def write(self, frames: bytes, address: Address) -> int:
        """Send one encoded mandatory message and return its tag.

        The kernel buffers writes until a packet is full or an answer is awaited, for at most 200 ms (tcp(7),
        TCP_CORK), because the broker pays for each packet.

        Args:
            frames: From `broker_app.wire.frames`, for this channel's `number`.
            address: Matches the message to its tag if it is returned.

        Raises:
            OSError: The connection is broken, or the write timed out.
        """
        if self._can_gather:
            self.connection.sock.sendall(frames, _MSG_MORE)
            self._is_gathering = True
        else:
            self.connection.transport.write(frames)
        return self._pending.add(address)

    def read(self, deadline: float | None = None) -> None:
        """Read answers, for `take_answers`.

        Args:
            deadline: Wait until then for at least one answer; None reads only data that has arrived.

        Raises:
            ConfirmTimeoutError: None came before the deadline.
            amqp.AMQPError, OSError: The channel or the connection was closed.
        """
        while deadline is not None and not self._answers:
            self._drain(deadline)
        self._read_news()

    def take_answers(self) -> dict[int, Confirmation]:
        """Return and clear the answers that no call to `wait` has taken, by tag."""
        answers, self._answers = self._answers, {}
        return answers

    def take_answer(self, tag: int) -> Confirmation | None:
        """Return the answer to a tag if it has arrived."""
        return self._answers.pop(tag, None)

    def wait(self, tag: int, deadline: float) -> Confirmation:
        """Return the answer to a tag.

        Args:
            tag: From `publish`.
            deadline: On the clock of `time.monotonic`, in seconds.

        Raises:
            ConfirmTimeoutError: None came before the deadline.
            amqp.AMQPError, OSError: The channel or the connection was closed instead.
        """
        while tag not in self._answers:
            self._drain(deadline)
        return self._answers.pop(tag)

    def wait_until_unblocked(self, deadline: float) -> None:
        """Wait while the broker blocks publishers; return at once if it does not.

        Raises:
            BlockedError: Publishers were still blocked at the deadline.
        """
        while self.is_blocked:
            try:
                self._drain(deadline)
            except ConfirmTimeoutError as error:
                raise BlockedError("the broker blocks publishers (memory or disk alarm)") from error

    def close(self) -> None:
        """Close the channel if the connection is still open. `of` then opens a new one, with an empty `seen`."""
        self._is_open = False
        if self._channel.connection is not None and self._channel.is_open:
            self._channel.close()

    def _has_news(self) -> bool:
        """Return whether data from the broker is waiting, such as a close or a blocked notification."""
        transport = self.connection.transport
        return self._is_readable is None or bool(transport._read_buffer) or self._is_readable()  # noqa: SLF001

    def _read_news(self) -> None:
        with suppress(ConfirmTimeoutError):
            while True:
                self._drain(None)

    def _drain(self, deadline: float | None) -> None:
        """Read one frame; without a deadline, only one that has already arrived."""
        if deadline is not None and self._is_gathering:
            self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # flushes buffered writes
            self._is_gathering = False
        left = 0.0 if deadline is None else deadline - time.monotonic()
        if left <= 0 and deadline is not None:
            raise ConfirmTimeoutError("the broker did not answer in time")
        bound = self.connection.sock.gettimeout()  # see `broker_app.wire.connection.bounded`
        is_bounded = bound is not None and _MOST_OF * bound <= left <= bound
        try:
            self.connection.drain_events(timeout=None if is_bounded else left)
        except TimeoutError as error:
            raise ConfirmTimeoutError("the broker did not answer in time") from error
        except amqp.ChannelError:
            self.close()  # py-amqp has reopened it without confirms, and its tags count from 1
            raise

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's signature
        for answered, _ in self._pending.take(tag, multiple=multiple):
            self._answers[answered] = self._returns.pop(answered, _CONFIRMED)

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's signature
        for answered, _ in self._pending.take(tag, multiple=multiple):
            self._answers[answered] = _REFUSED

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: amqp.Message) -> None:
        del error
        returned = (message.properties.get("correlation_id"), exchange, routing_key)
        reason = f"no queue is bound to exchange {exchange!r} with the routing key {routing_key!r}"
        for tag, address in self._pending.oldest_first():
            if address == returned and tag not in self._returns:
                self._returns[tag] = Confirmation(ConfirmOutcome.RETURNED, reason)
                return

    def _on_blocked(self, reason: str) -> None:
        del reason
        self.is_blocked = True

    def _on_unblocked(self) -> None:
        self.is_blocked = False


def _readiness(sock: Any) -> Callable[[], bool]:
    """Return a function that checks whether the socket is readable; eventlet removes ``select.poll``."""
    if not hasattr(select, "poll"):
        return lambda: bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return lambda: bool(poll.poll(0))


def _read_ahead(transport: TCPTransport) -> None:
    """Make py-amqp read all available data into its buffer, instead of three system calls for each frame."""
    receive = transport.sock.recv
    transport._quick_recv = lambda wanted: receive(max(wanted, READ_BYTES))  # noqa: SLF001 - py-amqp keeps the surplus


Address = tuple[str | None, str, str]
"""Identifies a returned message: correlation id, exchange and routing key."""

READ_BYTES = 4_096
_MOST_OF = 0.98
"""A socket's time-out is kept if it is this close to the time left: changing it costs two system calls."""

_MSG_MORE: int = getattr(socket, "MSG_MORE", 0)  # Linux only
_ATTRIBUTE = "broker_app_confirm_channel"
_CONFIRMED = Confirmation(ConfirmOutcome.CONFIRMED)
_REFUSED = Confirmation(
    ConfirmOutcome.REFUSED, "the queue refused it: its length limit is reached, or it has no leader"
)
