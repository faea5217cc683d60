"""Queue summaries for the status page: the state of each queue, and the reasons for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSE_SHARE = 0.7
"""Share of the objective from which a wait counts as close to it."""

FAILING_SHARE = 0.01
"""Share of failed tasks above which failures are a warning."""

RANGE_FROM = 1.2
"""Ratio of bounds from which a range is shown: the midpoint would be off by more than 10 %."""

MAX_NAMED = 3
"""Maximum number of queues named in the summary."""

_MINUTES_FROM, _HOURS_FROM, _WHOLE_FROM = 90, 5_400, 10


class Severity(StrEnum):
    """Severity of a state; the page has a colour for each."""

    GOOD = "good"
    QUIET = "quiet"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Objective:
    """Wait objective of a queue.

    Attributes:
        seconds: Maximum wait.
        percent: Percentage of tasks that must not exceed it.
    """

    seconds: float
    percent: float


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """The workers of a queue on this host.

    Attributes:
        wanted: Nodes that the settings require.
        up: Nodes that are up.
        slots: Tasks that these nodes can run at once.
        busy: Tasks that these nodes are running.
    """

    wanted: int = 0
    up: int = 0
    slots: int = 0
    busy: int = 0


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """Current figures of one queue; None if unknown.

    Attributes:
        name: Name in the settings.
        objective: Wait objective; None if the settings have none.
        wait: The longer of two waits, in seconds: that of the message at the head, and the objective's percentile
            over the tasks that started in the last minute. 0 if nothing waits and nothing started.
        wait_low: Lower bound of the wait.
        wait_high: Upper bound of the wait; None if unknown.
        within_percent: Percentage of the tasks of the last 15 minutes that met the objective.
        is_missing: Whether the queue does not exist on the broker.
        is_paused: Whether the queue is paused.
        is_removed: Whether the settings no longer declare the queue.
        ready: Messages ready for delivery.
        running: Unacknowledged messages, on all hosts.
        dead: Messages in the dead-letter queue.
        consumers: Consumers, on all hosts.
        growth: Growth of ``ready`` in the last minute, in messages per second.
        recent_growth: The same for the last half minute.
        finished: Messages finished in the last 15 minutes, on this host.
        failed: Finished messages that failed and are not retried.
        fleet: Workers of the queue on this host.
    """

    name: str
    objective: Objective | None = None
    wait: float | None = None
    wait_low: float | None = None
    wait_high: float | None = None
    within_percent: float | None = None
    is_missing: bool = False
    is_paused: bool = False
    is_removed: bool = False
    ready: int | None = None
    running: int | None = None
    dead: int | None = None
    consumers: int | None = None
    growth: float | None = None
    recent_growth: float | None = None
    finished: int = 0
    failed: int = 0
    fleet: FleetSummary = FleetSummary()


def verdict(queue: QueueSummary) -> tuple[Severity, str]:
    """Return the state of a queue, in one or a few words."""
    cases = (
        (queue.is_removed, Severity.WARN, "not in the settings"),
        (queue.is_missing, Severity.BAD, "missing"),
        (queue.is_paused, Severity.WARN, "paused"),
        (_is_over(queue, 1.0), Severity.BAD, "late"),
        (_is_left(queue), Severity.BAD, "stuck"),
        (queue.wait is None, Severity.QUIET, "unknown"),
        (_is_over(queue, CLOSE_SHARE), Severity.WARN, "close"),
        (_is_short(queue), Severity.WARN, "short of workers"),
        (_was_late(queue), Severity.WARN, "was late"),
        (queue.objective is not None, Severity.GOOD, "on time"),
    )
    return next(((level, word) for holds, level, word in cases if holds), (Severity.QUIET, "no objective"))


def reasons(queue: QueueSummary) -> list[tuple[Severity, str]]:
    """Return the reasons for the state of a queue, and other notable facts, one sentence each."""
    fleet, objective = queue.fleet, queue.objective
    cases = (
        (queue.is_removed, Severity.WARN, f"It is in no settings; run `broker-app queues retire {queue.name}`."),
        (queue.is_missing, Severity.BAD, "It is not on the broker; run `broker-app topology declare`."),
        (
            queue.is_paused,
            Severity.WARN,
            "It is paused on all hosts: its workers consume nothing until it is resumed.",
        ),
        (_is_left(queue), Severity.BAD, "No worker takes from it, on any host."),
        (_is_short(queue), Severity.WARN, _short(fleet)),
        (_is_full(queue), Severity.WARN, f"{_all(fleet.slots)} busy."),
        (True, Severity.QUIET, _movement(queue)),
        (_was_late(queue), Severity.WARN, _kept(queue, objective)),
        (queue.failed > 0, _failing(queue), f"{queue.failed:,} of {queue.finished:,} tasks failed in 15 minutes."),
    )
    return [(level, text) for holds, level, text in cases if holds and text]


def summary(queues: list[QueueSummary], problem: str) -> tuple[Severity, str]:
    """Return the overall state in one sentence.

    Args:
        queues: All queues.
        problem: Why the broker does not answer; empty if it does.
    """
    found = {level: [queue.name for queue in queues if verdict(queue)[0] is level] for level in Severity}
    if problem:
        return Severity.BAD, "The broker does not answer"
    if found[Severity.BAD]:
        words = [f"{queue.name} is {verdict(queue)[1]}" for queue in queues if queue.name in found[Severity.BAD]]
        return Severity.BAD, _joined(words)
    if found[Severity.WARN]:
        words = [_worded(queue) for queue in queues if queue.name in found[Severity.WARN]]
        return Severity.WARN, _joined(words)
    if found[Severity.GOOD]:
        return Severity.GOOD, "Every queue is on time" if not found[
            Severity.QUIET
        ] else "Every queue with an objective is on time"
    return Severity.QUIET, "No queue has an objective"


def _worded(queue: QueueSummary) -> str:
    word = verdict(queue)[1]
    if word == "close":
        return f"{queue.name} is close to its objective"
    return f"{queue.name} {word}" if word == "was late" else f"{queue.name} is {word}"


def _joined(words: list[str]) -> str:
    more = len(words) - MAX_NAMED
    return ", ".join(words[:MAX_NAMED]) + (f", and {more} more" if more > 0 else "")


def _is_over(queue: QueueSummary, share: float) -> bool:
    objective, wait = queue.objective, queue.wait
    return objective is not None and wait is not None and wait > objective.seconds * share


def _is_left(queue: QueueSummary) -> bool:
    return queue.consumers == 0 and bool(queue.ready)


def _is_short(queue: QueueSummary) -> bool:
    return queue.fleet.up < queue.fleet.wanted


def _is_full(queue: QueueSummary) -> bool:
    return 0 < queue.fleet.slots <= queue.fleet.busy and bool(queue.ready)


def _was_late(queue: QueueSummary) -> bool:
    within = queue.within_percent
    return queue.objective is not None and within is not None and within < queue.objective.percent


def _short(fleet: FleetSummary) -> str:
    up = f"{fleet.up} of {fleet.wanted} workers of this host are up."
    return up if fleet.up else "No worker of this host is up."


def _failing(queue: QueueSummary) -> Severity:
    return Severity.WARN if queue.failed > queue.finished * FAILING_SHARE else Severity.QUIET


def _all(slots: int) -> str:
    return "The only slot of this host is" if slots == 1 else f"All {slots:,} slots of this host are"


def _kept(queue: QueueSummary, objective: Objective | None) -> str:
    if objective is None or queue.within_percent is None:
        return ""
    return f"{queue.within_percent:.4g} % were in time in 15 minutes; {objective.percent:g} % is wanted."


def _movement(queue: QueueSummary) -> str:
    """Describe whether the queue grows or when it will be empty; empty if the trend has just reversed."""
    if not queue.ready or queue.growth is None:
        return ""
    growths = [queue.growth] if queue.recent_growth is None else [queue.growth, queue.recent_growth]
    slow, fast = min(growths) * 60, max(growths) * 60
    if slow >= 1:
        return f"It grows by {_between(slow, fast, '{:,.0f}'.format)} a minute."
    if fast <= -1:
        return f"It is empty in about {_between(queue.ready / -slow * 60, queue.ready / -fast * 60, _span)}."
    return ""


def _between(low: float, high: float, words: Callable[[float], str]) -> str:
    """Return one number if both bounds are within 10 % of it, otherwise the range."""
    first, last = words(low), words(high)
    if high <= low * RANGE_FROM or first == last:
        return words((low + high) / 2)
    return f"{first} to {last}"


def _span(seconds: float) -> str:
    if seconds < _MINUTES_FROM:
        return f"{max(1.0, seconds):.0f} s"
    return f"{_number(seconds / 60)} min" if seconds < _HOURS_FROM else f"{_number(seconds / 3_600)} h"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < _WHOLE_FROM else f"{value:,.0f}"
