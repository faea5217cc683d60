"""Retries, chains and messages of other clients: unwanted priorities are dropped, queues have their names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import amqp
import pytest
from apps import depth, put
from celery import Celery, chain, states
from configured import configured_client
from waiting import wait_until
from workers import running_worker

from broker_app.broker.access import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 60.0
SETTINGS = """
prefix = "shop."
[queues.default]
type = "classic"
priorities = true
[queues.lopri]
delivery_limit = 2
[queues.lopri.retry]
max_retries = 2
first_seconds = 0.1
jitter = false
"""


@pytest.fixture(scope="module", params=["prefork", "threads", "gevent"])
def app(
    request: pytest.FixtureRequest, vhost_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerApp]:
    """Return a client of a worker with a queue with priorities and one without, which the tests share."""
    folder = tmp_path_factory.mktemp(request.param)
    client = configured_client(folder, vhost_url, SETTINGS)
    with running_worker(folder, vhost_url, "-I", "wanderer", "-P", request.param, "-c", "2"):
        yield client


def _get(result: Any) -> Any:
    return result.get(timeout=SECONDS, interval=0.05)


def _publish_as_others_do(app: BrokerApp, name: str, priority: int) -> Any:
    """Publish a task for `lopri` with a priority, as `queues move` leaves it, and other languages send it."""
    task = app.amqp.create_task_message(f"{name}-{priority}", name, (), {})
    message = amqp.Message(
        json.dumps(task.body),
        content_type="application/json",
        content_encoding="utf-8",
        application_headers=task.headers,
        priority=priority,
        **task.properties,
    )
    with connect(app) as connection:
        put(connection.channel(), message, "", "shop.lopri")
    return app.AsyncResult(f"{name}-{priority}")


@pytest.mark.version
@pytest.mark.parametrize("task", ["wanderer.retry_at_once", "wanderer.fail_once", "wanderer.fail_once_plainly"])
def test_what_plain_celery_published_is_retried(app: BrokerApp, vhost_url: str, task: str) -> None:
    """`retry`, `autoretry_for` and the queue's back-off drop kombu's default priority 0 and retry the task."""
    with Celery("plain", broker=vhost_url, set_as_current=False) as plain:
        sent = plain.send_task(task, exchange="shop.tasks", routing_key="shop.lopri")
    assert _get(app.AsyncResult(sent.id)) == "retried"
    assert depth(app, "shop.lopri.dead") == 0


@pytest.mark.parametrize("priority", [9, 255])
def test_a_priority_in_a_queue_without_any_hinders_no_retry(app: BrokerApp, priority: int) -> None:
    """A task with a priority, in a queue without priorities, is retried."""
    assert _get(_publish_as_others_do(app, "wanderer.fail_once", priority)) == "retried"


@pytest.mark.version
def test_a_retry_goes_between_queues_with_and_without_priorities(app: BrokerApp) -> None:
    """Into one without, the priority is left behind; into one with, an unset one is the middle, as for all."""
    assert _get(app.send_task("wanderer.retry_into", ("lopri",), queue="default", priority=7)) is None
    assert _get(app.send_task("wanderer.retry_into", ("default",), queue="lopri")) == 4


def test_a_parents_priority_is_inherited_where_there_are_priorities(app: BrokerApp) -> None:
    """A chain over both kinds of queues succeeds, and so does a child of a task with a priority."""
    step = app.signature("wanderer.priorities")
    steps = [step.clone(([],)).set(queue="default", priority=7), step.clone().set(queue="default")]
    steps += [step.clone().set(queue=queue) for queue in ("lopri", "default")]
    assert _get(chain(*steps, app=app).apply_async()) == [7, 7, None, 4]
    child = _get(app.send_task("wanderer.publish", ("lopri",), queue="default", priority=7))
    assert _get(app.AsyncResult(child)) == [None]


@pytest.mark.version
def test_a_task_goes_back_to_the_queue_that_it_is_told(app: BrokerApp) -> None:
    """`delivery_info["routing_key"]` is the queue after lanes too, on the third retry as on the first."""
    came = app.send_task("wanderer.return_to_its_queue", (3, 1.2), queue="lopri", countdown=1.1)
    assert _get(came) == ["", "shop.lopri", "lopri"]
    assert came.queue == "shop.lopri"


def test_who_looks_sees_the_queue(app: BrokerApp, tmp_path: Path) -> None:
    """`inspect active` and the result say the queue of a task that came through a lane, while it runs."""
    go = tmp_path / "go"
    result = app.send_task("workload.hold", (str(go),), queue="lopri", countdown=0.3)
    wait_until(lambda: result.state == states.STARTED, SECONDS, "it to start")
    assert result.queue == "shop.lopri"
    ((active,),) = (app.control.inspect(timeout=60, limit=1).active() or {}).values()
    assert active["delivery_info"]["routing_key"] == "shop.lopri"
    go.touch()
    _get(result)


@pytest.mark.version
@pytest.mark.parametrize("queue", ["default", "lopri"])
def test_a_task_that_returns_its_message_kills_nobody(app: BrokerApp, tmp_path: Path, queue: str) -> None:
    """A task that raises `Reject(requeue=True)` more often than `delivery_limit` runs in the end."""
    result = app.send_task("wanderer.give_back", (str(tmp_path / "runs"), 7), queue=queue)
    assert _get(result) is False  # not marked as redelivered, as what a dead worker held would be
    wait_until(lambda: depth(app, f"shop.{queue}") == 0, SECONDS, "the queue to be empty")
    assert depth(app, f"shop.{queue}.dead") == 0
