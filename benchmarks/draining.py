"""No-op tasks a second that a fleet of two nodes takes off a full queue: ours, plain Celery, dramatiq."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.fleets import celery, drain, dramatiq_fleet, ours
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate

if TYPE_CHECKING:
    from benchmarks.bench import Bench

OURS, PLAIN, DRAMATIQ = "broker-app", "Celery, late acks", "dramatiq, 2 processes of 8 threads"
NODES = 2
POOLS = {"threads": 8, "prefork": 2}
"""Slots of each node, by pool."""

PREFETCHES = {"threads": (1, 2, 4), "prefork": (1, 4)}
"""Messages for each slot: what we ship; as many as dramatiq takes for each of its threads; what Celery ships."""

GOAL, GOAL_DRAMATIQ = 1.5, 1.0


def run(bench: Bench) -> Report:
    """Fill a quorum queue, start two nodes on it, and take the pace; in turn for each."""
    count, rounds = bench.pick((30_000, 3), (10_000, 1))
    kinds = [(pool, prefetch) for pool in POOLS for prefetch in PREFETCHES[pool]]
    fleets = {}
    for pool, prefetch in kinds:
        options = ("-P", pool, "-c", str(POOLS[pool]), "--prefetch-multiplier", str(prefetch))
        fleets[_name(OURS, pool, prefetch)] = ours(NODES, *options)
        fleets[_name(PLAIN, pool, prefetch)] = celery("careful", NODES, *options)
    fleets[DRAMATIQ] = dramatiq_fleet("--threads", "8")
    drains = alternate(
        {name: partial(drain, bench, one, count) for name, one in fleets.items()}, rounds, bench.say
    )
    rates = {name: [one.per_second for one in drains[name]] for name in drains}
    work = {name: [one.cpu_microseconds for one in drains[name]] for name in drains}
    goals = []
    for pool, prefetch in kinds:
        mine, plain = _name(OURS, pool, prefetch), _name(PLAIN, pool, prefetch)
        goals.append(Goal(f"{mine}, against plain Celery", ratio(rates[mine], rates[plain]), GOAL))
        goals.append(Goal(f"{mine}, by processor time", ratio(work[plain], work[mine]), GOAL))
    mine = _name(OURS, "threads", 2)
    goals.append(Goal(f"{mine}, against dramatiq", ratio(rates[mine], rates[DRAMATIQ]), GOAL_DRAMATIQ))
    goals.append(Goal(f"{mine}, by processor time", ratio(work[DRAMATIQ], work[mine]), GOAL_DRAMATIQ))
    return Report(
        title=f"no-op tasks off a full quorum queue, two nodes, {count:,} a round, {rounds} rounds",
        columns=("contender", "tasks a second", "CPU for each, µs"),
        rows=tuple(
            (name, shown_spread(Spread.of(rates[name])), shown_spread(Spread.of(work[name]))) for name in rates
        ),
        goals=tuple(goals),
        notes=(
            f"Two nodes each, {' and '.join(f'{pool} -c {slots}' for pool, slots in POOLS.items())}, late acks, "
            "no results; dramatiq as it comes, with its prefetch of 2 for each thread. Each task writes one line. "
            "Counted from when all consume. CPU: of the workers' processes."
        ),
        samples=rates | {f"{name}: CPU µs": work[name] for name in work},
    )


def _name(who: str, pool: str, prefetch: int) -> str:
    return f"{who}, {pool}, prefetch {prefetch}"
