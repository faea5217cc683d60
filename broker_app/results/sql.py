"""SQL result backend: Celery's, shared by all threads of a process, which await their results together."""

from __future__ import annotations

import math
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.database import DatabaseBackend as CeleryDatabaseBackend
from celery.backends.database import session_cleanup
from celery.exceptions import BackendGetMetaError, ImproperlyConfigured
from celery.exceptions import TimeoutError as ResultTimeoutError
from celery.result import ResultSet
from sqlalchemy import bindparam, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import NoSuchModuleError

from broker_app.results.sessions import SessionManager
from broker_app.results.sql_batches import SqlBatches
from broker_app.results.waiting import ResultWaiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from sqlalchemy import Select

_ENCODED = ("args", "kwargs", "children")

_MOST_IDS = 500
"""Ids in one query; every database takes as many parameters."""


class DatabaseBackend(SqlBatches, CeleryDatabaseBackend):
    """Celery's database backend with our `SessionManager`; waiting for results costs few queries and little time.

    Raises:
        ImportError: The database driver is not installed.
        ImproperlyConfigured: SQLAlchemy does not support the database.
    """

    supports_native_join = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _check_driver(self.url)
        self.session_manager = SessionManager()
        self.thread_safe = True
        self._waiter = ResultWaiter(self._find_ready)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        on_interval: Callable[[], object] | None = None,
    ) -> Any:
        """Wait for a result, as Celery does, with pauses of milliseconds at first and `interval` seconds at most.

        Raises:
            ResultTimeoutError: The result is not ready after `timeout` seconds.
        """
        del no_ack
        metas = self.get_many((task_id,), timeout=timeout, interval=interval, on_interval=on_interval)
        return next(metas)[1]

    def iter_native(self, result: ResultSet, timeout: float | None = None, *args: Any, **options: Any) -> Any:
        """Yield each member's id with its result as soon as it is ready; an inner group once all of it is ready.

        Raises:
            ResultTimeoutError: They are not all ready after `timeout` seconds.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        plain = [one for one in result.results if not isinstance(one, ResultSet)]
        yield from ((one.id, {"status": states.SUCCESS, "result": None}) for one in plain if one.ignored)
        yield from self.get_many([one.id for one in plain if not one.ignored], timeout, *args, **options)
        for group in result.results:
            if isinstance(group, ResultSet):
                left = None if timeout is None else max(0.0, deadline - time.monotonic())
                for _ready in self.iter_native(group, left, *args, **options):
                    pass
                yield group.id, group.results

    def get_many(  # noqa: PLR0913, PLR0917 - Celery's signature
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        max_iterations: int | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield each task's id with its result as soon as it is ready.

        Args:
            task_ids: The tasks.
            timeout: Seconds; None waits for ever.
            interval: Longest pause between two queries, in seconds.
            no_ack: Not used.
            on_message: Called with each result.
            on_interval: Called before each pause.
            max_iterations: If given, ask once and yield what is ready now.

        Raises:
            ResultTimeoutError: They are not all ready after `timeout` seconds.
        """
        del no_ack
        self._ensure_not_eager()
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        left = set(task_ids)
        for task_id in [one for one in left if self.is_cached(one)]:
            left.discard(task_id)
            yield task_id, self.get_task_meta(task_id)
        while left:
            ready: AbstractSet[str] = set()
            if max_iterations is None:
                longest = 0.5 if interval is None else interval
                ready = self._waiter.wait(left, deadline=deadline, longest_pause=longest, on_pause=on_interval)
            metas = self._ready_metas(ready or left)  # at the deadline, look once more
            left.difference_update(task_id for task_id, _ in metas)
            for task_id, meta in metas:
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            if max_iterations is not None:
                return
            if left and not ready and not metas:
                raise ResultTimeoutError("The operation timed out.")

    def find_failed(self, task_ids: AbstractSet[str]) -> set[str]:
        """Return those of the tasks whose results `get()` raises."""
        return self._find(task_ids, states.PROPAGATE_STATES) if task_ids else set()

    def _find_ready(self, task_ids: AbstractSet[str]) -> set[str]:
        """Return those of the tasks whose results are ready."""
        return self._find(task_ids, states.READY_STATES)

    def _find(self, task_ids: AbstractSet[str], wanted: AbstractSet[str]) -> set[str]:
        return {row.task_id for row in self._query(task_ids, self._select_ids, wanted)}

    def _ready_metas(self, task_ids: AbstractSet[str]) -> list[tuple[str, Any]]:
        """Return the ids and results of those tasks that are ready."""
        rows = self._query(task_ids, self._select_rows, states.READY_STATES)
        metas = [(row[0].task_id, self._meta_of(row[0])) for row in rows]
        for task_id, meta in metas:
            if meta["status"] == states.SUCCESS:  # as Celery does: any other state may change when it is replayed
                self._cache[task_id] = meta
        return metas

    def _query(self, task_ids: AbstractSet[str], statement: Select[Any], wanted: AbstractSet[str]) -> list[Any]:
        ids = tuple(task_ids)
        return self._ensure_retryable(  # type: ignore[no-any-return] # Celery has no annotations
            self._query_once,
            ids,
            statement,
            wanted,
            fallback_exc=partial(BackendGetMetaError, task_id=ids[0]),
            fallback_msg="failed to get meta",
        )

    def _query_once(self, ids: tuple[str, ...], statement: Select[Any], wanted: AbstractSet[str]) -> list[Any]:
        rows: list[Any] = []
        session = self.ResultSession()
        with session_cleanup(session):
            for first in range(0, len(ids), _MOST_IDS):
                some = {"ids": ids[first : first + _MOST_IDS], "states": tuple(wanted)}
                rows += session.execute(statement, some).all()
        return rows

    @cached_property
    def _select_ids(self) -> Select[Any]:
        """The query that a wait repeats; made once, and of the table's column, it takes half of the CPU."""
        columns = self.task_cls.__table__.c
        return _chosen(select(columns.task_id), columns)

    @cached_property
    def _select_rows(self) -> Select[Any]:
        return _chosen(select(self.task_cls), self.task_cls.__table__.c)

    def _meta_of(self, row: Any) -> Any:
        """Decode a row, as Celery's `_get_task_meta_for` does."""
        data = row.to_dict()
        stamps = data.pop("stamps", None)
        data["result"] = self._decode_stored_result(data["result"])
        data |= {name: self.decode(data[name]) for name in _ENCODED if data.get(name) is not None}
        known = self.decode(stamps) if stamps is not None else None
        if isinstance(known, dict):
            data |= known.get("stamps") or {}
            data["stamped_headers"] = known.get("stamped_headers")
        return self.meta_from_decoded(data)


def _chosen(statement: Select[Any], columns: Any) -> Select[Any]:
    """Restrict a query to the tasks ``ids`` in one of the ``states``."""
    ids: Any = bindparam("ids", expanding=True)
    wanted: Any = bindparam("states", expanding=True)
    return statement.where(columns.task_id.in_(ids), columns.status.in_(wanted))


def _check_driver(url: str) -> None:
    """Import the driver now: a missing one would otherwise surface at the first result, or not at all."""
    try:
        make_url(url).get_dialect().import_dbapi()
    except NoSuchModuleError as error:
        raise ImproperlyConfigured(str(error)) from error
