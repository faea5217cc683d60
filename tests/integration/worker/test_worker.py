"""A worker as a process: what it does with messages, with its connection, and with its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import amqp
import pytest
from apps import depth, put, take
from brokers import vhost_of
from celery import chord, group
from ending import ended
from proxy import TcpProxy
from waiting import wait_until
from workers import environment, running_worker

from broker_app import BrokerApp
from broker_app.broker.access import connect
from broker_app.errors import QueueFull, UnknownQueue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

SECONDS = 120.0

PREFIXED = """
prefix = "shop."
heartbeat_seconds = 4
[queues.default]
type = "classic"
priorities = true
[queues.lopri]
"""


def _configure(folder: Path, settings: str) -> Path:
    """Write the settings that a worker finds in its folder, and return the file."""
    file = folder / "config" / "broker.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(settings, encoding="utf-8")
    return file


def _client(folder: Path, url: str, settings: str = "heartbeat_seconds = 4\n") -> BrokerApp:
    """Return an app of this process with the settings of the worker that runs in the folder."""
    head = f"broker_url = '{url}'\nstate_dir = '{folder / 'state'}'\n"
    file = folder / "client.toml"
    file.write_text(head + settings, encoding="utf-8")
    _configure(folder, settings)
    return BrokerApp("client", config=file, set_as_current=False)


def _get(result: Any) -> Any:
    return result.get(timeout=SECONDS, interval=0.05)


def _fill(app: BrokerApp) -> None:
    """Delay tasks by 59 s until their lane takes no more: a quorum queue takes a few more than its limit."""
    for _ in range(50):
        try:
            app.send_task("fill", countdown=59, retry=False)
        except QueueFull:
            return
    raise AssertionError("the lane was never full")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the shared worker and the client use."""
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def app(folder: Path, vhost_url: str) -> Iterator[BrokerApp]:
    """Return a client of a prefork worker with a prefix and priorities, which the tests share."""
    client = _client(folder, vhost_url, PREFIXED)
    with running_worker(folder, vhost_url, "-P", "prefork", "-c", "2"):
        yield client


# Messages


def test_remote_control_works_under_a_prefix(app: BrokerApp, management: Management, vhost_url: str) -> None:
    """The worker answers a ping, and all that it made on the shared broker carries the prefix."""
    assert [list(answer.values()) for answer in app.control.ping(timeout=60, limit=1)] == [[{"ok": "pong"}]]
    names = {queue["name"] for queue in management.get(f"queues/{vhost_of(vhost_url)}?disable_stats=true")}
    assert {"shop.default", "shop.lopri", "shop.default.dead", "shop.tasks.unrouted"} <= names
    foreign = {name for name in names if "shop." not in name}
    assert foreign == set()


@pytest.mark.parametrize(
    ("exchange", "key"),
    [
        ("shop.tasks", "shop.lopri"),
        ("", "shop.lopri"),
        ("shop.tasks.due", "0d.0h.0m.7s.0ms.shop.lopri"),
        ("shop.delay.s", "0d.0h.1m.0s.0ms.shop.lopri"),
        ("shop.delay.m", "0d.1h.0m.0s.0ms.shop.lopri"),
        ("shop.delay.h", "3d.0h.0m.0s.0ms.shop.lopri"),
    ],
)
def test_a_task_retries_by_whatever_way_it_came(app: BrokerApp, exchange: str, key: str) -> None:
    """Handed over by any lane, or by the default exchange: it comes back to its queue, now and after a countdown.

    The exchange in a message is that to which its last lane handed it: `delay.s` after whole minutes. The task
    sees its queue.
    """
    task_id = f"came-by-{exchange or 'default'}"
    task = app.amqp.create_task_message(task_id, "workload.retry_along", ([0, 1],))
    message = amqp.Message(
        json.dumps(task.body),
        content_type="application/json",
        content_encoding="utf-8",
        application_headers=task.headers,
        **task.properties,
    )
    with connect(app) as connection:
        put(connection.channel(), message, exchange, key)
    found = _get(app.AsyncResult(task_id))
    ways = [(run["exchange"], run["routing_key"]) for run in found]
    assert ways == [("", "shop.lopri")] * 3  # where it was taken from, not how it came there


@pytest.mark.version
def test_a_retry_starts_with_a_clean_message(app: BrokerApp) -> None:
    """The broker's headers in the last message (deliveries, dead-letterings) are not copied to the next."""
    result = app.send_task("workload.retry_along", ([1, 1, 1],), queue="lopri")
    for run in _get(result):
        assert [name for name in run["headers"] if "delivery-count" in name or "acquired" in name] == []


def test_an_error_of_ours_comes_back_as_it_was(app: BrokerApp) -> None:
    """A task that publishes to an unknown queue fails with our error, facts and all, in another process too."""
    with pytest.raises(UnknownQueue, match="did you mean 'lopri'") as caught:
        _get(app.send_task("workload.publish_wrongly"))
    assert (caught.value.queue, caught.value.known) == ("lopri_typo", ("default", "lopri"))


