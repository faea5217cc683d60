"""The embedded result store: SQLite under the state folder, written by many and read by anybody."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from celery import states
from ending import Process
from waiting import wait_until
from workers import environment, running_worker

from broker_app import BrokerApp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 120.0

STORE_MANY = """
from concurrent.futures import ThreadPoolExecutor
from workload import app
def store(number):
    app.backend.store_result("{process}-%d" % number, number, "STARTED")
    app.backend.store_result("{process}-%d" % number, number, "SUCCESS")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(store, range(60)))
"""


GREENLETS = """
import sys
from gevent.monkey import patch_all
patch_all()
from broker_app.results.sql import SessionManager
from gevent import joinall, spawn
joinall([spawn(SessionManager().create_session, sys.argv[1]) for _ in range(2)], raise_error=True)
"""


STORE_EACH = """
import sys
from workload import app
for line in sys.stdin:
    app.backend.store_result(line.strip(), line.strip(), "SUCCESS")
    print("stored", flush=True)
"""


@contextmanager
def _storing_process(folder: Path) -> Iterator[Callable[[str], str]]:
    """Start a process that stores results; yields what makes it store one, and returns its value."""
    with Process(
        [sys.executable, "-c", STORE_EACH],
        env=environment(folder, "amqp://127.0.0.1:1//"),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        given, told = process.stdin, process.stdout

        def store(task_id: str) -> str:
            given.write(f"{task_id}\n")
            given.flush()
            assert told.readline() == "stored\n"
            return task_id

        yield store
        given.close()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[BrokerApp]:
    """Return an app with a state folder that is not there yet, and no broker."""
    file = tmp_path / "settings.toml"
    file.write_text(
        f"broker_url = 'amqp://127.0.0.1:1//'\nstate_dir = '{tmp_path / 'state'}'\nresult_expires_seconds = 60\n",
        encoding="utf-8",
    )
    made = BrokerApp("tests", config=file, set_as_current=False)
    yield made
    made.close()


def _store(app: BrokerApp, number: int) -> None:
    app.backend.store_result(f"id-{number}", {"number": number}, states.SUCCESS)


def test_the_store_is_made_on_first_use_for_its_owner_only(app: BrokerApp, tmp_path: Path) -> None:
    """Asking for the backend makes nothing; the first result makes folder and file, with a write-ahead log."""
    assert app.backend.get_state
    assert not (tmp_path / "state").exists()
    _store(app, 1)
    folder, file = tmp_path / "state", tmp_path / "state" / "results.sqlite3"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("gone", [("",), ("", "-wal", "-shm")])
def test_a_deleted_store_is_made_anew(app: BrokerApp, tmp_path: Path, gone: tuple[str, ...]) -> None:
    """This process and another use the same new file at once, also when the write-ahead log was not deleted."""
    with _storing_process(tmp_path) as store:
        assert store("other-1") == app.AsyncResult("other-1").result
        _store(app, 1)
        for ending in gone:
            (tmp_path / "state" / f"results.sqlite3{ending}").unlink()
        assert app.AsyncResult("other-1").state == states.PENDING
        assert store("other-2") == app.AsyncResult("other-2").result
        _store(app, 2)
        assert app.AsyncResult("id-2").state == states.SUCCESS
    with sqlite3.connect(tmp_path / "state" / "results.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM celery_taskmeta").fetchone() == (2,)
    connection.close()


def test_a_deleted_state_folder_is_made_anew(app: BrokerApp, tmp_path: Path) -> None:
    """With all that was in it: the next result is stored and read."""
    _store(app, 1)
    shutil.rmtree(tmp_path / "state")
    _store(app, 2)
    assert app.AsyncResult("id-2").state == states.SUCCESS


def test_threads_write_side_by_side(app: BrokerApp) -> None:
    """Sixteen threads on a new store meet no "database is locked", and every result is there."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: _store(app, number), range(200)))
    assert [app.AsyncResult(f"id-{number}").result for number in range(200)] == [{"number": n} for n in range(200)]


