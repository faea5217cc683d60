"""Why a name, a priority or a delay was refused.

BrokerAppError             the root of every error of this project
└── RoutingError           nothing was published, nothing was created
    ├── InvalidQueueName   the broker would refuse the name, or it is ours
    ├── UnknownQueue       no such queue in the settings
    ├── InvalidPriority    not 0..9, or a queue that has no priorities
    └── InvalidDelay       not a number, negative, or beyond the bound
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class BrokerAppError(Exception):
    """Root of the project's errors; its text is one line: where, expected, came, what to do.

    A class that carries facts hands them to ``super().__init__`` in the order of its arguments and builds its
    sentence from them: pickle and Celery's JSON results make an error anew from its ``args``.
    """

    def __str__(self) -> str:
        """Join the sentence to one line, so that a log or a terminal shows it whole."""
        return " ".join(self.sentence().split())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def sentence(self) -> str:
        """Return the text that people read."""
        return super().__str__()


class RoutingError(BrokerAppError, ValueError):
    """A call that names a place where nothing can go; refused in the caller."""


class InvalidQueueName(RoutingError):
    """A queue name that the broker or the delay lanes cannot carry."""


class UnknownQueue(RoutingError):
    """A queue that the settings do not declare.

    Attributes:
        queue: The name that was asked for.
        known: The declared names, in their order.
    """

    def __init__(self, queue: str, known: Iterable[str]) -> None:
        self.queue = queue
        self.known = tuple(known)
        super().__init__(queue, self.known)

    def sentence(self) -> str:
        """Return the text that people read."""
        return (
            f"queue {self.queue!r}: expected one of {', '.join(self.known)}{nearest(self.queue, self.known)}; "
            f"declare it as [queues.{self.queue}] in the settings file or correct the name"
        )


class InvalidPriority(RoutingError):
    """A priority outside 0..9, or one for a queue that has none."""


class InvalidDelay(RoutingError):
    """A delay that cannot be waited for."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known name, or an empty text."""
    matches = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
