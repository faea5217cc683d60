"""Dead letters as values: why a message was given up, and the headers that say so."""

from __future__ import annotations

import traceback as traceback_module
from dataclasses import dataclass
from enum import StrEnum

DEAD_PREFIX = "broker_app_dead_"
"""What every header below begins with. A message that is replayed must not carry them along."""

REASON_HEADER = f"{DEAD_PREFIX}reason"
"""One of `DeadReason`."""

AT_HEADER = f"{DEAD_PREFIX}at"
"""Seconds since the epoch (float), by the worker's clock."""

QUEUE_HEADER = f"{DEAD_PREFIX}queue"
"""The queue that it came from, by its name on the broker."""

NODE_HEADER = f"{DEAD_PREFIX}node"
"""The worker that gave it up: ``lopri@host``."""

EXCEPTION_HEADER = f"{DEAD_PREFIX}exception"
"""The last error in one line, ``ValueError: no such order``; at most `MAX_EXCEPTION_CHARACTERS`."""

TRACEBACK_HEADER = f"{DEAD_PREFIX}traceback"
"""The end of its traceback, at most `MAX_TRACEBACK_CHARACTERS`; missing where there is none."""

STARTS_HEADER = f"{DEAD_PREFIX}starts"
"""How often a poisoned task was started (int); missing for the other reasons."""


class DeadReason(StrEnum):
    """Why a message was given up."""

    FAILED = "failed"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"
    POISONED = "poisoned"
    UNDECODABLE = "undecodable"
    UNKNOWN_TASK = "unknown_task"


@dataclass(frozen=True, slots=True)
class DeadLetterCause:
    """What is known of the end of a message.

    Attributes:
        reason: Why it was given up.
        error: The last error.
        traceback: Its traceback as text, or empty.
        starts: How often it was started, for what is poisoned.
    """

    reason: DeadReason
    error: BaseException
    traceback: str = ""
    starts: int | None = None

    @property
    def exception(self) -> str:
        """The error in one line."""
        return " ".join("".join(traceback_module.format_exception_only(self.error)).split())
