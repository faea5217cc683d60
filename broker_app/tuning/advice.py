"""How many slots a queue needs, from live figures, by Little's law: what is in a system = rate * time spent in it.

Busy slots = starts a second * run time gives the run time; messages that wait = starts a second * waiting time
gives the wait; and arrivals a second * run time is how many slots have work on average. Nothing here asks anybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from broker_app.tuning.limits import BUSY, ONE_CORE

TARGET_SHARE = 0.8
"""The share of the slots that should be busy on average: the rest is for arrivals that come in bursts."""

FULL_SHARE = 0.9
"""From this share of the slots on, on average, a queue is short: what waits then grows with every burst."""

IDLE_SHARE = 0.5
"""A queue is idle if it needs at most this share of its slots."""

GROWTH_SHARE = 0.05
"""A backlog that grows, or shrinks, by more than this share of the arrivals does so, and it is not noise."""

OWN_SHARE = 0.5
"""A queue's workers have used up a host if at least this share of its busy cores is theirs."""


class LoadVerdict(StrEnum):
    """How a queue stands."""

    SHORT = "short"
    """Work comes faster than its slots can do it, or they are nearly all busy."""
    FITS = "fits"
    IDLE = "idle"
    """It needs half of its slots or less, and has no backlog."""
    UNSERVED = "unserved"
    """Nobody consumes it."""
    PAUSED = "paused"
    """An operator has paused it."""
    UNKNOWN = "unknown"
    """Nothing ran while it was watched, so that nobody knows how long a task takes."""


class Remedy(StrEnum):
    """What helps."""

    NONE = "none"
    SLOTS = "slots"
    """A larger -c."""
    NODE = "node"
    """Another node on this host: a process is at its one core, and cores are free."""
    HOST = "host"
    """Another host: this queue's workers have used up the processor of this one."""
    FETCHING = "fetching"
    """More slots would not: those that are there stand idle while messages wait."""
    FEWER = "fewer"
    """A smaller -c, or fewer nodes."""
    START = "start"
    """`broker-app fleet start`."""
    RESUME = "resume"
    """`broker-app resume`."""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """What was seen of a queue for a while; rates are a second, numbers are means.

    Attributes:
        queue: As producers write it.
        nodes: Workers that consume it and no other.
        slots: Of all of them.
        starts: Tasks that began.
        busy_slots: Slots at work.
        waiting: Messages that waited.
        growth: By how much they became more each second; negative if fewer.
        cpu_cores: Of the busiest node's main process; None if unknown.
        host_busy_cores: Of this host; None if no worker of the queue runs on it.
        own_cores: What the queue's workers on this host use of them, with all their processes; likewise.
        cores: Of this host; None if unknown.
        is_paused: Whether an operator has paused it.
    """

    queue: str
    nodes: int
    slots: int
    starts: float
    busy_slots: float
    waiting: float
    growth: float
    cpu_cores: float | None = None
    host_busy_cores: float | None = None
    own_cores: float | None = None
    cores: int | None = None
    is_paused: bool = False

    @property
    def arrivals(self) -> float:
        """Messages that came: those that began, and by how many more wait."""
        return max(0.0, self.starts + self.growth)

    @property
    def is_growing(self) -> bool:
        """True for a backlog that gets longer."""
        return self.waiting > self.slots and self.growth > GROWTH_SHARE * self.arrivals

    @property
    def is_shrinking(self) -> bool:
        """True for a backlog that gets shorter: the slots are all busy for a while, and they suffice."""
        return self.waiting > 0 and -self.growth > GROWTH_SHARE * self.starts

    @property
    def is_host_busy(self) -> bool:
        """True if this host has no processor time left, whichever programs use it."""
        return bool(self.cores) and (self.host_busy_cores or 0.0) >= BUSY * (self.cores or 0)

    @property
    def run_seconds(self) -> float | None:
        """How long a task runs; None if none began."""
        return self.busy_slots / self.starts if self.starts > 0 else None

    @property
    def wait_seconds(self) -> float | None:
        """How long a message waits; None if none began."""
        return self.waiting / self.starts if self.starts > 0 else None


@dataclass(frozen=True, slots=True)
class Advice:
    """What the figures of a queue say.

    Attributes:
        load: The figures.
        verdict: How it stands.
        remedy: What helps.
        slots_needed: ceil(arrivals * run time / `TARGET_SHARE`), at least 1; None if unknown.
        drain_seconds: How long what waits now takes with the slots there are; infinite if it grows, None if
            unknown or nothing waits.
    """

    load: QueueLoad
    verdict: LoadVerdict
    remedy: Remedy
    slots_needed: int | None
    drain_seconds: float | None

    @property
    def slots_per_node(self) -> int | None:
        """The -c for as many nodes as there are."""
        return None if self.slots_needed is None else math.ceil(self.slots_needed / max(1, self.load.nodes))


def advise(load: QueueLoad) -> Advice:
    """Return what the figures of a queue say."""
    needed = _slots_needed(load)
    verdict = _verdict(load, needed)
    return Advice(load, verdict, _remedy(load, verdict), needed, _drain_seconds(load))


def _slots_needed(load: QueueLoad) -> int | None:
    if load.run_seconds is None:
        return None
    return max(1, math.ceil(load.arrivals * load.run_seconds / TARGET_SHARE - 1e-9))


def _verdict(load: QueueLoad, needed: int | None) -> LoadVerdict:
    if load.is_paused:
        return LoadVerdict.PAUSED
    if not load.slots:
        return LoadVerdict.UNSERVED
    if needed is None:
        return LoadVerdict.UNKNOWN
    is_full = load.busy_slots >= FULL_SHARE * load.slots and not load.is_shrinking
    if load.is_growing or is_full:
        return LoadVerdict.SHORT
    is_idle = needed <= IDLE_SHARE * load.slots and load.waiting <= load.slots
    return LoadVerdict.IDLE if is_idle else LoadVerdict.FITS


def _remedy(load: QueueLoad, verdict: LoadVerdict) -> Remedy:
    if verdict is not LoadVerdict.SHORT:
        return _REMEDIES.get(verdict, Remedy.NONE)
    if load.is_host_busy and (load.own_cores or 0.0) >= OWN_SHARE * (load.host_busy_cores or 0.0):
        return Remedy.HOST
    if load.cpu_cores is not None and load.cpu_cores >= ONE_CORE:
        return Remedy.NODE
    return Remedy.SLOTS if load.busy_slots >= TARGET_SHARE * load.slots else Remedy.FETCHING


_REMEDIES = {LoadVerdict.UNSERVED: Remedy.START, LoadVerdict.PAUSED: Remedy.RESUME, LoadVerdict.IDLE: Remedy.FEWER}


def _drain_seconds(load: QueueLoad) -> float | None:
    """Return backlog / (slots / run time - arrivals)."""
    if not load.waiting or not load.run_seconds or not load.slots:
        return None
    spare = load.slots / load.run_seconds - load.arrivals
    return load.waiting / spare if spare > 0 else math.inf
