"""`prefetch = "auto"`: short tasks are held in advance, and none waits behind a long one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from apps import depth
from ledger import Ledger, ledger
from waiting import wait_until

from broker_app.broker.access import connect
from broker_app.broker.declare import queue_state
from broker_app.broker.pauses import pause_queue, resume_queue
from broker_app.metrics.catalogue import PREFETCH_LIMIT
from broker_app.metrics.reader import MetricsReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp

SECONDS = 60.0
SLOTS = 4
SHORT_SECONDS = 0.05
LONG_SECONDS = 600
FEW = 100
SETTINGS = """
[queues.default]
prefetch = "auto"
[queues.lopri]
"""

HASTE = """
import broker_app.worker.prefetch_rule as rule

rule.LEAST_ENDS, rule.QUIET_PERIODS = 1, 100_000
rule.AHEAD_SECONDS, rule.LONGEST_WAIT_SECONDS, rule.LONGEST_PAUSE_SECONDS = 5.0, 2.0, 2.0
"""
"""Lets a worker hold more however slow the machine is, until a message waits for two seconds."""

pytestmark = pytest.mark.version


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str) -> Iterator[Ledger]:
    """Return a project on a virtual host of its own."""
    with ledger(tmp_path, fresh_vhost_url, SETTINGS) as made:
        with (tmp_path / "shop.py").open("a") as module:
            module.write(HASTE)
        yield made


def options(pool: str, queue: str = "default") -> tuple[str, ...]:
    """Return the options of a worker."""
    return ("-Q", queue, "-P", pool, "-c", str(SLOTS))


def naps(app: BrokerApp, count: int, seconds: float, queue: str = "default") -> set[str]:
    """Publish naps, and return their ids."""
    ids = {str(uuid4()) for _ in range(count)}
    calls = (app.signature("shop.nap", (seconds,), task_id=one, queue=queue) for one in ids)
    assert app.publish_many(calls).run().accepted == count
    return ids


def consumers(app: BrokerApp, queue: str = "default") -> int:
    """Return the number of consumers of a queue."""
    with connect(app) as connection:
        state = queue_state(connection, queue)
    return state.consumers if state else 0


def limits(shop: Ledger) -> list[float]:
    """Return how many messages each node may hold, by the metrics."""
    live = MetricsReader(shop.folder / "state" / "metrics" / "shop").read().live
    return sorted(values[0] for series, values in live.items() if series.metric is PREFETCH_LIMIT)


def keep_busy(app: BrokerApp, least: int) -> set[str]:
    """Publish short tasks until the queue has so many consumers; a worker that holds more than its slots has two.

    Returns:
        The tasks' ids.
    """
    ids: set[str] = set()

    def have_come() -> bool:
        if (depth(app, "default") or 0) < FEW:
            ids.update(naps(app, FEW, SHORT_SECONDS))
        return consumers(app) >= least

    wait_until(have_come, SECONDS, f"{least} consumers")
    return ids


def test_no_task_waits_in_a_node_while_another_is_idle(shop: Ledger) -> None:
    """Long tasks that come while both nodes hold more than their slots all run at once; later ones stay queued.

    A message that waits behind a long task is returned, and a node whose slots are taken gets no more. The metrics
    show both.
    """
    app = shop.app()
    with shop.worker(*options("threads"), name="one"), shop.worker(*options("gevent"), name="two"):
        short = keep_busy(app, 4)
        wait_until(lambda: limits(shop) == [4 * SLOTS, 4 * SLOTS], SECONDS, "both nodes to hold more")
        wait_until(lambda: shop.runs("end").keys() >= short, SECONDS, "the short tasks to end")
        long = naps(app, 2 * SLOTS, LONG_SECONDS)
        wait_until(lambda: shop.runs("begin").keys() >= long, SECONDS, "the long tasks to begin")
        waiting = naps(app, 3, SHORT_SECONDS)
        wait_until(lambda: limits(shop) == [SLOTS, SLOTS], SECONDS, "both nodes to hold one for each slot")
        wait_until(lambda: depth(app, "default") == len(waiting), SECONDS, "the queue to hold the others")
        begun = shop.runs("begin")
    assert begun.keys() == short | long
    assert all(len(runs) == 1 for runs in begun.values())


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_nothing_is_lost_or_doubled_while_the_prefetch_changes(shop: Ledger, pool: str) -> None:
    """A pause, long tasks between short ones, and the end of a worker come while it holds more than its slots."""
    app = shop.app()
    with shop.worker(*options(pool)) as worker:
        ids = keep_busy(app, 2)
        pause_queue(app, "default")
        wait_until(lambda: consumers(app) == 0, SECONDS, "the pause")
        resume_queue(app, "default")
        ids |= keep_busy(app, 2) | naps(app, SLOTS, 3) | naps(app, FEW, SHORT_SECONDS)
        wait_until(lambda: shop.runs("end").keys() >= ids, SECONDS, "all to end")
        ids |= keep_busy(app, 2)
        worker.stop()
    begun, ended = shop.runs("begin"), shop.runs("end")
    wait_until(lambda: depth(app, "default") == len(ids) - len(ended), SECONDS, "the queue to hold the rest")
    assert begun.keys() == ended.keys() <= ids
    assert all(len(runs) == 1 for runs in (*begun.values(), *ended.values()))


def test_a_number_stays_exact(shop: Ledger) -> None:
    """A worker with a prefetch of its own never holds more, nor does one whose queue has the default."""
    app = shop.app()
    ids = naps(app, 2 * FEW, SHORT_SECONDS) | naps(app, 2 * FEW, SHORT_SECONDS, "lopri")
    number = (*options("threads"), "--prefetch-multiplier", "1")
    with shop.worker(*number, name="one"), shop.worker(*options("threads", "lopri"), name="two"):
        found: set[int] = set()

        def have_ended() -> bool:
            found.update((consumers(app), consumers(app, "lopri")))
            return shop.runs("end").keys() >= ids

        wait_until(have_ended, SECONDS, "all to end")
    assert found <= {0, 1}
