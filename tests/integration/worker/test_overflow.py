"""Helping out: an idle worker takes another queue's overflow, never with more slots than were given for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from apps import depth, take
from ledger import Ledger, ledger
from waiting import wait_until

from broker_app.broker.access import connect
from broker_app.broker.declare import queue_state
from broker_app.broker.pauses import pause_queue, resume_queue
from broker_app.queues.dead_letters import NODE_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app import BrokerApp

SECONDS = 90
SETTINGS = """
[queues.default.fleet]
concurrency = 4
helps = ["lopri"]
helps_slots = 2
[queues.lopri]
"""
HELPER = ("-Q", "default", "-P", "threads", "-c", "4")

pytestmark = pytest.mark.version


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, vhost_url: str) -> Iterator[Ledger]:
    """Return a project with a worker of `default` that helps `lopri`."""
    folder = tmp_path_factory.mktemp("helping")
    with ledger(folder, vhost_url, SETTINGS) as made, made.worker(*HELPER, name="helper"):
        yield made


@pytest.fixture
def app(shop: Ledger) -> BrokerApp:
    """Return the project's app in this process, when the worker helps."""
    app = shop.app()
    wait_for_consumers(app, "lopri", 1)
    return app


def wait_for_consumers(app: BrokerApp, queue: str, count: int) -> None:
    """Return when so many workers consume a queue."""

    def consumers() -> int:
        with connect(app) as connection:
            found = queue_state(connection, queue)
        return found.consumers if found else -1

    wait_until(lambda: consumers() == count, SECONDS, f"{count} consumers of {queue}")


def most_at_once(shop: Ledger, ids: set[str]) -> int:
    """Return how many of some naps ran at the same time."""
    changes = [(run["at"], 1) for one, runs in shop.runs("begin").items() if one in ids for run in runs]
    changes += [(run["at"], -1) for one, runs in shop.runs("end").items() if one in ids for run in runs]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


@contextmanager
def held(app: BrokerApp, shop: Ledger, queue: str, count: int) -> Iterator[set[str]]:
    """Yield the ids of so many tasks, which run for the length of a block."""
    go = shop.folder / "go"
    go.unlink(missing_ok=True)
    try:
        sent = {app.send_task("shop.hold", queue=queue).id for _ in range(count)}
        wait_until(lambda: shop.runs("begin").keys() >= sent, SECONDS, "them to start")
        yield sent
    finally:
        go.touch()


def test_it_never_takes_more_slots_and_keeps_the_rest(shop: Ledger, app: BrokerApp) -> None:
    """Two of a flood on the helped queue run at once; tasks of its own queue start next to them."""
    flood = {app.send_task("shop.nap", (3,), queue="lopri").id for _ in range(5)}
    wait_until(lambda: len(shop.runs("begin").keys() & flood) == 2, SECONDS, "two to be helped")
    own = {app.send_task("shop.nap", (0.1,)).id for _ in range(2)}
    wait_until(lambda: shop.runs("end").keys() >= own, SECONDS, "its own tasks")
    wait_until(lambda: shop.runs("end").keys() >= flood, SECONDS, "the flood to end")
    assert most_at_once(shop, flood) == 2
    begun, ended = shop.runs("begin"), shop.runs("end")
    last_of_flood = max(ended[one][0]["at"] for one in flood)
    assert all(begun[one][0]["at"] < last_of_flood for one in own)


def test_it_takes_nothing_while_its_own_queue_needs_its_slots(shop: Ledger, app: BrokerApp) -> None:
    """With its slots taken by its own tasks it stops consuming the other queue, and helps again when they end."""
    with held(app, shop, "default", 4) as own:
        wait_for_consumers(app, "lopri", 0)
        helped = app.send_task("shop.note", queue="lopri").id
    wait_until(lambda: helped in shop.runs(), SECONDS, "the other queue's task")
    ended = shop.runs("end")
    assert min(run["at"] for one in own for run in ended[one]) < shop.runs()[helped][0]["at"]


def test_the_queues_own_workers_come_first(shop: Ledger, app: BrokerApp) -> None:
    """Workers with room get the messages from the broker; a helper gets the overflow."""
    with shop.worker("-Q", "lopri", "-P", "threads", "-c", "3", name="home") as home:
        wait_for_consumers(app, "lopri", 2)
        with held(app, shop, "lopri", 3) as first:
            assert {shop.runs("begin")[one][0]["pid"] for one in first} == {home.process.pid}
            more = app.send_task("shop.nap", (0.1,), queue="lopri").id
            wait_until(lambda: more in shop.runs("end"), SECONDS, "the overflow")
        assert shop.runs("begin")[more][0]["pid"] != home.process.pid


def test_a_helped_task_keeps_its_queue(app: BrokerApp) -> None:
    """A failed one is in the dead letters of its own queue, with the node that helped."""
    app.send_task("shop.nap", ("no number",), queue="lopri")
    wait_until(lambda: depth(app, "lopri.dead") == 1, SECONDS, "the dead letter")
    (letter,) = take(app, "lopri.dead")
    assert letter.headers[NODE_HEADER].startswith("helper@")


def test_a_pause_counts_for_helpers_too(shop: Ledger, app: BrokerApp) -> None:
    """A paused queue gets no help until it is resumed."""
    pause_queue(app, "lopri")
    wait_for_consumers(app, "lopri", 0)
    waiting, own = app.send_task("shop.note", queue="lopri").id, app.send_task("shop.note").id
    wait_until(lambda: own in shop.runs(), SECONDS, "its own task")
    assert waiting not in shop.runs()
    resume_queue(app, "lopri")
    wait_until(lambda: waiting in shop.runs(), SECONDS, "what waited")
