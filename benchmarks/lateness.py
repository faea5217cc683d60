"""Lateness of delayed tasks."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.apps import make_ours, make_plain
from benchmarks.figures import Spread, percentile, ratio, shown_spread
from benchmarks.probe import send
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, declare_native, declare_ours
from benchmarks.worker import running_worker

if TYPE_CHECKING:
    from celery import Celery

    from benchmarks.bench import Bench

OURS, NATIVE = "broker-app", "Celery, native delay"
TASKS_A_SECOND = 100
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
SEED = 20_240_229
"""Both contenders, and every run, wait the same delays."""
GOAL_MS = 150.0
_LATEST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Lateness:
    """Of one round, in milliseconds."""

    p50: float
    p99: float
    longest: float


def run(bench: Bench) -> Report:
    """Publish at a steady pace with mixed delays, in turn with broker-app and plain Celery."""
    seconds, rounds = bench.pick((60, 2), (10, 1))
    chooser = random.Random(SEED)  # noqa: S311 - no secret
    delays = [
        round(chooser.uniform(SHORTEST_SECONDS, LONGEST_SECONDS), 3) for _ in range(seconds * TASKS_A_SECOND)
    ]
    with ExitStack() as stack:
        urls = {name: stack.enter_context(bench.virtual_host()) for name in (OURS, NATIVE)}
        declare_ours(urls[OURS], delays)
        declare_native(urls[NATIVE])
        apps = {OURS: (make_ours(urls[OURS]), "ours"), NATIVE: (make_plain(urls[NATIVE]), "plain")}
        slots = apps[OURS][0].settings.queues[QUEUE].fleet.concurrency
        late = alternate(
            {name: partial(_round, bench, *apps[name], urls[name], slots, delays) for name in apps},
            rounds,
            bench.say,
        )
    p50, p99, longest = (
        {name: [getattr(one, field) for one in late[name]] for name in late} for field in ("p50", "p99", "longest")
    )
    return Report(
        title=f"lateness at {TASKS_A_SECOND} tasks a second for {seconds} s, "
        f"delays of {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} s with fractions, {rounds} rounds",
        columns=("contender", "p50, ms", "p99, ms", "latest, ms"),
        rows=tuple(
            (name, *(shown_spread(Spread.of(values[name])) for values in (p50, p99, longest))) for name in late
        ),
        goals=(
            Goal("p99 with broker-app", Spread.of(p99[OURS]), GOAL_MS, is_ceiling=True, unit=" ms"),
            Goal("p99, broker-app against native", ratio(p99[OURS], p99[NATIVE]), 1.0, is_ceiling=True),
        ),
        notes=f"One worker with {slots} threads each; all {len(delays):,} tasks ran, each once.",
        samples={f"{name}: p50 ms": p50[name] for name in p50} | {f"{name}: p99 ms": p99[name] for name in p99},
    )


def _round(bench: Bench, app: Celery, app_name: str, url: str, slots: int, delays: list[float]) -> Lateness:
    with bench.record() as record, running_worker(app_name, url, record, QUEUE, slots):
        started = time.monotonic()
        for number, delay in enumerate(delays, 1):
            send(app, "late", time.time() + delay, queue=QUEUE, countdown=delay)
            time.sleep(max(0.0, started + number / TASKS_A_SECOND - time.monotonic()))
        bench.say(f"published in {time.monotonic() - started:.1f} s")
        starts = record.wait("late", len(delays), LONGEST_SECONDS + _LATEST_SECONDS)
        assert len(starts) == len(delays), "a task was doubled"
    late = [start.waited_seconds * 1000 for start in starts]
    return Lateness(percentile(late, 50), percentile(late, 99), max(late))
