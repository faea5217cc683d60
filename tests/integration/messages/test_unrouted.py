"""Parked tasks: looking at them loses none, and a replay that is refused, killed or cut off loses none either."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import amqp
import pytest
from apps import delete, depth, put, take
from proxy import TcpProxy
from waiting import wait_until

from broker_app import messages
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology
from broker_app.errors import BrokerError, NotOnBroker, UnknownQueue
from broker_app.messages import peek_unrouted, replay_unrouted
from broker_app.queues import DeadLetters, QueueSpec, QueueType, work_topology
from broker_app.queues.headers import BROKER_HEADERS, MAYBE_TWICE_HEADER

if TYPE_CHECKING:
    from apps import AppMaker
    from kombu.message import Message

    from broker_app import BrokerApp

UNROUTED = "tasks.unrouted"
LOOKS = 25
"""RabbitMQ 4 drops a quorum queue's message by default when it comes back for the 21st time."""


def park(app: BrokerApp, count: int = 1, queue: str = "lopri", **options: Any) -> list[str]:
    """Let tasks be due for a queue that is gone; return their ids, and leave the queue undeclared."""
    ids = [app.send_task("shop.add", (1, 2), queue=queue, **options).id for _ in range(count)]
    messages = take(app, queue)
    delete(app, queue)
    with app.connection_for_write() as connection:
        for message in messages:
            copy = amqp.Message(message.body, **dict(message.properties, application_headers=message.headers))
            put(connection.default_channel, copy, "tasks.due", f"0d.0h.0m.1s.0ms.{queue}")
    wait_until(lambda: (depth(app, UNROUTED) or 0) >= count, 30, "the tasks to be parked")
    return ids


def declare(app: BrokerApp, *names: str) -> None:
    """Declare work queues."""
    with connect(app) as connection:
        declare_topology(connection, work_topology([QueueSpec(name) for name in names], ""))


def declare_full(app: BrokerApp, name: str) -> None:
    """Declare a work queue that takes no more, as with a policy that bounds it."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        arguments = {"x-queue-type": "classic", "x-overflow": "reject-publish", "x-max-length": 0}
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind(name, "tasks", name)


def ids_in(messages: list[Message]) -> list[str]:
    """Return the tasks' ids."""
    return [message.headers["id"] for message in messages]


def replay(app: BrokerApp, to: str | None = None) -> tuple[int, int, str]:
    """Replay and return what was moved, what is left, and why."""
    done = replay_unrouted(app, to, lambda *_: None)
    return done.moved, done.left, done.reason


# Looking


def test_what_is_parked_is_shown(app: BrokerApp) -> None:
    """Id, task and queue of each, in the order in which they were parked, and no more than asked for."""
    ids = park(app, 3)
    found = [(one.task_id, one.task, one.queue) for one in peek_unrouted(app, 2)]
    assert found == [(identity, "shop.add", "lopri") for identity in ids[:2]]
    assert [one.task_id for one in peek_unrouted(app, 20)] == ids


def test_somebody_elses_message_is_shown_too(app: BrokerApp) -> None:
    """A message without our headers or with another routing key is no reason to fail, and it stays."""
    park(app)
    with app.connection_for_write() as connection:
        put(connection.default_channel, amqp.Message(b"?"), UNROUTED, "what.is.this")
    wait_until(lambda: depth(app, UNROUTED) == 2, 30, "the message")
    assert [(one.task_id, one.queue) for one in peek_unrouted(app, 20)][1] == ("", "what.is.this")
    declare(app, "lopri")
    moved, left, reason = replay(app)
    assert (moved, left) == (1, 1)
    assert "what.is.this" in reason


def test_an_empty_parking_queue(app: BrokerApp) -> None:
    """Nothing is shown, and nothing is moved."""
    declare(app)
    assert peek_unrouted(app, 20) == []
    assert replay(app) == (0, 0, "")


def test_nothing_was_ever_declared(app: BrokerApp) -> None:
    """It is an error of one line that says what to do."""
    for look in (lambda: peek_unrouted(app, 20), lambda: replay(app)):
        with pytest.raises(NotOnBroker, match=r"404.*tasks\.unrouted.*run `broker-app topology declare`"):
            look()


def test_a_broker_that_is_away(make_app: AppMaker) -> None:
    """It is an error of one line, without the password."""
    with pytest.raises(BrokerError, match="no access to the broker") as caught:
        peek_unrouted(make_app(url="amqp://u:secret@127.0.0.1:1//"), 20)
    assert "secret" not in str(caught.value)


