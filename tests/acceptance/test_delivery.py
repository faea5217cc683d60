"""Nothing that a worker took is lost, whatever becomes of the worker."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import amqp
import pytest
from apps import put
from ending import ended
from proxy import TcpProxy
from waiting import wait_until
from workers import client, environment, running_worker

from broker_app.broker.access import connect
from broker_app.broker.declare import queue_depth

if TYPE_CHECKING:
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 120


def lines(file: Path) -> list[str]:
    """Return what the tasks noted so far."""
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def depth(app: BrokerApp, queue: str) -> int | None:
    """Return how many messages are ready in a queue."""
    with connect(app) as connection:
        return queue_depth(connection, queue)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_killed_worker_gives_its_task_back(pool: str, fresh_vhost_url: str, tmp_path: Path) -> None:
    """A task that runs while its worker is killed runs again on the next worker."""
    app, file = client(tmp_path, fresh_vhost_url), tmp_path / "notes"
    with running_worker(tmp_path, fresh_vhost_url, "-P", pool, "-c", "1", name="first") as worker:
        app.send_task("workload.note_and_wait", (str(file), 60))
        wait_until(lambda: lines(file), SECONDS, "the task to start")
        worker.kill()
    with running_worker(tmp_path, fresh_vhost_url, "-P", pool, "-c", "1", name="second") as worker:
        wait_until(lambda: len(lines(file)) == 2, SECONDS, "the task to start again")
        worker.kill()


def test_what_failed_stands_in_the_dead_letters(fresh_vhost_url: str, tmp_path: Path) -> None:
    """Failed, unknown and undecodable tasks are kept as dead letters, and the worker goes on."""
    app = client(tmp_path, fresh_vhost_url)
    with running_worker(tmp_path, fresh_vhost_url, "-P", "threads", "-c", "2"):
        app.send_task("workload.fail", ("for good",))
        unknown = app.send_task("workload.nobody_knows")
        with connect(app) as connection:
            message = amqp.Message(b"\xff", content_type="application/json", application_headers={"id": "x"})
            put(connection.channel(), message, "tasks", "default")
        wait_until(lambda: depth(app, "default.dead") == 3, SECONDS, "three dead letters")
        assert app.send_task("workload.add", (1, 1)).get(timeout=SECONDS, interval=0.05) == 2
        assert unknown.state == "FAILURE"


def test_a_queue_that_goes_while_the_worker_starts_comes_back(fresh_vhost_url: str, tmp_path: Path) -> None:
    """A queue whose deletion the worker's loop missed while it started is consumed all the same."""
    app = client(tmp_path, fresh_vhost_url)
    gone = {"WORKLOAD_MISS_DELETION": "default"}
    with running_worker(tmp_path, fresh_vhost_url, "-P", "threads", "-c", "2", **gone):
        assert app.send_task("workload.add", (1, 1)).get(timeout=SECONDS, interval=0.05) == 2


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_cut_connection_is_made_again(pool: str, fresh_vhost_url: str, tmp_path: Path) -> None:
    """A worker whose connection is cut consumes again without help."""
    app = client(tmp_path, fresh_vhost_url)
    with (
        TcpProxy.to(fresh_vhost_url) as proxy,
        running_worker(tmp_path, proxy.url(fresh_vhost_url), "-P", pool, "-c", "2"),
    ):
        assert app.send_task("workload.add", (1, 1)).get(timeout=SECONDS, interval=0.05) == 2
        proxy.cut()
        assert app.send_task("workload.add", (1, 2)).get(timeout=SECONDS, interval=0.05) == 3


def test_gevent_takes_more_than_ten_a_second(fresh_vhost_url: str, tmp_path: Path) -> None:
    """A gevent worker with heartbeats does not wait between messages: 400 of them would take 40 s if it did."""
    app, file = client(tmp_path, fresh_vhost_url), tmp_path / "notes"
    for number in range(400):
        app.send_task("workload.note", (str(file), str(number)), ignore_result=True)
    with running_worker(tmp_path, fresh_vhost_url, "-P", "gevent", "-c", "20"):
        wait_until(lambda: len(lines(file)) == 400, 30, "400 tasks to run")


def test_the_broker_of_the_command_line_wins(fresh_vhost_url: str, tmp_path: Path) -> None:
    """`celery -b` overrides the broker of the settings, and -Q, -c and -P are Celery's."""
    app = client(tmp_path, fresh_vhost_url)
    options = ("-b", fresh_vhost_url, "-A", "workload", "worker", "-Q", "lopri", "-c", "1", "-P", "solo")
    command = [sys.executable, "-m", "celery", *options, "-n", f"{uuid.uuid4().hex}@%h"]
    nowhere = environment(tmp_path, "amqp://guest:guest@127.0.0.1:1//")
    with (tmp_path / "b.log").open("wb") as log:
        process = subprocess.Popen(command, env=nowhere, cwd=tmp_path, stdout=log, stderr=log)
    try:
        result = app.send_task("workload.add", (1, 1), queue="lopri")
        assert result.get(timeout=SECONDS, interval=0.05) == 2
        stays = app.send_task("workload.add", (1, 1), queue="default")
        assert stays.state == "PENDING"
        assert depth(app, "default") == 1
    finally:
        process.terminate()
        ended(process)


def test_no_native_delay_is_set_up(fresh_vhost_url: str, tmp_path: Path) -> None:
    """A worker neither declares Celery's delay queues nor warns of them."""
    app = client(tmp_path, fresh_vhost_url)
    with running_worker(tmp_path, fresh_vhost_url, "-P", "threads", "-c", "2") as worker:
        app.send_task("workload.add", (1, 1), countdown=1).get(timeout=SECONDS, interval=0.05)
        assert depth(app, "celery_delayed_0") is None
        assert depth(app, "celery_delayed_27") is None
        assert "delayed" not in worker.log.read_text(encoding="utf-8").lower()
