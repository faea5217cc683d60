"""One message of a bulk publication, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker_app.publishing.delayed_message import DelayedMessage
from broker_app.publishing.message import OutgoingMessage
from broker_app.wire import frames

if TYPE_CHECKING:
    from contextvars import Context

    from broker_app.wire.confirm_channel import Address


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """The outcome of publishing one signature.

    Attributes:
        number: Position among the signatures, from 0.
        task: The task's name.
        task_id: The task's id, also if it was not published.
        queue: The destination; empty if it was refused before the destination was known.
        error: None if the broker confirmed it. A `PublishError` has ``maybe_taken``: the broker may still have it.
        maybe_twice: Whether it was sent again because the connection was lost before the first copy was confirmed.
            The second copy carries the header ``broker_app_maybe_twice``.
        is_alone: Whether it was published by its own `apply_async` call, as a canvas is.
    """

    number: int
    task: str
    task_id: str
    queue: str
    error: Exception | None = None
    maybe_twice: bool = False
    is_alone: bool = False

    @property
    def accepted(self) -> bool:
        """True if the broker confirmed it."""
        return self.error is None

    @property
    def maybe_taken(self) -> bool:
        """True if it was not confirmed but the broker may have it."""
        return bool(getattr(self.error, "maybe_taken", False))


NOT_MADE = (0, 0)
"""The channel of an item whose frames must be encoded again."""


@dataclass(slots=True)
class BulkItem(DelayedMessage):
    """One signature while it is being published.

    Attributes:
        number: Position among the signatures, from 0.
        task: The task's name.
        task_id: Its id.
        place: The queue, or exchange and routing key, for display.
        address: Identifies the message if the broker returns it.
        sent: The encoded frames; empty if it is not sent in bulk.
        channel: The channel number and frame_max that the frames were encoded for.
        catch_ups: How often it was rerouted because part of its delay had passed.
        told: Celery's message and the context of its first signal, if a publish signal has receivers.
        is_unanswered: Whether it was sent and the broker has not answered yet.
        is_settled: Whether its outcome is known.
        error: As `ItemOutcome`.
        maybe_twice: As `ItemOutcome`.
        is_alone: As `ItemOutcome`.
    """

    number: int
    task: str
    task_id: str
    place: str = ""
    address: Address = ("", "", "")
    sent: bytes = b""
    channel: tuple[int, int] = NOT_MADE
    catch_ups: int = 0
    told: tuple[Any, Context] | None = None
    is_unanswered: bool = False
    is_settled: bool = False
    error: Exception | None = None
    maybe_twice: bool = False
    is_alone: bool = False

    def settle(self, error: Exception | None = None) -> None:
        """Record the outcome."""
        self.error = error
        self.is_settled = True

    def outgoing(self) -> OutgoingMessage:
        """Return it as a single message, to be delivered on its own."""
        properties, body = frames.decode(self.sent)
        _, exchange, routing_key = self.address
        return OutgoingMessage(
            task=self.task,
            task_id=self.task_id,
            spec=self.spec,
            delay=self.delay,
            exchange=exchange,
            routing_key=routing_key,
            body=body,
            properties=properties,
            is_unanswered=self.is_unanswered,
            due=self.due,
            asked=self.asked,
        )

    def _redirect(self, exchange: str, routing_key: str) -> None:
        self.address = (self.task_id, exchange, routing_key)
        self.channel = NOT_MADE

    def outcome(self) -> ItemOutcome:
        """Return the outcome for the caller."""
        return ItemOutcome(
            self.number, self.task, self.task_id, self.place, self.error, self.maybe_twice, self.is_alone
        )
