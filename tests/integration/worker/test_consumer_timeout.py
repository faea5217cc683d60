"""Tasks that run longer than the broker lets a consumer hold a message."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from apps import depth
from ledger import Ledger, ledger
from rabbitmqctl import port_of, rabbitmqctl
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app.local_broker import FoundBroker

TIME_OUT_SECONDS = 3
RUN_SECONDS = 14
"""Long enough that the broker takes the message away more than once, looking every second."""

LATER = 10
SECONDS = 60.0
CONSUMER_HAS_ITS_OWN = (4, 3)
"""From this version on a consumer of a quorum queue says how long; before the whole broker has one time-out."""

SHORT_WISH = f"""
from broker_app.worker import consumers

consumers.holding_seconds = lambda *_: {TIME_OUT_SECONDS}
"""
"""Makes a worker ask for less than its tasks take, as one whose `longest_run_seconds` is wrong."""


@contextmanager
def brokers_time_out(broker: FoundBroker, milliseconds: int, look_milliseconds: int) -> Iterator[None]:
    """Set the time-out of the whole broker for the length of a block, and how often a channel looks."""

    def set_to(time_out: int, look: int) -> None:
        values = {"consumer_timeout": time_out, "channel_tick_interval": look}
        code = ", ".join(f"application:set_env(rabbit, {name}, {value})" for name, value in values.items())
        rabbitmqctl(port_of(broker.url), "eval", f"{code}.")

    try:
        set_to(milliseconds, look_milliseconds)
        yield
    finally:
        set_to(1_800_000, 60_000)  # RabbitMQ's defaults


@pytest.fixture
def shop(
    tmp_path: Path, fresh_vhost_url: str, broker: FoundBroker, broker_version: tuple[int, ...]
) -> Iterator[Ledger]:
    """Return a project whose workers may hold a message for no longer than `TIME_OUT_SECONDS`."""
    with (
        ledger(tmp_path, fresh_vhost_url) as made,
        brokers_time_out(broker, TIME_OUT_SECONDS * 1_000, 1_000),
    ):
        if broker_version >= CONSUMER_HAS_ITS_OWN:
            with (tmp_path / "shop.py").open("a") as project:
                project.write(SHORT_WISH)
        yield made


@pytest.mark.version
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_that_outlives_the_time_out_is_not_started_beside_itself(shop: Ledger, pool: str) -> None:
    """The broker redelivers a message that is held too long: the node holds it again, and still runs others."""
    app = shop.app()
    with shop.worker("-P", pool, "-c", "2") as worker:
        long = app.send_task("shop.nap", (RUN_SECONDS,)).id
        wait_until(lambda: long in shop.runs("begin"), SECONDS, "the task to begin")
        wait_until(lambda: "came again and still runs here" in worker.text(), SECONDS, "its message to come again")
        other = app.send_task("shop.nap", (0.1,)).id
        wait_until(lambda: {long, other} <= shop.runs("end").keys(), SECONDS, "both to end")
        wait_until(lambda: app.AsyncResult(long).state == "SUCCESS", SECONDS, "its result")
        later = {app.send_task("shop.nap", (0,)).id for _ in range(LATER)}
        wait_until(lambda: later <= shop.runs("end").keys(), SECONDS, "later ones to end")
        wait_until(lambda: depth(app, "default") == 0, SECONDS, "the message that was taken away last")
        assert worker.process.poll() is None, worker.text()
        worker.stop()
        assert "having no callbacks" not in worker.text(), "delivered to a cancelled consumer"
    assert {len(found) for found in shop.runs("begin").values()} == {1}
    assert depth(app, "default") == 0
    assert depth(app, "default.dead") == 0
