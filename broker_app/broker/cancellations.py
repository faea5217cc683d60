"""Cancelled tasks: a stream of task ids on the broker that every worker reads when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_app.broker.control_streams import Stream, append
from broker_app.queues import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker_app.broker.access import Broker

IDS_PER_ENTRY = 500
"""Ids per stream message: a long list is split into messages of this size."""


def cancellation_stream(app: Broker, learn: Callable[[str], object]) -> Stream:
    """Return the stream of cancelled ids, for a worker to follow.

    Args:
        app: The app, for its prefix.
        learn: Called with each id, the oldest first.
    """

    def learn_all(entry: dict[str, Any]) -> None:
        for identity in entry["ids"]:
            if isinstance(identity, str):
                learn(identity)

    return Stream(
        Names(app.settings.prefix).cancelled,
        learn_all,
        begin=lambda: write_cancellations(app, []),
        unread="cancelled tasks will run",
    )


def write_cancellations(app: Broker, ids: Sequence[str]) -> None:
    """Append ids to the stream; an empty list is written as an empty entry."""
    parts = [ids[start : start + IDS_PER_ENTRY] for start in range(0, max(1, len(ids)), IDS_PER_ENTRY)]
    append(app, Names(app.settings.prefix).cancelled, [{"ids": list(part)} for part in parts], verb="cancel")
