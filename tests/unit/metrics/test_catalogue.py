"""The frozen names of the metrics, on which others' rules and dashboards rely: docs/reference/metrics.md.

``python tests/unit/metrics/test_catalogue.py`` rewrites the page's table.
"""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from documents import ROOT

from broker_app.metrics.catalogue import METRICS, Metric, MetricSource, MetricType, RefusalReason, TaskOutcome
from broker_app.queues.dead_letters import DeadReason
from broker_app.queues.objectives import BOUNDS_SECONDS

PAGE = ROOT / "docs" / "reference" / "metrics.md"
_TABLE = re.compile(r"(<!-- made from .*? -->\n).*(<!-- end -->)", re.DOTALL)
_BOUNDS = re.compile(r"(Buckets of the histograms, in seconds: ).*\.")

FROZEN = """
tasks_published_total counter queue task
tasks_refused_total counter queue task reason
publish_confirm_seconds histogram queue
tasks_received_total counter queue task node
tasks_redelivered_total counter queue task node
task_waited_seconds histogram queue node
task_waited_broker_seconds histogram queue node
task_waited_prefetch_seconds histogram queue node
task_late_seconds histogram queue node
task_run_seconds histogram queue task
tasks_finished_total counter queue task outcome node
dead_letters_total counter queue reason node
worker_up gauge queue node
worker_start_time_seconds gauge queue node
worker_slots gauge queue node
worker_slots_busy gauge queue node
worker_slots_stuck gauge queue node
worker_loop_lag_seconds gauge queue node
worker_results_waiting gauge queue node
worker_results_expired_total counter queue node
worker_reserved_tasks gauge queue node
worker_prefetched_messages gauge queue node
worker_prefetch_limit gauge queue node
worker_last_consumed_age_seconds gauge queue node
broker_up gauge
broker_management_up gauge
broker_read_seconds gauge
broker_read_age_seconds gauge
queue_ready_messages gauge queue
queue_unacknowledged_messages gauge queue
queue_consumers gauge queue
queue_priority_messages gauge queue priority
queue_oldest_wait_seconds gauge queue
queue_paused gauge queue
queue_dead_messages gauge queue
scheduled_messages gauge due
scheduled_held_up_messages gauge
parked_messages gauge
fleet_nodes_wanted gauge queue
fleet_nodes_up gauge queue
fleet_restarts_total counter queue
fleet_hung_total counter queue
spool_messages gauge
build_info gauge version celery python
metrics_files gauge state
metrics_dropped_series gauge
metrics_scrape_seconds gauge
"""
"""Names that users' rules rely on: a line may be added, and none changed."""


def table() -> str:
    """Return the tables of the page."""
    titles = {
        MetricSource.PRODUCER: "Counted in producers",
        MetricSource.WORKER: "Counted in workers",
        MetricSource.BROKER: "Read from the broker",
        MetricSource.HOST: "Measured on the host",
    }
    lines: list[str] = []
    for source, title in titles.items():
        lines += ["", f"### {title}", "", "| metric | type | labels | description |", "|---|---|---|---|"]
        for metric in METRICS.values():
            if metric.source is source:
                labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
                lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join([*lines, "", ""])


def page() -> str:
    """Return the page as it should be."""
    text = _TABLE.sub(lambda match: match[1] + table() + match[2], PAGE.read_text(encoding="utf-8"))
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_SECONDS)
    return _BOUNDS.sub(lambda match: f"{match[1]}{bounds}, and +Inf.", text)


def test_the_names_are_frozen() -> None:
    """No metric changes its name, type or labels: rules that users wrote keep working."""
    found = [" ".join((metric.name, metric.kind, *metric.labels)) for metric in METRICS.values()]
    assert found == [f"broker_app_{line}" for line in FROZEN.split("\n") if line]


def test_the_values_of_labels_are_frozen() -> None:
    """Nor do outcomes and reasons change."""
    assert " ".join(TaskOutcome) == "succeeded failed retried dead revoked timed_out"
    assert " ".join(RefusalReason) == "routing no_route queue_full refused timeout unreachable"
    assert " ".join(DeadReason) == "failed timed_out rejected poisoned undecodable unknown_task"


def test_the_page_lists_every_metric() -> None:
    """The page shows each metric with type, labels and words as the program has them, and each outcome."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(), "run `.venv/bin/python tests/unit/metrics/test_catalogue.py`"
    assert all(f"| `{outcome}` |" in text for outcome in TaskOutcome)


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_names_follow_prometheus(metric: Metric) -> None:
    """Counters end with _total and only they, times are seconds, labels are known and end with the node."""
    assert re.fullmatch(r"broker_app_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is MetricType.COUNTER)
    if metric.kind is MetricType.HISTOGRAM:
        assert metric.name.endswith("_seconds")
    assert "node" not in metric.labels[:-1]
    assert "id" not in metric.labels
    assert metric.help.endswith(".")


def test_buckets_reach_from_a_millisecond_to_an_hour() -> None:
    """The bounds rise, from 1 ms to 1 h, no step wider than three times."""
    assert (BOUNDS_SECONDS[0], BOUNDS_SECONDS[-1]) == (0.001, 3600.0)
    assert all(1 < after / before <= 3 for before, after in pairwise(BOUNDS_SECONDS))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
