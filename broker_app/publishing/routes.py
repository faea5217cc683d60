"""The queues and lanes that messages need on their way, looked after once for many of them."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from broker_app.broker import delay_lanes
from broker_app.errors import NoRoute
from broker_app.queues import Names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_app.publishing.bulk.item import BulkItem
    from broker_app.queues import Lane
    from broker_app.wire.confirm_channel import ConfirmChannel

    _Way = tuple[str, tuple[Lane, ...]]  # the queue at the end, as on the broker, and the lanes before it

MOST_AT_ONCE = 32
"""Ways that are looked after together: declaring a lane takes some 30 ms, and nothing is sent meanwhile."""

_MOST_WAYS = 10_000


class KnownRoutes:
    """Which ways are known to be open.

    Args:
        prefix: Of the names on the broker.
    """

    def __init__(self, prefix: str) -> None:
        self._names = Names(prefix)
        self._until: dict[_Way, float] = {}  # on the clock of time.monotonic

    def forget(self) -> None:
        """Know nothing: the connection is another."""
        self._until.clear()

    def is_known(self, item: BulkItem) -> bool:
        """Return whether a message can go; what was seen is trusted for `lanes.TRUST_SECONDS`."""
        if item.spec is None:
            return True
        return time.monotonic() < self._until.get((item.spec.broker_name, item.delay.lanes), -inf)

    def ensure(self, channel: ConfirmChannel, items: Iterable[BulkItem], deadline: float) -> None:
        """Look after the ways of messages, together, and declare what is missing.

        Args:
            channel: What they are to be sent on.
            items: As they are to be sent; only the first `MOST_AT_ONCE` ways are looked at. A message whose way
                cannot be made is settled, with why.
            deadline: On the clock of `time.monotonic`.

        Raises:
            TimeoutError: The broker did not answer in time.
        """
        ways = self._unknown(items)
        firsts = [alike[0] for alike in ways.values()]
        held = dict.fromkeys(lane for item in firsts for lane in item.delay.lanes)
        ends = [item.spec for item in firsts if item.spec is not None]
        faults = delay_lanes.ensure(channel.connection, held, ends, channel.seen, self._names.prefix, deadline)
        if len(self._until) >= _MOST_WAYS:
            self._until.clear()
        for (end, on_way), alike in ways.items():
            if reason := delay_lanes.missing(faults, on_way, end, self._names.prefix):
                for item in alike:
                    item.settle(NoRoute(task=item.task, task_id=item.task_id, queue=item.place, reason=reason))
            else:
                seen = [channel.seen.get(name, -inf) for name in (end, *map(self._names.lane, on_way))]
                self._until[end, on_way] = min(seen) + delay_lanes.TRUST_SECONDS

    def _unknown(self, items: Iterable[BulkItem]) -> dict[_Way, list[BulkItem]]:
        """Return the messages whose ways are not known, by way."""
        ways: dict[_Way, list[BulkItem]] = {}
        for item in items:
            if self.is_known(item) or item.spec is None:
                continue
            way = (item.spec.broker_name, item.delay.lanes)
            if way not in ways and len(ways) == MOST_AT_ONCE:
                break
            ways.setdefault(way, []).append(item)
        return ways
