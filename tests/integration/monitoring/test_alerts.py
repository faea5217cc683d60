"""The alerts in Prometheus' own hands: each fires when it must, and all others are silent meanwhile.

Each scenario is a healthy hour with something changed. ``promtool test rules`` evaluates the real rules over
it and compares all alerts that fire at its end, so a scenario of one alert is also a negative test of all
others.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from documents import ROOT
from prometheus import program

from broker_app.monitoring.prometheus.rule import AlertRule
from broker_app.monitoring.prometheus.rule_file import groups, rules_text
from broker_app.settings import QueueSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SETTINGS = Settings(
    queues={"default": QueueSettings(wait_objective_seconds=5.0), "batch": QueueSettings()},
    default_queue="default",
)
SHIPPED = ROOT / "config" / "prometheus"
JOB = 'job="broker-app"'
HOST = f'{JOB},instance="one:9480"'

UP = f"up{{{HOST}}}"
READY = f'broker_app_queue_ready_messages{{{HOST},queue="default"}}'
CONSUMERS = f'broker_app_queue_consumers{{{HOST},queue="default"}}'
OLDEST = f'broker_app_queue_oldest_wait_seconds{{{HOST},queue="default"}}'
BUSY = f'broker_app_worker_slots_busy{{{HOST},queue="default",node="default@one"}}'
NODES_UP = f'broker_app_fleet_nodes_up{{{HOST},queue="default"}}'
WAITED = f'broker_app_task_waited_seconds_count{{{HOST},queue="default",node="default@one"}}'
IN_TIME = f'broker_app_task_waited_seconds_bucket{{{HOST},queue="default",node="default@one",le="5.0"}}'
FINISHED = (
    f'broker_app_tasks_finished_total{{{HOST},queue="default",task="t",outcome="succeeded",node="default@one"}}'
)
DEAD = f'broker_app_dead_letters_total{{{HOST},queue="default",reason="failed",node="default@one"}}'
REFUSED = f'broker_app_tasks_refused_total{{{HOST},queue="other",task="t",reason="routing"}}'
BROKER_UP = f"broker_app_broker_up{{{HOST}}}"
MANAGEMENT_UP = f"broker_app_broker_management_up{{{HOST}}}"
PAUSED = f'broker_app_queue_paused{{{HOST},queue="default"}}'
RESTARTS = f'broker_app_fleet_restarts_total{{{HOST},queue="default"}}'
HELD_UP = f"broker_app_scheduled_held_up_messages{{{HOST}}}"
PARKED = f"broker_app_parked_messages{{{HOST}}}"
SPOOLED = f"broker_app_spool_messages{{{HOST}}}"
UNREADABLE = f'broker_app_metrics_files{{{HOST},state="unreadable"}}'
DROPPED = f"broker_app_metrics_dropped_series{{{HOST}}}"


def late(bound: str) -> str:
    """Return the series of a bucket of the lateness."""
    return f'broker_app_task_late_seconds_bucket{{{HOST},queue="default",node="default@one",le="{bound}"}}'


HEALTHY = {
    UP: "1x60",
    READY: "3x60",
    CONSUMERS: "1x60",
    OLDEST: "0.2x60",
    BUSY: "4x60",
    f'broker_app_worker_slots{{{HOST},queue="default",node="default@one"}}': "8x60",
    f'broker_app_fleet_nodes_wanted{{{HOST},queue="default"}}': "1x60",
    NODES_UP: "1x60",
    WAITED: "0+1000x60",
    IN_TIME: "0+1000x60",
    FINISHED: "0+1000x60",
    DEAD: "5x60",
    BROKER_UP: "1x60",
    MANAGEMENT_UP: "1x60",
    PAUSED: "0x61",
    RESTARTS: "2x60",
    HELD_UP: "0x60",
    PARKED: "0x60",
    SPOOLED: "0x60",
    UNREADABLE: "0x60",
    DROPPED: "0x60",
    late("1.0"): "0+100x60",
    late("30.0"): "0+100x60",
    late("+Inf"): "0+100x60",
}


@dataclass(frozen=True)
class Scenario:
    """A healthy hour with something changed.

    Attributes:
        name: What is the matter.
        firing: The alerts that fire, each as its name and the labels in question.
        changed: Values by series, one a minute; None is a series that is not there.
        minute: At which it is looked at.
    """

    name: str
    firing: tuple[str, ...]
    changed: Mapping[str, str | None] = field(default_factory=dict)
    minute: int = 60


def burning(*windows: str) -> tuple[str, ...]:
    """Return the alerts of the objective of these windows."""
    return tuple(f'BrokerAppWaitObjectiveBurning queue="default" window="{window}"' for window in windows)


def one(name: str, *labels: str) -> tuple[str, ...]:
    """Return one alert."""
    return (" ".join((name, *labels)),)


DEFAULT = 'queue="default"'
GROWING = one("BrokerAppQueueGrowing", DEFAULT)
NO_CONSUMER = one("BrokerAppNoConsumer", DEFAULT)
SATURATED = one("BrokerAppPoolSaturated", DEFAULT)
DEAD_ARRIVE = one("BrokerAppDeadLettersArriving", DEFAULT, 'reason="failed"')
REFUSING = one("BrokerAppPublishingRefused", 'queue="other"', 'reason="routing"')

SCENARIOS = (
    Scenario("all is well", ()),
    Scenario("a minute after the start", (), minute=1),
    Scenario("0.9 % wait too long", (), {IN_TIME: "0+991x60"}),
    Scenario("2 % wait too long", burning("3d"), {IN_TIME: "0+980x60"}),
    Scenario("4 % wait too long", burning("1d", "3d"), {IN_TIME: "0+960x60"}),
    Scenario("10 % wait too long", burning("6h", "1d", "3d"), {IN_TIME: "0+900x60"}),
    Scenario("20 % wait too long", burning("1h", "6h", "1d", "3d"), {IN_TIME: "0+800x60"}),
    Scenario(
        "all waited too long until 10 minutes ago", burning("6h", "1d", "3d"), {IN_TIME: "0x50 1000+1000x10"}
    ),
    Scenario("one of two tasks waited too long", (), {WAITED: "0x30 1 2x30", IN_TIME: "0x30 0 1x30"}, 33),
    Scenario(
        "two of three tasks did",
        burning("1h", "6h", "1d", "3d"),
        {WAITED: "0x30 1 3x30", IN_TIME: "0x31 1x30"},
        33,
    ),
    Scenario("nothing to do", (), {WAITED: "100x60", IN_TIME: "50x60", FINISHED: "100x60", READY: "0x60"}),
    Scenario("the oldest waits for 8 s", one("BrokerAppOldestTaskWaits", DEFAULT), {OLDEST: "0.2x54 8x6"}),
    Scenario("the oldest waits for 8 s for 4 minutes only", (), {OLDEST: "0.2x56 8x4"}),
    Scenario("the oldest waits for 4 s", (), {OLDEST: "4x60"}),
    Scenario("a flood that takes 20 minutes", GROWING, {READY: "3x30 10000+500x30"}),
    Scenario("a flood that is drained", (), {READY: "20000-200x60"}),
    Scenario("a long queue that neither grows nor shrinks", (), {READY: "20000x60"}),
    Scenario("a growing queue that is drained in 5 minutes", (), {READY: "0+80x60"}),
    Scenario("nothing ends any more", GROWING, {READY: "3x30 10+1x30", FINISHED: "0+1000x30 30000x30"}),
    Scenario("nobody consumes", NO_CONSUMER, {CONSUMERS: "1x57 0x3"}),
    Scenario("no consumer for a minute", (), {CONSUMERS: "1x58 0x2"}, 59),
    Scenario("no consumer, and no message", (), {CONSUMERS: "0x60", READY: "0x60"}),
    Scenario(
        "a paused queue",
        (),
        {PAUSED: "0x20 1x40", CONSUMERS: "1x20 0x40", READY: "3x20 9+900x40", OLDEST: "60x60"},
    ),
    Scenario("a pause is forgotten", one("BrokerAppPauseForgotten", DEFAULT), {PAUSED: "1x61"}),
    Scenario("a pause, and nothing waits", (), {PAUSED: "1x61", READY: "0x61"}),
    Scenario("nodes die", one("BrokerAppNodesDying", DEFAULT), {RESTARTS: "2x40 3 4 5 6x17"}),
    Scenario("a node died", (), {RESTARTS: "2x40 3x20"}),
    Scenario("a node is missing", one("BrokerAppFleetShort", DEFAULT), {NODES_UP: "1x54 0x6"}),
    Scenario("a node was away for 3 minutes", (), {NODES_UP: "1x50 0x3 1x7"}),
    Scenario("a node too many", (), {NODES_UP: "2x60"}),
    Scenario("all slots are busy and tasks wait", SATURATED, {BUSY: "8x60"}),
    Scenario("all slots are busy and nothing waits", (), {BUSY: "8x60", READY: "0x60"}),
    Scenario("all slots have been busy for 10 minutes", (), {BUSY: "2x50 8x10"}),
    Scenario("a task is given up", DEAD_ARRIVE, {DEAD: "5x55 6x5"}),
    Scenario("a task was given up half an hour ago", (), {DEAD: "5x30 6x30"}),
    Scenario("the first dead letter of a new node", DEAD_ARRIVE, {DEAD: "_x55 1x5"}),
    Scenario("a node is forgotten and comes again", (), {DEAD: "5x30 _x10 0x20"}),
    Scenario("Prometheus starts late", (), {DEAD: "_x55 7x5", UP: "_x55 1x5"}),
    Scenario("a dead letter soon after Prometheus' start", DEAD_ARRIVE, {DEAD: "_x55 1x5", UP: "_x52 1x8"}),
    Scenario("a file could not be read for a minute", (), {DEAD: "5x52 _ 5x7"}),
    Scenario("a call is refused", REFUSING, {REFUSED: "_x58 1x2"}),
    Scenario("calls were refused half an hour ago", (), {REFUSED: "_x30 1x30"}),
    Scenario("scheduled tasks start 20 s late", one("BrokerAppScheduleLate", DEFAULT), {late("1.0"): "0+50x60"}),
    Scenario("few scheduled tasks start late", (), {late("1.0"): "0+97x60"}),
    Scenario("a lane is held up", one("BrokerAppScheduleHeldUp"), {HELD_UP: "0x53 2x7"}),
    Scenario("a lane was held up for a minute", (), {HELD_UP: "0x53 2 0x6"}),
    Scenario("a scheduled task is parked", one("BrokerAppUnrouted"), {PARKED: "0x58 1x2"}),
    Scenario("what was parked is gone", (), {PARKED: "5x58 0x2"}),
    Scenario("the spool fills", one("BrokerAppSpoolFilling"), {SPOOLED: "0x50 30x10"}),
    Scenario("the spool was used for 2 minutes", (), {SPOOLED: "0x50 30x2 0x8"}),
    Scenario("the broker is down", one("BrokerAppBrokerDown"), {BROKER_UP: "1x58 0x2", MANAGEMENT_UP: "1x58 0x2"}),
    Scenario("the broker was down at one look", (), {BROKER_UP: "1x58 0 1"}),
    Scenario("the management API is away", one("BrokerAppManagementDown"), {MANAGEMENT_UP: "1x48 0x12"}),
    Scenario("the management API was away for 5 minutes", (), {MANAGEMENT_UP: "1x48 0x5 1x7"}),
    Scenario("a server does not answer", one("BrokerAppMetricsDown"), {UP: "1x57 0x3"}),
    Scenario("a server was started again", (), {UP: "1x57 0 1x2"}),
    Scenario("there is no server at all", one("BrokerAppMetricsDown"), dict.fromkeys(HEALTHY)),
    Scenario("a file is damaged", one("BrokerAppMetricsIncomplete"), {UNREADABLE: "0x40 1x20"}),
    Scenario("series find no room", one("BrokerAppMetricsIncomplete"), {DROPPED: "0x40 7x20"}),
)


_PARTS = 4
_FIRING = 'count by (alertname, queue, window, reason) (ALERTS{alertstate="firing"})'


def as_test(scenario: Scenario) -> dict[str, Any]:
    """Return a scenario as ``promtool test rules`` reads it."""
    series = {name: values for name, values in (HEALTHY | dict(scenario.changed)).items() if values is not None}
    return {
        "name": scenario.name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"# {scenario.name}\n{_FIRING}",
                "eval_time": f"{scenario.minute}m",
                "exp_samples": [{"labels": _alert(words), "value": 1} for words in scenario.firing],
            }
        ],
    }


def judged(folder: Path, *tests: dict[str, Any]) -> str:
    """Let promtool try the rules with these tests, and return what it finds wrong."""
    (folder / "rules.yml").write_text(rules_text(SETTINGS), encoding="utf-8")
    content = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "group_eval_order": [group.name for group in groups(SETTINGS)],  # else any, and numbers a minute older
        "tests": tests,
    }
    (folder / "tests.yml").write_text(json.dumps(content), encoding="utf-8")
    said = _promtool(folder, "test", "rules", "tests.yml")
    return "" if said.returncode == 0 else said.stdout + said.stderr


def _alert(words: str) -> str:
    name, *labels = words.split()
    return "{" + ",".join((f'alertname="{name}"', *labels)) + "}"


@pytest.mark.parametrize("part", range(_PARTS))
def test_exactly_these_alerts_fire(tmp_path: Path, part: int) -> None:
    """In each scenario the alerts that are about it fire, and no other."""
    assert not judged(tmp_path, *map(as_test, SCENARIOS[part::_PARTS]))


@pytest.mark.parametrize("firing", [(), NO_CONSUMER])
def test_a_wrong_expectation_is_found(tmp_path: Path, firing: tuple[str, ...]) -> None:
    """The scenarios' check does see a surplus alert, and a missing one."""
    wrong = Scenario("a task is parked", firing, {PARKED: "1x60"})
    assert "a task is parked" in judged(tmp_path, as_test(wrong))


