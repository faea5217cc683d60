"""Queue retirement: move the messages of an undeclared queue to a successor, then delete the queue.

All progress is visible on the broker, so a retirement that was interrupted at any point continues where it
stopped:

1. Refuse a queue that has consumers, and one that has messages if no successor is given.
2. Move the messages of the queue. Bind the successor to everything that the queue is bound to, then unbind the
   queue: a new message is always routed, and for some milliseconds to both queues. Move the messages that have
   arrived meanwhile, and wait until the broker counts the queue as empty.
3. Move its dead letters to the dead-letter queue of the successor in the same way.
4. Resume the queue if it is paused, delete it, and delete its dead-letter queue.
5. Unbind the successor from the queue's routing key. Scheduled tasks have that key too: while the delay lanes hold
   any tasks, the successor stays bound for them, and a later call removes that binding.

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
from broker_app.errors import BrokerError, SelectionError
from broker_app.queues import DeadLetters, Names, QueueSpec, work_topology
from broker_app.queues.delay import due_pattern
from broker_app.queues.spec import check_queue_name
from broker_app.text import counted
from broker_app.topology.bindings import QueueBindings, bind, list_bindings, unbind
from broker_app.topology.lock import migration_lock
from broker_app.topology.migrate import MigrationTimeouts
from broker_app.topology.relocate import Destination, move
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import amqp

    from broker_app.broker.access import Broker

    Progress = Callable[[str, int, int | None], None]

_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Retired:
    """The result of a retirement; in a dry run, its expected result.

    Attributes:
        queue: The queue, by the name that producers used.
        into: The successor, or empty.
        messages: Messages moved.
        dead: Dead letters moved.
        was_paused: Whether the queue was paused.
        scheduled: Tasks of any queue in the delay lanes. Those of this queue will go to ``into``, or be parked.
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
    told: Progress,
    *,
    into: str | None = None,
    is_dry_run: bool = False,
    waits: MigrationTimeouts | None = None,
) -> Retired:
    """Remove a queue that the settings no longer declare, with its dead-letter queue, its bindings and its pause.

    Args:
        app: The app; its user needs the configure permission and the management API.
        name: The queue, with or without prefix.
        told: Progress callback: the stage, the messages moved in it, and their total or None if unknown.
        into: A queue of the settings for its messages and its dead letters.
        is_dry_run: Change nothing.
        waits: The waiting times; tests use shorter ones.

    Raises:
        SelectionError: The settings declare it, the broker has no trace of it, or it has messages and there is no
            ``into``.
        RoutingError: An invalid queue name, or an unknown ``into``.
        BrokerError: The queue has consumers, no management API, no permission, or another command is in progress.
            No message is lost; call it again.
    """
    short = name.removeprefix(app.settings.prefix)
    if {name, short} & app.settings.queues.keys():
        raise SelectionError(f"queue {name!r}: it is in the settings; remove its table there first")
    check_queue_name(short, app.settings.prefix)
    target = None if into is None else app.settings.routing_table().queue(into)
    with connect(app) as connection:
        one = _Retirement(app, connection, short, target, told, waits or MigrationTimeouts())
        one.check()
        if is_dry_run:
            return one.outlook()
        try:
            with migration_lock(connection, app.settings.prefix):
                return one.run()
        except (amqp_errors.AMQPError, OSError) as error:
            text = f"the connection was lost ({error_text(error)}); no message is lost, run it again"
            raise BrokerError(text) from error


