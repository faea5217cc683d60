"""What the token lets one change: dead letters are sent again or removed, queues paused or resumed."""

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
"""Letters of one request for all of them; the page asks again if a person does."""

LIMIT_SECONDS = 30.0
"""After which no more are sent."""


class DeadLetterAction(StrEnum):
    """What can be done with dead letters."""

    REPLAY = "replay"
    DISCARD = "discard"


class QueueAction(StrEnum):
    """What can be done with a queue."""

    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """What a request asks for.

    Attributes:
        queue: The work queue.
        ids: Of the letters; None is all of them, `AT_ONCE` at a time.
    """

    queue: str
    ids: frozenset[str] | None

    @property
    def selection(self) -> MessageFilter:
        """Which letters are meant; of two with the same id the first."""
        if self.ids is None:
            return MessageFilter(limit=AT_ONCE)
        return MessageFilter(ids=self.ids, limit=len(self.ids))


def parse_wish(body: bytes) -> ActionRequest:
    """Return what a body asks for: ``{"queue": "default", "ids": ["…"]}``, or ``"all": true`` instead of ids.

    Raises:
        SelectionError: It is something else.
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
    """Return the queue that a body names: ``{"queue": "default"}``.

    Raises:
        SelectionError: It is something else.
    """
    content = _object(body)
    if content is None or list(content) != ["queue"] or not isinstance(content["queue"], str):
        raise SelectionError('expected {"queue": "…"}')
    return content["queue"]


def _object(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a body; None if it is none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def switch(app: BrokerApp, verb: QueueAction, queue: str) -> None:
    """Pause or resume a queue, on all hosts.

    Raises:
        UnknownQueue: The settings do not declare it.
        BrokerError: The broker did not take it.
    """
    (pause_queue if verb is QueueAction.PAUSE else resume_queue)(app, queue)


def act(app: BrokerApp, verb: DeadLetterAction, wish: ActionRequest) -> dict[str, Any]:
    """Do it, and return what became of it.

    Raises:
        SelectionError: No such queue, or none whose dead letters are kept.
        BrokerError: The broker cannot be reached, or refuses; nothing is lost.
    """
    known = dead_queues(app)
    if wish.queue not in known:
        names, hint = ", ".join(known), nearest(wish.queue, known)
        raise SelectionError(f"queue {wish.queue[:100]!r}: expected one with dead letters: {names}{hint}")
    give_up = time.monotonic() + LIMIT_SECONDS
    order = CommandOptions(wish.selection, is_stopped=lambda: time.monotonic() > give_up)
    do = replay if verb is DeadLetterAction.REPLAY else discard
    return _told(wish, do(app, known[wish.queue], order))


def _told(wish: ActionRequest, outcome: TransferOutcome) -> dict[str, Any]:
    problem = outcome.reason
    if wish.ids is not None and outcome.selected < len(wish.ids):
        problem = problem or "it is not there any more: somebody else took it"
    return {"done": outcome.done, "failed": outcome.failed, "problem": problem}
