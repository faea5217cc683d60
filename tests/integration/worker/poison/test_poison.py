"""A task that kills its worker is given up after `delivery_limit` starts, and its neighbours are not."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from apps import depth, take
from celery import chord
from celery.exceptions import ChordError
from configured import configured_client, failure
from waiting import wait_until
from workers import running_worker

from broker_app.errors import Poisoned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from apps import MakeUser

    from broker_app import BrokerApp

SECONDS = 90.0
LIMIT = 3
INNOCENTS = 10
SETTINGS = """
[queues.default]
type = "{type}"
delivery_limit = {limit}
[queues.lopri]
"""

pytestmark = [pytest.mark.timeout(300), pytest.mark.version]


def runs(file: Path) -> Counter[str]:
    """Return how often each task noted its start."""
    return Counter(file.read_text(encoding="utf-8").split() if file.exists() else [])


def work_until(done: Callable[[], object], folder: Path, url: str, *options: str) -> None:
    """Run a worker, and another whenever it dies, until there is nothing to wait for."""
    for number in range(2 * LIMIT + 2):
        if done():
            return
        name = f"worker-{number}"
        with running_worker(folder, url, "-I", "doomed", *options, name=name) as worker:
            wait_until(lambda: done() or worker.process.poll() is not None, SECONDS, "the tasks, or a death")
    assert done()


def ended(app: BrokerApp, queue: str = "default") -> bool:
    """Return whether no message is ready or unacknowledged in a queue any more, and one is dead."""
    return depth(app, queue) == 0 and depth(app, f"{queue}.dead") == 1


@pytest.mark.parametrize("kind", ["quorum", "classic"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_poison_is_buried_and_its_neighbours_finish(
    pool: str, kind: str, fresh_vhost_url: str, tmp_path: Path
) -> None:
    """Started exactly `delivery_limit` times, then dead-lettered; ten other tasks all finish."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS.format(type=kind, limit=LIMIT))
    file = tmp_path / "runs"
    innocents = [
        app.send_task("doomed.note_and_last", (str(file), f"innocent-{number}", 0.3))
        for number in range(INNOCENTS)
    ]
    poison = app.send_task("doomed.kill", (str(file), "poison"))

    def done() -> bool:
        return poison.ready() and all(one.ready() for one in innocents)

    work_until(done, tmp_path, fresh_vhost_url, "-P", pool, "-c", str(INNOCENTS + 1))
    assert {one.state for one in innocents} == {"SUCCESS"}
    error = failure(poison)
    assert isinstance(error, Poisoned)
    assert f"its {LIMIT} starts" in str(error)
    assert runs(file)["poison"] == LIMIT
    wait_until(lambda: ended(app), SECONDS, "the dead letter")
    (message,) = take(app, "default.dead")
    assert message.headers["id"] == poison.id
    assert message.headers["broker_app_dead_reason"] == "poisoned"
    assert message.headers["broker_app_dead_starts"] == LIMIT


@contextmanager
def slow_store(file: Path) -> Iterator[None]:
    """Hold the write lock of a SQLite file almost all of the time, as a slow disk does."""
    over = threading.Event()

    def hold() -> None:
        with closing(sqlite3.connect(file, timeout=SECONDS, isolation_level=None)) as store:
            while not over.wait(0.02):
                store.execute("BEGIN IMMEDIATE")
                over.wait(0.5)
                store.execute("COMMIT")

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(hold)
        try:
            yield
        finally:
            over.set()
            held.result(SECONDS)


def test_a_suspect_waits_until_the_one_before_it_is_settled(fresh_vhost_url: str, tmp_path: Path) -> None:
    """However slowly results are stored, a suspect that finished is not blamed for the death that follows."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS.format(type="quorum", limit=LIMIT))
    file = tmp_path / "runs"
    innocent = app.send_task("doomed.note_and_last", (str(file), "innocent", 0.3))
    poison = app.send_task("doomed.kill", (str(file), "poison"))
    assert innocent.state == "PENDING"  # the store is there from now on
    with slow_store(tmp_path / "state" / "results.sqlite3"):
        work_until(lambda: poison.ready() and innocent.ready(), tmp_path, fresh_vhost_url, "-P", "threads")
    wait_until(lambda: ended(app), SECONDS, "the dead letter")
    assert runs(file)["poison"] == LIMIT
    assert runs(file)["innocent"] <= LIMIT, "it ran again after it had ended"
    (message,) = take(app, "default.dead")
    assert message.headers["id"] == poison.id


def test_a_killed_child_counts_as_a_death(fresh_vhost_url: str, tmp_path: Path) -> None:
    """With prefork the worker lives on: the loop of a killed child ends at the limit, in one worker."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS.format(type="classic", limit=2))
    file = tmp_path / "runs"
    with running_worker(tmp_path, fresh_vhost_url, "-I", "doomed", "-P", "prefork", "-c", "1") as worker:
        poison = app.send_task("doomed.kill", (str(file), "poison"))
        assert isinstance(failure(poison), Poisoned)
        assert app.send_task("workload.add", (1, 1)).get(timeout=SECONDS, interval=0.05) == 2
        assert worker.process.poll() is None
    assert runs(file)["poison"] == 2


