"""Delay lanes: there before the first message needs them, and never declared while they are being removed."""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import amqp
import pytest
from apps import delete, depth, put, take
from brokers import vhost_of
from ending import joined
from waiting import wait_until

from broker_app.broker import delay_lanes
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, exclusive_queue
from broker_app.errors import BrokerLocked, BrokerRefused, NoRoute
from broker_app.queues import Lane, Names, QueueSpec, lane_topology, split_delay, work_topology

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps import AppMaker, MakeUser
    from brokers import Management

    from broker_app import BrokerApp

WAY = split_delay(90_100).lanes
"""One day, one hour, one minute, and seconds in which a busy machine finds a message in its lane."""

PROMPT_SECONDS = 60


def soon() -> float:
    """Return a deadline that is far enough for a busy broker."""
    return time.monotonic() + PROMPT_SECONDS


@contextmanager
def lock(app: BrokerApp) -> Iterator[None]:
    """Hold what a prune holds while it removes lanes."""
    with connect(app) as connection, exclusive_queue(connection, Names().prune_lock):
        yield


def arrives(app: BrokerApp, exchange: str, lane: Lane) -> bool:
    """Return whether an exchange leads a message into a lane."""
    before = depth(app, Names().lane(lane)) or 0
    with app.connection_for_write() as connection:
        probe = amqp.Message(b"probe")
        put(connection.default_channel, probe, exchange, split_delay(lane.seconds).routing_key("lopri"))
    try:
        return wait_until(lambda: (depth(app, Names().lane(lane)) or 0) > before, 5, "the probe")
    except AssertionError:
        return False


@pytest.mark.version
def test_every_lane_of_a_way_is_there_before_the_message(app: BrokerApp) -> None:
    """A dead-lettered message that finds no lane would be parked: the last lane is declared with the first."""
    seen: dict[str, float] = {}
    with connect(app) as connection:
        assert not delay_lanes.ensure(connection, WAY, [], seen, "", soon())

    assert [depth(app, Names().lane(lane)) for lane in WAY] == [0, 0, 0, 0]
    assert set(seen) == {Names().lane(lane) for lane in WAY}
    assert all(arrives(app, Names().delay, lane) for lane in WAY)
    assert all(arrives(app, Names().hop(lane.level), lane) for lane in WAY[1:])


def test_a_lane_that_was_just_seen_is_not_looked_for_again(app: BrokerApp) -> None:
    """A call costs no round trip for a known lane; once the knowledge is too old, the lane is checked again."""
    with connect(app) as connection:
        seen = {Names().lane(lane): time.monotonic() for lane in WAY}
        assert not delay_lanes.ensure(connection, WAY, [], seen, "", soon())
        assert depth(app, "delay.1d") is None

        seen = dict.fromkeys(seen, time.monotonic() - delay_lanes.TRUST_SECONDS - 1)
        assert not delay_lanes.ensure(connection, WAY, [], seen, "", soon())
        assert depth(app, "delay.1d") == 0


def test_nothing_is_declared_for_lanes_that_are_there(
    app: BrokerApp, make_app: AppMaker, make_user: MakeUser
) -> None:
    """A user without the right to configure can use existing lanes; a missing lane needs the right."""
    with connect(app) as connection:
        delay_lanes.declare(connection, WAY, "", soon())
    with connect(make_app(url=make_user(read=".*"))) as connection:
        assert not delay_lanes.ensure(connection, WAY, [], {}, "", soon())
        fault = delay_lanes.ensure(connection, [*WAY, Lane(3, 59)], [], {}, "", soon())["delay.59s"]
    assert isinstance(fault, BrokerRefused)
    assert re.search(r"403.*topology declare", str(fault))


def test_the_queue_at_the_end_is_there_before_the_message(app: BrokerApp) -> None:
    """A lane takes a message whether or not its queue exists: one that was deleted is declared again."""
    app.send_task("shop.add", queue="lopri")
    delete(app, "lopri")
    with connect(app) as connection:
        assert not delay_lanes.ensure(connection, (), [QueueSpec("lopri")], {}, "", soon())
    assert depth(app, "lopri") == 0


def test_a_lane_of_other_arguments(app: BrokerApp) -> None:
    """Somebody's queue of a lane's name that no message reaches: one clear error, and nothing is lost."""
    app.send_task("warm", queue="lopri")  # what a first call loads would be taken off its countdown
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("delay.7s", durable=True, auto_delete=False)
    with pytest.raises(NoRoute, match=r"406.*inequivalent arg.*'delay\.7s'.*drain and delete") as caught:
        app.send_task("shop.add", queue="lopri", countdown=7)
    assert "\n" not in str(caught.value)
    assert not take(app, "delay.7s")


# While lanes are being removed


@pytest.mark.version
def test_a_declaration_waits_for_a_prune(app: BrokerApp) -> None:
    """It is done as soon as the lock is gone, and not before."""
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(app):
            held.set()
            let_go.wait(PROMPT_SECONDS)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        assert held.wait(PROMPT_SECONDS)
        with connect(app) as connection:
            with pytest.raises(BrokerLocked, match="topology prune` is at work; try again"):
                delay_lanes.declare(connection, WAY, "", time.monotonic() + 2)
            assert depth(app, "delay.1d") is None
            threading.Timer(0.5, let_go.set).start()
            delay_lanes.declare(connection, WAY, "", soon())
            assert depth(app, "delay.1d") == 0
    finally:
        let_go.set()
        joined(holder)


def test_a_call_that_needs_a_lane_during_a_prune_waits_no_longer_than_it_may(app: BrokerApp) -> None:
    """It fails in its own time, says why, and was not taken; a call whose lanes are there goes through."""
    app.send_task("shop.add", queue="lopri", countdown=3_600)
    with lock(app):
        with pytest.raises(NoRoute, match=r"delay\.50m.*topology prune` is at work; try again") as caught:
            app.send_task("shop.add", queue="lopri", countdown=3_000, confirm_timeout=6)
        app.send_task("shop.add", queue="lopri", countdown=3_600)
    assert caught.value.maybe_taken is False
    app.send_task("shop.add", queue="lopri", countdown=3_000)
    assert (depth(app, "delay.1h"), depth(app, "delay.50m")) == (2, 1)


@pytest.mark.version
def test_a_declaration_is_repeated_if_a_prune_began_meanwhile(
    app: BrokerApp, management: Management, fresh_vhost_url: str
) -> None:
    """A prune that takes its lock while lanes are being declared may remove them: they are there at the end."""
    many = [Lane(3, count) for count in range(1, 21)]
    with connect(app) as connection:
        declare_topology(connection, work_topology([], ""))
    removed, last = threading.Event(), lane_topology([many[-1]], "").queue_bindings

    def is_declared() -> bool:
        bound = management.get(f"bindings/{vhost_of(fresh_vhost_url)}")
        return {(one.source, one.key) for one in last} <= {(one["source"], one["routing_key"]) for one in bound}

    def remove() -> None:
        wait_until(lambda: depth(app, "delay.1s") is not None, PROMPT_SECONDS, "the first lane")
        with lock(app):
            wait_until(is_declared, PROMPT_SECONDS, "the last lane")  # then it asks for the lock
            delete(app, *(Names().lane(lane) for lane in many))
            removed.set()

    pruner = threading.Thread(target=remove, daemon=True)
    pruner.start()
    with connect(app) as connection:
        delay_lanes.declare(connection, many, "", soon())
    joined(pruner)

    assert removed.is_set()
    assert [depth(app, Names().lane(lane)) for lane in many] == [0] * len(many)