def test_a_refused_login(make_app: AppMaker) -> None:
    """A wrong password and a missing virtual host are named in plain words, without the client library's."""
    url = urlsplit(make_app.url)
    cases = {
        url._replace(netloc=f"guest:s3cret@{url.hostname}:{url.port}"): "user or password",
        url._replace(path="/no-such-vhost"): "virtual host",
    }
    for bad, words in cases.items():
        with pytest.raises(BrokerError, match=words) as caught:
            peek_unrouted(make_app(url=urlunsplit(bad)), 20)
        assert "Probable" not in str(caught.value)


@pytest.mark.version
def test_looking_loses_nothing(app: BrokerApp) -> None:
    """However often the messages are read, all are there, in order."""
    ids = park(app, 3)
    for _ in range(LOOKS):
        assert [one.task_id for one in peek_unrouted(app, 20)] == ids
    assert ids_in(take(app, UNROUTED)) == ids


@pytest.mark.version
@pytest.mark.parametrize("queue", [UNROUTED, "default.dead", "urgent.dead"])
def test_what_is_kept_survives_every_way_of_looking(app: BrokerApp, queue: str) -> None:
    """Other tools hand back by closing, or reject: the parking queue and the dead letters keep their messages."""
    specs = [QueueSpec("default"), QueueSpec("urgent", type=QueueType.CLASSIC, dead_letters=DeadLetters.KEEP)]
    with connect(app) as connection:
        declare_topology(connection, work_topology(specs, ""))
        put(connection.channel(), amqp.Message(b"kept", delivery_mode=2), "", queue)
    wait_until(lambda: depth(app, queue) == 1, 30, "the message")
    for look in range(LOOKS):
        with app.connection_for_write() as connection:
            channel = connection.default_channel
            message = wait_until(lambda c=channel: c.basic_get(queue), 30, f"the message at look {look}")
            if look % 2:
                channel.basic_reject(message.delivery_tag, requeue=True)
    wait_until(lambda: depth(app, queue) == 1, 30, "the message to be back")


# Replaying


@pytest.mark.version
def test_each_goes_to_the_queue_that_it_was_due_for(app: BrokerApp) -> None:
    """With its id, body, headers and priority; what RabbitMQ noted on its first way is not carried along."""
    ids = park(app, 2, headers={"tenant": "a"}) + park(app, 1, queue="default")
    declare(app, "default", "lopri")

    assert replay(app) == (3, 0, "")

    messages = take(app, "lopri")
    assert ids_in(messages + take(app, "default")) == ids
    assert messages[0].headers["tenant"] == "a"
    assert messages[0].properties["delivery_mode"] == 2
    assert not messages[0].headers.get("x-delivery-count")  # 3.10 sets it to 0 when it delivers
    stale = BROKER_HEADERS - {"x-delivery-count"} | {MAYBE_TWICE_HEADER}
    assert not stale & messages[0].headers.keys()
    assert depth(app, UNROUTED) == 0


def test_all_to_another_queue(app: BrokerApp) -> None:
    """`--to` sends each of them there, whatever it was due for."""
    ids = park(app, 2)
    declare(app, "default")
    assert replay(app, "default") == (2, 0, "")
    assert ids_in(take(app, "default")) == ids


def test_to_a_queue_that_is_not_declared(app: BrokerApp) -> None:
    """The nearest known one is named, and nothing is moved."""
    ids = park(app)
    with pytest.raises(UnknownQueue, match="did you mean 'lopri'"):
        replay(app, "lopry")
    assert [one.task_id for one in peek_unrouted(app, 20)] == ids


def test_what_has_no_queue_stays_and_holds_nobody_up(make_app: AppMaker) -> None:
    """For missing and removed queues the first reason is reported; other messages are moved."""
    app = make_app("[queues.default]\n[queues.lopri]\n[queues.old]\n")
    stay = park(app, 2) + park(app, 1, queue="old")
    go = park(app, 2, queue="default")
    declare(app, "default")
    later = make_app("[queues.default]\n[queues.lopri]\n")

    assert replay(later) == (2, 3, "0d.0h.0m.1s.0ms.lopri: its queue is not on the broker")

    assert ids_in(take(app, "default")) == go
    assert [one.task_id for one in peek_unrouted(app, 20)] == stay
    declare(app, "lopri")
    moved, left, reason = replay(later)
    assert (moved, left) == (2, 1)
    assert "'old'" in reason


