"""Catalogue of all metrics: name, type, labels and help. Code, documentation and tests are checked against it.

Names follow prometheus.io/docs/practices/naming: base units, ``_total`` for counters. Label values are bounded: a
queue of the settings, a task (at most ``metrics.max_tasks`` per process), an outcome, a node, never an id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MetricType(StrEnum):
    """Prometheus metric types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricSource(StrEnum):
    """Source of a metric."""

    PRODUCER = "producers"
    WORKER = "workers"
    BROKER = "broker"
    HOST = "host"


class TaskOutcome(StrEnum):
    """Outcome of a delivered message. A requeued message has no outcome yet."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    DEAD = "dead"
    REVOKED = "revoked"
    TIMED_OUT = "timed_out"


class RefusalReason(StrEnum):
    """Why a task was not published."""

    ROUTING = "routing"
    NO_ROUTE = "no_route"
    QUEUE_FULL = "queue_full"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; compared by identity.

    Attributes:
        name: Full name, with the prefix.
        kind: Metric type.
        labels: Label names in order; ``node`` is always last.
        source: Source of the metric.
        help: One sentence for the ``HELP`` line.
    """

    name: str
    kind: MetricType
    labels: tuple[str, ...]
    source: MetricSource
    help: str


METRICS: dict[str, Metric] = {}
"""All metrics by name, in display order."""


def _metric(name: str, kind: MetricType, labels: str, source: MetricSource, text: str) -> Metric:
    metric = Metric(f"broker_app_{name}", kind, tuple(labels.split()), source, text)
    METRICS[metric.name] = metric
    return metric


def _of_producers(name: str, kind: MetricType, labels: str, text: str) -> Metric:
    return _metric(name, kind, labels, MetricSource.PRODUCER, text)


def _of_workers(name: str, kind: MetricType, labels: str, text: str) -> Metric:
    return _metric(name, kind, labels, MetricSource.WORKER, text)


def _of_broker(name: str, labels: str, text: str) -> Metric:
    return _metric(name, MetricType.GAUGE, labels, MetricSource.BROKER, text)


def _of_host(name: str, labels: str, text: str) -> Metric:
    return _metric(name, MetricType.GAUGE, labels, MetricSource.HOST, text)


PUBLISHED = _of_producers(
    "tasks_published_total", MetricType.COUNTER, "queue task", "Tasks that the broker confirmed."
)
REFUSED = _of_producers(
    "tasks_refused_total",
    MetricType.COUNTER,
    "queue task reason",
    "Tasks that were not published; routing: an unknown queue, or an invalid priority or delay.",
)
CONFIRM_SECONDS = _of_producers(
    "publish_confirm_seconds",
    MetricType.HISTOGRAM,
    "queue",
    "From the call to the broker's confirmation, including connecting and retries; without publish_many.",
)

