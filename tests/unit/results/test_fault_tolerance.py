"""Results that a store does not take at once, with Celery's own store in files: it fails without its folder."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

import pytest
from celery import states
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.results import writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the folder of the store."""
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def app(tmp_path: Path, store: Path) -> Iterator[BrokerApp]:
    """Return an app whose result store is away: it was there when the backend was made."""
    file = tmp_path / "settings.toml"
    file.write_text(f"state_dir = '{tmp_path}'\nresult_url = 'file://{store}'\n", encoding="utf-8")
    app = BrokerApp("tests", config=file, set_as_current=False)
    assert app.backend.get_state
    shutil.rmtree(store)
    yield app
    app.close()


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("state", [states.SUCCESS, states.FAILURE, states.REVOKED])
def test_a_final_state_is_stored_once_the_store_is_back(app: BrokerApp, store: Path, state: str) -> None:
    """The task that stores it goes on at once."""
    app.backend.store_result("id-1", ValueError("x") if state != states.SUCCESS else 1, state)
    store.mkdir()
    wait_until(lambda: app.backend.get_task_meta("id-1", cache=False)["status"] == state, SECONDS, "the state")


def test_a_state_on_the_way_is_not_stored_later(app: BrokerApp, store: Path) -> None:
    """STARTED, RETRY and a task's own states are only warned of; a final state follows."""
    for state in (states.STARTED, states.RETRY, "PROGRESS"):
        app.backend.store_result("id-1", {}, state)
    app.backend.store_result("id-2", 1, states.SUCCESS)
    store.mkdir()
    wait_until(lambda: app.AsyncResult("id-2").state == states.SUCCESS, SECONDS, "the other task's")
    assert app.AsyncResult("id-1").state == states.PENDING


def test_a_later_state_is_not_overwritten(app: BrokerApp, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deferred write is forgotten as soon as a later state of the same task is stored."""
    monkeypatch.setattr(writer, "FIRST_PAUSE_SECONDS", 1.0)
    app.backend.store_result("id-1", ValueError("x"), states.FAILURE)
    store.mkdir()
    app.backend.store_result("id-1", {}, states.STARTED)
    wait_until(lambda: "result-writer" not in _threads(), SECONDS, "the background to end")
    assert app.AsyncResult("id-1").state == states.STARTED


def test_a_success_that_cannot_wait_is_an_error(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of deferred writes is bounded: beyond it a task fails, and a failure is only logged."""
    monkeypatch.setattr(writer, "MAX_WAITING", 1)
    app.backend.store_result("id-1", 1, states.SUCCESS)
    with pytest.raises(OSError, match="id-2"):
        app.backend.store_result("id-2", 1, states.SUCCESS)
    app.backend.store_result("id-3", ValueError("x"), states.FAILURE)
