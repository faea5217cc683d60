"""Panels of the dashboard, in rows, with queries built from the names of metrics and recording rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_app.metrics import catalogue
from broker_app.monitoring.prometheus import recording_rules as recorded
from broker_app.monitoring.prometheus.panel import Panel, PanelQuery, PanelRow

if TYPE_CHECKING:
    from broker_app.metrics.catalogue import Metric

JOB, QUEUE, RATE = "$job", "$queue", "$__rate_interval"
"""Grafana variables: the first two are selected above the panels, the last follows the scrape interval."""

_OF_QUEUE = f'job="{JOB}",queue=~"{QUEUE}"'
_OF_JOB = f'job="{JOB}"'


def rows() -> tuple[PanelRow, ...]:
    """Return all rows, the most important first."""
    return (
        PanelRow("Now", _now()),
        PanelRow("Waiting", _waiting()),
        PanelRow("Queues", _queues()),
        PanelRow("Tasks", _tasks()),
        PanelRow("Workers", _workers()),
        PanelRow("Producers, broker and this monitoring", _others()),
    )


def _now() -> tuple[Panel, ...]:
    return tuple(
        Panel(title, "short", (PanelQuery(expr, title),), kind="stat")
        for title, expr in {
            "Broker up": f"min({_job(catalogue.BROKER_UP)})",
            "Ready": f"sum(max by (queue) ({_queue(catalogue.READY)}))",
            "Running": f"sum({_queue(catalogue.SLOTS_BUSY)})",
            "Scheduled": f"sum(max by (due) ({_job(catalogue.SCHEDULED)}))",
            "Dead letters": f"sum(max by (queue) ({_queue(catalogue.DEAD)}))",
            "Nodes missing": f"sum({_queue(catalogue.NODES_WANTED)} - {_queue(catalogue.NODES_UP)})",
        }.items()
    )


def _waiting() -> tuple[Panel, ...]:
    objective = PanelQuery(_recorded(recorded.OBJECTIVE), "{{queue}} objective")
    return (
        Panel(
            "Wait, 95th percentile",
            "s",
            (PanelQuery(_quantile(0.95, catalogue.WAITED_SECONDS), "{{queue}}"), objective),
            "From publishing, plus the requested delay, to the start of the run.",
        ),
        Panel(
            "Tasks that waited too long",
            "percentunit",
            (
                PanelQuery(_recorded(recorded.too_long("1h")), "{{queue}}, 1 h"),
                PanelQuery(_recorded(recorded.BUDGET), "{{queue}} budget"),
            ),
            "Share of the tasks that started in the last hour; above the budget the objective is missed.",
        ),
        Panel(
            "Oldest task",
            "s",
            (PanelQuery(_recorded(recorded.OLDEST_WAIT), "{{queue}}"), objective),
            "Estimated wait of the message at the head of the queue.",
        ),
        Panel(
            "Wait in broker and node, 95th percentile",
            "s",
            (
                PanelQuery(_quantile(0.95, catalogue.WAITED_BROKER_SECONDS), "{{queue}} in the broker"),
                PanelQuery(_quantile(0.95, catalogue.WAITED_PREFETCH_SECONDS), "{{queue}} in the node"),
            ),
        ),
        Panel(
            "Lateness of scheduled tasks, 95th percentile",
            "s",
            (PanelQuery(_quantile(0.95, catalogue.LATE_SECONDS), "{{queue}}"),),
        ),
        Panel(
            "Scheduled tasks by due time",
            "short",
            (PanelQuery(f"max by (due) ({_job(catalogue.SCHEDULED)})", "{{due}}"),),
            stacked=True,
        ),
    )


def _queues() -> tuple[Panel, ...]:
    return (
        Panel("Ready", "short", (PanelQuery(_recorded(recorded.READY), "{{queue}}"),)),
        Panel(
            "Time to drain",
            "s",
            (PanelQuery(_recorded(recorded.DRAIN), "{{queue}}"),),
            "At the rate of the last 5 minutes, without new tasks.",
        ),
        Panel(
            "Held by workers",
            "short",
            (PanelQuery(f"max by (queue) ({_queue(catalogue.UNACKNOWLEDGED)})", "{{queue}}"),),
        ),
        Panel(
            "Consumers",
            "short",
            (
                PanelQuery(_recorded(recorded.CONSUMERS), "{{queue}}"),
                PanelQuery(_recorded(recorded.PAUSED), "{{queue}} paused"),
            ),
        ),
        Panel(
            "Dead letters",
            "short",
            (PanelQuery(f"max by (queue) ({_queue(catalogue.DEAD)})", "{{queue}}"),),
            stacked=True,
        ),
        Panel(
            "By priority",
            "short",
            (PanelQuery(f"max by (queue, priority) ({_queue(catalogue.BY_PRIORITY)})", "{{queue}} {{priority}}"),),
            stacked=True,
        ),
    )


def _tasks() -> tuple[Panel, ...]:
    return (
        Panel("Published a second", "cps", (PanelQuery(_rate("queue", catalogue.PUBLISHED), "{{queue}}"),)),
        Panel(
            "Finished a second",
            "cps",
            (PanelQuery(_rate("queue, outcome", catalogue.FINISHED), "{{queue}} {{outcome}}"),),
        ),
        Panel(
            "The ten tasks with the most run time",
            "percentunit",
            (PanelQuery(f"topk(10, {_rate('task', catalogue.RUN_SECONDS, '_sum')})", "{{task}}"),),
            "Seconds of run time per second: the number of slots that the task keeps busy.",
        ),
        Panel(
            "Run time, 95th percentile",
            "s",
            (PanelQuery(f"topk(10, {_quantile(0.95, catalogue.RUN_SECONDS, 'task')})", "{{task}}"),),
        ),
        Panel(
            "Dead letters a second by reason",
            "cps",
            (PanelQuery(_rate("queue, reason", catalogue.DEAD_LETTERS), "{{queue}} {{reason}}"),),
        ),
        Panel(
            "Redelivered a second",
            "cps",
            (PanelQuery(_rate("queue", catalogue.REDELIVERED), "{{queue}}"),),
            "After a worker dies or loses its connection.",
        ),
    )


def _workers() -> tuple[Panel, ...]:
    return (
        Panel("Slots busy", "percentunit", (PanelQuery(_recorded(recorded.BUSY), "{{queue}}"),)),
        Panel(
            "Slots busy by node",
            "short",
            (
                PanelQuery(f"sum by (node) ({_queue(catalogue.SLOTS_BUSY)})", "{{node}}"),
                PanelQuery(f"sum by (node) ({_queue(catalogue.SLOTS)})", "{{node}} of"),
            ),
        ),
        Panel(
            "Nodes",
            "short",
            (
                PanelQuery(f"sum by (queue) ({_queue(catalogue.NODES_UP)})", "{{queue}} up"),
                PanelQuery(f"sum by (queue) ({_queue(catalogue.NODES_WANTED)})", "{{queue}} wanted"),
            ),
        ),
        Panel(
            "Tasks in the nodes",
            "short",
            (
                PanelQuery(f"sum by (queue) ({_queue(catalogue.PREFETCHED)})", "{{queue}} held"),
                PanelQuery(f"sum by (queue) ({_queue(catalogue.RESERVED)})", "{{queue}} waiting for a slot"),
                PanelQuery(f"sum by (queue) ({_queue(catalogue.PREFETCH_LIMIT)})", "{{queue}} limit"),
            ),
        ),
        Panel(
            "Time since the last task of a node",
            "s",
            (PanelQuery(f"max by (node) ({_queue(catalogue.LAST_CONSUMED_AGE)})", "{{node}}"),),
        ),
        Panel(
            "Uptime of the nodes",
            "s",
            (PanelQuery(f"time() - max by (node) ({_queue(catalogue.WORKER_START)})", "{{node}}"),),
        ),
    )


def _others() -> tuple[Panel, ...]:
    return (
        Panel(
            "Publish confirmation, 95th percentile",
            "s",
            (PanelQuery(_quantile(0.95, catalogue.CONFIRM_SECONDS), "{{queue}}"),),
        ),
        Panel(
            "Refused a second by reason",
            "cps",
            (PanelQuery(f"sum by (reason) (rate({_job(catalogue.REFUSED)}[{RATE}]))", "{{reason}}"),),
        ),
        Panel(
            "Set aside",
            "short",
            (
                PanelQuery(f"sum({_job(catalogue.SPOOLED)})", "in the spool"),
                PanelQuery(f"max({_job(catalogue.PARKED)})", "parked, queue deleted"),
                PanelQuery(f"max({_job(catalogue.HELD_UP)})", "stuck in a delay lane"),
            ),
        ),
        Panel(
            "Broker up",
            "short",
            (
                PanelQuery(_job(catalogue.BROKER_UP), "{{instance}}"),
                PanelQuery(_job(catalogue.MANAGEMENT_UP), "{{instance}} management API"),
            ),
        ),
        Panel(
            "Duration of a scrape and of a read of the broker",
            "s",
            (
                PanelQuery(_job(catalogue.SCRAPE_SECONDS), "{{instance}} scrape"),
                PanelQuery(_job(catalogue.READ_SECONDS), "{{instance}} broker"),
            ),
        ),
        Panel(
            "Missing metrics",
            "short",
            (
                PanelQuery(f"sum by (instance) ({_job(catalogue.DROPPED_SERIES)})", "{{instance}} dropped series"),
                PanelQuery(_job(catalogue.FILES, 'state="unreadable"'), "{{instance}} damaged files"),
            ),
        ),
    )


def _queue(metric: Metric, part: str = "") -> str:
    return f"{metric.name}{part}{{{_OF_QUEUE}}}"


def _job(metric: Metric, labels: str = "") -> str:
    return f"{metric.name}{{{','.join(filter(None, (_OF_JOB, labels)))}}}"


def _recorded(name: str) -> str:
    return f"{name}{{{_OF_QUEUE}}}"


def _rate(by: str, metric: Metric, part: str = "") -> str:
    return f"sum by ({by}) (rate({_queue(metric, part)}[{RATE}]))"


def _quantile(share: float, metric: Metric, by: str = "queue") -> str:
    return f"histogram_quantile({share}, {_rate(f'{by}, le', metric, '_bucket')})"
