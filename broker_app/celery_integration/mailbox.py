"""Mailbox: a worker's queue for remote control, which is renamed if the broker keeps the old name locked.

The queue is exclusive to its connection and named after the worker. When a cluster node dies, RabbitMQ can keep
the name of a queue on that node locked and refuse it (405) until the node is back, which would block the worker.
Senders publish to the mailbox's exchange, so the queue may have any name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu import pidbox

if TYPE_CHECKING:
    from kombu.entity import Queue


class Mailbox(pidbox.Mailbox):
    """Celery's mailbox, with a queue that can be renamed."""

    _moves = 0

    def move(self) -> None:
        """Use a queue with another name from now on."""
        self._moves += 1

    def get_queue(self, hostname: str) -> Queue:
        """Return a worker's queue: ``lopri@host.celery.pidbox``; after a move ``lopri+1@host.celery.pidbox``."""
        stem, at, host = hostname.partition("@")
        name = f"{stem}+{self._moves}{at}{host}" if self._moves else hostname
        return super().get_queue(name)  # type: ignore[no-any-return,no-untyped-call] # kombu has no types