@pytest.mark.version
def test_a_queue_that_refuses(app: BrokerApp) -> None:
    """A message refused by a full queue stays unrouted, again and again, and moves once there is room."""
    ids = park(app, 2)
    declare_full(app, "lopri")
    for _ in range(LOOKS):
        wait_until(lambda: depth(app, UNROUTED) == 2, 30, "both to be back")
        assert replay(app) == (0, 2, "0d.0h.0m.1s.0ms.lopri: its queue refused it")
    delete(app, "lopri")
    declare(app, "lopri")
    assert replay(app) == (2, 0, "")
    assert ids_in(take(app, "lopri")) == ids


def test_a_thousand(app: BrokerApp) -> None:
    """They are all moved, in order, and the caller gets the progress."""
    park(app)
    (message,) = take(app, UNROUTED)
    ids = [f"task-{number}" for number in range(1_000)]
    with app.connection_for_write() as connection:
        for identity in ids:
            headers = dict(message.headers, id=identity)
            copy = amqp.Message(message.body, **dict(message.properties, application_headers=headers))
            connection.default_channel.basic_publish(copy, UNROUTED, message.delivery_info["routing_key"])
    wait_until(lambda: depth(app, UNROUTED) == 1_000, 30, "the tasks to be parked")
    declare(app, "lopri")
    told: list[int] = []
    assert replay_unrouted(app, None, lambda read, _: told.append(read)) == messages.ReplayResult(1_000, 0)
    assert told == sorted(set(told))
    assert told[-1] == 1_000
    assert ids_in(take(app, "lopri")) == ids


# A replay that does not come to its end

REPLAY = """
import os, signal, sys
from pika.channel import Channel
from broker_app import BrokerApp, messages

config, method, moment, number = sys.argv[1:]
original, calls = getattr(Channel, method), []

def call(*arguments, **options):
    calls.append(1)
    is_now = len(calls) == int(number)
    if is_now and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = original(*arguments, **options)
    if is_now and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

setattr(Channel, method, call)
app = BrokerApp("replay", config=config, set_as_current=False)
messages.replay_unrouted(app, None, lambda *_: None)
"""
"""It kills itself before or after a given call of a method."""


@pytest.mark.version
@pytest.mark.parametrize(
    ("method", "moment"),
    [
        ("basic_consume", "after"),
        ("basic_publish", "before"),
        ("basic_publish", "after"),
        ("basic_ack", "before"),
        ("basic_ack", "after"),
    ],
)
def test_a_replay_that_is_killed_loses_nothing(app: BrokerApp, method: str, moment: str) -> None:
    """All are there; what is there twice was sent and not acknowledged in the parking queue, and says so."""
    ids = park(app, 10)
    declare(app, "lopri")
    number = "1" if method == "basic_consume" else "5"
    command = [sys.executable, "-c", REPLAY, str(app.config_file), method, moment, number]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    wait_until(lambda: (depth(app, UNROUTED) or 0) + (depth(app, "lopri") or 0) >= 10, 30, "all to be somewhere")
    first = take(app, "lopri")

    replay(app)

    second = take(app, "lopri")
    doubled = set(ids_in(first)) & set(ids_in(second))
    assert set(ids_in(first + second)) == set(ids)
    assert len(first + second) == len(ids) + len(doubled)
    assert doubled <= {message.headers["id"] for message in second if message.headers.get(MAYBE_TWICE_HEADER)}


@pytest.mark.version
def test_a_replay_that_is_cut_off_loses_nothing(make_app: AppMaker) -> None:
    """The caller has an error of one line; what was not confirmed is parked as before."""
    app = make_app()
    ids = park(app, 10)
    declare(app, "lopri")
    with TcpProxy.to(app.settings.broker_url.get_secret_value()) as proxy:
        behind = make_app(url=proxy.url(app.settings.broker_url.get_secret_value()))
        with pytest.raises(BrokerError, match="the connection was lost, try again") as caught:
            replay_unrouted(behind, None, lambda *_: proxy.cut())
    assert "\n" not in str(caught.value)
    first = take(app, "lopri")
    wait_until(lambda: (depth(app, UNROUTED) or 0) >= 10 - len(first), 30, "the rest to be handed back")
    replay(app)
    assert set(ids_in(first + take(app, "lopri"))) == set(ids)
