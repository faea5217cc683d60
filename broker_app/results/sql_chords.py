"""SQL chords: the store counts the members of a chord, and the one that completes the count starts the body.

Each member's outcome is a row, whose key makes a member that runs twice count once. The transaction that completes
the count also claims the chord for a member in it, which then publishes the body before its own message is
acknowledged. If its worker dies in between, the redelivered member finds the chord claimed in its name and
publishes the body again, with the same id. Outcomes hold the results: the body needs no other rows.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import states
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.result import GroupResult, allow_join_result, result_from_tuple
from kombu.utils.encoding import ensure_bytes
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from broker_app.results.chord_members import chord_refused
from broker_app.results.chord_rows import UPSERTING, ChordPart, ChordRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CLAIM_SECONDS = 2.0
"""Time that a redelivered member leaves to its earlier run, which may still be about to start the body."""

_PAUSE_SECONDS = 0.1

_LAST = 2**31 - 1
"""Position of members without an index."""

_MAX_CHORDS = 50

logger = logging.getLogger(__name__)


class SqlChords:
    """Mixin for Celery's database backend. With other databases than those of `UPSERTING`, Celery polls."""

    counts_once = True

    app: Any
    chord_error_from_stack: Any
    decode: Any
    encode: Callable[[Any], str | bytes]
    encode_result: Any
    engine_options: Any
    ensure_chords_allowed: Any
    exception_to_python: Any
    expires: Any
    session_manager: Any
    short_lived_sessions: Any
    taskset_cls: Any
    url: str
    write_rows: Any
    _ensure_retryable: Any
    _chords_are_in: tuple[Any, bool] | None = None

    def apply_chord(self, header_result_args: Any, body: Any, **options: Any) -> Any:
        """Prepare a chord, before its members are published.

        Raises:
            ResultStoreError: The store does not answer. The members could run, but the body never would.
        """
        self.ensure_chords_allowed()
        group_id, results = header_result_args[:2]
        try:
            is_counted = self._has_chords()
            if is_counted:
                self._in_store(self._rows.begin, group_id, self._structure_of(group_id, results))
        except Exception as error:
            raise chord_refused(group_id, error) from error
        return None if is_counted else super().apply_chord(header_result_args, body, **options)  # type: ignore[misc]

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Store how many members a chord has; Celery calls this before it publishes the last one."""
        if self._has_chords():
            self._in_store(self._rows.set_size, group_id, chord_size)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Expect one more member."""
        del result
        if self._has_chords():
            self._in_store(self._rows.add_one, chord_id)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **options: Any) -> None:
        """Store the outcome of a chord's member; the last one starts the body, or fails it with a `ChordError`."""
        del options
        if not request.group or not request.id or not self._has_chords():
            return
        outcome = self.encode([request.id, state, self.encode_result(result, state)])
        position = _LAST if request.group_index is None else request.group_index
        part = ChordPart(request.group, request.id, position, ensure_bytes(outcome))
        self.count_part(part, state, request)

    def count_part(self, part: ChordPart, state: str, request: Any) -> None:
        """Store the outcome of a member, and start the body if the store says so."""
        del state
        self.write_rows([part])
        self.start_if_claimed(part, request)

    def start_if_claimed(self, part: ChordPart, request: Any) -> None:
        """Start the body, or fail it with a `ChordError`, if a stored member has to."""
        if part.is_claimer and not (part.is_claimed_before and self._is_started_soon(part.group_id)):
            self._start_body(part.group_id, request.chord)

    def remove_old_chords(self, session: Any, before: datetime) -> int:
        """Remove some expired chords, and return how many it removed."""
        return self._rows.remove_old(session.connection(), before, _MAX_CHORDS)

    def _cleanup(self) -> None:
        super()._cleanup()  # type: ignore[misc]
        if self.can_batch:
            while self._transact(self._rows.remove_old, datetime.now(UTC) - self.expires, _MAX_CHORDS):
                pass

    @property
    def counts_in_batches(self) -> bool:
        """True unless the tables cannot be created: then no count follows a result, and Celery polls."""
        return self._chords_are_in is None or self._chords_are_in[1]

    @cached_property
    def can_batch(self) -> bool:
        """True if the database has the statement for batches and for chords."""
        return self._dialect in UPSERTING

    @cached_property
    def _dialect(self) -> str:
        return make_url(self.url).get_backend_name()

    @cached_property
    def _rows(self) -> ChordRows:
        return ChordRows(self._dialect, self.taskset_cls.__table__.schema)

    def _has_chords(self) -> bool:
        """Return whether the store counts chords; create the tables on first use.

        Raises:
            DatabaseError: The store cannot be used.
        """
        if not self.can_batch:
            return False
        engine = self._engine()
        if self._chords_are_in is None or self._chords_are_in[0] is not engine:
            self._chords_are_in = (engine, self._may_create(engine))
        return self._chords_are_in[1]

    def _may_create(self, engine: Any) -> bool:
        try:
            self._rows.create(engine)
        except ProgrammingError as error:
            logger.warning("cannot create the tables for chords, Celery polls for their members: %r", error)
            return False
        return True

    def _in_store(self, operation: Callable[..., Any], *args: Any) -> Any:
        return self._ensure_retryable(self._transact, operation, *args)

    def _transact(self, operation: Callable[..., Any], *args: Any) -> Any:
        engine = self._engine()
        self.session_manager.prepare_models(engine)
        with engine.begin() as connection:
            return operation(connection, *args)

    def _engine(self) -> Any:
        engine, _factory = self.session_manager.create_session(
            self.url, short_lived_sessions=self.short_lived_sessions, **self.engine_options
        )
        return engine

    def _structure_of(self, group_id: str, results: Any) -> bytes | None:
        """Return the structure of a header that has groups in it; None for a flat one, or one not yet known."""
        if not isinstance(results, (list, tuple)) or not any(isinstance(one, GroupResult) for one in results):
            return None
        structure: bytes = ensure_bytes(self.encode(self.app.GroupResult(group_id, results).as_tuple()))
        return structure

    def _is_started_soon(self, group_id: str) -> bool:
        """Return whether an earlier run of this member starts the body within `CLAIM_SECONDS`."""
        deadline = time.monotonic() + CLAIM_SECONDS
        while not (is_started := self._in_store(self._rows.is_started, group_id)):
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        return bool(is_started)

    def _start_body(self, group_id: str, chord: Any) -> None:
        """Publish the body with the members' results, or fail it, and store that this is done."""
        body = maybe_signature(chord, app=self.app)
        header, outcomes = self._in_store(self._rows.outcomes_of, group_id)
        try:
            self._publish_body(body, self._join(header, outcomes))
        except ChordError as error:
            logger.error("chord %s failed: %s", group_id, error)  # noqa: TRY400 - its members have logged theirs
            self.chord_error_from_stack(body, error)
        try:
            self._in_store(self._rows.end, group_id)
        except Exception as error:  # noqa: BLE001 - any of the store's; the body must not be started again for it
            logger.warning("chord %s: cannot store that its body has been started: %r", group_id, error)

    def _publish_body(self, body: Any, values: list[Any]) -> None:
        try:
            self.app.amqp._retry_publish(body.delay, values)  # noqa: SLF001 - as Celery's backends do
        except Exception as error:
            raise ChordError(f"Callback error: {error!r}") from error

    def _join(self, header: bytes | None, outcomes: Iterable[bytes]) -> list[Any]:
        """Return the members' results in the order of the header, with its nested groups as lists.

        Raises:
            ChordError: A member failed, expired, was cancelled or was ignored.
        """
        try:
            values = [self._value_of(*self.decode(outcome)) for outcome in outcomes]
            if header is None:
                return [value for _, value in values]
            return self._nested(result_from_tuple(self.decode(header), self.app), dict(values))
        except ChordError:
            raise
        except Exception as error:
            raise ChordError(f"Join error: {error!r}") from error

    def _value_of(self, task_id: str, state: str, value: Any) -> tuple[str, Any]:
        if state in states.EXCEPTION_STATES:
            value = self.exception_to_python(value)
        if state in states.PROPAGATE_STATES:
            cause = value if isinstance(value, BaseException) else None
            raise ChordError(f"Dependency {task_id} raised {value!r}") from cause
        return task_id, value

    def _nested(self, group: Any, values: dict[str, Any]) -> list[Any]:
        """Return the results of a group; those that the chord has not counted are read from the store."""
        return [
            self._nested(one, values)
            if isinstance(one, GroupResult)
            else values[one.id]
            if one.id in values
            else self._stored(one)
            for one in group.results
        ]

    def _stored(self, result: Any) -> Any:
        with allow_join_result():
            return result.get(timeout=self.app.conf.result_chord_join_timeout)
