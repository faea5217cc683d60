"""What is parked: tasks whose queue was gone when they were due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.messages.actions import carried_headers, properties
from broker_app.messages.channel import open_link
from broker_app.messages.filter import MessageFilter
from broker_app.messages.scan import QueueScan
from broker_app.messages.transfer import PublishRoute, TransferJob, TransferOutcome, Unroutable, transfer
from broker_app.queues import InvalidDelay, Names, UnknownQueue
from broker_app.queues.delay import parse_routing_key

if TYPE_CHECKING:
    from collections.abc import Callable

    import pika

    from broker_app.broker.access import Broker
    from broker_app.messages.scan import ScannedMessage
    from broker_app.messages.summary import MessageSummary
    from broker_app.queues import RoutingTable


@dataclass(frozen=True, slots=True)
class UnroutedMessage:
    """One message of the parking queue.

    Attributes:
        task_id: Its id, empty if it has none.
        task: Its task's name, empty if it has none.
        queue: The queue that it was due for, without prefix; the routing key as it is if it is no delay's.
    """

    task_id: str
    task: str
    queue: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did.

    Attributes:
        moved: Messages that the broker confirmed in their queue.
        left: Messages that stay parked, with the reason of the first.
        reason: Why the first one stays; empty if none does.
    """

    moved: int
    left: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnroutedAction:
    """Each parked message to the queue that it was due for.

    Attributes:
        exchange: Where immediate tasks are published.
        table: The declared queues.
        prefix: Of the names on the broker.
        to: The name on the broker of another queue for all of them.
        user: Who we are for the broker.
    """

    exchange: str
    table: RoutingTable
    prefix: str
    to: str | None
    user: str

    def prepare(self, letters: list[MessageSummary]) -> None:
        """Nothing need be done before."""

    def message(self, delivery: ScannedMessage) -> tuple[PublishRoute, pika.BasicProperties]:
        """Return where it goes and its properties."""
        try:
            key = self.to or self.table.queue(_due_for(delivery.routing_key, self.prefix)).broker_name
        except UnknownQueue as error:
            raise Unroutable(str(error)) from error
        return PublishRoute(self.exchange, key, delivery.routing_key), properties(
            delivery, carried_headers(delivery), self.user
        )

    def settle(self, letter_id: str, *, is_done: bool) -> None:
        """Nothing need be done after."""


def peek_unrouted(app: Broker, limit: int) -> list[UnroutedMessage]:
    """Return the first messages of the parking queue; they are back in their place when this returns.

    Raises:
        BrokerError: The broker cannot be reached, or nothing was ever declared there.
    """
    found = []
    with open_link(app) as link, QueueScan(link, Names(app.settings.prefix).unrouted, limit) as reading:
        for delivery in (one for batch in reading.batches() for one in batch):
            found.append(_parked(delivery, app.settings.prefix))
            reading.keep(delivery)
    return found


def replay_unrouted(app: Broker, to: str | None, told: Callable[[int, int], None]) -> ReplayResult:
    """Send each parked message to the queue that it was due for.

    A message is acknowledged only after its queue has confirmed it: killed at any point, it is there at least
    once, at worst in both places with the same id. What cannot be routed stays. One that was looked at before
    carries `MAYBE_TWICE_HEADER`: a replay that was killed may have sent it.

    Args:
        app: The app.
        to: Another queue for all of them.
        told: Called with the number of messages looked at and the number there are to look at.

    Raises:
        RoutingError: ``to`` is not a declared queue.
        BrokerError: The broker cannot be reached, or nothing was ever declared there.
    """
    names, table = Names(app.settings.prefix), app.settings.routing_table()
    override = None if to is None else table.queue(to).broker_name
    with open_link(app) as link:
        action = UnroutedAction(names.tasks, table, app.settings.prefix, override, link.user)
        job = TransferJob(names.unrouted, MessageFilter(), f"{names.delay}.", told=told)
        outcome: TransferOutcome = transfer(link, job, action)
    return ReplayResult(outcome.done, outcome.failed, outcome.reason)


def _parked(delivery: ScannedMessage, prefix: str) -> UnroutedMessage:
    headers = delivery.headers
    queue = _due_for(delivery.routing_key, prefix)
    return UnroutedMessage(str(headers.get("id", "")), str(headers.get("task", "")), queue)


def _due_for(routing_key: str, prefix: str) -> str:
    try:
        return parse_routing_key(routing_key)[1].removeprefix(prefix)
    except InvalidDelay:
        return routing_key
