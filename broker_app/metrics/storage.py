"""The numbers of one process, in its memory and in a file.

What is counted is in the file at once, so it survives the process's sudden end. A process locks its file, and the
system frees it when the process ends; the next process of the same kind goes on in it. So counters go on over a
restart, and there are never more files than processes ran at once.

The file is written and not mapped: whoever cuts a mapped file short ends the process by SIGBUS at its next count
(mmap(2)). One that was cut short, or removed, is written anew from memory: see `MetricFile.restore`.

A file is a header and entries, each a key and some numbers, at addresses that are multiples of 8:

    magic (8 bytes) | bytes used (u64)
    key bytes (u32) | numbers (u32) | key, filled up to a multiple of 8 | numbers (f64 each)

No entry crosses the end of a chunk: each chunk is a piece of memory of its own, so a file grows without moving
what was handed out. The space is reserved from the file system: a full disk is an error when the file grows, and
not when a number is written.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.settings.private_files import make_private_folder, open_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Cells = tuple["Chunk", int]
    """Where numbers are: the chunk, and the index of the first."""

MAGIC = b"BRAPPM1\n"
HEADER = struct.Struct("=8sQ")
ENTRY = struct.Struct("=II")
CHUNK_BYTES = 64 * 1024

MAX_CHUNKS = 64
MAX_FILES = 1_000
SUFFIX = ".metrics"

_NUMBER_BYTES = 8


class CorruptFileError(ValueError):
    """A file is none of ours, or was damaged."""


class FullError(OSError):
    """A file may not grow any more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a file.

    Attributes:
        key: As it was written.
        offset: Of its first number, in bytes.
        count: Of its numbers.
    """

    key: bytes
    offset: int
    count: int


class Chunk:
    """Numbers in memory; a file has them too once they are written.

    Args:
        size: In bytes.
        file: Whose part it is; None if it is in memory alone.
        offset: In that file.

    Attributes:
        bytes: All of it.
        numbers: The same, as numbers.
    """

    __slots__ = ("_file", "_offset", "bytes", "numbers")

    def __init__(self, size: int, file: MetricFile | None = None, offset: int = 0) -> None:
        self.bytes = memoryview(bytearray(size))
        self.numbers = self.bytes.cast("d")
        self._file = file
        self._offset = offset

    def __getitem__(self, index: int) -> float:
        """Return a number."""
        return self.numbers[index]

    def __setitem__(self, index: int, value: float) -> None:
        """Set a number, in the file too."""
        self.numbers[index] = value
        self.write(index, index + 1)

    def write(self, first: int, end: int) -> None:
        """Put numbers that were changed in memory into the file, in one call."""
        if self._file is not None:
            start = first * _NUMBER_BYTES
            self._file.write(self.bytes[start : end * _NUMBER_BYTES], self._offset + start)


class MetricFile:
    """A file that this process has locked.

    Args:
        path: The file, for messages to people.
        descriptor: Open for reading and writing, and locked.

    Raises:
        CorruptFileError: What is in it is not ours.
        OSError: It cannot be read or grow.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._chunks: list[Chunk] = []
        self._is_whole = True
        size = os.fstat(descriptor).st_size
        data = os.pread(descriptor, size, 0)
        self.entries = {entry.key: entry for entry in parse(data)} if size else {}
        self._used = used_bytes(data) if size else HEADER.size
        for offset in range(0, max(1, size), CHUNK_BYTES):
            part = data[offset : offset + CHUNK_BYTES]
            self._add_chunk().bytes[: len(part)] = part
        self._use(0)

    @classmethod
    def take(cls, folder: Path, stem: str) -> MetricFile:
        """Lock the first file of a kind that no process has, or make one.

        Args:
            folder: It is made if need be, for its owner only.
            stem: The kind; the files are ``<stem>.<number>.metrics``.

        Raises:
            OSError: The folder cannot be written, or locks are not to be had there.
        """
        make_private_folder(folder)
        for path, descriptor in _free_files(folder, stem):
            try:
                return cls(path, descriptor)
            except CorruptFileError:
                path.unlink(missing_ok=True)  # begun anew under the next number
                os.close(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        raise AssertionError("unreachable")  # pragma: no cover - _free_files raises when there is none

    def cells(self, key: bytes, count: int) -> Cells:
        """Return where the numbers of a key are, zeros if it is new.

        Raises:
            FullError: There is no room for it.
            OSError: The disk is full.
        """
        entry = self.entries.get(key)
        if entry is None or entry.count != count:
            entry = self.entries[key] = self._append(key, count)
        chunk, place = divmod(entry.offset, CHUNK_BYTES)
        return self._chunks[chunk], place // _NUMBER_BYTES

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write what memory has; what cannot be written now, `restore` writes later."""
        try:
            os.pwrite(self._descriptor, data, offset)
        except OSError:
            self._is_whole = False

    def restore(self) -> bool:
        """Write the file anew if somebody has cut it short or removed it; return whether that was so.

        Raises:
            OSError: It cannot be written.
        """
        status = os.fstat(self._descriptor)
        if status.st_nlink and self._is_whole and status.st_size >= len(self._chunks) * CHUNK_BYTES:
            return False
        if not status.st_nlink:
            self._take_new()
        for number, chunk in enumerate(self._chunks):
            _reserve(self._descriptor, number * CHUNK_BYTES, CHUNK_BYTES)
            os.pwrite(self._descriptor, chunk.bytes, number * CHUNK_BYTES)
        self._is_whole = True
        return True

    def _take_new(self) -> None:
        """Go on in a file that has nothing in it."""
        stem = self.path.name.removesuffix(SUFFIX).rpartition(".")[0]
        make_private_folder(self.path.parent)
        for path, descriptor in _free_files(self.path.parent, stem):
            if not os.fstat(descriptor).st_size:
                os.close(self._descriptor)
                self.path, self._descriptor = path, descriptor
                return
            os.close(descriptor)  # what another process has counted

    def forget(self) -> None:
        """Leave it to the process that this one was forked from: its lock stays."""
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    def _append(self, key: bytes, count: int) -> Entry:
        need = _entry_bytes(len(key), count)
        if need > CHUNK_BYTES - HEADER.size:
            raise FullError(f"{self.path}: an entry of {need} bytes is too large")
        left = -self._used % CHUNK_BYTES
        if left < need:
            self._fill(left)
        if self._used // CHUNK_BYTES >= len(self._chunks):
            self._add_chunk()
        number, place = divmod(self._used, CHUNK_BYTES)
        data = self._chunks[number].bytes
        ENTRY.pack_into(data, place, len(key), count)
        data[place + ENTRY.size : place + ENTRY.size + len(key)] = key
        self.write(data[place : place + need], self._used)
        entry = Entry(key, self._used + need - count * _NUMBER_BYTES, count)
        self._use(need)
        return entry

    def _fill(self, left: int) -> None:
        """Fill the rest of the last chunk with an entry that has no key."""
        if left:
            number, place = divmod(self._used, CHUNK_BYTES)
            data = self._chunks[number].bytes
            ENTRY.pack_into(data, place, 0, (left - ENTRY.size) // _NUMBER_BYTES)
            self.write(data[place : place + ENTRY.size], self._used)
            self._use(left)

    def _use(self, more: int) -> None:
        """Make what was written count, for readers too."""
        self._used += more
        data = self._chunks[0].bytes
        HEADER.pack_into(data, 0, MAGIC, self._used)
        self.write(data[: HEADER.size], 0)

    def _add_chunk(self) -> Chunk:
        if len(self._chunks) >= MAX_CHUNKS:
            raise FullError(f"{self.path}: expected at most {MAX_CHUNKS * CHUNK_BYTES} bytes")
        offset = len(self._chunks) * CHUNK_BYTES
        _reserve(self._descriptor, offset, CHUNK_BYTES)
        self._chunks.append(Chunk(CHUNK_BYTES, self, offset))
        return self._chunks[-1]


def _free_files(folder: Path, stem: str) -> Iterator[tuple[Path, int]]:
    """Yield the files of a kind that no process has, locked; new ones at the end.

    Raises:
        FullError: There are too many.
    """
    for number in range(MAX_FILES):
        path = folder / f"{stem}.{number}{SUFFIX}"
        if (descriptor := lock(path)) is not None:
            yield path, descriptor
    raise FullError(f"{folder}: expected at most {MAX_FILES} processes of the kind {stem}")


def lock(path: Path) -> int | None:
    """Return a descriptor of a file that nobody else has locked, None if a process has it.

    Raises:
        OSError: It cannot be opened, or locks are not to be had there.
    """
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass  # another process has it, or has just removed it
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_locked(descriptor: int) -> bool:
    """Return whether a process has the file, and so lives."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def parse(data: bytes, offset: int = HEADER.size) -> Iterator[Entry]:
    """Yield the entries from an offset on.

    Raises:
        CorruptFileError: It is none of ours, or was damaged.
    """
    end = used_bytes(data)
    while offset < end:
        if offset + ENTRY.size > end:
            raise CorruptFileError(f"an entry at {offset} goes beyond the end at {end}")
        key_bytes, count = ENTRY.unpack_from(data, offset)
        size = _entry_bytes(key_bytes, count)
        if offset + size > end:
            raise CorruptFileError(f"an entry of {size} bytes at {offset} goes beyond the end at {end}")
        if key_bytes:
            start = offset + ENTRY.size
            yield Entry(data[start : start + key_bytes], offset + size - count * _NUMBER_BYTES, count)
        offset += size


def used_bytes(data: bytes) -> int:
    """Return how much of a file counts; raises as `parse`."""
    if len(data) < HEADER.size:
        raise CorruptFileError(f"expected at least {HEADER.size} bytes, got {len(data)}")
    magic, used = HEADER.unpack_from(data)
    if not used and not any(magic):
        return HEADER.size  # made a moment ago, and nothing written yet
    if magic != MAGIC or not HEADER.size <= used <= len(data) or used % _NUMBER_BYTES:
        raise CorruptFileError(f"expected {MAGIC!r} and at most {len(data)} bytes, got {magic!r} and {used}")
    return int(used)


def numbers(data: bytes, entry: Entry) -> tuple[float, ...]:
    """Return the numbers of an entry."""
    return struct.unpack_from(f"={entry.count}d", data, entry.offset)


def _entry_bytes(key_bytes: int, count: int) -> int:
    return ENTRY.size + -(-key_bytes // _NUMBER_BYTES) * _NUMBER_BYTES + count * _NUMBER_BYTES


def _reserve(descriptor: int, offset: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, size)
    elif os.fstat(descriptor).st_size < offset + size:
        os.ftruncate(descriptor, offset + size)
