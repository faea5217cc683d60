"""Tasks with base classes for plain Celery: every promise holds for them, on every pool."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from apps import depth, take
from billiard.exceptions import TimeLimitExceeded
from configured import configured_client, failure
from waiting import wait_until
from workers import running_worker

from broker_app.errors import Unawaited
from broker_app.metrics import catalogue
from broker_app.metrics.catalogue import TaskOutcome
from broker_app.metrics.reader import MetricsReader
from broker_app.queues.dead_letters import EXCEPTION_HEADER, REASON_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 60.0
SETTINGS = """
[queues.default]
[queues.lopri]
[queues.lopri.retry]
max_retries = 1
first_seconds = 0.3
jitter = false
"""
WELL = ["with_base", "shared", "direct", "awaited", "total"]
CLASSES = ["database", "calling", "running"]
POOLS = ["prefork", "threads", "gevent", "solo"]


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    """Return the worker's pool."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the worker's folder."""
    return tmp_path_factory.mktemp(pool)


@pytest.fixture(scope="module")
def app(pool: str, folder: Path, vhost_url: str) -> Iterator[BrokerApp]:
    """Return a client of a worker with these tasks, whose queue `lopri` retries once."""
    client = configured_client(folder, vhost_url, SETTINGS)
    with running_worker(folder, vhost_url, "-I", "base_classes", "-P", pool, "-c", "4"):
        yield client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file in which a task notes its runs."""
    return tmp_path / uuid4().hex


def dead_letter(app: BrokerApp, queue: str = "lopri") -> dict[str, object]:
    """Wait for the only dead letter of a queue, remove it, and return its headers."""
    wait_until(lambda: depth(app, f"{queue}.dead"), SECONDS, "the dead letter")
    (message,) = take(app, f"{queue}.dead")
    return dict(message.headers)


def finished(folder: Path, outcome: TaskOutcome) -> dict[str, float]:
    """Return the worker's count of runs with an outcome, by task."""
    reading = MetricsReader(folder / "state" / "metrics" / "workload").read()
    counted: dict[str, float] = {}
    for series, (value,) in ((s, v) for s, v in reading.numbers.items() if s.metric is catalogue.FINISHED):
        labels = dict(zip(series.metric.labels, series.labels, strict=True))
        if labels["outcome"] == outcome.value:
            counted[labels["task"]] = counted.get(labels["task"], 0) + value
    return counted


@pytest.mark.version
@pytest.mark.parametrize("name", WELL)
def test_it_runs_with_its_own_class_and_request(app: BrokerApp, pool: str, folder: Path, name: str) -> None:
    """Published at once, with a countdown and in bulk, a task sees its base class and id; each run is counted."""
    if (pool, name) == ("gevent", "awaited"):
        pytest.skip("asyncio runs one loop in a thread, and all greenlets share one")
    task = f"base_classes.{name}"
    before = finished(folder, TaskOutcome.SUCCEEDED).get(task, 0)
    ids = [app.send_task(task, queue="lopri", countdown=countdown).id for countdown in (None, 0.4)]
    ids += [item.task_id for item in app.publish_many([app.signature(task, queue="lopri")])]
    for identity in ids:
        said = "database" if name in ("with_base", "total") else name
        assert app.AsyncResult(identity).get(timeout=SECONDS, interval=0.05) == [said, identity]
    wait_until(lambda: finished(folder, TaskOutcome.SUCCEEDED).get(task) == before + 3, SECONDS, "the counts")


@pytest.mark.parametrize("name", [*CLASSES, "noting"])
def test_it_is_retried_as_its_queue_says_and_then_dead(app: BrokerApp, file: Path, name: str) -> None:
    """The queue's one retry, then a dead letter with its reason; a custom request class is called for both."""
    result = app.send_task(f"base_classes.fail_{name}", kwargs={"file": str(file)}, queue="lopri")
    assert isinstance(failure(result), ConnectionError)
    headers = dead_letter(app)
    assert headers[REASON_HEADER] == "failed"
    assert headers["retries"] == 1
    notes = file.read_text(encoding="utf-8").split()
    assert notes.count("run") == 2
    assert notes.count("heard") == (2 if name == "noting" else 0)


@pytest.mark.parametrize("name", CLASSES)
def test_its_time_limit_holds(app: BrokerApp, pool: str, name: str) -> None:
    """The hard time limit ends it, whatever its ``__call__`` does, and it becomes a dead letter."""
    if pool == "solo":
        pytest.skip("the solo pool has no time limits")
    result = app.send_task(f"base_classes.outlast_{name}", (60,), queue="lopri")
    assert isinstance(failure(result), TimeLimitExceeded)
    assert dead_letter(app)[REASON_HEADER] == "timed_out"


def test_a_returned_coroutine_is_a_failure(app: BrokerApp, folder: Path, file: Path) -> None:
    """It becomes a dead letter without a retry; the coroutine is closed, and its body does not run."""
    app.send_task("base_classes.forget_to_await", (str(file),), queue="lopri")
    headers = dead_letter(app)
    assert headers[REASON_HEADER] == "failed"
    assert "Unawaited" in str(headers[EXCEPTION_HEADER])
    assert "returned a coroutine" in str(headers[EXCEPTION_HEADER])
    assert not headers["retries"]
    assert not file.exists()
    assert "_write' was never awaited" not in (folder / "worker.log").read_text(encoding="utf-8")


def test_a_returned_future_raises_a_typed_error(app: BrokerApp) -> None:
    """The result is our typed error, which names the returned type."""
    error = failure(app.send_task("base_classes.return_future", queue="lopri"))
    assert isinstance(error, Unawaited)
    assert "returned a Future" in str(error)
    assert dead_letter(app)[REASON_HEADER] == "failed"
