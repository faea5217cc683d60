"""One of many messages on its way: what it is, and what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker_app.publishing.message import OutgoingMessage
from broker_app.queues import Delay, rest_of
from broker_app.wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from broker_app.queues import QueueSpec
    from broker_app.wire.confirm_channel import Address


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one signature.

    Attributes:
        number: Its place among those that came in, from 0.
        task: The task's name.
        task_id: The id that it has, or would have had.
        queue: Where it went; empty if it was refused before that was known.
        error: None if the broker has it; else why not, or why nobody knows: a `PublishError` has ``maybe_taken``.
        maybe_twice: Whether it was sent again because the connection was lost before the first was answered. The
            second message carries the header ``broker_app_maybe_twice``.
        is_alone: Whether it went by `apply_async`, one call for itself: a canvas.
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
        """Whether the broker has confirmed it."""
        return self.error is None

    @property
    def maybe_taken(self) -> bool:
        """Whether it was not confirmed, and the broker may have it all the same."""
        return bool(getattr(self.error, "maybe_taken", False))


_NOW = Delay((), 0.0)


NOT_MADE = (0, 0)
"""The channel of an item whose frames are to be made anew."""

MOST_CATCH_UPS = 2
"""How often an item gets lanes for the rest of its delay: to look after them takes time too."""


@dataclass(slots=True)
class BulkItem:
    """One signature on its way.

    Attributes:
        number: Its place, from 0.
        task: The task's name.
        task_id: Its id.
        place: The queue, or exchange and key, for people.
        spec: The queue that it is for; None for an exchange that is not ours, or if it was refused.
        delay: How long it waits in the broker.
        address: What it is known by if it is returned.
        sent: Its frames; empty for one that is not sent in bulk.
        channel: The channel's number that they were made for, and the largest frame.
        due: When its delay ends, on the clock of `time.monotonic`; None if it has none.
        catch_ups: How often it got another way because some of its delay was over.
        told: Celery's message and the context of its first signal, if somebody listens to what is published.
        is_unanswered: Whether it was sent, and nothing is known of it yet.
        is_settled: Whether its outcome is known.
        error: As `ItemOutcome`.
        maybe_twice: As `ItemOutcome`.
        is_alone: As `ItemOutcome`.
    """

    number: int
    task: str
    task_id: str
    place: str = ""
    spec: QueueSpec | None = None
    delay: Delay = _NOW
    address: Address = ("", "", "")
    sent: bytes = b""
    channel: tuple[int, int] = NOT_MADE
    due: float | None = None
    catch_ups: int = 0
    told: tuple[Any, Context] | None = None
    is_unanswered: bool = False
    is_settled: bool = False
    error: Exception | None = None
    maybe_twice: bool = False
    is_alone: bool = False

    def settle(self, error: Exception | None = None) -> None:
        """Note what became of it."""
        self.error = error
        self.is_settled = True

    def outgoing(self) -> OutgoingMessage:
        """Return it as the one message that it is, to be sent with care."""
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
        )

    def catch_up(self, way: Callable[[QueueSpec, Delay], tuple[str, str]]) -> None:
        """Let it wait for the rest of its delay only: its frames are made anew then.

        Args:
            way: `broker_app.publishing.message.MessageBuilder.way`.
        """
        if self.due is None or self.spec is None or self.catch_ups >= MOST_CATCH_UPS:
            return
        left = rest_of(self.delay, self.due - time.monotonic())
        if left is not self.delay:
            self.delay, self.catch_ups = left, self.catch_ups + 1
            self.address = (self.task_id, *way(self.spec, left))
            self.channel = NOT_MADE

    def outcome(self) -> ItemOutcome:
        """Return what the caller is told."""
        return ItemOutcome(
            self.number, self.task, self.task_id, self.place, self.error, self.maybe_twice, self.is_alone
        )
