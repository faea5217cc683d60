"""Dead letters: the reason a message was dead-lettered, and the headers that record it."""

from __future__ import annotations

import traceback as traceback_module
from dataclasses import dataclass
from enum import StrEnum

DEAD_PREFIX = "broker_app_dead_"
"""Prefix of every header below. Replaying a message strips these headers."""

REASON_HEADER = f"{DEAD_PREFIX}reason"
"""One of `DeadReason`."""

AT_HEADER = f"{DEAD_PREFIX}at"
"""Seconds since the epoch (float), by the worker's clock."""

QUEUE_HEADER = f"{DEAD_PREFIX}queue"
"""The queue the message came from, by its name on the broker."""

NODE_HEADER = f"{DEAD_PREFIX}node"
"""The node that dead-lettered the message: ``lopri@host``."""

EXCEPTION_HEADER = f"{DEAD_PREFIX}exception"
"""The last error on one line, e.g. ``ValueError: no such order``; at most `MAX_EXCEPTION_CHARACTERS`."""

TRACEBACK_HEADER = f"{DEAD_PREFIX}traceback"
"""The end of the traceback, at most `MAX_TRACEBACK_CHARACTERS`; absent if the error has no traceback."""

STARTS_HEADER = f"{DEAD_PREFIX}starts"
"""Number of times a poisoned task was started (int); absent for the other reasons."""


class DeadReason(StrEnum):
    """Why a message was dead-lettered."""

    FAILED = "failed"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"
    POISONED = "poisoned"
    UNDECODABLE = "undecodable"
    UNKNOWN_TASK = "unknown_task"


@dataclass(frozen=True, slots=True)
class DeadLetterCause:
    """The cause of a dead letter.

    Attributes:
        reason: Why the message was dead-lettered.
        error: The last error.
        traceback: The traceback as text; empty without one.
        starts: Number of times the task was started; None unless it is poisoned.
    """

    reason: DeadReason
    error: BaseException
    traceback: str = ""
    starts: int | None = None

    @property
    def exception(self) -> str:
        """The error on one line."""
        return " ".join("".join(traceback_module.format_exception_only(self.error)).split())