def test_processes_write_side_by_side(app: BrokerApp, tmp_path: Path) -> None:
    """Three processes of eight threads at once, as prefork workers and producers are: every result is there."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", STORE_MANY.format(process=process)],
            env=environment(tmp_path, "amqp://127.0.0.1:1//"),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(3)
    ]
    for process in running:
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors
        assert "locked" not in errors
    for process_number in range(3):
        found = [app.AsyncResult(f"{process_number}-{number}") for number in range(60)]
        assert [(result.state, result.result) for result in found] == [(states.SUCCESS, n) for n in range(60)]


def test_greenlets_open_the_store_one_after_the_other(tmp_path: Path) -> None:
    """Each of two greenlets opens the store, as Celery has it, without a turn of the event loop in between."""
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, f"sqlite:///{tmp_path}/results.sqlite3"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_process_has_a_connection_of_its_own(app: BrokerApp) -> None:
    """Parent and child go on reading and writing after `os.fork`."""
    _store(app, 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number in range(100, 120):
                _store(app, number)
            status = 0 if app.AsyncResult("id-1").result == {"number": 1} else 2
        finally:
            os._exit(status)
    for number in range(200, 220):
        _store(app, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for number in (1, *range(100, 120), *range(200, 220)):
        assert app.AsyncResult(f"id-{number}").result == {"number": number}


def test_old_results_can_be_cleaned_away(app: BrokerApp, tmp_path: Path) -> None:
    """`celery backend_cleanup` removes what is older than the settings say, and nothing else."""
    for number in (1, 2):
        _store(app, number)
    file = tmp_path / "state" / "results.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE celery_taskmeta SET date_done = '2020-01-01 00:00:00' WHERE task_id = 'id-1'")
    connection.close()
    app.backend.cleanup()
    assert app.AsyncResult("id-1").state == states.PENDING
    assert app.AsyncResult("id-2").state == states.SUCCESS


@pytest.mark.parametrize("words", ["a lone \udc80 surrogate", "a \x00 byte"])
def test_an_error_with_odd_words_is_stored(app: BrokerApp, words: str) -> None:
    """Texts that UTF-8, or PostgreSQL, cannot hold are escaped in the traceback; the error itself is JSON."""
    app.backend.mark_as_failure("id-1", ValueError(words), traceback=f"Traceback: {words}")
    result = app.AsyncResult("id-1")
    assert (result.state, str(result.result)) == (states.FAILURE, words)
    assert "\x00" not in result.traceback
    assert "Traceback: a " in result.traceback


def test_a_result_is_json(app: BrokerApp) -> None:
    """Nothing in the store is pickled: reading a result runs no code."""
    _store(app, 1)
    assert app.conf.result_serializer == "json"
    with sqlite3.connect(app.settings.state_dir / "results.sqlite3") as connection:
        (stored,) = connection.execute("SELECT result FROM celery_taskmeta").fetchone()
    connection.close()
    assert bytes(stored) == b'{"number": 1}'


def test_a_task_that_ignores_its_result_stores_none(fresh_vhost_url: str, tmp_path: Path) -> None:
    """By call; the next task's result is there, so the store worked."""
    file = tmp_path / "config" / "broker.toml"
    file.parent.mkdir()
    file.write_text("default_queue = 'default'\n", encoding="utf-8")
    settings = tmp_path / "client.toml"
    settings.write_text(
        f"broker_url = '{fresh_vhost_url}'\nstate_dir = '{tmp_path / 'state'}'\n", encoding="utf-8"
    )
    app = BrokerApp("tests", config=settings, set_as_current=False)
    ignored = app.send_task("workload.add", (1, 1), ignore_result=True)
    kept = app.send_task("workload.add", (1, 2))
    with running_worker(tmp_path, fresh_vhost_url, "-P", "solo"):
        assert kept.get(timeout=SECONDS, interval=0.05) == 3
    assert app.AsyncResult(ignored.id).state == states.PENDING
    assert (kept.successful(), kept.failed(), kept.ready()) == (True, False, True)
    assert (kept.name, kept.args, kept.queue) == ("workload.add", [1, 2], "default")
    app.close()


def test_a_result_waits_until_its_store_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a file in place of the state folder the log says why, and the result is stored once it is gone."""
    (tmp_path / "state").write_text("in the way", encoding="utf-8")
    settings = tmp_path / "client.toml"
    settings.write_text(f"state_dir = '{tmp_path / 'state'}'\n", encoding="utf-8")
    app = BrokerApp("tests", config=settings, set_as_current=False)
    _store(app, 1)
    assert "task [id-1]: cannot store its result, retrying in the background: NotADirectoryError" in caplog.text
    (tmp_path / "state").unlink()
    wait_until(lambda: app.AsyncResult("id-1").state == states.SUCCESS, SECONDS, "the result to be stored")
