"""A worker reconnects by itself, and a task that still runs in it is not started a second time."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest
from apps import delete, depth
from brokers import vhost_of
from ledger import PROJECT, Ledger, Worker, ledger
from proxy import TcpProxy
from waiting import wait_until

from broker_app.broker.access import connect
from broker_app.broker.declare import queue_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

    from broker_app import BrokerApp

SECONDS = 60.0
POOLS = ("prefork", "threads", "gevent")
SETTINGS = "heartbeat_seconds = 4\n[queues.default]\n[queues.lopri]\n"


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Ledger]:
    """Return a project on a virtual host of its own; its workers reach it through `cuttable`."""
    with ledger(tmp_path, fresh_vhost_url, SETTINGS) as made:
        yield made


@pytest.fixture
def cuttable(shop: Ledger) -> Iterator[TcpProxy]:
    """Return the network between the project's workers and the broker."""
    with TcpProxy.to(shop.url) as proxy:
        shop.variables["BROKER_APP_BROKER_URL"] = proxy.url(shop.url)
        yield proxy


def consumers(app: BrokerApp, queue: str) -> int:
    """Return how many consume a queue, 0 if it is not there."""
    with connect(app) as connection:
        state = queue_state(connection, queue)
        return state.consumers if state else 0


def run_one(app: BrokerApp, shop: Ledger, queue: str = "default") -> None:
    """Send a task and wait until it has run."""
    sent = app.send_task("shop.note", queue=queue).id
    wait_until(lambda: sent in shop.runs(), SECONDS, "a task to run")


def start_nap(app: BrokerApp, shop: Ledger, seconds: float) -> str:
    """Send a task that takes a while, and return its id when it runs."""
    sent: str = app.send_task("shop.nap", (seconds,)).id
    wait_until(lambda: sent in shop.runs("begin"), SECONDS, "a task to begin")
    return sent


def start_hold(app: BrokerApp, shop: Ledger) -> str:
    """Send a task that runs until `let_go`, and return its id when it runs."""
    sent: str = app.send_task("shop.hold").id
    wait_until(lambda: sent in shop.runs("begin"), SECONDS, "a task to begin")
    return sent


def let_go(shop: Ledger) -> None:
    """Let the held tasks end."""
    (shop.folder / "go").touch()


def connected(worker: Worker) -> int:
    """Return how often a worker has connected."""
    return worker.text().count("] Connected to")


def check_ran_once(app: BrokerApp, shop: Ledger, *ids: str) -> None:
    """Wait until tasks have ended and are acknowledged, and judge that each was started once."""
    for one in ids:
        wait_until(lambda one=one: one in shop.runs("end"), SECONDS, "a task to end")
    run_one(app, shop)
    assert all(len(shop.runs("begin")[one]) == 1 for one in ids)
    delivered = [queue for queue in ("default", "default.dead") if depth(app, queue)]
    assert delivered == []


@pytest.mark.parametrize("pool", [*POOLS, "asyncio"])
def test_a_task_that_outlives_its_connection_runs_once(shop: Ledger, cuttable: TcpProxy, pool: str) -> None:
    """The connection is cut twice while a task runs: its message is held, and acknowledged when the task ends."""
    app = shop.app()
    with shop.worker("-P", pool, "-c", "2") as worker:
        held = start_hold(app, shop)
        for _ in range(2):
            cuttable.cut()
            run_one(app, shop)
        let_go(shop)
        check_ran_once(app, shop, held)
        assert "not started twice" in worker.text()
        worker.stop()
    assert depth(app, "default") == 0


ENDS_BADLY = """

import threading
from celery import signals

loops = []


@signals.worker_ready.connect(weak=False)
def keep(sender, **_):
    loops.append(sender.hub)


def fail():
    raise ConnectionResetError(104, "cut")


@app.task(bind=True)
def end_as_the_loop_fails(self):
    held, go = threading.Event(), threading.Event()
    loops[0].call_soon(lambda: held.set() or go.wait(60))
    held.wait(60)
    for _ in range(200):  # called in any order: the first one to raise makes the loop drop the others
        loops[0].call_soon(fail)
    threading.Timer(2, go.set).start()  # by then the end of this task is among them
    write(self.request, "begin")
    write(self.request, "end")
"""
"""A task that ends in the moment in which the worker's loop finds that its connection is lost."""


def test_an_end_that_the_loop_drops_with_its_connection_is_settled(shop: Ledger) -> None:
    """A task ends just as the connection is lost: its message is acknowledged on the next, and frees its slot."""
    app = shop.app()
    (shop.folder / "shop.py").write_text(PROJECT + ENDS_BADLY)
    with shop.worker("-P", "threads", "-c", "2"):
        sent = app.send_task("shop.end_as_the_loop_fails").id
        for _ in range(4):  # as many as prefetch, and more
            run_one(app, shop)
        check_ran_once(app, shop, sent)


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_that_ended_while_nobody_could_hear_it_is_not_run_again(
    shop: Ledger, cuttable: TcpProxy, pool: str
) -> None:
    """A task whose acknowledgement was lost with the connection is not run when it is redelivered."""
    app = shop.app()
    with shop.worker("-P", pool, "-c", "2") as worker:
        nap = start_nap(app, shop, 2)
        cuttable.freeze()
        wait_until(lambda: app.AsyncResult(nap).state == "SUCCESS", SECONDS, "the task to end")
        time.sleep(1)  # its acknowledgement is on its way into the void
        cuttable.cut()
        cuttable.thaw()
        check_ran_once(app, shop, nap)
        assert "not run again" in worker.text()


