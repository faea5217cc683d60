"""Prometheus rule file, generated from the settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from broker_app.monitoring.prometheus import alerts, recording_rules
from broker_app.monitoring.prometheus.rule import RecordingRule, RuleGroup, ScrapeJob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app.monitoring.prometheus.rule import AlertRule
    from broker_app.settings import Settings

JOB = "broker-app"
"""Default ``job_name`` of the scrape configuration."""

RUNBOOKS = "docs/operations/alerts.md"
"""Default address of the runbook."""

_HEAD = "# Made by `broker-app metrics rules` from the settings: regenerate it when they change.\n"


def groups(settings: Settings, job: str = JOB) -> tuple[RuleGroup, ...]:
    """Return the rule groups; recording rules come before the alerts that use them.

    Args:
        settings: Settings with the queues and their objectives.
        job: ``job_name`` of the scrape configuration.
    """
    ours = ScrapeJob(job)
    return (
        RuleGroup(f"{job}-queues", recording_rules.of_all_queues(ours)),
        RuleGroup(f"{job}-objectives", recording_rules.of_settings(ours, settings)),
        RuleGroup(f"{job}-alerts", alerts.alerts(ours)),
    )


def rules_text(settings: Settings, job: str = JOB, runbooks: str = RUNBOOKS) -> str:
    """Return the rule file as YAML, with every string JSON-quoted.

    Args:
        settings: Settings with the queues and their objectives.
        job: ``job_name`` of the scrape configuration.
        runbooks: Address of docs/operations/alerts.md for the ``runbook_url`` annotation.
    """
    lines = ["groups:"]
    for group in groups(settings, job):
        lines += [f"  - name: {_quoted(group.name)}", "    rules:"]
        for rule in group.rules:
            lines += _recording(rule) if isinstance(rule, RecordingRule) else _alert(rule, runbooks)
    return _HEAD + "\n".join(lines) + "\n"


def _recording(rule: RecordingRule) -> Iterator[str]:
    yield f"      - record: {rule.record}"
    yield f"        expr: {_quoted(rule.expr)}"
    yield from _table("labels", dict(rule.labels))


def _alert(rule: AlertRule, runbooks: str) -> Iterator[str]:
    yield f"      - alert: {rule.name}"
    yield f"        expr: {_quoted(rule.expr)}"
    if rule.hold_minutes:
        yield f"        for: {rule.hold_minutes}m"
    yield from _table("labels", {"severity": rule.severity} | ({"window": rule.window} if rule.window else {}))
    texts = {"summary": rule.summary, "description": rule.description}
    yield from _table("annotations", texts | {"runbook_url": f"{runbooks}#{rule.name.lower()}"})


def _table(name: str, values: dict[str, str]) -> Iterator[str]:
    if values:
        yield f"        {name}:"
        for key, value in values.items():
            yield f"          {key}: {_quoted(value)}"


def _quoted(text: str) -> str:
    """Return a string in JSON, which is valid YAML (yaml.org/spec/1.2, 1.3)."""
    return json.dumps(text, ensure_ascii=False)
