"""The dead letters of a queue as the page shows them: the first few, each bounded, none taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_app.messages import MessageSummary, known_places, peek
from broker_app.monitoring.status_page.shown import LINE_CHARACTERS, TRACEBACK_CHARACTERS, shown, shown_end
from broker_app.queues.spec import MAX_ID_BYTES

if TYPE_CHECKING:
    from broker_app.app import BrokerApp

FIRST_LETTERS = 10
"""Looked at unless more are asked for: a message has up to 16 MiB, and all are in memory for a moment."""

MAX_LETTERS = 50

ARGUMENT_CHARACTERS = 1_000


def dead_queues(app: BrokerApp) -> dict[str, str]:
    """Return the dead letters that the settings keep: the name of their place, by the work queue's."""
    places = known_places(app).values()
    return {place.home.name: place.name for place in places if place.home is not None and place.is_kept}


def first_letters(app: BrokerApp, queue: str, place: str, limit: int) -> dict[str, Any]:
    """Return the first dead letters of a queue; they are back in their place when this returns.

    Args:
        app: The app.
        queue: The work queue.
        place: Where its dead letters are.
        limit: At most so many.

    Raises:
        BrokerError: The broker cannot be reached, or refuses.
    """
    letters = peek(app, place, limit).letters
    return {"queue": queue, "limit": limit, "letters": [told(letter) for letter in letters]}


def told(letter: MessageSummary) -> dict[str, Any]:
    """Return what is shown of a letter; ``key`` is its id as it is, None if it cannot be asked for by it."""
    is_id = 0 < len(letter.id.encode("utf-8", "backslashreplace")) <= MAX_ID_BYTES
    return {
        "key": letter.id if is_id else None,
        "id": shown(letter.id),
        "task": shown(letter.task),
        "args": shown(letter.args, ARGUMENT_CHARACTERS),
        "kwargs": shown(letter.kwargs, ARGUMENT_CHARACTERS),
        "retries": letter.retries,
        "age_seconds": letter.age_seconds,
        "reason": shown(letter.reason),
        "exception": shown(letter.exception, LINE_CHARACTERS),
        "traceback": shown_end(letter.traceback, TRACEBACK_CHARACTERS),
        "node": shown(letter.node),
        "is_redelivered": letter.is_redelivered,
    }
