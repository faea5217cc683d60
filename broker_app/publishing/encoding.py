"""Message encoding: serialises and compresses the body of a task message, and names an unsupported argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu import compression as kombu_compression
from kombu import serialization
from kombu.exceptions import EncodeError, SerializerNotInstalled

from broker_app.errors import CallError, NotEncodable, shortened
from broker_app.queues.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DEEPEST = 20
"""Levels of nested arguments that are searched for an unsupported value."""

_CURES = {
    "json": "pass text, numbers, booleans, None, dates, UUIDs, and lists and dictionaries of them",
}


def check_serializer(task: str, serializer: str, accept_content: Iterable[str] | None) -> None:
    """Refuse a serializer that the app's workers do not accept: each message would become a dead letter.

    Args:
        task: The task's name.
        serializer: The serializer's name.
        accept_content: The app's setting, names or content types; None accepts everything.

    Raises:
        CallError: It is unknown, or not accepted.
    """
    types = serialization.registry.name_to_type
    if serializer not in types:
        raise CallError(
            f"task {task}: serializer: expected one of {', '.join(sorted(types))}, "
            f"got {serializer!r}{nearest(serializer, types)}"
        )
    if accept_content is None or types[serializer] in {types.get(name, name) for name in accept_content}:
        return
    accepted = ", ".join(sorted(accept_content)) or "none"
    raise CallError(
        f"task {task}: serializer: expected one that workers accept ({accepted}), got {serializer!r}; "
        f"use another one, or add it to `accept_content` of the app"
    )


def encode(body: Any, serializer: str, task: str, queue: str) -> tuple[bytes, dict[str, str]]:
    """Return the serialised body, and the properties that say how it is encoded.

    Args:
        body: Arguments, keyword arguments, and what Celery embeds.
        serializer: The serializer's name.
        task: The task's name, for the error.
        queue: The destination, for the error.

    Raises:
        NotEncodable: An argument cannot be encoded.
        CallError: The package of the serializer is not installed.
    """
    try:
        content_type, encoding, data = serialization.dumps(body, serializer)
    except SerializerNotInstalled as error:
        raise CallError(f"task {task}: serializer: {error}") from None
    except EncodeError as error:
        raise not_encodable(body, serializer, task, queue, error) from error
    data = data.encode() if isinstance(data, str) else data
    return data, {"content_type": content_type, "content_encoding": encoding}


def compress(data: bytes, compression: str, task: str) -> tuple[bytes, str]:
    """Return the compressed data and its content type.

    Raises:
        CallError: The compression is unknown.
    """
    try:
        compressed: tuple[bytes, str] = kombu_compression.compress(data, compression)
    except (KeyError, TypeError):
        known = ", ".join(sorted(kombu_compression.encoders()))
        raise CallError(f"task {task}: compression: expected one of {known}, got {compression!r}") from None
    return compressed


def not_encodable(body: Any, serializer: str, task: str, queue: str, error: Exception) -> NotEncodable:
    """Return the error for a body with an unsupported value; it names the value."""
    args, kwargs, embed = body if isinstance(body, (list, tuple)) and len(body) == 3 else (body, None, None)  # noqa: PLR2004 - protocol 2
    place, value = "the message", body
    for name, part in (("args", args), ("kwargs", kwargs), ("embed", embed)):
        if not _is_encodable(part, serializer):
            place, value = _blamed(name, part, serializer)
            break
    cure = _CURES.get(serializer, "pass a value that this serializer knows")
    return NotEncodable(
        f"task {task} for queue {queue!r}: {serializer} cannot encode {place}, {_article(type(value).__name__)} "
        f"({shortened(str(error))}); {cure}"
    )


def _blamed(place: str, value: Any, serializer: str) -> tuple[str, Any]:
    """Return the innermost unsupported value and its place."""
    for _ in range(_DEEPEST):
        inner = next(((at, one) for at, one in _inside(value) if not _is_encodable(one, serializer)), None)
        if inner is None:
            break
        place, value = f"{place}[{inner[0]}]", inner[1]
    return place, value


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((shortened(repr(key)), one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ((str(number), one) for number, one in enumerate(value))
    return iter(())


def _is_encodable(value: Any, serializer: str) -> bool:
    try:
        serialization.dumps([value], serializer)
    except Exception:  # noqa: BLE001 - whatever the serializer or the value itself raises
        return False
    return True


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
