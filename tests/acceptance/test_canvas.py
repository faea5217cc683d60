"""The guarantees of Celery's documentation, with the default settings and a worker as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError
from ending import END_SECONDS
from waiting import wait_until
from workers import client, environment, running_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery.canvas import Signature

    from broker_app import BrokerApp

    Sign = Callable[..., Signature]

SECONDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the worker and the client share."""
    return tmp_path_factory.mktemp("canvas")


@pytest.fixture(scope="module")
def app(folder: Path, vhost_url: str) -> Iterator[BrokerApp]:
    """Return a client whose tasks a worker runs."""
    with running_worker(folder, vhost_url, "-P", "threads", "-c", "4"):
        yield client(folder, vhost_url)


@pytest.fixture(scope="module")
def sign(app: BrokerApp) -> Sign:
    """Return what makes a signature of a task by its short name."""
    return lambda name, *args, **options: app.signature(f"workload.{name}", args, **options)


def get(result: Any) -> Any:
    """Return a result, in time."""
    return result.get(timeout=SECONDS, interval=0.05)


def test_a_task_runs_on_each_queue(app: BrokerApp) -> None:
    """A task runs on the default queue, and on the one that is named."""
    assert get(app.send_task("workload.add", (2, 2))) == 4
    assert get(app.send_task("workload.add", (2, 3), queue="lopri")) == 5


def test_signatures_and_partials(sign: Sign) -> None:
    """A signature is called, a partial is completed, and its options hold."""
    assert get(sign("add", 2, 2).delay()) == 4
    assert get(sign("add", 2).delay(8)) == 10
    assert get(sign("add", 2, 2).set(queue="lopri").apply_async()) == 4


def test_groups(sign: Sign) -> None:
    """A group returns its results in order; a partial group takes the missing argument."""
    assert get(group(sign("add", number, number) for number in range(4)).apply_async()) == [0, 2, 4, 6]
    assert get(group(sign("add", number) for number in range(3)).apply_async((10,))) == [10, 11, 12]


def test_chains(sign: Sign) -> None:
    """A chain hands each result to the next task, written as a call or with a bar; its parents have results."""
    result = chain(sign("add", 4, 4), sign("mul", 8)).apply_async()
    assert get(result) == 64
    assert get(result.parent) == 8
    assert get((sign("add", 1, 1) | sign("mul", 3) | sign("add", 4)).apply_async()) == 10


def test_chords(sign: Sign) -> None:
    """A chord's body gets all results, written as a chord or as a group with a bar."""
    header = [sign("add", number, number) for number in range(5)]
    assert get(chord(header)(sign("xsum"))) == 20
    assert get((group(header) | sign("xsum")).apply_async()) == 20


def test_steps_with_countdowns(sign: Sign) -> None:
    """A countdown of a step holds in a chain and in a chord."""
    assert get((sign("add", 1, 1) | sign("mul", 3).set(countdown=1.2)).apply_async()) == 6
    header = [sign("add", 1, 1).set(countdown=1), sign("add", 2, 2)]
    assert get(chord(header)(sign("xsum"))) == 6


def test_a_failed_member_fails_the_chord(sign: Sign) -> None:
    """A chord whose member fails does not hang."""
    with pytest.raises(Exception, match="member"):
        get(chord([sign("add", 1, 1), sign("fail", "member")])(sign("xsum")))


def test_exceptions_come_back(app: BrokerApp) -> None:
    """A failure has its type, its text and its traceback, and is not raised unless it is asked for."""
    result = app.send_task("workload.fail", ("no luck",))
    with pytest.raises(ValueError, match="no luck"):
        get(result)
    assert isinstance(result.get(propagate=False), ValueError)
    assert (result.failed(), result.successful(), result.state) == (True, False, "FAILURE")
    assert "in fail" in result.traceback


def test_states_in_their_order(app: BrokerApp, folder: Path) -> None:
    """A task is PENDING, then STARTED, then SUCCESS."""
    go = folder / "go"
    result = app.send_task("workload.hold", (str(go),), countdown=4)
    assert result.state == "PENDING"
    wait_until(lambda: result.state == "STARTED", SECONDS, "the task to start")
    go.touch()
    get(result)
    assert result.state == "SUCCESS"


def test_another_process_reads_the_result(app: BrokerApp, folder: Path, vhost_url: str) -> None:
    """A result is found by its id in a process that did not ask for it."""
    result = app.send_task("workload.add", (20, 22))
    code = f"from workload import app; print(app.AsyncResult({result.id!r}).get(timeout={SECONDS}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(folder, vhost_url),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=END_SECONDS,
    )
    assert done.stdout.strip() == "42"


def test_a_retry_waits_in_the_broker_and_its_key_does_not_grow(app: BrokerApp) -> None:
    """A task that retries with a countdown comes back to its queue, which its routing key names each time."""
    told = get(app.send_task("workload.retry_twice", (1.1,), queue="lopri"))
    assert told == {"retries": 2, "key": "lopri"}


def test_a_task_that_expired_is_not_run(app: BrokerApp, folder: Path) -> None:
    """A task whose expiry passed while it waited says REVOKED, and did not run."""
    file = folder / "expired"
    result = app.send_task("workload.note", (str(file), "ran"), expires=0.001)
    with pytest.raises(TaskRevokedError):
        get(result)
    assert not file.exists()


def test_a_worker_publishes(app: BrokerApp) -> None:
    """A task that is called from within a task runs too."""
    assert get(app.AsyncResult(get(app.send_task("workload.publish_from_worker", (3, 4))))) == 7


def test_results_of_many_at_once(sign: Sign) -> None:
    """Two hundred results at once are all stored in SQLite."""
    results = get(group(sign("add", number, 1) for number in range(200)).apply_async())
    assert json.loads(json.dumps(results)) == list(range(1, 201))
