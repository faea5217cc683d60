"""Look into queues and move what stands in them, with pika: confirmed in the new place before acked in the old."""

from __future__ import annotations

from broker_app.messages.commands import Order, Peeked, discard, move, peek, purge, replay
from broker_app.messages.filter import Selection, parse_duration
from broker_app.messages.overview import Overview, Row, read_overview
from broker_app.messages.source import Place, known_places
from broker_app.messages.summary import Letter
from broker_app.messages.transfer import Outcome
from broker_app.messages.unrouted import Parked, Replayed, peek_unrouted, replay_unrouted

__all__ = [
    "Letter",
    "Order",
    "Outcome",
    "Overview",
    "Parked",
    "Peeked",
    "Place",
    "Replayed",
    "Row",
    "Selection",
    "discard",
    "known_places",
    "move",
    "parse_duration",
    "peek",
    "peek_unrouted",
    "purge",
    "read_overview",
    "replay",
    "replay_unrouted",
]
