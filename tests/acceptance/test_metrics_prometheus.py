"""The rules and the dashboard in the real Prometheus, on what a real fleet tells."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from documents import ROOT
from fleets import SCRIPTS, host
from prometheus import running_prometheus
from served import SEND, SHOP, serving
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management
    from prometheus import Prometheus

SECONDS = 90.0

SETTINGS = """
[queues.default]
wait_objective_seconds = 5.0
[queues.default.fleet]
nodes = 0
[queues.lopri]
wait_objective_seconds = 0.001
priorities = true
type = "classic"
[queues.lopri.fleet]
concurrency = 3
"""

CONFIG = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: shop
    http_sd_configs: [{url: URL/targets, refresh_interval: 1s}]
"""

MORE = """
import shop
from contextlib import suppress
from broker_app.errors import UnknownQueue
with suppress(UnknownQueue):
    shop.pack.apply_async([1], queue="lopry")
shop.pack.apply_async([1], queue="lopri", countdown=0.5)
shop.pack.apply_async([1], queue="default")
shop.app.send_task("<script>\\"\\\\\\n\\x00{}", queue="default")
"""

NEVER_HERE = {"Redelivered a second"}
"""Panels about what does not happen in the test."""


def panels() -> Iterator[tuple[str, str]]:
    """Yield title and expression of each query of the dashboard that is shipped, for all queues."""
    text = (ROOT / "config" / "grafana" / "dashboards" / "broker-app.json").read_text(encoding="utf-8")
    for panel in json.loads(text)["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval", "1m").replace("$job", "shop").replace("$queue", ".*")
            yield panel["title"], expr


def rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    """Return what Prometheus says of its rules."""
    return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]


@pytest.mark.timeout(300)
def test_rules_and_dashboard_in_prometheus(tmp_path: Path, fresh_vhost_url: str, management: Management) -> None:
    """Every rule evaluates, every query of the dashboard returns the work that was done, and the alerts fire."""
    with host(tmp_path / "project", fresh_vhost_url) as machine:
        machine.write(f'management_url = "{management.url}"\n[metrics]\nbroker_cache_seconds = 0.5\n{SETTINGS}')
        (machine.folder / "shop.py").write_text(SHOP)
        broker_app = (str(SCRIPTS / "broker-app"), "-A", "shop", "metrics")
        written = machine.run(*broker_app, "rules", "--job", "shop", "--output", str(tmp_path / "rules.yml"))
        assert written.returncode == 0, written.stderr
        machine.start("lopri", app="shop")
        with (
            serving(machine) as served,
            running_prometheus(tmp_path, CONFIG.replace("URL", served.url)) as prometheus,
        ):
            wait_until(lambda: prometheus.value("up") == 1, SECONDS, "a scrape")
            for code in (SEND, MORE):
                sent = machine.run(str(SCRIPTS / "python"), "-c", code)
                assert sent.returncode == 0, sent.stderr
            ended = 'sum(broker_app_tasks_finished_total{queue="lopri"})'
            wait_until(lambda: prometheus.value(ended) == 23, SECONDS, "23 tasks")
            check_alerts(prometheus)
            check_dashboard(prometheus)
            check_labels(prometheus)
            told = rules(prometheus)
            assert {rule["lastError"] for rule in told if "lastError" in rule} == set()
            assert {rule["health"] for rule in told} == {"ok"}


def check_labels(prometheus: Prometheus) -> None:
    """See that a task name made to do harm is a label like any other."""
    (hostile,) = prometheus.query('broker_app_tasks_published_total{task=~".*script.*"}')
    assert hostile["metric"]["task"] == '<script>"\\\ufffd\ufffd{}'
    assert hostile["value"][1] == "1"


def check_alerts(prometheus: Prometheus) -> None:
    """Wait for the alerts that fire at once, and see that those that hold for a while are pending."""
    firing = 'ALERTS{alertname="%s",alertstate="%s",queue="%s"}'
    for alert, state, queue in (
        ("BrokerAppDeadLettersArriving", "firing", "lopri"),
        ("BrokerAppPublishingRefused", "firing", "other"),
        ("BrokerAppWaitObjectiveBurning", "firing", "lopri"),
        ("BrokerAppNoConsumer", "pending", "default"),
    ):
        expr = firing % (alert, state, queue)
        wait_until(lambda expr=expr: prometheus.query(expr), SECONDS, expr)
    assert prometheus.value('count(ALERTS{alertname="BrokerAppNoConsumer",queue="lopri"})') is None
    down = 'count(ALERTS{alertname=~"BrokerApp(Broker|Metrics|Management)Down"})'
    wait_until(lambda: prometheus.value(down) is None, SECONDS, "every look at the broker to be answered")


def check_dashboard(prometheus: Prometheus) -> None:
    """Wait until each query has something to show."""
    silent = [(title, expr) for title, expr in panels() if title not in NEVER_HERE]
    assert len(silent) > 40

    def left() -> list[tuple[str, str]]:
        silent[:] = [(title, expr) for title, expr in silent if not prometheus.query(expr)]
        return silent

    try:
        wait_until(lambda: not left(), SECONDS, "every panel to show something")
    except AssertionError as error:
        raise AssertionError(f"nothing to show: {silent}") from error
    for title, expr in panels():
        if title in NEVER_HERE:
            assert prometheus.query(expr) == []
        assert re.search(r"broker_app[:_]", expr)
