"""Queue migration: recreate a queue with new arguments and keep its messages.

RabbitMQ can neither change nor rename a queue. All progress is visible on the broker, so a migration that was
interrupted at any point continues where it stopped:

1. Take a lock, and declare a holding queue. Move the messages of the queue to it, oldest first, as many as there
   were at the start.
2. Bind the holding queue to everything that the queue is bound to, then unbind the queue. A new message is always
   routed, and for a moment to both queues. Move the messages that have arrived meanwhile.
3. Wait until workers have acknowledged their messages and the broker has counted again, and remove bindings that
   were added meanwhile. The queue now holds no message that is not also in the holding queue. If this takes longer
   than the caller's patience, restore the queue.
4. In one batch: delete the queue, declare it with its new arguments, bind it, unbind the holding queue. Workers
   resume consuming by themselves.
5. Move the messages back from the holding queue, wait until the broker counts it as empty, and delete it.

A message published during step 2 or 4 may be in both queues. Messages that producers published to the holding
queue, and those in flight when a migration was interrupted, carry `broker_app.queues.headers.MAYBE_TWICE_HEADER`.
Messages that were in the queue before keep their order; those published during step 5 may overtake them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amqp import exceptions as amqp_errors

from broker_app.broker import scheduled
from broker_app.broker.access import connect
from broker_app.broker.declare import (
    delete_exchange,
    delete_queue,
    pipelined_channel,
    queue_depth,
    wanted_topology,
)
from broker_app.broker.management import management_of
from broker_app.errors import BrokerError, NotOnBroker
from broker_app.queues import QueueType
from broker_app.queues.holding import HoldingQueue
from broker_app.topology.bindings import QueueBindings, bind, declare, list_bindings, replace, unbind
from broker_app.topology.diff import differences
from broker_app.topology.lock import migration_lock
from broker_app.topology.plan import movable
from broker_app.topology.relocate import Destination, move
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import amqp

    from broker_app.broker.access import Broker

    Progress = Callable[[str, int, int | None], None]

PATIENCE_SECONDS = 120.0
"""Time that step 3 waits for unacknowledged messages."""

_ROUNDS = 5
"""Attempts, if another client redeclares the queue with its old arguments just after it was deleted."""

_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class MigrationTimeouts:
    """Waiting times of a migration, in seconds.

    Attributes:
        count: Longer than the lag of the broker's counts; as in `PruneTimeouts`.
        patience: Time for unacknowledged messages, once the queue gets no more new ones.
    """

    count: float = 2 * scheduled.COUNT_SECONDS + 2
    patience: float = PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The result of migrating one queue.

    Attributes:
        queue: Its name on the broker.
        difference: Its differences from the settings before; empty if only an earlier migration had to be
            finished.
        messages: Messages moved, each counted once; in a dry run, messages to move.
    """

    queue: str
    difference: str
    messages: int


def migrate(
    app: Broker, name: str, told: Progress, *, is_dry_run: bool = False, waits: MigrationTimeouts | None = None
) -> list[MigrationResult]:
    """Recreate a queue with the arguments of the settings, and its dead-letter queue too if that differs.

    Args:
        app: The app; its user needs the configure permission and the management API.
        name: A queue of the settings, its dead-letter queue or the parking queue, with or without prefix.
        told: Progress callback: the stage, the messages moved in it, and their total or None if unknown.
        is_dry_run: Only report what would be done.
        waits: The waiting times; tests use shorter ones.

    Returns:
        The results; empty if everything matches the settings.

    Raises:
        CallError: This kind of queue has no migration.
        UnknownQueue: The queue is not in the settings.
        BrokerError: No connection, no management API, no permission, another migration in progress, or workers
            held messages for too long. No message is lost; call it again.
    """
    targets = movable(app.settings, name)
    with connect(app) as connection:
        moves = [_Migration(app, connection, queue, told, waits or MigrationTimeouts()) for queue in targets]
        due = [one for one in moves if one.is_due()]
        if not any(one.is_there() for one in moves):
            raise NotOnBroker(f"queue {name!r} is not on the broker; run `broker-app topology apply`")
        if is_dry_run:
            return [one.outlook() for one in due]
        try:
            with migration_lock(connection, app.settings.prefix):
                return [one.run() for one in due]
        except (amqp_errors.AMQPError, OSError) as error:
            text = f"the connection was lost ({error_text(error)}); no message is lost, run it again"
            raise BrokerError(text) from error


