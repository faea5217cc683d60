"""Chord rows: how an SQL store counts the members of chords; see `broker_app.results.sql_chords`."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    delete,
    inspect,
    or_,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Engine

UPSERTING = frozenset({"sqlite", "postgresql"})
"""The databases, as dialects of SQLAlchemy, that have a statement that inserts or updates."""

KEEP_OPEN = timedelta(days=30)
"""Time that a chord waits for its next member, on top of the expiry of results."""

_TRIES = 5
_PAUSE_SECONDS = 0.1


def upsert_of(dialect: str) -> Any:
    """Return the statement of a database that inserts or updates; the others are not imported."""
    return import_module(f"sqlalchemy.dialects.{dialect}").insert


@dataclass(eq=False, slots=True)
class ChordPart:
    """The outcome of a chord's member; once it is stored, also what the store says about the chord.

    Attributes:
        group_id: Id of the header.
        task_id: Id of the member.
        position: Index in the header, which can contain a frozen signature, and its id, twice.
        outcome: Id, state and result, encoded.
        is_claimer: Whether this member has to start the body.
        is_claimed_before: Whether an earlier run of this member already had to.
    """

    group_id: str
    task_id: str
    position: int
    outcome: bytes
    is_claimer: bool = False
    is_claimed_before: bool = False


class ChordRows:
    """The tables of chords and of their members' outcomes. Its methods work in the transaction of a connection.

    Args:
        dialect: One of `UPSERTING`.
        schema: The schema of the tables; None for the default.
    """

    def __init__(self, dialect: str, schema: str | None) -> None:
        self._insert = upsert_of(dialect)
        self._metadata = MetaData(schema=schema)
        self._chords = Table(
            "broker_app_chord",
            self._metadata,
            Column("group_id", Text, primary_key=True),
            Column("size", Integer),  # None until the last member is published
            Column("added", Integer, nullable=False, default=0),  # by `add_to_chord`
            Column("ended", Integer, nullable=False, default=0),
            Column("claimed_by", Text),
            Column("is_started", Boolean, nullable=False, default=False),
            Column("header", LargeBinary),  # the structure of nested groups
            Column("date_done", DateTime, nullable=False, index=True),
        )
        self._parts = Table(
            "broker_app_chord_part",
            self._metadata,
            Column("group_id", Text, primary_key=True),
            Column("position", Integer, primary_key=True, autoincrement=False),
            Column("task_id", Text, primary_key=True),
            Column("outcome", LargeBinary, nullable=False),
        )

    def create(self, engine: Engine) -> None:
        """Create the tables if they do not exist; other processes may do the same at this moment.

        Raises:
            DatabaseError: They cannot be created.
        """
        for left in reversed(range(_TRIES)):
            try:
                self._metadata.create_all(engine)
            except DatabaseError:
                if not left:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    def begin(self, connection: Any, group_id: str, header: bytes | None) -> None:
        """Store a chord without members. A signature that is applied again begins again."""
        new = {"size": None, "added": 0, "ended": 0, "claimed_by": None, "is_started": False, "header": header}
        connection.execute(self._upsert(group_id, new))
        connection.execute(delete(self._parts).where(self._parts.c.group_id == group_id))

    def set_size(self, connection: Any, group_id: str, size: int) -> None:
        """Store the number of members."""
        connection.execute(self._upsert(group_id, {"size": size}))

    def add_one(self, connection: Any, group_id: str) -> None:
        """Expect one more member."""
        connection.execute(update(self._chords).where(self._is(group_id)).values(added=self._chords.c.added + 1))

    def count(self, connection: Any, parts: Sequence[ChordPart]) -> None:
        """Store outcomes, claim the chords that are complete, and set what the store says about them.

        Outcomes of chords that the store does not know are left out: another client has published those, and
        Celery polls for their members.
        """
        groups = defaultdict(list)
        for part in parts:
            groups[part.group_id].append(part)
        for group_id in sorted(groups):  # two processes never wait for each other's chords
            self._count_group(connection, group_id, groups[group_id])

    def is_started(self, connection: Any, group_id: str) -> bool:
        """Return whether the body has been started; True as well if the chord is gone."""
        return connection.scalar(select(self._chords.c.is_started).where(self._is(group_id))) is not False

    def outcomes_of(self, connection: Any, group_id: str) -> tuple[bytes | None, list[bytes]]:
        """Return the structure of a header, None for a flat one, and its members' outcomes in order."""
        header = connection.scalar(select(self._chords.c.header).where(self._is(group_id)))
        parts = self._parts.c
        ordered = select(parts.outcome).where(parts.group_id == group_id).order_by(parts.position, parts.task_id)
        return header, list(connection.scalars(ordered))

    def end(self, connection: Any, group_id: str) -> None:
        """Store that the body has been started, and remove the outcomes."""
        connection.execute(
            update(self._chords).where(self._is(group_id)).values(is_started=True, date_done=_now())
        )
        connection.execute(delete(self._parts).where(self._parts.c.group_id == group_id))

    def remove_old(self, connection: Any, before: datetime, limit: int) -> int:
        """Remove chords started before a moment, and those not heard of for long; return how many it removed."""
        chords = self._chords
        if not inspect(connection).has_table(chords.name, schema=chords.schema):
            return 0
        date = chords.c.date_done
        is_old = or_(and_(chords.c.is_started, date < before), date < before - KEEP_OPEN)
        ids = connection.scalars(select(chords.c.group_id).where(is_old).limit(limit)).all()
        for table in (chords, self._parts) if ids else ():
            connection.execute(delete(table).where(table.c.group_id.in_(ids)))
        return len(ids)

    def _is(self, group_id: str) -> Any:
        return self._chords.c.group_id == group_id

    def _upsert(self, group_id: str, values: dict[str, Any]) -> Any:
        values = values | {"date_done": _now()}
        statement = self._insert(self._chords).values(group_id=group_id, **values)
        return statement.on_conflict_do_update(index_elements=["group_id"], set_=values)

    def _count_group(self, connection: Any, group_id: str, parts: Sequence[ChordPart]) -> None:
        lock = update(self._chords).where(self._is(group_id)).values(date_done=_now())
        connection.execute(lock)  # before the row is read: PostgreSQL locks the row, SQLite the file
        chord = connection.execute(select(self._chords).where(self._is(group_id))).one_or_none()
        if chord is None or chord.is_started:
            return
        ended, claimed_by = chord.ended + self._insert_new(connection, parts), chord.claimed_by
        if claimed_by is None and chord.size is not None and ended >= chord.size + chord.added:
            claimed_by = parts[-1].task_id
        connection.execute(lock.values(ended=ended, claimed_by=claimed_by))
        for part in parts:
            part.is_claimer = part.task_id == claimed_by
            part.is_claimed_before = part.task_id == chord.claimed_by

    def _insert_new(self, connection: Any, parts: Iterable[ChordPart]) -> int:
        """Store outcomes, and return how many of them were not stored before."""
        rows = [
            {
                "group_id": part.group_id,
                "position": part.position,
                "task_id": part.task_id,
                "outcome": part.outcome,
            }
            for part in parts
        ]
        statement = self._insert(self._parts).on_conflict_do_nothing()
        inserted = connection.execute(statement, rows, execution_options={"preserve_rowcount": True})
        return int(inserted.rowcount)


def _now() -> datetime:
    return datetime.now(UTC)
