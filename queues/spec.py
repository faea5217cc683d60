"""Queue specs: the declared queues as plain values, and the checks of queue names and priorities."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from broker_app.queues.errors import InvalidPriority, InvalidQueueName
from broker_app.queues.retry import Backoff

MAX_ID_BYTES = 155
"""Celery's result tables store 155 characters (celery/backends/database/models.py); AMQP would allow 255."""


AMQP_SHORT_STRING_BYTES = 255
"""AMQP 0-9-1, section 4.2.5.3: names and routing keys are short strings of at most 255 bytes."""

DELAY_KEY_HEAD_BYTES = 22
"""Longest delay part of a routing key, before the queue's name: ``3650d.23h.59m.59s.0ms.``."""

MAX_QUEUE_NAME_BYTES = AMQP_SHORT_STRING_BYTES - DELAY_KEY_HEAD_BYTES
"""Limit for a queue's name with its prefix, which must fit into a delayed message's routing key."""

MIN_PRIORITY, MAX_PRIORITY = 0, 9
"""Larger is more urgent. AMQP 0-9-1, section 1.8.3: implementations support at least 0 to 9."""

DEFAULT_PRIORITY = 4
"""Sent for a task without a priority: RabbitMQ treats a missing one as 4 in quorum queues, 0 in classic ones."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_RESERVED = re.compile(r"(?:amq|tasks|delay)(?:\..*)?|.*\.dead")


class QueueType(StrEnum):
    """RabbitMQ queue type."""

    QUORUM = "quorum"
    CLASSIC = "classic"


class DeadLetters(StrEnum):
    """Handling of dead-lettered messages: keep or discard them."""

    KEEP = "keep"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One work queue.

    Attributes:
        name: The name producers use: ``queue="lopri"``.
        prefix: Prefix of every name on a shared broker; may be empty.
        type: Quorum (replicated, the default) or classic.
        has_priorities: Whether messages may have a priority 0..9.
        dead_letters: Keep dead letters in ``<name>.dead``, or discard them.
        delivery_limit: Starts (counted from 1) that each killed the worker, after which a message is poison.
        retry: The retry policy for failed tasks.
    """

    name: str
    prefix: str = ""
    type: QueueType = QueueType.QUORUM
    has_priorities: bool = False
    dead_letters: DeadLetters = DeadLetters.KEEP
    delivery_limit: int = 5
    retry: Backoff = field(default_factory=Backoff)

    @property
    def broker_name(self) -> str:
        """The queue's name on the broker, which is also its routing key."""
        return self.prefix + self.name

    @property
    def dead_name(self) -> str:
        """The broker name of the queue's dead-letter queue."""
        return f"{self.broker_name}.dead"


def check_queue_name(name: str, prefix: str = "") -> str:
    """Return ``name`` if the broker and the delay lanes accept it.

    Raises:
        InvalidQueueName: The name is empty; is over 233 bytes with its prefix (255 for an AMQP short string, less
            22 for a delay's key); has a character other than letters, digits, ``_``, ``-`` and single inner
            dots (``*`` and ``#`` are topic wildcards, a comma separates names in Celery's ``-Q``); or is reserved
            by the broker (``amq.``) or this project (``tasks``, ``delay``, ``….dead``).
    """
    size = len((prefix + name).encode())
    if size > MAX_QUEUE_NAME_BYTES:
        raise InvalidQueueName(
            f"a queue's name must be at most {MAX_QUEUE_NAME_BYTES} bytes with its prefix, got {size}"
        )
    if not _NAME.fullmatch(name):
        raise InvalidQueueName(
            f"a queue's name must be letters, digits, '_', '-' and single dots between them, got {name!r}"
        )
    if _RESERVED.fullmatch(name) or (prefix + name).startswith("amq."):
        raise InvalidQueueName(
            f"a queue's name must not be 'tasks', 'delay', start with 'amq.', 'tasks.' or 'delay.', "
            f"nor end with '.dead', got {name!r}"
        )
    return name


def check_priority(queue: QueueSpec, priority: int | None) -> int | None:
    """Return the priority to publish with; None for a queue without priorities.

    Raises:
        InvalidPriority: It is not an integer 0..9, or the queue has no priorities.
    """
    if not queue.has_priorities:
        if priority is None:
            return None
        raise InvalidPriority(
            f"queue {queue.name!r}: expected no priority, got {priority!r}; set priorities = true in "
            f"[queues.{queue.name}] (quorum: RabbitMQ 4.3 or later; classic: any) or omit it"
        )
    if priority is None:
        return DEFAULT_PRIORITY
    if isinstance(priority, bool) or not isinstance(priority, int) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidPriority(
            f"queue {queue.name!r}: priority must be an integer {MIN_PRIORITY}..{MAX_PRIORITY} "
            f"(larger is more urgent), got {priority!r}"
        )
    return priority
