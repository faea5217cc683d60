"""Deferred writes: failed writes to the result store, retried in the background."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import signals

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WAITING = 1_000
"""Maximum number of writes held in a process's memory, each with its result."""

MAX_AGE_SECONDS = 3_600.0
"""Writes that keep failing for longer are dropped."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
"""The pause after a failed write doubles up to the longest."""

FAREWELL_SECONDS = 5.0
"""Time limit for the remaining writes when a worker or a pool process exits."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Write:
    function: Callable[[], object]
    since: float


class DeferredWrites:
    """The deferred writes of one process. A forked process starts with none.

    A later write with the same key replaces the earlier one.
    """

    _thread: threading.Thread | None
    _current: tuple[str, str] | None
    _is_connected: bool

    def __init__(self) -> None:
        self._begin()

    def add(self, key: tuple[str, str], function: Callable[[], object]) -> bool:
        """Add a write and return True; return False if `MAX_WAITING` are waiting already."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            if len(self._writes) >= MAX_WAITING and key not in self._writes:
                return False
            self._writes[key] = _Write(function, time.monotonic())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deferred-writes", daemon=True)
                self._thread.start()
        if not self._is_connected:
            self._is_connected = True
            signals.worker_shutdown.connect(self._finish, weak=False)
            signals.worker_process_shutdown.connect(self._finish, weak=False)
        return True

    def drop(self, key: tuple[str, str]) -> None:
        """Drop a write that a later one replaces; if it is in progress, wait for it to finish."""
        if key in self._writes and self._pid == os.getpid():
            with self._changed:
                self._writes.pop(key, None)
                while self._current == key:
                    self._changed.wait()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._writes: OrderedDict[tuple[str, str], _Write] = OrderedDict()
        self._thread = None
        self._current = None
        self._is_connected = False

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._changed:
                if not self._writes:
                    self._thread = None
                    return
                key, write = next(iter(self._writes.items()))
                self._current = key
            error = _failure_of(write)
            with self._changed:
                self._current = None
                self._changed.notify_all()
                if self._writes.get(key) is not write:
                    continue
                if error is None or self._is_too_old(key, write, error):
                    del self._writes[key]
                else:
                    self._writes.move_to_end(key)
                    self._changed.wait(pause)
                    pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                    continue
            if error is None:
                pause = FIRST_PAUSE_SECONDS
                logger.info("task [%s]: stored its %s after a retry", *key)

    def _is_too_old(self, key: tuple[str, str], write: _Write, error: Exception) -> bool:
        is_too_old = time.monotonic() - write.since > MAX_AGE_SECONDS
        if is_too_old:
            logger.error("task [%s]: giving up on storing its %s: %r", *key, error)
        return is_too_old

    def _finish(self, **_signal: Any) -> None:
        """Try the remaining writes one last time, and log those that are lost."""
        if self._pid != os.getpid() or not self._writes:
            return
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self._writes and time.monotonic() < deadline:
            with self._changed:
                self._changed.notify_all()  # try now
            time.sleep(FIRST_PAUSE_SECONDS)
        lost = tuple(self._writes)
        if lost:
            shown = ", ".join(f"{task_id} ({what})" for task_id, what in lost)
            logger.error("%d writes to the result store are lost: %s", len(lost), shown)


def _failure_of(write: _Write) -> Exception | None:
    try:
        write.function()
    except Exception as error:  # noqa: BLE001 - each store has its own errors
        return error
    return None
