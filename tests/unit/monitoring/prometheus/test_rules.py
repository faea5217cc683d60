"""The rules for Prometheus: made from the settings, and each alert with its runbook."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from documents import ROOT

from broker_app.cli import main
from broker_app.metrics.catalogue import METRICS
from broker_app.monitoring.prometheus.dashboard import dashboard_text
from broker_app.monitoring.prometheus.rule import AlertRule, RecordingRule
from broker_app.monitoring.prometheus.rule_file import RUNBOOKS, groups, rules_text
from broker_app.settings import QueueSettings, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = ROOT / "config" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "config" / "grafana" / "dashboards" / "broker-app.json"


def alerts(settings: Settings | None = None, job: str = "broker-app") -> Iterator[AlertRule]:
    """Yield the alerts of these settings."""
    for group in groups(settings or Settings(), job):
        yield from (rule for rule in group.rules if isinstance(rule, AlertRule))


def recordings(settings: Settings, job: str = "broker-app") -> list[RecordingRule]:
    """Return what is recorded with these settings."""
    return [rule for group in groups(settings, job) for rule in group.rules if isinstance(rule, RecordingRule)]


def test_the_shipped_rules_are_those_of_the_shipped_settings() -> None:
    """config/prometheus/rules.yml is the command's output for config/broker.toml."""
    expected = rules_text(load_settings(ROOT / "config" / "broker.toml"))
    assert SHIPPED.read_text(encoding="utf-8") == expected, (
        "run `.venv/bin/broker-app metrics rules --output config/prometheus/rules.yml`"
    )


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    """docs/operations/alerts.md has one section for each alert, in their order, and the alert links to it."""
    page = (ROOT / RUNBOOKS).read_text(encoding="utf-8")
    sections = re.findall(r"^## (BrokerApp\w+)$", page, re.MULTILINE)
    assert sections == list(dict.fromkeys(alert.name for alert in alerts()))
    links = re.findall(r'runbook_url: "docs/operations/alerts\.md#(\w+)"', SHIPPED.read_text(encoding="utf-8"))
    assert set(links) == {section.lower() for section in sections}


@pytest.mark.parametrize("alert", list(alerts()), ids=lambda alert: f"{alert.name}{alert.window}")
def test_an_alert_says_what_is_the_matter_and_what_to_do(alert: AlertRule) -> None:
    """Each alert has a severity, one line of summary, and a description in whole sentences."""
    assert alert.severity in {"critical", "warning"}
    assert "\n" not in alert.summary
    assert len(alert.summary) < 130
    assert alert.description.endswith(".")
    assert alert.description != alert.summary


def test_every_rule_reads_what_is_there_and_of_its_job_alone() -> None:
    """Each series in an expression is a metric of ours or recorded by a rule, and of the job that was named."""
    settings = Settings()
    known = {rule.record for rule in recordings(settings, "shop")} | set(METRICS) | {"up"}
    rules = [rule for group in groups(settings, "shop") for rule in group.rules]
    for rule in rules:
        for name, matchers in re.findall(r"([a-z_:0-9]+)\{([^}]*)\}", rule.expr):
            assert re.sub(r"_(bucket|count)$", "", name) in known, rule
            assert matchers.startswith('job="shop"'), rule
        assert rule.expr.startswith("vector(") or "{" in rule.expr


def test_a_queue_without_an_objective_has_no_rule_on_it() -> None:
    """Only queues with an objective are held against one; limits of drain and lateness are there for each."""
    queues = {
        "default": QueueSettings(wait_objective_seconds=0.5, wait_objective_percent=95),
        "batch": QueueSettings(),
    }
    settings = Settings(queues=queues)
    of_batch = {rule.record: rule.expr for rule in recordings(settings) if rule.labels.get("queue") == "batch"}
    assert of_batch == {
        "queue:broker_app_drain_seconds:limit": "vector(600)",
        "queue:broker_app_task_late_seconds:limit": "vector(60)",
    }
    of_default = {rule.record: rule.expr for rule in recordings(settings) if rule.labels.get("queue") == "default"}
    assert of_default["queue:broker_app_wait_objective_seconds:setting"] == "vector(0.5)"
    assert of_default["queue:broker_app_wait_objective_budget:ratio"] == "vector(0.05)"
    assert 'queue="default",le="0.5"' in of_default["queue:broker_app_waited_too_long:ratio_rate1h"]


def test_the_command_writes_a_file_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With names of its own for job and runbooks; a folder that is not there is one line and leaves nothing."""
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    wanted = ["--job", 'a "b"', "--runbooks", "https://wiki.example.com/alerts"]
    assert run(main, ["metrics", "rules", "--output", "rules.yml", *wanted]).exit_code == 0
    text = Path("rules.yml").read_text(encoding="utf-8")
    assert text == rules_text(Settings(), 'a "b"', "https://wiki.example.com/alerts")
    assert 'runbook_url: "https://wiki.example.com/alerts#brokerappnoconsumer"' in text
    assert [path.name for path in tmp_path.iterdir()] == ["rules.yml"]
    said = run(main, ["metrics", "rules", "--output", "nowhere/rules.yml"])
    assert said.exit_code == 1
    assert "nowhere/rules.yml: expected a file that can be written" in said.stderr
    assert run(main, ["metrics", "rules"]).stdout == rules_text(Settings())


def test_the_shipped_dashboard_is_that_of_the_command() -> None:
    """config/grafana/dashboards/broker-app.json is what `broker-app metrics dashboard` writes."""
    assert DASHBOARD.read_text(encoding="utf-8") == dashboard_text(), (
        f"run `.venv/bin/broker-app metrics dashboard --output {DASHBOARD.relative_to(ROOT)}`"
    )
    assert CliRunner().invoke(main, ["metrics", "dashboard"]).stdout == dashboard_text()


def test_every_query_of_the_dashboard_reads_what_is_there() -> None:
    """Each series that a panel or a choice reads is one of ours, or recorded by a rule, with labels it has."""
    known = {rule.record: {"job", "queue"} for rule in recordings(Settings())}
    known |= {metric.name: {"job", "instance", *metric.labels} for metric in METRICS.values()}
    dashboard = json.loads(dashboard_text())
    exprs = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    exprs += [choice["query"] for choice in dashboard["templating"]["list"] if choice["type"] == "query"]
    assert len(exprs) > 40
    for expr in exprs:
        found = re.findall(r"([\w:]*broker_app[\w:]*)(?:\{([^}]*)\})?", expr)
        assert found, expr
        for name, matchers in found:
            series = re.sub(r"_(bucket|count|sum)$", "", name)
            assert series in known, expr
            assert set(re.findall(r"(\w+)=", matchers)) <= known[series], expr


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    """No panel covers another, none reaches beyond the edge, and each has an id of its own."""
    panels = json.loads(dashboard_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = set(
            product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
