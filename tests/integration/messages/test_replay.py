"""Replay of dead letters: the selected ones are sent as fresh tasks, and none is lost on the way."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import amqp
import pytest
from apps import TWO_QUEUES, delete, depth, put, take
from celery import states
from deaths import BODY, DEAD, bury, carried, death_headers, declare, ids_in, ids_of, publish, replay, task_headers
from waiting import wait_until

from broker_app import messages
from broker_app.errors import NotOnBroker, SelectionError
from broker_app.messages import CommandOptions, MessageFilter, TransferOutcome
from broker_app.queues.dead_letters import DEAD_PREFIX
from broker_app.queues.headers import BROKER_HEADERS, DELAY_HEADER, MAYBE_TWICE_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from apps import AppMaker, MakeUser

    from broker_app import BrokerApp


@pytest.fixture
def app(make_app: AppMaker) -> BrokerApp:
    """Return an app whose queues are declared."""
    made = make_app()
    declare(made)
    return made


# Choosing


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"tasks": ("shop.*",)}, ["a", "b"]),
        ({"tasks": ("shop.add", "other.*")}, ["a", "c", "d"]),
        ({"ids": frozenset({"b", "d", "x"})}, ["b", "d"]),
        ({"reasons": ("poison*",)}, ["b"]),
        ({"older_than_seconds": 60.0}, ["b", "c"]),
        ({"newer_than_seconds": 60.0}, ["a", "d"]),
        ({"older_than_seconds": 60.0, "newer_than_seconds": 5_000.0}, ["b"]),
        ({"limit": 2}, ["a", "b"]),
        ({"tasks": ("other.*",), "limit": 1}, ["c"]),
    ],
    ids=" ".join,
)
def test_the_filters_choose(app: BrokerApp, filters: dict[str, Any], expected: list[str]) -> None:
    """Each filter lets through what it says, together they let through what all do; the rest stays in order."""
    publish(
        app,
        DEAD,
        [
            task_headers("shop.add", "a") | death_headers(),
            task_headers("shop.mul", "b") | death_headers("poisoned", 100),
            task_headers("other.run", "c") | death_headers("timed_out", 10_000),
            task_headers("other.run", "d") | death_headers("rejected", 10),
        ],
    )
    outcome = replay(app, **filters)
    assert (outcome.done, outcome.selected) == (len(expected), len(expected))
    assert ids_in(take(app, "default")) == expected
    assert ids_of(app, DEAD) == [one for one in "abcd" if one not in expected]


@pytest.mark.version
def test_a_dry_run_changes_nothing(app: BrokerApp) -> None:
    """It counts, by task too, and all stays where it is, in its order, and with its result."""
    ids = bury(app, 3) + bury(app, 2, task="shop.mul")
    app.backend.store_result(ids[0], ValueError("bad"), states.FAILURE)
    outcome = messages.replay(app, DEAD, CommandOptions(MessageFilter(limit=4), is_dry_run=True))
    assert (outcome.selected, outcome.done) == (4, 0)
    assert outcome.by_task == {"shop.add": 3, "shop.mul": 1}
    assert ids_of(app, DEAD) == ids
    assert app.AsyncResult(ids[0]).state == states.FAILURE
    assert depth(app, "default") == 0


# Sending again


@pytest.mark.version
def test_a_replayed_task_starts_anew(app: BrokerApp) -> None:
    """It keeps id, arguments, priority and relations; its retries, its time and the marks of its death are new."""
    x_death = [{"count": 1, "reason": "rejected", "queue": "default", "exchange": "", "routing-keys": ["default"]}]
    publish(
        app,
        DEAD,
        [task_headers(identity="one") | death_headers() | {"x-death": x_death, "CC": ["lopri"]}],
        priority=5,
        reply_to="me",
        user_id=app.connection_for_write().userid,
    )
    take(app, "lopri")  # RabbitMQ has followed the header CC already
    before = time.time()
    assert replay(app) == TransferOutcome(read=1, selected=1, done=1, by_task=Counter({"shop.add": 1}))
    (message,) = take(app, "default")
    headers = message.headers
    assert (headers["id"], headers["task"], headers["tenant"], headers["root_id"]) == (
        "one",
        "shop.add",
        "a",
        "root",
    )
    assert (headers["parent_id"], headers["group"], headers["retries"]) == ("parent", "group", 0)
    assert (message.properties["priority"], message.properties["reply_to"]) == (5, "me")
    assert (message.properties["correlation_id"], message.properties["delivery_mode"]) == ("one", 2)
    assert message.body == BODY.decode()
    assert before <= headers[PUBLISHED_AT_HEADER] <= time.time()
    assert headers[DELAY_HEADER] == 0
    assert MAYBE_TWICE_HEADER not in headers
    assert not [name for name in headers if name.startswith(DEAD_PREFIX)]
    assert not BROKER_HEADERS & carried(message).keys()
    assert (depth(app, DEAD), depth(app, "lopri")) == (0, 0)


def test_one_that_was_in_a_hand_before_says_so(app: BrokerApp) -> None:
    """A replayed dead letter that was peeked before carries `broker_app_maybe_twice`."""
    bury(app)
    messages.peek(app, DEAD, 1)
    replay(app)
    assert [message.headers[MAYBE_TWICE_HEADER] for message in take(app, "default")] == [True]


def test_a_message_of_another_user(app: BrokerApp, make_app: AppMaker, make_user: MakeUser) -> None:
    """A user_id that is not ours is left out: RabbitMQ would refuse it, and close the channel."""
    theirs = publish(app, DEAD, [task_headers()], user_id=app.connection_for_write().userid)
    ids = [*theirs, *bury(app)]
    operator = make_app(url=make_user(write=".*", read=".*"))
    assert replay(operator).done == 2
    messages = take(app, "default")
    assert ids_in(messages) == ids
    assert "user_id" not in messages[0].properties


def test_a_message_that_is_not_celerys(app: BrokerApp) -> None:
    """It is sent as it is."""
    publish(app, DEAD, [{"tenant": "b"}])
    assert replay(app).done == 1
    (message,) = take(app, "default")
    assert carried(message) == {"tenant": "b"}


def test_to_another_queue(app: BrokerApp) -> None:
    """All go there, and none to the queue that they come from."""
    ids = bury(app, 2)
    assert replay(app, to="lopri").done == 2
    assert (ids_in(take(app, "lopri")), depth(app, "default")) == (ids, 0)


def test_the_prefix_of_a_shared_broker(make_app: AppMaker) -> None:
    """A queue is named with or without it."""
    app = make_app('prefix = "eu."\n' + TWO_QUEUES)
    declare(app)
    ids = bury(app, 1)
    assert replay(app, "eu.default.dead").done == 1
    assert ids_in(take(app, "eu.default")) == ids
    ids = bury(app, 1)
    assert replay(app, "default.dead", to="lopri").done == 1
    assert ids_in(take(app, "eu.lopri")) == ids


@pytest.mark.version
def test_many_keep_their_order(app: BrokerApp) -> None:
    """A thousand are sent in their order, and every second one of another thousand leaves the rest in order."""
    ids = bury(app, 1_000)
    told: list[tuple[int, int]] = []
    outcome = messages.replay(app, DEAD, CommandOptions(told=lambda *facts: told.append(facts)))
    assert (outcome.done, outcome.failed) == (1_000, 0)
    assert ids_in(take(app, "default")) == ids
    assert told[-1] == (1_000, 1_000)

    tasks = [f"shop.t{number % 2}" for number in range(1_000)]
    ids = publish(app, DEAD, [task_headers(task) | death_headers() for task in tasks])
    assert replay(app, tasks=("shop.t1",)).done == 500
    assert ids_in(take(app, "default")) == ids[1::2]
    assert ids_in(take(app, DEAD)) == ids[::2]


def test_what_is_parked_goes_where_it_was_due_for(app: BrokerApp) -> None:
    """`replay tasks.unrouted` does what `unrouted --replay` does, with filters."""
    with app.connection_for_write() as connection:
        for name in ("lopri", "default"):
            message = amqp.Message(BODY, application_headers=task_headers(identity=name), delivery_mode=2)
            put(connection.default_channel, message, "tasks.unrouted", f"0d.0h.0m.1s.0ms.{name}")
    wait_until(lambda: depth(app, "tasks.unrouted") == 2, 30, "both to be parked")
    assert replay(app, "tasks.unrouted", ids=frozenset({"lopri"})).done == 1
    assert ids_in(take(app, "lopri")) == ["lopri"]
    assert ids_of(app, "tasks.unrouted") == ["default"]


# Refusals


@pytest.mark.version
def test_a_queue_that_is_not_bound(app: BrokerApp) -> None:
    """A returned message stays, in order, with the reason, and so does its result."""
    ids = bury(app, 40)
    app.backend.store_result(ids[0], ValueError("bad"), states.FAILURE, traceback="Traceback …")
    with app.connection_for_write() as connection:
        connection.default_channel.queue_unbind("default", "tasks", "default")
    outcome = replay(app)
    assert (outcome.done, outcome.unroutable, outcome.reason) == (0, 40, "default: its queue is not on the broker")
    assert ids_of(app, DEAD) == ids
    result = app.AsyncResult(ids[0])
    assert (result.state, repr(result.result), result.traceback) == (
        states.FAILURE,
        "ValueError('bad')",
        "Traceback …",
    )


@pytest.mark.version
def test_a_queue_that_takes_some(app: BrokerApp) -> None:
    """A message refused by a full queue stays; an accepted one is gone. Each is in one place."""
    ids = bury(app, 30)
    delete(app, "default")
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        arguments = {"x-queue-type": "classic", "x-overflow": "reject-publish", "x-max-length": 10}
        channel.queue_declare("default", durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind("default", "tasks", "default")
    outcome = replay(app)
    assert outcome.done + outcome.refused == 30
    assert outcome.refused > 0
    assert outcome.reason == "default: its queue refused it"
    left, taken = ids_of(app, DEAD), ids_in(take(app, "default"))
    assert sorted(left + taken) == sorted(ids)
    assert left == [one for one in ids if one in left]


def test_a_queue_that_is_gone(app: BrokerApp) -> None:
    """Nothing is read, and one line says what to do."""
    ids = bury(app, 2)
    delete(app, "default")
    with pytest.raises(NotOnBroker, match=r"404.*'default'.*run `broker-app topology declare`"):
        replay(app)
    assert ids_of(app, DEAD) == ids


@pytest.mark.parametrize(
    ("queue", "to", "words"),
    [
        ("defalt.dead", None, "did you mean 'default.dead'"),
        ("default", None, "expected dead letters, got a work queue"),
        (DEAD, "lopry", "did you mean 'lopri'"),
        (DEAD, DEAD, "expected another queue"),
        ("old.dead", None, "expected --to"),
        ("delay.10s", None, "got a delay lane"),
        ("tasks.cancelled", None, "needs for itself"),
    ],
)
def test_queues_that_cannot_be(app: BrokerApp, queue: str, to: str | None, words: str) -> None:
    """Each is refused in one line, before anything is touched."""
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("old.dead", durable=True, auto_delete=False)
    ids = bury(app, 2)
    with pytest.raises(SelectionError, match=words) as caught:
        replay(app, queue, to=to)
    assert "\n" not in str(caught.value)
    assert ids_of(app, DEAD) == ids


def test_dead_letters_of_a_queue_that_the_settings_no_longer_have(app: BrokerApp) -> None:
    """They can be looked at, and sent to another queue."""
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("old.dead", durable=True, auto_delete=False)
    ids = publish(app, "old.dead", [task_headers() for _ in range(2)])
    assert ids_of(app, "old.dead") == ids
    assert replay(app, "old.dead", to="lopri").done == 2
    assert ids_in(take(app, "lopri")) == ids
