"""The spool's file: SQLite with a write-ahead log, so that threads and processes may write beside each other.

sqlite.org/wal.html: one writes at a time, the others wait; what was committed stays when the process is killed,
and with ``synchronous=FULL`` when the machine loses its power.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from broker_app.errors import SpoolError, SpoolFull
from broker_app.settings.private_files import make_private_folder, open_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

FILE_NAME = "spool.sqlite3"

_BUSY_SECONDS = 10.0
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task TEXT NOT NULL, task_id TEXT NOT NULL, queue TEXT, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    delay_seconds REAL NOT NULL, spooled_at REAL NOT NULL, maybe_taken INTEGER NOT NULL,
    properties BLOB NOT NULL, body BLOB NOT NULL, refused TEXT
);
CREATE INDEX IF NOT EXISTS waiting ON messages (number) WHERE refused IS NULL;
CREATE TABLE IF NOT EXISTS sizes (name TEXT PRIMARY KEY, messages INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO sizes VALUES ('all', 0, 0);
CREATE TRIGGER IF NOT EXISTS one_more AFTER INSERT ON messages BEGIN
    UPDATE sizes SET messages = messages + 1, bytes = bytes + length(NEW.properties) + length(NEW.body);
END;
CREATE TRIGGER IF NOT EXISTS one_less AFTER DELETE ON messages BEGIN
    UPDATE sizes SET messages = messages - 1, bytes = bytes - length(OLD.properties) - length(OLD.body);
END;
"""


@dataclass(frozen=True, slots=True)
class SpooledMessage:
    """One message in the file.

    Attributes:
        number: Its place; a larger one came later.
        task: The task's name.
        task_id: Its id.
        queue: The queue by the settings' name, None for an exchange that is not ours.
        exchange: Where it was to be published.
        routing_key: And by which key.
        delay_seconds: The delay that was asked for.
        spooled_at: When it was put here, seconds since the epoch.
        maybe_taken: Whether it was sent before, and nobody knows whether the broker has it.
        properties: AMQP basic properties, encoded.
        body: Serialised.
    """

    number: int
    task: str
    task_id: str
    queue: str | None
    exchange: str
    routing_key: str
    delay_seconds: float
    spooled_at: float
    maybe_taken: bool
    properties: bytes
    body: bytes


