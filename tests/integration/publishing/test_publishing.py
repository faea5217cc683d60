"""Publishing: where a task goes, and what its message carries."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from apps import delete, depth, take
from brokers import vhost_of
from celery import signals
from kombu.entity import Exchange, Queue
from kombu.exceptions import EncodeError
from waiting import wait_until

from broker_app.errors import (
    InvalidDelay,
    NoRoute,
    RoutingError,
    UnknownQueue,
)
from broker_app.queues.headers import DELAY_HEADER, MAYBE_TWICE_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from apps import AppMaker, MakeUser
    from brokers import Management

    from broker_app import BrokerApp


def _queue_names(management: Management, url: str) -> set[str]:
    return {queue["name"] for queue in management.get(f"queues/{vhost_of(url)}?columns=name&disable_stats=true")}


# The destination of a task


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "lopri_typo"},
        {"queue": Queue("lopri_typo")},
        {"routing_key": "lopri_typo"},
        {"exchange": "tasks", "routing_key": "lopri_typo"},
        {"exchange": Exchange("tasks"), "routing_key": "lopri_typo"},
        {"queue": "lopri", "routing_key": "lopri_typo"},
    ],
)
def test_an_unknown_queue_creates_nothing(
    app: BrokerApp, management: Management, fresh_vhost_url: str, options: dict[str, Any]
) -> None:
    """Named in whatever way, it is refused in the caller with the nearest name; the broker has not heard of it."""
    with pytest.raises(UnknownQueue, match=r"lopri_typo.*did you mean 'lopri'"):
        app.send_task("shop.add", (1, 2), **options)
    assert _queue_names(management, fresh_vhost_url) == set()


def test_an_unknown_queue_of_a_task_or_a_route_creates_nothing(
    make_app: AppMaker, management: Management, fresh_vhost_url: str
) -> None:
    """A slip in a task's own queue or in a route that was set in code is refused as well, when it is used."""
    app = make_app(task_routes={"shop.routed": {"queue": "lopri_typo"}})

    @app.task(name="shop.own", queue="lopri_typo")
    def own() -> None:
        pass

    for send in (own.delay, lambda: app.send_task("shop.routed")):
        with pytest.raises(UnknownQueue):
            send()
    assert _queue_names(management, fresh_vhost_url) == set()


@pytest.mark.parametrize("prefix", ["", "shop."])
def test_a_task_lands_once_in_its_own_queue(make_app: AppMaker, prefix: str) -> None:
    """Names that end alike, begin alike or hold dots catch nothing of each other's."""
    names = ["default", "a", "b.a", "c.b.a", "a.b", "a.b.c", "x-a", "aa"]
    app = make_app(f"prefix = '{prefix}'\n" + "".join(f"[queues.'{name}']\n" for name in names))
    for name in names:
        app.send_task(f"for.{name}", queue=name)
    for name in names:
        assert [message.headers["task"] for message in take(app, prefix + name)] == [f"for.{name}"]


def test_a_task_is_routed_by_its_name_its_own_queue_or_the_default(make_app: AppMaker) -> None:
    """`queue=` overrides the task's own queue; other tasks follow the settings' routes, then the default queue."""
    app = make_app('[task_routes]\n"reports.*" = "lopri"\n[queues.default]\n[queues.lopri]\n[queues.own]\n')

    @app.task(name="shop.own", queue="own")
    def own() -> None:
        pass

    app.send_task("reports.daily")
    app.send_task("other")
    own.delay()
    own.apply_async(queue="lopri")
    tasks = {
        queue: [message.headers["task"] for message in take(app, queue)] for queue in ("default", "lopri", "own")
    }
    assert tasks == {"default": ["other"], "lopri": ["reports.daily", "shop.own"], "own": ["shop.own"]}


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "lopri"},
        {"queue": "shop.lopri"},
        {"queue": Queue("shop.lopri")},
        {"routing_key": "shop.lopri"},
        {"exchange": "shop.tasks", "routing_key": "shop.lopri"},
        {"exchange": "", "routing_key": "shop.lopri"},
        {"exchange": "shop.tasks.due", "routing_key": "0d.0h.1m.30s.0ms.shop.lopri"},
        {"exchange": "shop.delay.m", "routing_key": "0d.1h.0m.0s.0ms.shop.lopri"},
        {"exchange": "shop.delay.s", "routing_key": "0d.0h.1m.0s.0ms.shop.lopri", "countdown": 0},
    ],
)
def test_a_queue_can_be_named_as_celery_allows(make_app: AppMaker, options: dict[str, Any]) -> None:
    """By name with or without the prefix, as a kombu queue, by exchange and key, by the key that a retry has."""
    app = make_app("prefix = 'shop.'\n[queues.default]\n[queues.lopri]\n")
    app.send_task("shop.add", **options)
    assert depth(app, "shop.lopri") == 1
    assert depth(app, "shop.default") is None


