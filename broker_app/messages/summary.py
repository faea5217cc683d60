"""What a message says of itself, to a person or to a filter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from broker_app.errors import shortened
from broker_app.queues.dead_letters import (
    AT_HEADER,
    EXCEPTION_HEADER,
    NODE_HEADER,
    REASON_HEADER,
    TRACEBACK_HEADER,
    DeadReason,
)
from broker_app.queues.headers import PUBLISHED_AT_HEADER
from broker_app.wire.field_tables import Encoded, unreadable

if TYPE_CHECKING:
    from broker_app.messages.scan import ScannedMessage

BY_BROKER = "broker:"
"""Before the reason of a message that the broker gave up itself: ``broker:delivery_limit``."""

MAX_SHOWN_CHARACTERS = 1_000
"""Of the arguments."""


@dataclass(frozen=True, slots=True)
class MessageSummary:
    """A message as it is shown.

    Attributes:
        id: The task's id, empty if the message has none.
        task: The task's name, likewise.
        args: The arguments in Python's form as the producer noted them, at most `MAX_SHOWN_CHARACTERS`; else the
            beginning of the body.
        kwargs: Likewise.
        retries: Retries that it has behind it.
        age_seconds: Since it was given up, or since it was published if it was not; None if nobody noted it.
        reason: Why it was given up: one of `DeadReason`, or the broker's own word after `BY_BROKER`; empty for
            one that was not.
        exception: The last error in one line, or empty; for a message of which no header says why it was given up,
            and some cannot be decoded, which.
        traceback: Its traceback, or empty.
        node: The worker that gave it up, or empty.
        is_redelivered: Whether somebody had it in hand before; a look counts too.
    """

    id: str
    task: str
    args: str
    kwargs: str
    retries: int
    age_seconds: float | None
    reason: str
    exception: str
    traceback: str
    node: str
    is_redelivered: bool


def read_letter(delivery: ScannedMessage, now: float, lane_prefix: str) -> MessageSummary:
    """Return what a message says.

    Args:
        delivery: The message.
        now: Seconds since the epoch.
        lane_prefix: What the delay lanes' names begin with: that a message left a lane is no death.
    """
    headers = delivery.headers
    death = _death_by_broker(headers, lane_prefix)
    args, kwargs = _arguments(delivery)
    strange = "" if death or REASON_HEADER in headers else unreadable(headers)
    return MessageSummary(
        id=_text(headers.get("id") or delivery.properties.correlation_id),
        task=_text(headers.get("task")),
        args=args,
        kwargs=kwargs,
        retries=retries if isinstance(retries := headers.get("retries"), int) else 0,
        age_seconds=_age(headers, death, now),
        reason=_text(headers.get(REASON_HEADER))
        or (f"{BY_BROKER}{_text(death.get('reason'))}" if death else "")
        or (str(DeadReason.UNDECODABLE) if strange else ""),
        exception=_text(headers.get(EXCEPTION_HEADER)) or strange,
        traceback=_text(headers.get(TRACEBACK_HEADER)),
        node=_text(headers.get(NODE_HEADER)),
        is_redelivered=delivery.is_redelivered,
    )


def _death_by_broker(headers: dict[str, Any], lane_prefix: str) -> dict[str, Any]:
    """Return the latest entry of ``x-death`` that is no lane's, or an empty one (rabbitmq.com/docs/dlx)."""
    deaths = headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else []:
        if isinstance(death, dict) and not _text(death.get("queue")).startswith(lane_prefix):
            return death
    return {}


def _age(headers: dict[str, Any], death: dict[str, Any], now: float) -> float | None:
    moment = headers.get(AT_HEADER)
    if not isinstance(moment, int | float) and isinstance(death.get("time"), datetime):
        moment = death["time"].timestamp()
    if not isinstance(moment, int | float):
        moment = headers.get(PUBLISHED_AT_HEADER)
    return max(0.0, now - moment) if isinstance(moment, int | float) else None


def _arguments(delivery: ScannedMessage) -> tuple[str, str]:
    headers = delivery.headers
    if "argsrepr" in headers:
        return _short(_text(headers["argsrepr"])), _short(_text(headers.get("kwargsrepr")))
    try:
        args, kwargs, _ = json.loads(delivery.body)
    except (ValueError, TypeError, RecursionError):
        return _short(delivery.body[: MAX_SHOWN_CHARACTERS * 4].decode(errors="replace")), ""
    return _short(repr(args)), _short(repr(kwargs))


def _short(text: str) -> str:
    return shortened(text, MAX_SHOWN_CHARACTERS)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return "" if value is None or isinstance(value, Encoded) else str(value)
