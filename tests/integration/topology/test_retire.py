"""A queue that was removed from the settings is shown, and retired without losing a message."""

from __future__ import annotations

from contextlib import suppress
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import amqp
import pytest
from apps import delete, depth, put, take
from migrating import SHORT, counted, declaring, differing, ids, ignore, publish
from waiting import wait_until

from broker_app.broker.management import management_of
from broker_app.broker.pauses import pause_queue, paused_queues, resume_queue
from broker_app.errors import BrokerError, InvalidQueueName, SelectionError, UnknownQueue
from broker_app.messages import read_overview
from broker_app.monitoring.broker_reader import BrokerReader
from broker_app.topology.retire import Retired, retire_queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps import AppMaker
    from brokers import Management
    from migrating import MakeMigrated

    from broker_app import BrokerApp

HEAD = "common_lanes = []\n"
NEW = HEAD + '[queues.default]\ntype = "classic"\n'
OLD = NEW + '[queues.lopri]\ntype = "classic"\n'
QUORUM = HEAD + "[queues.default]\n[queues.lopri]\n"
DISCARDING = OLD + 'dead_letters = "discard"\n'


@pytest.fixture
def make(make_app: AppMaker, management: Management) -> MakeMigrated:
    """Return what makes apps that know the management API; each declares what is missing."""
    return declaring(make_app, management)


def retire(app: BrokerApp, name: str = "lopri", **options: Any) -> Retired:
    """Retire a queue without the waits that a busy broker needs."""
    return retire_queue(app, name, ignore, waits=SHORT, **options)


def bury(app: BrokerApp, count: int) -> None:
    """Give up messages of the queue."""
    with app.connection_for_write() as connection:
        for _ in range(count):
            put(connection.default_channel, amqp.Message("given up"), "tasks.dead", "lopri")


def left(app: BrokerApp) -> list[str]:
    """Return the names of the queues that are shown as removed from the settings."""
    return [name for name, row in read_overview(app, may_look=False).rows.items() if row.is_removed]


@pytest.mark.version
@pytest.mark.parametrize("before", [OLD, QUORUM, DISCARDING], ids=["classic", "quorum", "discards"])
def test_its_messages_go_to_another_queue(make: MakeMigrated, before: str) -> None:
    """With its dead letters, in their order; its pause is lifted, and nothing of it is left on the broker."""
    old, app = make(before), make(before.partition("[queues.lopri]")[0])
    published = publish(old, 30)
    pause_queue(old, "lopri")
    keeps_dead = "discard" not in before
    bury(old, 2 * keeps_dead)
    assert left(app) == ["lopri"]

    assert retire(app, into="default") == Retired("lopri", "default", 30, 2 * keeps_dead, True, 0)  # noqa: FBT003
    assert (depth(app, "lopri"), depth(app, "lopri.dead"), paused_queues(app)) == (None, None, frozenset())
    assert depth(app, "default.dead") == 2 * keeps_dead
    assert ids(take(app, "default")) == published
    assert left(app) == []
    with pytest.raises(SelectionError, match="does not exist on the broker"):
        retire(app)


def test_it_is_shown_until_it_is_retired(make: MakeMigrated) -> None:
    """The list, and the numbers that page and metrics show, have its messages, its dead letters and its pause."""
    old, app = make(OLD), make(NEW)
    publish(old, 3)
    bury(old, 1)
    pause_queue(old, "lopri")
    row = read_overview(app, may_look=False).rows["lopri"]
    assert (row.ready, row.dead, row.is_paused, row.is_removed) == (3, 1, True, True)
    reader = BrokerReader(app)

    def numbers() -> tuple[int, int | None]:
        found = reader.read().queues["lopri"]
        return found.ready, found.dead

    wait_until(lambda: numbers() == (3, 1), 60, "the broker to have counted")

    delete(app, "lopri")
    assert read_overview(app, may_look=False).rows["lopri"].dead == 1
    assert "lopri" in BrokerReader(app).read().queues
    resume_queue(app, "lopri")
    assert not read_overview(app, may_look=False).rows["lopri"].is_paused


def test_a_pause_alone_is_shown_and_lifted(make: MakeMigrated) -> None:
    """A queue deleted by hand may still be paused: that is shown, and removed."""
    old, app = make(OLD), make(NEW)
    pause_queue(old, "lopri")
    delete(app, "lopri", "lopri.dead")
    assert left(app) == ["lopri"]
    assert retire(app).was_paused
    assert (left(app), paused_queues(app)) == ([], frozenset())


