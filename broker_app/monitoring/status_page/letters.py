"""Dead letters on the status page: the first few of a queue, truncated for display and left in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_app.messages import MessageSummary, known_places, peek
from broker_app.monitoring.status_page.shown import LINE_CHARACTERS, TRACEBACK_CHARACTERS, shown, shown_end
from broker_app.queues.spec import MAX_ID_BYTES

if TYPE_CHECKING:
    from broker_app.app import BrokerApp

FIRST_LETTERS = 10
"""Default number of messages to read: each may have 16 MiB, and all are in memory at once."""

MAX_LETTERS = 50

ARGUMENT_CHARACTERS = 1_000


def dead_queues(app: BrokerApp) -> dict[str, str]:
    """Return the names of the dead-letter queues that are kept, by work queue."""
    sources = known_places(app).values()
    return {source.home.name: source.name for source in sources if source.home is not None and source.is_kept}


def first_letters(app: BrokerApp, queue: str, place: str, limit: int) -> dict[str, Any]:
    """Return the first dead letters of a queue; they are back in their queue on return.

    Args:
        app: The app.
        queue: The work queue.
        place: Name of its dead-letter queue.
        limit: Maximum number of messages.

    Raises:
        BrokerError: The broker is unreachable or refused.
    """
    messages = peek(app, place, limit).letters
    return {"queue": queue, "limit": limit, "letters": [told(message) for message in messages]}


def told(message: MessageSummary) -> dict[str, Any]:
    """Return the displayed fields of a message; ``key`` is its raw id, None if that cannot select the message."""
    is_id = 0 < len(message.id.encode("utf-8", "backslashreplace")) <= MAX_ID_BYTES
    return {
        "key": message.id if is_id else None,
        "id": shown(message.id),
        "task": shown(message.task),
        "args": shown(message.args, ARGUMENT_CHARACTERS),
        "kwargs": shown(message.kwargs, ARGUMENT_CHARACTERS),
        "retries": message.retries,
        "age_seconds": message.age_seconds,
        "reason": shown(message.reason),
        "exception": shown(message.exception, LINE_CHARACTERS),
        "traceback": shown_end(message.traceback, TRACEBACK_CHARACTERS),
        "node": shown(message.node),
        "is_redelivered": message.is_redelivered,
    }
