"""Queue overview: the state of every queue of the settings."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.broker.access import connect
from broker_app.broker.declare import QueueState, queue_depth, queue_state
from broker_app.broker.management import management_of
from broker_app.broker.pauses import paused_queues
from broker_app.broker.scheduled import read_backlog
from broker_app.broker.undeclared import removed_queues
from broker_app.errors import BrokerError
from broker_app.messages.channel import open_link
from broker_app.messages.commands import COUNTED_LOOKS_BEFORE
from broker_app.messages.oldest import OldestMessages
from broker_app.queues import Names, QueueSpec, QueueType
from broker_app.wire.errors import server_version

if TYPE_CHECKING:
    import amqp

    from broker_app.broker.access import Broker
    from broker_app.broker.management import Management

DEFAULT_LIMIT_SINCE = (4, 0)
"""From this version on a quorum queue drops a message after 20 counted deliveries by default; earlier versions
need a policy (rabbitmq.com/docs/quorum-queues#poison-message-handling)."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One work queue.

    Attributes:
        is_declared: Whether it exists on the broker.
        ready: Messages ready for delivery.
        running: Messages that a worker has not acknowledged yet, as of the broker's last count; None if unknown.
        dead: Its dead letters.
        consumers: Number of consumers.
        is_paused: Whether an operator has paused it; None if unknown.
        is_removed: Whether the settings no longer declare it.
        oldest_wait_seconds: How long the next message has been due: the oldest, or with priorities the most
            urgent. None if there are no messages, or reading one is not allowed.
    """

    is_declared: bool
    ready: int = 0
    running: int | None = None
    dead: int = 0
    consumers: int = 0
    is_paused: bool | None = False
    oldest_wait_seconds: float | None = None
    is_removed: bool = False


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of all queues.

    Attributes:
        rows: The queues by name; those that the settings no longer declare come last.
        scheduled: Tasks in the delay lanes, which all queues share.
        unrouted: Parked tasks.
        missing: One sentence for each fact that is unknown, with the reason.
    """

    rows: dict[str, QueueRow]
    scheduled: int
    unrouted: int
    missing: tuple[str, ...]


def read_overview(app: Broker, *, may_look: bool) -> Overview:
    """Read the state of every queue of the settings, and of those that were removed from them.

    Args:
        app: The app.
        may_look: Whether the next message of each queue may be fetched and requeued to see how long it has waited.
            Skipped where the broker would count that as a delivery towards a limit.

    Raises:
        BrokerError: The broker cannot be reached.
    """
    prefix, missing = app.settings.prefix, list[str]()
    paused = _paused(app, missing)
    with connect(app) as connection:
        removed = _removed(app, management_of(app, connection), paused)
        specs = [*app.settings.specs(), *removed]
        states = {spec.name: queue_state(connection, spec.broker_name) for spec in specs}
        dead = {spec.name: _dead(connection, spec) for spec in specs}
        unrouted = queue_depth(connection, Names(prefix).unrouted) or 0
        version, api = server_version(connection), management_of(app, connection)
    try:
        counts = api.queue_counts(prefix)
    except BrokerError:
        counts = {}
        what = "what is running, lanes of many days, and queues that are in no settings"
        missing.append(f"{what}: the management API does not answer")
    waiting = [spec for spec in specs if may_look and _ready(states[spec.name])]
    seen = [spec for spec in waiting if _is_harmless(spec, version, api)]
    if hidden := [spec.name for spec in waiting if spec not in seen]:
        missing.append(f"the oldest wait in {', '.join(hidden)}: this RabbitMQ counts a look as a delivery")
    waits = _waits(app, seen)
    rows = {
        spec.name: QueueRow(
            is_declared=(state := states[spec.name]) is not None,
            ready=_ready(state),
            running=counts[spec.broker_name].running if spec.broker_name in counts else None,
            dead=dead[spec.name],
            consumers=state.consumers if state else 0,
            is_paused=None if paused is None else spec.name in paused,
            oldest_wait_seconds=waits.get(spec.name),
            is_removed=spec in removed,
        )
        for spec in specs
    }
    return Overview(rows, read_backlog(app).total, unrouted, tuple(missing))


def _paused(app: Broker, missing: list[str]) -> frozenset[str] | None:
    try:
        return paused_queues(app)
    except BrokerError as error:
        missing.append(f"which queues are paused: {error}")
        return None


def _removed(app: Broker, api: Management, paused: frozenset[str] | None) -> list[QueueSpec]:
    """Return the queues that were removed from the settings; paused ones are known without the API."""
    settings = app.settings
    try:
        found = removed_queues(api.queues(settings.prefix), settings.specs(), settings.prefix, api.bindings_from)
    except BrokerError:
        found = []  # reported with the other unknown facts
    gone = (paused or frozenset()) - settings.queues.keys() - {spec.name for spec in found}
    return [*found, *(QueueSpec(name, settings.prefix) for name in sorted(gone))]


def _ready(state: QueueState | None) -> int:
    return state.ready if state else 0


def _dead(connection: amqp.Connection, spec: QueueSpec) -> int:
    """Return the number of dead letters, including those kept before the settings began to discard them."""
    return queue_depth(connection, spec.dead_name) or 0


def _is_harmless(spec: QueueSpec, version: tuple[int, ...], api: Management) -> bool:
    """Return whether peeking at a message leaves its delivery count unchanged, or has no limit to reach."""
    if spec.type is QueueType.CLASSIC or version[:2] >= COUNTED_LOOKS_BEFORE:
        return True
    if version[:2] >= DEFAULT_LIMIT_SINCE:
        return False
    with suppress(BrokerError):
        return "delivery-limit" not in api.effective_policy(spec.broker_name)
    return False


def _waits(app: Broker, specs: list[QueueSpec]) -> dict[str, float | None]:
    """Return how long the next message of each queue has waited, by the queue's name."""
    if not specs:
        return {}
    waits = {}
    with suppress(BrokerError), open_link(app) as link:  # no read permission, or a queue was deleted
        oldest = OldestMessages(link)
        for spec in specs:
            waits[spec.name] = oldest.waited_seconds(spec.broker_name, time.time())
    return waits
