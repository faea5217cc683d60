"""Metrics file: the values of one process, in memory and on disk.

What was written to the file survives a crash of the process. A process locks its file; the
kernel releases the lock when the process ends, and the next process of the same kind continues the file. Counters
therefore survive restarts, and there are never more files than there were concurrent processes.

The file is written with pwrite and not mapped: truncating a mapped file would kill the process with SIGBUS on its
next access (mmap(2)). A truncated or removed file is restored from memory: see `MetricFile.restore`.

`broker_app.metrics.file_format` has the format. No entry crosses a chunk boundary. Each chunk has its own buffer,
so that the file can grow without invalidating cells in use. Disk space is reserved when the file grows, so a full
disk is an error then and not on a later write.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from broker_app.metrics.file_format import (
    ENTRY,
    HEADER,
    MAGIC,
    NUMBER_BYTES,
    CorruptFileError,
    Entry,
    entry_bytes,
    parse,
    used_bytes,
)
from broker_app.settings.private_files import make_private_folder, open_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Cells = tuple["Chunk", int]
    """Location of numbers: the chunk, and the index of the first number."""

CHUNK_BYTES = 64 * 1024

MAX_CHUNKS = 64
MAX_FILES = 1_000
SUFFIX = ".metrics"


class FullError(OSError):
    """A file has reached its maximum size."""


class Chunk:
    """A buffer of numbers, optionally backed by a file.

    Args:
        size: Size in bytes.
        file: File to write to; None for memory only.
        offset: Byte offset in the file.

    Attributes:
        bytes: The buffer as bytes.
        numbers: The buffer as float64 numbers.
    """

    __slots__ = ("_file", "_offset", "bytes", "numbers")

    def __init__(self, size: int, file: MetricFile | None = None, offset: int = 0) -> None:
        self.bytes = memoryview(bytearray(size))
        self.numbers = self.bytes.cast("d")
        self._file = file
        self._offset = offset

    def __getitem__(self, index: int) -> float:
        """Return the number at an index."""
        return self.numbers[index]

    def __setitem__(self, index: int, value: float) -> None:
        """Set a number in memory and in the file."""
        self.numbers[index] = value
        self.write(index, index + 1)

    def write(self, first: int, end: int) -> None:
        """Write a range of numbers from memory to the file, in one call."""
        if self._file is not None:
            start = first * NUMBER_BYTES
            self._file.write(self.bytes[start : end * NUMBER_BYTES], self._offset + start)


class MetricFile:
    """A metrics file, locked by this process.

    Args:
        path: Path of the file, for messages.
        descriptor: Descriptor, open for reading and writing, and locked.

    Raises:
        CorruptFileError: The file is not a metrics file, or is damaged.
        OSError: The file cannot be read or extended.
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
        """Lock the first unlocked file with this stem, or create one.

        Args:
            folder: Folder of the files; created with owner-only permissions if necessary.
            stem: Kind of process; the files are named ``<stem>.<number>.metrics``.

        Raises:
            OSError: The folder is not writable, or its file system does not support locks.
        """
        make_private_folder(folder)
        for path, descriptor in _free_files(folder, stem):
            try:
                return cls(path, descriptor)
            except CorruptFileError:
                path.unlink(missing_ok=True)  # continue with the next number
                os.close(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        raise AssertionError("unreachable")  # pragma: no cover - _free_files raises FullError first

    def cells(self, key: bytes, count: int) -> Cells:
        """Return the cells of a key, adding an entry of zeros if it is new.

        Raises:
            FullError: The file has reached its maximum size.
            OSError: The disk is full.
        """
        entry = self.entries.get(key)
        if entry is None or entry.count != count:
            entry = self.entries[key] = self._append(key, count)
        chunk, place = divmod(entry.offset, CHUNK_BYTES)
        return self._chunks[chunk], place // NUMBER_BYTES

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write data at an offset; if that fails, `restore` writes it later."""
        try:
            os.pwrite(self._descriptor, data, offset)
        except OSError:
            self._is_whole = False

    def restore(self) -> bool:
        """Restore the file from memory if it was truncated, removed, or not fully written; return whether it was.

        Raises:
            OSError: The file cannot be written.
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
        """Switch to an empty file."""
        stem = self.path.name.removesuffix(SUFFIX).rpartition(".")[0]
        make_private_folder(self.path.parent)
        for path, descriptor in _free_files(self.path.parent, stem):
            if not os.fstat(descriptor).st_size:
                os.close(self._descriptor)
                self.path, self._descriptor = path, descriptor
                return
            os.close(descriptor)  # holds the values of another process

    def forget(self) -> None:
        """Close the file in a forked child; the parent keeps the lock."""
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    def _append(self, key: bytes, count: int) -> Entry:
        need = entry_bytes(len(key), count)
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
        entry = Entry(key, self._used + need - count * NUMBER_BYTES, count)
        self._use(need)
        return entry

    def _fill(self, left: int) -> None:
        """Pad the rest of the last chunk with an entry without a key."""
        if left:
            number, place = divmod(self._used, CHUNK_BYTES)
            data = self._chunks[number].bytes
            ENTRY.pack_into(data, place, 0, (left - ENTRY.size) // NUMBER_BYTES)
            self.write(data[place : place + ENTRY.size], self._used)
            self._use(left)

    def _use(self, more: int) -> None:
        """Advance the used size in the header, which makes new entries visible to readers."""
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
    """Lock and yield the unlocked files with a stem, followed by new ones.

    Raises:
        FullError: There are `MAX_FILES` files.
    """
    for number in range(MAX_FILES):
        path = folder / f"{stem}.{number}{SUFFIX}"
        if (descriptor := lock(path)) is not None:
            yield path, descriptor
    raise FullError(f"{folder}: expected at most {MAX_FILES} processes of the kind {stem}")


def lock(path: Path) -> int | None:
    """Open and lock a file; return its descriptor, or None if another process has locked it.

    Raises:
        OSError: The file cannot be opened, or its file system does not support locks.
    """
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass  # another process locked it, or just removed it
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_locked(descriptor: int) -> bool:
    """Return whether a live process has locked the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _reserve(descriptor: int, offset: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, size)
    elif os.fstat(descriptor).st_size < offset + size:
        os.ftruncate(descriptor, offset + size)
