"""Queue inspection and message transfer: peek, replay, move, discard and purge, implemented with pika."""

from __future__ import annotations

from broker_app.messages.commands import CommandOptions, PeekResult, discard, move, peek, purge, replay
from broker_app.messages.filter import MessageFilter
from broker_app.messages.overview import Overview, QueueRow, read_overview
from broker_app.messages.source import MessageSource, known_places
from broker_app.messages.summary import MessageSummary
from broker_app.messages.transfer import TransferOutcome
from broker_app.messages.unrouted import ReplayResult, UnroutedMessage, peek_unrouted, replay_unrouted

__all__ = [
    "CommandOptions",
    "MessageFilter",
    "MessageSource",
    "MessageSummary",
    "Overview",
    "PeekResult",
    "QueueRow",
    "ReplayResult",
    "TransferOutcome",
    "UnroutedMessage",
    "discard",
    "known_places",
    "move",
    "peek",
    "peek_unrouted",
    "purge",
    "read_overview",
    "replay",
    "replay_unrouted",
]
