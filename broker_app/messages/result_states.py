"""Results of replayed tasks: find those that have succeeded, and reset the others to PENDING."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from celery import states
from celery.backends.base import DisabledBackend

from broker_app.errors import SelectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from celery import Celery

logger = logging.getLogger(__name__)

_SETTLED = (states.PENDING, states.SUCCESS)
"""States that a replay leaves alone: already PENDING, or a result that callers may still read."""


class ResultStates(Protocol):
    """The operations on results that a replay needs."""

    def succeeded(self, ids: Collection[str]) -> set[str]:
        """Return the ids of tasks that have succeeded."""

    def reset(self, ids: Collection[str]) -> None:
        """Reset results to PENDING, except successful ones, and remember their previous states."""

    def restore(self, task_id: str) -> None:
        """Restore a result to its state before the reset."""

    def forget(self, task_id: str) -> None:
        """Forget the state from before the reset."""


def result_store(app: Celery, *, must_tell: bool) -> ResultStates:
    """Return the result store of an app.

    Args:
        app: The app.
        must_tell: Whether the caller needs to know which tasks have succeeded.

    Raises:
        SelectionError: It does, and the app has no result backend.
    """
    backend = app.backend
    if hasattr(backend, "ResultSession"):  # Celery's SQL backend; importing its class would load SQLAlchemy
        return _FaultTolerantStates(_Database(backend))
    if not isinstance(backend, DisabledBackend) and hasattr(backend, "_get_task_meta_for"):
        return _FaultTolerantStates(_Backend(backend))
    if must_tell:
        raise SelectionError(
            "--skip-succeeded: expected a result store, got none; set result_url, or leave it out"
        )
    return _NoResults()


class _FaultTolerantStates:
    """Makes a result store fault-tolerant: tasks are sent without it, unless successes must be skipped."""

    def __init__(self, store: ResultStates) -> None:
        self._store = store
        self._is_lost = False

    def succeeded(self, ids: Collection[str]) -> set[str]:
        try:
            return self._store.succeeded(ids)
        except Exception as error:
            raise SelectionError(f"--skip-succeeded: the result store does not answer ({error!r})") from error

    def reset(self, ids: Collection[str]) -> None:
        self._try(lambda: self._store.reset(ids))

    def restore(self, task_id: str) -> None:
        self._try(lambda: self._store.restore(task_id))

    def forget(self, task_id: str) -> None:
        self._store.forget(task_id)

    def _try(self, change: Callable[[], None]) -> None:
        if self._is_lost:
            return
        try:
            change()
        except Exception as error:  # noqa: BLE001 - each backend has its own exceptions
            self._is_lost = True
            words = " ".join(str(error).split())
            logger.warning("the results stay as they are, since the result store does not answer: %s", words)


class _NoResults:
    """For apps without a result backend."""

    def succeeded(self, ids: Collection[str]) -> set[str]:
        del ids
        return set()

    def reset(self, ids: Collection[str]) -> None: ...

    def restore(self, task_id: str) -> None: ...

    def forget(self, task_id: str) -> None: ...


class _Backend:
    """Any Celery backend, one result at a time."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._before: dict[str, dict[str, Any]] = {}

    def succeeded(self, ids: Collection[str]) -> set[str]:
        return {one for one in ids if self._meta(one)["status"] == states.SUCCESS}

    def reset(self, ids: Collection[str]) -> None:
        for one in ids:
            meta = self._meta(one)
            if meta["status"] not in _SETTLED:
                self._before[one] = meta
                self._backend.store_result(one, None, states.PENDING)

    def restore(self, task_id: str) -> None:
        if meta := self._before.pop(task_id, None):
            self._backend.store_result(task_id, meta["result"], meta["status"], traceback=meta.get("traceback"))

    def forget(self, task_id: str) -> None:
        self._before.pop(task_id, None)

    def _meta(self, task_id: str) -> dict[str, Any]:
        meta: dict[str, Any] = self._backend.get_task_meta(task_id, cache=False)
        return meta


class _Database:
    """A database: one statement for many results. Missing rows stay missing, which means PENDING."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._before: dict[str, dict[str, Any]] = {}

    def succeeded(self, ids: Collection[str]) -> set[str]:
        table = self._backend.task_cls
        with self._backend.ResultSession() as session:
            rows = session.query(table.task_id).filter(table.task_id.in_(ids), table.status == states.SUCCESS)
            return {row.task_id for row in rows}

    def reset(self, ids: Collection[str]) -> None:
        table = self._backend.task_cls
        with self._backend.ResultSession() as session:
            wanted = session.query(table).filter(table.task_id.in_(ids), table.status.not_in(_SETTLED))
            rows = wanted.with_entities(table.task_id, table.status, table.result, table.traceback).all()
            if not rows:
                return
            for row in rows:
                values = {"status": row.status, "result": row.result, "traceback": row.traceback}
                self._before[row.task_id] = values
            pending = {"status": states.PENDING, "result": None, "traceback": None}
            wanted.update(pending, synchronize_session=False)
            session.commit()

    def restore(self, task_id: str) -> None:
        values = self._before.pop(task_id, None)
        if values is None:
            return
        table = self._backend.task_cls
        with self._backend.ResultSession() as session:
            rows = session.query(table).filter(table.task_id == task_id, table.status == states.PENDING)
            rows.update(values, synchronize_session=False)
            session.commit()

    def forget(self, task_id: str) -> None:
        self._before.pop(task_id, None)
