"""Delayed tasks: they wait in the broker's lanes and arrive once, in their own queue, without any process."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from amqp.exceptions import PreconditionFailed
from apps import delete, depth, put, take
from brokers import vhost_of
from kombu import pools
from waiting import wait_until

from broker_app.broker import delay_lanes
from broker_app.broker.access import connect
from broker_app.errors import InvalidDelay
from broker_app.queues.delay import MAX_DELAY_DAYS, MAX_DELAY_SECONDS, parse_routing_key, split_delay
from broker_app.queues.headers import DELAY_HEADER

if TYPE_CHECKING:
    from apps import AppMaker
    from brokers import Management

    from broker_app import BrokerApp

DUE_SECONDS = 6
"""Time to delete a queue before its tasks are due, on a busy machine too."""

ARRIVAL_SECONDS = 30.0
"""On top of the delay: no measure of lateness, but of whether a task comes at all."""


def _arrive(app: BrokerApp, queue: str, count: int) -> None:
    wait_until(lambda: depth(app, queue) == count, ARRIVAL_SECONDS, f"{count} tasks in {queue}")


def _hand_on(app: BrokerApp, lane: str) -> None:
    """Do what a lane does when a message's time in it is over, long before that time."""
    delay_exchanges = {"d": "delay.h", "h": "delay.m", "m": "delay.s", "s": "tasks.due"}
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        message = channel.basic_get(lane)
        key = message.delivery_info["routing_key"]
        put(channel, message, delay_exchanges[lane[-1]], key)
        channel.basic_ack(message.delivery_tag)


# On the way


@pytest.mark.version
@pytest.mark.parametrize("prefix", ["", "shop."])
def test_a_delayed_task_arrives_once_in_its_own_queue(make_app: AppMaker, prefix: str) -> None:
    """Delays of whole seconds and fractions lead to the right queue, whatever the queues' names have in common."""
    names = ["default", "a", "b.a", "c.b.a", "a.b", "x-a", "0s", "1s.a"]
    app = make_app(f"prefix = '{prefix}'\n" + "".join(f"[queues.'{name}']\n" for name in names))
    delays = [0.5, 1, 2.3]
    started = time.time()
    for name in names:
        app.send_task("warm", queue=name)
        take(app, prefix + name)
        for delay in delays:
            app.send_task(f"{name} after {delay}", queue=name, countdown=delay)
    for name in names:
        _arrive(app, prefix + name, len(delays))
    assert time.time() - started >= 2
    for name in names:
        found = {message.headers["task"]: message.headers for message in take(app, prefix + name)}
        assert sorted(found) == [f"{name} after {delay}" for delay in delays]
        assert [found[f"{name} after {delay}"][DELAY_HEADER] for delay in delays] == delays
    assert depth(app, f"{prefix}tasks.unrouted") == 0


@pytest.mark.parametrize(
    "delay", [61, 90, 3_600, 5_400, 86_400, 90_061, 30 * 86_400, MAX_DELAY_SECONDS, MAX_DELAY_SECONDS + 0.5]
)
def test_a_long_delay_stands_in_its_lanes_one_after_the_other(app: BrokerApp, delay: float) -> None:
    """Each lane in turn holds the task, with the same routing key, until it reaches its queue."""
    app.send_task("warm", queue="lopri")
    take(app, "lopri")
    expected = split_delay(delay)
    result = app.send_task("shop.add", queue="lopri", countdown=delay)
    for lane in expected.lanes:
        _arrive(app, lane.name, 1)
        if lane.seconds > 1:
            _hand_on(app, lane.name)
    _arrive(app, "lopri", 1)
    (message,) = take(app, "lopri")
    assert message.headers["id"] == result.id
    assert message.delivery_info["routing_key"] == expected.routing_key("lopri")


