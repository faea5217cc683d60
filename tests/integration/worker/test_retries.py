"""Retries as a queue's or a task's default: which tasks are tried again, how often, and where they wait."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from apps import depth, take
from configured import configured_client, failure
from waiting import wait_until
from workers import running_worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 60.0
SETTINGS = """
[queues.default]
[queues.lopri]
[queues.lopri.retry]
max_retries = 2
first_seconds = 0.6
longest_seconds = 1.0
jitter = false
"""


@pytest.fixture(scope="module", params=["prefork", "threads"])
def app(
    request: pytest.FixtureRequest, vhost_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerApp]:
    """Return a client of a worker whose queue `lopri` retries twice, which the tests share."""
    folder = tmp_path_factory.mktemp(request.param)
    client = configured_client(folder, vhost_url, SETTINGS)
    with running_worker(folder, vhost_url, "-I", "doomed", "-P", request.param, "-c", "2"):
        yield client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where a task notes its runs."""
    return tmp_path / uuid4().hex


def runs(file: Path) -> int:
    """Return how often a task ran."""
    return len(file.read_text(encoding="utf-8").splitlines())


@pytest.mark.version
def test_a_queue_tries_its_tasks_again(app: BrokerApp, file: Path) -> None:
    """Two retries as declared, held by the broker's lanes, and then it succeeds under the same id."""
    result = app.send_task("doomed.fail_until", (str(file), 2), queue="lopri")
    assert result.get(timeout=SECONDS, interval=0.05) == 3
    lanes = ["delay.1s", *(f"delay.{number}00ms" for number in range(1, 10))]  # a busy worker takes a shorter one
    assert {depth(app, lane) for lane in lanes} - {None} == {0}
    assert depth(app, "lopri.dead") == 0


@pytest.mark.version
def test_after_the_last_retry_it_is_dead(app: BrokerApp, file: Path) -> None:
    """The result is the task's own error, and the dead letter says how often it was retried."""
    result = app.send_task("doomed.fail_until", (str(file), 9), queue="lopri")
    error = failure(result)
    assert type(error).__name__ == "ConnectionError"
    assert runs(file) == 3
    wait_until(lambda: depth(app, "lopri.dead"), SECONDS, "the dead letter")
    (message,) = take(app, "lopri.dead")
    assert message.headers["broker_app_dead_reason"] == "failed"
    assert message.headers["retries"] == 2


@pytest.mark.parametrize(
    ("task", "queue", "expected"),
    [
        ("doomed.fail_twice_itself", "default", 3),
        ("doomed.fail_as_celery_has_it", "lopri", 2),
        ("doomed.retry_by_hand", "lopri", 2),
        ("doomed.fail_as_expected", "lopri", 1),
    ],
)
def test_a_tasks_own_way_comes_first(app: BrokerApp, file: Path, task: str, queue: str, expected: int) -> None:
    """Its `backoff`, Celery's autoretry_for, its own retry(), and `throws`: the queue adds no retry to them."""
    result = app.send_task(task, (str(file),), queue=queue)
    wait_until(result.ready, SECONDS, "the result")
    wait_until(lambda: depth(app, queue) == 0, SECONDS, "the queue to be empty")
    assert runs(file) == expected
    take(app, f"{queue}.dead")


def test_without_a_declaration_nothing_is_retried(app: BrokerApp, file: Path) -> None:
    """A failed task of a queue without `[retry]` runs once and is dead-lettered."""
    failure(app.send_task("doomed.fail_until", (str(file), 9)))
    assert runs(file) == 1
    wait_until(lambda: depth(app, "default.dead"), SECONDS, "the dead letter")
    take(app, "default.dead")
