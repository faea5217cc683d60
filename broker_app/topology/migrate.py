"""Move a queue to new arguments with its messages: RabbitMQ can neither change nor rename a queue.

What has been done is read off the broker, so a migration that was ended at any point goes on where it was:

1. Take a lock, and declare a holding queue. Move to it what stands in the queue, as many messages as there were:
   the oldest come first.
2. Bind the holding queue to all that the queue is bound to, then unbind the queue: at every moment a new message
   has a place, and for a moment two. Move what has come meanwhile.
3. Wait until workers have acknowledged what they hold, and the broker has counted after that, and unbind again
   what somebody has bound. Now nothing is in the queue that is not in the holding queue too. If it takes longer
   than the caller's patience, the queue is put back as it was.
4. In one go: delete the queue, declare it anew, bind it, unbind the holding queue. Workers come back to it by
   themselves.
5. Move the messages from the holding queue, wait until the broker has counted it empty, and delete it.

A message that a producer publishes in step 2 or 4 may be in both queues. All that came to the holding queue from a
producer, and all that was on its way when a migration was ended, carries
`broker_app.queues.headers.MAYBE_TWICE_HEADER`.
What was in the queue before keeps its order. What is published while step 5 is at work may come before it.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amqp import exceptions as amqp_errors

from broker_app.broker import scheduled
from broker_app.broker.access import connect
from broker_app.broker.declare import (
    delete_exchange,
    delete_queue,
    exclusive_queue,
    is_exclusive,
    pipelined_channel,
    queue_depth,
    wanted_topology,
)
from broker_app.broker.management import management_of
from broker_app.errors import BrokerError, BrokerLocked, NotOnBroker
from broker_app.queues import QueueType
from broker_app.queues.holding import HoldingQueue, lock_name
from broker_app.topology.bindings import QueueBindings, bind, declare, replace, standing, unbind
from broker_app.topology.diff import differences
from broker_app.topology.plan import movable
from broker_app.topology.relocate import Destination, move
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import amqp

    from broker_app.broker.access import Broker

    Told = Callable[[str, int, int | None], None]

PATIENCE_SECONDS = 120.0
"""How long step 3 waits for what workers hold."""

_ROUNDS = 5
"""How often somebody may declare the queue with its old arguments just after it was deleted."""

_PAUSE_SECONDS = 0.5

_LOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class MigrationTimeouts:
    """How long a migration waits for others, in seconds.

    Attributes:
        count: Longer than the broker's counts are behind, as a prune's.
        patience: For what workers hold, from when the queue gets no more messages.
    """

    count: float = 2 * scheduled.COUNT_SECONDS + 2
    patience: float = PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What became of one queue.

    Attributes:
        queue: Its name on the broker.
        difference: How it stood against the settings before; empty if only an older migration was to be ended.
        messages: Those that were moved, each counted once; in a dry run those that would be.
    """

    queue: str
    difference: str
    messages: int


