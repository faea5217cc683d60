"""The kombu exchanges, queues and bindings that follow from the specs."""

from __future__ import annotations

from typing import Any

import pytest
from entities import arguments_of
from hypothesis import given
from hypothesis import strategies as st
from topics import matches

from broker_app.queues import (
    DeadLetters,
    Lane,
    Names,
    QueueSpec,
    QueueType,
    Topology,
    lane_topology,
    missing_features,
    work_queue,
    work_topology,
)
from broker_app.queues.delay import UNITS
from broker_app.queues.rabbitmq import UNLIMITED_DELIVERIES
from broker_app.queues.topology import Binding

QUORUM = QueueSpec("default")
CLASSIC = QueueSpec("urgent", type=QueueType.CLASSIC, has_priorities=True)
DISCARDING = QueueSpec("lopri", dead_letters=DeadLetters.DISCARD)
SPECS = (QUORUM, CLASSIC, DISCARDING)


def _queues(topology: Topology) -> dict[str, dict[str, object]]:
    return {queue.name: arguments_of(queue) for queue in topology.queues}


def test_a_queue_is_bound_by_its_own_name_and_no_inherited_key() -> None:
    """The routing key is explicit: with an inherited one every task would land in every queue."""
    queue: Any = work_queue(QueueSpec("lopri", prefix="shop."))
    assert (queue.name, queue.routing_key, queue.alias) == ("shop.lopri", "shop.lopri", "lopri")
    assert (queue.exchange.name, queue.exchange.type) == ("shop.tasks", "topic")


def test_nobody_declares_a_queue_by_the_way() -> None:
    """A queue is declared with all that belongs to it or not at all: kombu passes it over."""
    queues: list[Any] = [work_queue(spec) for spec in SPECS]
    assert all(queue.no_declare for queue in queues)


def test_a_quorum_queue_hands_its_dead_letters_on_at_least_once() -> None:
    """At-least-once needs reject-publish as overflow; without it RabbitMQ falls back to at-most-once."""
    assert arguments_of(work_queue(QUORUM)) == {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "tasks.dead",
        "x-dead-letter-routing-key": "default",
        "x-dead-letter-strategy": "at-least-once",
        "x-delivery-limit": UNLIMITED_DELIVERIES,
    }


def test_a_classic_queue_with_priorities_says_so() -> None:
    """It has x-max-priority 9 and no dead-letter strategy, which classic queues do not know."""
    arguments = arguments_of(work_queue(CLASSIC))
    assert arguments["x-max-priority"] == 9
    assert "x-dead-letter-strategy" not in arguments


@pytest.mark.parametrize("has_priorities", [False, True])
def test_a_quorum_queue_never_asks_for_max_priority(has_priorities: bool) -> None:  # noqa: FBT001 - a parameter
    """Every RabbitMQ refuses it there (406); from 4.3 on strict priorities need no argument."""
    spec = QueueSpec("default", has_priorities=has_priorities)
    assert "x-max-priority" not in arguments_of(work_queue(spec))


def test_arguments_do_not_change_with_what_an_operator_tunes() -> None:
    """Delivery limit and priorities on quorum are no arguments: changing them never meets 406."""
    tuned = QueueSpec("default", has_priorities=True, delivery_limit=99)
    assert arguments_of(work_queue(tuned)) == arguments_of(work_queue(QUORUM))


def test_a_queue_that_discards_has_no_dead_letters() -> None:
    """No exchange, no key, no queue `….dead`: what it gives up is gone, as asked."""
    assert not [name for name in arguments_of(work_queue(DISCARDING)) if "dead" in name]
    assert "lopri.dead" not in _queues(work_topology([DISCARDING], ""))


def test_dead_letters_stand_on_a_queue_of_the_same_type() -> None:
    """A replicated queue's dead letters are replicated too, and bound by the queue's name."""
    topology = work_topology(SPECS, "")
    assert _queues(topology)["default.dead"]["x-queue-type"] == "quorum"
    assert _queues(topology)["urgent.dead"] == {"x-queue-type": "classic"}
    assert Binding("tasks.dead", "default", "default.dead") in topology.queue_bindings


def test_what_is_kept_may_be_looked_at_without_end() -> None:
    """Each look counts as a delivery, and RabbitMQ 4 drops after 20: queues that keep have another limit."""
    queues = _queues(work_topology(SPECS, ""))
    assert {queues[name]["x-delivery-limit"] for name in ("default.dead", "tasks.unrouted")} == {
        UNLIMITED_DELIVERIES
    }
    assert UNLIMITED_DELIVERIES > 10**6


