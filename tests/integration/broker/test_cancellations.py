"""Cancelled tasks: none runs, whatever was restarted in between, and no worker is harmed by the list of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import uuid4

import amqp
import pytest
from celery.result import AsyncResult, GroupResult
from ledger import Ledger, ledger
from proxy import TcpProxy
from waiting import wait_until

from broker_app.errors import BrokerError
from broker_app.queues.rabbitmq import STREAM_CONSUMER
from broker_app.queues.topology import CANCELLED_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps import MakeUser

    from broker_app import BrokerApp

STREAM = "tasks.cancelled"
DUE_SECONDS = 60
"""Longest delay of a due task: the machine may be busy."""


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Ledger]:
    """Return a project whose task writes down its runs, on a virtual host of its own."""
    with ledger(tmp_path, fresh_vhost_url) as made:
        yield made


@pytest.fixture
def app(shop: Ledger) -> BrokerApp:
    """Return the project's app in this process."""
    return shop.app()


def run_marker(shop: Ledger, app: BrokerApp) -> None:
    """Publish a task behind all others and wait until it has run."""
    marker = app.send_task("shop.note").id
    wait_until(lambda: marker in shop.runs(), DUE_SECONDS, "the task behind the cancelled ones")


def known(app: BrokerApp, workers: int = 1) -> list[set[str]]:
    """Return what each worker takes for revoked, or nothing yet if not so many answer."""
    answers = app.control.inspect(timeout=5, limit=workers).revoked() or {}
    return [set(ids) for ids in answers.values()] if len(answers) == workers else []


def wait_until_known(app: BrokerApp, ids: set[str], workers: int) -> None:
    """Return when so many workers take the tasks for revoked."""

    def is_known() -> bool:
        found = known(app, workers)
        return bool(found) and all(ids <= one for one in found)

    wait_until(is_known, 60, f"{workers} workers to know")


def entries(app: BrokerApp) -> list[bytes]:
    """Return the entries of the stream."""
    found: list[bytes] = []
    with app.connection_for_write() as connection:
        channel = connection.connection.channel()
        channel.basic_qos(0, 1_000, a_global=False)

        def take(message: amqp.Message) -> None:
            found.append(message.body)
            channel.basic_ack(message.delivery_tag)

        channel.basic_consume(STREAM, callback=take, arguments=STREAM_CONSUMER)
        while True:
            try:
                connection.drain_events(timeout=2)
            except TimeoutError:
                return found


def publish_raw(app: BrokerApp, *bodies: bytes) -> None:
    """Put foreign messages into the stream."""
    with app.connection_for_write() as connection:
        channel = connection.connection.channel()
        channel.confirm_select()
        for body in bodies:
            channel.basic_publish_confirm(amqp.Message(body), exchange="", routing_key=STREAM)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
@pytest.mark.version
def test_a_task_that_was_cancelled_while_no_worker_ran(shop: Ledger, app: BrokerApp, pool: str) -> None:
    """It says REVOKED at once and does not run when a worker comes, of whatever pool; others run."""
    now, later = app.send_task("shop.note"), app.send_task("shop.note", countdown=1)
    now.revoke()
    app.control.revoke(later.id)
    assert (now.state, later.state) == ("REVOKED", "REVOKED")

    with shop.worker("-P", pool, "-c", "1") as worker:
        run_marker(shop, app)
        wait_until(
            lambda: worker.text().count("Discarding revoked task") == 2, DUE_SECONDS, "both to be discarded"
        )

    assert not {now.id, later.id} & shop.runs().keys()


