"""Body decoder: decodes plain JSON bodies once and fast; Celery decodes each body twice, with object hooks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kombu.serialization import registry
from kombu.utils import json as kombu_json

if TYPE_CHECKING:
    from kombu.message import Message

CONTENT_TYPE, ENCODING = "application/json", "utf-8"

_decode = json.JSONDecoder().decode  # as `json.loads`, which first looks for an encoding

_SPECIAL = '"__type__"'
"""Marks a value that only kombu's decoder understands: a date, a UUID, a decimal."""

SMALL_CHARACTERS = 4096
"""Up to this length, sending a decoded body to a pool process costs no more than sending its text."""


def decode_early(message: Message) -> None:
    """Decode a plain JSON body and cache it in the message; other and damaged bodies are left to kombu."""
    if _is_plain(message):
        try:  # noqa: SIM105 - `suppress` takes longer than the rest
            message._decoded_cache = _decode(message.body)  # noqa: SLF001 - the cache of `decode`
        except (ValueError, RecursionError):
            pass


def is_small(message: Message) -> bool:
    """Return whether a message should be sent to a pool process in decoded form: it is short and plain JSON."""
    return len(message.body or "") <= SMALL_CHARACTERS and _is_plain(message)  # length first: less to search


def _is_plain(message: Message) -> bool:
    return (
        message.content_type == CONTENT_TYPE
        and message.content_encoding == ENCODING
        and isinstance(message.body, str)
        and _SPECIAL not in message.body
        and CONTENT_TYPE in (message.accept or ())
        and registry._decoders.get(CONTENT_TYPE) is kombu_json.loads  # noqa: SLF001 - no custom decoder is registered
    )
