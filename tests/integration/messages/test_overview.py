"""All queues in one table: counts, waits, and values reported as unknown."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from apps import TWO_QUEUES, depth
from deaths import bury, declare, publish, task_headers
from waiting import wait_until

from broker_app.errors import BrokerError
from broker_app.messages import Overview, QueueRow, read_overview
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps import AppMaker, MakeUser
    from brokers import Management

    from broker_app import BrokerApp

NOWHERE = 'management_url = "http://127.0.0.1:1"\n'


@pytest.fixture
def app(make_app: AppMaker, management: Management) -> BrokerApp:
    """Return an app that knows the broker's management API."""
    return make_app(f'management_url = "{management.url}"\n' + TWO_QUEUES)


def look(app: BrokerApp, *, may_look: bool = True) -> Overview:
    """Read all of it."""
    return read_overview(app, may_look=may_look)


@contextmanager
def consumer(app: BrokerApp, queue: str, prefetch: int) -> Iterator[None]:
    """Hold messages of a queue as a worker does."""
    with app.connection_for_write() as connection:
        channel, held = connection.default_channel, list[Any]()
        channel.basic_qos(0, prefetch, a_global=False)
        channel.basic_consume(queue, callback=held.append)
        while len(held) < prefetch:
            connection.drain_events(timeout=30)
        yield


def test_nothing_is_declared(app: BrokerApp) -> None:
    """Each queue of the settings is there, as one that is not on the broker."""
    assert look(app) == Overview(
        {"default": QueueRow(is_declared=False), "lopri": QueueRow(is_declared=False)}, 0, 0, ()
    )


@pytest.mark.version
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_everything_is_counted(make_app: AppMaker, management: Management, queue_type: str) -> None:
    """Ready, running and dead messages and consumers of each queue, and the scheduled tasks."""
    app = make_app(
        f'management_url = "{management.url}"\n[queues.default]\ntype = "{queue_type}"\n[queues.lopri]\n'
    )
    declare(app)
    for countdown in (None, None, None, 3_600):
        app.send_task("shop.add", countdown=countdown)
    bury(app, 2)
    with consumer(app, "default", 1):

        def counted() -> Overview | None:
            found = look(app)
            return found if [row.running for row in found.rows.values()] == [1, 0] else None

        found = wait_until(counted, 30, "the broker to have counted")
    row = found.rows["default"]
    assert (row.is_declared, row.ready, row.running, row.dead, row.consumers) == (True, 2, 1, 2, 1)
    assert found.rows["lopri"] == QueueRow(is_declared=True, running=0)
    assert (found.scheduled, found.unrouted) == (1, 0)


def test_the_oldest_wait(app: BrokerApp) -> None:
    """It is that of the next task, less the delay that was asked for; an empty queue has none."""
    declare(app)
    now = time.time()
    waits: list[dict[str, Any]] = [
        {PUBLISHED_AT_HEADER: now - 100, DELAY_HEADER: 70.0},
        {PUBLISHED_AT_HEADER: now - 5},
    ]
    publish(app, "default", [task_headers(**wait) for wait in waits])
    publish(app, "lopri", [{}])
    rows = look(app).rows
    if rows["default"].oldest_wait_seconds is not None:  # see below where it is not looked at
        assert rows["default"].oldest_wait_seconds == pytest.approx(30, abs=20)
    assert rows["lopri"].oldest_wait_seconds is None  # another client's message, which does not say
    assert look(app, may_look=False).rows["default"].oldest_wait_seconds is None


@pytest.mark.version
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_looking_again_and_again_changes_nothing(
    make_app: AppMaker, management: Management, queue_type: str
) -> None:
    """However often it is looked at, a task is neither dropped nor does it lose its place."""
    app = make_app(f'management_url = "{management.url}"\n[queues.default]\ntype = "{queue_type}"\n')
    declare(app)
    ids = publish(app, "default", [task_headers() for _ in range(3)])
    for _ in range(25):  # a quorum queue of RabbitMQ 4 drops a message after 20 counted deliveries
        found = look(app)
        assert found.rows["default"].ready + (found.rows["default"].running or 0) >= 2
    wait_until(lambda: depth(app, "default") == 3, 30, "the last one to be back")
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        seen = [channel.message_to_python(channel.basic_get("default", no_ack=True)) for _ in ids]
    assert [message.headers["id"] for message in seen] == ids


@pytest.mark.version
def test_no_look_where_it_counts(app: BrokerApp, broker_version: tuple[int, ...], management: Management) -> None:
    """If a peek counts towards the delivery limit, no message is taken, and the output says so."""
    declare(app)
    publish(app, "default", [task_headers()])
    vhost = app.connection_for_write().virtual_host
    policy = {"pattern": "default", "definition": {"delivery-limit": 3}, "apply-to": "queues"}
    management.put(f"policies/{vhost}/limit", policy)
    wait_until(
        lambda: management.get(f"queues/{vhost}/default").get("effective_policy_definition"), 30, "the policy"
    )
    found = look(app)
    if broker_version >= (4, 3):
        assert found.rows["default"].oldest_wait_seconds is not None
        assert found.missing == ()
    else:
        assert found.rows["default"].oldest_wait_seconds is None
        assert "the oldest wait in default: this RabbitMQ counts a look" in found.missing[0]


def test_without_the_management_api(make_app: AppMaker) -> None:
    """All else is reported, and unknown values are named."""
    app = make_app(NOWHERE + TWO_QUEUES)
    declare(app)
    app.send_task("shop.add")
    wait_until(lambda: depth(app, "default"), 30, "the task")
    found = look(app)
    assert (found.rows["default"].ready, found.rows["default"].running) == (1, None)
    assert "what is running" in found.missing[0]
    assert "the management API does not answer" in found.missing[0]


def test_a_user_who_may_not_read(make_app: AppMaker, make_user: MakeUser) -> None:
    """The counts are reported without the right to take a message."""
    declare(make_app())
    make_app().send_task("shop.add")
    app = make_app(NOWHERE + TWO_QUEUES, url=make_user(configure=".*"))
    wait_until(lambda: look(app).rows["default"].ready == 1, 30, "the task")
    assert look(app).rows["default"].oldest_wait_seconds is None


def test_a_broker_that_is_away(make_app: AppMaker) -> None:
    """It is an error."""
    with pytest.raises(BrokerError):
        look(make_app(url="amqp://u:p@127.0.0.1:1//"))
