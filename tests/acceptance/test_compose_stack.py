"""The compose stack for real: work goes through it, Prometheus sees it, an alert fires and clears, it scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from compose_stack import running_stack
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compose_stack import Stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(420)]

ADD = "broker_app.tasks.add"
DEADLINE_SECONDS = 120


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Bring the stack up once, without Grafana, of which Debian has no package."""
    with running_stack(tmp_path_factory.mktemp("compose"), without=("grafana", "cli")) as running:
        yield running


def test_work_goes_through_and_prometheus_sees_it(stack: Stack) -> None:
    """One command sends a task and shows its result; every target is up, and Prometheus has the counts."""
    later = ("--queue", "lopri", "--countdown", "1.3")  # by two lanes that a producer may not declare
    assert stack.cli("send", ADD, "2", "2", *later, "--wait", "--timeout", "60") == "4"

    up = wait_until(lambda: _all_up(stack), DEADLINE_SECONDS, "every target to be up")
    assert up == {"broker-app", "rabbitmq", "prometheus"}
    labels = f'{{queue="lopri",task="{ADD}"}}'
    for expression in (
        f"sum(broker_app_tasks_finished_total{labels})",
        f"sum(broker_app_tasks_published_total{labels})",
    ):
        wait_until(lambda it=expression: stack.value(it), DEADLINE_SECONDS, expression)
    for metric in ("worker_up", "fleet_nodes_up", "queue_consumers"):
        expression = f"count(sum by (queue) (broker_app_{metric}) == 1)"
        wait_until(lambda it=expression: stack.value(it) == 2, DEADLINE_SECONDS, expression)
    for service in ("worker-default", "worker-lopri", "metrics"):
        wait_until(lambda it=service: stack.health(it) == "healthy", DEADLINE_SECONDS, f"{service} to be healthy")
    assert stack.value("broker_app_broker_management_up") == 1
    assert stack.value('sum(broker_app_metrics_files{state="unreadable"})') == 0


def test_an_alert_fires_and_clears(stack: Stack) -> None:
    """Alerts fire for a killed worker and its waiting tasks; when it is back, they run and the alerts clear."""
    alerts = {("BrokerAppFleetShort", "default"), ("BrokerAppNoConsumer", "default")}
    stack.run("start", "worker-default")  # if an attempt before this one has ended in between
    wait_until(lambda: not alerts & stack.firing(), DEADLINE_SECONDS, "no alert before")
    stack.run("kill", "worker-default")
    stack.cli("send", ADD, "2", "2", "--queue", "default")
    wait_until(lambda: alerts <= stack.firing(), DEADLINE_SECONDS, f"{alerts} to fire")
    assert ("BrokerAppFleetShort", "lopri") not in stack.firing()

    stack.run("start", "worker-default")
    wait_until(lambda: not alerts & stack.firing(), DEADLINE_SECONDS, "the alerts to clear")
    wait_until(
        lambda: stack.value('broker_app_queue_ready_messages{queue="default"}') == 0, DEADLINE_SECONDS, "the task"
    )


def test_a_queue_scales(stack: Stack) -> None:
    """Three containers of a worker service are three nodes, each with a name of its own, and all consume."""
    stack.up("--no-recreate", "--scale", "worker-lopri=3")
    nodes = 'count(count by (node) (broker_app_worker_up{queue="lopri"} == 1))'
    wait_until(lambda: stack.value(nodes) == 3, DEADLINE_SECONDS, "three nodes")
    consumers = 'broker_app_queue_consumers{queue="lopri"}'
    wait_until(lambda: stack.value(consumers) == 3, DEADLINE_SECONDS, "their consumers")


def test_nobody_is_guest(stack: Stack) -> None:
    """The broker knows the administrator and the four users of broker-app, and no default user."""
    listed = stack.run("exec", "-T", "rabbitmq", "rabbitmqctl", "--quiet", "list_users").splitlines()
    users = {
        line.split("\t")[0]: line.split("\t")[1]
        for line in listed
        if "\t" in line and not line.startswith("user\t")
    }
    assert users == {
        "boss": "[administrator]",
        "deploy": "[management]",
        "producer": "[]",
        "worker": "[]",
        "monitor": "[monitoring]",
    }


def _all_up(stack: Stack) -> set[str]:
    """Return the jobs of the targets, nothing if one of them is not up."""
    found = stack.query("up")
    return {labels["job"] for labels, _ in found} if all(value for _, value in found) else set()
