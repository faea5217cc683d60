"""Result writer: the writes to the result store that wait in a process, written in batches and retried.

A worker that runs its tasks in its own process puts states here and goes on. It acknowledges a message once the
result is stored. Other processes write at once, and only put here what they could not write.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import signals, states

from broker_app.results.waiting import call_after_fork
from broker_app.results.write import CHORD_PART, RESULT, URGENT, Write, failure_of, is_unstorable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker_app.results.write import Key

MAX_WAITING = 1_000
"""Maximum number of writes held in a process's memory, each with its result; more must wait."""

MAX_BATCH = 200

MAX_AGE_SECONDS = 3_600.0
"""Writes that keep failing for longer are dropped."""

FOLD_SECONDS = 0.1
"""Time that a state on the way, such as STARTED, waits for a later one that replaces it."""

HOLD_SECONDS = 2.0
"""Time after the first failure of a store during which messages still wait for their results to be stored."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
"""The pause after a failed write doubles up to the longest."""

FAREWELL_SECONDS = 5.0
"""Time limit for the remaining writes when a worker or a pool process exits."""

IDLE_SECONDS = 1.0
"""Time after which the thread ends if there is nothing to write."""

logger = logging.getLogger(__name__)


class ResultWriter:
    """The waiting writes of one process. A forked process starts with none, and writes at once.

    A later result of a task replaces the earlier one. One thread writes, while there is something to write.

    Attributes:
        is_batching: Whether this process puts all states here.
    """

    is_batching: bool

    def __init__(self) -> None:
        self._is_connected = False
        self._begin()
        call_after_fork(self._begin)

    def __len__(self) -> int:
        """Return the number of waiting writes."""
        return len(self._writes)

    @property
    def is_this_thread(self) -> bool:
        """True in the thread that writes, which cannot wait for a write."""
        return threading.current_thread() is self._thread

    def add(self, key: Key, function: Callable[[], object]) -> bool:
        """Add a write that has failed, and return True; return False if `MAX_WAITING` are waiting already."""
        now = time.monotonic()
        with self._changed:
            if len(self._writes) >= MAX_WAITING and key not in self._writes:
                return False
            self._insert(key, Write(function, None, states.SUCCESS, now, now, is_deferred=True))
        return True

    def put(  # noqa: PLR0913 - most are named
        self,
        key: Key,
        state: str,
        row: Any,
        write_batch: Callable[[Sequence[Any]], object],
        *,
        is_awaited: bool,
        is_followed: bool = False,
        then: Callable[[Callable[[], None]], object] | None = None,
    ) -> Write | None:
        """Add a state to be written with others, once there is room for it.

        Args:
            key: See `Key`.
            state: The state. Nothing replaces a waiting SUCCESS.
            row: The state as `write_batch` takes it, or a function that returns it.
            write_batch: Writes many rows in one transaction.
            is_awaited: Whether the caller goes on to `wait`, which then tells why the store cannot hold the row.
            is_followed: Whether the task's other write follows at once; the two are written together.
            then: See `Write`.

        Returns:
            The write; None if there is no room for it because the store has failed for a while.
        """
        now = time.monotonic()
        due = now if state in URGENT and not is_followed else now + FOLD_SECONDS
        write = Write(write_batch, row, state, now, due, is_awaited, then=then)
        with self._changed:
            while len(self._writes) >= MAX_WAITING and key not in self._writes:
                if self._is_holding_no_more():
                    return None
                self._changed.wait(FIRST_PAUSE_SECONDS)
            while key[1] == CHORD_PART and self._is_waiting(key):  # a header can contain a task's id twice
                self._changed.wait(FIRST_PAUSE_SECONDS)
            before = self._writes.get(key)
            if before is not None and before.row is not None and before.state == states.SUCCESS != state:
                return before
            if before is not None and self._current.get(key) is not before:
                write.callbacks += before.callbacks
                before.is_over = True
            if key[1] == CHORD_PART and (result := self._writes.get((key[0], RESULT))) is not None:
                result.due = min(result.due, due)
            self._insert(key, write)
            if self._is_holding_no_more():
                self._defer(key, write)
        return write

    def wait(self, write: Write) -> None:
        """Wait until a write is stored, has failed permanently, or is deferred."""
        with self._changed:
            write.due = 0.0
            self._changed.notify_all()
            self._changed.wait_for(lambda: write.is_over or write.is_deferred)

    def settle(self, key: Key) -> None:
        """Wait for a task's waiting state to be stored, so that it can be read."""
        write = self._writes.get(key)
        if write is not None and write.row is not None:
            self.wait(write)

    def when_stored(self, task_id: str, callback: Callable[[], object]) -> None:
        """Call a function once a task's final state is stored or deferred, or now if none waits; in any thread.

        A member of a chord is also counted, and the body is started if it has to be.
        """
        for key in ((task_id, RESULT), (task_id, CHORD_PART)):
            if key in self._writes or key in self._following:  # none is added for a task that has ended: no lock
                with self._changed:
                    write = self._pending(key)
                    if write is not None:
                        write.callbacks.append(partial(self.when_stored, task_id, callback))
                        return
        callback()

    def drop(self, key: Key) -> None:
        """Drop a write that a later one replaces; if it is in progress, wait for it to finish."""
        if key in self._writes:
            with self._changed:
                write = self._writes.pop(key, None)
                self._changed.wait_for(lambda: key not in self._current)
                if write is not None:
                    write.is_over = True
            _call(write.callbacks if write is not None else ())

    def _begin(self) -> None:
        self.is_batching = False
        self._changed = threading.Condition()
        self._writes: OrderedDict[Key, Write] = OrderedDict()
        self._current: dict[Key, Write] = {}
        self._following: dict[Key, Write] = {}  # stored, but what follows is not done
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0
        self._retry_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._failing_since: float | None = None
        self.last_error: Exception | None = None

    def _is_waiting(self, key: Key) -> bool:
        """Return whether a write with this key will be in the next batch, with the lock held."""
        write = self._writes.get(key)
        return write is not None and not write.is_deferred and self._current.get(key) is not write

    def _pending(self, key: Key) -> Write | None:
        """Return the write that callbacks of a task wait for, with the lock held."""
        write = self._writes.get(key)
        if write is not None and write.is_final and not (write.is_over or write.is_deferred):
            return write
        return self._following.get(key)

    def _insert(self, key: Key, write: Write) -> None:
        """Add a write, with the lock held."""
        self._writes[key] = write
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="result-writer", daemon=True)
            self._thread.start()
        elif write.due < self._wakes_at:
            self._changed.notify_all()
        if not self._is_connected:
            self._is_connected = True
            signals.worker_shutdown.connect(self._finish, weak=False)
            signals.worker_process_shutdown.connect(self._finish, weak=False)

    def _run(self) -> None:
        while True:
            with self._changed:
                batch = self._next_batch()
                if not batch:
                    self._thread = None
                    return
                self._current = batch
            errors = self._try(batch)
            with self._changed:
                self._current = {}
                callbacks = self._conclude(batch, errors)
                self._changed.notify_all()
            _call(callbacks)

    def _next_batch(self) -> dict[Key, Write]:
        """Wait for something to write, with the lock held; return nothing if there is nothing for a while."""
        while True:
            now = time.monotonic()
            due = {key: write for key, write in self._writes.items() if max(write.due, self._retry_at) <= now}
            if due:
                first = next(iter(due))
                rows = [key for key, write in due.items() if write.row is not None][:MAX_BATCH]
                return {key: due[key] for key in (rows if due[first].row is not None else [first])}
            nearest = min((max(write.due, self._retry_at) for write in self._writes.values()), default=None)
            self._wakes_at = now + IDLE_SECONDS if nearest is None else nearest
            is_woken = self._changed.wait(self._wakes_at - now)
            if nearest is None and not is_woken and not self._writes:
                return {}

    def _try(self, batch: dict[Key, Write]) -> dict[Key, Exception]:
        """Write a batch and return the errors; rows that the store refuses are tried one by one."""
        writes = tuple(batch.values())
        error = failure_of(writes)
        if error is None:
            return {}
        if not is_unstorable(error) or len(batch) == 1:
            return dict.fromkeys(batch, error)
        single = {key: failure_of((write,)) for key, write in batch.items()}
        return {key: error for key, error in single.items() if error is not None}

    def _conclude(self, batch: dict[Key, Write], errors: dict[Key, Exception]) -> list[Callable[[], object]]:
        """Remove what is stored or lost, and keep the rest for a retry; return the callbacks to call."""
        now = time.monotonic()
        self._note_health(next((error for error in errors.values() if not is_unstorable(error)), None), now)
        callbacks: list[Callable[[], object]] = []
        for key, write in batch.items():
            error = errors.get(key)
            if error is None or self._is_given_up(key, write, error, now):
                callbacks += self._end(key, write, is_stored=error is None)
            elif (newer := self._writes.get(key)) is write:
                self._writes.move_to_end(key)
            else:  # replaced, or dropped, while it was written
                write.is_over = True
                if newer is not None:
                    newer.callbacks += write.callbacks
        if self._is_holding_no_more():
            callbacks += self._defer_all()
        return callbacks

    def _end(self, key: Key, write: Write, *, is_stored: bool) -> list[Callable[[], object]]:
        """Remove a write, with the lock held, and return what to call."""
        write.is_over = True
        if is_stored and write.is_deferred:
            logger.info("task [%s]: stored its %s after a retry", *key)
        callbacks = write.callbacks
        if is_stored and write.then is not None:
            self._following[key] = write  # before it leaves the others: `when_stored` looks without the lock
            callbacks = [partial(write.then, partial(self._end_following, key, write))]
        if self._writes.get(key) is write:
            del self._writes[key]
        return callbacks

    def _end_following(self, key: Key, write: Write) -> None:
        """Call the callbacks of a write after what follows from it is done; in any thread."""
        with self._changed:
            if self._following.get(key) is write:
                del self._following[key]
            callbacks, write.callbacks = write.callbacks, []
            self._changed.notify_all()
        _call(callbacks)

    def _note_health(self, error: Exception | None, now: float) -> None:
        if error is None:
            self._failing_since, self._pause, self._retry_at = None, FIRST_PAUSE_SECONDS, 0.0
            return
        self.last_error = error
        self._failing_since = self._failing_since or now
        self._retry_at = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def _is_holding_no_more(self) -> bool:
        return self._failing_since is not None and time.monotonic() - self._failing_since >= HOLD_SECONDS

    def _is_given_up(self, key: Key, write: Write, error: Exception, now: float) -> bool:
        """Return whether a failed write is not tried again."""
        if write.row is not None and is_unstorable(error):
            write.error = error
            if not write.is_awaited:
                logger.error("task [%s]: the store cannot hold its state %s: %r", key[0], write.state, error)
            return True
        if not write.is_final:
            logger.warning("task [%s]: cannot store its state %s: %r", key[0], write.state, error)
            return True
        if now - write.since > MAX_AGE_SECONDS:
            logger.error("task [%s]: giving up on storing its %s: %r", *key, error)
            return True
        return False

    def _defer_all(self) -> list[Callable[[], object]]:
        """Let nothing wait for the waiting writes any longer; return the callbacks to call."""
        callbacks: list[Callable[[], object]] = []
        for key, write in self._writes.items():
            if self._defer(key, write):
                callbacks += write.callbacks
                write.callbacks = []
        return callbacks

    def _defer(self, key: Key, write: Write) -> bool:
        is_new = write.is_final and not write.is_deferred
        if is_new:
            write.is_deferred = True
            logger.warning("task [%s]: cannot store its %s, retrying in the background: %r", *key, self.last_error)
        return is_new

    def _finish(self, **_signal: Any) -> None:
        """Try the remaining writes one last time, and log those that are lost."""
        if not (self._writes or self._following):
            return
        deadline = time.monotonic() + FAREWELL_SECONDS
        while (self._writes or self._following) and time.monotonic() < deadline:
            with self._changed:
                self._retry_at = 0.0
                for write in self._writes.values():
                    write.due = 0.0
                self._changed.notify_all()
                self._changed.wait(FIRST_PAUSE_SECONDS)
        lost = [key for key, write in tuple(self._writes.items()) if write.is_final]
        if lost:
            shown = ", ".join(f"{task_id} ({what})" for task_id, what in lost)
            logger.error("%d writes to the result store are lost: %s", len(lost), shown)


def _call(callbacks: Sequence[Callable[[], object]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:  # one message must not keep others from being settled
            logger.exception("failed to settle a message whose result is stored")