@pytest.mark.version
def test_a_cancellation_outlives_every_worker(shop: Ledger, app: BrokerApp) -> None:
    """A worker that never heard of it, since all who did were killed, refuses the task when it is due."""
    task = app.send_task("shop.note", queue="lopri", countdown=1)
    with shop.worker("-P", "threads", "-Q", "default"), shop.worker("-P", "solo", "-Q", "default", name="two"):
        task.revoke()
        wait_until_known(app, {task.id}, 2)

    with shop.worker("-P", "threads", name="three") as worker:
        wait_until(lambda: "Discarding revoked task" in worker.text(), DUE_SECONDS, "the task to be discarded")

    assert not shop.runs()
    assert task.state == "REVOKED"


def test_every_way_of_revoking_holds(shop: Ledger, app: BrokerApp) -> None:
    """A result's, a group's, a list's and a tuple's: each is remembered."""
    tasks = [app.send_task("shop.note") for _ in range(6)]
    ids = [task.id for task in tasks]
    AsyncResult(ids[0], app=app).revoke()
    GroupResult(str(uuid4()), tasks[1:3], app=app).revoke()
    app.control.revoke(ids[3:5])
    app.control.terminate((ids[5],))
    assert {task.state for task in tasks} == {"REVOKED"}

    with shop.worker("-P", "solo"):
        run_marker(shop, app)

    assert not set(ids) & shop.runs().keys()


def test_all_workers_hear_of_it_without_a_broadcast(shop: Ledger, app: BrokerApp) -> None:
    """Each worker follows the list while it runs, so a broadcast that is lost does no harm."""
    with shop.worker("-P", "solo"), shop.worker("-P", "threads", name="two"):
        publish_raw(app, b'{"ids": ["a-task", "another"]}')
        wait_until_known(app, {"a-task", "another"}, 2)


def test_what_a_retry_waits_for_can_be_cancelled(shop: Ledger, app: BrokerApp) -> None:
    """A task that waits in a lane for its retry says REVOKED at once and does not run again."""
    with shop.worker("-P", "threads") as worker:
        task = app.send_task("shop.again", kwargs={"countdown": 6, "times": 3})
        wait_until(lambda: task.state == "RETRY", DUE_SECONDS, "the first retry")
        task.revoke()
        assert task.state == "REVOKED"
        wait_until(lambda: "Discarding revoked task" in worker.text(), DUE_SECONDS, "the retry to be discarded")

    assert len(shop.runs("again")[task.id]) == 1


@pytest.mark.version
def test_terminate_ends_a_task_that_runs(shop: Ledger, app: BrokerApp) -> None:
    """Its process is killed, it says REVOKED, it is not delivered again, and the next task runs."""
    with shop.worker("-P", "prefork", "-c", "1") as worker:
        task = app.send_task("shop.nap", (100,))
        wait_until(lambda: shop.runs("begin"), DUE_SECONDS, "the task to begin")
        task.revoke(terminate=True)
        run_marker(shop, app)
        wait_until(lambda: task.state == "REVOKED", 30, "the result")
        worker.stop()
    with shop.worker("-P", "threads", name="two"):
        run_marker(shop, app)

    assert len(shop.runs("begin")[task.id]) == 1
    assert not shop.runs("end")


def test_terminate_on_a_pool_that_cannot_kill(shop: Ledger, app: BrokerApp) -> None:
    """A thread cannot be killed: the task runs to its end, and the worker lives on."""
    with shop.worker("-P", "threads", "-c", "1") as worker:
        task = app.send_task("shop.nap", (2,))
        wait_until(lambda: shop.runs("begin"), DUE_SECONDS, "the task to begin")
        task.revoke(terminate=True)
        run_marker(shop, app)
        assert worker.process.poll() is None

    assert task.id in shop.runs("end")


@pytest.mark.version
def test_a_connection_that_broke_reads_again(shop: Ledger, app: BrokerApp) -> None:
    """A task cancelled while a worker was disconnected does not run when the worker is back."""
    app.send_task("shop.note").revoke()
    with TcpProxy.to(shop.url) as proxy:
        direct, shop.url = shop.url, proxy.url(shop.url)
        with shop.worker("-P", "threads") as worker:
            proxy.freeze()
            shop.url = direct
            task = app.send_task("shop.note")
            task.revoke()
            proxy.cut()
            proxy.thaw()
            discarded = f"Discarding revoked task: shop.note[{task.id}]"
            wait_until(lambda: discarded in worker.text(), DUE_SECONDS, "its return")
            run_marker(shop, app)

    assert task.id not in shop.runs()


