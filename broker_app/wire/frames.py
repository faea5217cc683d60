"""AMQP frames: encodes messages as frames and decodes them again.

AMQP 0-9-1, sections 2.3.5 and 4.2: a frame consists of type, channel, size, payload and an end octet. A message
has a method frame (``basic.publish``), a header frame with the properties, and as many body frames as the
negotiated frame size requires. py-amqp encodes every message in full; here the parts that many messages share are
encoded once (`broker_app.publishing.bulk.template`).

A third of the processor time of py-amqp's own publishing: benchmarks/codecs.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

import amqp
from amqp.serialization import decode_properties_basic, dumps

from broker_app.wire.field_tables import Encoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

METHOD, HEADER, BODY = 1, 2, 3
END = b"\xce"
BASIC_PUBLISH = (60, 40)
MANDATORY = 1

_FRAME = Struct(">BHI")
_CONTENT = Struct(">HHQ")
_FLAGS = Struct(">H")
_METHOD = Struct(">HHH")
_SHORT = Struct("B")
_LONG = Struct(">I")
_REAL, _INTEGER, _LARGE_INTEGER = Struct(">cd"), Struct(">ci"), Struct(">cq")
_LARGE = 2**31 - 1  # from here on, py-amqp writes eight bytes
_COMMON = frozenset({str, type(None), float, bool, int})
_PROPERTIES = tuple((1 << 15 - at, name, kind) for at, (name, kind) in enumerate(amqp.Message.PROPERTIES))
MAX_KEYS = 1_000
_keys: dict[str, bytes] = {}  # cache of header names: the same few go with every message
_FRAME_BYTES = _FRAME.size + len(END)


def encode(channel: int, frame_max: int, place: tuple[str, str], values: Mapping[str, Any], body: bytes) -> bytes:
    """Return a message's frames.

    Args:
        channel: The channel's number.
        frame_max: The negotiated maximum frame size, in bytes.
        place: Exchange and routing key.
        values: AMQP basic properties, headers included.
        body: Serialised.

    Raises:
        amqp.FrameSyntaxError, struct.error: AMQP cannot encode a value.
    """
    return join(channel, frame_max, publish_method(channel, *place), properties(values), body)


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
    place = _short(exchange) + _short(routing_key) + bytes([MANDATORY])
    return frame(METHOD, channel, _METHOD.pack(*BASIC_PUBLISH, 0) + place)


def properties(values: Mapping[str, Any]) -> bytes:
    """Return encoded properties: a flag bit for each one present, then their values."""
    flags, parts = 0, []
    for bit, name, kind in _PROPERTIES:
        value = values.get(name)
        if value is None:
            continue
        flags |= bit
        if kind == "s":
            parts.append(_short(value))
        elif kind == "F":
            parts.append(table(value))
        else:
            parts.append(dumps(kind, [value]))
    return _FLAGS.pack(flags) + b"".join(parts)


def _short(value: Any) -> bytes:
    if isinstance(value, Encoded):
        value = value.data
    encoded: bytes = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return _SHORT.pack(len(encoded)) + encoded


def split_properties(values: Mapping[str, Any]) -> tuple[bytes, Mapping[str, Any], bytes]:
    """Return the encoded properties before the headers table, the headers, and the encoded properties after it."""
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
    """Return an encoded table with its length first; py-amqp encodes values of rare types."""
    parts: list[bytes] = []
    add, keys, length = parts.append, _keys, _LONG.pack
    for name, value in headers.items():
        kind = type(value)
        key = keys.get(name) or _key(name)
        if kind is Encoded:
            add((key or _short(name)) + value.data)
        elif key is None or kind not in _COMMON:
            add(dumps("F", [{name: value}])[_LONG.size :])
        elif value is None:
            add(key + b"V")
        elif kind is str:
            encoded = value.encode("utf-8", "surrogatepass")
            add(key + b"S" + length(len(encoded)) + encoded)
        elif kind is float:
            add(key + _REAL.pack(b"d", value))
        elif kind is bool:
            add(key + (b"t\x01" if value else b"t\x00"))
        else:
            add(key + (_INTEGER.pack(b"I", value) if abs(value) < _LARGE else _LARGE_INTEGER.pack(b"L", value)))
    encoded = b"".join(parts)
    return _LONG.pack(len(encoded)) + encoded


def _key(name: Any) -> bytes | None:
    """Return an encoded header name from the cache; None if it is not a string."""
    if type(name) is not str:
        return None
    key = _short(name)
    if len(_keys) < MAX_KEYS:
        _keys[name] = key
    return key


def decode(frames: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the properties and the body of a message that was encoded here."""
    parts = list(_payloads(frames))
    values, _ = decode_properties_basic(parts[1], _CONTENT.size)
    return values, b"".join(parts[2:])


def decode_properties(encoded: bytes) -> dict[str, Any]:
    """Return the properties that `properties` encoded."""
    values: dict[str, Any] = decode_properties_basic(encoded, 0)[0]
    return values


def _payloads(frames: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(frames):
        _, _, size = _FRAME.unpack_from(frames, start)
        start += _FRAME.size
        yield frames[start : start + size]
        start += size + len(END)


_TABLE = "application_headers"
