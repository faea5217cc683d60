"""Expiry: workers remove expired results from an SQL store, a few at a time.

One process does it at a time: on SQLite the one that holds a lock on a file, on PostgreSQL the one that holds an
advisory lock (postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS).
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.backends.database import session_cleanup
from sqlalchemy import delete, select, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker_app.results.sql import DatabaseBackend

SWEEP_SECONDS = 60.0
"""Mean time between two sweeps of a process."""

MAX_ROWS = 500
"""Rows removed in one transaction, which keeps other writers waiting for milliseconds."""

PAUSE_SECONDS = 0.05
"""Time between two transactions, for the other writers."""

_LOCK_NUMBER = 0x62726F6B
"""Key of the advisory lock."""

logger = logging.getLogger(__name__)


class Expiry:
    """Sweeps the store in a thread while a worker runs.

    Args:
        backend: The store.
        on_removed: Called with the number of results that were removed, in the thread.
    """

    def __init__(self, backend: DatabaseBackend, on_removed: Callable[[int], object]) -> None:
        self._backend = backend
        self._on_removed = on_removed
        self._is_ended = threading.Event()

    def start(self) -> None:
        """Begin; the first sweep is after a random part of `SWEEP_SECONDS`, so that nodes do not meet."""
        threading.Thread(target=self._run, name="result-expiry", daemon=True).start()

    def stop(self) -> None:
        """End, after the transaction in progress."""
        self._is_ended.set()

    def _run(self) -> None:
        while not self._is_ended.wait(random.uniform(0.0, 2 * SWEEP_SECONDS)):  # noqa: S311 - no secret
            try:
                self.sweep()
            except Exception as error:  # noqa: BLE001 - each database raises its own errors
                logger.warning("cannot remove expired results, trying again later: %r", error)

    def sweep(self) -> None:
        """Remove all expired results, unless another process is doing it."""
        before = datetime.now(UTC) - self._backend.expires
        for model in (self._backend.task_cls, self._backend.taskset_cls):
            removed = MAX_ROWS
            while removed == MAX_ROWS and not self._is_ended.is_set():
                removed = self._remove_alone(partial(_remove_some, model), before)
                if removed:
                    self._on_removed(removed)
                    self._is_ended.wait(PAUSE_SECONDS)
        while not self._is_ended.is_set() and self._remove_alone(self._backend.remove_old_chords, before):
            self._is_ended.wait(PAUSE_SECONDS)

    def _remove_alone(self, remove: Callable[[Any, datetime], int], before: datetime) -> int:
        """Remove some in a transaction, unless another process is doing it, and return how many."""
        session = self._backend.ResultSession()
        with session_cleanup(session), _alone(session, self._backend.session_manager.file) as is_alone:
            if not is_alone:
                return 0
            removed = remove(session, before)
            session.commit()
            return removed


def _remove_some(model: Any, session: Any, before: datetime) -> int:
    expired = select(model.id).where(model.date_done < before).order_by(model.date_done).limit(MAX_ROWS)
    removed = session.execute(
        delete(model).where(model.id.in_(expired)).execution_options(synchronize_session=False)
    )
    return int(removed.rowcount)


@contextmanager
def _alone(session: Any, file: Path | None) -> Iterator[bool]:
    """Yield whether no other process removes results during the block."""
    if file is not None:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            yield _locks(folder)
        finally:
            fcntl.flock(folder, fcntl.LOCK_UN)  # gevent's `os.close` closes it later
            os.close(folder)
    elif session.get_bind().dialect.name == "postgresql":
        yield session.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK_NUMBER}).scalar()
    else:
        yield True


def _locks(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