RIGHTS_OF_A_WORKER = {
    "configure": r"^(celery.*|.*\.celery(ev)?\..*|.*pidbox)$",
    "write": r"^(celery.*|.*\.celery(ev)?\..*|.*pidbox|tasks|delay(\..*)?)$",
    "read": r"^(celery.*|.*\.celery(ev)?\..*|.*pidbox|default|lopri|tasks\.cancelled)$",
}


@pytest.mark.version
def test_a_worker_with_the_least_rights(shop: Ledger, app: BrokerApp, make_user: MakeUser) -> None:
    """A worker that may consume and not declare starts, runs what it may and nothing that was cancelled."""
    assert shop.run("broker-app", "-A", "shop", "topology", "declare").returncode == 0
    url, shop.url = shop.url, make_user(**RIGHTS_OF_A_WORKER)
    with shop.worker("-P", "threads") as worker:
        assert "the queues are used as they are" in worker.text()
        run_marker(shop, app)
    task = app.send_task("shop.note")
    task.revoke()
    with shop.worker("-P", "threads", name="two"):
        run_marker(shop, app)
    shop.url = url

    assert task.id not in shop.runs()


def test_a_worker_that_may_not_read_the_list(shop: Ledger, app: BrokerApp, make_user: MakeUser) -> None:
    """It says that cancelled tasks will run, and works."""
    assert shop.run("broker-app", "-A", "shop", "topology", "declare").returncode == 0
    rights = RIGHTS_OF_A_WORKER | {"read": RIGHTS_OF_A_WORKER["read"].replace(r"|tasks\.cancelled", "")}
    url, shop.url = shop.url, make_user(**rights)
    with shop.worker("-P", "threads") as worker:
        assert "cancelled tasks will run, their list cannot be read: 403" in worker.text()
        run_marker(shop, app)
    shop.url = url


@pytest.mark.version
def test_a_thousand_cancellations_in_one_call(shop: Ledger, app: BrokerApp) -> None:
    """They are written together, take few messages, and a worker knows all of them before it is ready."""
    ids = [str(uuid4()) for _ in range(1_000)]
    app.control.revoke(ids)
    assert len(entries(app)) <= 3

    with shop.worker("-P", "solo"):
        wait_until_known(app, set(ids), 1)


@pytest.mark.version
def test_a_long_list_is_read_to_its_end(shop: Ledger, app: BrokerApp) -> None:
    """More entries than are on their way at once: the last one counts as much as the first."""
    app.send_task("shop.note").revoke()
    with app.connection_for_write() as connection:
        channel = connection.connection.channel()
        for number in range(5_000):
            body = b'{"ids": ["task-%d"]}' % number
            channel.basic_publish(amqp.Message(body), exchange=STREAM)
        channel.queue_declare(STREAM, passive=True)
    task = app.send_task("shop.note")
    task.revoke()

    with shop.worker("-P", "solo"):
        run_marker(shop, app)
        (found,) = wait_until(lambda: known(app), 60, "the worker's answer")
    assert {task.id, *(f"task-{number}" for number in range(5_000))} <= found
    assert task.id not in shop.runs()


@pytest.mark.version
def test_workers_leave_nothing_in_the_list(shop: Ledger, app: BrokerApp) -> None:
    """However many start, at once or again and again: its bounded room is for cancellations."""
    with shop.starting("-P", "solo") as one, shop.starting("-P", "solo", name="two") as two:
        one.wait_until_ready()
        two.wait_until_ready()
    first = len(entries(app))
    assert first <= 2
    for name in ("one", "two"):
        with shop.worker("-P", "solo", name=name):
            run_marker(shop, app)
    assert len(entries(app)) == first


