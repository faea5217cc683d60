"""The text of a difference between broker and settings."""

from __future__ import annotations

from typing import Any

import pytest
from entities import arguments_of

from broker_app.queues import QueueSpec, QueueType, work_queue
from broker_app.topology.diff import Difference, DifferenceKind, differences

CLASSIC = work_queue(QueueSpec("lopri", type=QueueType.CLASSIC))


def found(**arguments: Any) -> dict[str, Any]:
    """Return a queue as the management API reports it, by default as wanted."""
    base = dict(arguments_of(CLASSIC))
    return {"type": "classic", "durable": True, "auto_delete": False, "arguments": base | arguments}


def test_alike_is_no_difference() -> None:
    """Neither is a type that was never written down: RabbitMQ's default is classic."""
    assert differences(CLASSIC, found()) == ""
    without = found()
    del without["arguments"]["x-queue-type"]
    assert differences(CLASSIC, without) == ""


@pytest.mark.parametrize(
    ("standing", "told"),
    [
        (found(**{"x-queue-type": "quorum"}), 'x-queue-type is "quorum", wanted "classic"'),
        (found(**{"x-max-priority": 9}), "x-max-priority is 9, wanted not set"),
        (found() | {"durable": False}, "it is not durable"),
        (found() | {"auto_delete": True}, "it deletes itself"),
    ],
)
def test_each_difference_is_named(standing: dict[str, Any], told: str) -> None:
    """With the actual and the wanted value."""
    assert differences(CLASSIC, standing) == told


def test_a_change_is_one_line() -> None:
    """The entity, its state and the cure; unknown parts are left out."""
    assert str(Difference(DifferenceKind.MISSING, "queue", "lopri")) == "missing  queue 'lopri'"
    assert (
        str(Difference(DifferenceKind.EXTRA, "queue", "old", "3 ready", "delete it"))
        == "extra    queue 'old': 3 ready; delete it"
    )
