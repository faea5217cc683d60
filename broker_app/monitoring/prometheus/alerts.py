"""Alerting rules. Each has a section in docs/operations/alerts.md that says what to do."""

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
    """Burn rate of an error budget that triggers an alert (Google's SRE workbook, chapter 5, table 5-8).

    Attributes:
        rate: Multiple of the rate that spends the budget in 30 days.
        long: Long window, over which the rate must be exceeded.
        long_seconds: Length of the long window.
        short: Short window, in which the rate must still be exceeded, so that the alert resolves quickly.
        severity: Severity of the alert.
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
"""Minimum of tasks that waited too long; a single one does not alert."""

DEATHS = 2.5
"""Restarts of nodes within half an hour."""

NEW_WINDOW = "10m"
"""Time that the alert keeps firing after the last dead letter or refused task."""

_QUEUE = "queue {{ $labels.queue }}"
_INSTANCE = "{{ if $labels.instance }}{{ $labels.instance }}{{ else }}all hosts{{ end }}"


def waiting(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return the alerts for tasks that wait too long."""
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
            "The task at the head has waited for {{ $value | humanizeDuration }}. Tasks that have not started "
            "are not yet counted in the objective. Check that the workers consume: `broker-app fleet status`.",
        ),
        AlertRule(
            "BrokerAppQueueGrowing",
            f"{drain} > {limit} and deriv({job.recorded(recorded.READY)}[15m]) > 0 {unpaused(job)}",
            5,
            WARNING,
            f"{_QUEUE} grows: {{{{ $value | humanizeDuration }}}} of work is waiting",
            "At the rate of the last 5 minutes it takes {{ $value | humanizeDuration }} to empty the queue, even "
            "without new tasks. Check whether tasks became slower or more frequent, or give the fleet more slots.",
        ),
        AlertRule(
            "BrokerAppScheduleLate",
            f"{quantile} > {job.recorded(recorded.LATE_LIMIT)}",
            5,
            WARNING,
            f"{_QUEUE}: scheduled tasks start late",
            "One scheduled task in twenty starts more than {{ $value | humanizeDuration }} after its due time. "
            "Usually the queue is full when they come due: compare with how long unscheduled tasks wait.",
        ),
        AlertRule(
            "BrokerAppScheduleHeldUp",
            f"max by (job) ({job.of(catalogue.HELD_UP)}) > 0",
            5,
            CRITICAL,
            "{{ $value }} scheduled tasks are due but stuck in their delay lane",
            "A delay lane cannot pass its messages on: the next queue is full or has no leader. Check the state "
            "of the queues on the broker, and how they differ from the settings: `broker-app topology plan`.",
        ),
    )


