"""The store counts the members of chords: each once, and one of them starts the body."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from celery import states
from celery.app.task import Context
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.errors import ResultStoreError
from broker_app.results import sql_chords
from broker_app.results.expiry import Expiry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHORDS, SIZE = 20, 4
SECONDS = 30.0
_MEMBER = {"task": "celery.backend_cleanup", "called_directly": False}


@pytest.fixture
def started() -> list[str]:
    """Return the chords whose bodies were started."""
    return []


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[str]) -> Iterator[list[BrokerApp]]:
    """Return two apps, each with its own connections to one SQLite file, that start no real bodies."""
    file = tmp_path / "settings.toml"
    file.write_text(f"state_dir = '{tmp_path / 'state'}'\n", encoding="utf-8")
    monkeypatch.setattr(sql_chords, "CLAIM_SECONDS", 0.0)
    made = [BrokerApp("tests", config=file, set_as_current=False) for _ in range(2)]
    for app in made:
        monkeypatch.setattr(app.backend, "_start_body", lambda group_id, _chord: started.append(group_id))
    yield made
    for app in made:
        app.close()


def _begin(app: BrokerApp, group_id: str, size: int) -> None:
    app.backend.apply_chord((group_id, [app.AsyncResult(f"{group_id}-0")]), None)
    app.backend.set_chord_size(group_id, size)


def _end(app: BrokerApp, group_id: str, number: int) -> None:
    chord = {"task": "body"}
    request = Context(id=f"{group_id}-{number}", group=group_id, group_index=number, chord=chord, **_MEMBER)
    app.backend.on_chord_part_return(request, states.SUCCESS, number)


def _rows(tmp_path: Path, table: str) -> list[Any]:
    with closing(sqlite3.connect(tmp_path / "state" / "results.sqlite3")) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - ours


def test_members_that_end_at_once(apps: list[BrokerApp], started: list[str]) -> None:
    """Whichever process they end in, each body is started once."""
    for number in range(CHORDS):
        _begin(apps[0], f"chord-{number}", SIZE)
    ends = [(apps[part % 2], f"chord-{number}", part) for number in range(CHORDS) for part in range(SIZE)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda end: _end(*end), ends))
    assert sorted(started) == sorted(f"chord-{number}" for number in range(CHORDS))


def test_a_redelivered_member(apps: list[BrokerApp], started: list[str]) -> None:
    """It counts once. Only the last one starts the body again, and only until it is known to be started."""
    app = apps[0]
    _begin(app, "chord", 2)
    _end(app, "chord", 0)
    _end(app, "chord", 0)
    assert started == []
    _end(app, "chord", 1)
    _end(app, "chord", 0)
    assert started == ["chord"]
    _end(app, "chord", 1)
    assert started == ["chord", "chord"]
    app.backend._in_store(app.backend._rows.end, "chord")
    _end(app, "chord", 1)
    assert started == ["chord", "chord"]


def test_a_member_that_is_added(apps: list[BrokerApp], started: list[str]) -> None:
    """The chord waits for it, too."""
    app = apps[0]
    _begin(app, "chord", 1)
    app.backend.add_to_chord("chord", app.AsyncResult("chord-1"))
    _end(app, "chord", 0)
    assert started == []
    _end(app, "chord", 1)
    assert started == ["chord"]


def test_a_body_that_is_started_while_the_slot_goes_on(
    apps: list[BrokerApp], started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a worker, a member's message waits for the body, its slot does not; a start that fails is repeated."""
    app, is_open, settled, tries = apps[0], threading.Event(), threading.Event(), [OSError("away")]
    app.result_writer.is_batching = True
    parents: list[str] = []

    def start(group_id: str, _chord: Any) -> None:
        is_open.wait(SECONDS)
        if tries:
            parents.append(app.current_worker_task.request.id)
            raise tries.pop()
        started.append(group_id)

    monkeypatch.setattr(app.backend, "_start_body", start)
    _begin(app, "chord", 2)
    for number in range(2):
        _end(app, "chord", number)
    app.result_writer.when_stored("chord-1", settled.set)
    app.backend.store_result("other", 1, states.SUCCESS)
    assert app.AsyncResult("other").state == states.SUCCESS
    assert not settled.is_set()
    is_open.set()
    assert settled.wait(SECONDS)
    wait_until(lambda: started == ["chord"], SECONDS, "the body to be started")
    assert parents == ["chord-1"]


def test_a_chord_of_another_client(apps: list[BrokerApp], started: list[str], tmp_path: Path) -> None:
    """Its members are not counted, since Celery polls for them; the store keeps nothing of it."""
    _end(apps[0], "unknown", 0)
    assert (started, _rows(tmp_path, "broker_app_chord_part")) == ([], [])


def test_old_chords_are_removed(apps: list[BrokerApp], tmp_path: Path) -> None:
    """Those that are started go with the results, those that wait for members a month later."""
    app, file = apps[0], tmp_path / "state" / "results.sqlite3"
    for name, is_started, date in (
        ("new", 1, "2999"),
        ("old", 1, "2020"),
        ("open", 0, "2020"),
        ("kept", 0, "2999"),
    ):
        _begin(app, name, 2)
        _end(app, name, 0)
        with closing(sqlite3.connect(file)) as connection, connection:
            change = "UPDATE broker_app_chord SET is_started = ?, date_done = ? WHERE group_id = ?"
            connection.execute(change, (is_started, f"{date}-01-01", name))
    Expiry(app.backend, lambda _: None).sweep()
    assert {row[0] for row in _rows(tmp_path, "broker_app_chord")} == {"new", "kept"}
    assert {row[0] for row in _rows(tmp_path, "broker_app_chord_part")} == {"new", "kept"}


def test_a_store_that_does_not_answer(apps: list[BrokerApp], tmp_path: Path) -> None:
    """The call of a chord is an error, before a member is published."""
    (tmp_path / "state").write_text("in the way", encoding="utf-8")
    with pytest.raises(ResultStoreError, match="chord-1"):
        _begin(apps[0], "chord-1", 1)