@pytest.mark.parametrize("pool", POOLS)
def test_what_had_not_begun_runs_once_too(shop: Ledger, cuttable: TcpProxy, pool: str) -> None:
    """A worker has reserved tasks that it had not begun when its connection was cut: each runs once."""
    app = shop.app()
    with shop.worker("-P", pool, "-c", "1", "--prefetch-multiplier", "4") as worker:
        first = start_hold(app, shop)
        others = [app.send_task("shop.nap", (0.1,)).id for _ in range(6)]
        wait_until(lambda: depth(app, "default") == 3, SECONDS, "three of them to be reserved")
        cuttable.cut()
        wait_until(lambda: connected(worker) > 1, SECONDS, "the worker to be back")
        let_go(shop)
        check_ran_once(app, shop, first, *others)


@pytest.mark.parametrize("pool", POOLS)
def test_a_half_open_connection_is_left(shop: Ledger, cuttable: TcpProxy, pool: str) -> None:
    """On a connection that goes dead, the worker reconnects without exiting, and the running task runs once."""
    app = shop.app()
    with shop.worker("-P", pool, "-c", "2") as worker:
        held = start_hold(app, shop)
        cuttable.freeze(new_too=False)
        run_one(app, shop)
        let_go(shop)
        check_ran_once(app, shop, held)
        assert worker.process.poll() is None


@pytest.mark.parametrize("pool", POOLS)
def test_a_deleted_queue_disturbs_no_other(shop: Ledger, pool: str) -> None:
    """A deleted queue is consumed again within seconds on the same connection; other queues' tasks run once."""
    app = shop.app()
    with shop.worker("-P", pool, "-c", "2") as worker:
        held = start_hold(app, shop)
        delete(app, "lopri", "lopri.dead")
        wait_until(lambda: consumers(app, "lopri"), SECONDS, "the queue to be consumed again")
        run_one(app, shop, "lopri")
        assert depth(app, "lopri.dead") == 0
        delete(app, "lopri")  # once more: also what was consumed again is looked after
        wait_until(lambda: consumers(app, "lopri"), SECONDS, "the queue to be consumed again")
        run_one(app, shop, "lopri")
        let_go(shop)
        check_ran_once(app, shop, held)
        assert connected(worker) == 1


@pytest.mark.parametrize("pool", POOLS)
def test_a_connection_that_an_operator_closes_is_made_again(
    shop: Ledger, management: Management, pool: str
) -> None:
    """Closed by the management API, a worker consumes again within seconds."""
    app = shop.app()
    with shop.worker("-P", pool, "-c", "2") as worker:
        held = start_hold(app, shop)

        def is_back() -> bool:
            for one in management.connections(vhost_of(shop.url)):  # the list may be a few seconds old
                with suppress(HTTPError):
                    management.close_connection(one["name"])
            return connected(worker) > 1

        wait_until(is_back, SECONDS, "the worker to be back")
        run_one(app, shop)
        let_go(shop)
        check_ran_once(app, shop, held)
        assert worker.process.poll() is None


@pytest.mark.version
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_virtual_host_that_comes_back_is_consumed_again(shop: Ledger, management: Management, pool: str) -> None:
    """It is deleted with all that is in it and made again: the worker declares its queues and consumes."""
    app, name = shop.app(), vhost_of(shop.url)
    with shop.worker("-P", pool, "-c", "2") as worker:
        run_one(app, shop)
        management.delete(f"vhosts/{name}")
        time.sleep(3)  # the worker meets a broker without it
        management.put(f"vhosts/{name}")
        user = {"configure": ".*", "write": ".*", "read": ".*"}
        management.put(f"permissions/{name}/{management.username}", user)
        wait_until(lambda: consumers(app, "default"), SECONDS, "the worker to consume again")
        run_one(app, shop)
        assert worker.process.poll() is None


@pytest.mark.version
def test_a_consumer_asks_for_the_time_that_its_tasks_may_take(
    shop: Ledger, management: Management, broker_version: tuple[int, ...]
) -> None:
    """A task that runs longer than the broker's consumer time-out is not taken away, from RabbitMQ 4.3 on."""
    if broker_version < (4, 3):
        pytest.skip("older brokers have one time-out for all consumers: see docs/concepts/recovery.md")
    policy = {"pattern": "^default$", "definition": {"consumer-timeout": 3000}, "apply-to": "quorum_queues"}
    management.put(f"policies/{vhost_of(shop.url)}/short", policy)
    app = shop.app()
    with shop.worker("-P", "threads", "-c", "2") as worker:
        nap = start_nap(app, shop, 9)
        check_ran_once(app, shop, nap)
        assert "consuming again" not in worker.text()