RECEIVED = _of_workers(
    "tasks_received_total", MetricType.COUNTER, "queue task node", "Tasks that a node received."
)
REDELIVERED = _of_workers(
    "tasks_redelivered_total",
    MetricType.COUNTER,
    "queue task node",
    "Received tasks that the broker marked as redelivered.",
)
WAITED_SECONDS = _of_workers(
    "task_waited_seconds",
    MetricType.HISTOGRAM,
    "queue node",
    "From publishing to the start of the run, less the requested delay.",
)
WAITED_BROKER_SECONDS = _of_workers(
    "task_waited_broker_seconds",
    MetricType.HISTOGRAM,
    "queue node",
    "The part of the wait until the node received the task.",
)
WAITED_PREFETCH_SECONDS = _of_workers(
    "task_waited_prefetch_seconds",
    MetricType.HISTOGRAM,
    "queue node",
    "The part of the wait in the node, until a slot was free.",
)
LATE_SECONDS = _of_workers(
    "task_late_seconds",
    MetricType.HISTOGRAM,
    "queue node",
    "For delayed tasks only: from the due time to the start of the run.",
)
RUN_SECONDS = _of_workers(
    "task_run_seconds", MetricType.HISTOGRAM, "queue task", "Run time of tasks, over all nodes of the host."
)
FINISHED = _of_workers(
    "tasks_finished_total",
    MetricType.COUNTER,
    "queue task outcome node",
    "Finished tasks, by outcome.",
)
DEAD_LETTERS = _of_workers(
    "dead_letters_total",
    MetricType.COUNTER,
    "queue reason node",
    "Messages that a worker dead-lettered.",
)
WORKER_UP = _of_workers(
    "worker_up", MetricType.GAUGE, "queue node", "1 if the node's process is alive and its consumer is connected."
)
WORKER_START = _of_workers(
    "worker_start_time_seconds",
    MetricType.GAUGE,
    "queue node",
    "Start time of the node, in seconds since the epoch.",
)
SLOTS = _of_workers("worker_slots", MetricType.GAUGE, "queue node", "Tasks that the node can run at once (-c).")
SLOTS_BUSY = _of_workers("worker_slots_busy", MetricType.GAUGE, "queue node", "Tasks that the node is running.")
SLOTS_STUCK = _of_workers(
    "worker_slots_stuck",
    MetricType.GAUGE,
    "queue node",
    "Slots held by tasks that exceeded their time limit, failed, and cannot be interrupted.",
)
LOOP_LAG = _of_workers(
    "worker_loop_lag_seconds",
    MetricType.GAUGE,
    "queue node",
    "Greatest lag of the event loop of coroutines in the last half minute; it grows while the loop is blocked.",
)
RESULTS_WAITING = _of_workers(
    "worker_results_waiting",
    MetricType.GAUGE,
    "queue node",
    "Task states that the node has yet to write to the result store; at 1000, its tasks wait.",
)
RESULTS_EXPIRED = _of_workers(
    "worker_results_expired_total",
    MetricType.COUNTER,
    "queue node",
    "Expired results that the node removed from an SQL store.",
)
RESERVED = _of_workers(
    "worker_reserved_tasks", MetricType.GAUGE, "queue node", "Tasks in the node that are waiting for a slot."
)
PREFETCHED = _of_workers(
    "worker_prefetched_messages",
    MetricType.GAUGE,
    "queue node",
    "All tasks in the node: running, waiting for a slot, or waiting out the rest of a delay.",
)
PREFETCH_LIMIT = _of_workers(
    "worker_prefetch_limit",
    MetricType.GAUGE,
    "queue node",
    "Maximum number of unacknowledged messages of the node.",
)
LAST_CONSUMED_AGE = _of_workers(
    "worker_last_consumed_age_seconds",
    MetricType.GAUGE,
    "queue node",
    "Time since the node last received a task; since its start if it received none.",
)

BROKER_UP = _of_broker("broker_up", "", "1 if the broker answers, through its management API or AMQP.")
MANAGEMENT_UP = _of_broker(
    "broker_management_up", "", "1 if the management API answers; otherwise some of the metrics below are missing."
)
READ_SECONDS = _of_broker("broker_read_seconds", "", "Duration of the last read of the broker.")
READ_AGE = _of_broker("broker_read_age_seconds", "", "Age of the broker's figures.")
READY = _of_broker("queue_ready_messages", "queue", "Messages ready for delivery.")
UNACKNOWLEDGED = _of_broker(
    "queue_unacknowledged_messages", "queue", "Messages delivered but not yet acknowledged."
)
CONSUMERS = _of_broker("queue_consumers", "queue", "Consumers of the queue.")
BY_PRIORITY = _of_broker(
    "queue_priority_messages", "queue priority", "Messages of the queue by priority, if the broker reports it."
)
OLDEST_WAIT = _of_broker(
    "queue_oldest_wait_seconds", "queue", "Estimated wait of the message at the head of the queue."
)
PAUSED = _of_broker("queue_paused", "queue", "1 if the queue is paused, so that no worker consumes it.")
DEAD = _of_broker("queue_dead_messages", "queue", "Messages in the dead-letter queue.")
SCHEDULED = _of_broker(
    "scheduled_messages", "due", "Messages in the delay lanes, by latest due time; not cumulative."
)
HELD_UP = _of_broker(
    "scheduled_held_up_messages", "", "Messages that are due but that their delay lane cannot pass on."
)
PARKED = _of_broker("parked_messages", "", "Messages that came due for a queue that no longer exists.")

NODES_WANTED = _of_host("fleet_nodes_wanted", "queue", "Nodes that the settings require on this host.")
NODES_UP = _of_host("fleet_nodes_up", "queue", "Nodes of the queue on this host that are up.")
RESTARTS = _metric(
    "fleet_restarts_total",
    MetricType.COUNTER,
    "queue",
    MetricSource.HOST,
    "Dead nodes that `fleet supervise` restarted.",
)
HUNG = _metric(
    "fleet_hung_total",
    MetricType.COUNTER,
    "queue",
    MetricSource.HOST,
    "Hung nodes that `fleet supervise` killed.",
)
SPOOLED = _of_host("spool_messages", "", "Tasks in the local spool.")
BUILD_INFO = _of_host("build_info", "version celery python", "Always 1; the versions are in the labels.")
FILES = _of_host("metrics_files", "state", "Metrics files of processes, by whether they could be read.")
DROPPED_SERIES = _of_host("metrics_dropped_series", "", "Series that did not fit into a process's metrics file.")
SCRAPE_SECONDS = _of_host("metrics_scrape_seconds", "", "Time taken to generate this response.")
