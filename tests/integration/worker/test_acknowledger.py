"""Acknowledgements all at once: the broker keeps what is still held, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from apps import depth
from kombu.entity import Queue
from kombu.message import Message
from kombu.messaging import Consumer
from waiting import wait_until

from broker_app.worker.acknowledger import Acknowledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps import AppMaker
    from kombu.connection import Connection

    from broker_app import BrokerApp

SECONDS = 60.0
COUNT = 8


@pytest.fixture
def app(make_app: AppMaker) -> BrokerApp:
    """Return an app whose queue holds some tasks."""
    made = make_app()
    for number in range(COUNT):
        made.send_task(f"task-{number}")
    return made


@pytest.fixture
def connection(app: BrokerApp) -> Iterator[Connection]:
    """Return a connection that takes messages."""
    with app.connection_for_read() as made:
        yield made


def taken(connection: Connection, settlements: Acknowledger) -> list[Any]:
    """Return all messages of the queue, held."""
    messages: list[Any] = []
    with Consumer(connection, [Queue("default", no_declare=True)], on_message=messages.append):
        for _ in range(COUNT):
            connection.drain_events(timeout=SECONDS)
    for message in messages:
        settlements.hold(message)
    return messages


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("ended", [range(COUNT), [0, 1, 2, 5], [7], [3, 1, 0], [6, 7], []])
def test_the_broker_keeps_what_is_still_held(
    app: BrokerApp, connection: Connection, ended: list[int], *, is_alone: bool
) -> None:
    """Finished tasks are acknowledged in any order and combination, and all others are redelivered."""
    settlements = Acknowledger(connection.connection_errors, is_alone=is_alone)
    messages = taken(connection, settlements)
    settlements.acknowledge([messages[index] for index in ended])
    assert [message.acknowledged for message in messages] == [index in ended for index in range(COUNT)]
    connection.close()
    wait_until(lambda: depth(app, "default") == COUNT - len(ended), SECONDS, "the others to be there again")


def test_what_went_back_does_not_stand_in_the_way(app: BrokerApp, connection: Connection) -> None:
    """Messages that were requeued one by one are redelivered, and all others are acknowledged."""
    settlements = Acknowledger(connection.connection_errors, is_alone=True)
    messages = taken(connection, settlements)
    messages[0].requeue()
    settlements.reject(messages[1], is_requeued=True)
    settlements.acknowledge(messages[2:4])
    settlements.acknowledge(messages[4:])
    connection.close()
    wait_until(lambda: depth(app, "default") == 2, SECONDS, "two tasks to be there again")


def test_messages_of_two_channels_are_kept_apart(app: BrokerApp, connection: Connection) -> None:
    """A worker that also helps another queue acknowledges on each channel what came by it, and no more."""
    settlements, messages = Acknowledger(connection.connection_errors, is_alone=True), list[Message]()
    for channel in (connection.channel(), connection.channel()):
        channel.basic_qos(0, COUNT // 2, a_global=False)
        consumer = Consumer(channel, [Queue("default", no_declare=True)], on_message=messages.append)
        consumer.consume()
    while len(messages) < COUNT:
        connection.drain_events(timeout=SECONDS)
    for message in messages:
        settlements.hold(message)
    settlements.acknowledge(messages[2:6])
    connection.close()
    wait_until(lambda: depth(app, "default") == 4, SECONDS, "the others to be there again")


def test_an_unknown_message_keeps_the_others_apart(app: BrokerApp, connection: Connection) -> None:
    """A message that the acknowledger does not know is not acknowledged with the others, and is redelivered."""
    settlements = Acknowledger(connection.connection_errors, is_alone=True)
    known = taken(connection, Acknowledger(connection.connection_errors, is_alone=True))[1:]
    for message in known:
        settlements.hold(message)
    settlements.acknowledge(known)
    connection.close()
    wait_until(lambda: depth(app, "default") == 1, SECONDS, "the unknown task to be there again")


def test_those_of_a_lost_connection_are_left_alone(app: BrokerApp, connection: Connection) -> None:
    """Acknowledging messages of a closed connection is no error, and all of them are redelivered."""
    settlements = Acknowledger(connection.connection_errors, is_alone=True)
    messages = taken(connection, settlements)
    connection.close()
    settlements.acknowledge(messages)
    wait_until(lambda: depth(app, "default") == COUNT, SECONDS, "all tasks to be there again")
