"""The body of a task's message, decoded once in a worker; Celery decodes it twice, and each time with care."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kombu.serialization import registry
from kombu.utils import json as kombu_json

if TYPE_CHECKING:
    from kombu.message import Message

CONTENT_TYPE, ENCODING = "application/json", "utf-8"

_SPECIAL = '"__type__"'
"""What stands in a text where kombu has written down a date, a UUID, a decimal."""


def decode_early(message: Message) -> None:
    """Let a message know what is in it, if that is plain JSON; else, and if it is damaged, kombu decodes it."""
    text = message.body
    if (
        message.content_type != CONTENT_TYPE
        or message.content_encoding != ENCODING
        or not isinstance(text, str)
        or _SPECIAL in text
        or CONTENT_TYPE not in (message.accept or ())
        or registry._decoders.get(CONTENT_TYPE) is not kombu_json.loads  # noqa: SLF001 - somebody has another
    ):
        return
    try:
        message._decoded_cache = json.loads(text)  # noqa: SLF001 - what its `decode` sets
    except (ValueError, RecursionError):
        return
