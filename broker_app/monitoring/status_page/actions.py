"""Actions of the status page: replay or discard dead letters, pause or resume queues. They require the token."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from broker_app.broker.pauses import pause_queue, resume_queue
from broker_app.errors import SelectionError
from broker_app.messages import CommandOptions, MessageFilter, discard, replay
from broker_app.monitoring.status_page.letters import MAX_LETTERS, dead_queues
from broker_app.queues.errors import nearest

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.messages import TransferOutcome

AT_ONCE = 1_000
"""Maximum number of dead letters that one request for all of them handles."""

LIMIT_SECONDS = 30.0
"""Time after which an action stops taking further messages."""


class DeadLetterAction(StrEnum):
    """Actions on dead letters."""

    REPLAY = "replay"
    DISCARD = "discard"


class QueueAction(StrEnum):
    """Actions on a queue."""

    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """Body of a request for an action on dead letters.

    Attributes:
        queue: The work queue.
        ids: Message ids; None for all messages, at most `AT_ONCE`.
    """

    queue: str
    ids: frozenset[str] | None

    @property
    def selection(self) -> MessageFilter:
        """Filter for the requested messages; of two with the same id, the first."""
        if self.ids is None:
            return MessageFilter(limit=AT_ONCE)
        return MessageFilter(ids=self.ids, limit=len(self.ids))


def parse_wish(body: bytes) -> ActionRequest:
    """Parse a body: ``{"queue": "default", "ids": ["…"]}``, or ``"all": true`` instead of ids.

    Raises:
        SelectionError: The body has another form.
    """
    expected = (
        f'expected {{"queue": "…", "ids": ["…"]}} with 1 to {MAX_LETTERS} ids, or "all": true instead of ids'
    )
    content = _object(body)
    if content is None or not isinstance(queue := content.get("queue"), str):
        raise SelectionError(expected)
    if content.get("all") is True and "ids" not in content:
        return ActionRequest(queue, None)
    ids = content.get("ids")
    if "all" in content or not isinstance(ids, list) or not 1 <= len(ids) <= MAX_LETTERS:
        raise SelectionError(expected)
    if not all(isinstance(one, str) and one for one in ids):
        raise SelectionError(expected)
    return ActionRequest(queue, frozenset(ids))


def parse_queue(body: bytes) -> str:
    """Return the queue named in a body: ``{"queue": "default"}``.

    Raises:
        SelectionError: The body has another form.
    """
    content = _object(body)
    if content is None or list(content) != ["queue"] or not isinstance(content["queue"], str):
        raise SelectionError('expected {"queue": "…"}')
    return content["queue"]


def _object(body: bytes) -> dict[str, Any] | None:
    """Parse a body as a JSON object; None if it is not one."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def switch(app: BrokerApp, verb: QueueAction, queue: str) -> None:
    """Pause or resume a queue on all hosts.

    Raises:
        UnknownQueue: The settings do not declare the queue.
        BrokerError: The broker is unreachable or refused.
    """
    (pause_queue if verb is QueueAction.PAUSE else resume_queue)(app, queue)


def act(app: BrokerApp, verb: DeadLetterAction, request: ActionRequest) -> dict[str, Any]:
    """Replay or discard dead letters, and return how many were handled and why any were not.

    Raises:
        SelectionError: The queue does not exist, or does not keep its dead letters.
        BrokerError: The broker is unreachable or refused; no message is lost.
    """
    known = dead_queues(app)
    if request.queue not in known:
        names, hint = ", ".join(known), nearest(request.queue, known)
        raise SelectionError(f"queue {request.queue[:100]!r}: expected one with dead letters: {names}{hint}")
    give_up = time.monotonic() + LIMIT_SECONDS
    options = CommandOptions(request.selection, is_stopped=lambda: time.monotonic() > give_up)
    do = replay if verb is DeadLetterAction.REPLAY else discard
    return _result(request, do(app, known[request.queue], options))


def _result(request: ActionRequest, outcome: TransferOutcome) -> dict[str, Any]:
    problem = outcome.reason
    if request.ids is not None and outcome.selected < len(request.ids):
        problem = problem or "it is not there any more: it was replayed or discarded elsewhere"
    return {"done": outcome.done, "failed": outcome.failed, "problem": problem}
