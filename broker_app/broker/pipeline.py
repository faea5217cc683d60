"""Pipelined requests: all are written before the first answer is read, so they share one round trip.

On a link with a round trip of 400 ms, thirty declarations one after the other take twelve seconds. AMQP does not
ask clients to wait: a broker carries out the requests on a channel in their order, and closes the channel at the
first one that it refuses (AMQP 0-9-1, section 2.2.4).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import amqp
from amqp import spec
from kombu.transport import pyamqp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_CHANNELS = 500
"""Groups in flight at once, one channel each; RabbitMQ allows 2,047 channels per connection."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a group.

    Attributes:
        subject: The object of the request, for error messages.
        send: Calls a method of the channel; its return value is ignored, since the answer has not arrived yet.
    """

    subject: str
    send: Callable[[amqp.Channel], object]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first request of a group that the broker refused; the later ones were not carried out.

    Attributes:
        number: Its index in the group, from 0.
        subject: The object of the request.
        error: The broker's answer.
    """

    number: int
    subject: str
    error: amqp.ChannelError


def carry_out(
    connection: amqp.Connection, groups: Sequence[Sequence[Request]], deadline: float | None = None
) -> list[Refusal | None]:
    """Carry out groups of requests, each on its own channel, in one round trip per `MOST_CHANNELS` groups.

    Args:
        connection: An open py-amqp connection.
        groups: Requests are carried out in order within a group, and in any order between groups.
        deadline: A `time.monotonic` time; None applies the time-out of the connection's socket to each read.

    Returns:
        The refusal of each group, or None if all of its requests were carried out.

    Raises:
        TimeoutError: Answers were missing at the deadline; drop the connection.
        amqp.AMQPError, OSError: The connection was lost.
    """
    found: list[Refusal | None] = []
    try:
        for start in range(0, len(groups), MOST_CHANNELS):
            found += _one_round(connection, groups[start : start + MOST_CHANNELS], deadline)
    except (KeyboardInterrupt, SystemExit):  # the stream may have been cut inside a frame
        connection.collect()
        raise
    return found


def _one_round(
    connection: amqp.Connection, groups: Sequence[Sequence[Request]], deadline: float | None
) -> list[Refusal | None]:
    channels = [_Channel(connection) for _ in groups]
    for channel, requests in zip(channels, groups, strict=True):
        channel.open()
        for request in requests:
            request.send(channel)
        channel.close()
    for channel in channels:
        while channel.connection is not None:
            connection.drain_events(timeout=None if deadline is None else _left(deadline))
    return [channel.refusal(requests) for channel, requests in zip(channels, groups, strict=True)]


class _Channel(pyamqp.Channel):
    """A channel whose methods write without waiting; it counts the answers and keeps the broker's refusal."""

    _OPENING_AND_CLOSING = frozenset({spec.Channel.OpenOk, spec.Channel.Close, spec.Channel.CloseOk})

    def __init__(self, connection: amqp.Connection) -> None:
        super().__init__(connection)
        self._answered = 0
        self._error: amqp.ChannelError | None = None

    def refusal(self, requests: Sequence[Request]) -> Refusal | None:
        """Return the refusal, once the broker has answered every request."""
        if self._error is None:
            return None
        number = min(self._answered, len(requests) - 1)
        return Refusal(number, requests[number].subject, self._error)

    def wait(self, *_args: Any, **_options: Any) -> tuple[str, int, int]:
        """Return at once, with placeholders for the three values of ``queue.declare-ok``."""
        return "", 0, 0

    def close(self, *_args: Any, **_options: Any) -> None:
        """Ask the broker to close the channel; it is closed once the broker answers, also after a refusal."""
        self.send_method(spec.Channel.Close, "BsBB", (0, "", 0, 0))

    def dispatch_method(self, method_sig: tuple[int, int], payload: bytes, content: Any) -> None:
        """Count the answer, then handle it."""
        if method_sig not in self._OPENING_AND_CLOSING:
            self._answered += 1
        super().dispatch_method(method_sig, payload, content)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        """Keep the refusal; py-amqp's own handler would reopen the channel and wait for the answer."""
        self._error = amqp.error_for_code(reply_code, reply_text, (class_id, method_id), amqp.ChannelError)

    def _on_close_ok(self) -> None:
        """Confirm the broker's close only now that it has confirmed ours.

        A broker that gets both at once ends the channel before it has written its own confirmation, now and then
        (1 of 3,000 under load, RabbitMQ 3.10 and 4.3), and a client would wait for that forever.
        """
        if self._error is not None:
            self.send_method(spec.Channel.CloseOk)
        super()._on_close_ok()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the broker did not answer in time")
    return left