def migrate(
    app: Broker, name: str, told: Told, *, is_dry_run: bool = False, waits: MigrationTimeouts | None = None
) -> list[MigrationResult]:
    """Give a queue the arguments of the settings; its dead letters' queue too, if that differs.

    Args:
        app: The app; its user needs the right to configure, and the management API.
        name: A queue of the settings, with or without prefix, or its dead letters', or the parking queue.
        told: Called with the stage, the messages moved in it, and how many there are, None if that is not known.
        is_dry_run: Only tell what would be done.
        waits: Shorter ones are for tests.

    Returns:
        What was moved; empty if all stand as the settings ask.

    Raises:
        CallError: A queue that cannot be moved.
        UnknownQueue: None of the settings'.
        BrokerError: No connection, no management API, no right, another migration at work, or workers held
            messages for too long. Nothing is lost; call it again.
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
            text = f"the connection was lost ({error_text(error)}); nothing is lost, run it again"
            raise BrokerError(text) from error


class _Migration:
    """One queue on its way."""

    def __init__(
        self, app: Broker, connection: amqp.Connection, queue: Any, told: Told, waits: MigrationTimeouts
    ) -> None:
        self._queue, self._name, self._waits = queue, queue.name, waits
        self._connection, self._told = connection, told
        self._management = management_of(app, connection)
        self._holding = HoldingQueue(queue.name, app.settings.prefix)
        bindings = wanted_topology(app.settings).queue_bindings
        self._ours = [QueueBindings(it.source, it.key) for it in bindings if it.destination == queue.name]
        self._is_keeper = queue.name not in {spec.broker_name for spec in app.settings.specs()}
        self._messages = 0
        self._difference = ""

    def is_due(self) -> bool:
        """Whether there is something to do."""
        self._difference = self._look() or ""
        return bool(self._difference) or self._depth(self._holding.name) is not None

    def is_there(self) -> bool:
        """Whether the queue, or the one that holds its messages, is on the broker."""
        return any(self._depth(name) is not None for name in (self._name, self._holding.name))

    def outlook(self) -> MigrationResult:
        """Return what would be moved."""
        depths = [self._depth(name) or 0 for name in (self._name, self._holding.name)]
        return MigrationResult(self._name, self._difference, sum(depths))

    def run(self) -> MigrationResult:
        """Move it; steps 1 to 5."""
        for _ in range(_ROUNDS):
            differs = bool(self._look())
            if differs:
                self._set_aside()
            if self._replace(is_deleted_first=differs):
                self._fetch_back()
                return MigrationResult(self._name, self._difference, self._messages)
        raise BrokerError(
            f"queue {self._name!r}: somebody declares it with its old arguments whenever it is gone; its messages "
            f"are in {self._holding.name!r}. Stop who runs with older settings and run it again"
        )

    def _look(self) -> str | None:
        """Return how the queue differs, empty if it does not, None if it is not there."""
        found = self._management.queues(self._name).get(self._name)
        return None if found is None else differences(self._queue, found)

    def _depth(self, name: str) -> int | None:
        return queue_depth(self._connection, name)

    def _set_aside(self) -> None:
        """Take steps 1 to 3."""
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
        """Unbind and empty a queue once more, and return whether nothing is in it, nor with a worker.

        Args:
            name: The queue.
            to: Where its messages go.
            since: When it was unbound; what the broker counted long enough after that counts.
        """
        self._unbind_all(name)
        self._move(name, to)
        if time.monotonic() - since < self._waits.count:
            self._told(f"waiting until the broker counts nothing in {name}, nor with its workers", 0, None)
            return False
        return self._held(name) == 0

    def _held(self, name: str) -> int | None:
        """Return all messages of a queue as last counted, those with workers too; None if nobody can tell."""
        found = self._management.queue_counts(name).get(name)
        return None if found is None else found.total

    def _put_back(self) -> None:
        """Undo what was done, and say why."""
        held = self._held(self._name)
        bind(self._connection, self._name, self._bindings())
        self._fetch_back()
        raise BrokerError(
            f"queue {self._name!r}: after {self._waits.patience:g} s workers hold {held} of its messages still, "
            f"so it was put back as it was. Stop its workers (`broker-app fleet stopwait`) or have more patience"
        )

    def _replace(self, *, is_deleted_first: bool) -> bool:
        """Take step 4, and return False if somebody has declared the queue with other arguments in between."""
        self._told(f"declaring {self._name} with its new arguments", 0, None)
        holding, bounds = self._holding.name, self._bindings()
        return replace(self._connection, self._queue, holding, bounds, is_deleted_first=is_deleted_first)

    def _fetch_back(self) -> None:
        """Take step 5."""
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
        told = self._told
        return move(self._connection, source, self._way(to), limit, lambda moved: told(stage, moved, total))

    def _way(self, to: str) -> Destination:
        """Return how moved messages go: a keeper's keep the routing key by which they are replayed.

        A work queue's go by the default exchange: a task that is retried goes by the key that it came by.
        """
        ours = {"", self._holding.name}
        is_direct = (lambda exchange: exchange not in ours) if to == self._name else (lambda _: False)
        if not self._is_keeper:
            return Destination("", to, is_direct)
        other = self._name if to == self._holding.name else self._holding.name
        lead = [QueueBindings(self._holding.name, "")]
        with pipelined_channel(self._connection, f"exchange {self._holding.name!r}") as channel:
            self._holding.exchange(channel).declare()
        unbind(self._connection, other, lead)
        bind(self._connection, to, lead)
        return Destination(self._holding.name, None, is_direct)

    def _declare_holding(self) -> None:
        """Declare the holding queue; one that an older migration left is used as it is."""
        if self._depth(self._holding.name) is None:
            kind = QueueType(self._queue.queue_arguments["x-queue-type"])
            with pipelined_channel(self._connection, f"queue {self._holding.name!r}") as channel:
                declare(channel, self._holding.queue(kind))

    def _bindings(self) -> list[QueueBindings]:
        """Return what the queue must be bound to: what the settings say, and what stands besides."""
        found = self._standing(self._name) + self._standing(self._holding.name)
        return list(dict.fromkeys([*self._ours, *found]))

    def _standing(self, name: str) -> list[QueueBindings]:
        return standing(self._management, name, but=self._holding.name)

    def _unbind_all(self, name: str) -> None:
        unbind(self._connection, name, self._standing(name))


@contextmanager
def migration_lock(connection: amqp.Connection, prefix: str) -> Iterator[None]:
    """Keep other migrations and retirements away; that of one that was killed is gone once the broker has noticed.

    Raises:
        BrokerLocked: Another one is at work.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    name = lock_name(prefix)
    while is_exclusive(connection, name):
        if time.monotonic() >= deadline:
            raise BrokerLocked("another `topology migrate` or `queues retire` is at work; try again after it")
        time.sleep(_PAUSE_SECONDS)
    with exclusive_queue(connection, name):
        yield
