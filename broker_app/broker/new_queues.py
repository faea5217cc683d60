"""New queues: the queues that this process has just declared. Without a leader, a queue refuses messages."""

from __future__ import annotations

import time
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NEW_SECONDS = 5.0
"""Time after its declaration in which a queue may have no leader (seen on RabbitMQ 3.10)."""


class NewQueues:
    """The queues that were declared within the last `NEW_SECONDS`, or are being declared in any thread."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # on the clock of time.monotonic

    @contextmanager
    def declaring(self, names: Iterable[str]) -> Iterator[None]:
        """Declare queues (names on the broker) in the block. Other threads may publish to them meanwhile."""
        new = tuple(names)
        self._until |= dict.fromkeys(new, inf)
        try:
            yield
        finally:
            self._until |= dict.fromkeys(new, time.monotonic() + NEW_SECONDS)

    def __contains__(self, name: str) -> bool:
        """Return whether a queue, by its name on the broker, is new."""
        return time.monotonic() < self._until.get(name, -inf)
