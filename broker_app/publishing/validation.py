"""Message validation: the form of a task message, checked in the caller and again in the worker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celery.exceptions import InvalidTaskError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXTS = ("root_id", "parent_id", "group", "shadow")
_LISTS_OF_TASKS = ("callbacks", "errbacks", "chain")

MAX_RETRIES = 10_000_000
"""Upper limit, because Celery's exponential back-off computes two to the power of a message's retries."""


def check_form(headers: Mapping[str, Any], payload: object) -> None:
    """Validate a task message.

    Args:
        headers: The message's headers.
        payload: The decoded body.

    Raises:
        InvalidTaskError: The message is malformed; the text names the field, the expected type and the actual one.
    """
    if not isinstance(payload, (list, tuple)) or len(payload) != 3:  # noqa: PLR2004 - as protocol 2 has it
        raise _wrong("body", "[args, kwargs, embed]", payload)
    args, kwargs, embed = payload
    if not isinstance(args, (list, tuple)):
        raise _wrong("args", "a list", args)
    if not isinstance(kwargs, dict):
        raise _wrong("kwargs", "an object", kwargs)
    if not isinstance(embed, (dict, type(None))):
        raise _wrong("embed", "an object", embed)
    _check_facts(headers)
    _check_tasks(headers)
    _check_tasks(embed or {})


def are_limits(limits: object) -> bool:
    """Return whether a value is a pair of time limits, hard and soft, each in seconds or None."""
    return isinstance(limits, (list, tuple)) and len(limits) == 2 and all(map(is_limit, limits))  # noqa: PLR2004


def check_limits(limits: object) -> None:
    """Validate a message's time limits, hard and soft.

    Raises:
        InvalidTaskError: They are not a pair of seconds or None.
    """
    if not are_limits(limits):
        raise InvalidTaskError(f"timelimit: expected two numbers of seconds, got {limits!r}")


def is_limit(limit: object) -> bool:
    """Return whether a limit is usable as a time-out: neither NaN nor longer than a lock can wait."""
    return limit is None or (
        isinstance(limit, (int, float)) and type(limit) is not bool and 0 <= limit <= threading.TIMEOUT_MAX
    )


def _check_facts(headers: Mapping[str, Any]) -> None:
    if not headers["id"] or not isinstance(headers["id"], str):
        raise _wrong("id", "a text", headers["id"])
    if headers.get("retries") is not None and not is_count(headers["retries"]):
        raise _wrong("retries", f"a number from 0 to {MAX_RETRIES:,}", headers["retries"])
    for name in _TEXTS:
        value = headers.get(name)
        if value is not None and not isinstance(value, str):
            raise _wrong(name, "a text", value)


def is_count(value: object) -> bool:
    """Return whether a value is a number of retries that Celery can handle."""
    return isinstance(value, int) and 0 <= value <= MAX_RETRIES


def following(embed: object) -> dict[str, Any]:
    """Return the callbacks, errbacks, chain and chord that a message's body embeds, without malformed ones."""
    if not isinstance(embed, dict):
        return {}
    tasks = {name: embed[name] for name in _LISTS_OF_TASKS if are_tasks(embed.get(name))}
    return tasks | ({"chord": embed["chord"]} if is_task(embed.get("chord")) else {})


def _check_tasks(embed: Mapping[str, Any]) -> None:
    """Check callbacks, errbacks, chain and chord; Celery reads them from the headers if the body has none."""
    for name in _LISTS_OF_TASKS:
        tasks = embed.get(name)
        if tasks is not None and not are_tasks(tasks):
            raise _wrong(name, "a list of signatures", _not_a_task(tasks))
    chord = embed.get("chord")
    if chord is not None and not is_task(chord):
        raise _wrong("chord", "a signature", chord)


def are_tasks(value: object) -> bool:
    """Return whether a value is a list of signatures."""
    return isinstance(value, (list, tuple)) and all(map(is_task, value))


def _not_a_task(tasks: Any) -> Any:
    """Return the first item that is no signature, or the value itself if it is not a list."""
    return next((one for one in tasks if not is_task(one)), None) if isinstance(tasks, (list, tuple)) else tasks


def is_task(value: object) -> bool:
    """Return whether a value is a signature as Celery serializes it."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("task"), str)
        and isinstance(value.get("args") or (), (list, tuple))
        and isinstance(value.get("kwargs") or {}, dict)
        and isinstance(value.get("options") or {}, dict)
    )


def _wrong(name: str, expected: str, value: object) -> InvalidTaskError:
    return InvalidTaskError(f"{name}: expected {expected}, got {type(value).__name__}")
