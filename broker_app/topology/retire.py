"""Retire a queue that the settings no longer declare: its messages go to another queue, then it is deleted.

What has been done is read off the broker, so a retirement that was ended at any point goes on where it was:

1. Refuse a queue that has consumers, and one with messages if there is no queue to take them.
2. Move what stands in the queue. Bind the successor to all that the queue is bound to, then unbind the queue: at
   every moment a new message has a place, and for some milliseconds two. Move what has come meanwhile, and wait
   until the broker has counted nothing in the queue.
3. Move its dead letters to those of the successor, likewise.
4. Lift its pause, delete it, and delete its dead-letter queue.
5. Unbind the successor from the queue's routing key. What is scheduled has that key too: while anything is in the
   delay lanes, the successor stays bound to it, and another call takes that binding away.

Without a successor a scheduled task of the queue is parked when it is due (`broker-app queues unrouted`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amqp import exceptions as amqp_errors

from broker_app.broker.access import connect
from broker_app.broker.declare import QueueState, declare_topology, delete_queue, queue_depth, queue_state
from broker_app.broker.management import management_of
from broker_app.broker.pauses import paused_queues, resume_queue
from broker_app.broker.scheduled import read_backlog
from broker_app.broker.undeclared import removed_queues
from broker_app.errors import BrokerError, NotOnBroker, SelectionError
from broker_app.queues import DeadLetters, Names, QueueSpec, work_topology
from broker_app.queues.delay import due_pattern
from broker_app.queues.spec import check_queue_name
from broker_app.topology.bindings import QueueBindings, bind, standing, unbind
from broker_app.topology.migrate import MigrationTimeouts, migration_lock
from broker_app.topology.relocate import Destination, move
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import amqp

    from broker_app.broker.access import Broker

    Told = Callable[[str, int, int | None], None]

_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Retired:
    """A queue that was removed; in a dry run, what removing it would do.

    Attributes:
        queue: As producers wrote it.
        into: The queue that took its messages, or empty.
        messages: Messages that were moved.
        dead: Dead letters that were moved.
        was_paused: Whether a pause was lifted.
        scheduled: Tasks of any queue in the delay lanes. Those of this one will go to ``into``, or be parked.
    """

    queue: str
    into: str
    messages: int
    dead: int
    was_paused: bool
    scheduled: int


def retire_queue(
    app: Broker,
    name: str,
    told: Told,
    *,
    into: str | None = None,
    is_dry_run: bool = False,
    waits: MigrationTimeouts | None = None,
) -> Retired:
    """Remove a queue that the settings no longer declare, with its dead-letter queue, its bindings and its pause.

    Args:
        app: The app; its user needs the right to configure, and the management API.
        name: The queue, with or without prefix.
        told: Reports progress: the stage, the messages moved in it, and how many there are, None if unknown.
        into: A queue of the settings for its messages and its dead letters.
        is_dry_run: Change nothing.
        waits: Shorter ones are for tests.

    Raises:
        SelectionError: The settings declare it, or it has messages and there is no ``into``.
        RoutingError: A name that no queue of the settings can have, or an unknown ``into``.
        NotOnBroker: Nothing of it is on the broker.
        BrokerError: It has consumers, no management API, no right, or another command is at work. Nothing is lost;
            call it again.
    """
    short = name.removeprefix(app.settings.prefix)
    if {name, short} & app.settings.queues.keys():
        raise SelectionError(f"queue {name!r}: it is in the settings; remove its table there first")
    check_queue_name(short, app.settings.prefix)
    target = None if into is None else app.settings.routing_table().queue(into)
    try:
        with connect(app) as connection:
            one = _Retirement(app, connection, short, target, told, waits or MigrationTimeouts())
            one.check()
            if is_dry_run:
                return one.outlook()
            with migration_lock(connection, app.settings.prefix):
                return one.run()
    except (amqp_errors.AMQPError, OSError) as error:
        text = f"the connection was lost ({error_text(error)}); nothing is lost, run it again"
        raise BrokerError(text) from error


class _Retirement:
    """One queue on its way out."""

    def __init__(
        self,
        app: Broker,
        connection: amqp.Connection,
        name: str,
        into: QueueSpec | None,
        told: Told,
        waits: MigrationTimeouts,
    ) -> None:
        self._app, self._connection, self._told, self._waits = app, connection, told, waits
        self._management = management_of(app, connection)
        self._names, self._into = Names(app.settings.prefix), into
        self._spec = self._find(name)
        self._is_paused = name in paused_queues(app)
        due, tasks = due_pattern(self._spec.broker_name), self._spec.broker_name
        self._scheduled_way, self._way = (
            QueueBindings(self._names.due, due),
            QueueBindings(self._names.tasks, tasks),
        )

    def _find(self, name: str) -> QueueSpec:
        """Return the queue as it is on the broker."""
        settings, api = self._app.settings, self._management
        found = removed_queues(api.queues(settings.prefix), settings.specs(), settings.prefix, api.bindings_from)
        unknown = QueueSpec(name, settings.prefix)
        return next((spec for spec in found if spec.name == name), unknown)

    def check(self) -> None:
        """Refuse what must not be retired, before anything is done."""
        name, work = self._spec.broker_name, self._state(self._spec.broker_name)
        dead = self._depth(self._spec.dead_name)
        followers = self._followers()
        if work is None and dead is None and not self._is_paused and not followers:
            raise NotOnBroker(f"queue {name!r}: nothing of it is on the broker, nor is it paused")
        if work and not self._is_ours():
            raise SelectionError(f"queue {name!r}: expected one that was declared from settings, got another's")
        if work and work.consumers:
            raise BrokerError(
                f"queue {name!r}: {work.consumers} consumers take from it; stop its workers, or restart them with "
                f"the new settings, and run it again"
            )
        if self._into and (others := followers - {self._into.broker_name}):
            raise SelectionError(
                f"queue {name!r}: expected --into {', '.join(sorted(others))}, where an earlier run has moved its "
                f"messages, got {self._into.name!r}"
            )
        self._check_messages(work.ready if work else 0, dead or 0)

    def _check_messages(self, ready: int, dead: int) -> None:
        """Refuse to lose messages; those that the broker has counted elsewhere are looked at again later."""
        name, into = self._spec.broker_name, self._into
        if into is None and (ready or dead):
            raise SelectionError(
                f"queue {name!r}: expected --into QUEUE for {ready:,} messages and {dead:,} dead letters; "
                f"name one, or remove them with `broker-app queues purge`"
            )
        if into is not None and dead and into.dead_letters is not DeadLetters.KEEP:
            raise SelectionError(
                f"queue {name!r}: expected --into a queue that keeps dead letters for {dead:,} of them, got "
                f"{into.name!r}; discard them first (`broker-app queues purge {self._spec.name}.dead`)"
            )

    def _is_ours(self) -> bool:
        """Check its arguments alone: an earlier run may have removed its bindings."""
        found = self._management.queues(self._spec.broker_name)
        bindings = [{"routing_key": self._spec.broker_name}]
        specs = removed_queues(found, (), self._app.settings.prefix, lambda _: bindings)
        return self._spec.name in {spec.name for spec in specs}

    def outlook(self) -> Retired:
        """Return what would be done."""
        work, dead = self._depth(self._spec.broker_name), self._depth(self._spec.dead_name)
        return self._outcome(work or 0, dead or 0, read_backlog(self._app).total)

    def run(self) -> Retired:
        """Take steps 2 to 5."""
        if self._into is not None:
            declare_topology(self._connection, work_topology([self._into], self._into.prefix))
        messages = self._empty_work()
        dead = self._empty_dead()
        if self._is_paused:
            resume_queue(self._app, self._spec.name)
        delete_queue(self._connection, self._spec.broker_name)
        delete_queue(self._connection, self._spec.dead_name)
        return self._outcome(messages, dead, self._let_go())

    def _outcome(self, messages: int, dead: int, scheduled: int) -> Retired:
        into = self._into.name if self._into else ""
        return Retired(self._spec.name, into, messages, dead, self._is_paused, scheduled)

    def _empty_work(self) -> int:
        """Take step 2, and return how many messages were moved."""
        name = self._spec.broker_name
        if self._depth(name) is None:
            return 0
        moved = self._move(name, is_direct=False, limit=self._depth(name))
        bounds = list(dict.fromkeys([*standing(self._management, name, but=""), self._way, self._scheduled_way]))
        if self._into is not None:
            bind(self._connection, self._into.broker_name, bounds)
        unbind(self._connection, name, bounds)
        try:
            return moved + self._wait_until_empty(name)
        except BrokerError:
            bind(self._connection, name, bounds)
            raise

    def _empty_dead(self) -> int:
        """Take step 3; the queue that they came from is empty, so no more will come."""
        name = self._spec.dead_name
        if self._depth(name) is None:
            return 0
        return self._move(name, is_direct=False) + self._wait_until_empty(name)

    def _wait_until_empty(self, name: str) -> int:
        """Move what comes until the broker, long enough after nothing led here, has counted nothing."""
        moved, since = 0, time.monotonic()
        while (waited := time.monotonic() - since) < self._waits.count or self._held(name):
            moved += self._move(name, is_direct=True)
            self._told(f"waiting until the broker counts nothing in {name}", 0, None)
            if waited > self._waits.count + self._waits.patience:
                raise BrokerError(f"queue {name!r}: {self._held(name)} messages are left in it; run it again")
            time.sleep(_PAUSE_SECONDS)
        return moved

    def _move(self, name: str, *, is_direct: bool, limit: int | None = None) -> int:
        """Move messages to the successor's queue, or its dead letters; without one there must be none."""
        total = self._depth(name) or 0
        if not total:
            return 0
        if self._into is None:
            raise BrokerError(
                f"queue {name!r}: {total:,} messages came while it was retired, and it was put back; run it again "
                f"with --into"
            )
        is_dead = name == self._spec.dead_name
        exchange = self._names.dead if is_dead else ""
        way = Destination(
            exchange, self._into.broker_name, lambda came_by: is_direct and bool(came_by) and not is_dead
        )
        to = self._into.dead_name if is_dead else self._into.broker_name
        stage, told = f"moving messages from {name} to {to}", self._told
        return move(self._connection, name, way, limit, lambda moved: told(stage, moved, total))

    def _let_go(self) -> int:
        """Take step 5, and return what is scheduled, which keeps the successor bound to the old key."""
        scheduled = read_backlog(self._app)
        left = scheduled.total + (scheduled.held_up or 0)
        for follower in self._followers():
            unbind(self._connection, follower, [self._way] if left else [self._way, self._scheduled_way])
        return left

    def _followers(self) -> set[str]:
        """Return the queues of the settings that are bound to the queue's routing key in its place."""
        found = [
            item["destination"]
            for way in (self._way, self._scheduled_way)
            for item in self._management.bindings_from(way.source)
            if item["routing_key"] == way.key and item["destination_type"] == "queue"
        ]
        return set(found) & {spec.broker_name for spec in self._app.settings.specs()}

    def _state(self, name: str) -> QueueState | None:
        return queue_state(self._connection, name)

    def _depth(self, name: str) -> int | None:
        return queue_depth(self._connection, name)

    def _held(self, name: str) -> int:
        """Return all messages of a queue as last counted, those with consumers too."""
        found = self._management.queue_counts(name).get(name)
        return 0 if found is None else found.total or 0
