"""Tasks that wait 50 ms: a tuned fleet, Celery as it comes, dramatiq and taskiq, on the same processors."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.fleets import Drain, Fleet, celery, drain, dramatiq_fleet, ours, taskiq_fleet
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate

if TYPE_CHECKING:
    from benchmarks.bench import Bench

TASK_SECONDS = 0.05
NODES, SLOTS = 2, 64
"""The tuned fleet: one node for each processor, and the slots that `broker-app tune` recommends for one here."""

PREFETCH = ("--prefetch-multiplier", "2")
"""As docs/how-to/tuning.md has it for tasks that are over soon; as many as dramatiq takes for each thread."""

EVEN_SLOTS = 16
TUNED, EVEN = f"broker-app, tuned: 2 nodes, threads -c {SLOTS}", f"broker-app, 1 node, threads -c {EVEN_SLOTS}"
EVEN_SHIPPED = f"{EVEN}, prefetch 1"
DEFAULTS = "Celery, `celery worker` with its defaults"
DRAMATIQ, TASKIQ = (
    "dramatiq, its defaults: 2 processes, 8 threads",
    "taskiq, its defaults: 2 processes, 10 at once",
)
DRAMATIQ_SAME = f"dramatiq, 2 processes, {SLOTS} threads"
TASKIQ_SAME = f"taskiq, 2 processes, {SLOTS} at once"
GOAL_DEFAULTS, GOAL_AHEAD, GOAL_IDEAL = 15.0, 1.0, 0.95
SECONDS = 15
"""About so long each fleet is kept busy, if it were ideal."""


def run(bench: Bench) -> Report:
    """Fill a quorum queue for each, as long as its slots need; take the pace, in turn."""
    seconds, rounds = bench.pick((SECONDS, 3), (8, 1))
    fleets: dict[str, tuple[Fleet, int]] = {
        TUNED: (ours(NODES, "-P", "threads", "-c", str(SLOTS), *PREFETCH), NODES * SLOTS),
        EVEN: (ours(1, "-P", "threads", "-c", str(EVEN_SLOTS), *PREFETCH), EVEN_SLOTS),
        EVEN_SHIPPED: (ours(1, "-P", "threads", "-c", str(EVEN_SLOTS)), EVEN_SLOTS),
        DEFAULTS: (celery("plain", 1), 2),
        DRAMATIQ: (dramatiq_fleet("--threads", "8"), 16),
        DRAMATIQ_SAME: (dramatiq_fleet("--threads", str(SLOTS)), NODES * SLOTS),
    }
    if find_spec("taskiq_aio_pika"):
        fleets |= {TASKIQ: (taskiq_fleet(), 20), TASKIQ_SAME: (taskiq_fleet(SLOTS), NODES * SLOTS)}
    measures = {
        name: partial(drain, bench, fleet, int(slots / TASK_SECONDS * seconds), TASK_SECONDS)
        for name, (fleet, slots) in fleets.items()
    }
    drains = alternate(measures, rounds, bench.say)
    rates = {name: [one.per_second for one in drains[name]] for name in drains}
    goals = [Goal("tuned, against Celery's defaults", ratio(rates[TUNED], rates[DEFAULTS]), GOAL_DEFAULTS)]
    goals += [
        Goal(f"tuned, against {name}", ratio(rates[TUNED], rates[name]), GOAL_AHEAD)
        for name in rates
        if name not in {TUNED, EVEN, EVEN_SHIPPED, DEFAULTS}
    ]
    ideal = [rate * TASK_SECONDS / EVEN_SLOTS for rate in rates[EVEN]]
    goals.append(Goal(f"share of the ideal at -c {EVEN_SLOTS}", Spread.of(ideal), GOAL_IDEAL))
    return Report(
        title=f"tasks that wait {TASK_SECONDS * 1000:.0f} ms, off a full quorum queue, {rounds} rounds",
        columns=("contender", "slots", "tasks a second", "of the ideal", "CPU for each, µs"),
        rows=tuple(_row(name, fleets[name][1], drains[name]) for name in drains),
        goals=tuple(goals),
        notes=(
            "Results are not kept. Ideal: slots / 50 ms. taskiq's tasks wait in its event loop, the others' block "
            "a thread or a process. broker-app's nodes have a prefetch of 2, where nothing else is said. Counted "
            "from when all consume. CPU: of the workers' processes."
        ),
        samples=rates,
    )


def _row(name: str, slots: int, drains: list[Drain]) -> tuple[str, ...]:
    rates = [one.per_second for one in drains]
    shares = [rate * TASK_SECONDS / slots for rate in rates]
    work = [one.cpu_microseconds for one in drains]
    return name, str(slots), *(shown_spread(Spread.of(values)) for values in (rates, shares, work))
