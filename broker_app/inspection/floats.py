"""Floats in headers, as pika does not have them."""

from __future__ import annotations

import struct
from typing import Any

from pika import data

_FLOATS = {b"f": struct.Struct(">f"), b"d": struct.Struct(">d")}
_decode, _encode = data.decode_value, data.encode_value


def keep_floats() -> None:
    """Let this process's pika carry floats: 1.4.4 reads one as an integer and cannot write any (pika/data.py).

    A task's headers have them (when it was published), and a message that is moved must not lose them.
    """
    data.decode_value, data.encode_value = _decode_value, _encode_value


def _decode_value(encoded: bytes, offset: int) -> tuple[Any, int]:
    form = _FLOATS.get(encoded[offset : offset + 1])
    if form is None:
        decoded: tuple[Any, int] = _decode(encoded, offset)
        return decoded
    return form.unpack_from(encoded, offset + 1)[0], offset + 1 + form.size


def _encode_value(pieces: list[bytes], value: Any) -> int:
    if not isinstance(value, float):
        length: int = _encode(pieces, value)
        return length
    pieces.append(b"d" + _FLOATS[b"d"].pack(value))
    return 9
