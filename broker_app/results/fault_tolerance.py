"""Makes a result backend fault-tolerant: a failed write never stops a call, a task or a worker.

Celery stores STARTED before it runs a task, REVOKED in the worker's event loop, SUCCESS before it acknowledges,
and FAILURE before it calls the errbacks. An error there would dead-letter tasks that could run or have run, end
every worker that receives a cancelled or expired task, and skip errbacks.
"""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import SoftTimeLimitExceeded

from broker_app.results.chord_members import ChordMembers, acting_for, chord_refused
from broker_app.results.redis_batches import RedisBatches
from broker_app.results.redis_consumer import LazyConsumer
from broker_app.results.write import CHORD_PART, FINAL, RESULT, is_unstorable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from celery.backends.base import Backend

    from broker_app.results.chord_rows import ChordPart
    from broker_app.results.writer import ResultWriter

MAX_UNAWAITED_BYTES = 1_000_000
"""Larger results are stored before their task ends: the store may refuse them, and memory is bounded."""

logger = logging.getLogger(__name__)


class FaultTolerantBackend:
    """Mixin for result backends."""

    _store_result: Any
    app: Any
    encode_result: Any
    prepare_row: Any
    start_if_claimed: Any
    write_rows: Any
    _writer: ResultWriter

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        """Store a state, as Celery does. If a final state cannot be stored, the write is deferred.

        In a worker whose tasks run in its own process, a state is stored a moment later, in a batch. A failure, a
        large result and, on Redis, a part of a chord are stored when this returns: handlers may read them.

        Raises:
            Exception: The store's error, for PENDING, which only `replay` stores, and for a success that the
                store cannot hold, or if too many writes are deferred already.
        """
        traceback = storable(traceback)
        store = super().store_result  # type: ignore[misc] # Celery's backend follows this class in the MRO
        if state == states.PENDING:
            return store(task_id, result, state, traceback, request=request, **options)
        write = partial(
            store if state in FINAL else self._store_once,
            *(task_id, result, state, traceback),
            request=request,
            **options,
        )
        try:
            if self._writer.is_batching and getattr(self, "can_batch", False):
                return self._put(task_id, result, state, traceback, request)
            self._writer.drop((task_id, RESULT))
            return write()
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # noqa: BLE001 - each store has its own errors
            self._on_error(task_id, result, state, write, error)
            return result

    def get_task_meta(self, task_id: str, *args: Any, **options: Any) -> Any:
        """Return a task's state, as Celery does, with what this process has put but not yet stored."""
        self._writer.settle((task_id, RESULT))
        return super().get_task_meta(task_id, *args, **options)  # type: ignore[misc]

    def wait_for_pending(self, result: Any, **options: Any) -> Any:
        """Wait for a result, as Celery does; what this process has put is stored first."""
        self._writer.settle((result.id, RESULT))
        return super().wait_for_pending(result, **options)  # type: ignore[misc]

    def on_chord_part_return(self, request: Any, state: str, result: Any, **options: Any) -> None:
        """Count a completed chord member, as Celery does. If the store is down, the count is deferred."""
        count = partial(super().on_chord_part_return, request, state, result, **options)  # type: ignore[misc]
        try:
            count()
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            if not is_unstorable(error):
                self._defer((request.id, CHORD_PART), count, error, is_needed=state == states.SUCCESS)
            elif state == states.SUCCESS:
                raise
            else:
                _warn(request.id, state, error)

    def count_part(self, part: ChordPart, state: str, request: Any) -> None:
        """Store the outcome of a chord's member, as `SqlChords`, or with the next batch of states.

        A success is stored, and its chord's body started, while the slot takes the next task.

        Raises:
            Exception: The error of the store, if it cannot hold the outcome or has failed for a while.
        """
        if not self._writer.is_batching or self._writer.is_this_thread:
            super().count_part(part, state, request)  # type: ignore[misc]
            return
        is_awaited = state != states.SUCCESS or len(part.outcome) > MAX_UNAWAITED_BYTES
        then = None if is_awaited else partial(self._start_soon, part, state, request, copy_context())
        key = (part.task_id, CHORD_PART)
        write = self._writer.put(key, states.SUCCESS, part, self.write_rows, is_awaited=is_awaited, then=then)
        if write is None and self._writer.last_error is not None:
            raise self._writer.last_error
        if write is not None and is_awaited:
            self._writer.wait(write)
            error = write.error if write.is_over else self._writer.last_error
            if error is not None:
                raise error
            self.start_if_claimed(part, request)

    def on_task_call(self, producer: Any, task_id: str) -> Any:
        """Prepare for a result, as Celery does. An unreachable store does not prevent publishing."""
        try:
            return super().on_task_call(producer, task_id)  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - each store has its own errors
            logger.warning("task [%s]: cannot prepare its result store: %r", task_id, error)
            return {}

    def _put(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> Any:
        """Put a state into the next batch.

        Raises:
            Exception: The error of the store, if it cannot hold the state or has failed for a while.
        """
        if state == states.STARTED:  # which most tasks replace before it is written
            encoded, size = result, 0
            row: Any = partial(self._prepare, task_id, result, state, traceback, request)
        else:
            encoded = self.encode_result(result, state)
            row, size = self.prepare_row(task_id, encoded, state, traceback, request)
        is_counted = bool(request and request.chord) and state == states.SUCCESS
        is_followed = is_counted and getattr(self, "counts_in_batches", False)
        is_awaited = state == states.FAILURE or (is_counted and not is_followed) or size > MAX_UNAWAITED_BYTES
        write = self._writer.put(
            (task_id, RESULT), state, row, self.write_rows, is_awaited=is_awaited, is_followed=is_followed
        )
        if write is None and self._writer.last_error is not None:
            raise self._writer.last_error
        if write is not None and is_awaited:
            self._writer.wait(write)
            if write.error is not None:
                raise write.error
        return encoded

    def _prepare(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> Any:
        return self.prepare_row(task_id, self.encode_result(result, state), state, traceback, request)[0]

    def _start_soon(
        self, part: ChordPart, state: str, request: Any, context: Context, done: Callable[[], None]
    ) -> None:
        """Start the body, if the member has to, in a thread: it waits for the broker."""
        if not part.is_claimer:
            done()
            return
        start = partial(self._start_or_defer, part, state, request, done)
        threading.Thread(target=context.run, args=(start,), name="chord-body", daemon=True).start()

    def _start_or_defer(self, part: ChordPart, state: str, request: Any, done: Callable[[], None]) -> None:
        try:
            with acting_for(self.app.tasks.get(getattr(request, "task", None)), request):
                self.start_if_claimed(part, request)
        except Exception as error:  # noqa: BLE001 - each store has its own errors
            count = partial(super().count_part, part, state, request)  # type: ignore[misc]
            self._defer((part.task_id, CHORD_PART), count, error, is_needed=False)
        finally:
            done()

    def _store_once(self, task_id: str, result: Any, state: str, traceback: Any, **options: Any) -> Any:
        encoded = self.encode_result(result, state)
        self._store_result(task_id, encoded, state, traceback, **options)
        return encoded

    def _on_error(
        self, task_id: str, result: Any, state: str, write: Callable[[], object], error: Exception
    ) -> None:
        if state not in FINAL:
            _warn(task_id, state, error)
        elif not is_unstorable(error):
            self._defer((task_id, RESULT), write, error, is_needed=state == states.SUCCESS)
        elif state == states.SUCCESS:
            raise error
        else:
            self._store_plainly(task_id, result, state, error)

    def _defer(
        self, key: tuple[str, str], write: Callable[[], object], error: Exception, *, is_needed: bool
    ) -> None:
        """Defer a write; if there is no room for it, raise the error if the write is needed."""
        if self._writer.add(key, write):
            logger.warning("task [%s]: cannot store its %s, retrying in the background: %r", *key, error)
        elif is_needed:
            raise error
        else:
            logger.error("task [%s]: its %s is lost, too many writes are deferred: %r", *key, error)

    def _store_plainly(self, task_id: str, result: Any, state: str, error: Exception) -> None:
        """Store a task's final state with a placeholder for a result that the store cannot hold."""
        words = f"{type(result).__name__}, which the result store cannot hold: {error!a}"
        try:
            self._store_once(task_id, RuntimeError(words), state, None)
        except Exception as last:  # noqa: BLE001 - each store has its own errors
            _warn(task_id, state, last)


class CountingChords:
    """Mixin for the Redis backend, which counts the members of chords."""

    client: Any

    def apply_chord(self, header_result_args: Any, body: Any, **options: Any) -> Any:
        """Prepare a chord, as Celery does.

        Raises:
            ResultStoreError: The store is unreachable. Celery would publish all members but one before it noticed.
        """
        try:
            self.client.ping()
        except Exception as error:
            raise chord_refused(header_result_args[0], error) from error
        return super().apply_chord(header_result_args, body, **options)  # type: ignore[misc]


def storable(text: Any) -> Any:
    """Escape lone surrogates and NUL, so that every store can hold the text; other values are unchanged."""
    if not isinstance(text, str):
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def forgiving(backend: Backend, writer: ResultWriter) -> Backend:
    """Make a backend fault-tolerant, and return it.

    Args:
        backend: Celery's backend, whose class is extended.
        writer: The result writer of the process.
    """
    kind: Any = type(backend)
    consumer: Any = getattr(backend, "result_consumer", None)
    is_redis = hasattr(consumer, "_reconnect_pubsub")
    mixed: tuple[type, ...] = (FaultTolerantBackend, ChordMembers)
    mixed += (CountingChords, RedisBatches) if is_redis else ()
    backend.__class__ = type(kind.__name__, (*mixed, kind), {"__module__": kind.__module__})
    backend._writer = writer  # noqa: SLF001 - our own attribute
    if is_redis:
        consumed: Any = type(consumer)
        consumer.__class__ = type(consumed.__name__, (LazyConsumer, consumed), {"__module__": consumed.__module__})
        consumer._wanted = set()  # noqa: SLF001 - our own attribute
    return backend


def _warn(task_id: str, state: str, error: Exception) -> None:
    logger.warning("task [%s]: cannot store its state %s: %r", task_id, state, error)