class _Retirement:
    """The retirement of one queue."""

    def __init__(
        self,
        app: Broker,
        connection: amqp.Connection,
        name: str,
        into: QueueSpec | None,
        told: Progress,
        waits: MigrationTimeouts,
    ) -> None:
        self._app, self._connection, self._report, self._waits = app, connection, told, waits
        self._management = management_of(app, connection)
        self._names, self._into = Names(app.settings.prefix), into
        self._spec = self._find(name)
        self._is_paused = name in paused_queues(app)
        due, tasks = due_pattern(self._spec.broker_name), self._spec.broker_name
        self._scheduled_binding, self._task_binding = (
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
        """Refuse a queue that must not be retired, before changing anything."""
        name, work = self._spec.broker_name, self._state(self._spec.broker_name)
        dead = self._depth(self._spec.dead_name)
        followers = self._followers()
        if work is None and dead is None and not self._is_paused and not followers:
            raise SelectionError(
                f"queue {name!r}: it does not exist on the broker, and it is not paused; `broker-app queues list` "
                f"shows the removed queues that are left"
            )
        if work and not self._is_ours():
            raise SelectionError(
                f"queue {name!r}: expected a queue declared by broker-app, got another application's"
            )
        if work and work.consumers:
            raise BrokerError(
                f"queue {name!r}: it has {work.consumers} consumers; stop its workers, or restart them with "
                f"the new settings, and run it again"
            )
        if self._into and (others := followers - {self._into.broker_name}):
            raise SelectionError(
                f"queue {name!r}: expected --into {', '.join(sorted(others))}, where an earlier run has moved its "
                f"messages, got {self._into.name!r}"
            )
        self._check_messages(work.ready if work else 0, dead or 0)

    def _check_messages(self, ready: int, dead: int) -> None:
        """Refuse a retirement that would lose ready messages; step 2 checks unacknowledged ones."""
        name, into = self._spec.broker_name, self._into
        if into is None and (ready or dead):
            raise SelectionError(
                f"queue {name!r}: expected --into QUEUE for {counted(ready, 'message')} and "
                f"{counted(dead, 'dead letter')}; name one, or remove them with `broker-app queues purge`"
            )
        if into is not None and dead and into.dead_letters is not DeadLetters.KEEP:
            raise SelectionError(
                f"queue {name!r}: expected --into a queue that keeps dead letters for {dead:,} of them, got "
                f"{into.name!r}; discard them first (`broker-app queues purge {self._spec.name}.dead`)"
            )

    def _is_ours(self) -> bool:
        """Return whether the queue is ours by its arguments; an earlier run may have removed its bindings."""
        found = self._management.queues(self._spec.broker_name)
        bindings = [{"routing_key": self._spec.broker_name}]
        specs = removed_queues(found, (), self._app.settings.prefix, lambda _: bindings)
        return self._spec.name in {spec.name for spec in specs}

    def outlook(self) -> Retired:
        """Return the expected result."""
        work, dead = self._depth(self._spec.broker_name), self._depth(self._spec.dead_name)
        return self._outcome(work or 0, dead or 0, read_backlog(self._app).total)

    def run(self) -> Retired:
        """Run steps 2 to 5."""
        if self._into is not None:
            declare_topology(self._connection, work_topology([self._into], self._into.prefix))
        messages = self._empty_work()
        dead = self._empty_dead()
        if self._is_paused:
            resume_queue(self._app, self._spec.name)
        delete_queue(self._connection, self._spec.broker_name)
        delete_queue(self._connection, self._spec.dead_name)
        return self._outcome(messages, dead, self._release_successor())

    def _outcome(self, messages: int, dead: int, scheduled: int) -> Retired:
        into = self._into.name if self._into else ""
        return Retired(self._spec.name, into, messages, dead, self._is_paused, scheduled)

    def _empty_work(self) -> int:
        """Run step 2; return the number of messages moved."""
        name = self._spec.broker_name
        if self._depth(name) is None:
            return 0
        moved = self._move(name, is_direct=False, limit=self._depth(name))
        bounds = list(
            dict.fromkeys(
                [*list_bindings(self._management, name, but=""), self._task_binding, self._scheduled_binding]
            )
        )
        if self._into is not None:
            bind(self._connection, self._into.broker_name, bounds)
        unbind(self._connection, name, bounds)
        try:
            return moved + self._wait_until_empty(name)
        except BrokerError:
            bind(self._connection, name, bounds)
            raise

    def _empty_dead(self) -> int:
        """Run step 3; the work queue is empty by now, so no more dead letters arrive."""
        name = self._spec.dead_name
        if self._depth(name) is None:
            return 0
        return self._move(name, is_direct=False) + self._wait_until_empty(name)

    def _wait_until_empty(self, name: str) -> int:
        """Move arriving messages until the broker counts none, long enough after the queue was unbound."""
        moved, since = 0, time.monotonic()
        while (waited := time.monotonic() - since) < self._waits.count or self._held(name):
            moved += self._move(name, is_direct=True)
            self._report(f"waiting until the broker counts nothing in {name}", 0, None)
            if waited > self._waits.count + self._waits.patience:
                raise BrokerError(f"queue {name!r}: {self._held(name)} messages are still in it; run it again")
            time.sleep(_PAUSE_SECONDS)
        return moved

    def _move(self, name: str, *, is_direct: bool, limit: int | None = None) -> int:
        """Move messages to the successor or its dead-letter queue; without a successor there must be none."""
        total = self._depth(name) or 0
        if not total:
            return 0
        if self._into is None:
            raise BrokerError(
                f"queue {name!r}: {counted(total, 'message')} arrived during the retirement, so it was restored; "
                f"run it again with --into"
            )
        is_dead = name == self._spec.dead_name
        exchange = self._names.dead if is_dead else ""
        destination = Destination(
            exchange, self._into.broker_name, lambda came_by: is_direct and bool(came_by) and not is_dead
        )
        to = self._into.dead_name if is_dead else self._into.broker_name
        stage, report = f"moving messages from {name} to {to}", self._report
        return move(self._connection, name, destination, limit, lambda moved: report(stage, moved, total))

    def _release_successor(self) -> int:
        """Run step 5; return the number of scheduled tasks, which keep the successor bound to the old key."""
        scheduled = read_backlog(self._app)
        left = scheduled.total + (scheduled.held_up or 0)
        for follower in self._followers():
            unbind(
                self._connection,
                follower,
                [self._task_binding] if left else [self._task_binding, self._scheduled_binding],
            )
        return left

    def _followers(self) -> set[str]:
        """Return the queues of the settings that are bound to the retired queue's routing key."""
        found = [
            item["destination"]
            for binding in (self._task_binding, self._scheduled_binding)
            for item in self._management.bindings_from(binding.source)
            if item["routing_key"] == binding.key and item["destination_type"] == "queue"
        ]
        return set(found) & {spec.broker_name for spec in self._app.settings.specs()}

    def _state(self, name: str) -> QueueState | None:
        return queue_state(self._connection, name)

    def _depth(self, name: str) -> int | None:
        return queue_depth(self._connection, name)

    def _held(self, name: str) -> int:
        """Return the last message count of a queue, including unacknowledged messages."""
        found = self._management.queue_counts(name).get(name)
        return 0 if found is None else found.total or 0
