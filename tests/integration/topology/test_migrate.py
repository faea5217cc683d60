"""A queue moves to new arguments with its messages, and what cannot be moved is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import amqp
import pytest
from apps import TWO_QUEUES, delete, depth, put, take
from migrating import (
    CLASSIC,
    HOLDING,
    ORDERED,
    PRIORITIES,
    RANKED,
    SHORT,
    declaring,
    differing,
    ids,
    ignore,
    publish,
)
from waiting import wait_until

from broker_app.broker.access import connect
from broker_app.broker.declare import exclusive_queue
from broker_app.errors import BrokerError, BrokerLocked, CallError, NotOnBroker, UnknownQueue
from broker_app.queues.headers import MAYBE_TWICE_HEADER
from broker_app.queues.holding import HoldingQueue, lock_name
from broker_app.topology.migrate import MigrationResult, migrate

if TYPE_CHECKING:
    from apps import AppMaker
    from brokers import Management
    from migrating import MakeMigrated


@pytest.fixture
def make(make_app: AppMaker, management: Management) -> MakeMigrated:
    """Return what makes apps that know the management API; each declares what is missing."""
    return declaring(make_app, management)


@pytest.mark.version
@pytest.mark.parametrize(
    ("before", "after"),
    [(CLASSIC, TWO_QUEUES), (TWO_QUEUES, CLASSIC), (CLASSIC, PRIORITIES), (PRIORITIES, TWO_QUEUES)],
    ids=["to quorum", "to classic", "to priorities", "from priorities"],
)
def test_the_messages_move_in_their_order(make: MakeMigrated, before: str, after: str) -> None:
    """The queue and its dead letters have the new arguments, all bindings stand, and the order is kept."""
    old = make(before)
    published = publish(old, 30)
    with old.connection_for_write() as connection:
        put(connection.default_channel, amqp.Message("given up"), "tasks.dead", "lopri")
    app = make(after)
    assert differing(app)

    done = migrate(app, "lopri", ignore, waits=SHORT)

    dead_too = before is not PRIORITIES and after is not PRIORITIES
    moved = {one.queue: one.messages for one in done}
    assert moved == ({"lopri.dead": 1} if dead_too or TWO_QUEUES in {before, after} else {}) | {"lopri": 30}
    assert differing(app) == []
    assert (depth(app, HOLDING), depth(app, "lopri.dead")) == (None, 1)
    messages = take(app, "lopri")
    assert ids(messages) == published
    assert not any(MAYBE_TWICE_HEADER in message.headers for message in messages)
    assert migrate(app, "lopri", ignore, waits=SHORT) == []


@pytest.mark.version
def test_quorum_to_quorum_with_other_arguments(make: MakeMigrated) -> None:
    """A queue of the same type with another argument, here a default delivery limit, is migrated too."""
    app = make(TWO_QUEUES)
    delete(app, "lopri")
    arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare("lopri", durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind("lopri", "tasks", "lopri")
    published = publish(app, 5)
    (done,) = migrate(app, "lopri", ignore, waits=SHORT)
    assert (done.queue, done.messages) == ("lopri", 5)
    assert "x-dead-letter-exchange is not set" in done.difference
    assert differing(app) == []
    assert ids(take(app, "lopri")) == published


@pytest.mark.version
def test_a_message_keeps_all_that_it_carries(make: MakeMigrated) -> None:
    """Body, properties and headers arrive as they were sent; of a dead letter its history and its key too."""
    old = make(CLASSIC)
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "message_id": "m",
        "type": "t",
        "app_id": "a",
        "delivery_mode": 2,
        "application_headers": {
            "id": "1",
            "n": 5_000_000_000,
            "f": 0.5,
            "none": None,
            "list": [1, {"a": "ü"}],
            "when": datetime(2026, 1, 2, tzinfo=UTC).replace(tzinfo=None),
            "yes": True,
        },
    }
    with old.connection_for_write() as connection:
        channel = connection.default_channel
        put(channel, amqp.Message("ü".encode(), **properties), "", "lopri")
        put(channel, amqp.Message(b"\xff", application_headers={"x-death": [{"count": 1}]}), "tasks.dead", "lopri")

    app = make(TWO_QUEUES)
    migrate(app, "lopri", ignore, waits=SHORT)

    with app.connection_for_write() as connection:
        channel = connection.connection.channel()
        channel.auto_decode = False
        message, dead = channel.basic_get("lopri", no_ack=True), channel.basic_get("lopri.dead", no_ack=True)
    message.properties["application_headers"].pop("x-delivery-count", None)  # 3.10 adds one of 0
    assert (message.body, message.properties) == ("ü".encode(), properties)
    assert (dead.body, dead.delivery_info["routing_key"]) == (b"\xff", "lopri")
    assert dead.properties["application_headers"]["x-death"] == [{"count": 1}]


# Other things on the broker


def test_the_parking_queue_and_dead_letters_move_by_their_names(make: MakeMigrated) -> None:
    """Each moves alone, its messages keep the keys by which they are replayed, and it gets new ones after it."""
    app = make(TWO_QUEUES)
    keys = {"tasks.unrouted": "0d.0h.0m.1s.0ms.gone", "lopri.dead": "lopri"}
    for name, key in keys.items():
        delete(app, name)
        with app.connection_for_write() as connection:
            channel = connection.default_channel
            channel.queue_declare(name, durable=True, auto_delete=False)
            exchange = "tasks.dead" if name == "lopri.dead" else name
            channel.queue_bind(name, exchange, "" if exchange == name else key)
            for _ in range(3):
                put(channel, amqp.Message("x"), exchange, key)
    for name, key in keys.items():
        (done,) = migrate(app, name, ignore, waits=SHORT)
        assert (done.queue, done.messages) == (name, 3)
        assert [message.delivery_info["routing_key"] for message in take(app, name)] == [key] * 3
    assert differing(app) == []


@pytest.mark.version
def test_bindings_that_somebody_else_made_stand_after_it(make: MakeMigrated) -> None:
    """Also those of a headers exchange, with their arguments."""
    old = make(CLASSIC)
    with old.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_bind("lopri", "amq.fanout", "any")
        channel.queue_bind("lopri", "amq.headers", "", arguments={"x-match": "all", "shop": 7})
    app = make(TWO_QUEUES)
    migrate(app, "lopri", ignore, waits=SHORT)
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        put(channel, amqp.Message("1"), "amq.fanout", "")
        put(channel, amqp.Message("2", application_headers={"shop": 7}), "amq.headers", "")
        put(channel, amqp.Message("3", application_headers={"shop": 8}), "amq.headers", "")
    wait_until(lambda: depth(app, "lopri") == 2, 30, "what both lead to")


@pytest.mark.version
def test_with_a_prefix(make: MakeMigrated) -> None:
    """All names, those of lock and holding queue too, begin with it; the queue is called by either name."""
    make('prefix = "p."\n' + CLASSIC)
    app = make('prefix = "p."\n' + TWO_QUEUES)
    published = publish(app, 3)
    seen: list[str] = []
    done = migrate(app, "p.lopri", lambda stage, *_: seen.append(stage), waits=SHORT)
    assert [one.queue for one in done] == ["p.lopri.dead", "p.lopri"]
    assert HoldingQueue("p.lopri", "p.").name == "p.tasks.moving.lopri"
    assert lock_name("p.") == "p.tasks.migrate"
    assert any("p.tasks.moving.lopri" in stage for stage in seen)
    assert ids(take(app, "p.lopri")) == published
    assert migrate(app, "lopri", ignore, waits=SHORT) == []


# Refusals


def test_a_dry_run_changes_nothing(make: MakeMigrated) -> None:
    """It lists the queues to migrate and the reasons."""
    publish(make(ORDERED), 3)
    app = make(RANKED)
    before = differing(app)
    (would,) = migrate(app, "lopri", ignore, is_dry_run=True)
    assert would == MigrationResult("lopri", "x-max-priority is not set, wanted 9", 3)
    assert differing(app) == before
    assert (depth(app, "lopri"), depth(app, HOLDING)) == (3, None)


def test_what_cannot_be_moved(make: MakeMigrated, make_app: AppMaker) -> None:
    """A lane, a stream, an unknown name, a queue that is not there; each is named, and nothing is changed."""
    app = make(TWO_QUEUES)
    for name in ("delay.10s", "tasks.cancelled"):
        with pytest.raises(CallError, match=f"queue '{name}': expected a work queue"):
            migrate(app, name, ignore)
    with pytest.raises(UnknownQueue, match="did you mean 'lopri'"):
        migrate(app, "lopry", ignore)
    delete(app, "tasks.unrouted")
    with pytest.raises(NotOnBroker, match="topology apply"):
        migrate(app, "tasks.unrouted", ignore)
    blind = make_app('management_url = "http://127.0.0.1:1"\n' + ORDERED)
    with pytest.raises(BrokerError, match=r"management API http://127\.0\.0\.1:1: no answer"):
        migrate(blind, "lopri", ignore)


def test_one_at_a_time(make: MakeMigrated) -> None:
    """A second migration gets an error: another one is running."""
    publish(make(ORDERED), 3)
    app = make(RANKED)
    with (
        connect(app) as connection,
        exclusive_queue(connection, lock_name("")),
        pytest.raises(BrokerLocked, match="`topology migrate` or `queues retire` is at work"),
    ):
        migrate(app, "lopri", ignore, waits=SHORT)
    assert depth(app, "lopri") == 3