def workers(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return the alerts for workers."""
    wanted, up = job.of(catalogue.NODES_WANTED), job.of(catalogue.NODES_UP)
    ready, busy = job.recorded(recorded.READY), job.recorded(recorded.BUSY)
    return (
        AlertRule(
            "BrokerAppNoConsumer",
            f"{job.recorded(recorded.CONSUMERS)} == 0 and {ready} > 0 {unpaused(job)}",
            2,
            CRITICAL,
            f"{_QUEUE}: tasks wait and there is no consumer",
            "No worker consumes from the queue. Run `broker-app fleet status` on the hosts of its fleet, then "
            "`broker-app fleet start`.",
        ),
        AlertRule(
            "BrokerAppFleetShort",
            f"{wanted} - {up} > 0",
            5,
            WARNING,
            f"{_QUEUE}: {{{{ $value }}}} nodes of its fleet are missing on {{{{ $labels.instance }}}}",
            "Fewer nodes are up than the settings require. `broker-app fleet status` lists them with the end of "
            "their logs; `broker-app fleet start` starts the missing ones.",
        ),
        AlertRule(
            "BrokerAppNodesDying",
            f"sum by (job, instance, queue) (increase({job.of(catalogue.RESTARTS)}[30m])) > {DEATHS}",
            0,
            WARNING,
            f"{_QUEUE}: nodes on {{{{ $labels.instance }}}} keep dying",
            "`fleet supervise` has restarted dead nodes {{ $value | humanize }} times in half an hour. "
            "`broker-app fleet status` shows the end of their logs.",
        ),
        AlertRule(
            "BrokerAppPoolSaturated",
            f"avg_over_time({busy}[15m]) > {BUSY_RATIO} and {ready} > 0",
            5,
            WARNING,
            f"{_QUEUE}: {{{{ $value | humanizePercentage }}}} of its slots are busy, and tasks wait",
            "All slots have been busy for 15 minutes. `broker-app advise` says whether more slots would help; "
            "otherwise add nodes.",
        ),
    )


def unpaused(job: ScrapeJob) -> str:
    """Return the PromQL clause that excludes paused queues, which are not consumed on purpose."""
    return f"unless {job.recorded(recorded.PAUSED)} == 1"


def losses(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return the alerts for tasks that were dead-lettered, refused or parked."""
    return (
        AlertRule(
            "BrokerAppDeadLettersArriving",
            f"sum by (job, queue, reason) ({_new(job, catalogue.DEAD_LETTERS)}) > 0",
            0,
            WARNING,
            f"{_QUEUE}: tasks are dead-lettered ({{{{ $labels.reason }}}})",
            f"{{{{ $value | humanize }}}} in the last {NEW_WINDOW}. "
            "`broker-app queues peek {{ $labels.queue }}.dead` shows why; once the cause is fixed, run "
            "`broker-app queues replay {{ $labels.queue }}.dead`.",
        ),
        AlertRule(
            "BrokerAppPublishingRefused",
            f"sum by (job, queue, reason) ({_new(job, catalogue.REFUSED)}) > 0",
            0,
            WARNING,
            f"{_QUEUE}: tasks are not published ({{{{ $labels.reason }}}})",
            f"{{{{ $value | humanize }}}} in the last {NEW_WINDOW}; each raised an exception in its caller. The "
            "reason says whether the broker, the queue or the caller is at fault.",
        ),
        AlertRule(
            "BrokerAppPauseForgotten",
            f"{job.recorded(recorded.PAUSED)} == 1 and {job.recorded(recorded.READY)} > 0",
            60,
            WARNING,
            f"{_QUEUE} has been paused for an hour, and tasks wait",
            "No host consumes a paused queue. `broker-app resume {{ $labels.queue }}` resumes it.",
        ),
        AlertRule(
            "BrokerAppUnrouted",
            f"max by (job) ({job.of(catalogue.PARKED)}) > 0",
            1,
            WARNING,
            "{{ $value }} scheduled tasks came due for a queue that no longer exists",
            "They are parked; nothing is lost. `broker-app queues unrouted` lists them. Declare the queue "
            "again, or send them to another queue: `broker-app queues unrouted --replay --to QUEUE`.",
        ),
        AlertRule(
            "BrokerAppSpoolFilling",
            f"{job.of(catalogue.SPOOLED)} > 0",
            5,
            WARNING,
            "{{ $value }} tasks wait in the spool of {{ $labels.instance }}",
            "Producers of this host could not reach the broker, so their tasks wait on its disk: "
            "`broker-app spool status`. They are sent when the broker is back, or by `broker-app spool flush`.",
        ),
    )


def broker(job: ScrapeJob) -> tuple[AlertRule, ...]:
    """Return the alerts for the broker and for the monitoring itself."""
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
            "Neither the management API nor AMQP answers. Producers there cannot publish, and its workers wait. "
            "Run `broker-app check --broker` on that host to see why.",
        ),
        AlertRule(
            "BrokerAppManagementDown",
            f"{management} == 0 and {is_up} == 1",
            10,
            WARNING,
            "{{ $labels.instance }} cannot read the broker's management API",
            "The broker works, but waits, priorities, scheduled and held messages are unknown. The server's log "
            "gives the reason: a wrong `management_url`, or a user without the tag `monitoring`.",
        ),
        AlertRule(
            "BrokerAppMetricsDown",
            f"{up} == 0 or absent({up})",
            2,
            CRITICAL,
            f"the metrics of {_INSTANCE} cannot be scraped",
            "`broker-app metrics serve` does not answer there, or Prometheus has no such target. Tasks still "
            "run, but unmonitored: none of the other alerts can fire.",
        ),
        AlertRule(
            "BrokerAppMetricsIncomplete",
            f"{unreadable} > 0 or {job.of(catalogue.DROPPED_SERIES)} > 0",
            10,
            WARNING,
            "some metrics of {{ $labels.instance }} are missing",
            "{{ $value }} files cannot be read, or series did not fit. The server's log names them.",
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
        f"The objective is missed more than {burn.rate:g} times as often as allowed, over {burn.long} and still "
        f"in the last {burn.short}. Find the bottleneck: too few slots, slow tasks, a burst, or no worker.",
        burn.long,
    )


def _new(job: ScrapeJob, metric: Metric) -> str:
    """Return the PromQL for the recent increase of each series.

    A series that did not exist before started at 0, but ``increase`` ignores that first step. A series counts as
    new if it appears in fewer scrapes than its server answered; otherwise all series would be new to a
    Prometheus that has just started.
    """
    series = job.of(metric)
    scrapes = f"sum_over_time({job.up()}[{NEW_WINDOW}])"
    is_late = f"count_over_time({series}[{NEW_WINDOW}]) < on (job, instance) group_left () {scrapes}"
    begun = f"({series} unless {series} offset {NEW_WINDOW}) and ({is_late})"
    return f"{begun} or increase({series}[{NEW_WINDOW}])"
