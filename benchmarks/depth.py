"""The number of messages in a queue, and emptying it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kombu.connection import Connection

from benchmarks.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import amqp


def wait_for_depth(url: str, queue: str, count: int, deadline_seconds: float = 60.0) -> None:
    """Wait until a queue holds exactly ``count`` messages: neither one lost nor one doubled.

    Raises:
        TimeoutError: It does not at the deadline.
    """
    wait_for(
        lambda: depth(url, queue) == count,
        deadline_seconds,
        lambda: f"{count} messages in {queue}, {depth(url, queue)} are there",
    )


def depth(url: str, queue: str) -> int:
    """Return how many messages of a queue wait for a consumer."""
    with _channel(url) as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


def purge(url: str, queue: str) -> None:
    """Empty a queue."""
    with _channel(url) as channel:
        channel.queue_purge(queue)


@contextmanager
def _channel(url: str) -> Iterator[amqp.Channel]:
    with Connection(url) as connection:
        yield connection.default_channel
