"""The spool's file: order, bounds, damage, and the rest of a delay."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING

import pytest

from broker_app.errors import SpoolError, SpoolFull
from broker_app.publishing.spool.store import FILE_NAME, SpooledMessage, SpoolFile
from broker_app.queues import split_rest

if TYPE_CHECKING:
    from pathlib import Path


def message(task_id: str = "1", body: bytes = b"[]", *, maybe_taken: bool = False) -> SpooledMessage:
    """Return a message for the spool."""
    return SpooledMessage(
        0, "shop.add", task_id, "default", "tasks", "default", 0.0, time.time(), maybe_taken, b"p", body
    )


@pytest.fixture
def store(tmp_path: Path) -> SpoolFile:
    """Return a spool in a folder that is not there yet."""
    return SpoolFile(tmp_path / "state", max_messages=10, max_bytes=1_000)


def ids(store: SpoolFile) -> list[str]:
    """Return the ids of the waiting tasks, in order."""
    return [one.task_id for one in store.first(100)]


def test_nothing_is_made_before_something_is_spooled(store: SpoolFile) -> None:
    """To look into an empty spool makes no file."""
    assert not store.has_waiting()
    assert store.status().waiting == 0
    assert not store.file.parent.exists()


def test_messages_stay_in_order_and_whole(store: SpoolFile) -> None:
    """Tasks leave the spool as they entered it, oldest first, also for the next process."""
    for name in "abc":
        store.add(message(name, body=name.encode(), maybe_taken=name == "b"))
    store.close()
    again = SpoolFile(store.file.parent, 10, 1_000)
    assert [(one.task_id, one.body, bool(one.maybe_taken)) for one in again.first(2)] == [
        ("a", b"a", False),
        ("b", b"b", True),
    ]
    again.remove([again.first(1)[0].number])
    assert ids(store) == ["b", "c"]


def test_its_bounds_hold(store: SpoolFile) -> None:
    """By number and by size; what was taken out makes room."""
    for n in range(10):
        store.add(message(str(n)))
    with pytest.raises(SpoolFull, match="10 messages"):
        store.add(message("11"))
    store.remove([one.number for one in store.first(10)])
    store.add(message("large", b"x" * 990))
    with pytest.raises(SpoolFull):
        store.add(message("small", b"x" * 20))
    assert ids(store) == ["large"]


def test_what_was_refused_stands_aside(store: SpoolFile) -> None:
    """It is not sent, it is counted with its reason, and returns to its old place on request."""
    for name in "abc":
        store.add(message(name))
    store.refuse({store.first(1)[0].number: "no queue"})
    assert ids(store) == ["b", "c"]
    status = store.status()
    assert (status.waiting, status.refused, status.reasons) == (2, 1, {"no queue": 1})
    assert store.retry_refused() == 1
    assert ids(store) == ["a", "b", "c"]


def test_only_its_owner_may_read_it(store: SpoolFile) -> None:
    """Only the owner can read the spool file and enter its folder."""
    store.add(message())
    assert stat.S_IMODE(store.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"this is no database" * 500, b"SQLite format 3\0" + b"\xff" * 8_000])
def test_a_damaged_file_is_moved_aside(store: SpoolFile, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """Nothing is thrown away: one line says where it is, and a new spool is begun."""
    store.file.parent.mkdir()
    store.file.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        store.add(message("new"))
    assert ids(store) == ["new"]
    (aside,) = store.file.parent.glob(f"{FILE_NAME}.damaged-*")
    assert aside.read_bytes() == content
    assert [record.getMessage().count(str(aside)) for record in caplog.records] == [1]


def test_damage_that_shows_later_is_moved_aside(store: SpoolFile) -> None:
    """The call that meets it fails with the file's name, and the next one creates a new file."""
    for n in range(9):
        store.add(message(str(n), b"x" * 90))
    store.close()
    with sqlite3.connect(store.file) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    assert store.has_waiting()
    content = bytearray(store.file.read_bytes())
    content[4_096:] = os.urandom(len(content) - 4_096)
    store.file.write_bytes(content)
    assert store._open is not None
    store._open[1].execute("PRAGMA shrink_memory")
    with pytest.raises(SpoolError, match=FILE_NAME):
        store.first(100)
    store.add(message("new"))
    assert ids(store)[-1] == "new"
    assert list(store.file.parent.glob(f"{FILE_NAME}.damaged-*"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    (tmp_path / "state").write_text("a file")
    with pytest.raises(SpoolError, match="state"):
        SpoolFile(tmp_path / "state", 10, 1_000).add(message())


@pytest.mark.parametrize(
    ("delay_seconds", "ago_seconds", "least", "most"),
    [(0, 5, 0, 0), (10, 20, 0, 0), (10, 4, 6, 6.1), (0.35, 0.1, 0.2, 0.4), (200_000, 100.5, 199_899, 199_901)],
)
def test_the_time_in_the_spool_is_taken_off_a_delay(
    delay_seconds: float, ago_seconds: float, least: float, most: float
) -> None:
    """A task is due when it was to be due: never before, at most a tenth of a second after (days: a second)."""
    delay = split_rest(delay_seconds - ago_seconds)
    assert least <= delay.seconds <= most
    assert delay.fraction == 0
