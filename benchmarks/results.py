"""Tasks that wait 50 ms and whose results are stored, against the same tasks without results."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.fleets import Fleet, drain, ours, storing
from benchmarks.report import Goal, Report
from benchmarks.result_stores import postgresql_url, redis_url
from benchmarks.rounds import alternate

if TYPE_CHECKING:
    from benchmarks.bench import Bench

TASK_SECONDS = 0.05
SLOTS = 32
OPTIONS = ("-P", "threads", "-c", str(SLOTS))
WITHOUT = "no results"
GOAL = 0.95


def run(bench: Bench) -> Report:
    """Fill a quorum queue for each store, and take the pace at which one node drains it, in turn."""
    seconds, rounds = bench.pick((15, 3), (5, 1))
    with ExitStack() as stack:
        redis, postgresql = stack.enter_context(redis_url()), stack.enter_context(postgresql_url())
        fleets: dict[str, Fleet] = {WITHOUT: ours(1, *OPTIONS), "SQLite": storing(None, 1, *OPTIONS)}
        fleets |= {
            name: storing(url, 1, *OPTIONS) for name, url in (("Redis", redis), ("PostgreSQL", postgresql)) if url
        }
        count = int(SLOTS / TASK_SECONDS * seconds)
        measures = {name: partial(drain, bench, one, count, TASK_SECONDS) for name, one in fleets.items()}
        drains = alternate(measures, rounds, bench.say)
    rates = {name: [one.per_second for one in drains[name]] for name in drains}
    work = {name: [one.cpu_microseconds for one in drains[name]] for name in drains}
    goals = [
        Goal(f"{name}, against none", ratio(rates[name], rates[WITHOUT]), GOAL)
        for name in rates
        if name != WITHOUT
    ]
    return Report(
        title=f"tasks that wait {TASK_SECONDS * 1000:.0f} ms, threads -c {SLOTS}, {rounds} rounds",
        columns=("results in", "tasks a second", "of the slots' ideal", "CPU for each, µs"),
        rows=tuple(
            (
                name,
                shown_spread(Spread.of(rates[name])),
                shown_spread(Spread.of([rate * TASK_SECONDS / SLOTS for rate in rates[name]])),
                shown_spread(Spread.of(work[name])),
            )
            for name in rates
        ),
        goals=tuple(goals),
        notes="Each store is on the same machine and as it is installed. CPU: of the worker, without the store's.",
        samples=rates,
    )
