"""`apply_async(countdown=600)`, one by one, each confirmed."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.apps import make_ours, make_plain
from benchmarks.depth import purge, wait_for_depth
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.one_by_one import Pace, pace
from benchmarks.probe import send
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, declare_native, declare_ours, native_level
from broker_app.queues import split_delay

if TYPE_CHECKING:
    from celery import Celery

    from benchmarks.bench import Bench

OURS, NATIVE = "broker-app", "Celery, native delay, `confirm_publish`"
COUNTDOWN_SECONDS = 600
GOAL = 1.2


def run(bench: Bench) -> Report:
    """Publish countdown tasks in turn with broker-app and with plain Celery on quorum queues."""
    count, rounds = bench.pick((1_500, 7), (300, 3))
    with ExitStack() as stack:
        urls = {name: stack.enter_context(bench.virtual_host()) for name in (OURS, NATIVE)}
        declare_ours(urls[OURS], [COUNTDOWN_SECONDS])
        declare_native(urls[NATIVE])
        lane = split_delay(COUNTDOWN_SECONDS).lanes[0].name
        measure = {
            OURS: partial(_pace, make_ours(urls[OURS]), urls[OURS], lane),
            NATIVE: partial(_pace, make_plain(urls[NATIVE]), urls[NATIVE], native_level(COUNTDOWN_SECONDS)),
        }
        for one in measure.values():
            one(count // 10)
        paces = alternate({name: partial(one, count) for name, one in measure.items()}, rounds, bench.say)
    rates = {name: [one.per_second for one in paces[name]] for name in paces}
    work = {name: [one.cpu_microseconds for one in paces[name]] for name in paces}
    return Report(
        title=f"`apply_async(countdown={COUNTDOWN_SECONDS})`, confirmed, {count:,} a round, {rounds} rounds",
        columns=("contender", "tasks a second", "CPU for each, µs"),
        rows=tuple(
            (name, shown_spread(Spread.of(rates[name])), shown_spread(Spread.of(work[name]))) for name in rates
        ),
        goals=(Goal("broker-app against native", ratio(rates[OURS], rates[NATIVE]), GOAL),),
        notes=(
            "All tasks were seen in the first queue of their path, and nowhere else. CPU: of the producer's "
            "process."
        ),
        samples=rates | {f"{name}: CPU µs": work[name] for name in work},
    )


def _pace(app: Celery, url: str, room: str, count: int) -> Pace:
    measured = pace(partial(send, app, "delayed", queue=QUEUE, countdown=COUNTDOWN_SECONDS), count)
    wait_for_depth(url, room, count)
    purge(url, room)
    return measured