def test_others_queues_are_not_ours(make: MakeMigrated) -> None:
    """A queue with another prefix, one that is bound to nothing of ours, a lane and a stream are not shown."""
    app = make(NEW)
    make('prefix = "b."\n' + DISCARDING)
    make('prefix = "b."\n' + QUORUM.replace("lopri", "more"))
    app.send_task("shop.add", countdown=60)
    with app.connection_for_write() as connection:
        for name, more in (("theirs", {}), ("theirs.dead", {}), ("odd", {"x-overflow": "reject-publish"})):
            arguments = {"x-queue-type": "classic", **more}
            connection.default_channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
    assert left(app) == []
    with pytest.raises(SelectionError, match="another application's"):
        retire(app, "theirs")
    assert depth(app, "theirs") == 0


def test_nothing_is_lost_by_a_refusal(make: MakeMigrated) -> None:
    """With messages and no successor, with consumers, or still in the settings, it stays as it is."""
    old, app = make(OLD), make(NEW)
    publish(old, 2)
    pause_queue(old, "lopri")
    with pytest.raises(SelectionError, match="expected --into QUEUE for 2 messages"):
        retire(app)
    with pytest.raises(SelectionError, match="it is in the settings"):
        retire(old)
    with pytest.raises(UnknownQueue, match="did you mean 'default'"):
        retire(app, into="defalt")
    with pytest.raises(InvalidQueueName):
        retire(app, "tasks.unrouted")
    with old.connection_for_write() as connection:
        connection.default_channel.basic_consume("lopri", callback=ignore)
        with pytest.raises(BrokerError, match="it has 1 consumers"):
            retire(app, into="default")
    assert wait_until(lambda: depth(app, "lopri") == 2, 30, "what the consumer had")
    assert (set(paused_queues(app)), left(app)) == ({"lopri"}, ["lopri"])

    assert retire(app, is_dry_run=True, into="default").messages == 2
    take(app, "lopri")
    bury(app, 1)
    with pytest.raises(SelectionError, match="1 dead letter;"):
        retire(app)
    take(app, "lopri.dead")
    assert retire(app).messages == 0
    assert left(app) == []


def test_dead_letters_need_a_successor_that_keeps_them(make: MakeMigrated) -> None:
    """A queue that discards its own is refused for them."""
    old, app = make(OLD), make(NEW + 'dead_letters = "discard"\n')
    bury(old, 1)
    with pytest.raises(SelectionError, match="keeps dead letters"):
        retire(app, into="default")


def test_what_is_scheduled_goes_to_the_successor(make: MakeMigrated) -> None:
    """Its tasks in the lanes arrive there when they are due; then another run removes what led them there."""
    old, app = make(OLD), make(NEW)
    task = publish(old, 1, countdown=3_600)
    assert retire(app, into="default").scheduled == 1
    assert bindings(app) == {"tasks.due"}
    [extra] = differing(app)
    assert "`broker-app queues retire lopri` removes it" in extra
    with app.connection_for_write() as connection:  # what its lane does in an hour
        channel = connection.default_channel
        message = channel.basic_get("delay.1h")
        put(channel, message, "delay.m", message.delivery_info["routing_key"])
        channel.basic_ack(message.delivery_tag)
    wait_until(lambda: depth(app, "default") == 1, 30, "the task to be due")
    assert ids(take(app, "default")) == task
    assert retire(app).scheduled == 0
    assert bindings(app) == set()
    assert differing(app) == []


def bindings(app: BrokerApp) -> set[str]:
    """Return the exchanges that lead by the old queue's key to another one."""
    found = management_of(app).bindings_to("default")
    return {item["source"] for item in found if item["routing_key"].endswith("lopri")}


class KilledError(Exception):
    """The command was ended here."""


STEPS = ["move", "bind", "unbind", "resume_queue", "delete_queue", "read_backlog"]


@pytest.mark.version
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_ended_at_any_step_it_can_be_run_again(
    make: MakeMigrated, monkeypatch: pytest.MonkeyPatch, step: str, *, is_done: bool
) -> None:
    """Each message is in the new place afterwards, once, or twice and marked; the old queue is gone."""
    old, app = make(OLD), make(NEW)
    published = publish(old, 5)
    pause_queue(old, "lopri")
    bury(old, 1)
    with monkeypatch.context() as patch:
        place = f"broker_app.topology.retire.{step}"
        patch.setattr(place, _killing(resolve_name(place), is_done=is_done))
        with pytest.raises(KilledError):
            retire(app, into="default")
    with suppress(SelectionError):  # it was ended after its last step
        retire(app, into="default")
    messages = wait_until(lambda: take(app, "default"), 30, "the messages")
    assert set(counted(messages)) == set(published)
    assert (depth(app, "lopri"), depth(app, "lopri.dead"), depth(app, "default.dead")) == (None, None, 1)
    assert (paused_queues(app), left(app), bindings(app)) == (frozenset(), [], set())


def _killing(function: Callable[..., Any], *, is_done: bool) -> Callable[..., Any]:
    def killed(*args: Any, **options: Any) -> Any:
        if is_done:
            function(*args, **options)
        raise KilledError

    return killed
