"""SQL sessions: persistent connections to the result store, and SQLite configured for concurrent writers."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery.backends.database.session import SessionManager as CelerySessionManager
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import sessionmaker

from broker_app.results.waiting import call_after_fork
from broker_app.settings.private_files import make_private_folder, open_private

if TYPE_CHECKING:
    from sqlalchemy import Engine

logger = logging.getLogger(__name__)

SQLITE_BUSY_TIMEOUT_MS = 10_000
"""Time a writer waits for its turn: SQLite has one writer at a time (sqlite.org/wal.html)."""


class SessionManager(CelerySessionManager):
    """Keeps one engine per process; Celery creates an engine for each operation unless it was forked.

    After a SQLite file was deleted or replaced, the next operation opens the new file. Connections to the old one
    would keep using a file that no other process can open.

    Attributes:
        file: The SQLite file in use; None before the first use, and for other databases.
    """

    prepared: bool

    def __init__(self) -> None:
        super().__init__()
        self._made: tuple[int, Engine, Any] | None = None
        self.file: Path | None = None
        self._identity: tuple[int, int] | None = None
        self._make_lock()
        call_after_fork(self._make_lock)

    def _make_lock(self) -> None:
        self._lock = threading.Lock()

    def create_session(self, dburi: str, short_lived_sessions: bool = False, **options: Any) -> tuple[Engine, Any]:  # noqa: FBT001, FBT002 - Celery's signature
        """Return the engine of this process and its session factory; after a fork, new ones."""
        del short_lived_sessions
        with self._lock:
            if self._made is not None and _identity_of(self.file) != self._identity:
                logger.warning("%s was deleted or replaced; results stored in it are lost", self.file)
                self._forget()
                self.prepared = False  # the new file has no tables
            if self._made is None or self._made[0] != os.getpid():
                engine = self._make_engine(dburi, options)
                self._made = (os.getpid(), engine, sessionmaker(bind=engine))
            return self._made[1:]

    def invalidate(self, dburi: str) -> None:
        """Discard the engine, so that the next operation reconnects."""
        del dburi
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        made, self._made = self._made, None
        if made is not None:
            made[1].dispose(close=made[0] == os.getpid())

    def _make_engine(self, url: str, options: dict[str, Any]) -> Engine:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, **options)
        self.file = _file_of(parsed.database)
        if self.file is not None:
            _create_file(self.file)
        self._identity = _identity_of(self.file)
        engine = create_engine(parsed)
        event.listen(engine, "connect", _set_pragmas)
        return engine


def _file_of(database: str | None) -> Path | None:
    """Return the file of a SQLite URL, None if it is not a plain file."""
    return None if not database or database.startswith((":memory:", "file:")) else Path(database)


def _identity_of(file: Path | None) -> tuple[int, int] | None:
    """Return device and inode of a file, None if it does not exist."""
    try:
        found = None if file is None else file.stat()
    except FileNotFoundError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def _create_file(file: Path) -> None:
    """Create a database file if it does not exist, and delete log files left by a deleted one.

    A process that still uses the deleted file finds its write-ahead log by name and would write into the new
    database (sqlite.org/howtocorrupt.html#unlink). The lock keeps two processes from deleting each other's log.
    """
    make_private_folder(file.parent, is_ours=False)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not file.exists():
            for suffix in ("-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
            os.close(open_private(file, os.O_RDWR | os.O_CREAT))
    finally:
        fcntl.flock(
            folder, fcntl.LOCK_UN
        )  # gevent's `os.close` closes the file later and would hold the lock until then
        os.close(folder)


def _set_pragmas(connection: Any, _record: Any) -> None:
    """Use WAL, so that readers are not blocked by a writer; with synchronous=NORMAL the file survives a crash.

    A power failure may lose the most recent results, but never corrupts the file.
    """
    connection.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
