"""The recording rules: what alerts and dashboards have in common, computed once.

The objectives come from the settings, so that the alerts need not be written for each queue.
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
"""Over which it is told how many tasks waited too long."""

DRAIN_SECONDS = 600.0
"""A queue that grows and needs longer than this, or than its objective, to be emptied is worth an alert."""

LATE_SECONDS = 60.0
"""A scheduled task may start so late, or as late as the objective of its queue says."""

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
    """Return the name of the share of tasks that waited longer than the objective."""
    return f"queue:broker_app_waited_too_long:ratio_rate{window}"


def started(window: str) -> str:
    """Return the name of the starts a second."""
    return f"queue:broker_app_tasks_started:rate{window}"


def of_all_queues(job: ScrapeJob) -> tuple[RecordingRule, ...]:
    """Return what is recorded of every queue. All servers tell the broker's side alike: the largest is taken."""
    ready, finished = job.recorded(READY), job.recorded(FINISHED_RATE)
    busy, slots = (f"sum {BY_QUEUE} ({job.of(metric)})" for metric in (catalogue.SLOTS_BUSY, catalogue.SLOTS))
    waited = job.of(catalogue.WAITED_SECONDS, part="_count")
    found = {
        READY: f"max {BY_QUEUE} ({job.of(catalogue.READY)})",
        OLDEST_WAIT: f"max {BY_QUEUE} ({job.of(catalogue.OLDEST_WAIT)})",
        CONSUMERS: f"max {BY_QUEUE} ({job.of(catalogue.CONSUMERS)})",
        PAUSED: f"max {BY_QUEUE} ({job.of(catalogue.PAUSED)})",
        FINISHED_RATE: f"sum {BY_QUEUE} (rate({job.of(catalogue.FINISHED)}[5m]))",
        # an empty queue is drained; one from which nothing is taken never is: +Inf
        DRAIN: f"({ready} > 0) / ({finished} or {ready} * 0) or {ready} * 0",
        BUSY: f"{busy} / ({slots} > 0)",
    } | {started(window): f"sum {BY_QUEUE} (rate({waited}[{window}]))" for window in WINDOWS}
    return tuple(RecordingRule(name, expr, {}) for name, expr in found.items())


def of_one_queue(job: ScrapeJob, name: str, queue: QueueSettings) -> Iterator[RecordingRule]:
    """Yield the limits of a queue and, if it has an objective, how it is kept."""
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
    """Return what is recorded of each queue of the settings."""
    return tuple(rule for name, queue in settings.queues.items() for rule in of_one_queue(job, name, queue))


def _constant(record: str, value: float, labels: dict[str, str]) -> RecordingRule:
    return RecordingRule(record, f"vector({value:g})", labels)