class _Migration:
    """The migration of one queue."""

    def __init__(
        self, app: Broker, connection: amqp.Connection, queue: Any, told: Progress, waits: MigrationTimeouts
    ) -> None:
        self._queue, self._name, self._waits = queue, queue.name, waits
        self._connection, self._report = connection, told
        self._management = management_of(app, connection)
        self._holding = HoldingQueue(queue.name, app.settings.prefix)
        bindings = wanted_topology(app.settings).queue_bindings
        self._ours = [QueueBindings(it.source, it.key) for it in bindings if it.destination == queue.name]
        self._is_storage = queue.name not in {spec.broker_name for spec in app.settings.specs()}
        self._messages = 0
        self._difference = ""

    def is_due(self) -> bool:
        """Return whether there is something to do."""
        self._difference = self._look() or ""
        return bool(self._difference) or self._depth(self._holding.name) is not None

    def is_there(self) -> bool:
        """Return whether the queue or its holding queue is on the broker."""
        return any(self._depth(name) is not None for name in (self._name, self._holding.name))

    def outlook(self) -> MigrationResult:
        """Return what would be moved."""
        depths = [self._depth(name) or 0 for name in (self._name, self._holding.name)]
        return MigrationResult(self._name, self._difference, sum(depths))

    def run(self) -> MigrationResult:
        """Run steps 1 to 5."""
        for _ in range(_ROUNDS):
            differs = bool(self._look())
            if differs:
                self._set_aside()
            if self._replace(is_deleted_first=differs):
                self._move_back()
                return MigrationResult(self._name, self._difference, self._messages)
        raise BrokerError(
            f"queue {self._name!r}: another client keeps declaring it with its old arguments; its messages are in "
            f"{self._holding.name!r}. Stop the processes with the old settings and run it again"
        )

    def _look(self) -> str | None:
        """Return the differences of the queue; empty if there are no differences, None if it does not exist."""
        found = self._management.queues(self._name).get(self._name)
        return None if found is None else differences(self._queue, found)

    def _depth(self, name: str) -> int | None:
        return queue_depth(self._connection, name)

    def _set_aside(self) -> None:
        """Run steps 1 to 3."""
        holding = self._holding.name
        self._declare_holding()
        self._move(self._name, holding, limit=self._depth(self._name))
        bind(self._connection, holding, self._bindings())
        self._unbind_all(self._name)
        since = time.monotonic()
        while not self._has_emptied(self._name, holding, since):
            if time.monotonic() - since >= self._waits.count + self._waits.patience:
                self._put_back()
            time.sleep(_PAUSE_SECONDS)

    def _has_emptied(self, name: str, to: str, since: float) -> bool:
        """Unbind and empty a queue again, and return whether it has no ready or unacknowledged messages left.

        Args:
            name: The queue.
            to: The destination of its messages.
            since: When it was unbound; only broker counts made long enough after that are used.
        """
        self._unbind_all(name)
        self._move(name, to)
        if time.monotonic() - since < self._waits.count:
            self._report(f"waiting until the broker counts nothing in {name}, nor with its workers", 0, None)
            return False
        return self._held(name) == 0

    def _held(self, name: str) -> int | None:
        """Return the last message count of a queue, including unacknowledged messages; None if unknown."""
        found = self._management.queue_counts(name).get(name)
        return None if found is None else found.total

    def _put_back(self) -> None:
        """Restore the queue, and raise an error that says why."""
        held = self._held(self._name)
        bind(self._connection, self._name, self._bindings())
        self._move_back()
        raise BrokerError(
            f"queue {self._name!r}: after {self._waits.patience:g} s workers hold {held} of its messages still, "
            f"so it was put back as it was. Stop its workers (`broker-app fleet stopwait`) or have more patience"
        )

    def _replace(self, *, is_deleted_first: bool) -> bool:
        """Run step 4; return False if another client declared the queue with other arguments in between."""
        self._report(f"declaring {self._name} with its new arguments", 0, None)
        holding, bounds = self._holding.name, self._bindings()
        return replace(self._connection, self._queue, holding, bounds, is_deleted_first=is_deleted_first)

    def _move_back(self) -> None:
        """Run step 5."""
        holding = self._holding.name
        self._unbind_all(holding)
        since = time.monotonic()
        self._messages += self._move(holding, self._name)
        while not self._has_emptied(holding, self._name, since):
            time.sleep(_PAUSE_SECONDS)
        delete_queue(self._connection, holding)
        delete_exchange(self._connection, holding)

    def _move(self, source: str, to: str, limit: int | None = None) -> int:
        """Move messages between the queue and the holding queue, and return how many."""
        total = self._depth(source) or 0
        if not total:
            return 0
        stage = f"moving messages from {source} to {to}"
        report = self._report
        if self._is_storage:
            self._route_holding_exchange(to)
        return move(
            self._connection, source, self._destination(to), limit, lambda moved: report(stage, moved, total)
        )

    def _destination(self, to: str) -> Destination:
        """Return the destination of moved messages.

        A work queue's messages go through the default exchange, since a retried task is published with the routing
        key that it arrived with. Dead letters and parked messages keep their routing keys, which a replay needs.
        """
        ours = {"", self._holding.name}
        is_direct = (lambda exchange: exchange not in ours) if to == self._name else (lambda _: False)
        if self._is_storage:
            return Destination(self._holding.name, None, is_direct)
        return Destination("", to, is_direct)

    def _route_holding_exchange(self, to: str) -> None:
        """Declare the holding exchange, and route it to only one of the two queues."""
        other = self._name if to == self._holding.name else self._holding.name
        binding = [QueueBindings(self._holding.name, "")]
        with pipelined_channel(self._connection, f"exchange {self._holding.name!r}") as channel:
            self._holding.exchange(channel).declare()
        unbind(self._connection, other, binding)
        bind(self._connection, to, binding)

    def _declare_holding(self) -> None:
        """Declare the holding queue, unless an earlier migration has left one."""
        if self._depth(self._holding.name) is None:
            kind = QueueType(self._queue.queue_arguments["x-queue-type"])
            with pipelined_channel(self._connection, f"queue {self._holding.name!r}") as channel:
                declare(channel, self._holding.queue(kind))

    def _bindings(self) -> list[QueueBindings]:
        """Return the bindings that the queue must have: those of the settings, and any others it has now."""
        found = self._current_bindings(self._name) + self._current_bindings(self._holding.name)
        return list(dict.fromkeys([*self._ours, *found]))

    def _current_bindings(self, name: str) -> list[QueueBindings]:
        return list_bindings(self._management, name, but=self._holding.name)

    def _unbind_all(self, name: str) -> None:
        unbind(self._connection, name, self._current_bindings(name))
