"""Priorities: larger is more urgent, and nothing is clipped or ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from apps import depth, take

from broker_app.errors import (
    InvalidPriority,
)

if TYPE_CHECKING:
    from apps import AppMaker

    from broker_app import BrokerApp


@pytest.mark.parametrize("priority", [-1, 10, 255, "5", 5.5, True])
def test_a_priority_outside_0_to_9_publishes_nothing(make_app: AppMaker, priority: object) -> None:
    """It is refused in the caller, and not clipped."""
    app = make_app("[queues.default]\npriorities = true\n")
    with pytest.raises(InvalidPriority, match=r"0\.\.9"):
        app.send_task("shop.add", priority=priority)
    assert depth(app, "default") is None


def test_a_priority_for_a_queue_without_any_publishes_nothing(app: BrokerApp) -> None:
    """It is refused rather than ignored."""
    with pytest.raises(InvalidPriority, match="expected no priority, got 5"):
        app.send_task("shop.add", priority=5)
    assert depth(app, "default") is None


def _publish_priorities(app: BrokerApp) -> list[tuple[int, int]]:
    """Send a mixture and return it as it is taken: priority, and the order of sending within it."""
    for number, priority in enumerate([0, 9, 4, None, 5, 1, 9, 8, None, 0, 7]):
        options: dict[str, Any] = {} if priority is None else {"priority": priority}
        app.send_task("shop.add", (number,), **options)
    return [(message.properties["priority"], message.payload[0][0]) for message in take(app, "default")]


STRICT = sorted(
    [(0, 0), (9, 1), (4, 2), (4, 3), (5, 4), (1, 5), (9, 6), (8, 7), (4, 8), (0, 9), (7, 10)],
    key=lambda pair: (-pair[0], pair[1]),
)


def test_a_classic_queue_keeps_strict_priorities(make_app: AppMaker) -> None:
    """On every version: the more urgent first, equals in their order, an unset one in the middle."""
    app = make_app("[queues.default]\ntype = 'classic'\npriorities = true\n")
    assert _publish_priorities(app) == STRICT


@pytest.mark.version
def test_a_quorum_queue_keeps_strict_priorities_from_4_3_on(
    make_app: AppMaker, broker_version: tuple[int, ...]
) -> None:
    """Before 4.3 it does not, which is what `check` says of such a broker; nothing is lost there either."""
    app = make_app("[queues.default]\npriorities = true\n")
    found = _publish_priorities(app)
    assert sorted(found) == sorted(STRICT)
    assert (found == STRICT) is (broker_version >= (4, 3))
