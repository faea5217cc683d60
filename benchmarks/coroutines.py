"""Tasks that wait 50 ms: one node with the pool asyncio, against one with threads, each at several ``-c``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.fleets import Drain, Fleet, coroutines, drain, ours
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate

if TYPE_CHECKING:
    from benchmarks.bench import Bench

TASK_SECONDS = 0.05
THREADS, COROUTINES = (32, 64, 128), (64, 128, 256, 1000)
"""Slots of each; the best of each kind are compared."""

PREFETCH = ("--prefetch-multiplier", "2")
GOAL_RATE, GOAL_CPU = 1.3, 0.7


def run(bench: Bench) -> Report:
    """Fill a quorum queue for each, and take the pace, in turn."""
    count, rounds = bench.pick((40_000, 3), (12_000, 1))
    fleets: dict[str, Fleet] = {
        f"threads -c {slots}": ours(1, "-P", "threads", "-c", str(slots), *PREFETCH) for slots in THREADS
    }
    fleets |= {f"asyncio -c {slots}": coroutines("-c", str(slots), *PREFETCH) for slots in COROUTINES}
    measures = {name: partial(drain, bench, fleet, count, TASK_SECONDS) for name, fleet in fleets.items()}
    drains = alternate(measures, rounds, bench.say)
    rates = {name: [one.per_second for one in drains[name]] for name in drains}
    work = {name: [one.cpu_microseconds for one in drains[name]] for name in drains}
    threads, best = (_best(rates, kind) for kind in ("threads", "asyncio"))
    return Report(
        title=f"tasks that wait {TASK_SECONDS * 1000:.0f} ms, one node, {count:,} a round, {rounds} rounds",
        columns=("contender", "tasks a second", "CPU for each, µs"),
        rows=tuple(_row(name, drains[name]) for name in drains),
        goals=(
            Goal(f"{best}, against {threads}", ratio(rates[best], rates[threads]), GOAL_RATE),
            Goal(f"{best}, by processor time", ratio(work[best], work[threads]), GOAL_CPU, is_ceiling=True),
        ),
        notes="Results are not kept; a prefetch of 2. CPU: of the worker's process.",
        samples=rates,
    )


def _best(rates: dict[str, list[float]], kind: str) -> str:
    return max((name for name in rates if name.startswith(kind)), key=lambda name: Spread.of(rates[name]).median)


def _row(name: str, drains: list[Drain]) -> tuple[str, ...]:
    rates, work = [one.per_second for one in drains], [one.cpu_microseconds for one in drains]
    return name, shown_spread(Spread.of(rates)), shown_spread(Spread.of(work))
