"""Prometheus' recording and alerting rules as values, and how a series of ours is named in them."""

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
    """A series that Prometheus computes and keeps.

    Attributes:
        record: Its name, in Prometheus' form ``level:metric:operation``.
        expr: What is computed.
        labels: That it gets besides those of the expression.
    """

    record: str
    expr: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AlertRule:
    """Something that a person should know.

    Attributes:
        name: In CamelCase; the runbook has a section of this name.
        expr: Fires for each series that it gives.
        hold_minutes: How long it must hold before it fires.
        severity: ``critical``: somebody should come now; ``warning``: in the hours of work.
        window: Over which it looks, where alerts of one name differ by it.
        summary: One line.
        description: What is the matter and the first thing to do.
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
    """Rules that are evaluated one after the other.

    Attributes:
        name: In the whole file only once.
        rules: In their order.
    """

    name: str
    rules: tuple[RecordingRule | AlertRule, ...]


@dataclass(frozen=True, slots=True)
class ScrapeJob:
    """The name under which Prometheus scrapes our servers: it tells two projects in one Prometheus apart.

    Attributes:
        name: Of the scrape configuration.
    """

    name: str

    def of(self, metric: Metric, labels: str = "", part: str = "") -> str:
        """Return a selector of a metric of this job.

        Args:
            metric: Which.
            labels: Further matchers, as PromQL has them.
            part: ``_bucket`` or ``_count`` of a histogram.
        """
        matchers = ",".join(filter(None, (self._matcher(), labels)))
        return f"{metric.name}{part}{{{matchers}}}"

    def recorded(self, name: str) -> str:
        """Return the selector of a series that a rule of this job records."""
        return f"{name}{{{self._matcher()}}}"

    def up(self) -> str:
        """Return the selector of Prometheus' own series about its scrapes."""
        return f"up{{{self._matcher()}}}"

    def _matcher(self) -> str:
        return f"job={json.dumps(self.name)}"