@pytest.mark.version
def test_the_bound_is_the_brokers_own(app: BrokerApp) -> None:
    """The longest lane is the longest that RabbitMQ takes: one day more is refused by it, and by us before."""
    app.send_task("shop.add", countdown=MAX_DELAY_SECONDS)
    with app.connection_for_write() as connection, pytest.raises(PreconditionFailed, match="value_too_large"):
        connection.default_channel.queue_declare(
            "too-long", auto_delete=False, arguments={"x-message-ttl": (MAX_DELAY_DAYS + 1) * 86_400_000}
        )
    with pytest.raises(InvalidDelay, match=str(MAX_DELAY_SECONDS)):
        app.send_task("shop.add", countdown=MAX_DELAY_SECONDS + 1)


def test_a_delayed_task_keeps_what_it_carries(make_app: AppMaker) -> None:
    """Priority, headers, body and persistence come through the lanes as they were sent."""
    app = make_app("[queues.default]\ntype = 'classic'\npriorities = true\n")
    app.send_task("warm")
    take(app, "default")
    app.send_task("shop.add", (1,), {"y": 2}, countdown=1, priority=7, headers={"tenant": "a"})
    _arrive(app, "default", 1)
    (message,) = take(app, "default")
    assert (message.properties["priority"], message.properties["delivery_mode"]) == (7, 2)
    assert message.headers["tenant"] == "a"
    assert message.payload[:2] == [[1], {"y": 2}]


def test_nothing_of_celerys_own_delayed_delivery_appears(
    app: BrokerApp, management: Management, fresh_vhost_url: str
) -> None:
    """No `celery_delayed_…`: neither its 28 exchanges and queues nor its bindings."""
    app.send_task("shop.add", countdown=5_400)
    vhost = quote(vhost_of(fresh_vhost_url), safe="")
    names = [found["name"] for kind in ("queues", "exchanges") for found in management.get(f"{kind}/{vhost}")]
    assert [name for name in names if "celery" in name] == []
    assert {"delay.1h", "delay.30m"} <= set(names)


# Forms of a time


@pytest.mark.parametrize("kind", ["aware", "other zone", "naive UTC", "text", "text with Z"])
def test_an_eta_is_a_delay(make_app: AppMaker, kind: str) -> None:
    """Aware, in another zone, naive for UTC as in Celery, or as ISO 8601: the task goes to the same lane."""
    app = make_app(timezone="Asia/Tokyo")
    moment = datetime.now(UTC) + timedelta(seconds=100.5)
    eta: Any = {
        "aware": moment,
        "other zone": moment.astimezone(app.timezone),
        "naive UTC": moment.replace(tzinfo=None),
        "text": moment.isoformat(),
        "text with Z": moment.replace(tzinfo=None).isoformat() + "Z",
    }[kind]
    app.send_task("shop.add", eta=eta)
    assert depth(app, "delay.1m") == 1
    (message,) = take(app, "delay.1m")
    assert 90 < parse_routing_key(message.delivery_info["routing_key"])[0].seconds < 100.5
    assert abs(datetime.fromisoformat(message.headers["eta"]) - moment) < timedelta(seconds=1)


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("options", [{"countdown": 0}, {"countdown": None}, {"eta": LONG_AGO}])
def test_what_is_due_already_is_not_delayed(app: BrokerApp, options: dict[str, Any]) -> None:
    """Zero, or a moment in the past, is now: straight into the queue, with no eta for a worker to look at."""
    app.send_task("shop.add", **options)
    (message,) = take(app, "default")
    assert message.headers["eta"] is None
    assert message.delivery_info["exchange"] == "tasks"


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": -1},
        {"countdown": float("nan")},
        {"countdown": float("inf")},
        {"countdown": 10**400},
        {"countdown": "10"},
        {"countdown": True},
        {"countdown": MAX_DELAY_SECONDS + 1},
        {"eta": datetime(9999, 1, 1, tzinfo=UTC)},
        {"eta": datetime.max},  # noqa: DTZ901 - a naive one
        {"eta": "tomorrow"},
        {"eta": 5},
        {"countdown": 5, "eta": datetime(2999, 1, 1, tzinfo=UTC)},
        {"expires": float("nan")},
        {"expires": float("inf")},
        {"expires": 10**400},
        {"expires": "soon"},
        {"expires": True},
        {"expires": timedelta(seconds=5)},
        {"confirm_timeout": 0},
        {"confirm_timeout": -1},
        {"confirm_timeout": float("nan")},
        {"confirm_timeout": "3"},
    ],
    ids=str,
)
def test_a_time_that_cannot_be_publishes_nothing(app: BrokerApp, options: dict[str, Any]) -> None:
    """One typed error of one line, in the caller, and nothing on the broker."""
    with pytest.raises(InvalidDelay) as caught:
        app.send_task("shop.add", **options)
    assert "\n" not in str(caught.value)
    assert depth(app, "default") is None


