"""AMQP field tables: decoding that keeps a message readable despite undecodable values.

RabbitMQ accepts more than Python can decode: a timestamp after the year 9999 (clients in other languages send
milliseconds), tables nested a thousand deep, text that is not UTF-8. py-amqp and pika raise an exception, which
ends the worker or command that reads the message. Here such a value is kept as bytes and forwarded unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any

from amqp import Message, abstract_channel, serialization, spec
from amqp.serialization import decode_properties_basic, loads

UNREADABLE = "broker_app_unreadable"
"""Extra property of a message that was read: names the undecodable properties, with reasons."""

MAX_DEPTH = 50
"""Maximum nesting of arrays and tables in a header; deeper nesting exhausts Python's stack when it is copied."""

MAX_REASON_CHARACTERS = 200

_FLAGS, _LONG = Struct(">H"), Struct(">I")
_SIZES = {
    letter: size
    for size, letters in ((0, "V"), (1, "tbB"), (2, "sUu"), (4, "Iif"), (5, "D"), (8, "lLdT"))
    for letter in letters
}
"""Size of a value in bytes by its type letter, rabbitmq.com/amqp-0-9-1-errata#section_3."""

_COUNTED = "SxFA"
"""Type letters of values that start with their length."""

_NESTING_BYTES = 5
"""Minimum size of one level of nesting."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An undecodable value.

    Attributes:
        data: Its bytes; for a header, preceded by the type letter.
        reason: The decoding error.
    """

    data: bytes
    reason: str


def accept_undecodable() -> None:
    """Patch py-amqp in this process to read undecodable messages; see `read_properties`."""
    serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID] = read_properties
    abstract_channel.loads = _read_arguments


def read_properties(data: bytes, offset: int) -> tuple[dict[str, Any], int]:
    """Return a message's properties by py-amqp's names, and the offset of their end.

    Undecodable values become `Encoded` and are listed under `UNREADABLE`.

    Args:
        data: The payload of a content header frame.
        offset: Offset of the property flags.
    """
    try:
        properties, end = decode_properties_basic(data, offset)
        check_depth(properties.get("application_headers"), len(data))
    except Exception:  # noqa: BLE001 - OverflowError, ValueError, RecursionError, struct.error and more
        return _salvage(data, offset), len(data)
    return properties, end


def read_item(data: bytes, offset: int) -> tuple[Any, int]:
    """Return a header's value and the offset of its end.

    Args:
        data: The table.
        offset: Offset of the type letter.

    Raises:
        Exception: Decoding failed.
    """
    value, end = serialization._read_item(data, offset)  # noqa: SLF001 - py-amqp has no public one
    check_depth(value, end - offset)
    return value, end


def check_depth(value: object, encoded_bytes: int) -> None:
    """Raise ValueError if a value is nested deeper than `MAX_DEPTH`."""
    if encoded_bytes > MAX_DEPTH * _NESTING_BYTES and not _is_within(value, MAX_DEPTH):
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def read_encoded(data: bytes, offset: int, limit: int, error: Exception) -> tuple[Encoded, int]:
    """Return an undecodable header value in encoded form, and the offset of its end.

    Args:
        data: The table.
        offset: Offset of the type letter.
        limit: End of the table, and of a value of unknown length.
        error: The decoding error.
    """
    letter, end = chr(data[offset]), offset + 1
    if letter in _SIZES:
        end += _SIZES[letter]
    elif letter in _COUNTED and end + _LONG.size <= limit:
        end += _LONG.size + _LONG.unpack_from(data, end)[0]
    else:
        end = limit
    end = min(end, limit)
    return Encoded(bytes(data[offset:end]), repr(error)[:MAX_REASON_CHARACTERS]), end


def unreadable(headers: dict[Any, Any]) -> str:
    """Return the names of `Encoded` headers with their reasons, or an empty string."""
    return "; ".join(
        f"header {name!r}: {value.reason}" for name, value in headers.items() if isinstance(value, Encoded)
    )


def _is_within(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return levels > 0 and all(_is_within(inner, levels - 1) for inner in value)


def _salvage(data: bytes, offset: int) -> dict[str, Any]:
    """Decode the properties one by one, as far as possible."""
    (flags,) = _FLAGS.unpack_from(data, offset)
    offset += _FLAGS.size
    properties: dict[str, Any] = {}
    for at, (name, kind) in enumerate(_KINDS):
        if flags & 1 << 15 - at:
            properties[name], offset = _READ[kind](data, offset)
    strange = [f"{name}: {value.reason}" for name, value in properties.items() if isinstance(value, Encoded)]
    strange += filter(None, [unreadable(properties.get("application_headers") or {})])
    return properties | {UNREADABLE: "; ".join(strange) or "cannot decode the properties"}


def _read_table(data: bytes, offset: int) -> tuple[dict[Any, Any], int]:
    begin = offset + _LONG.size
    limit = min(begin + _LONG.unpack_from(data, offset)[0], len(data))
    table: dict[Any, Any] = {}
    while begin < limit:
        name, begin = _read_text(data, begin)
        try:
            value, end = read_item(data, begin)
        except Exception as error:  # noqa: BLE001 - see `read_properties`
            value, end = read_encoded(data, begin, limit, error)
        table[name.data if isinstance(name, Encoded) else name] = value
        begin = end
    return table, limit


def _read_text(data: bytes, offset: int) -> tuple[str | Encoded, int]:
    end = offset + 1 + data[offset]
    text = bytes(data[offset + 1 : end])
    try:
        return text.decode("utf-8", "surrogatepass"), end
    except UnicodeDecodeError as error:
        return Encoded(text, repr(error)[:MAX_REASON_CHARACTERS]), end


def _read_octet(data: bytes, offset: int) -> tuple[int, int]:
    return data[offset], offset + 1


def _read_number(data: bytes, offset: int) -> tuple[int, int]:
    return int.from_bytes(data[offset : offset + 8], "big"), offset + 8


_KINDS = Message.PROPERTIES
_READ: dict[str, Any] = {"s": _read_text, "F": _read_table, "o": _read_octet, "L": _read_number}


def _read_arguments(kinds: str, data: bytes, offset: int) -> tuple[list[Any], int]:
    """Return a method's arguments as py-amqp does, but accept a routing key that is not UTF-8."""
    try:
        found: tuple[list[Any], int] = loads(kinds, data, offset)
    except UnicodeDecodeError:
        values = []
        for kind in kinds:
            if kind == "s":
                value, offset = read_key(data, offset)
            else:
                (value,), offset = loads(kind, data, offset)
            values.append(value)
        return values, offset
    return found


def read_key(data: bytes, offset: int) -> tuple[str, int]:
    """Return a short string, with bytes that are not UTF-8 escaped, and the offset of its end."""
    end = offset + 1 + data[offset]
    return bytes(data[offset + 1 : end]).decode("utf-8", "backslashreplace"), end