def test_a_retry_that_the_broker_refuses_is_a_dead_letter(
    app: BrokerApp, management: Management, vhost_url: str
) -> None:
    """A task whose retry is refused by a full lane, and not sent again, becomes a dead letter."""
    vhost = vhost_of(vhost_url)
    policy = {"pattern": "^shop.delay.59s$", "definition": {"max-length": 1}, "apply-to": "queues"}
    management.put(f"policies/{vhost}/full", policy)
    _fill(app)
    app.send_task("workload.retry_along", ([59],), {"retry": False}, queue="lopri")
    wait_until(lambda: depth(app, "shop.lopri.dead") == 1, SECONDS, "the dead letter")
    (message,) = take(app, "shop.lopri.dead")
    assert message.headers["task"] == "workload.retry_along"


def test_members_and_body_of_a_chord_keep_their_priority(app: BrokerApp) -> None:
    """Given to each, it is what each came with; and without one a task has the middle, in a group as alone."""
    asked = app.signature("workload.priority_of").set(priority=8)
    assert _get(group(asked, asked).apply_async()) == [8, 8]
    assert _get(chord([asked, asked])(app.signature("workload.priority_of").set(priority=7))) == 7
    assert _get(app.send_task("workload.priority_of")) == 4


# Connections


def test_a_worker_waits_for_its_broker(fresh_vhost_url: str, tmp_path: Path) -> None:
    """Started before the broker answers it does not give up; it takes what was sent meanwhile."""
    with TcpProxy.to(fresh_vhost_url) as proxy:
        proxy.freeze()
        app = _client(tmp_path, fresh_vhost_url)
        result = app.send_task("workload.add", (1, 1))
        command = [sys.executable, "-m", "celery", "-A", "workload", "worker", "-P", "solo", "-n", "early@%h"]
        log = tmp_path / "early.log"
        with log.open("wb") as output:
            worker = subprocess.Popen(
                command,
                env=environment(tmp_path, proxy.url(fresh_vhost_url)),
                cwd=tmp_path,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(lambda: b"Cannot connect" in log.read_bytes(), SECONDS, "the worker to try")
            proxy.thaw()
            assert _get(result) == 2
        finally:
            worker.terminate()
            ended(worker)


def test_a_second_worker_of_the_same_name_harms_nobody(fresh_vhost_url: str, tmp_path: Path) -> None:
    """It waits and retries where plain Celery's ends; the first goes on; when that ends the second takes over."""
    app = _client(tmp_path, fresh_vhost_url)
    with running_worker(tmp_path, fresh_vhost_url, "-P", "threads", "-c", "1", name="twin") as first:
        command = [sys.executable, "-m", "celery", "-A", "workload", "worker", "-P", "threads", "-c", "1"]
        log = tmp_path / "second.log"
        with log.open("wb") as output:
            second = subprocess.Popen(
                [*command, "-n", "twin@%h"],
                env=environment(tmp_path, fresh_vhost_url),
                cwd=tmp_path,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(
                lambda: b"RESOURCE_LOCKED" in log.read_bytes() or second.poll() is not None, SECONDS, "the second"
            )
            assert _get(app.send_task("workload.add", (1, 1))) == 2
            assert second.poll() is None, log.read_text(encoding="utf-8")
            first.stop()
            assert _get(app.send_task("workload.add", (1, 2))) == 3
        finally:
            second.terminate()
            ended(second)


# Shutdown


def test_a_worker_that_is_told_to_stop_finishes_first(fresh_vhost_url: str, tmp_path: Path) -> None:
    """SIGTERM lets the running task end and be acknowledged; what it had not begun stays in the queue."""
    app, file, go = _client(tmp_path, fresh_vhost_url), tmp_path / "notes", tmp_path / "go"
    with running_worker(tmp_path, fresh_vhost_url, "-P", "prefork", "-c", "1") as worker:
        running = app.send_task("workload.hold", (str(go),))
        wait_until(lambda: running.state == "STARTED", SECONDS, "the task to start")
        for _ in range(3):
            app.send_task("workload.note", (str(file), "not-begun"))
        os.kill(worker.process.pid, signal.SIGTERM)
        wait_until(lambda: b"Warm shutdown" in worker.log.read_bytes(), SECONDS, "the signal to be heard")
        go.touch()
        assert worker.process.wait(SECONDS) == 0
    assert running.state == "SUCCESS"
    assert not file.exists()
    assert depth(app, "default") == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [(("-Q", "lopri_typo"), "lopri_typo"), (("-P", "nothing"), "nothing")],
)
def test_a_worker_with_a_wrong_option_ends_with_a_reason(
    fresh_vhost_url: str, tmp_path: Path, options: tuple[str, str], expected: str
) -> None:
    """A worker with an invalid option exits with a non-zero code, and its last line names the problem."""
    _client(tmp_path, fresh_vhost_url)
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workload", "worker", *options],
        env=environment(tmp_path, fresh_vhost_url),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode != 0
    assert expected in done.stderr.strip().splitlines()[-1], done.stderr
