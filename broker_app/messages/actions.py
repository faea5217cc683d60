"""What a message is on its new way: a replayed task starts anew, a moved message is as it was."""

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
"""With them RabbitMQ would route a message to more queues (rabbitmq.com/docs/sender-selected)."""


@dataclass(frozen=True, slots=True)
class MoveAction:
    """The message as it is, less what RabbitMQ noted in it.

    Attributes:
        route: Where it goes.
        user: Who we are for the broker.
    """

    route: PublishRoute
    user: str

    def prepare(self, letters: list[MessageSummary]) -> None:
        """Nothing need be done before."""

    def message(self, delivery: ScannedMessage) -> tuple[PublishRoute, pika.BasicProperties]:
        """Return where it goes and its properties."""
        return self.route, properties(delivery, carried_headers(delivery), self.user)

    def settle(self, letter_id: str, *, is_done: bool) -> None:
        """Nothing need be done after."""


@dataclass(frozen=True, slots=True)
class ReplayAction:
    """The task, published anew: with the id, the arguments and the relations that it had, and all its retries.

    Its result is PENDING before it can start, and what it was again if it could not be sent.

    Attributes:
        route: Where it goes.
        user: Who we are for the broker.
        results: Of the app.
    """

    route: PublishRoute
    user: str
    results: ResultStates

    def prepare(self, letters: list[MessageSummary]) -> None:
        """Let who waits for the results wait again."""
        if letters:
            self.results.reset([letter.id for letter in letters if letter.id])

    def message(self, delivery: ScannedMessage) -> tuple[PublishRoute, pika.BasicProperties]:
        """Return where it goes and its properties."""
        return self.route, properties(delivery, _as_new(carried_headers(delivery)), self.user)

    def settle(self, letter_id: str, *, is_done: bool) -> None:
        """Give it its old result back if it was not sent."""
        (self.results.forget if is_done else self.results.restore)(letter_id)


def route_to(place: MessageSource, prefix: str) -> PublishRoute:
    """Return the route into a place: as producers take it into a work queue, by name into others."""
    return PublishRoute(Names(prefix).tasks if place.is_work else "", place.queue, place.name)


def carried_headers(delivery: ScannedMessage) -> dict[str, Any]:
    """Return the headers less those that RabbitMQ made or acts upon; one that was in a hand before says so."""
    left = BROKER_HEADERS | _OTHERS_HEADERS
    headers = {name: value for name, value in delivery.headers.items() if name not in left}
    return headers | ({MAYBE_TWICE_HEADER: True} if delivery.is_redelivered else {})


def properties(delivery: ScannedMessage, headers: dict[str, Any], user: str) -> pika.BasicProperties:
    """Return the properties of a message that we publish again.

    RabbitMQ refuses a ``user_id`` other than the connection's own, and closes the channel
    (rabbitmq.com/docs/validated-user-id); so another's is left out.
    """
    made = copy.copy(delivery.properties)
    made.headers, made.delivery_mode = headers, PERSISTENT
    if made.user_id != user:
        made.user_id = None
    return made


def _as_new(headers: dict[str, Any]) -> dict[str, Any]:
    """Return a task's headers as if it were published now; those of another client's message only less ours."""
    kept = {name: value for name, value in headers.items() if not str(name).startswith(DEAD_PREFIX)}
    if "task" not in kept:
        return kept
    return kept | {"retries": 0, PUBLISHED_AT_HEADER: time.time(), DELAY_HEADER: 0.0}
