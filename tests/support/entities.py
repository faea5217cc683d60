"""Attributes of kombu's queues that its type information lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu.entity import Queue


def arguments_of(queue: Queue) -> dict[str, Any]:
    """Return the arguments with which a queue is declared."""
    arguments: dict[str, Any] = vars(queue)["queue_arguments"]
    return arguments
