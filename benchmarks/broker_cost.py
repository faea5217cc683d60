"""What a scheduled message costs the broker: memory and disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.depth import wait_for_depth
from benchmarks.figures import Spread, shown_spread
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
from queues import split_delay

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.broker import Broker

OURS, NATIVE = "delay lanes", "Celery's native levels"
DELAY_SECONDS = 3_600
PAYLOAD_BYTES = 300
_SETTLE_SECONDS = 120.0
_QUIET_SECONDS = 12.0  # longer than two statistics intervals of RabbitMQ (5 s)
_QUIET_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes for each message; None where we cannot look at the disk."""

    memory: float
    disk: float | None


def run(bench: Bench) -> Report:
    """Lay messages into a waiting room, in turn lanes and native levels, and see by how much the broker grew."""
    count, rounds = bench.pick((100_000, 3), (5_000, 1))
    route = native_route(DELAY_SECONDS)
    level = native_level(DELAY_SECONDS)
    # Entered at its own level a message is stored as if it had come from the top, only sooner: what is
    # measured here is the store, and what the way to it costs is measured by delay_publishing.
    measures = {
        OURS: partial(
            _cost, bench, lambda url: declare_ours(url, [DELAY_SECONDS]), lane_route(DELAY_SECONDS), _lane(), count
        ),
        NATIVE: partial(_cost, bench, declare_native, Route(level, route.key), level, count),
    }
    costs = alternate(measures, rounds, bench.say)
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
                shown_spread(Spread.of(disk[name])) if disk[name] else "not seen",
            )
            for name in costs
        ),
        notes="Memory: `mem_used` of the node. Disk: blocks of its data folder, write-ahead log included.",
        samples={f"{name}: memory bytes": memory[name] for name in memory}
        | {f"{name}: disk bytes": disk[name] for name in disk},
    )


def _lane() -> str:
    return split_delay(DELAY_SECONDS).lanes[0].name


def _cost(bench: Bench, declare: Callable[[str], None], route: Route, room: str, count: int) -> Cost:
    broker = bench.broker
    with bench.virtual_host() as url:
        declare(url)
        memory, disk = _settled(broker)
        publish_many(url, count, payload(PAYLOAD_BYTES), lambda: route)
        wait_for_depth(url, room, count)
        memory_after, disk_after = _settled(broker)
    return Cost(
        (memory_after - memory) / count,
        None if disk is None or disk_after is None else (disk_after - disk) / count,
    )


def _settled(broker: Broker) -> tuple[int, int | None]:
    """Return memory and disk in bytes once the memory has stopped changing, or at a bound."""
    give_up = time.monotonic() + _SETTLE_SECONDS
    memory, before = broker.management.memory_bytes(), 0
    while abs(memory - before) > _QUIET_SHARE * memory and time.monotonic() < give_up:
        time.sleep(_QUIET_SECONDS)
        memory, before = broker.management.memory_bytes(), memory
    return memory, broker.disk_bytes() if broker.disk_bytes else None
