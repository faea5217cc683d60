"""Recording rules: expressions that alerts and dashboards share, computed once.

Objectives from the settings are recorded as series, so that one alert covers all queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_app.metrics import catalogue
from broker_app.monitoring.exposition import bound_label
from broker_app.monitoring.prometheus.rule import BY_QUEUE, RecordingRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app.monitoring.prometheus.rule import ScrapeJob
    from broker_app.settings import QueueSettings, Settings

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Windows over which the share of tasks that waited too long is recorded."""

DRAIN_SECONDS = 600.0
"""A growing queue alerts if draining it would take longer than this and longer than its objective."""

LATE_SECONDS = 60.0
"""Allowed lateness of scheduled tasks in a queue without an objective."""

READY = "queue:broker_app_ready_messages:max"
OLDEST_WAIT = "queue:broker_app_oldest_wait_seconds:max"
PAUSED = "queue:broker_app_queue_paused:max"
CONSUMERS = "queue:broker_app_consumers:max"
FINISHED_RATE = "queue:broker_app_tasks_finished:rate5m"
DRAIN = "queue:broker_app_drain_seconds:estimate"
BUSY = "queue:broker_app_slots_busy:ratio"
OBJECTIVE = "queue:broker_app_wait_objective_seconds:setting"
BUDGET = "queue:broker_app_wait_objective_budget:ratio"
DRAIN_LIMIT = "queue:broker_app_drain_seconds:limit"
LATE_LIMIT = "queue:broker_app_task_late_seconds:limit"


def too_long(window: str) -> str:
    """Return the name of the series with the share of tasks that waited longer than the objective."""
    return f"queue:broker_app_waited_too_long:ratio_rate{window}"


def started(window: str) -> str:
    """Return the name of the series with task starts per second."""
    return f"queue:broker_app_tasks_started:rate{window}"


def of_all_queues(job: ScrapeJob) -> tuple[RecordingRule, ...]:
    """Return the rules that apply to every queue. All servers report the same broker figures, hence ``max``."""
    ready, finished = job.recorded(READY), job.recorded(FINISHED_RATE)
    busy, slots = (f"sum {BY_QUEUE} ({job.of(metric)})" for metric in (catalogue.SLOTS_BUSY, catalogue.SLOTS))
    waited = job.of(catalogue.WAITED_SECONDS, part="_count")
    found = {
        READY: f"max {BY_QUEUE} ({job.of(catalogue.READY)})",
        OLDEST_WAIT: f"max {BY_QUEUE} ({job.of(catalogue.OLDEST_WAIT)})",
        CONSUMERS: f"max {BY_QUEUE} ({job.of(catalogue.CONSUMERS)})",
        PAUSED: f"max {BY_QUEUE} ({job.of(catalogue.PAUSED)})",
        FINISHED_RATE: f"sum {BY_QUEUE} (rate({job.of(catalogue.FINISHED)}[5m]))",
        # 0 for an empty queue, +Inf for one that nothing is taken from
        DRAIN: f"({ready} > 0) / ({finished} or {ready} * 0) or {ready} * 0",
        BUSY: f"{busy} / ({slots} > 0)",
    } | {started(window): f"sum {BY_QUEUE} (rate({waited}[{window}]))" for window in WINDOWS}
    return tuple(RecordingRule(name, expr, {}) for name, expr in found.items())


def of_one_queue(job: ScrapeJob, name: str, queue: QueueSettings) -> Iterator[RecordingRule]:
    """Yield the rules for the limits of a queue and, if it has one, for its objective."""
    labels = {"job": job.name, "queue": name}
    objective = queue.wait_objective_seconds
    yield _constant(DRAIN_LIMIT, max(DRAIN_SECONDS, objective or 0.0), labels)
    yield _constant(LATE_LIMIT, LATE_SECONDS if objective is None else objective, labels)
    if objective is None:
        return
    yield _constant(OBJECTIVE, objective, labels)
    yield _constant(BUDGET, round(1 - queue.wait_objective_percent / 100, 6), labels)
    bucket = job.of(catalogue.WAITED_SECONDS, f'queue="{name}",le="{bound_label(objective)}"', "_bucket")
    count = job.of(catalogue.WAITED_SECONDS, f'queue="{name}"', "_count")
    for window in WINDOWS:
        within, total = f"sum(rate({bucket}[{window}]))", f"sum(rate({count}[{window}]))"
        yield RecordingRule(too_long(window), f"1 - {within} / ({total} > 0)", labels)


def of_settings(job: ScrapeJob, settings: Settings) -> tuple[RecordingRule, ...]:
    """Return the rules for the queues of the settings."""
    return tuple(rule for name, queue in settings.queues.items() for rule in of_one_queue(job, name, queue))


def _constant(record: str, value: float, labels: dict[str, str]) -> RecordingRule:
    return RecordingRule(record, f"vector({value:g})", labels)
