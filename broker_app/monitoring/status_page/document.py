"""The page's figures as one JSON document, made from the readings: nothing here asks anybody."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import StatisticsError, linear_regression
from typing import TYPE_CHECKING, Any

from broker_app.metrics import catalogue
from broker_app.monitoring.status_page.history import STEP_SECONDS, STEPS, HistorySample, QueueCounts, sample
from broker_app.monitoring.status_page.queues import (
    FleetSummary,
    Objective,
    QueueSummary,
    reasons,
    summary,
    verdict,
)
from broker_app.monitoring.status_page.shown import LINE_CHARACTERS, shown
from broker_app.monitoring.status_page.waits import bucket_of, quantile, share_within
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker_app.metrics.catalogue import Metric
    from broker_app.monitoring.collector import Snapshot

NOW_SECONDS = 60.0
"""How far back the tasks started whose waits are the wait now."""

GROWTH_SECONDS = 75.0
"""How far back the growth of a queue is looked at: some five counts, no older than what is happening."""

_LEAST_COUNTS = 3

HEAD_SECONDS = 5.0
"""How wrong the wait of the first message may be: the broker counts, and is asked, every five seconds."""

DEFAULT_PERCENT = 99.0
"""Which share of the tasks the wait of a queue without an objective is told for."""

MAX_NODES = 200


@dataclass(frozen=True, slots=True)
class PageContext:
    """What the readings do not say.

    Attributes:
        app: The app's name.
        host: This host's.
        version: Of broker-app.
        queues: The queues of the settings in their order, each with its objective.
        keeps_dead: Those whose dead letters are kept.
        has_actions: Whether a token was set.
    """

    app: str
    host: str
    version: str
    queues: Mapping[str, Objective | None]
    keeps_dead: frozenset[str] = frozenset()
    has_actions: bool = False


@dataclass(frozen=True, slots=True)
class _Wait:
    """A wait as the counts tell it: between two bounds, in seconds; the upper one is None if there is none."""

    about: float
    low: float
    high: float | None


@dataclass(slots=True)
class _Node:
    name: str
    queues: list[str]
    is_up: bool = False
    slots: int = 0
    busy: int = 0
    reserved: int = 0
    last_task_age: float | None = None


@dataclass(slots=True)
class _Host:
    """What the readings say of this host."""

    nodes: dict[tuple[str, str], _Node] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    spooled: int | None = None


def document(snapshot: Snapshot, history: Sequence[HistorySample], about: PageContext) -> dict[str, Any]:
    """Return everything that the page shows.

    Args:
        snapshot: The readings now.
        history: The samples, the oldest first.
        about: The rest.
    """
    now, broker, host = sample(snapshot), snapshot.broker, _host(snapshot)
    earlier = [one for one in history if one.at < now.at]
    samples = [*earlier, now]
    names = [*about.queues, *(name for name in sorted(broker.queues) if name not in about.queues)]
    queues = [_queue(name, snapshot, samples, host, about) for name in names]
    level, words = summary(queues, "" if broker.is_up else broker.problem)
    return {
        "at": snapshot.at,
        "app": shown(about.app),
        "host": shown(about.host),
        "version": about.version,
        "summary": {"level": level, "text": words},
        "broker": {
            "is_up": broker.is_up,
            "has_management": broker.has_management,
            "problem": shown(broker.problem, LINE_CHARACTERS),
            "age_seconds": snapshot.broker_age,
        },
        "files": {"unreadable": snapshot.reading.unreadable, "problem": shown(snapshot.reading.problem)},
        "queues": [_told(queue, about, samples) for queue in queues],
        "scheduled": _scheduled(snapshot),
        "parked": broker.parked,
        "spooled": host.spooled,
        "nodes": [_node(node) for _, node in sorted(host.nodes.items())[:MAX_NODES]],
        "step_seconds": STEP_SECONDS,
        "steps": STEPS,
        "actions": {"is_enabled": about.has_actions},
    }


def _host(snapshot: Snapshot) -> _Host:
    host = _Host()
    gauges: dict[Metric, str] = {
        catalogue.SLOTS: "slots",
        catalogue.SLOTS_BUSY: "busy",
        catalogue.RESERVED: "reserved",
        catalogue.LAST_CONSUMED_AGE: "last_task_age",
    }
    for series, (value, *_) in snapshot.numbers.items():
        if series.metric is catalogue.NODES_WANTED:
            host.wanted[series.labels[0]] = int(value)
        elif series.metric is catalogue.SPOOLED:
            host.spooled = int(value)
        elif series.metric is catalogue.WORKER_UP or series.metric in gauges:
            queues, name = series.labels
            node = host.nodes.setdefault((name, queues), _Node(name, queues.split(",")))
            if series.metric is catalogue.WORKER_UP:
                node.is_up = bool(value)
            else:
                setattr(node, gauges[series.metric], value)
    return host


def _queue(
    name: str, snapshot: Snapshot, samples: list[HistorySample], host: _Host, about: PageContext
) -> QueueSummary:
    broker, objective, now = snapshot.broker, about.queues.get(name), samples[-1]
    numbers = broker.queues.get(name)
    wait = _wait(now.since(_wait_window(samples, name), name), objective)
    growth, recent = _growth(samples, name)
    long = now.since(samples[0], name)
    within = share_within(BOUNDS_SECONDS, long.waited, objective.seconds) if objective else None
    return QueueSummary(
        name=name,
        objective=objective,
        wait=None if wait is None else wait.about,
        wait_low=None if wait is None else wait.low,
        wait_high=None if wait is None else wait.high,
        within_percent=None if within is None else within * 100,
        is_missing=broker.is_up and numbers is None,
        is_paused=name in (broker.paused or ()),
        is_removed=name not in about.queues,
        ready=numbers.ready if numbers else None,
        running=numbers.unacknowledged if numbers else None,
        dead=numbers.dead if numbers else None,
        consumers=numbers.consumers if numbers else None,
        growth=growth,
        recent_growth=recent,
        finished=int(long.finished),
        failed=int(long.failed),
        fleet=_fleet(name, host),
    )


def _wait(counts: QueueCounts, objective: Objective | None) -> _Wait | None:
    """Return the wait of tasks that started, or of what stands at the head if that is longer."""
    share = (objective.percent if objective else DEFAULT_PERCENT) / 100
    known = []
    if (bucket := bucket_of(BOUNDS_SECONDS, counts.waited, share)) is not None:
        about = quantile(BOUNDS_SECONDS, counts.waited, share)
        known.append(_Wait(about or 0.0, *bucket))
    elif counts.ready == 0:
        return _Wait(0.0, 0.0, 0.0)
    if counts.head and (counts.head > HEAD_SECONDS or not known):
        known.append(_Wait(counts.head, max(0.0, counts.head - HEAD_SECONDS), counts.head + HEAD_SECONDS))
    if not known:
        return None
    highs = [wait.high for wait in known]
    high = None if None in highs else max(one for one in highs if one is not None)
    return _Wait(max(wait.about for wait in known), max(wait.low for wait in known), high)


def _wait_window(samples: list[HistorySample], name: str) -> HistorySample:
    """Return the sample since which the tasks started whose waits are the wait now.

    In an empty queue nothing waits any more that waited before: those count that started after the first step
    in which it was empty, when the nodes had begun what they held.
    """
    since, empty = _back(samples, NOW_SECONDS), []
    for one in reversed(samples):
        if one.queues.get(name, QueueCounts()).ready != 0:
            break
        empty.append(one)
    if not empty:
        return since
    emptied = empty[-2] if len(empty) > 1 else empty[-1]
    return max(since, emptied, key=lambda one: one.at)


def _back(samples: list[HistorySample], seconds: float) -> HistorySample:
    """Return the sample of so long ago; the nearest before, or the oldest there is."""
    at = samples[-1].at - seconds
    return next((one for one in reversed(samples) if one.at <= at), samples[0])


def _growth(samples: list[HistorySample], name: str) -> tuple[float | None, float | None]:
    """Return by how many messages a second a queue grew in the last minute, and over its last three counts.

    Both are the slope of the line that fits the counts best (least squares); None from less than three counts.
    """
    last = samples[-1].at
    counts = [
        (one.read_at or one.at, one.queues.get(name, QueueCounts()).ready)
        for one in samples
        if one.at >= last - GROWTH_SECONDS
    ]
    known = [(at, ready) for at, ready in counts if ready is not None]
    if len(known) < _LEAST_COUNTS or counts[-1][1] is None:
        return None, None
    return _slope(known), _slope(known[-_LEAST_COUNTS:])


def _slope(points: list[tuple[float, int]]) -> float | None:
    try:
        return linear_regression(*zip(*points, strict=True)).slope
    except StatisticsError:  # all of one moment: the broker was read once
        return None


def _fleet(name: str, host: _Host) -> FleetSummary:
    nodes = [node for node in host.nodes.values() if name in node.queues and node.is_up]
    return FleetSummary(
        wanted=host.wanted.get(name, 0),
        up=len(nodes),
        slots=int(sum(node.slots for node in nodes)),
        busy=int(sum(node.busy for node in nodes)),
    )


def _told(queue: QueueSummary, about: PageContext, samples: list[HistorySample]) -> dict[str, Any]:
    level, word = verdict(queue)
    lately = samples[-1].since(before := _back(samples, NOW_SECONDS), queue.name)
    seconds = samples[-1].at - before.at
    return (
        asdict(queue)
        | {
            "level": level,
            "word": word,
            "reasons": [{"level": each, "text": text} for each, text in reasons(queue)],
            "keeps_dead": queue.name in about.keeps_dead,
            "per_second": lately.finished / seconds if seconds else None,
            "chart": _chart(queue, samples[:-1]),  # the last step is not over yet
            "wait_ranges": _wait_ranges(queue, samples[:-1]),
        }
    )


def _chart(queue: QueueSummary, samples: list[HistorySample]) -> dict[str, list[Any]]:
    """Return the columns of the charts, the oldest first: a second's messages, and waits in seconds."""
    chart: dict[str, list[Any]] = defaultdict(list)
    for before, after in pairwise(samples):
        counts, seconds = after.since(before, queue.name), max(after.at - before.at, 0.001)
        for key in ("published", "finished", "failed"):
            chart[key].append(round(getattr(counts, key) / seconds, 3))
        wait = _wait(counts, queue.objective)
        chart["wait"].append(None if wait is None else round(wait.about, 3))
        chart["ready"].append(counts.ready)
    return dict(chart)


def _wait_ranges(queue: QueueSummary, samples: list[HistorySample]) -> list[tuple[float, float | None] | None]:
    """Return between what each of the chart's waits is."""
    waits = [_wait(after.since(before, queue.name), queue.objective) for before, after in pairwise(samples)]
    return [None if wait is None else (wait.low, wait.high) for wait in waits]


def _scheduled(snapshot: Snapshot) -> dict[str, Any] | None:
    """Return what waits in the delay lanes by due time; None if the broker did not tell."""
    backlog = snapshot.broker.backlog
    if backlog is None:
        return None
    buckets = [{"due": due, "count": count} for due, count in backlog.buckets().items()]
    return {"buckets": buckets, "total": backlog.total, "held_up": backlog.held_up or 0}


def _node(node: _Node) -> dict[str, Any]:
    return asdict(node) | {"name": shown(node.name), "queues": [shown(queue) for queue in node.queues]}
