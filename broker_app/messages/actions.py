"""Transfer actions: a moved message stays as it is, a replayed task is published as if new."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker_app.messages.transfer import PublishRoute
from broker_app.queues import Names
from broker_app.queues.dead_letters import DEAD_PREFIX
from broker_app.queues.headers import (
    BROKER_HEADERS,
    DELAY_HEADER,
    MAYBE_TWICE_HEADER,
    PERSISTENT,
    PUBLISHED_AT_HEADER,
)

if TYPE_CHECKING:
    import pika

    from broker_app.messages.result_states import ResultStates
    from broker_app.messages.scan import ScannedMessage
    from broker_app.messages.source import MessageSource
    from broker_app.messages.summary import MessageSummary

_OTHERS_HEADERS = frozenset({"CC", "BCC"})
"""With these headers RabbitMQ would route a message to more queues (rabbitmq.com/docs/sender-selected)."""


@dataclass(frozen=True, slots=True)
class MoveAction:
    """Publishes messages unchanged, except for the headers that RabbitMQ added.

    Attributes:
        route: The route to the target queue.
        user: The broker user of our connection.
    """

    route: PublishRoute
    user: str

    def prepare(self, summaries: list[MessageSummary]) -> None:
        """Do nothing."""

    def message(self, delivery: ScannedMessage) -> tuple[PublishRoute, pika.BasicProperties]:
        """Return the message's route and properties."""
        return self.route, properties(delivery, carried_headers(delivery), self.user)

    def settle(self, task_id: str, *, is_done: bool) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class ReplayAction:
    """Publishes tasks again with the same id, arguments and relations, and with all their retries.

    A task's result is reset to PENDING before the task can start, and restored if it could not be sent.

    Attributes:
        route: The route to the target queue.
        user: The broker user of our connection.
        results: The app's results.
    """

    route: PublishRoute
    user: str
    results: ResultStates

    def prepare(self, summaries: list[MessageSummary]) -> None:
        """Reset the results to PENDING, so that callers wait for them again."""
        if summaries:
            self.results.reset([summary.id for summary in summaries if summary.id])

    def message(self, delivery: ScannedMessage) -> tuple[PublishRoute, pika.BasicProperties]:
        """Return the message's route and properties."""
        return self.route, properties(delivery, _as_new(carried_headers(delivery)), self.user)

    def settle(self, task_id: str, *, is_done: bool) -> None:
        """Restore the old result if the task was not sent."""
        (self.results.forget if is_done else self.results.restore)(task_id)


def route_to(source: MessageSource, prefix: str) -> PublishRoute:
    """Return the route to a queue: the producers' exchange for a work queue, the default exchange for others."""
    return PublishRoute(Names(prefix).tasks if source.is_work else "", source.queue, source.name)


def carried_headers(delivery: ScannedMessage) -> dict[str, Any]:
    """Return the headers without those that RabbitMQ adds or acts upon; redelivered messages are marked."""
    left = BROKER_HEADERS | _OTHERS_HEADERS
    headers = {name: value for name, value in delivery.headers.items() if name not in left}
    return headers | ({MAYBE_TWICE_HEADER: True} if delivery.is_redelivered else {})


def properties(delivery: ScannedMessage, headers: dict[str, Any], user: str) -> pika.BasicProperties:
    """Return the properties for publishing a message again.

    A ``user_id`` other than the connection's own is dropped: RabbitMQ would refuse it and close the channel
    (rabbitmq.com/docs/validated-user-id).
    """
    made = copy.copy(delivery.properties)
    made.headers, made.delivery_mode = headers, PERSISTENT
    if made.user_id != user:
        made.user_id = None
    return made


def _as_new(headers: dict[str, Any]) -> dict[str, Any]:
    """Return a task's headers as if it were published now; from other messages only our headers are removed."""
    kept = {name: value for name, value in headers.items() if not str(name).startswith(DEAD_PREFIX)}
    if "task" not in kept:
        return kept
    return kept | {"retries": 0, PUBLISHED_AT_HEADER: time.time(), DELAY_HEADER: 0.0}
