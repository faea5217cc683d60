"""JSON document of the status page, built from a snapshot and the history, without I/O."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from broker_app.metrics import catalogue
from broker_app.monitoring.status_page.history import STEP_SECONDS, STEPS, HistorySample, sample
from broker_app.monitoring.status_page.queues import (
    FleetSummary,
    Objective,
    QueueSummary,
    reasons,
    summary,
    verdict,
)
from broker_app.monitoring.status_page.shown import LINE_CHARACTERS, shown
from broker_app.monitoring.status_page.trends import (
    NOW_SECONDS,
    current_wait,
    estimated_wait,
    growth_of,
    sample_before,
)
from broker_app.monitoring.status_page.waits import share_within
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker_app.metrics.catalogue import Metric
    from broker_app.monitoring.collector import Snapshot

MAX_NODES = 200


@dataclass(frozen=True, slots=True)
class PageContext:
    """Facts about the app that do not change between snapshots.

    Attributes:
        app: Name of the app.
        host: Name of this host.
        version: Version of broker-app.
        queues: Objectives by queue, in the order of the settings.
        keeps_dead: Queues that keep their dead letters.
        has_actions: Whether the actions token is set.
    """

    app: str
    host: str
    version: str
    queues: Mapping[str, Objective | None]
    keeps_dead: frozenset[str] = frozenset()
    has_actions: bool = False


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
    """State of this host in a snapshot."""

    nodes: dict[tuple[str, str], _Node] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    spooled: int | None = None


def document(snapshot: Snapshot, history: Sequence[HistorySample], about: PageContext) -> dict[str, Any]:
    """Return all figures of the page.

    Args:
        snapshot: The current snapshot.
        history: Earlier samples, oldest first.
        about: Facts about the app.
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
        "queues": [_entry(queue, about, samples) for queue in queues],
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
    broker, objective = snapshot.broker, about.queues.get(name)
    numbers = broker.queues.get(name)
    wait = current_wait(samples, name, objective)
    growth, recent = growth_of(samples, name)
    long = samples[-1].since(samples[0], name)
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


def _fleet(name: str, host: _Host) -> FleetSummary:
    nodes = [node for node in host.nodes.values() if name in node.queues and node.is_up]
    return FleetSummary(
        wanted=host.wanted.get(name, 0),
        up=len(nodes),
        slots=int(sum(node.slots for node in nodes)),
        busy=int(sum(node.busy for node in nodes)),
    )


def _entry(queue: QueueSummary, about: PageContext, samples: list[HistorySample]) -> dict[str, Any]:
    level, word = verdict(queue)
    lately = samples[-1].since(before := sample_before(samples, NOW_SECONDS), queue.name)
    seconds = samples[-1].at - before.at
    return (
        asdict(queue)
        | {
            "level": level,
            "word": word,
            "reasons": [{"level": each, "text": text} for each, text in reasons(queue)],
            "keeps_dead": queue.name in about.keeps_dead,
            "per_second": lately.finished / seconds if seconds else None,
            "chart": _chart(queue, samples[:-1]),  # the last step is incomplete
            "wait_ranges": _wait_ranges(queue, samples[:-1]),
        }
    )


def _chart(queue: QueueSummary, samples: list[HistorySample]) -> dict[str, list[Any]]:
    """Return the chart columns, oldest first: messages per second, and waits in seconds."""
    chart: dict[str, list[Any]] = defaultdict(list)
    for before, after in pairwise(samples):
        counts, seconds = after.since(before, queue.name), max(after.at - before.at, 0.001)
        for key in ("published", "finished", "failed"):
            chart[key].append(round(getattr(counts, key) / seconds, 3))
        wait = estimated_wait(counts, queue.objective)
        chart["wait"].append(None if wait is None else round(wait.about, 3))
        chart["ready"].append(counts.ready)
    return dict(chart)


def _wait_ranges(queue: QueueSummary, samples: list[HistorySample]) -> list[tuple[float, float | None] | None]:
    """Return the bounds of each wait in the chart."""
    counts = [after.since(before, queue.name) for before, after in pairwise(samples)]
    waits = [estimated_wait(one, queue.objective) for one in counts]
    return [None if wait is None else (wait.low, wait.high) for wait in waits]


def _scheduled(snapshot: Snapshot) -> dict[str, Any] | None:
    """Return the messages in the delay lanes by due time; None if unknown."""
    backlog = snapshot.broker.backlog
    if backlog is None:
        return None
    buckets = [{"due": due, "count": count} for due, count in backlog.buckets().items()]
    return {"buckets": buckets, "total": backlog.total, "held_up": backlog.held_up or 0}


def _node(node: _Node) -> dict[str, Any]:
    return asdict(node) | {"name": shown(node.name), "queues": [shown(queue) for queue in node.queues]}
