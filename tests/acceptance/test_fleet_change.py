"""`broker-app fleet restart`, `reload` and `scale`: fleets change while they work, and nothing is lost by it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from ending import joined
from fleets import SETTINGS, Host, host
from ledger import ledger
from waiting import wait_until

from broker_app.broker.access import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import amqp
    from ledger import Ledger

    from broker_app import BrokerApp

TWO_NODES = SETTINGS + "nodes = 2\n"
DYING = """
from celery.signals import celeryd_after_setup
from celery.utils.log import get_logger

@celeryd_after_setup.connect
def die(sender, **_kwargs):
    if file.with_name("is_broken").exists():
        get_logger("celery").error("the disk of lopri is missing")
        os._exit(3)
"""
DEADLINE_SECONDS = 120.0


@pytest.fixture
def project(tmp_path: Path, fresh_vhost_url: str) -> Iterator[tuple[Host, Ledger]]:
    """Return a host, and its project's ledger."""
    with (
        host(tmp_path / "project", fresh_vhost_url) as machine,
        ledger(machine.folder, fresh_vhost_url, TWO_NODES) as book,
    ):
        yield machine, book


@dataclass
class Seen:
    """The numbers of consumers that were seen."""

    counts: list[int] = field(default_factory=list)


@contextmanager
def watched_consumers(app: BrokerApp, queue: str) -> Iterator[Seen]:
    """Ask the broker without a pause how many consumers a queue has, for the length of a block."""
    seen, is_over = Seen(), threading.Event()

    def watch(channel: amqp.Channel) -> None:
        while not is_over.wait(0.02):
            seen.counts.append(channel.queue_declare(queue, passive=True).consumer_count)

    with connect(app) as connection:
        thread = threading.Thread(target=watch, args=(connection.channel(),), daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            is_over.set()
            joined(thread)


@contextmanager
def steady_load(app: BrokerApp, queue: str) -> Iterator[list[str]]:
    """Send a short task again and again for the length of a block; the list holds their ids."""
    sent: list[str] = []
    is_over = threading.Event()

    def send() -> None:
        while not is_over.wait(0.02):
            sent.append(app.send_task("shop.nap", (0.1,), queue=queue).id)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield sent
    finally:
        is_over.set()
        joined(thread)


@pytest.mark.timeout(400)
def test_a_fleet_of_two_is_restarted_without_a_moment_without_a_consumer(project: tuple[Host, Ledger]) -> None:
    """`restart` under load replaces both nodes; each task runs once, and the broker always has a consumer."""
    machine, book = project
    app = book.app()
    machine.start("lopri", app="shop")
    before = machine.workers("shop")

    with watched_consumers(app, "lopri") as seen, steady_load(app, "lopri") as sent:
        done = machine.fleet("restart", "lopri", "--wait", "180", app="shop")

    assert done.returncode == 0, done.stderr
    after = machine.workers("shop")
    assert set(after) == set(before) == {"lopri", "lopri+2"}
    assert not set(after.values()) & set(before.values())
    assert min(seen.counts) >= 1
    assert max(seen.counts) == 2
    wait_until(lambda: len(book.runs("end")) >= len(sent), DEADLINE_SECONDS, "the ends of all tasks")
    ends = book.runs("end")
    assert set(ends) == set(sent)
    assert {len(runs) for runs in ends.values()} == {1}


@pytest.mark.timeout(400)
def test_a_restart_that_goes_wrong_leaves_the_queue_served(project: tuple[Host, Ledger]) -> None:
    """When a new node does not come up, the nodes behind it stay as they are, and its last words are shown."""
    machine, _ = project
    with (machine.folder / "shop.py").open("a") as file:
        file.write(DYING)
    machine.start("lopri", app="shop")
    before = machine.workers("shop")
    (machine.folder / "is_broken").touch()

    done = machine.fleet("restart", "lopri", app="shop")

    assert done.returncode == 1
    assert "the disk of lopri is missing" in done.stderr
    assert machine.workers("shop") == {"lopri+2": before["lopri+2"]}
    assert machine.status("lopri", app="shop")["lopri+2"]["is_consuming"]


@pytest.mark.timeout(400)
def test_reload_touches_only_what_the_settings_change(project: tuple[Host, Ledger]) -> None:
    """Changed nodes are replaced, new queues served, gone ones stopped; the others keep their processes."""
    machine, _ = project
    machine.write(TWO_NODES + "[queues.old]\n")
    machine.start(app="shop")
    before = machine.workers("shop")
    untouched = machine.fleet("reload", "--wait", "180", app="shop")
    assert untouched.returncode == 0, untouched.stderr
    assert machine.workers("shop") == before
    machine.write(TWO_NODES.replace("concurrency = 3", "concurrency = 4") + "[queues.new]\n")

    done = machine.fleet("reload", "--wait", "180", app="shop")

    assert done.returncode == 0, done.stderr
    after = machine.workers("shop")
    assert set(after) == {"default", "lopri", "lopri+2", "new"}
    assert after["default"] == before["default"]
    assert not {after["lopri"], after["lopri+2"]} & set(before.values())
    assert machine.status("lopri", app="shop")["lopri"]["slots"] == 4
    assert "old@" in done.stdout


@pytest.mark.timeout(400)
def test_a_scaled_queue_stays_scaled_until_it_is_reset(project: tuple[Host, Ledger]) -> None:
    """`scale` lasts over stop and start, is shown by `status`, and ends with --reset or `reload`."""
    machine, _ = project
    assert machine.fleet("scale", "default", "2", "--wait", "180", app="shop").returncode == 0
    assert set(machine.workers("shop")) == {"default", "default+2"}
    assert machine.fleet("stopwait", app="shop").returncode == 0
    machine.start("default", app="shop")
    first = machine.workers("shop")
    assert set(first) == {"default", "default+2"}
    assert "default: scaled from 1 to 2" in machine.fleet("status", "default", app="shop").stdout

    done = machine.fleet("reload", "default", app="shop")

    assert done.returncode == 0, done.stderr
    assert "default: no longer scaled; the settings say 1" in done.stdout
    assert machine.workers("shop") == {"default": first["default"]}
    assert machine.fleet("scale", "default", "0", app="shop").returncode == 0
    assert not machine.workers("shop")
    assert machine.fleet("scale", "default", "--reset", "--wait", "180", app="shop").returncode == 0
    assert set(machine.workers("shop")) == {"default"}
