"""Parked messages: tasks whose queue did not exist when they were due."""

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
        task_id: The task's id, or empty.
        task: The task's name, or empty.
        queue: The queue that it was due for, without prefix; or its routing key, if that is not from a delay.
    """

    task_id: str
    task: str
    queue: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of a replay.

    Attributes:
        moved: Messages that the broker confirmed in their queue.
        left: Messages that stay parked.
        reason: Why the first one stays parked; empty if all were sent.
    """

    moved: int
    left: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnroutedAction:
    """Sends each parked message to the queue that it was due for.

    Attributes:
        exchange: The exchange for immediate tasks.
        table: The declared queues.
        prefix: The prefix of the names on the broker.
        to: Another queue for all messages, by its name on the broker.
        user: The broker user of our connection.
    """

    exchange: str
    table: RoutingTable
    prefix: str
    to: str | None
    user: str

    def prepare(self, summaries: list[MessageSummary]) -> None:
        """Do nothing."""

    def message(self, delivery: ScannedMessage) -> tuple[PublishRoute, pika.BasicProperties]:
        """Return the message's route and properties."""
        try:
            key = self.to or self.table.queue(_due_for(delivery.routing_key, self.prefix)).broker_name
        except UnknownQueue as error:
            raise Unroutable(str(error)) from error
        return PublishRoute(self.exchange, key, delivery.routing_key), properties(
            delivery, carried_headers(delivery), self.user
        )

    def settle(self, task_id: str, *, is_done: bool) -> None:
        """Do nothing."""


def peek_unrouted(app: Broker, limit: int) -> list[UnroutedMessage]:
    """Return the first messages of the parking queue; they are requeued when this returns.

    Raises:
        BrokerError: The broker cannot be reached, or the parking queue does not exist.
    """
    found = []
    with open_link(app) as link, QueueScan(link, Names(app.settings.prefix).unrouted, limit) as scan:
        for delivery in (one for batch in scan.batches() for one in batch):
            found.append(_parked(delivery, app.settings.prefix))
            scan.keep(delivery)
    return found


def replay_unrouted(app: Broker, to: str | None, told: Callable[[int, int], None]) -> ReplayResult:
    """Send each parked message to the queue that it was due for.

    A message is acknowledged only after its queue has confirmed it. After a kill at any point it exists at least
    once, at worst in both queues with the same id. Unroutable messages stay parked. A redelivered message carries
    `MAYBE_TWICE_HEADER`, since an interrupted replay may have sent it.

    Args:
        app: The app.
        to: Another queue for all of them.
        told: Progress callback: the number of messages read, and the number to read.

    Raises:
        RoutingError: ``to`` is not a declared queue.
        BrokerError: The broker cannot be reached, or the parking queue does not exist.
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