def test_what_was_due_for_a_queue_that_is_gone_is_parked() -> None:
    """Every exchange after a lane has an alternate; `tasks` has none, so the producer gets an error."""
    declared: tuple[Any, ...] = work_topology([], "").exchanges
    exchanges = {exchange.name: exchange.arguments or {} for exchange in declared}
    behind_lanes = {"delay.h", "delay.m", "delay.s", "delay.ms", "tasks.due"}
    assert behind_lanes == {name for name, arguments in exchanges.items() if arguments}
    assert all(exchanges[name] == {"alternate-exchange": "tasks.unrouted"} for name in behind_lanes)
    assert Binding("tasks.unrouted", "", "tasks.unrouted") in work_topology([], "").queue_bindings


def test_a_lane_keeps_its_messages_until_they_can_go_on() -> None:
    """A lane is a quorum queue with a TTL for the queue, at-least-once, and no expiry of its own."""
    (queue,) = lane_topology([Lane(2, 5)], "").queues
    assert queue.name == "delay.5m"
    assert arguments_of(queue) == {
        "x-queue-type": "quorum",
        "x-message-ttl": 300_000,
        "x-dead-letter-exchange": "delay.s",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


ONWARD = [(0, "delay.h"), (1, "delay.m"), (2, "delay.s"), (3, "delay.ms"), (4, "tasks.due")]


@pytest.mark.parametrize(("level", "onward"), ONWARD)
def test_each_lane_hands_on_to_the_next_unit(level: int, onward: str) -> None:
    """Days to hours to minutes to seconds, to tenths of a second, and from these into the due exchange."""
    (queue,) = lane_topology([Lane(level, UNITS[level].step)], "").queues
    assert arguments_of(queue)["x-dead-letter-exchange"] == onward


def test_a_topology_declares_before_it_binds() -> None:
    """Both ends of every binding are declared in the same topology, or in the work topology before it."""
    work, lanes = work_topology(SPECS, "p."), lane_topology([Lane(0, 1), Lane(3, 9)], "p.")
    exchanges = {exchange.name for exchange in work.exchanges}
    for topology in (work, lanes):
        queues = {queue.name for queue in topology.queues}
        assert {binding.source for binding in topology.queue_bindings} <= exchanges
        assert {binding.destination for binding in topology.queue_bindings} <= queues
    assert {
        name for binding in work.exchange_bindings for name in (binding.source, binding.destination)
    } <= exchanges


@given(st.from_regex(r"[a-z][a-z.]{0,5}\.", fullmatch=True))
def test_everything_on_the_broker_carries_the_prefix(prefix: str) -> None:
    """Two apps with different prefixes share a broker and no name on it."""
    specs = [QueueSpec(spec.name, prefix=prefix, type=spec.type) for spec in SPECS]
    for topology in (work_topology(specs, prefix), lane_topology([Lane(0, 1), Lane(3, 9)], prefix)):
        names = {exchange.name for exchange in topology.exchanges} | {queue.name for queue in topology.queues}
        for binding in topology.exchange_bindings + topology.queue_bindings:
            names |= {binding.source, binding.destination}
        assert all(name.startswith(prefix) for name in names), names


def test_a_task_lands_in_one_queue_only() -> None:
    """Names that end alike, begin alike or nest: each key reaches its own queue once, at once and when due."""
    names = ["default", "a", "b.a", "c.b.a", "a.b", "a.b.c", "x-a", "aa"]
    topology = work_topology([QueueSpec(name) for name in names], "")
    for name in names:
        for exchange, key in ((Names().tasks, name), (Names().due, f"0d.0h.0m.1s.0ms.{name}")):
            reached = [
                binding.destination
                for binding in topology.queue_bindings
                if binding.source == exchange and matches(binding.key, key)
            ]
            assert reached == [name]


@pytest.mark.parametrize("version", [(4, 3, 0), (4, 3), (4, 10, 1), (5, 0, 0)])
def test_a_new_broker_has_all_that_a_spec_asks_for(version: tuple[int, ...]) -> None:
    """From 4.3 on nothing is missing, whatever the type."""
    assert missing_features([QueueSpec("q", has_priorities=True), CLASSIC, QUORUM], version) == []


@pytest.mark.parametrize("version", [(3, 10, 8), (4, 0, 5), (4, 2, 9), (3, 13)])
def test_an_old_broker_misses_priorities_on_quorum_only(version: tuple[int, ...]) -> None:
    """One sentence for the quorum queue that asks for them: what, since when, what the broker is, the cure."""
    asked = QueueSpec("urgent-q", has_priorities=True)
    (sentence,) = missing_features([asked, CLASSIC, QUORUM], version)
    assert sentence.startswith("queues.urgent-q: priorities on a quorum queue need RabbitMQ 4.3")
    assert ".".join(map(str, version)) in sentence
    assert 'type = "classic" or priorities = false' in sentence