# Missing entities


def test_the_first_task_ever_may_be_a_delayed_one(app: BrokerApp) -> None:
    """Nobody has declared anything, no worker has run: it arrives in its queue, and is not parked."""
    app.send_task("shop.add", queue="lopri", countdown=1)
    _arrive(app, "lopri", 1)
    assert depth(app, "tasks.unrouted") == 0


def test_a_lane_that_is_gone_is_declared_again(app: BrokerApp) -> None:
    """Deleted between two tasks on one connection: the second arrives all the same."""
    app.send_task("warm", queue="lopri")
    take(app, "lopri")
    app.send_task("first", queue="lopri", countdown=5_400)
    delete(app, "delay.1h", "delay.30m")
    app.send_task("second", queue="lopri", countdown=5_400)
    (message,) = take(app, "delay.1h")
    assert message.headers["task"] == "second"
    assert depth(app, "delay.30m") == 0


def test_a_lane_in_the_middle_of_the_way_that_is_gone_loses_nothing(make_app: AppMaker) -> None:
    """A producer that has just seen the lane relies on it: the task is unrouted; a new connection declares it."""
    app = make_app()
    app.send_task("warm", queue="lopri")
    app.send_task("first", queue="lopri", countdown=5_400)
    take(app, "delay.1h")
    delete(app, "delay.30m")
    app.send_task("second", queue="lopri", countdown=5_400)
    _hand_on(app, "delay.1h")
    _arrive(app, "tasks.unrouted", 1)
    pools.reset()
    make_app().send_task("third", queue="lopri", countdown=5_400)
    _hand_on(app, "delay.1h")
    _arrive(app, "delay.30m", 1)


@pytest.mark.version
def test_a_task_whose_queue_is_gone_when_it_is_due_is_parked_and_blocks_nobody(app: BrokerApp) -> None:
    """Fifty of them in one lane: all are kept, and the others in the lane arrive.

    Quorum lanes dead-letter at least once: without an alternate exchange, some 40 messages block a lane.
    """
    for queue in ("default", "lopri"):
        app.send_task("warm", queue=queue)
        take(app, queue)
    with connect(app) as connection:
        delay_lanes.declare(connection, split_delay(DUE_SECONDS).lanes, "", time.monotonic() + 60)
    lost = [app.signature("lost", queue="lopri", countdown=DUE_SECONDS)] * 50
    found = [app.signature("found", queue="default", countdown=DUE_SECONDS)] * 5
    assert app.publish_many(lost + found).run().accepted == 55
    delete(app, "lopri")
    _arrive(app, "default", 5)
    _arrive(app, "tasks.unrouted", 50)
    assert {message.headers["task"] for message in take(app, "tasks.unrouted")} == {"lost"}
    assert depth(app, f"delay.{DUE_SECONDS}s") == 0


def test_threads_delay_side_by_side(app: BrokerApp) -> None:
    """Eight threads that need the same new lanes at once: each declares what it finds missing, and all arrive."""

    def send(number: int) -> None:
        app.send_task("shop.add", (number,), queue="lopri", countdown=1 + number % 2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(40)))
    _arrive(app, "lopri", 40)
    assert sorted(message.payload[0][0] for message in take(app, "lopri")) == list(range(40))
