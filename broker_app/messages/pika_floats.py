"""Lossless pika headers: floats and undecodable values, which pika itself does not preserve."""

from __future__ import annotations

import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pika import data

from broker_app.wire.field_tables import Encoded, check_depth, read_encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FLOATS = {b"f": struct.Struct(">f"), b"d": struct.Struct(">d")}
_LENGTH = struct.Struct(">I")
_decode, _encode, _decode_table = data.decode_value, data.encode_value, data.decode_table
_here = threading.local()


@contextmanager
def floats_kept() -> Iterator[None]:
    """Make pika preserve every header value, in this thread and for the duration of the block.

    pika 1.4.4 reads floats as integers and cannot write them (pika/data.py), but a task's headers contain some
    (such as its publishing time), and moving a message must preserve them. A header that pika cannot decode would
    close the connection; in the block its value is `Encoded`. pika has no codec of a connection's own, so its
    functions are replaced by ones that do what they did anywhere else: a user's own pika is not affected.
    """
    data.decode_value = _in_block(_decode_value, _decode)
    data.encode_value = _in_block(_encode_value, _encode)
    data.decode_table = _in_block(_decode_headers, _decode_table)
    before, _here.is_in_block = _is_in_block(), True
    try:
        yield
    finally:
        _here.is_in_block = before


def _is_in_block() -> bool:
    return getattr(_here, "is_in_block", False)


def _in_block(ours: Callable[..., Any], pikas: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        return (ours if _is_in_block() else pikas)(*arguments)

    return call


def _decode_headers(encoded: bytes, offset: int) -> tuple[dict[Any, Any], int]:
    """Decode a top-level table: a message's headers."""
    headers: dict[Any, Any] = {}
    limit = offset + _LENGTH.size + _LENGTH.unpack_from(encoded, offset)[0]
    offset += _LENGTH.size
    while offset < limit:
        name, offset = data.decode_short_string(encoded, offset)
        try:
            value, end = _decode_value(encoded, offset)
            check_depth(value, end - offset)
        except Exception as error:  # noqa: BLE001 - OverflowError, ValueError, RecursionError and more
            value, end = read_encoded(encoded, offset, limit, error)
        headers[name], offset = value, end
    return headers, offset


def _decode_value(encoded: bytes, offset: int) -> tuple[Any, int]:
    kind = encoded[offset : offset + 1]
    if kind == b"F":
        table: tuple[Any, int] = _decode_table(encoded, offset + 1)
        return table
    form = _FLOATS.get(kind)
    if form is None:
        decoded: tuple[Any, int] = _decode(encoded, offset)
        return decoded
    return form.unpack_from(encoded, offset + 1)[0], offset + 1 + form.size


def _encode_value(pieces: list[bytes], value: Any) -> int:
    if isinstance(value, Encoded):
        pieces.append(value.data)
        return len(value.data)
    if not isinstance(value, float):
        length: int = _encode(pieces, value)
        return length
    pieces.append(b"d" + _FLOATS[b"d"].pack(value))
    return 9
