"""Task protocol 1: converts messages of Celery's first protocol to the second.

Protocol 1 keeps in the body what protocol 2 keeps in the headers. Such messages come from clients in other
languages, Celery before 4.0, and ``task_protocol = 1``. A worker relies on the headers to detect redeliveries and
poison tasks, and to fail results, so it converts each message on arrival
(docs.celeryq.dev/en/stable/internals/protocol.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.saferepr import saferepr
from kombu.serialization import dumps, registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu.message import Message

_TASK, _ID = "task", "id"
_FIELDS = (_TASK, _ID, "root_id", "parent_id", "group", "group_index", "eta", "expires", "retries", "timelimit")
_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")


def translate(message: Message) -> None:
    """Convert a message of protocol 1 to protocol 2 in place; leave any other message unchanged."""
    if message.headers is None or _TASK in message.headers:
        return
    try:
        body = message.decode()
        if not isinstance(body, dict) or not body.get(_TASK) or not body.get(_ID):
            return
        args, kwargs = body.get("args") or (), body.get("kwargs") or {}
        embedded = {name: body.get(name) for name in _EMBEDDED}
        _, encoding, text = dumps((args, kwargs, embedded), registry.type_to_name[message.content_type])
    except Exception:  # noqa: BLE001 - an odd message may raise anything; it is dead-lettered later
        return
    message.headers = _headers(body, args, kwargs) | message.headers
    message.properties = (message.properties or {}) | {"content_encoding": encoding}
    message.body, message.content_encoding = text, encoding
    message._decoded_cache = None  # noqa: SLF001 - it holds the old body; kombu has no public way to drop it


def _headers(body: Mapping[str, Any], args: Any, kwargs: Any) -> dict[str, Any]:
    fields = {name: body[name] for name in _FIELDS if body.get(name) is not None}
    group = body.get("group") or body.get("taskset")  # its older name
    defaults = {"retries": 0, "timelimit": [None, None], "root_id": body[_ID], "group": group}
    return defaults | fields | {"argsrepr": saferepr(args), "kwargsrepr": saferepr(kwargs)}
