"""Scanning a queue: each message is read once, and those that are not removed keep their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import amqp
import pytest
from apps import depth, put_all
from waiting import wait_until

from broker_app.errors import NotOnBroker
from broker_app.messages.channel import open_link
from broker_app.messages.scan import WINDOW, QueueScan

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app import BrokerApp

pytestmark = pytest.mark.version

MANY = 1_500
"""More than the windows of several consumers."""

TYPES = {
    "quorum": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000},
    "classic": {"x-queue-type": "classic"},
}


@pytest.fixture(params=TYPES)
def queue(app: BrokerApp, request: pytest.FixtureRequest) -> str:
    """Return a queue of one of the types with `MANY` messages, which are numbers."""
    name = f"numbers-{request.param}"
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=TYPES[request.param])
        put_all(connection, [(str(number).encode(), {"delivery_mode": 2}) for number in range(MANY)], name)
    wait_until(lambda: depth(app, name) == MANY, 60, "the messages to be there")
    return name


def read(
    app: BrokerApp, queue: str, limit: int | None = None, *, remove: Callable[..., bool] = lambda _: False
) -> list[int]:
    """Read a queue, take out what ``remove`` says, and return what was read."""
    found = []
    with open_link(app) as link, QueueScan(link, queue, limit) as reading:
        for delivery in (one for batch in reading.batches() for one in batch):
            found.append(int(delivery.body))
            (reading.remove if remove(found[-1]) else reading.keep)(delivery)
    return found


def test_all_are_read_in_their_order_again_and_again(app: BrokerApp, queue: str) -> None:
    """Every message is delivered once, in the queue's order, and the order is the same the next time."""
    for _ in range(3):
        assert read(app, queue) == list(range(MANY))


def test_the_first_ones_are_read_in_their_order_again_and_again(app: BrokerApp, queue: str) -> None:
    """A peek at the first messages changes neither their order nor that of the others."""
    for count in (10, 300, 1, 40):
        assert read(app, queue, count) == list(range(count))
    assert read(app, queue) == list(range(MANY))


@pytest.mark.parametrize("limit", [None, 700])
def test_what_is_taken_out_leaves_the_others_where_they_are(app: BrokerApp, queue: str, limit: int | None) -> None:
    """Some taken out here and there, in all of the queue or its beginning, twice: the rest keeps its order."""
    expected = list(range(MANY))
    for divisor in (3, 2):
        seen = read(app, queue, limit, remove=lambda number, by=divisor: number % by == 0)
        assert seen == expected[:limit]
        expected = [number for number in seen if number % divisor] + expected[len(seen) :]
    assert read(app, queue) == expected


def test_all_are_taken_out(app: BrokerApp, queue: str) -> None:
    """With nothing kept, one consumer reads it all."""
    assert read(app, queue, remove=lambda _: True) == list(range(MANY))
    assert depth(app, queue) == 0
    assert read(app, queue) == []


def test_an_error_in_the_block(app: BrokerApp, queue: str) -> None:
    """A kept message is in the queue again, and a removed one is not."""

    def fail(number: int) -> bool:
        if number == 700:
            raise ZeroDivisionError
        return number < 10

    with pytest.raises(ZeroDivisionError):
        read(app, queue, remove=fail)
    wait_until(lambda: depth(app, queue) == MANY - 10, 30, "the rest to be back")
    assert sorted(read(app, queue)) == list(range(10, MANY))


def test_no_more_is_held_than_said(app: BrokerApp, queue: str) -> None:
    """At most two windows of whole messages are in this process at once, however many are kept."""
    most = 0
    with open_link(app) as link, QueueScan(link, queue) as reading:
        for batch in reading.batches():
            most = max(most, len(batch))
            for delivery in batch:
                reading.keep(delivery)
    assert most <= 2 * WINDOW


def test_what_arrives_meanwhile_is_not_read(app: BrokerApp, queue: str) -> None:
    """A reading ends with what stood in the queue at its start; what came later stays behind it."""
    found: list[Any] = []
    with open_link(app) as link, QueueScan(link, queue) as reading, app.connection_for_write() as connection:
        for batch in reading.batches():
            for delivery in batch:
                connection.default_channel.basic_publish(amqp.Message(b"-1", delivery_mode=2), "", queue)
                found.append(int(delivery.body))
                reading.remove(delivery)
    assert found == list(range(MANY))
    wait_until(lambda: depth(app, queue) == MANY, 30, "the later ones to be there")


def test_a_queue_that_is_not_there(app: BrokerApp) -> None:
    """It is an error with a name."""
    with pytest.raises(NotOnBroker, match="404"):
        read(app, "nowhere")