def test_with_a_limit_of_one_nothing_starts_twice(fresh_vhost_url: str, tmp_path: Path) -> None:
    """A task that must not run twice is given up when it comes back, whatever became of its first start."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS.format(type="quorum", limit=1))
    file = tmp_path / "runs"
    with running_worker(tmp_path, fresh_vhost_url, "-I", "doomed", "-P", "prefork", "-c", "1"):
        assert isinstance(failure(app.send_task("doomed.kill", (str(file), "poison"))), Poisoned)
    assert runs(file)["poison"] == 1


def test_a_chord_with_a_poisoned_member_fails(fresh_vhost_url: str, tmp_path: Path) -> None:
    """Its result raises, and its errback is called; the chord does not wait for the member."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS.format(type="quorum", limit=2))
    file, told = tmp_path / "runs", tmp_path / "told"
    poison = app.signature(
        "doomed.kill", (str(file), "poison"), link_error=app.signature("doomed.remember", (str(told),))
    )
    with running_worker(tmp_path, fresh_vhost_url, "-I", "doomed", "-P", "prefork", "-c", "2"):
        result = chord([app.signature("workload.add", (1, 1)), poison], app=app)(app.signature("workload.xsum"))
        assert isinstance(failure(result), ChordError | Poisoned)
        wait_until(told.exists, SECONDS, "the errback")
    assert told.read_text(encoding="utf-8").split() == ["Poisoned"]


def test_a_worker_that_is_ended_in_order_is_no_death(fresh_vhost_url: str, tmp_path: Path) -> None:
    """A task returned by workers on shutdown runs again, however often: it is no suspect."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS.format(type="quorum", limit=2))
    file = tmp_path / "runs"
    result = app.send_task("doomed.note_and_last", (str(file), "long", 8.0))
    hurry = {"BROKER_APP_QUEUES__DEFAULT__FLEET__DRAIN_SECONDS": "0.5"}
    options = ("-I", "doomed", "-Q", "default", "-P", "threads", "-c", "2")
    for start in range(1, 4):
        with running_worker(tmp_path, fresh_vhost_url, *options, name=f"worker-{start}", **hurry):
            wait_until(lambda start=start: runs(file)["long"] == start, SECONDS, "the task to start")
            if start == 3:
                assert result.get(timeout=SECONDS, interval=0.05) == "long"
    assert runs(file)["long"] == 3
    assert depth(app, "default.dead") == 0


def test_without_the_right_to_write_nothing_is_lost(
    fresh_vhost_url: str, tmp_path: Path, make_user: MakeUser
) -> None:
    """A worker that may write neither the stream nor the dead letters counts by itself and rejects; it says so."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS.format(type="quorum", limit=2))
    file = tmp_path / "runs"
    poison = app.send_task("doomed.kill", (str(file), "poison"))  # declares all
    limited = make_user(configure=".*", write=r"^(?!tasks\.(suspects|dead)$).*", read=".*")
    options = ("-I", "doomed", "-Q", "default", "-P", "prefork", "-c", "1")
    with running_worker(tmp_path, limited, *options) as worker:
        assert isinstance(failure(poison), Poisoned)
        wait_until(lambda: ended(app), SECONDS, "the dead letter")
    assert runs(file)["poison"] == 2
    (message,) = take(app, "default.dead")
    assert message.headers["x-first-death-reason"] == "rejected"
    assert "broker_app_dead_reason" not in message.headers
    log = worker.log.read_text(encoding="utf-8")
    assert "other workers do not learn which tasks may have killed this one" in log
    assert "goes to the dead letters without its reason" in log


def test_without_the_right_to_read_the_broker_counts(
    fresh_vhost_url: str, tmp_path: Path, make_user: MakeUser
) -> None:
    """A worker that cannot read the stream takes a quorum queue's own count, and says so."""
    app = configured_client(tmp_path, fresh_vhost_url, SETTINGS.format(type="quorum", limit=2))
    file = tmp_path / "runs"
    poison = app.send_task("doomed.kill", (str(file), "poison"))
    limited = make_user(configure=".*", write=".*", read=r"^(?!tasks\.suspects$).*")
    work_until(poison.ready, tmp_path, limited, "-P", "threads", "-c", "1")
    assert isinstance(failure(poison), Poisoned)
    assert runs(file)["poison"] == 2
    assert "poisoned tasks are counted by the broker" in (tmp_path / "worker-0.log").read_text(encoding="utf-8")
