"""Messages of Celery's first protocol, whose bodies say what those of the second say in their headers.

Clients in other languages publish them, Celery before 4.0, and ``task_protocol = 1``. A worker goes by the headers
to know what came again, what may have killed its process, and whose result is to fail. So before anybody looks at
such a message it is put into the form of the second (docs.celeryq.dev/en/stable/internals/protocol.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.saferepr import saferepr
from kombu.serialization import dumps, registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu.message import Message

_TASK, _ID = "task", "id"
_SAID = (_TASK, _ID, "root_id", "parent_id", "group", "group_index", "eta", "expires", "retries", "timelimit")
_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")


def translate(message: Message) -> None:
    """Put a message of the first protocol into the form of the second; any other stays as it is."""
    if message.headers is None or _TASK in message.headers:
        return
    try:
        body = message.decode()
        if not isinstance(body, dict) or not body.get(_TASK) or not body.get(_ID):
            return
        args, kwargs = body.get("args") or (), body.get("kwargs") or {}
        embedded = {name: body.get(name) for name in _EMBEDDED}
        _, encoding, text = dumps((args, kwargs, embedded), registry.type_to_name[message.content_type])
    except Exception:  # noqa: BLE001 - whatever an odd message may cause; it is given up where it is taken
        return
    message.headers = _headers(body, args, kwargs) | message.headers
    message.properties = (message.properties or {}) | {"content_encoding": encoding}
    message.body, message.content_encoding = text, encoding
    message._decoded_cache = None  # noqa: SLF001 - of the old body; it has no other way


def _headers(body: Mapping[str, Any], args: Any, kwargs: Any) -> dict[str, Any]:
    said = {name: body[name] for name in _SAID if body.get(name) is not None}
    group = body.get("group") or body.get("taskset")  # its older name
    defaults = {"retries": 0, "timelimit": [None, None], "root_id": body[_ID], "group": group}
    return defaults | said | {"argsrepr": saferepr(args), "kwargsrepr": saferepr(kwargs)}
