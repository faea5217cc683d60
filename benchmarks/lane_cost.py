"""The cost of empty delay lanes for the broker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kombu.connection import Connection
from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues

from benchmarks.figures import Spread, shown_spread
from benchmarks.growth import Growth, growth
from benchmarks.report import Report
from benchmarks.rounds import alternate
from benchmarks.topologies import declare_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench

OURS, NATIVE = "every lane of hours, minutes, seconds", "Celery's native levels"
LENGTHS_SECONDS = (
    *range(1, 60),
    *range(60, 3_600, 60),
    *range(3_600, 86_400, 3_600),
)
"""One delay for each lane below a day."""
NATIVE_LEVELS = 28
_KILOBYTE = 1e3


def run(bench: Bench) -> Report:
    """Declare empty lanes and native levels in turn, and see by how much the broker grew."""
    rounds = bench.pick(3, 1)
    counts = {OURS: len(LENGTHS_SECONDS), NATIVE: NATIVE_LEVELS}
    measures = {
        OURS: partial(_cost, bench, partial(declare_ours, delays_seconds=LENGTHS_SECONDS), counts[OURS]),
        NATIVE: partial(_cost, bench, _declare_levels, counts[NATIVE]),
    }
    costs = alternate(measures, rounds, bench.say)
    memory = {name: [one.memory / _KILOBYTE for one in values] for name, values in costs.items()}
    return Report(
        title=f"growth of the broker for each unused delay lane, {rounds} rounds",
        columns=("topology", "queues", "memory of each, kB"),
        rows=tuple((name, str(counts[name]), shown_spread(Spread.of(values))) for name, values in memory.items()),
        notes="Quorum queues with their bindings, on one node.",
        samples=memory,
    )


def _cost(bench: Bench, declare: Callable[[str], None], count: int) -> Growth:
    with bench.virtual_host() as url:
        declare_ours(url)
        return growth(bench.broker, partial(declare, url)).per(count)


def _declare_levels(url: str) -> None:
    with Connection(url) as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
