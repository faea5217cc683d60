"""Limits that the user names, and what holds a worker back beyond its knee, from recorded figures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.tuning.measurement import Measurement

BUSY = 0.9
"""From this share on a core, a host or the slots are taken to be busy."""

ONE_CORE = 0.8
"""Cores of a process from which on its one interpreter lock, or its one thread, is taken to be the limit: threads
that fight for the lock do not reach 1.0."""

STRETCH = 1.25
"""Run times that grew by this much without the processor's doing: what the tasks ask for has no more to give."""

_SINGLE = frozenset({"threads", "gevent", "solo"})
"""Pools whose tasks share one interpreter."""


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What one node may use.

    Attributes:
        memory_bytes: Of all its processes; None for no limit.
        connections: Slots that may be open downstream at once, one connection for each; None for no limit.
        latency_seconds: The p95 from publishing to the end, at `LOAD_SHARE` of its throughput; None for no limit.
    """

    memory_bytes: int | None = None
    connections: int | None = None
    latency_seconds: float | None = None

    def broken_by(self, point: Measurement) -> str:
        """Return which limits a point breaks, in words; empty if none."""
        broken = []
        if self.memory_bytes is not None and point.usage.memory_bytes > self.memory_bytes:
            broken.append("memory")
        if self.connections is not None and point.slots > self.connections:
            broken.append("connections")
        if self.latency_seconds is not None and point.latency and point.latency.p95 > self.latency_seconds:
            broken.append("latency")
        return ", ".join(broken)


class Ceiling(StrEnum):
    """What more slots would not help against."""

    HOST = "host"
    """All cores of this host are busy, the worker's processes the least part of it: the broker, or others."""
    CPU = "cpu"
    """The worker's processes use all cores."""
    LOCK = "lock"
    """One interpreter: its lock, or with gevent its one thread, is on one core."""
    MAIN = "main"
    """The main process of a prefork pool, which takes the messages and hands them out, is on one core."""
    DOWNSTREAM = "downstream"
    """The slots are busy, and their tasks wait longer the more there are."""
    BROKER = "broker"
    """Slots are idle although messages wait and processor is left: they do not come fast enough."""
    BOUND = "bound"
    """None was reached: it still rises at the last number that was tried."""
    NONE = "none"
    """No single thing: it flattens out before any of these is exhausted."""


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
    """Return what limits a pool, judged at the most slots that were measured, in the order of `Ceiling`.

    ``points`` are of one pool, at least one. A cause that shows in the processor comes before one that shows in
    the run times, because a busy processor stretches run times too.
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
    """Return whether the last number of slots brought a good part of what it added."""
    if len(points) == 1:
        return False
    *_, before, last = sorted(points)
    gained = points[last].throughput / points[before].throughput - 1
    return gained > (last / before - 1) / 2 and points[last].throughput >= max(
        p.throughput for p in points.values()
    )
