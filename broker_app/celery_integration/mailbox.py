"""A worker's mailbox for remote control: a queue of its own, under another name where the broker locks the first.

It is exclusive to its connection and named after the worker. When a node of a cluster dies, RabbitMQ can keep the
name of a queue that was on it and refuse it (405) until the node is back, and the worker would not work.
Who writes to a mailbox goes by its exchange, so the queue's name does not matter to anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu import pidbox

if TYPE_CHECKING:
    from kombu.entity import Queue


class Mailbox(pidbox.Mailbox):
    """Celery's mailbox, which can move."""

    _moves = 0

    def move(self) -> None:
        """Use another queue from now on."""
        self._moves += 1

    def get_queue(self, hostname: str) -> Queue:
        """Return a worker's queue: ``lopri@host.celery.pidbox``; after a move ``lopri+1@host.celery.pidbox``."""
        stem, at, host = hostname.partition("@")
        name = f"{stem}+{self._moves}{at}{host}" if self._moves else hostname
        return super().get_queue(name)  # type: ignore[no-any-return,no-untyped-call] # kombu has no types