def test_every_alert_is_in_a_scenario() -> None:
    """No alert goes without a scenario in which it fires."""
    names = {rule.name for group in groups(SETTINGS) for rule in group.rules if isinstance(rule, AlertRule)}
    assert {words.split()[0] for scenario in SCENARIOS for words in scenario.firing} == names


def test_what_an_alert_says_to_a_person(tmp_path: Path) -> None:
    """The numbers and names are in the texts as people read them: durations, shares, the queue."""
    growing = next(scenario for scenario in SCENARIOS if scenario.firing == GROWING)
    content = as_test(growing)
    annotations = {
        "summary": "queue default grows: 24m 30s of work is waiting",
        "description": "At the rate of the last 5 minutes it takes 24m 30s to empty the queue, even without "
        "new tasks. Check whether tasks became slower or more frequent, or give the fleet more slots.",
        "runbook_url": "docs/operations/alerts.md#brokerappqueuegrowing",
    }
    labels = {"job": "broker-app", "queue": "default", "severity": "warning"}
    content["alert_rule_test"] = [
        {
            "eval_time": "60m",
            "alertname": "BrokerAppQueueGrowing",
            "exp_alerts": [{"exp_labels": labels, "exp_annotations": annotations}],
        }
    ]
    assert not judged(tmp_path, content)


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    """`promtool check rules` finds no fault and no duplicate, nor in what is shipped, configuration included."""
    (tmp_path / "rules.yml").write_text(rules_text(SETTINGS, 'a "b"'), encoding="utf-8")
    assert "SUCCESS" in _promtool(tmp_path, "check", "rules", "rules.yml").stdout
    said = _promtool(SHIPPED, "check", "config", "prometheus.yml")
    assert said.returncode == 0, said.stdout + said.stderr


def _promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=250
    )
