"""Dead letters and other messages looked at: what is shown of them, and that they stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import amqp
import pytest
from apps import depth, put, take
from deaths import BODY, DEAD, bury, death_headers, declare, publish, replay, task_headers
from waiting import wait_until

from broker_app import messages
from broker_app.queues.headers import BROKER_HEADERS

if TYPE_CHECKING:
    from apps import AppMaker

    from broker_app import BrokerApp


@pytest.fixture
def app(make_app: AppMaker) -> BrokerApp:
    """Return an app whose queues are declared."""
    made = make_app()
    declare(made)
    return made


@pytest.mark.version
def test_a_dead_letter_is_shown_as_the_worker_noted_it(app: BrokerApp) -> None:
    """Id, task, arguments, age since its death, reason, error, node; nothing is taken away by looking."""
    publish(app, DEAD, [task_headers(identity="one") | death_headers(seconds_ago=100)])
    for look in range(3):
        (letter,) = messages.peek(app, DEAD, 20).letters
        assert (letter.id, letter.task, letter.args, letter.kwargs) == ("one", "shop.add", "(1, 2)", "{'k': 3}")
        assert (letter.reason, letter.exception) == ("failed", "ValueError: no such order")
        assert (letter.node, letter.traceback, letter.retries) == ("default@host", "Traceback …", 3)
        assert letter.age_seconds == pytest.approx(100, abs=30)
        assert letter.is_redelivered == bool(look)


@pytest.mark.version
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_a_dead_letter_of_the_broker_is_understood(make_app: AppMaker, queue_type: str) -> None:
    """A message dropped by RabbitMQ has its reason and its age since then; leaving a lane does not count."""
    app = make_app(f'[queues.default]\ntype = "{queue_type}"\n')
    declare(app)
    task = app.send_task("shop.add", (1, 2), countdown=1)
    wait_until(lambda: depth(app, "default"), 30, "the task to be due")
    (waiting,) = messages.peek(app, "default", 20).letters
    assert (waiting.id, waiting.reason) == (task.id, "")
    with app.connection_for_write() as connection:
        message = connection.default_channel.basic_get("default")
        connection.default_channel.basic_reject(message.delivery_tag, requeue=False)
    wait_until(lambda: depth(app, DEAD), 30, "the dead letter")

    (letter,) = messages.peek(app, DEAD, 20).letters

    assert (letter.id, letter.reason, letter.args) == (task.id, "broker:rejected", "(1, 2)")
    assert letter.age_seconds is not None
    assert letter.age_seconds < 60
    assert replay(app, reasons=("rejected",)).done == 1
    (message,) = take(app, "default")
    assert not BROKER_HEADERS & message.headers.keys() - {"x-delivery-count"}


def test_somebody_elses_message_is_shown_too(app: BrokerApp) -> None:
    """One without headers, or with a body that is no JSON, is no reason to fail."""
    with app.connection_for_write() as connection:
        for body in (b"\xff?", BODY):
            put(connection.default_channel, amqp.Message(body, delivery_mode=2), "", DEAD)
    wait_until(lambda: depth(app, DEAD) == 2, 30, "both to be there")
    first, second = messages.peek(app, DEAD, 20).letters
    assert (first.id, first.task, first.args, first.age_seconds) == ("", "", "\N{REPLACEMENT CHARACTER}?", None)
    assert (second.args, second.kwargs) == ("[1, 2]", "{'k': 3}")


@pytest.mark.version
def test_a_look_at_a_work_queue_says_if_it_counts(app: BrokerApp, broker_version: tuple[int, ...]) -> None:
    """Before 4.3 a peek counts as a delivery on quorum queues, with a warning; dead letters are safe."""
    bury(app)
    app.send_task("shop.add")
    wait_until(lambda: depth(app, "default"), 30, "the task")
    assert messages.peek(app, "default", 5).is_counted == (broker_version < (4, 3))
    assert not messages.peek(app, DEAD, 5).is_counted
