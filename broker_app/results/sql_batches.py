"""SQL batches: many task states in one transaction, each with one statement, for SQLite and PostgreSQL."""

from __future__ import annotations

import math
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery import states
from sqlalchemy import func

from broker_app.results.chord_rows import ChordPart, upsert_of
from broker_app.results.sql_chords import SqlChords

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_TEXT = 155
"""Length of Celery's columns for names."""


class SqlBatches(SqlChords):
    """Mixin for Celery's database backend. Other databases than these two write as Celery does."""

    task_cls: Any
    _update_result: Any

    def prepare_row(
        self, task_id: str, result: Any, state: str, traceback: Any, request: Any
    ) -> tuple[dict[str, Any], float]:
        """Return a state as `write_rows` takes it, and its size in bytes."""
        row = SimpleNamespace(task_id=task_id, children=None, stamps=None)
        self._update_result(row, result, state, traceback=traceback, request=request)
        values = vars(row)
        if any(
            isinstance(value, str) and len(value) > _MAX_TEXT for value in (values | {"traceback": None}).values()
        ):
            return values, math.inf  # the database may refuse it
        return values, sum(len(value) for value in values.values() if isinstance(value, (bytes, str)))

    def write_rows(self, rows: Sequence[dict[str, Any] | ChordPart]) -> None:
        """Store states and outcomes of chords in one transaction; like Celery, leave a stored SUCCESS as it is."""
        self._in_store(self._execute, rows)

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **options: Any
    ) -> None:
        if self.can_batch:
            self._transact(self._execute, [self.prepare_row(task_id, result, state, traceback, request)[0]])
        else:
            super()._store_result(task_id, result, state, traceback, request, **options)  # type: ignore[misc]

    def _execute(self, connection: Any, rows: Sequence[dict[str, Any] | ChordPart]) -> None:
        parts = [row for row in rows if isinstance(row, ChordPart)]
        results = [row for row in rows if not isinstance(row, ChordPart)]
        if results:  # sorted, so that two processes never wait for each other's rows
            connection.execute(self._upsert, sorted(results, key=lambda row: row["task_id"]))
        if parts:
            self._rows.count(connection, parts)

    @cached_property
    def _upsert(self) -> Any:
        table = self.task_cls.__table__
        statement = upsert_of(self._dialect)(table)
        new = {column.name: statement.excluded[column.name] for column in table.columns if column.name != "id"}
        if "stamps" in new:  # a later state without stamps keeps them
            new["stamps"] = func.coalesce(new["stamps"], table.c.stamps)
        is_open = table.c.status.is_distinct_from(states.SUCCESS)
        return statement.on_conflict_do_update(index_elements=["task_id"], set_=new, where=is_open)
