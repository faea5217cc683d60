"""Look into queues and move what stands in them, with pika: confirmed in the new place before acked in the old."""

from __future__ import annotations

from broker_app.inspection.letter import Letter
from broker_app.inspection.overview import Overview, Row, read_overview
from broker_app.inspection.parking import Parked, Replayed, peek_unrouted, replay_unrouted
from broker_app.inspection.place import Place, known_places
from broker_app.inspection.selection import Selection, parse_duration
from broker_app.inspection.transfer import Outcome
from broker_app.inspection.verbs import Order, Peeked, discard, move, peek, purge, replay

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
