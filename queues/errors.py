"""Routing errors: a refused queue name, priority or delay.

BrokerAppError             the root of every error of this project
└── RoutingError           nothing was published, nothing was created
    ├── InvalidQueueName   a name the broker would refuse, or a reserved one
    ├── UnknownQueue       no such queue in the settings
    ├── InvalidPriority    not 0..9, or the queue has no priorities
    └── InvalidDelay       not a number, negative, or too long
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class BrokerAppError(Exception):
    """Base class of all errors of this project.

    The text is one line that says where the error is, what was expected, what came instead, and what to do.
    A subclass with attributes passes them to ``super().__init__`` in the order of its parameters and builds its
    text from them, because pickle and Celery's JSON results recreate an error from its ``args``.
    """

    def __str__(self) -> str:
        """Return the text on one line, so that a log or a terminal shows all of it."""
        return " ".join(self.sentence().split())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def sentence(self) -> str:
        """Return the human-readable text."""
        return super().__str__()


class RoutingError(BrokerAppError, ValueError):
    """Raised in the caller when a task cannot be routed as requested. Nothing was published."""


class InvalidQueueName(RoutingError):
    """Raised for a queue name that the broker or the delay lanes cannot use. Rename the queue."""


class UnknownQueue(RoutingError):
    """Raised for a queue that the settings do not declare. Declare it, or correct the name.

    Attributes:
        queue: The requested name.
        known: The declared names, in the order of the settings.
    """

    def __init__(self, queue: str, known: Iterable[str]) -> None:
        self.queue = queue
        self.known = tuple(known)
        super().__init__(queue, self.known)

    def sentence(self) -> str:
        """Return the human-readable text."""
        return (
            f"queue {self.queue!r}: expected one of {', '.join(self.known)}{nearest(self.queue, self.known)}; "
            f"declare it as [queues.{self.queue}] in the settings file or correct the name"
        )


class InvalidPriority(RoutingError):
    """Raised for a priority outside 0..9, or for any priority on a queue without priorities.

    Correct or omit it, or set ``priorities = true`` for the queue.
    """


class InvalidDelay(RoutingError):
    """Raised for a delay that is not a number or too long, or a negative countdown. Correct the call."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known name; an empty string if none is close."""
    matches = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
