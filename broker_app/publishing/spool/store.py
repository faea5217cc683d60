"""The spool file: SQLite with a write-ahead log, so that threads and processes can share it.

sqlite.org/wal.html: one writer at a time, the others wait. Committed data survives a killed process and, with
``synchronous=FULL``, a power failure.
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
from broker_app.settings.private_files import make_private_folder, open_private, unusable
from broker_app.text import counted

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
        number: Position in the spool; later messages have larger numbers.
        task: The task's name.
        task_id: Its id.
        queue: The queue's name in the settings, None for a foreign exchange.
        exchange: The exchange to publish to.
        routing_key: The routing key.
        delay_seconds: The requested delay.
        spooled_at: When it was spooled, in seconds since the epoch.
        maybe_taken: Whether it was sent before without an answer, so that the broker may have it.
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
    """A summary of the file.

    Attributes:
        file: The file.
        waiting: Number of messages to be sent.
        refused: Number of messages refused by the broker or the settings; they stay until an operator acts.
        size_bytes: Size of all messages.
        oldest_seconds: Age of the oldest waiting message; None if no message is waiting.
        reasons: Number of refused messages by reason.
    """

    file: Path
    waiting: int
    refused: int
    size_bytes: int
    oldest_seconds: float | None
    reasons: dict[str, int]


class SpoolFile:
    """A file of messages in the order in which they arrived.

    Args:
        folder: Created when the first message is added.
        max_messages: Maximum number of messages.
        max_bytes: Maximum size of properties and bodies together.
    """

    def __init__(self, folder: Path, max_messages: int, max_bytes: int) -> None:
        self.file = folder / FILE_NAME
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._open: tuple[int, sqlite3.Connection] | None = None
        self._lock = threading.RLock()

    def has_waiting(self) -> bool:
        """Return whether any message is waiting; False if the file does not exist."""
        if self._open is None and not self.file.exists():
            return False
        with self._database() as database:
            found = database.execute("SELECT 1 FROM messages WHERE refused IS NULL LIMIT 1").fetchone()
        return found is not None

    def add(self, message: SpooledMessage) -> None:
        """Append a message; its ``number`` is ignored.

        Raises:
            SpoolFull: There is no room for it.
            SpoolError: The file cannot be written.
        """
        size = len(message.properties) + len(message.body)
        with self._transaction() as database:
            count, used = database.execute("SELECT messages, bytes FROM sizes").fetchone()
            if count >= self._max_messages or used + size > self._max_bytes:
                raise SpoolFull(f"the spool {self.file} is full: {counted(count, 'message')}, {used} bytes")
            database.execute(_INSERT, [getattr(message, column) for column in _COLUMNS[1:]])

    def first(self, count: int) -> list[SpooledMessage]:
        """Return the first waiting messages, in order."""
        with self._database() as database:
            rows = database.execute(_SELECT, (count,)).fetchall()
        return [SpooledMessage(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def mark(self, numbers: Iterable[int], *, maybe_taken: bool) -> None:
        """Record whether the broker may have these messages: set before sending, cleared if they were not sent."""
        with self._transaction() as database:
            rows = [(maybe_taken, number) for number in numbers]
            database.executemany("UPDATE messages SET maybe_taken = ? WHERE number = ?", rows)

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove messages that the broker confirmed."""
        with self._transaction() as database:
            database.executemany("DELETE FROM messages WHERE number = ?", [(number,) for number in numbers])

    def refuse(self, reasons: dict[int, str]) -> None:
        """Set messages aside as refused, each with its reason."""
        with self._transaction() as database:
            rows = [(reason, number) for number, reason in reasons.items()]
            database.executemany("UPDATE messages SET refused = ? WHERE number = ?", rows)

    def retry_refused(self) -> int:
        """Return refused messages to their old positions in the queue, and return their number."""
        with self._transaction() as database:
            return database.execute("UPDATE messages SET refused = NULL WHERE refused IS NOT NULL").rowcount

    def status(self) -> SpoolStatus:
        """Return a summary of the file."""
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
        """Yield this process's connection to one thread at a time.

        Raises:
            SpoolError: The file cannot be used. A damaged file is moved aside; the next call creates a new one.
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
                raise SpoolError(f"the spool: {unusable(self.file.parent, error)}") from error

    def _connection(self) -> sqlite3.Connection:
        if self._open is not None and self._open[0] != os.getpid():
            self._open = None  # belongs to the parent, do not close it (sqlite.org/howtocorrupt.html, 2.6)
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
        """Rename a damaged file, keeping it for inspection."""
        self.close()
        aside = self.file.with_name(f"{FILE_NAME}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
        for suffix in ("", "-wal", "-shm"):
            part = self.file.with_name(FILE_NAME + suffix)
            if part.exists():
                part.replace(aside.with_name(aside.name + suffix))
        logger.error("the spool %s is damaged: moved it to %s and started a new one", self.file, aside)


def _connect(file: Path) -> sqlite3.Connection:
    os.close(open_private(file, os.O_RDWR | os.O_CREAT))  # only the owner may read messages
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
    """SQLite's integrity check found damage."""


def _is_corrupt(error: sqlite3.Error) -> bool:
    return isinstance(error, _Damaged) or getattr(error, "sqlite_errorcode", None) in _CORRUPT
