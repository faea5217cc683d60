"""The alerts. Each has a section in docs/alerts.md that says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.metrics import catalogue
from broker_app.monitoring.prometheus import recording_rules as recorded
from broker_app.monitoring.prometheus.rule import AlertRule

if TYPE_CHECKING:
    from broker_app.metrics.catalogue import Metric
    from broker_app.monitoring.prometheus.rule import ScrapeJob

CRITICAL, WARNING = "critical", "warning"


@dataclass(frozen=True, slots=True)
class BurnRate:
    """How fast the budget of an objective may be used up (Google's SRE workbook, chapter 5, table 5-8).

    Attributes:
        rate: As a multiple of the rate that uses it up in 30 days.
        long: The window over which it must be used so fast.
        long_seconds: Its length.
        short: The window in which it must be so still: it lets the alert end soon after its cause.
        severity: Of the alert.
    """

    rate: float
    long: str
    long_seconds: int
    short: str
    severity: str


BURNS = (
    BurnRate(14.4, "1h", 3_600, "5m", CRITICAL),
    BurnRate(6, "6h", 21_600, "30m", CRITICAL),
    BurnRate(3, "1d", 86_400, "2h", WARNING),
    BurnRate(1, "3d", 259_200, "6h", WARNING),
)

BUSY_RATIO = 0.95
LATE_QUANTILE = 0.95
LEAST_TASKS = 1.5
"""That waited too long: one task is no trend."""

DEATHS = 2.5
"""Nodes that were started again in half an hour."""

NEW_WINDOW = "10m"
"""For how long after the last one a dead letter or a refused task is told."""

_QUEUE = "queue {{ $labels.queue }}"
_INSTANCE = "{{ if $labels.instance }}{{ $labels.instance }}{{ else }}all hosts{{ end }}"


def waiting(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return the alerts about tasks that wait too long."""
    late = f"rate({job.of(catalogue.LATE_SECONDS, part='_bucket')}[10m])"
    drain, limit = job.recorded(recorded.DRAIN), job.recorded(recorded.DRAIN_LIMIT)
    quantile = f"histogram_quantile({LATE_QUANTILE}, sum by (job, queue, le) ({late}))"
    return (
        *(_burning(job, burn) for burn in BURNS),
        AlertRule(
            "BrokerAppOldestTaskWaits",
            f"{job.recorded(recorded.OLDEST_WAIT)} > {job.recorded(recorded.OBJECTIVE)} {unpaused(job)}",
            5,
            WARNING,
            f"{_QUEUE}: its oldest task waits longer than the objective",
            "The task at the head has waited for {{ $value | humanizeDuration }}. A task that is not started "
            "counts in no objective yet. See whether the workers take anything: `broker-app fleet status`.",
        ),
        AlertRule(
            "BrokerAppQueueGrowing",
            f"{drain} > {limit} and deriv({job.recorded(recorded.READY)}[15m]) > 0 {unpaused(job)}",
            5,
            WARNING,
            f"{_QUEUE} grows: {{{{ $value | humanizeDuration }}}} of work wait",
            "At the rate of the last 5 minutes it takes {{ $value | humanizeDuration }} to empty the queue, if "
            "nothing were added. Look whether tasks became slow or many; give the fleet more slots or nodes.",
        ),
        AlertRule(
            "BrokerAppScheduleLate",
            f"{quantile} > {job.recorded(recorded.LATE_LIMIT)}",
            5,
            WARNING,
            f"{_QUEUE}: scheduled tasks start late",
            "One scheduled task in twenty starts more than {{ $value | humanizeDuration }} after its moment. "
            "Mostly the queue is full when they come due: compare with how long unscheduled tasks wait.",
        ),
        AlertRule(
            "BrokerAppScheduleHeldUp",
            f"max by (job) ({job.of(catalogue.HELD_UP)}) > 0",
            5,
            CRITICAL,
            "{{ $value }} scheduled tasks are due and stay in their lane",
            "A delay lane cannot hand its messages on: the next queue is full, or has no leader. See what "
            "the broker says of its queues, and what differs from the settings: `broker-app topology plan`.",
        ),
    )


def workers(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return the alerts about those who should do the work."""
    wanted, up = job.of(catalogue.NODES_WANTED), job.of(catalogue.NODES_UP)
    ready, busy = job.recorded(recorded.READY), job.recorded(recorded.BUSY)
    return (
        AlertRule(
            "BrokerAppNoConsumer",
            f"{job.recorded(recorded.CONSUMERS)} == 0 and {ready} > 0 {unpaused(job)}",
            2,
            CRITICAL,
            f"{_QUEUE}: tasks wait and nobody takes them",
            "No worker consumes from the queue. `broker-app fleet status` on the hosts of its fleet, then "
            "`broker-app fleet start`.",
        ),
        AlertRule(
            "BrokerAppFleetShort",
            f"{wanted} - {up} > 0",
            5,
            WARNING,
            f"{_QUEUE}: {{{{ $value }}}} nodes of its fleet are missing on {{{{ $labels.instance }}}}",
            "Fewer nodes are up than the settings want. `broker-app fleet status` says which and the end of their "
            "logs; `broker-app fleet start` starts those that are missing.",
        ),
        AlertRule(
            "BrokerAppNodesDying",
            f"sum by (job, instance, queue) (increase({job.of(catalogue.RESTARTS)}[30m])) > {DEATHS}",
            0,
            WARNING,
            f"{_QUEUE}: nodes on {{{{ $labels.instance }}}} die again and again",
            "`fleet supervise` has started nodes that had died {{ $value | humanize }} times in half an hour. "
            "`broker-app fleet status` shows the end of their logs.",
        ),
        AlertRule(
            "BrokerAppPoolSaturated",
            f"avg_over_time({busy}[15m]) > {BUSY_RATIO} and {ready} > 0",
            5,
            WARNING,
            f"{_QUEUE}: {{{{ $value | humanizePercentage }}}} of its slots are busy, and tasks wait",
            "All slots have been busy for a quarter of an hour. `broker-app advise` says whether more slots would "
            "help; else more nodes.",
        ),
    )


def unpaused(job: ScrapeJob) -> str:
    """Return what leaves out the queues that are paused: there nothing is taken on purpose."""
    return f"unless {job.recorded(recorded.PAUSED)} == 1"


def losses(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return the alerts about tasks that were given up, refused or parked."""
    return (
        AlertRule(
            "BrokerAppDeadLettersArriving",
            f"sum by (job, queue, reason) ({_new(job, catalogue.DEAD_LETTERS)}) > 0",
            0,
            WARNING,
            f"{_QUEUE}: tasks are given up ({{{{ $labels.reason }}}})",
            f"{{{{ $value | humanize }}}} in the last {NEW_WINDOW}. "
            "`broker-app queues peek {{ $labels.queue }}.dead` shows why; after the cure "
            "`broker-app queues replay {{ $labels.queue }}.dead`.",
        ),
        AlertRule(
            "BrokerAppPublishingRefused",
            f"sum by (job, queue, reason) ({_new(job, catalogue.REFUSED)}) > 0",
            0,
            WARNING,
            f"{_QUEUE}: tasks are not published ({{{{ $labels.reason }}}})",
            f"{{{{ $value | humanize }}}} in the last {NEW_WINDOW}; each was an exception in its caller. The "
            "reason says whether the broker, the queue or the caller is at fault.",
        ),
        AlertRule(
            "BrokerAppPauseForgotten",
            f"{job.recorded(recorded.PAUSED)} == 1 and {job.recorded(recorded.READY)} > 0",
            60,
            WARNING,
            f"{_QUEUE} has been paused for an hour, and tasks wait",
            "Nothing of it is taken on any host, on purpose. `broker-app resume {{ $labels.queue }}` ends it.",
        ),
        AlertRule(
            "BrokerAppUnrouted",
            f"max by (job) ({job.of(catalogue.PARKED)}) > 0",
            1,
            WARNING,
            "{{ $value }} scheduled tasks came due for a queue that is gone",
            "They are parked and nothing is lost. `broker-app queues unrouted` shows them; declare the queue "
            "again, or send them to another: `broker-app queues unrouted --replay --to QUEUE`.",
        ),
        AlertRule(
            "BrokerAppSpoolFilling",
            f"{job.of(catalogue.SPOOLED)} > 0",
            5,
            WARNING,
            "{{ $value }} tasks wait in the spool of {{ $labels.instance }}",
            "Producers of this host could not reach the broker, and their tasks wait on its disk. "
            "`broker-app spool status`; when the broker is back they are sent, or with `broker-app spool flush`.",
        ),
    )


def broker(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return the alerts about the broker, and about our own sight."""
    up = job.up()
    unreadable = job.of(catalogue.FILES, 'state="unreadable"')
    management, is_up = job.of(catalogue.MANAGEMENT_UP), job.of(catalogue.BROKER_UP)
    return (
        AlertRule(
            "BrokerAppBrokerDown",
            f"{is_up} == 0",
            1,
            CRITICAL,
            "{{ $labels.instance }} cannot reach the broker",
            "Neither the management API nor AMQP answers. Nothing is published from there, and its workers wait. "
            "`broker-app check --broker` on that host says why.",
        ),
        AlertRule(
            "BrokerAppManagementDown",
            f"{management} == 0 and {is_up} == 1",
            10,
            WARNING,
            "{{ $labels.instance }} cannot read the broker's management API",
            "The broker works, but waits, priorities, scheduled and held messages are not known. The server's log "
            "says what was refused: `management_url`, or the user lacks the tag `monitoring`.",
        ),
        AlertRule(
            "BrokerAppMetricsDown",
            f"{up} == 0 or absent({up})",
            2,
            CRITICAL,
            f"the metrics of {_INSTANCE} cannot be scraped",
            "`broker-app metrics serve` does not answer there, or Prometheus knows no such target. The work "
            "goes on unseen, and none of the other alerts can fire.",
        ),
        AlertRule(
            "BrokerAppMetricsIncomplete",
            f"{unreadable} > 0 or {job.of(catalogue.DROPPED_SERIES)} > 0",
            10,
            WARNING,
            "some of what {{ $labels.instance }} counts is not shown",
            "{{ $value }} files cannot be read, or series found no room. The server's log names them.",
        ),
    )


def alerts(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return all alerts."""
    return (*waiting(job), *workers(job), *losses(job), *broker(job))


def _burning(job: ScrapeJob, burn: BurnRate) -> AlertRule:
    limit = f"{burn.rate:g} * {job.recorded(recorded.BUDGET)}"
    over, still = (job.recorded(recorded.too_long(window)) for window in (burn.long, burn.short))
    number = f"{over} * {job.recorded(recorded.started(burn.long))} * {burn.long_seconds}"
    return AlertRule(
        "BrokerAppWaitObjectiveBurning",
        f"{over} > {limit} and {still} > {limit} and {number} > {LEAST_TASKS}",
        0,
        burn.severity,
        f"{_QUEUE}: {{{{ $value | humanizePercentage }}}} of its tasks waited too long in the last {burn.long}",
        f"The objective is missed {burn.rate:g} times as often as it may be, over {burn.long} and still "
        f"in the last {burn.short}. See what holds the queue up: too few slots, slow tasks, a flood, no worker.",
        burn.long,
    )


def _new(job: ScrapeJob, metric: Metric) -> str:
    """Return by how much each series grew of late.

    A series that was not there before began at 0, which ``increase`` does not know. It is such a one if it is in
    fewer scrapes than its server answered; all of them are new to a Prometheus that has just begun.
    """
    series = job.of(metric)
    scrapes = f"sum_over_time({job.up()}[{NEW_WINDOW}])"
    is_late = f"count_over_time({series}[{NEW_WINDOW}]) < on (job, instance) group_left () {scrapes}"
    begun = f"({series} unless {series} offset {NEW_WINDOW}) and ({is_late})"
    return f"{begun} or increase({series}[{NEW_WINDOW}])"
