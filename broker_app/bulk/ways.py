"""The queues and lanes that messages need on their way, looked after once for many of them."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any

from broker_app import lanes
from broker_app.errors import BrokerError, NoRoute
from broker_app.queues import Names

if TYPE_CHECKING:
    from broker_app.bulk.item import Item
    from broker_app.confirms import ConfirmChannel

_MOST_WAYS = 10_000


class Ways:
    """Which ways are known to be open.

    Args:
        prefix: Of the names on the broker.
    """

    def __init__(self, prefix: str) -> None:
        self._names = Names(prefix)
        self._until: dict[Any, float] = {}  # on the clock of time.monotonic

    def forget(self) -> None:
        """Know nothing: the connection is another."""
        self._until.clear()

    def are_open(self, channel: ConfirmChannel, item: Item, deadline: float) -> bool:
        """Return whether a message can go; if not, it is settled with why.

        Looked at again after `lanes.TRUST_SECONDS`; what is missing is declared.
        """
        if item.spec is None:
            return True
        way = (item.spec.broker_name, item.delay.lanes)
        if time.monotonic() < self._until.get(way, -inf):
            return True
        missing = ", ".join(self._names.lane(lane) for lane in item.delay.lanes)
        missing = f"a delay lane of {missing}"
        try:
            lanes.ensure(channel.connection, item.delay.lanes, channel.seen, self._names.prefix, deadline)
            missing = f"queue {item.spec.broker_name!r}"
            lanes.ensure_end(channel.connection, item.spec, channel.seen)
        except BrokerError as error:
            reason = f"{missing} is missing and could not be declared: {error}"
            item.settle(NoRoute(task=item.task, task_id=item.task_id, queue=item.place, reason=reason))
            return False
        if len(self._until) >= _MOST_WAYS:
            self._until.clear()
        names = [item.spec.broker_name, *(self._names.lane(lane) for lane in item.delay.lanes)]
        self._until[way] = min(channel.seen[name] for name in names) + lanes.TRUST_SECONDS
        return True
