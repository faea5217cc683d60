"""Messages of Celery's first protocol, as clients in other languages publish them: what holds for others holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from apps import depth, take
from celery.result import AsyncResult
from configured import configured_client, failure
from kombu.messaging import Producer
from waiting import wait_until
from workers import client, running_worker

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, wanted_topology
from broker_app.errors import Poisoned, UnknownTask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 60.0
LIMIT = 3

pytestmark = pytest.mark.timeout(300)


def call(app: BrokerApp, task: str, args: Sequence[Any], *, is_hybrid: bool = False, **more: Any) -> AsyncResult:
    """Publish a call to `default` whose headers say nothing; of a hybrid they say what is called."""
    body = {"id": uuid4().hex, "task": task, "args": args, **more}
    headers = {"id": body["id"], "task": task} if is_hybrid else {}
    with app.connection_for_write() as connection:
        producer = Producer(connection)
        producer.publish(body, exchange="", routing_key="default", serializer="json", headers=headers)
    return AsyncResult(body["id"], app=app)


@pytest.mark.parametrize("pool", ["threads", "prefork", "gevent"])
def test_it_runs_fails_and_is_kept_as_any_other(tmp_path: Path, fresh_vhost_url: str, pool: str) -> None:
    """Results are stored, and failed and unknown tasks raise and are dead-lettered under their ids."""
    app = client(tmp_path, fresh_vhost_url)
    with running_worker(tmp_path, fresh_vhost_url, "-P", pool, "-c", "2", "-Q", "default"):
        sums = [call(app, "workload.add", [number], kwargs={"y": 2}) for number in range(5)]
        hybrid = call(app, "workload.add", [1], kwargs={"y": 6}, is_hybrid=True)
        failed, unknown = call(app, "workload.fail", ["it broke"]), call(app, "workload.gone", [])
        assert [one.get(timeout=SECONDS) for one in sums] == [2, 3, 4, 5, 6]
        assert hybrid.get(timeout=SECONDS) == 7
        with pytest.raises(ValueError, match="it broke"):
            failed.get(timeout=SECONDS)
        assert isinstance(failure(unknown), UnknownTask)
        wait_until(lambda: depth(app, "default.dead") == 2, SECONDS, "the dead letters")
    letters = {letter.headers["id"]: letter for letter in take(app, "default.dead")}
    assert letters[failed.id].headers["task"] == "workload.fail"
    assert letters[failed.id].decode()[0] == ["it broke"]
    assert letters[unknown.id].headers["task"] == "workload.gone"
    app.close()


def test_one_that_kills_its_worker_takes_no_other_along(tmp_path: Path, fresh_vhost_url: str) -> None:
    """Starts are counted for each: poison is dead-lettered after its limit, and the task next to it finishes."""
    settings = f"[queues.default]\ndelivery_limit = {LIMIT}\n[queues.lopri]\n"
    app = configured_client(tmp_path, fresh_vhost_url, settings)
    with connect(app) as connection:
        declare_topology(connection, wanted_topology(app.settings))
    file = str(tmp_path / "runs")
    beside = [call(app, "doomed.note_and_last", [file, f"beside-{number}", 0.3]) for number in range(LIMIT + 1)]
    poison = call(app, "doomed.kill", [file, "poison"])
    for number in range(2 * LIMIT):
        options = ("-I", "doomed", "-P", "threads", "-c", str(LIMIT + 2))
        with running_worker(tmp_path, fresh_vhost_url, *options, name=f"worker-{number}") as worker:
            wait_until(lambda: poison.ready() or worker.process.poll() is not None, SECONDS, "a death, or the end")
            if poison.ready():
                wait_until(lambda: all(one.ready() for one in beside), SECONDS, "the others")
                break
    assert isinstance(failure(poison), Poisoned)
    assert {one.state for one in beside} == {"SUCCESS"}
    app.close()


def test_our_own_producers_may_use_it(tmp_path: Path, fresh_vhost_url: str) -> None:
    """With `task_protocol = 1` a task waits in the lanes as any other, and runs once it is due."""
    app = client(tmp_path, fresh_vhost_url)
    app.conf.task_protocol = 1
    with running_worker(tmp_path, fresh_vhost_url, "-P", "threads", "-c", "2", "-Q", "default"):
        now, later = (app.send_task("workload.add", (1, 2), countdown=countdown) for countdown in (None, 1.5))
        assert now.get(timeout=SECONDS) == 3
        assert later.get(timeout=SECONDS) == 3
    app.close()