@pytest.mark.version
def test_the_list_is_bounded(app: BrokerApp) -> None:
    """The broker throws the oldest entries away, a segment at a time."""
    app.send_task("shop.note").revoke()
    publish_raw(app, *([b"x" * 1_000_000] * (2 * CANCELLED_MAX_BYTES // 1_000_000)))

    def kept_bytes() -> int:
        return sum(map(len, entries(app)))

    wait_until(lambda: kept_bytes() < 1.25 * CANCELLED_MAX_BYTES, 30, "the oldest to go")
    assert kept_bytes() > 0.5 * CANCELLED_MAX_BYTES


def test_entries_of_somebody_elses_are_passed_over(shop: Ledger, app: BrokerApp) -> None:
    """Nothing can be taken out of a stream: what is no cancellation must not keep workers from working."""
    task = app.send_task("shop.note")
    task.revoke()
    publish_raw(app, b"", b"\xff", b"[]", b'"ids"', b'{"ids": 7}', b'{"ids": [1, null, {}]}', b'{"mark": "x"}')
    other = app.send_task("shop.note")
    other.revoke()

    with shop.worker("-P", "threads"):
        run_marker(shop, app)
    assert not {task.id, other.id} & shop.runs().keys()


def test_without_a_result_store(shop: Ledger) -> None:
    """A cancellation also holds without a result backend, and for tasks with `ignore_result`."""
    app = shop.app(result_backend="disabled://")
    task, ignored = app.send_task("shop.note"), app.send_task("shop.note", ignore_result=True)
    app.control.revoke([task.id, ignored.id])
    with shop.worker("-P", "threads"):
        run_marker(shop, app)
    assert not {task.id, ignored.id} & shop.runs().keys()


def test_a_result_store_that_does_not_answer(shop: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """The call goes through and warns; the worker refuses the task all the same."""
    app = shop.app('result_url = "db+sqlite:////proc/none/results.sqlite3"')
    tasks = [app.send_task("shop.note") for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        app.control.revoke([task.id for task in tasks])
    assert caplog.text.count("cancelled, but failed to store REVOKED") == 1
    with shop.worker("-P", "threads"):
        run_marker(shop, app)
    assert len(shop.runs()) == 1


def test_a_broker_that_is_away(shop: Ledger) -> None:
    """Nothing was cancelled, and the caller knows."""
    shop.url = "amqp://u:secret@127.0.0.1:1//"
    with pytest.raises(BrokerError, match="no AMQP broker answers") as caught:
        shop.app().control.revoke("an-id")
    assert "secret" not in str(caught.value)


@pytest.mark.version
def test_a_user_who_may_not_write_the_list(app: BrokerApp, shop: Ledger, make_user: MakeUser) -> None:
    """The caller gets an error with the broker's words: the task is not cancelled."""
    app.send_task("shop.note").revoke()
    shop.url = make_user(read=".*", write="^(tasks|default)$")
    with pytest.raises(BrokerError, match=r"queue 'tasks.cancelled': 403"):
        shop.app().control.revoke("an-id")


def test_purge_takes_the_tasks_and_does_not_follow_the_list(shop: Ledger, app: BrokerApp) -> None:
    """`celery purge` asks for a consumer too: it must not stay on the list, nor on a producer's connection."""
    app.send_task("shop.note").revoke()
    app.send_task("shop.note", queue="lopri")
    done = shop.run("celery", "-A", "shop", "purge", "-f")
    assert "Purged 2 messages" in done.stdout, done
    before = len(entries(app))

    app.send_task("shop.note")
    assert app.control.purge() == 1
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_declare(STREAM, passive=True).consumer_count == 0
    assert len(entries(app)) == before == 1