_COLUMNS = tuple(field.name for field in fields(SpooledMessage))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM messages WHERE refused IS NULL ORDER BY number LIMIT ?"  # noqa: S608
_PLACES = ", ".join("?" * len(_COLUMNS[1:]))
_INSERT = f"INSERT INTO messages ({', '.join(_COLUMNS[1:])}) VALUES ({_PLACES})"  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What is in the file.

    Attributes:
        file: The file.
        waiting: Messages that are to be sent.
        refused: Messages that the broker, or the settings, would not take; they stay until somebody decides.
        size_bytes: Of all of them.
        oldest_seconds: How long the first has been waiting; None if none is.
        reasons: Why messages were refused, and how many of each.
    """

    file: Path
    waiting: int
    refused: int
    size_bytes: int
    oldest_seconds: float | None
    reasons: dict[str, int]


class SpoolFile:
    """Messages in a file, in the order in which they came.

    Args:
        folder: Made when the first message comes.
        max_messages: Bound of their number.
        max_bytes: Bound of their size, properties and bodies together.
    """

    def __init__(self, folder: Path, max_messages: int, max_bytes: int) -> None:
        self.file = folder / FILE_NAME
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._open: tuple[int, sqlite3.Connection] | None = None
        self._lock = threading.RLock()

    def has_waiting(self) -> bool:
        """Return whether a message is to be sent; without a file there is none."""
        if self._open is None and not self.file.exists():
            return False
        with self._database() as database:
            found = database.execute("SELECT 1 FROM messages WHERE refused IS NULL LIMIT 1").fetchone()
        return found is not None

    def add(self, message: SpooledMessage) -> None:
        """Put a message behind all others; its number is not used.

        Raises:
            SpoolFull: There is no room for it.
            SpoolError: The file cannot be written.
        """
        size = len(message.properties) + len(message.body)
        with self._transaction() as database:
            count, used = database.execute("SELECT messages, bytes FROM sizes").fetchone()
            if count >= self._max_messages or used + size > self._max_bytes:
                raise SpoolFull(f"the spool {self.file} is full: {count} messages, {used} bytes")
            database.execute(_INSERT, [getattr(message, column) for column in _COLUMNS[1:]])

    def first(self, count: int) -> list[SpooledMessage]:
        """Return the first messages that wait, in order."""
        with self._database() as database:
            rows = database.execute(_SELECT, (count,)).fetchall()
        return [SpooledMessage(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def mark(self, numbers: Iterable[int], *, maybe_taken: bool) -> None:
        """Note whether messages may be on the broker: before they are sent, or because they were not."""
        with self._transaction() as database:
            rows = [(maybe_taken, number) for number in numbers]
            database.executemany("UPDATE messages SET maybe_taken = ? WHERE number = ?", rows)

    def remove(self, numbers: Iterable[int]) -> None:
        """Take out what the broker has."""
        with self._transaction() as database:
            database.executemany("DELETE FROM messages WHERE number = ?", [(number,) for number in numbers])

    def refuse(self, reasons: dict[int, str]) -> None:
        """Set messages aside, each with why."""
        with self._transaction() as database:
            rows = [(reason, number) for number, reason in reasons.items()]
            database.executemany("UPDATE messages SET refused = ? WHERE number = ?", rows)

    def retry_refused(self) -> int:
        """Let what was set aside wait again, in its old place, and return how many that are."""
        with self._transaction() as database:
            return database.execute("UPDATE messages SET refused = NULL WHERE refused IS NOT NULL").rowcount

    def status(self) -> SpoolStatus:
        """Return what is in the file."""
        if not self.file.exists():
            return SpoolStatus(self.file, 0, 0, 0, None, {})
        with self._database() as database:
            waiting, oldest = database.execute(
                "SELECT count(*), min(spooled_at) FROM messages WHERE refused IS NULL"
            ).fetchone()
            reasons = dict(
                database.execute(
                    "SELECT refused, count(*) FROM messages WHERE refused IS NOT NULL GROUP BY refused"
                )
            )
            size = database.execute("SELECT bytes FROM sizes").fetchone()[0]
        age = None if oldest is None else max(0.0, time.time() - oldest)
        return SpoolStatus(self.file, waiting, sum(reasons.values()), size, age, reasons)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            opened, self._open = self._open, None
            if opened is not None and opened[0] == os.getpid():
                opened[1].close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Hand out the connection of this process; one thread at a time uses it.

        Raises:
            SpoolError: The file cannot be used. One that is damaged is moved aside, and the next call begins anew.
        """
        with self._lock:
            try:
                yield self._connection()
            except sqlite3.Error as error:
                if _is_corrupt(error):
                    self._set_aside()
                raise SpoolError(
                    f"the spool {self.file}: expected a file that can be used, got: {error}"
                ) from error
            except OSError as error:
                raise SpoolError(f"the spool {self.file}: expected a folder to write to, got: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        if self._open is not None and self._open[0] != os.getpid():
            self._open = None  # the parent's: not ours to close (sqlite.org/howtocorrupt.html, 2.6)
        if self._open is None:
            make_private_folder(self.file.parent)
            try:
                connection = _connect(self.file)
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self._set_aside()
                connection = _connect(self.file)
            self._open = (os.getpid(), connection)
        return self._open[1]

    def _set_aside(self) -> None:
        """Move a damaged file out of the way, where somebody may look at it."""
        self.close()
        aside = self.file.with_name(f"{FILE_NAME}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
        for suffix in ("", "-wal", "-shm"):
            part = self.file.with_name(FILE_NAME + suffix)
            if part.exists():
                part.replace(aside.with_name(aside.name + suffix))
        logger.error("the spool %s is damaged; it was moved to %s, and a new one is begun", self.file, aside)


def _connect(file: Path) -> sqlite3.Connection:
    os.close(open_private(file, os.O_RDWR | os.O_CREAT))  # messages are nobody else's business
    connection = sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _check(connection)
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise _Damaged(found)


class _Damaged(sqlite3.DatabaseError):
    """SQLite's own check found something."""


def _is_corrupt(error: sqlite3.Error) -> bool:
    return isinstance(error, _Damaged) or getattr(error, "sqlite_errorcode", None) in _CORRUPT
