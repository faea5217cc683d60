"""Pending confirms: which published messages each acknowledgement of the broker covers."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class PendingConfirms(Generic[T]):
    """The unconfirmed messages of one channel, by delivery tag.

    Publisher confirms, rabbitmq.com/docs/confirms: tags count from 1 in publishing order; an ack may cover
    all tags up to its own (``multiple``); an unroutable mandatory message is returned before it is acked.
    """

    def __init__(self) -> None:
        self._last_tag = 0
        self._pending: dict[int, T] = {}  # in the order of publishing

    def add(self, message: T) -> int:
        """Count a message that was just sent, and return its tag."""
        self._last_tag += 1
        self._pending[self._last_tag] = message
        return self._last_tag

    def take(self, tag: int, *, multiple: bool) -> list[tuple[int, T]]:
        """Remove the messages that an answer covers, and return them with their tags."""
        tags = list(takewhile(lambda pending: pending <= tag, self._pending)) if multiple else [tag]
        return [(answered, self._pending.pop(answered)) for answered in tags if answered in self._pending]

    def oldest_first(self) -> Iterator[tuple[int, T]]:
        """Return the messages with their tags, oldest first."""
        return iter(self._pending.items())

    def __len__(self) -> int:
        return len(self._pending)
