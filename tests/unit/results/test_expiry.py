"""Expired results are removed a few at a time, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from typing import TYPE_CHECKING

import pytest
from celery import states
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.results import expiry
from broker_app.results.expiry import Expiry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 30.0
EXPIRED, KEPT = 5, 3


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerApp]:
    """Return an app whose store has five expired results and three others."""
    monkeypatch.setattr(expiry, "MAX_ROWS", 2)
    file = tmp_path / "settings.toml"
    file.write_text(f"state_dir = '{tmp_path / 'state'}'\n", encoding="utf-8")
    app = BrokerApp("tests", config=file, set_as_current=False)
    for number in range(EXPIRED + KEPT):
        app.backend.store_result(f"id-{number}", number, states.SUCCESS)
    app.backend.store_result("id-on-its-way", {}, states.STARTED)
    connection = sqlite3.connect(tmp_path / "state" / "results.sqlite3")
    with connection:
        connection.execute("UPDATE celery_taskmeta SET date_done = '2020-01-01' WHERE id <= ?", (EXPIRED,))
    connection.close()
    yield app
    app.close()


def test_what_has_expired_is_removed_in_small_transactions(app: BrokerApp) -> None:
    """And nothing else."""
    removed: list[int] = []
    Expiry(app.backend, removed.append).sweep()
    assert removed == [2, 2, 1]
    kept = [app.AsyncResult(f"id-{number}").state for number in range(EXPIRED + KEPT)]
    assert kept == [states.PENDING] * EXPIRED + [states.SUCCESS] * KEPT
    assert app.AsyncResult("id-on-its-way").state == states.STARTED


def test_one_process_removes_at_a_time(app: BrokerApp, tmp_path: Path) -> None:
    """While another one is at it, a sweep removes nothing; the next one does."""
    removed: list[int] = []
    folder = os.open(tmp_path / "state", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    Expiry(app.backend, removed.append).sweep()
    assert not removed
    os.close(folder)
    Expiry(app.backend, removed.append).sweep()
    assert sum(removed) == EXPIRED


def test_sweeps_go_on_after_an_error(app: BrokerApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, until they are stopped."""
    monkeypatch.setattr(expiry, "SWEEP_SECONDS", 0.05)
    removed: list[int] = []
    sweeps = Expiry(app.backend, removed.append)
    moved = tmp_path / "moved"
    (tmp_path / "state").rename(moved)
    (tmp_path / "state").write_text("in the way", encoding="utf-8")
    sweeps.start()
    (tmp_path / "state").unlink()
    moved.rename(tmp_path / "state")
    wait_until(lambda: sum(removed) == EXPIRED, SECONDS, "all expired results to be removed")
    sweeps.stop()
