"""Shutdown of a worker: running tasks may finish, unfinished ones are requeued in time, and it exits with 0."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from apps import depth, take
from ledger import Ledger, Worker, ledger
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 120
POOLS = ("prefork", "threads", "gevent")
END_SECONDS = 45
"""More than the drain that an end may take: a turn of the loop, the farewells, the interpreter's own end."""

SUDDEN = {
    "quit": (signal.SIGQUIT,),
    "term-quit": (signal.SIGTERM, signal.SIGQUIT),
    "ctrl-c-twice": (signal.SIGINT, signal.SIGINT),
    "remapped-term": (signal.SIGTERM,),
}

SETTINGS = """
heartbeat_seconds = 4
[queues.default]
prefetch = 3
[queues.default.fleet]
drain_seconds = 2
[queues.patient.fleet]
drain_seconds = 30
"""


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Ledger]:
    """Return a project with a queue that drains 2 s, and one that drains 30 s."""
    with ledger(tmp_path, fresh_vhost_url, SETTINGS) as made:
        yield made


def starts(shop: Ledger) -> int:
    """Return how often a task was started."""
    return sum(map(len, shop.runs("begin").values()))


def seconds_to_end(worker: Worker, *signals: int) -> float:
    """Send signals, each when the one before was heard; return how long the end took from the last one on."""
    for number, signum in enumerate(signals):
        if number:
            wait_until(lambda: "Warm shutdown" in worker.text(), SECONDS, "the first signal to be heard")
        started = time.monotonic()
        worker.process.send_signal(signum)
    worker.process.wait(SECONDS)
    return time.monotonic() - started


@pytest.mark.parametrize("pool", POOLS)
def test_what_runs_finishes_and_is_acknowledged(shop: Ledger, pool: str) -> None:
    """After SIGTERM a task may run on past several heartbeats; it is acknowledged, and waiting tasks stay."""
    app = shop.app()
    with shop.worker("-Q", "patient", "-P", pool, "-c", "1", "--prefetch-multiplier", "1") as worker:
        running = app.send_task("shop.nap", (12,), queue="patient")
        wait_until(lambda: shop.runs("begin"), SECONDS, "the task to start")
        for _ in range(3):
            app.send_task("shop.note", queue="patient")
        assert not shop.runs("end")
        took = seconds_to_end(worker, signal.SIGTERM)
        assert worker.process.returncode == 0, worker.text()
        assert took < 12 + END_SECONDS
    assert list(shop.runs("end")) == [running.id]
    assert running.state == "SUCCESS"
    assert (depth(app, "patient"), depth(app, "patient.dead")) == (3, 0)
    assert not any(message.delivery_info["redelivered"] for message in take(app, "patient"))


@pytest.mark.version
@pytest.mark.parametrize("pool", [*POOLS, "asyncio"])
def test_what_does_not_finish_goes_back(shop: Ledger, pool: str) -> None:
    """At the deadline a worker ends with 0, and every task that it had is in the queue, once."""
    app = shop.app()
    with shop.worker("-Q", "default", "-P", pool, "-c", "2", "--prefetch-multiplier", "3") as worker:
        sent = {app.send_task("shop.nap", (60,)).id for _ in range(9)}
        wait_until(lambda: len(shop.runs("begin")) == 2, SECONDS, "two tasks to start")
        took = seconds_to_end(worker, signal.SIGTERM)
        assert worker.process.returncode == 0, worker.text()
        assert took < 2 + END_SECONDS, worker.text()
    messages = take(app, "default")
    assert {message.headers["id"] for message in messages} == sent
    assert len(messages) == 9
    assert len(shop.runs("begin")) == 2


@pytest.mark.version
def test_going_back_at_the_deadline_counts_as_no_failure(shop: Ledger, broker_version: tuple[int, ...]) -> None:
    """From RabbitMQ 4.3 on, a message returned at the deadline does not increase `x-delivery-count`."""
    app = shop.app()
    app.send_task("shop.nap", (60,))
    for number in range(2):
        with shop.worker("-Q", "default", "-P", "threads", "-c", "1") as worker:
            wait_until(lambda number=number: starts(shop) > number, SECONDS, "a start")
            seconds_to_end(worker, signal.SIGTERM)
    (message,) = take(app, "default")
    counted = message.headers.get("x-delivery-count", 0)
    assert counted == (0 if broker_version >= (4, 3) else 2)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("how", SUDDEN)
def test_a_second_signal_ends_at_once(shop: Ledger, pool: str, how: str) -> None:
    """SIGQUIT, Ctrl-C twice, or a remapped SIGTERM waits for nothing and loses nothing; the exit code is 1."""
    app = shop.app()
    if how == "remapped-term":
        shop.variables["REMAP_SIGTERM"] = "SIGQUIT"
    with shop.worker("-Q", "patient", "-P", pool, "-c", "2", "--prefetch-multiplier", "2") as worker:
        sent = {app.send_task("shop.nap", (60,), queue="patient").id for _ in range(4)}
        wait_until(lambda: len(shop.runs("begin")) == 2, SECONDS, "two tasks to start")
        took = seconds_to_end(worker, *SUDDEN[how])
        assert took < END_SECONDS, worker.text()
        assert worker.process.returncode == 1
    assert {message.headers["id"] for message in take(app, "patient")} == sent


@pytest.mark.parametrize("pool", POOLS)
def test_a_remapped_sigterm_is_a_soft_shutdown(shop: Ledger, pool: str) -> None:
    """REMAP_SIGTERM=SIGQUIT: what ends within worker_soft_shutdown_timeout is done, the rest goes back."""
    shop.variables["REMAP_SIGTERM"] = "SIGQUIT"
    with (shop.folder / "shop.py").open("a") as file:
        file.write("app.conf.worker_soft_shutdown_timeout = 6\n")
    app = shop.app()
    with shop.worker("-Q", "patient", "-P", pool, "-c", "2", "--prefetch-multiplier", "2") as worker:
        short, *others = (app.send_task("shop.nap", (n,), queue="patient").id for n in (3, 60, 60, 60))
        wait_until(lambda: len(shop.runs("begin")) == 2, SECONDS, "two tasks to start")
        took = seconds_to_end(worker, signal.SIGTERM)
        assert took < 6 + END_SECONDS, worker.text()
        assert worker.process.returncode == 1, worker.text()
    assert list(shop.runs("end")) == [short]
    assert {message.headers["id"] for message in take(app, "patient")} == set(others)
    assert depth(app, "patient.dead") == 0


@pytest.mark.parametrize("pool", [*POOLS, "solo"])
def test_an_idle_worker_ends_at_once(shop: Ledger, pool: str) -> None:
    """Nothing runs: SIGTERM ends it within a few seconds, with 0."""
    with shop.worker("-Q", "patient", "-P", pool, "-c", "1") as worker:
        assert seconds_to_end(worker, signal.SIGTERM) < END_SECONDS
        assert worker.process.returncode == 0, worker.text()


def test_a_solo_worker_ends_in_time_too(shop: Ledger) -> None:
    """A pool that runs tasks in the worker's own loop is ended a few seconds after the deadline, with 0."""
    app = shop.app()
    with shop.worker("-Q", "default", "-P", "solo", "-c", "1") as worker:
        app.send_task("shop.nap", (60,))
        wait_until(lambda: shop.runs("begin"), SECONDS, "the task to start")
        assert seconds_to_end(worker, signal.SIGTERM) < 2 + 5 + END_SECONDS
        assert worker.process.returncode == 0
    wait_until(lambda: depth(app, "default") == 1, SECONDS, "the task to be back")
