"""The names and arguments of the queue that holds messages while their queue is redeclared."""

from __future__ import annotations

import pytest
from entities import arguments_of

from broker_app.queues import InvalidQueueName, QueueType
from broker_app.queues.holding import HoldingQueue, held_target, lock_name
from broker_app.queues.spec import AMQP_SHORT_STRING_BYTES, MAX_QUEUE_NAME_BYTES, check_queue_name


@pytest.mark.parametrize("prefix", ["", "shop.", "a.b."])
def test_a_holding_queue_is_known_by_its_name(prefix: str) -> None:
    """The queue follows from its name, with the prefix before both; other names are not holding queues."""
    for target in (f"{prefix}lopri", f"{prefix}lopri.dead", f"{prefix}tasks.unrouted"):
        holding = HoldingQueue(target, prefix)
        assert holding.name.startswith(f"{prefix}tasks.moving.")
        assert held_target(holding.name, prefix) == target
        assert held_target(target, prefix) is None
        assert holding.exchange.name == holding.name


def test_the_longest_name_fits() -> None:
    """The dead letters of a queue with the longest name have a holding queue that AMQP can name."""
    dead = "q" * MAX_QUEUE_NAME_BYTES + ".dead"
    assert len(HoldingQueue(dead).name.encode()) <= AMQP_SHORT_STRING_BYTES


@pytest.mark.parametrize("name", [HoldingQueue("lopri").name, lock_name("")])
def test_no_queue_of_the_settings_has_such_a_name(name: str) -> None:
    """Holding queue and lock cannot be meant by anybody else."""
    with pytest.raises(InvalidQueueName):
        check_queue_name(name)


@pytest.mark.parametrize("kind", QueueType)
def test_it_refuses_rather_than_drops(kind: QueueType) -> None:
    """A full one refuses, it sorts nothing, and a quorum one has no limit of looks that could drop a message."""
    arguments = arguments_of(HoldingQueue("lopri").queue(kind))
    assert arguments["x-overflow"] == "reject-publish"
    assert "x-max-priority" not in arguments
    assert ("x-delivery-limit" in arguments) == (kind is QueueType.QUORUM)
