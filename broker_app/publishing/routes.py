"""Known routes: which queues and delay lanes are declared, checked once for many messages."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from broker_app.broker import delay_lanes
from broker_app.errors import NoRoute
from broker_app.queues import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker_app.broker.new_queues import NewQueues
    from broker_app.publishing.bulk.item import BulkItem
    from broker_app.queues import Delay, Lane, QueueSpec
    from broker_app.wire.confirm_channel import ConfirmChannel

    _Route = tuple[str, tuple[Lane, ...]]  # the queue's name on the broker, and the lanes before it

MOST_AT_ONCE = 32
"""Maximum number of routes declared together: declaring a lane takes about 30 ms, during which nothing is sent."""

_MAX_ROUTES = 10_000


class KnownRoutes:
    """Cache of routes that were seen recently.

    Args:
        prefix: The prefix of names on the broker.
        way: `broker_app.publishing.message.MessageBuilder.way`.
        new_queues: Learns which queues are declared.
    """

    def __init__(
        self, prefix: str, way: Callable[[QueueSpec, Delay], tuple[str, str]], new_queues: NewQueues
    ) -> None:
        self._names = Names(prefix)
        self._new_queues = new_queues
        self._way = way
        self._until: dict[_Route, float] = {}  # on the clock of time.monotonic

    def forget(self) -> None:
        """Clear the cache, because the connection is new."""
        self._until.clear()

    def is_known(self, item: BulkItem) -> bool:
        """Return whether a message's route was seen within `delay_lanes.TRUST_SECONDS`."""
        if item.spec is None:
            return True
        return time.monotonic() < self._until.get((item.spec.broker_name, item.delay.lanes), -inf)

    def ensure(self, channel: ConfirmChannel, items: Iterable[BulkItem], deadline: float) -> None:
        """Check the routes of messages together, and declare what is missing.

        Args:
            channel: The channel to send them on.
            items: In sending order; only the first `MOST_AT_ONCE` routes are checked. A message whose route
                cannot be declared waits for its whole delay if it was shortened, or is settled with the reason.
            deadline: On the clock of `time.monotonic`.

        Raises:
            TimeoutError: The broker did not answer in time.
        """
        routes = self._unknown(items)
        firsts = [alike[0] for alike in routes.values()]
        held = dict.fromkeys(lane for item in firsts for lane in item.delay.lanes)
        ends = [item.spec for item in firsts if item.spec is not None]
        prefix, new = self._names.prefix, self._new_queues
        faults = delay_lanes.ensure(channel.connection, held, ends, channel.seen, prefix, deadline, new_queues=new)
        if len(self._until) >= _MAX_ROUTES:
            self._until.clear()
        for (end, lanes), alike in routes.items():
            if reason := delay_lanes.missing(faults, lanes, end, self._names.prefix):
                for item in alike:
                    if item.wait_in_full(self._way):
                        continue
                    item.settle(NoRoute(task=item.task, task_id=item.task_id, queue=item.place, reason=reason))
            else:
                seen = [channel.seen.get(name, -inf) for name in (end, *map(self._names.lane, lanes))]
                self._until[end, lanes] = min(seen) + delay_lanes.TRUST_SECONDS

    def _unknown(self, items: Iterable[BulkItem]) -> dict[_Route, list[BulkItem]]:
        """Return the messages whose routes are unknown, by route."""
        routes: dict[_Route, list[BulkItem]] = {}
        for item in items:
            if self.is_known(item) or item.spec is None:
                continue
            route = (item.spec.broker_name, item.delay.lanes)
            if route not in routes and len(routes) == MOST_AT_ONCE:
                break
            routes.setdefault(route, []).append(item)
        return routes
