"""Paused queues: no worker on any host consumes them, even after a restart, until resumed; nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import depth
from ledger import Ledger, ledger
from proxy import TcpProxy
from waiting import wait_until

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, queue_state
from broker_app.broker.pauses import pause_queue, paused_queues, resume_queue
from broker_app.errors import BrokerError, UnknownQueue
from broker_app.queues import work_topology

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps import AppMaker, MakeUser

    from broker_app import BrokerApp

SECONDS = 60
SETTINGS = """
heartbeat_seconds = 4
[queues.default]
[queues.lopri]
prefetch = 3
"""
POOLS = ["prefork", "threads", "gevent", "asyncio"]


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Ledger]:
    """Return a project whose task writes down its runs, on a virtual host of its own."""
    with ledger(tmp_path, fresh_vhost_url, SETTINGS) as made:
        yield made


@pytest.fixture
def app(shop: Ledger) -> BrokerApp:
    """Return the project's app in this process."""
    return shop.app()


def consumers(app: BrokerApp, queue: str) -> int:
    """Return how many workers consume a queue; -1 if it is not there."""
    with connect(app) as connection:
        found = queue_state(connection, queue)
    return -1 if found is None else found.consumers


def wait_for_consumers(app: BrokerApp, queue: str, count: int) -> None:
    """Return when so many workers consume a queue."""
    wait_until(lambda: consumers(app, queue) == count, SECONDS, f"{count} consumers of {queue}")


def has_run(shop: Ledger, task_id: str) -> bool:
    """Return whether a task has run."""
    return task_id in shop.runs()


@pytest.mark.version
@pytest.mark.parametrize("pool", POOLS)
def test_a_pause_takes_back_what_was_not_started(shop: Ledger, app: BrokerApp, pool: str) -> None:
    """Running tasks finish; reserved messages return to the queue at once, and run once in the end.

    The worker's other queue is consumed meanwhile, and messages published to the paused one wait.
    """
    with shop.worker("-Q", "default,lopri", "-P", pool, "-c", "2", "--prefetch-multiplier", "3"):
        running = [app.send_task("shop.hold", queue="lopri").id for _ in range(2)]
        wait_until(lambda: len(shop.runs("begin")) == 2, SECONDS, "two tasks to start")
        waiting = [app.send_task("shop.note", queue="lopri").id for _ in range(6)]
        wait_until(lambda: depth(app, "lopri") == 2, SECONDS, "four to be reserved")
        pause_queue(app, "lopri")
        wait_until(lambda: depth(app, "lopri") == 6, SECONDS, "all that had not started to be back")
        waiting.append(app.send_task("shop.note", queue="lopri").id)
        (shop.folder / "go").touch()
        wait_until(lambda: shop.runs("end").keys() == set(running), SECONDS, "what ran to be finished")
        wait_for_consumers(app, "lopri", 0)  # one that holds messages still counts
        beside = app.send_task("shop.note").id
        wait_until(lambda: has_run(shop, beside), SECONDS, "a task of the other queue")
        assert not shop.runs().keys() & set(waiting)
        assert depth(app, "lopri") == 7
        resume_queue(app, "lopri")
        wait_until(lambda: shop.runs().keys() >= set(waiting), SECONDS, "the others to run")
    assert all(len(runs) == 1 for runs in (shop.runs() | shop.runs("begin")).values())


@pytest.mark.version
def test_a_pause_holds_over_restarts_and_on_every_host(shop: Ledger, app: BrokerApp) -> None:
    """Workers that were not there when it was paused do not consume it; all do when it is resumed."""
    pause_queue(app, "lopri")
    pause_queue(app, "lopri")
    assert paused_queues(app) == {"lopri"}
    with (
        shop.worker("-Q", "lopri", "-P", "threads", "-c", "1", name="host1") as first,
        shop.worker("-Q", "lopri,default", "-P", "prefork", "-c", "1", name="host2"),
    ):
        wait_for_consumers(app, "default", 1)
        assert consumers(app, "lopri") == 0
        first.stop()
        with shop.worker("-Q", "lopri", "-P", "threads", "-c", "1", name="host1"):
            waiting, beside = app.send_task("shop.note", queue="lopri").id, app.send_task("shop.note").id
            wait_until(lambda: has_run(shop, beside), SECONDS, "a task of the other queue")
            assert consumers(app, "lopri") == 0
            assert not has_run(shop, waiting)
            resume_queue(app, "lopri")
            resume_queue(app, "lopri")
            wait_for_consumers(app, "lopri", 2)
            wait_until(lambda: has_run(shop, waiting), SECONDS, "what waited")
            assert paused_queues(app) == frozenset()


def test_a_worker_that_was_cut_off_learns_of_it(shop: Ledger, app: BrokerApp) -> None:
    """It was paused, or resumed, while a worker had no broker: it holds as soon as that is back."""
    with TcpProxy.to(shop.url) as proxy:
        shop.url = proxy.url(shop.url)
        with shop.worker("-Q", "lopri", "-P", "threads", "-c", "1") as worker:
            wait_for_consumers(app, "lopri", 1)
            proxy.freeze(new_too=True)
            pause_queue(app, "lopri")
            wait_until(lambda: "Connection to broker lost" in worker.text(), SECONDS, "the loss to be seen")
            proxy.thaw()
            task = app.send_task("shop.note", queue="lopri").id
            wait_until(lambda: "paused: lopri" in worker.text(), SECONDS, "the worker to be back")
            wait_for_consumers(app, "lopri", 0)
            assert not has_run(shop, task)
            resume_queue(app, "lopri")
            wait_until(lambda: has_run(shop, task), SECONDS, "what waited")


def test_an_unknown_queue_cannot_be_paused(app: BrokerApp) -> None:
    """Its name is refused, with the nearest known one; nothing is written."""
    with pytest.raises(UnknownQueue, match="did you mean 'lopri'"):
        pause_queue(app, "loprio")
    with pytest.raises(UnknownQueue):
        resume_queue(app, "loprio")


@pytest.mark.version
def test_what_is_paused_is_known_before_any_worker_was(app: BrokerApp) -> None:
    """On a fresh broker nothing is paused, whether the stream is there or not; two queues keep apart."""
    assert paused_queues(app) == frozenset()
    with connect(app) as connection:
        declare_topology(connection, work_topology([], ""))
    assert paused_queues(app) == frozenset()
    for name in ("lopri", "default"):
        pause_queue(app, name)
    resume_queue(app, "lopri")
    assert paused_queues(app) == {"default"}


def test_who_may_not_read_the_pauses_is_told(make_app: AppMaker, make_user: MakeUser, app: BrokerApp) -> None:
    """It is an error, and not an empty answer."""
    pause_queue(app, "lopri")
    limited = make_app(url=make_user(configure="^$", write="^$", read=r"^(default|lopri)$"))
    with pytest.raises(BrokerError, match=r"tasks\.paused"):
        paused_queues(limited)
