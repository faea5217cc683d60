"""The cost of a scheduled message for the broker: memory and disk."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.depth import wait_for_depth
from benchmarks.figures import Spread, shown_spread
from benchmarks.growth import Growth, growth
from benchmarks.pipeline import payload, publish_many
from benchmarks.report import Report
from benchmarks.rounds import alternate
from benchmarks.topologies import (
    Route,
    declare_native,
    declare_ours,
    lane_route,
    native_level,
    native_route,
)
from broker_app.queues import split_delay

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench

OURS, NATIVE = "delay lanes", "Celery's native levels"
DELAY_SECONDS = 3_600
PAYLOAD_BYTES = 300


def run(bench: Bench) -> Report:
    """Publish messages to delay lanes and native levels in turn, and measure the broker's growth."""
    count, rounds = bench.pick((100_000, 3), (5_000, 1))
    lane, level = split_delay(DELAY_SECONDS).lanes[0].name, native_level(DELAY_SECONDS)
    # Entered at its own level a message is stored as if it had come from the top, only sooner: what is
    # this measures the store; delay_publishing measures the cost of the way to it.
    native = Route(level, native_route(DELAY_SECONDS).key)
    measures = {
        OURS: partial(_cost, bench, partial(declare_ours, delays_seconds=[DELAY_SECONDS]), lane, count),
        NATIVE: partial(_cost, bench, declare_native, level, count),
    }
    routes = {OURS: lane_route(DELAY_SECONDS), NATIVE: native}
    costs = alternate({name: partial(one, routes[name]) for name, one in measures.items()}, rounds, bench.say)
    memory = {name: [one.memory for one in costs[name]] for name in costs}
    disk = {name: [one.disk for one in costs[name] if one.disk is not None] for name in costs}
    return Report(
        title=f"growth of the broker for each of {count:,} scheduled messages of {PAYLOAD_BYTES} bytes, "
        f"{rounds} rounds",
        columns=("topology", "memory, bytes", "disk, bytes"),
        rows=tuple(
            (
                name,
                shown_spread(Spread.of(memory[name])),
                shown_spread(Spread.of(values)) if values else "not seen",
            )
            for name, values in disk.items()
        ),
        notes=(
            "Memory: `mem_used` of the node, which varies by some MB, so by some tens of bytes a message. Disk: "
            "blocks of its data folder, write-ahead log included."
        ),
        samples={f"{name}: memory bytes": memory[name] for name in memory}
        | {f"{name}: disk bytes": disk[name] for name in disk},
    )


def _cost(bench: Bench, declare: Callable[[str], None], room: str, count: int, route: Route) -> Growth:
    with bench.virtual_host() as url:
        declare(url)

        def lay() -> None:
            publish_many(url, count, payload(PAYLOAD_BYTES), lambda: route)
            wait_for_depth(url, room, count)

        return growth(bench.broker, lay).per(count)
