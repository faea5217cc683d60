"""A message as the bytes of its AMQP frames, and back.

AMQP 0-9-1, sections 2.3.5 and 4.2: a frame is its type, its channel, its size, the payload, and an end octet. A
message is three kinds of them: the method ``basic.publish``, the header with the properties, and the body, in as
many frames as the agreed size asks for. py-amqp would encode each message anew, headers and all; here what many
messages have in common is encoded once (`broker_app.bulk.mould`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

import amqp
from amqp.serialization import decode_properties_basic, dumps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from broker_app.outgoing import Outgoing

METHOD, HEADER, BODY = 1, 2, 3
END = b"\xce"
BASIC_PUBLISH = (60, 40)
MANDATORY = 1

_FRAME = Struct(">BHI")
_CONTENT = Struct(">HHQ")
_FLAGS = Struct(">H")
_METHOD = Struct(">HHH")
_FRAME_BYTES = _FRAME.size + len(END)


def encode(outgoing: Outgoing, channel: int, frame_max: int) -> bytes:
    """Return a message's frames.

    Args:
        outgoing: The message.
        channel: The channel's number.
        frame_max: The largest frame that the broker takes, in bytes.

    Raises:
        amqp.FrameSyntaxError, struct.error: Something in it cannot be said in AMQP.
    """
    method = publish_method(channel, outgoing.exchange, outgoing.routing_key)
    return join(channel, frame_max, method, properties(outgoing.properties), outgoing.body)


def join(channel: int, frame_max: int, method: bytes, encoded: bytes, body: bytes) -> bytes:
    """Return a message's frames from its parts: the method's frame, the encoded properties, and the body."""
    size = len(body)
    header = _FRAME.pack(HEADER, channel, _CONTENT.size + len(encoded)) + _CONTENT.pack(BASIC_PUBLISH[0], 0, size)
    room = frame_max - _FRAME_BYTES
    if 0 < size <= room:
        return b"".join((method, header, encoded, END, _FRAME.pack(BODY, channel, size), body, END))
    pieces = (body[start : start + room] for start in range(0, size, room))
    return b"".join((method, header, encoded, END, *(frame(BODY, channel, piece) for piece in pieces)))


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return one frame."""
    return _FRAME.pack(kind, channel, len(payload)) + payload + END


def publish_method(channel: int, exchange: str, routing_key: str) -> bytes:
    """Return the frame of a mandatory ``basic.publish``."""
    place: bytes = dumps("sso", [exchange, routing_key, MANDATORY])
    return frame(METHOD, channel, _METHOD.pack(*BASIC_PUBLISH, 0) + place)


def properties(values: Mapping[str, Any]) -> bytes:
    """Return encoded properties: a bit for each that is there, then their values."""
    before, headers, after = split_properties(values)
    return before + table(headers) + after


def split_properties(values: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any], bytes]:
    """Return what stands before the table of the headers, the headers, and what stands behind them."""
    given = [(name, kind) for name, kind in amqp.Message.PROPERTIES if values.get(name) is not None]
    order = [name for name, _ in amqp.Message.PROPERTIES]
    flags = sum(1 << 15 - order.index(name) for name, _ in given)
    place = next(
        (at for at, (name, _) in enumerate(given) if order.index(name) >= order.index(_TABLE)), len(given)
    )
    head, tail = given[:place], [(name, kind) for name, kind in given[place:] if name != _TABLE]
    before, after = (
        dumps("".join(kind for _, kind in part), [values[name] for name, _ in part]) for part in (head, tail)
    )
    return _FLAGS.pack(flags) + before, values.get(_TABLE) or {}, after


def table(headers: Mapping[str, Any]) -> bytes:
    """Return an encoded table, its length before it."""
    encoded: bytes = dumps("F", [headers])
    return encoded


def decode(frames: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the properties and the body of a message that was encoded here."""
    parts = list(_payloads(frames))
    values, _ = decode_properties_basic(parts[1], _CONTENT.size)
    return values, b"".join(parts[2:])


def _payloads(frames: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(frames):
        _, _, size = _FRAME.unpack_from(frames, start)
        start += _FRAME.size
        yield frames[start : start + size]
        start += size + len(END)


_TABLE = "application_headers"
