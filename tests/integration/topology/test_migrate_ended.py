"""A migration that was ended at any point goes on: nothing is lost, at worst a task is there twice and marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import amqp
import pytest
from apps import depth, take
from migrating import HOLDING, ORDERED, RANKED, SHORT, counted, declaring, differing, ignore, publish

from broker_app.queues import DeadLetters, QueueSpec, QueueType
from broker_app.queues.delay import due_pattern
from broker_app.queues.topology import work_queue_arguments
from broker_app.topology.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps import AppMaker
    from brokers import Management
    from migrating import MakeMigrated

NEW = QueueSpec("lopri", type=QueueType.CLASSIC, has_priorities=True, dead_letters=DeadLetters.DISCARD)


class Ended(Exception):
    """Ends a migration where it stands, as SIGKILL would: nothing is put in order."""


@pytest.fixture
def make(make_app: AppMaker, management: Management) -> MakeMigrated:
    """Return what makes apps that know the management API; each declares what is missing."""
    return declaring(make_app, management)


def stage_none(_channel: Any) -> None:
    """Nothing has been done."""


def stage_moved(channel: Any) -> None:
    """The holding queue is declared, and some messages are there."""
    channel.queue_declare(HOLDING, durable=True, auto_delete=False)
    for _ in range(3):
        message = channel.basic_get("lopri")
        copy = amqp.Message(message.body, **message.properties)
        channel.basic_publish_confirm(copy, "", HOLDING)
        channel.basic_ack(message.delivery_tag)


def stage_both_bound(channel: Any) -> None:
    """The holding queue is bound too, and a message goes to both."""
    stage_moved(channel)
    bind(channel, HOLDING)
    channel.basic_publish_confirm(task("both"), "tasks", "lopri")


def stage_unbound(channel: Any) -> None:
    """Only the holding queue is bound."""
    stage_both_bound(channel)
    channel.queue_unbind("lopri", "tasks", "lopri")
    channel.queue_unbind("lopri", "tasks.due", due_pattern("lopri"))


def stage_deleted(channel: Any) -> None:
    """The queue is emptied and gone."""
    stage_unbound(channel)
    while (message := channel.basic_get("lopri")) is not None:
        channel.basic_publish_confirm(amqp.Message(message.body, **message.properties), "", HOLDING)
        channel.basic_ack(message.delivery_tag)
    channel.queue_delete("lopri")


def stage_declared(channel: Any) -> None:
    """It is declared again, and not bound yet."""
    stage_deleted(channel)
    found = work_queue_arguments(NEW)
    channel.queue_declare("lopri", durable=True, auto_delete=False, arguments=found)


def stage_bound_again(channel: Any) -> None:
    """Both are bound."""
    stage_declared(channel)
    bind(channel, "lopri")
    channel.basic_publish_confirm(task("again"), "tasks", "lopri")


def stage_fetching(channel: Any) -> None:
    """The holding queue is not bound, and its messages are not fetched back."""
    stage_bound_again(channel)
    channel.queue_unbind(HOLDING, "tasks", "lopri")
    channel.queue_unbind(HOLDING, "tasks.due", due_pattern("lopri"))


def bind(channel: Any, queue: str) -> None:
    """Bind a queue as the work queue is."""
    channel.queue_bind(queue, "tasks", "lopri")
    channel.queue_bind(queue, "tasks.due", due_pattern("lopri"))


def task(identity: str) -> amqp.Message:
    """Return a message of a task."""
    return amqp.Message("[]", delivery_mode=2, application_headers={"id": identity, "task": "shop.add"})


STAGES = (
    stage_none,
    stage_moved,
    stage_both_bound,
    stage_unbound,
    stage_deleted,
    stage_declared,
    stage_bound_again,
    stage_fetching,
)


@pytest.mark.version
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__.removeprefix("stage_"))
def test_it_goes_on_wherever_it_was_ended(make: MakeMigrated, stage: Callable[[Any], None]) -> None:
    """Wherever the last one stopped, messages are routed at once, and the next run brings all into the queue.

    A message that went to both is there twice, and one of the two says so.
    """
    old = make(ORDERED)
    published = publish(old, 10)
    with old.connection_for_write() as connection:
        connection.connection.confirm_publish = True
        channel = connection.connection.channel()
        stage(channel)
        channel.basic_publish_confirm(task("meanwhile"), "tasks", "lopri", mandatory=True)
    app = make(RANKED)

    migrate(app, "lopri", ignore, waits=SHORT)

    assert differing(app) == []
    assert depth(app, HOLDING) is None
    messages = take(app, "lopri")
    counts = counted(messages)
    assert set(counts) >= {*published, "meanwhile"}
    assert set(counts) <= {*published, "meanwhile", "both", "again"}
    assert counts["both"] == (STAGES.index(stage) >= STAGES.index(stage_both_bound)) * 2


@pytest.mark.version
@pytest.mark.parametrize("stage", range(4))
def test_it_is_ended_with_messages_on_their_way(make: MakeMigrated, stage: int) -> None:
    """Done again it goes on; every task is there, and one that is there twice is marked."""
    published = publish(make(ORDERED), 600)
    app, seen = make(RANKED), set()

    def end(told: str, _moved: int, _total: int | None) -> None:
        seen.add(told)
        if len(seen) > stage:
            raise Ended

    with pytest.raises(Ended):
        migrate(app, "lopri", end, waits=SHORT)
    migrate(app, "lopri", ignore, waits=SHORT)

    messages = take(app, "lopri")
    counts = counted(messages)
    assert set(counts) == set(published)
    assert differing(app) == []
