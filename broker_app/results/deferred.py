"""Deferred writes: results that the store did not take, written again in the background until it does."""

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
"""Writes that a process holds in memory, each with its result."""

MAX_AGE_SECONDS = 3_600.0
"""A write that fails for longer is given up."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
"""The pause after a failed write doubles up to the longest."""

FAREWELL_SECONDS = 5.0
"""At the end of a worker, or of a pool's process: the time for the writes that still wait."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Write:
    function: Callable[[], object]
    since: float


class DeferredWrites:
    """The deferred writes of one process. A forked process starts with none.

    Each has a key; a later write with the same key takes the place of the earlier one.
    """

    _thread: threading.Thread | None
    _current: tuple[str, str] | None
    _is_connected: bool

    def __init__(self) -> None:
        self._begin()

    def add(self, key: tuple[str, str], function: Callable[[], object]) -> bool:
        """Keep a write and return True; False if `MAX_WAITING` wait already."""
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
        """Forget a write, because a later one takes its place; one that is just being made is waited for."""
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
                logger.info("task [%s]: the result store has taken its %s", *key)

    def _is_too_old(self, key: tuple[str, str], write: _Write, error: Exception) -> bool:
        is_too_old = time.monotonic() - write.since > MAX_AGE_SECONDS
        if is_too_old:
            logger.error("task [%s]: its %s is given up, the result store did not take it: %r", *key, error)
        return is_too_old

    def _finish(self, **_signal: Any) -> None:
        """Give the remaining writes a last chance, and log the lost ones."""
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
            logger.error("the result store did not take %d writes, which are lost: %s", len(lost), shown)


def _failure_of(write: _Write) -> Exception | None:
    try:
        write.function()
    except Exception as error:  # noqa: BLE001 - each store has its own
        return error
    return None
