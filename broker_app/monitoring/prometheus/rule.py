"""Recording and alerting rules as values, and selectors for the series that they use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.metrics.catalogue import Metric

BY_QUEUE = "by (job, queue)"


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A recording rule.

    Attributes:
        record: Name of the series, in the form ``level:metric:operation``.
        expr: PromQL expression.
        labels: Labels added to those of the expression.
    """

    record: str
    expr: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alerting rule.

    Attributes:
        name: Name in CamelCase; the runbook has a section of this name.
        expr: PromQL expression; the alert fires for each series that it returns.
        hold_minutes: Time that the expression must hold before the alert fires.
        severity: ``critical``: page someone now; ``warning``: look at it during working hours.
        window: Window of the expression, to tell alerts of the same name apart.
        summary: One line.
        description: The problem, and the first step to solve it.
    """

    name: str
    expr: str
    hold_minutes: int
    severity: str
    summary: str
    description: str
    window: str = ""


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """A group of rules, evaluated in sequence.

    Attributes:
        name: Name, unique in the file.
        rules: Rules in evaluation order.
    """

    name: str
    rules: tuple[RecordingRule | AlertRule, ...]


@dataclass(frozen=True, slots=True)
class ScrapeJob:
    """A Prometheus scrape job; its label separates several projects in one Prometheus.

    Attributes:
        name: ``job_name`` of the scrape configuration.
    """

    name: str

    def of(self, metric: Metric, labels: str = "", part: str = "") -> str:
        """Return a selector of a metric of this job.

        Args:
            metric: The metric.
            labels: Additional label matchers in PromQL.
            part: ``_bucket`` or ``_count`` of a histogram.
        """
        matchers = ",".join(filter(None, (self._matcher(), labels)))
        return f"{metric.name}{part}{{{matchers}}}"

    def recorded(self, name: str) -> str:
        """Return a selector of a recorded series of this job."""
        return f"{name}{{{self._matcher()}}}"

    def up(self) -> str:
        """Return a selector of the ``up`` series of this job."""
        return f"up{{{self._matcher()}}}"

    def _matcher(self) -> str:
        return f"job={json.dumps(self.name)}"
