"""Message summaries: the facts about a message that are shown to operators and used by filters."""

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
"""Prefix of the reason of a message that the broker dead-lettered itself: ``broker:delivery_limit``."""

MAX_SHOWN_CHARACTERS = 1_000
"""The maximum length of the arguments shown."""


@dataclass(frozen=True, slots=True)
class MessageSummary:
    """The facts about a message.

    Attributes:
        id: The task's id, empty if the message has none.
        task: The task's name, empty if the message has none.
        args: The ``repr`` of the positional arguments from the producer's header, at most `MAX_SHOWN_CHARACTERS`;
            without that header they are taken from the body, or the start of an undecodable body is shown.
        kwargs: The keyword arguments, in the same form.
        retries: The number of retries so far.
        age_seconds: Time since it was dead-lettered, or else since it was published; None if unknown.
        reason: Why it was dead-lettered: one of `DeadReason`, or the broker's reason after `BY_BROKER`; empty if
            it was not.
        exception: The last error in one line, or empty; without a reason header, the headers that are undecodable.
        traceback: The traceback of that error, or empty.
        node: The worker that dead-lettered it, or empty.
        is_redelivered: Whether it was delivered before; a peek counts too.
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


def summarize(delivery: ScannedMessage, now: float, lane_prefix: str) -> MessageSummary:
    """Return the summary of a message.

    Args:
        delivery: The message.
        now: Seconds since the epoch.
        lane_prefix: The prefix of the delay lanes' names; leaving a lane does not count as dead-lettering.
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
    """Return the latest ``x-death`` entry that is not from a lane, or an empty one (rabbitmq.com/docs/dlx)."""
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
