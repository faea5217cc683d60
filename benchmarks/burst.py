"""Many tasks due in the same second, against the same tasks without a delay."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.apps import make_ours
from benchmarks.depth import wait_for_depth
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.probe import send
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, declare_ours
from benchmarks.worker import running_worker

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from broker_app import BrokerApp

DELAYED, QUEUED = "due together", "queued beforehand"
GOAL = 1.3
SLOWEST_PUBLISHING = 250.0  # tasks a second; all must be published before they are due
_HEAD_START_SECONDS = 5.0
_DRAIN_SECONDS = 180.0


def run(bench: Bench) -> Report:
    """Let tasks come due at one moment, or wait in their queue, and time a worker from there to the last start."""
    count, rounds = bench.pick((10_000, 3), (1_000, 2))
    with ExitStack() as stack:
        urls = {name: stack.enter_context(bench.virtual_host()) for name in (DELAYED, QUEUED)}
        for url in urls.values():
            declare_ours(url)
        apps = {name: make_ours(url) for name, url in urls.items()}
        slots = apps[DELAYED].settings.queues[QUEUE].fleet.concurrency
        seconds = alternate(
            {
                DELAYED: partial(_due_together, bench, apps[DELAYED], urls[DELAYED], slots, count),
                QUEUED: partial(_queued, bench, apps[QUEUED], urls[QUEUED], slots, count),
            },
            rounds,
            bench.say,
        )
    return Report(
        title=f"{count:,} tasks without work, until the last has started, {rounds} rounds",
        columns=("tasks", "seconds", "tasks a second"),
        rows=tuple(
            (name, shown_spread(Spread.of(values)), shown_spread(Spread.of([count / value for value in values])))
            for name, values in seconds.items()
        ),
        goals=(
            Goal("due together against queued", ratio(seconds[DELAYED], seconds[QUEUED]), GOAL, is_ceiling=True),
        ),
        notes=(
            f"One broker-app worker with {slots} threads. Due together: `apply_async(eta=…)`, from when "
            "all are due. Queued: from the first start of a worker that was started on the full queue."
        ),
        samples=seconds,
    )


def _due_together(bench: Bench, app: BrokerApp, url: str, slots: int, count: int) -> float:
    with bench.record() as record, running_worker("ours", url, record, QUEUE, slots):
        due = datetime.now(UTC) + timedelta(seconds=_HEAD_START_SECONDS + count / SLOWEST_PUBLISHING)
        for _ in range(count):
            send(app, "burst", due.timestamp(), queue=QUEUE, eta=due)
        left = due.timestamp() - time.time()
        assert left > 1, f"publishing took too long: {left:.1f} s are left until all are due"
        starts = record.wait("burst", count, left + _DRAIN_SECONDS)
        assert len(starts) == count, "a task was doubled"
        earliest = min(start.waited_seconds for start in starts)
        assert earliest >= 0, f"a task started {-earliest:.3f} s before it was due"
        return max(start.started for start in starts) - due.timestamp()


def _queued(bench: Bench, app: BrokerApp, url: str, slots: int, count: int) -> float:
    for _ in range(count):
        send(app, "burst", queue=QUEUE)
    wait_for_depth(url, QUEUE, count)
    with bench.record() as record, running_worker("ours", url, record, QUEUE, slots):
        starts = [start.started for start in record.wait("burst", count, _DRAIN_SECONDS)]
        assert len(starts) == count, "a task was doubled"
        return max(starts) - min(starts)
