"""Arrived message: protects a message's headers from changes that tasks and signal handlers make to requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu.message import Message

_CHANGEABLE = (dict, list)


def keep_arrived(message: Message) -> None:
    """Give a message its own copy of its headers and properties; its request keeps the originals.

    Error trackers write into a request's headers. With threads and greenlets, the task and the worker share one
    request.
    """
    headers = message.headers.copy()
    for name, value in headers.items():
        if type(value) in _CHANGEABLE:
            headers[name] = _copied(value)
    message.headers = headers
    message.properties = {**message.properties, "application_headers": headers}


def _copied(value: Any) -> Any:
    """Return a copy of an array or table; `copy.deepcopy` takes ten times as long."""
    if type(value) is list:
        return [_copied(inner) if type(inner) in _CHANGEABLE else inner for inner in value]
    return {name: _copied(inner) if type(inner) in _CHANGEABLE else inner for name, inner in value.items()}
