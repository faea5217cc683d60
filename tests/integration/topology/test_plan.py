"""Differences of broker and settings are reported, and missing things are created; nothing else changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from apps import delete, depth

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, wanted_topology
from broker_app.errors import BrokerRefused
from broker_app.queues import work_topology
from broker_app.queues.delay import due_pattern
from broker_app.queues.holding import HoldingQueue
from broker_app.topology.diff import DifferenceKind, compare_blind
from broker_app.topology.plan import apply_plan, compare_topology

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps import AppMaker, MakeUser
    from brokers import Management

    from broker_app import BrokerApp
    from broker_app.topology.plan import TopologyPlan

THREE_QUEUES = 'common_lanes = ["10s"]\n[queues.default]\n[queues.lopri]\n[queues.reports]\ntype = "classic"\n'
BLIND = 'management_url = "http://127.0.0.1:1"\n'


@pytest.fixture
def make(make_app: AppMaker, management: Management) -> Callable[..., BrokerApp]:
    """Return what makes apps that know the management API."""
    url = f"management_url = {json.dumps(management.url)}\n"
    return lambda settings=THREE_QUEUES, **options: make_app(url + settings, **options)


def compare(app: BrokerApp) -> TopologyPlan:
    """Return what differs."""
    with connect(app) as connection:
        return compare_topology(app, connection)


def apply(app: BrokerApp) -> TopologyPlan:
    """Create what is missing, and return what differed before."""
    with connect(app) as connection:
        found = compare_topology(app, connection)
        apply_plan(app, connection, found)
        return found


def told(found: TopologyPlan) -> list[tuple[str, str, str]]:
    """Return kind, sort and name of each change."""
    return [(str(change.kind), change.what, change.name) for change in found.changes]


def channel(app: BrokerApp, *calls: tuple[str, dict[str, Any]]) -> None:
    """Change something on the broker, as another user would."""
    with app.connection_for_write() as connection:
        for method, arguments in calls:
            getattr(connection.default_channel, method)(**arguments)


@pytest.mark.version
def test_all_is_missing_then_nothing_differs(make: Callable[..., BrokerApp]) -> None:
    """On an empty virtual host every exchange, queue and binding is missing; after `apply` nothing differs."""
    app = make()
    found = apply(app)
    assert {change.kind for change in found.changes} == {DifferenceKind.MISSING, DifferenceKind.LATER}
    assert {change.what for change in found.changes} == {"exchange", "queue", "binding"}
    assert {"lopri", "lopri.dead", "reports", "tasks.unrouted", "tasks.due"} <= found.names(DifferenceKind.MISSING)
    assert found.names(DifferenceKind.LATER) == {"delay.10s"}

    after = compare(app)
    assert (after.changes, after.blind) == ((), "")
    assert told(apply(app)) == []


@pytest.mark.version
@pytest.mark.parametrize("more", ["", BLIND], ids=["management API", "AMQP alone"])
def test_a_lane_that_is_not_there_yet_is_no_difference(
    make: Callable[..., BrokerApp], make_app: AppMaker, more: str
) -> None:
    """Workers do not declare the common lanes: the plan lists them separately, and `apply` creates them."""
    with connect(app := make_app(more + THREE_QUEUES) if more else make()) as connection:
        declare_topology(connection, work_topology(app.settings.specs(), ""))
    found = compare(app)
    assert (told(found), found.differences) == ([("later", "queue", "delay.10s")], ())
    apply(app)
    assert compare(app).changes == ()


@pytest.mark.version
def test_each_difference_is_told_with_its_cure(make: Callable[..., BrokerApp]) -> None:
    """Other arguments, a missing binding, a surplus queue and binding; `apply` only binds."""
    app = make()
    apply(make("[queues.default]\n[queues.lopri]\n[queues.reports]\n[queues.old]\n"))
    app.send_task("shop.add", queue="lopri", countdown=7)
    channel(
        app,
        ("queue_unbind", {"queue": "lopri", "exchange": "tasks.due", "routing_key": due_pattern("lopri")}),
        ("queue_bind", {"queue": "lopri", "exchange": "tasks", "routing_key": "#"}),
        ("queue_declare", {"queue": "theirs", "durable": True, "auto_delete": False}),
    )
    found = compare(app)
    assert set(told(found)) == {
        ("differs", "queue", "reports"),
        ("differs", "queue", "reports.dead"),
        ("missing", "binding", f"tasks.due -> lopri ({due_pattern('lopri')})"),
        ("extra", "binding", "tasks -> lopri (#)"),
        ("extra", "queue", "old"),
        ("extra", "queue", "old.dead"),
    }
    lines = "\n".join(map(str, found.changes))
    assert 'x-queue-type is "quorum", wanted "classic"' in lines
    assert "run `broker-app topology migrate reports`" in lines
    assert (
        "queue 'old': 0 ready messages, 0 consumers; declare it, or remove it with `broker-app queues retire`"
        in lines
    )

    assert told(apply(app)) == told(found)
    assert told(compare(app)) == [change for change in told(found) if change[0] != "missing"]
    assert depth(app, "old") == 0


@pytest.mark.version
def test_without_the_management_api(make_app: AppMaker) -> None:
    """AMQP finds missing queues and other arguments; the plan says that bindings are unknown."""
    make_app("common_lanes = []\n[queues.default]\n[queues.lopri]\n[queues.reports]\n")
    app = make_app(BLIND + THREE_QUEUES)
    assert apply(app).blind.startswith("management API http://127.0.0.1:1: no answer")
    assert compare(app).changes == ()
    delete(app, "lopri", "reports")
    channel(app, ("queue_declare", {"queue": "reports", "durable": True, "auto_delete": False}))
    found = compare(app)
    assert told(found) == [("missing", "queue", "lopri"), ("differs", "queue", "reports")]
    assert "migrate reports" in found.changes[1].cure
    apply(app)
    app.send_task("shop.add", queue="lopri")
    assert told(compare(app)) == [("differs", "queue", "reports")]


def test_a_queue_that_is_being_moved_is_left_alone(make: Callable[..., BrokerApp]) -> None:
    """It is reported as such, with and without the management API, and `apply` neither declares nor binds it."""
    app = make()
    apply(app)
    holding = HoldingQueue("lopri").name
    channel(app, ("queue_declare", {"queue": holding, "durable": True, "auto_delete": False}))
    delete(app, "lopri")
    for seen in (app, make(BLIND.replace("management_url", "#") + THREE_QUEUES)):
        assert told(apply(seen)) == [("moving", "queue", "lopri")]
    with connect(app) as connection:
        blind = list(compare_blind(connection, wanted_topology(app.settings), ""))
    assert [(change.kind, change.name) for change in blind] == [(DifferenceKind.MOVING, "lopri")]
    assert "migrate lopri" in blind[0].cure
    assert depth(app, "lopri") is None


@pytest.mark.version
def test_who_may_not_declare_can_compare(make: Callable[..., BrokerApp], make_user: MakeUser) -> None:
    """Without the right to configure, the plan lists the unknown parts, and nothing is created."""
    apply(make())
    guest = make(THREE_QUEUES, url=make_user(read=".*", write=".*"))
    found = compare(guest)
    assert {change.kind for change in found.changes} == {DifferenceKind.UNKNOWN}
    assert found.blind, "a user without a tag may not use the management API"
    assert apply(guest).changes == found.changes
    with pytest.raises(BrokerRefused, match="403"):
        apply(make(THREE_QUEUES + "[queues.more]\n", url=make_user(read=".*", write=".*")))


def test_only_what_is_ours_is_looked_at(make: Callable[..., BrokerApp]) -> None:
    """Another prefix on the same virtual host, lanes that came by need, and others' queues are no difference."""
    ours, theirs = make('prefix = "a."\n' + THREE_QUEUES), make('prefix = "b."\n' + THREE_QUEUES)
    apply(ours)
    apply(theirs)
    ours.send_task("shop.add", queue="lopri", countdown=45)
    channel(ours, ("queue_declare", {"queue": "a.strange", "durable": True, "auto_delete": False}))
    assert compare(ours).changes == compare(theirs).changes == ()
