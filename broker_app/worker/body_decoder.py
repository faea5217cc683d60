"""The body of a task's message, decoded once in a worker; Celery decodes it twice, and each time with care."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from kombu.serialization import registry
from kombu.utils import json as kombu_json

if TYPE_CHECKING:
    from kombu.message import Message

CONTENT_TYPE, ENCODING = "application/json", "utf-8"

_SPECIAL = '"__type__"'
"""What stands in a text where kombu has written down a date, a UUID, a decimal."""

SMALL_CHARACTERS = 4096
"""Up to here the pipe to a pool's process costs no more for what was decoded than for the text of it."""


def decode_early(message: Message) -> None:
    """Let a message know what is in it, if that is plain JSON; else, and if it is damaged, kombu decodes it."""
    if _is_plain(message):
        with suppress(ValueError, RecursionError):
            message._decoded_cache = json.loads(message.body)  # noqa: SLF001 - what its `decode` sets


def is_small(message: Message) -> bool:
    """Return whether a message that was decoded may go to another process so: short, and of JSON's own types."""
    return len(message.body or "") <= SMALL_CHARACTERS and _is_plain(message)  # a long one is not searched again


def _is_plain(message: Message) -> bool:
    return (
        message.content_type == CONTENT_TYPE
        and message.content_encoding == ENCODING
        and isinstance(message.body, str)
        and _SPECIAL not in message.body
        and CONTENT_TYPE in (message.accept or ())
        and registry._decoders.get(CONTENT_TYPE) is kombu_json.loads  # noqa: SLF001 - else somebody has another
    )
