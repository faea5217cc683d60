"""The rules for Prometheus, made from the settings, as the text of its rule file."""

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
"""The name of the scrape configuration, unless told."""

RUNBOOKS = "docs/alerts.md"
"""Where the sections about the alerts are, unless told."""

_HEAD = "# Made by `broker-app metrics rules` from the settings: write it anew when they change.\n"


def groups(settings: Settings, job: str = JOB) -> tuple[RuleGroup, ...]:
    """Return the rules; those that others build on come first.

    Args:
        settings: Whose queues and objectives.
        job: Name of Prometheus' scrape configuration.
    """
    ours = ScrapeJob(job)
    return (
        RuleGroup(f"{job}-queues", recording_rules.of_all_queues(ours)),
        RuleGroup(f"{job}-objectives", recording_rules.of_settings(ours, settings)),
        RuleGroup(f"{job}-alerts", alerts.alerts(ours)),
    )


def rules_text(settings: Settings, job: str = JOB, runbooks: str = RUNBOOKS) -> str:
    """Return the rule file, YAML with every text in JSON's quotes.

    Args:
        settings: Whose queues and objectives.
        job: Name of Prometheus' scrape configuration.
        runbooks: Address of docs/alerts.md as people reach it.
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
    """Return a text as YAML, of which a text in JSON is one (yaml.org/spec/1.2, 1.3)."""
    return json.dumps(text, ensure_ascii=False)