def test_an_exchange_of_the_users_own_is_published_to_as_it_is(app: BrokerApp) -> None:
    """Confirmed and mandatory too: what no queue takes there is an error, and nothing is declared there."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.exchange_declare("events", "topic", auto_delete=False)
        channel.queue_declare("audit", auto_delete=False)
        channel.queue_bind("audit", "events", "user.*")
    app.send_task("shop.add", exchange="events", routing_key="user.new")
    assert len(take(app, "audit")) == 1
    with pytest.raises(NoRoute, match=r"'events/order.new'"):
        app.send_task("shop.add", exchange="events", routing_key="order.new")
    with pytest.raises(NoRoute, match="nowhere"):
        app.send_task("shop.add", exchange="nowhere", routing_key="user.new")
    with pytest.raises(RoutingError, match="countdown"):
        app.send_task("shop.add", exchange="events", routing_key="user.new", countdown=10)


# Missing entities


def test_the_first_task_ever_declares_what_it_needs(app: BrokerApp) -> None:
    """On a broker that has seen nothing of the app, the first call is confirmed and its dead letters are ready."""
    app.send_task("shop.add", queue="lopri")
    assert (depth(app, "lopri"), depth(app, "lopri.dead")) == (1, 0)


@pytest.mark.parametrize("missing", ["queue", "binding", "exchange"])
def test_the_task_that_finds_its_queue_gone_is_not_lost(app: BrokerApp, missing: str) -> None:
    """A deleted queue, binding or exchange is declared again, and the task that found it missing arrives."""
    app.send_task("shop.add", queue="lopri")
    take(app, "lopri")
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        if missing == "queue":
            channel.queue_delete("lopri")
        elif missing == "binding":
            channel.queue_unbind("lopri", "tasks", "lopri")
        else:
            channel.exchange_delete("tasks")
    found = app.send_task("shop.add", queue="lopri")
    assert [message.headers["id"] for message in take(app, "lopri")] == [found.id]
    assert MAYBE_TWICE_HEADER not in app.send_task("shop.add", queue="lopri").id
    assert [MAYBE_TWICE_HEADER in message.headers for message in take(app, "lopri")] == [False]


def test_a_queue_with_other_arguments_stops_nobody_who_only_publishes(app: BrokerApp) -> None:
    """Producers publish to an exchange; what an operator declared differently is found by `check`, not by them."""
    app.send_task("shop.add", queue="lopri")
    delete(app, "lopri")
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare("lopri", durable=True, auto_delete=False)
        channel.queue_bind("lopri", "tasks", "lopri")
    app.send_task("shop.add", queue="lopri")
    assert depth(app, "lopri") == 1


def test_a_queue_that_cannot_be_declared_is_named(app: BrokerApp) -> None:
    """Unbound and with other arguments it cannot be mended: the error names it, the reply code and the cure."""
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("lopri", durable=True, auto_delete=False)
    with pytest.raises(NoRoute, match=r"queue 'lopri'.*406 PRECONDITION_FAILED"):
        app.send_task("shop.add", queue="lopri")
    app.send_task("shop.add", queue="default", confirm_timeout=60)


# The content of a message


def test_a_message_carries_its_moment_and_its_delay(app: BrokerApp) -> None:
    """The time in the queue is now, less the moment, less the wished delay: both are in the headers."""
    before = time.time()
    app.send_task("shop.now")
    app.send_task("shop.soon", countdown=0.04)
    after = time.time()
    now, soon = take(app, "default")
    assert before <= now.headers[PUBLISHED_AT_HEADER] <= after
    assert (now.headers[DELAY_HEADER], soon.headers[DELAY_HEADER]) == (0.0, 0.04)
    assert now.headers["eta"] is None
    assert soon.headers["eta"] is not None


def test_a_message_is_persistent_json_with_the_callers_headers(app: BrokerApp) -> None:
    """It survives a restart of the broker, and the caller's own properties are there."""
    result = app.send_task("shop.add", (1,), {"y": 2}, headers={"tenant": "a"}, message_id="m-1", app_id="shop")
    (message,) = take(app, "default")
    properties = message.properties
    assert (properties["delivery_mode"], message.content_type, message.content_encoding) == (
        2,
        "application/json",
        "utf-8",
    )
    assert (properties["correlation_id"], properties["message_id"], properties["app_id"]) == (
        result.id,
        "m-1",
        "shop",
    )
    assert message.headers["tenant"] == "a"
    assert message.payload[:2] == [[1], {"y": 2}]


