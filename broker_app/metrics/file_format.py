"""Bytes of a metrics file.

A file consists of a header and entries. Each entry has a key and numbers, aligned to 8 bytes:

    magic (8 bytes) | bytes used (u64)
    key bytes (u32) | numbers (u32) | key, padded to a multiple of 8 | numbers (f64 each)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"BRAPPM1\n"
HEADER = struct.Struct("=8sQ")
ENTRY = struct.Struct("=II")
NUMBER_BYTES = 8


class CorruptFileError(ValueError):
    """A file is not a metrics file, or is damaged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a file.

    Attributes:
        key: Key bytes.
        offset: Byte offset of the first number.
        count: Number of numbers.
    """

    key: bytes
    offset: int
    count: int


def parse(data: bytes, offset: int = HEADER.size) -> Iterator[Entry]:
    """Yield the entries from an offset on.

    Raises:
        CorruptFileError: The data is not a metrics file, or is damaged.
    """
    end = used_bytes(data)
    while offset < end:
        if offset + ENTRY.size > end:
            raise CorruptFileError(f"an entry at {offset} goes beyond the end at {end}")
        key_bytes, count = ENTRY.unpack_from(data, offset)
        size = entry_bytes(key_bytes, count)
        if offset + size > end:
            raise CorruptFileError(f"an entry of {size} bytes at {offset} goes beyond the end at {end}")
        if key_bytes:
            start = offset + ENTRY.size
            yield Entry(data[start : start + key_bytes], offset + size - count * NUMBER_BYTES, count)
        offset += size


def used_bytes(data: bytes) -> int:
    """Return the used size of a file in bytes; raises the same errors as `parse`."""
    if len(data) < HEADER.size:
        raise CorruptFileError(f"expected at least {HEADER.size} bytes, got {len(data)}")
    magic, used = HEADER.unpack_from(data)
    if not used and not any(magic):
        return HEADER.size  # just created, nothing written yet
    if magic != MAGIC or not HEADER.size <= used <= len(data) or used % NUMBER_BYTES:
        raise CorruptFileError(f"expected {MAGIC!r} and at most {len(data)} bytes, got {magic!r} and {used}")
    return int(used)


def numbers(data: bytes, entry: Entry) -> tuple[float, ...]:
    """Return the numbers of an entry."""
    return struct.unpack_from(f"={entry.count}d", data, entry.offset)


def entry_bytes(key_bytes: int, count: int) -> int:
    """Return the size of an entry in bytes."""
    return ENTRY.size + -(-key_bytes // NUMBER_BYTES) * NUMBER_BYTES + count * NUMBER_BYTES
