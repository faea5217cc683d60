"""Every metric: its name, type, labels and words. Code, page and tests are made from, or held against, this list.

Names follow prometheus.io/docs/practices/naming: base units, ``_total`` for counters. Labels are few and bounded:
a queue of the settings, a task (at most ``metrics.max_tasks`` of each process), an outcome, a node, never an id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MetricType(StrEnum):
    """Prometheus' types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricSource(StrEnum):
    """Where a metric comes from."""

    PRODUCER = "producers"
    WORKER = "workers"
    BROKER = "broker"
    HOST = "host"


class TaskOutcome(StrEnum):
    """How a delivered message ended. One that goes back to its queue has not ended."""

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
        name: With the prefix.
        kind: Its type.
        labels: In this order; ``node`` is always the last.
        source: Where it comes from.
        help: One sentence, also shown by Prometheus.
    """

    name: str
    kind: MetricType
    labels: tuple[str, ...]
    source: MetricSource
    help: str


METRICS: dict[str, Metric] = {}
"""All of them by name, in the order in which they are shown."""


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
    "tasks_published_total", MetricType.COUNTER, "queue task", "Tasks that the broker has confirmed."
)
REFUSED = _of_producers(
    "tasks_refused_total",
    MetricType.COUNTER,
    "queue task reason",
    "Tasks that were not published; routing: an unknown queue, or a priority or delay that cannot be.",
)
CONFIRM_SECONDS = _of_producers(
    "publish_confirm_seconds",
    MetricType.HISTOGRAM,
    "queue",
    "From the call to the broker's confirmation, connecting and retries included; not of publish_many.",
)

RECEIVED = _of_workers(
    "tasks_received_total", MetricType.COUNTER, "queue task node", "Tasks that a node was given."
)
REDELIVERED = _of_workers(
    "tasks_redelivered_total",
    MetricType.COUNTER,
    "queue task node",
    "Of these, those that the broker marks as given out before.",
)
WAITED_SECONDS = _of_workers(
    "task_waited_seconds",
    MetricType.HISTOGRAM,
    "queue node",
    "From publishing to the start of the run, less the delay that was asked for.",
)
WAITED_BROKER_SECONDS = _of_workers(
    "task_waited_broker_seconds",
    MetricType.HISTOGRAM,
    "queue node",
    "The part of the wait until the node had the task.",
)
WAITED_PREFETCH_SECONDS = _of_workers(
    "task_waited_prefetch_seconds",
    MetricType.HISTOGRAM,
    "queue node",
    "The part of the wait in the node, until a slot took the task.",
)
LATE_SECONDS = _of_workers(
    "task_late_seconds",
    MetricType.HISTOGRAM,
    "queue node",
    "Of delayed tasks only: the start of the run after the moment that was asked for.",
)
RUN_SECONDS = _of_workers(
    "task_run_seconds", MetricType.HISTOGRAM, "queue task", "Run time of tasks, of all nodes of the host."
)
FINISHED = _of_workers(
    "tasks_finished_total",
    MetricType.COUNTER,
    "queue task outcome node",
    "Tasks whose message has ended, by outcome.",
)
DEAD_LETTERS = _of_workers(
    "dead_letters_total",
    MetricType.COUNTER,
    "queue reason node",
    "Messages that a worker put into the dead letters.",
)
WORKER_UP = _of_workers(
    "worker_up", MetricType.GAUGE, "queue node", "1 if the node's process lives and its consumer has a connection."
)
WORKER_START = _of_workers(
    "worker_start_time_seconds", MetricType.GAUGE, "queue node", "When the node started, seconds since the epoch."
)
SLOTS = _of_workers("worker_slots", MetricType.GAUGE, "queue node", "Tasks that the node runs at once (-c).")
SLOTS_BUSY = _of_workers("worker_slots_busy", MetricType.GAUGE, "queue node", "Tasks that the node runs now.")
SLOTS_STUCK = _of_workers(
    "worker_slots_stuck",
    MetricType.GAUGE,
    "queue node",
    "Tasks that are over their time limit, have failed, and cannot be interrupted.",
)
RESERVED = _of_workers(
    "worker_reserved_tasks", MetricType.GAUGE, "queue node", "Tasks in the node that wait for a slot."
)
PREFETCHED = _of_workers(
    "worker_prefetched_messages",
    MetricType.GAUGE,
    "queue node",
    "All tasks that the node holds: running, waiting for a slot, or for the last fraction of a delay.",
)
PREFETCH_LIMIT = _of_workers(
    "worker_prefetch_limit",
    MetricType.GAUGE,
    "queue node",
    "Messages that the node lets the broker give it at once.",
)
LAST_CONSUMED_AGE = _of_workers(
    "worker_last_consumed_age_seconds",
    MetricType.GAUGE,
    "queue node",
    "Since the node was last given a task; since its start if it never was.",
)

BROKER_UP = _of_broker("broker_up", "", "1 if the broker answers, by its management API or by AMQP.")
MANAGEMENT_UP = _of_broker(
    "broker_management_up", "", "1 if the management API answers; else some of the metrics below are missing."
)
READ_SECONDS = _of_broker("broker_read_seconds", "", "How long the last look at the broker took.")
READ_AGE = _of_broker("broker_read_age_seconds", "", "How old the figures of the broker are.")
READY = _of_broker("queue_ready_messages", "queue", "Messages that wait in the queue.")
UNACKNOWLEDGED = _of_broker("queue_unacknowledged_messages", "queue", "Messages of the queue that consumers hold.")
CONSUMERS = _of_broker("queue_consumers", "queue", "Consumers of the queue.")
BY_PRIORITY = _of_broker(
    "queue_priority_messages", "queue priority", "Messages of the queue by priority, where the broker tells it."
)
OLDEST_WAIT = _of_broker(
    "queue_oldest_wait_seconds", "queue", "How long the message at the head of the queue has waited; an estimate."
)
PAUSED = _of_broker("queue_paused", "queue", "1 if the queue is paused: no worker consumes it on purpose.")
DEAD = _of_broker("queue_dead_messages", "queue", "Messages in the queue's dead letters.")
SCHEDULED = _of_broker(
    "scheduled_messages", "due", "Messages in the delay lanes, by when they are due for certain; not cumulative."
)
HELD_UP = _of_broker("scheduled_held_up_messages", "", "Messages that are due and that their lane cannot hand on.")
PARKED = _of_broker("parked_messages", "", "Messages that were due for a queue that is gone.")

NODES_WANTED = _of_host("fleet_nodes_wanted", "queue", "Nodes that the settings want on this host.")
NODES_UP = _of_host("fleet_nodes_up", "queue", "Nodes of the queue on this host that are up.")
RESTARTS = _metric(
    "fleet_restarts_total",
    MetricType.COUNTER,
    "queue",
    MetricSource.HOST,
    "Nodes that had died and that `fleet supervise` started again.",
)
HUNG = _metric(
    "fleet_hung_total",
    MetricType.COUNTER,
    "queue",
    MetricSource.HOST,
    "Nodes that hung and that `fleet supervise` killed.",
)
SPOOLED = _of_host("spool_messages", "", "Tasks in the local spool.")
BUILD_INFO = _of_host("build_info", "version celery python", "1; the versions are its labels.")
FILES = _of_host("metrics_files", "state", "Files of processes that were read, or could not be.")
DROPPED_SERIES = _of_host("metrics_dropped_series", "", "Series that found no room in a process's file.")
SCRAPE_SECONDS = _of_host("metrics_scrape_seconds", "", "How long this answer took to make.")
