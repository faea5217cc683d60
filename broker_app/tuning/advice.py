"""Slot advice: computes the slots a queue needs from live figures by Little's law (items = rate * time in system).

The run time follows from busy slots = starts per second * run time, the wait from waiting messages = starts per
second * wait, and the mean number of slots with work is arrivals per second * run time. Pure functions, no I/O.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from broker_app.tuning.limits import BUSY, ONE_CORE

TARGET_SHARE = 0.8
"""Target share of busy slots on average; the rest absorbs bursts."""

FULL_SHARE = 0.9
"""Above this average share of busy slots a queue is short of slots: every burst adds to the backlog."""

IDLE_SHARE = 0.5
"""A queue is idle if it needs at most this share of its slots."""

GROWTH_SHARE = 0.05
"""A change of the backlog counts if it exceeds this share of the arrivals; less is noise."""

OWN_SHARE = 0.5
"""A queue's workers have exhausted a host if they use at least this share of its busy cores."""


class LoadVerdict(StrEnum):
    """State of a queue."""

    SHORT = "short"
    """Messages arrive faster than its slots can process them, or nearly all slots are busy."""
    FITS = "fits"
    IDLE = "idle"
    """It needs half of its slots or less, and has no backlog."""
    UNSERVED = "unserved"
    """No worker consumes it."""
    PAUSED = "paused"
    """An operator has paused it."""
    UNKNOWN = "unknown"
    """No task ran during observation, so the run time is unknown."""


class Remedy(StrEnum):
    """Recommended action."""

    NONE = "none"
    SLOTS = "slots"
    """A larger -c."""
    NODE = "node"
    """Another node on this host: a process uses its one core fully, and other cores are free."""
    HOST = "host"
    """Another host: this queue's workers have used up this one's CPU."""
    FETCHING = "fetching"
    """A larger prefetch; more slots do not help, because slots are idle while messages wait."""
    FEWER = "fewer"
    """A smaller -c, or fewer nodes."""
    START = "start"
    """`broker-app fleet start`."""
    RESUME = "resume"
    """`broker-app resume`."""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """Figures of a queue over an observation period; rates are per second, other values are means.

    Attributes:
        queue: The queue's name in the settings.
        nodes: Number of workers that consume this queue and no other.
        slots: Total slots of these workers.
        starts: Rate of started tasks.
        busy_slots: Number of busy slots.
        waiting: Number of waiting messages.
        growth: Growth rate of the backlog; negative if it shrinks.
        cpu_cores: Cores used by the busiest node's main process; None if unknown.
        host_busy_cores: Busy cores of this host; None if no worker of the queue runs on it.
        own_cores: Cores that the queue's workers use on this host, child processes included; None if there are no
            such workers.
        cores: Number of cores of this host; None if unknown.
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
        """Rate of arriving messages: started tasks plus growth of the backlog."""
        return max(0.0, self.starts + self.growth)

    @property
    def is_growing(self) -> bool:
        """True if the backlog grows."""
        return self.waiting > self.slots and self.growth > GROWTH_SHARE * self.arrivals

    @property
    def is_shrinking(self) -> bool:
        """True if the backlog shrinks: all slots are busy for now, and they suffice."""
        return self.waiting > 0 and -self.growth > GROWTH_SHARE * self.starts

    @property
    def is_host_busy(self) -> bool:
        """True if this host has no CPU time left, whichever programs use it."""
        return bool(self.cores) and (self.host_busy_cores or 0.0) >= BUSY * (self.cores or 0)

    @property
    def run_seconds(self) -> float | None:
        """Mean run time of a task; None if no task started."""
        return self.busy_slots / self.starts if self.starts > 0 else None

    @property
    def wait_seconds(self) -> float | None:
        """Mean wait of a message; None if no task started."""
        return self.waiting / self.starts if self.starts > 0 else None


@dataclass(frozen=True, slots=True)
class Advice:
    """Advice for a queue.

    Attributes:
        load: The figures it is based on.
        verdict: The state of the queue.
        remedy: The recommended action.
        slots_needed: ceil(arrivals * run time / `TARGET_SHARE`), at least 1; None if unknown.
        drain_seconds: Time to drain the backlog with the present slots; infinite if it grows, None if unknown or
            there is no backlog.
    """

    load: QueueLoad
    verdict: LoadVerdict
    remedy: Remedy
    slots_needed: int | None
    drain_seconds: float | None

    @property
    def slots_per_node(self) -> int | None:
        """The ``-c`` of each node, for the present number of nodes."""
        return None if self.slots_needed is None else math.ceil(self.slots_needed / max(1, self.load.nodes))


def advise(load: QueueLoad) -> Advice:
    """Return the advice for a queue's figures."""
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