def test_an_expiry_does_not_become_a_dead_letter(app: BrokerApp) -> None:
    """It is a header that the worker reads; as a message property the broker would dead-letter what is too old."""
    app.send_task("shop.add", expires=0.1)
    app.send_task("shop.add", expires=7_200, countdown=3_600)
    (message,) = take(app, "default")
    (delayed,) = take(app, "delay.1h")
    assert "expiration" not in message.properties
    assert "expiration" not in delayed.properties
    assert message.headers["expires"]


@pytest.mark.parametrize("kind", ["naive", "aware", "seconds", "text"])
def test_a_task_that_expires_before_it_is_due_is_refused(app: BrokerApp, kind: str) -> None:
    """It could never run; given in whatever way, and a later one is taken."""

    def expiry(seconds: float) -> object:
        moment = app.now() + timedelta(seconds=seconds)
        return {
            "naive": moment.replace(tzinfo=None),
            "aware": moment,
            "seconds": seconds,
            "text": moment.isoformat(),
        }[kind]

    with pytest.raises(InvalidDelay, match="expires must be after"):
        app.send_task("shop.add", expires=expiry(1_800), countdown=3_600)
    app.send_task("shop.add", expires=expiry(7_200), countdown=3_600)
    assert depth(app, "delay.1h") == 1


def test_a_compressed_task_can_be_read(app: BrokerApp) -> None:
    """A task published with `compression=` is compressed, and can be read."""
    app.send_task("shop.add", ("x" * 10_000,), compression="gzip")
    (message,) = take(app, "default")
    assert message.headers["compression"] == "application/x-gzip"
    assert message.payload[0] == ["x" * 10_000]


def test_arguments_that_are_not_json_publish_nothing(app: BrokerApp) -> None:
    """The encoder's error reaches the caller, and the next task is fine."""
    with pytest.raises(EncodeError, match="not JSON serializable"):
        app.send_task("shop.add", (object(),))
    app.send_task("shop.add", confirm_timeout=60)
    assert depth(app, "default") == 1


# Celery's own expectations


def test_the_publishing_signals_fire_once(app: BrokerApp) -> None:
    """Before and after, with the queue's exchange and key; headers can be added; also sent twice, or delayed."""
    seen: list[tuple[str, str, str, str]] = []

    def before(sender: str, headers: dict[str, Any], exchange: str, routing_key: str, **_rest: object) -> None:
        headers["added"] = "by a handler"
        seen.append(("before", sender, exchange, routing_key))

    def after(sender: str, exchange: str, routing_key: str, **_rest: object) -> None:
        seen.append(("after", sender, exchange, routing_key))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        app.send_task("shop.add", queue="lopri")  # the queue is not there yet: returned, declared, sent again
        app.send_task("shop.add", queue="lopri", countdown=60)
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert seen == 2 * [("before", "shop.add", "tasks", "lopri"), ("after", "shop.add", "tasks", "lopri")]
    assert [message.headers["added"] for message in take(app, "lopri")] == ["by a handler"]


def test_a_task_that_was_refused_is_not_reported_as_sent(app: BrokerApp) -> None:
    """`after_task_publish` is not sent for a task that the broker did not accept."""
    seen: list[str] = []

    def after(sender: str, **_rest: object) -> None:
        seen.append(sender)

    signals.after_task_publish.connect(after)
    try:
        with pytest.raises(NoRoute):
            app.send_task("shop.add", exchange="not-there", routing_key="x")
    finally:
        signals.after_task_publish.disconnect(after)
    assert seen == []


def test_sent_events_are_published_after_a_lost_connection_too(
    make_app: AppMaker, make_user: MakeUser, management: Management
) -> None:
    """With `task_send_sent_event` each task has its event, and an event never makes a taken task an error."""
    url = make_user(".*", ".*", ".*")
    app = make_app(url=url, task_send_sent_event=True)
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
        channel.queue_declare("events", auto_delete=False)
        channel.queue_bind("events", "celeryev", "task.sent")
    ids = []
    for number in range(1, 4):
        ids.append(app.send_task("shop.add").id)
        wait_until(lambda number=number: depth(app, "events") == number, 30, "the event, which is not confirmed")
        management.close_connections_of(url)
    events = take(app, "events")
    assert [event.payload["uuid"] for event in events] == ids
    assert {event.payload["queue"] for event in events} == {"default"}


def test_threads_publish_side_by_side(app: BrokerApp) -> None:
    """Eight threads, one new app: each id that a call returned is in the queue, once."""

    def send(thread: int) -> list[tuple[str, str]]:
        queues = ["default", "lopri"]
        return [(queues[n % 2], app.send_task(f"thread-{thread}", queue=queues[n % 2]).id) for n in range(40)]

    with ThreadPoolExecutor(8) as pool:
        sent = [pair for pairs in pool.map(send, range(8)) for pair in pairs]
    for queue in ("default", "lopri"):
        found = sorted(message.headers["id"] for message in take(app, queue))
        assert found == sorted(task_id for where, task_id in sent if where == queue)
