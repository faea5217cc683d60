"""Limits of a node set by the user, and the bottleneck of a pool, derived from its measurements."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.tuning.measurement import Measurement

BUSY = 0.9
"""Cores, hosts and slots count as fully busy from this share on."""

ONE_CORE = 0.8
"""A process that uses this many cores counts as limited by its interpreter lock or its only thread: threads that
compete for the lock never reach 1.0."""

STRETCH = 1.25
"""If run times grow by this factor while CPU is left, the services that tasks call count as saturated."""

_SINGLE = frozenset({"threads", "gevent", "solo"})
"""Pools whose tasks share one interpreter."""


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Resource limits of one node.

    Attributes:
        memory_bytes: Memory of all its processes; None for no limit.
        connections: Maximum slots, as each may hold one connection to a downstream service; None for no limit.
        latency_seconds: The p95 from publishing to completion, at `LOAD_SHARE` of its throughput; None for no
            limit.
    """

    memory_bytes: int | None = None
    connections: int | None = None
    latency_seconds: float | None = None

    def broken_by(self, point: Measurement) -> str:
        """Return the limits that a point exceeds, as text; empty if it keeps them all."""
        broken = []
        if self.memory_bytes is not None and point.usage.memory_bytes > self.memory_bytes:
            broken.append("memory")
        if self.connections is not None and point.slots > self.connections:
            broken.append("connections")
        if self.latency_seconds is not None and point.latency and point.latency.p95 > self.latency_seconds:
            broken.append("latency")
        return ", ".join(broken)


class Ceiling(StrEnum):
    """The bottleneck that more slots would not remove."""

    HOST = "host"
    """All cores of this host are busy, mostly with other programs, such as the broker."""
    CPU = "cpu"
    """The worker's processes use all cores."""
    LOCK = "lock"
    """One interpreter: its lock, or with gevent its only thread, limits it to one core."""
    MAIN = "main"
    """The main process of a prefork pool, which receives and distributes the messages, uses a whole core."""
    DOWNSTREAM = "downstream"
    """The slots are busy, and tasks take longer the more of them run."""
    BROKER = "broker"
    """Slots are idle although messages wait and CPU is left: messages arrive too slowly."""
    BOUND = "bound"
    """No limit was reached: throughput still rises at the last slot count."""
    NONE = "none"
    """No single bottleneck: throughput flattens out before any of these is exhausted."""


WORDS = {
    Ceiling.HOST: "the host's processor is used up, mostly not by this worker (the broker, other programs): move "
    "one of them to another host",
    Ceiling.CPU: "the worker uses all cores of this host: another host helps, more slots do not",
    Ceiling.LOCK: "one process can use one core (Python's GIL; with gevent one thread): another node helps while "
    "cores are free",
    Ceiling.MAIN: "the pool's main process, which takes the messages, uses one core: another node helps",
    Ceiling.DOWNSTREAM: "tasks wait longer the more of them run, with processor left: what they call has "
    "no more to give",
    Ceiling.BROKER: "slots stand idle though messages wait and processor is left: the broker, the way to it, "
    "or the result store is the limit",
    Ceiling.BOUND: "no limit was reached: it still rises at the most slots that were tried",
    Ceiling.NONE: "it flattens out before one single thing is used up",
}


def ceiling(points: Mapping[int, Measurement]) -> Ceiling:
    """Return the bottleneck of a pool, judged at its highest measured slot count.

    ``points`` holds at least one measurement of one pool. CPU is checked before run times, because a busy CPU
    lengthens run times too.
    """
    last, first = points[max(points)], points[min(points)]
    usage = last.usage
    if _still_rises(points):
        return Ceiling.BOUND
    if usage.cpu_cores >= BUSY * usage.cores:
        return Ceiling.CPU
    if usage.main_cpu_cores >= ONE_CORE:
        return Ceiling.LOCK if last.pool in _SINGLE else Ceiling.MAIN
    if usage.host_busy_cores >= BUSY * usage.cores:
        return Ceiling.CPU if usage.cpu_cores > usage.host_busy_cores / 2 else Ceiling.HOST
    if last.run.mean >= STRETCH * first.run.mean:
        return Ceiling.DOWNSTREAM
    return Ceiling.BROKER if last.busy_share < BUSY else Ceiling.NONE


def _still_rises(points: Mapping[int, Measurement]) -> bool:
    """Return whether throughput rose by more than half as much as the slots in the last step."""
    if len(points) == 1:
        return False
    *_, before, last = sorted(points)
    gained = points[last].throughput / points[before].throughput - 1
    return gained > (last / before - 1) / 2 and points[last].throughput >= max(
        p.throughput for p in points.values()
    )
