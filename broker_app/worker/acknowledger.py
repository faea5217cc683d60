"""Acknowledging what has ended, all at once: one packet for all, and one method for those that stand in a row.

With ``multiple`` an acknowledgement covers every message up to its own (rabbitmq.com/docs/confirms#multi-ack). So
it is used only up to the first message that a worker still holds.
"""

from __future__ import annotations

import logging
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from amqp import spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kombu.message import Message

_ACK = struct.Struct(">BHIHHQBB")  # frame, channel, size, class and method, tag, multiple, end of the frame
_METHOD_FRAME, _FRAME_END = 1, 0xCE
_ACK_BYTES = 13

logger = logging.getLogger(__name__)


class Acknowledger:
    """The messages of a worker that are not settled yet.

    Args:
        errors: What a lost connection raises.
        is_alone: Whether nobody else writes to the connection at the same time; else each message is acknowledged
            for itself, as py-amqp's lock has it.
    """

    def __init__(self, errors: tuple[type[Exception], ...], *, is_alone: bool) -> None:
        self._errors = errors
        self._is_alone = is_alone
        self._held: dict[Any, _Held] = {}  # by channel

    def hold(self, message: Message) -> None:
        """Take note of a message that came, in the order of their coming, settled or not."""
        if not self._is_alone:
            return
        held = self._held.get(message.channel)
        if held is None:
            self._held = {channel: held for channel, held in self._held.items() if channel.connection is not None}
            held = self._held[message.channel] = _Held()
        held.seen += 1
        held.last = message.delivery_tag
        if not message.acknowledged:
            held.messages[message.delivery_tag] = message

    def acknowledge(self, messages: Iterable[Message]) -> None:
        """Acknowledge messages; those of a lost connection come again, and are left alone."""
        ours = [message for message in messages if message.channel.connection is not None]
        if not self._is_alone:
            for message in ours:
                message.ack_log_error(logger, self._errors)
            return
        for channel in {message.channel for message in ours}:
            self._write(channel, [message for message in ours if message.channel is channel])

    def reject(self, message: Message, *, is_requeued: bool) -> None:
        """Reject a message."""
        self._forget([message])
        message.reject_log_error(logger, self._errors, requeue=is_requeued)

    def _forget(self, messages: Iterable[Message]) -> None:
        for message in messages:
            held = self._held.get(message.channel)
            if held is not None:
                held.messages.pop(message.delivery_tag, None)

    def _write(self, channel: Any, messages: list[Message]) -> None:
        tags = sorted(message.delivery_tag for message in messages if not message.acknowledged)
        self._forget(messages)
        for message in messages:
            message._state = "ACK"  # noqa: SLF001 - as its own `ack`, which would write
        held = self._held.get(channel)
        first = 0 if held is None else held.first()
        row = [tag for tag in tags if tag < first]
        single = tags[len(row) :] if len(row) > 1 else tags
        frames = [_ack(channel.channel_id, tag) for tag in single]
        if len(row) > 1:
            frames.append(_ack(channel.channel_id, row[-1], is_multiple=True))
        try:
            channel.connection.transport.write(b"".join(frames))
            channel.connection.bytes_sent += len(frames)  # it counts frames, for the heartbeat
        except self._errors as error:
            logger.warning("could not be acknowledged, and come again: %d messages: %r", len(tags), error)


class _Held:
    """What came by one channel.

    Attributes:
        messages: Those that are not settled, by tag, in the order of delivery.
        seen: How many came.
        last: The last one's tag. A channel's tags are 1, 2, 3 …: if it is not `seen`, one came that is not known.
    """

    __slots__ = ("last", "messages", "seen")

    def __init__(self) -> None:
        self.messages: OrderedDict[int, Message] = OrderedDict()
        self.seen = 0
        self.last = 0

    def first(self) -> float:
        """Return the lowest tag that is not settled, infinity if there is none, 0 if that is not known."""
        if self.seen != self.last:
            return 0
        while self.messages:
            tag, message = next(iter(self.messages.items()))
            if not message.acknowledged:
                return tag
            del self.messages[tag]  # it went back to its queue
        return float("inf")


def _ack(channel: int, tag: int, *, is_multiple: bool = False) -> bytes:
    return _ACK.pack(_METHOD_FRAME, channel, _ACK_BYTES, *spec.Basic.Ack, tag, is_multiple, _FRAME_END)
