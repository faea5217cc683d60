"""Waits of interactive tasks while a flood is queued: one shared worker, or a fleet for each queue."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.apps import make_careful, make_ours, make_plain
from benchmarks.depth import purge
from benchmarks.figures import Spread, percentile, ratio, shown_spread
from benchmarks.pipeline import probes, publish_many
from benchmarks.probe import send
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import OTHER_QUEUE, QUEUE, declare_ours, declare_plain, direct_route
from benchmarks.worker import running_worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from benchmarks.bench import Bench
    from benchmarks.record import Record, Start

OURS, PLAIN, CAREFUL = "broker-app, two fleets", "Celery, one worker", "Celery, one worker, late acks, prefetch 1"
ALONE = "broker-app, two fleets, nothing on `lopri`"
GOAL = 1.3
PACE_SECONDS = 0.05
_FLOOD_SECONDS = 240.0
_DRAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Flood:
    """The load on `lopri`: the number of jobs, and the I/O wait of each."""

    jobs: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.jobs:,} of {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Set:
    """One contender's app, virtual host and workers: slots by consumed queues."""

    app: Celery
    app_name: str
    url: str
    workers: Mapping[str, int]


def run(bench: Bench) -> Report:
    """Queue a flood on `lopri`, send to `default` meanwhile, and compare what the latter wait."""
    short_jobs, long_jobs, rounds = bench.pick((20_000, 200, 3), (4_000, 100, 1))
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}
    with ExitStack() as stack:
        sets = _sets({name: stack.enter_context(bench.virtual_host()) for name in (OURS, PLAIN, CAREFUL)})
        slots = "+".join(str(count) for count in sets[OURS].workers.values())
        for flood in (Flood(short_jobs, 0.05), Flood(long_jobs, 2.0)):
            measures = {name: partial(_round, bench, one, flood) for name, one in sets.items()}
            measures[ALONE] = partial(_alone, bench, sets[OURS], flood)
            waits = alternate(measures, rounds, bench.say)
            for name, values in waits.items():
                p50, p99 = ([percentile(one, percent) * 1000 for one in values] for percent in (50, 99))
                counted = sum(map(len, values))
                cells = (shown_spread(Spread.of(p50)), shown_spread(Spread.of(p99)), str(counted))
                rows.append((name, str(flood), *cells))
                samples |= {f"{name}: {flood}: p50 ms": p50, f"{name}: {flood}: p99 ms": p99}
            p99s = (samples[f"{name}: {flood}: p99 ms"] for name in (OURS, ALONE))
            goals.append(Goal(f"p99 behind {flood}, against alone", ratio(*p99s), GOAL, is_ceiling=True))
    return Report(
        title="time waited on `default` while a flood is queued on `lopri`",
        columns=("contender", "flood", "p50, ms", "p99, ms", "tasks counted"),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=(
            f"{slots} threads for the fleets, as many in all for the one worker; {1 / PACE_SECONDS:.0f} tasks a "
            f"second to `default`, counted while jobs waited on `lopri`; {rounds} rounds. The shorter the jobs, "
            "the sooner a slot of a shared worker is free for the next task of either queue."
        ),
        samples=samples,
    )


def _sets(urls: Mapping[str, str]) -> dict[str, Set]:
    declare_ours(urls[OURS])
    declare_plain(urls[PLAIN])
    declare_plain(urls[CAREFUL])
    ours = make_ours(urls[OURS])
    fleets = {name: ours.settings.queues[name].fleet.concurrency for name in (QUEUE, OTHER_QUEUE)}
    shared = {f"{QUEUE},{OTHER_QUEUE}": sum(fleets.values())}
    return {
        OURS: Set(ours, "ours", urls[OURS], fleets),
        PLAIN: Set(make_plain(urls[PLAIN]), "plain", urls[PLAIN], shared),
        CAREFUL: Set(make_careful(urls[CAREFUL]), "careful", urls[CAREFUL], shared),
    }


class _Waits(list[float]):
    """The seconds that tasks waited, short to print."""

    def __str__(self) -> str:
        return f"p50 {percentile(self, 50):.3f} s, p99 {percentile(self, 99):.3f} s of {len(self)}"


def _round(bench: Bench, contender: Set, flood: Flood) -> _Waits:
    """Start the workers, queue the flood, send at a steady pace until it has started, and return the waits.

    Tasks requeued by the last round's worker as it ended are removed first.
    """
    for queue in (QUEUE, OTHER_QUEUE):
        purge(contender.url, queue)
    with ExitStack() as stack:
        record = stack.enter_context(bench.record())
        for queues, slots in contender.workers.items():
            stack.enter_context(running_worker(contender.app_name, contender.url, record, queues, slots))
        make = probes(contender.app, OTHER_QUEUE, sleep_seconds=flood.seconds)
        publish_many(contender.url, flood.jobs, make, lambda: direct_route(OTHER_QUEUE))
        sent = _send_until_started(contender.app, record, flood.jobs)
        waited = record.wait(QUEUE, sent, _DRAIN_SECONDS)
        starts = record.starts(OTHER_QUEUE)
        assert (len(waited), len(starts)) == (sent, flood.jobs), "a task was doubled"
    return _Waits(_during(waited, max(start.started for start in starts)))


def _alone(bench: Bench, contender: Set, flood: Flood) -> _Waits:
    """Send at the same pace for as long as the flood would take, with the same workers, and return the waits."""
    with ExitStack() as stack:
        record = stack.enter_context(bench.record())
        for queues, slots in contender.workers.items():
            stack.enter_context(running_worker(contender.app_name, contender.url, record, queues, slots))
        seconds = flood.jobs * flood.seconds / contender.workers[OTHER_QUEUE]
        started, sent = time.monotonic(), int(seconds / PACE_SECONDS)
        for number in range(1, sent + 1):
            send(contender.app, QUEUE, queue=QUEUE)
            time.sleep(max(0.0, started + number * PACE_SECONDS - time.monotonic()))
        waited = record.wait(QUEUE, sent, _DRAIN_SECONDS)
    return _Waits(start.waited_seconds for start in waited)


def _during(waited: list[Start], end: float) -> list[float]:
    """Return what those waited that were sent before ``end``, when the last job of the flood began."""
    return [start.waited_seconds for start in waited if start.since < end]


def _send_until_started(app: Celery, record: Record, jobs: int) -> int:
    """Send to the interactive queue at a steady pace until all jobs of the flood have started; return how many."""
    started, sent = time.monotonic(), 0
    while len(record.starts(OTHER_QUEUE)) < jobs:
        if time.monotonic() > started + _FLOOD_SECONDS:
            raise TimeoutError(f"expected {jobs} jobs started within {_FLOOD_SECONDS} s")
        send(app, QUEUE, queue=QUEUE)
        sent += 1
        time.sleep(max(0.0, started + sent * PACE_SECONDS - time.monotonic()))
    return sent
