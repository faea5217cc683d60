"""Reader of the broker's queue figures: one call to the management API, with AMQP as the fallback."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from broker_app.broker.access import connect
from broker_app.broker.declare import queue_depth, queue_state
from broker_app.broker.management import management_of
from broker_app.broker.pauses import paused_queues
from broker_app.broker.scheduled import Backlog
from broker_app.broker.undeclared import removed_queues
from broker_app.errors import BrokerError
from broker_app.monitoring.oldest_wait import QueueEntries
from broker_app.queues import InvalidDelay, Lane, Names
from broker_app.queues.delay import parse_lane
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import amqp

    from broker_app.app import BrokerApp
    from broker_app.broker.management import Management

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """Figures of one queue, declared in the settings or removed from them. None: not reported by the broker.

    Attributes:
        ready: Messages ready for delivery.
        consumers: Number of consumers.
        dead: Messages in its dead-letter queue.
        unacknowledged: Messages delivered but not yet acknowledged.
        by_priority: Messages by priority; on quorum queues this includes unacknowledged ones.
        oldest_wait: Estimated wait of the message at the head, in seconds.
    """

    ready: int
    consumers: int
    dead: int | None = None
    unacknowledged: int | None = None
    by_priority: Mapping[str, int] = field(default_factory=dict)
    oldest_wait: float | None = None


@dataclass(frozen=True, slots=True)
class BrokerNumbers:
    """Result of one read of the broker.

    Attributes:
        is_up: Whether the broker answered.
        has_management: Whether the management API answered.
        queues: Existing queues by their name in the settings, including queues removed from the settings.
        backlog: Messages in the delay lanes; None if unknown.
        parked: Messages that came due for a queue that no longer exists; None without an unrouted queue.
        paused: Paused queues; None if unknown.
        hosts: Names of the hosts whose workers have a remote-control mailbox.
        seconds: Duration of the read.
        problem: Why the broker or its management API did not answer; empty if both did.
    """

    is_up: bool
    has_management: bool = False
    queues: Mapping[str, QueueNumbers] = field(default_factory=dict)
    backlog: Backlog | None = None
    parked: int | None = None
    paused: frozenset[str] | None = None
    hosts: frozenset[str] = frozenset()
    seconds: float = 0.0
    problem: str = ""


class BrokerReader:
    """Reads the queue figures of an app's broker. Not thread-safe.

    Args:
        app: The app; its settings declare the queues.
    """

    def __init__(self, app: BrokerApp) -> None:
        self._app = app
        self._names = Names(app.settings.prefix)
        self._specs = tuple(app.settings.specs())
        self._entries: dict[str, QueueEntries] = defaultdict(QueueEntries)
        self._last_problem = ""

    def read(self) -> BrokerNumbers:
        """Return the current figures; an unreachable broker is reported with ``is_up=False``."""
        started = time.monotonic()
        try:
            api = management_of(self._app)
            numbers = self._from_management(api.queue_numbers(), api, started)
        except BrokerError as error:
            numbers = self._from_amqp(str(error), started)
        if numbers.is_up:
            numbers = dataclasses.replace(numbers, paused=self._paused())
        if numbers.problem != self._last_problem:
            self._last_problem = numbers.problem
            logger.warning("broker: %s", numbers.problem or "answers again")
        return numbers

    def _paused(self) -> frozenset[str] | None:
        try:
            return paused_queues(self._app)
        except (BrokerError, OperationalError, OSError) as error:
            logger.debug("cannot read which queues are paused: %s", error)
            return None

    def _from_management(self, items: list[dict[str, Any]], api: Management, started: float) -> BrokerNumbers:
        found = {str(item.get("name")): item for item in items}
        removed = removed_queues(found, self._specs, self._names.prefix, api.bindings_from)
        now = time.monotonic()
        parked = found.get(self._names.unrouted)
        return BrokerNumbers(
            is_up=True,
            has_management=True,
            queues={
                spec.name: self._queue(found.get(spec.broker_name), found.get(spec.dead_name), now)
                for spec in (*self._specs, *removed)
                if spec.broker_name in found or spec in removed
            },
            backlog=self._backlog(found),
            parked=None if parked is None else _count(parked, "messages"),
            hosts=self._hosts(found),
            seconds=now - started,
        )

    def _queue(self, item: dict[str, Any] | None, dead: dict[str, Any] | None, now: float) -> QueueNumbers:
        """Return a queue's figures; for a deleted queue, only its remaining dead letters."""
        if item is None:
            return QueueNumbers(0, 0, None if dead is None else _count(dead, "messages"))
        ready, held = _count(item, "messages_ready"), _count(item, "messages_unacknowledged")
        stats = item.get("message_stats") or {}
        left = held + sum(_count(stats, name) for name in ("ack", "deliver_no_ack", "get_no_ack"))
        classic = (item.get("backing_queue_status") or {}).get("priority_lengths")
        by_priority = item.get("messages_by_priority") or classic or {}
        return QueueNumbers(
            ready=ready,
            consumers=_count(item, "consumers"),
            dead=None if dead is None else _count(dead, "messages"),
            unacknowledged=held,
            by_priority=by_priority if isinstance(by_priority, dict) else {},
            oldest_wait=self._entries[item["name"]].oldest_wait(now, ready, left),
        )

    def _backlog(self, found: Mapping[str, dict[str, Any]]) -> Backlog:
        depths: dict[Lane, int] = {}
        held_up = 0
        for name, item in found.items():
            with suppress(InvalidDelay):  # most queues are not delay lanes
                lane = parse_lane(name.removeprefix(f"{self._names.prefix}delay."))
                if self._names.lane(lane) == name:
                    depths[lane] = _count(item, "messages_ready")
                    held_up += max(0, _count(item, "messages") - depths[lane])
        return Backlog(depths, held_up, is_complete=True)

    def _hosts(self, found: Mapping[str, dict[str, Any]]) -> frozenset[str]:
        """Return the hosts of the workers' mailboxes, ``lopri@host.<prefix>celery.pidbox``."""
        end = f".{self._names.prefix}celery.pidbox"
        boxes = (name.removesuffix(end) for name in found if name.endswith(end))
        return frozenset(box.rpartition("@")[2] for box in boxes if "@" in box)

    def _from_amqp(self, problem: str, started: float) -> BrokerNumbers:
        try:
            with connect(self._app) as connection:
                queues = {
                    spec.name: QueueNumbers(state.ready, state.consumers, _depth(connection, spec.dead_name))
                    for spec in self._specs
                    if (state := queue_state(connection, spec.broker_name)) is not None
                }
                parked = _depth(connection, self._names.unrouted)
        except (BrokerError, OperationalError, OSError) as error:
            return BrokerNumbers(is_up=False, seconds=time.monotonic() - started, problem=error_text(error))
        return BrokerNumbers(
            is_up=True, queues=queues, parked=parked, seconds=time.monotonic() - started, problem=problem
        )


def _depth(connection: amqp.Connection, queue: str) -> int | None:
    """Return the number of ready messages, None if the queue does not exist or access is refused."""
    try:
        return queue_depth(connection, queue)
    except BrokerError as error:
        logger.debug("queue %s: %s", queue, error)
        return None


def _count(item: Mapping[str, Any], name: str) -> int:
    """Return a count, 0 where the broker reports none: for a new queue, or one whose node is down."""
    value = item.get(name)
    return value if isinstance(value, int) else 0
