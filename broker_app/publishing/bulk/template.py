"""Message template: the parts shared by all messages of one task and one set of options, encoded once.

A seventh of the processor time of py-amqp's own publishing, with `broker_app.wire.frames`: benchmarks/codecs.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER
from broker_app.wire import frames

if TYPE_CHECKING:
    from broker_app.publishing.message import OutgoingMessage
    from broker_app.queues import QueueSpec

VARYING = ("id", "root_id", "eta", "expires", "argsrepr", "kwargsrepr", PUBLISHED_AT_HEADER, DELAY_HEADER)
"""Headers that differ between calls."""

_LENGTH = Struct(">I")
_FLOAT = Struct(">cd")


class Template:
    """Encodes the properties of a message by filling in the values that vary.

    Args:
        outgoing: A message that Celery built for the same task and options.
        spec: The target queue of all messages.
        embed: The part of the body after the arguments.
        is_json: Whether Celery's JSON encoder reproduces the body.

    Attributes:
        spec: As given.
        embed: As given.
        is_json: As given.
        expires: The encoded header, for calls whose expiry is not relative.
    """

    def __init__(self, outgoing: OutgoingMessage, spec: QueueSpec, embed: Any, *, is_json: bool = False) -> None:
        self.spec = spec
        self.embed = embed
        self.is_json = is_json
        self.expires = text_value(outgoing.properties["application_headers"].get("expires"))
        values = dict(outgoing.properties, correlation_id=_MARK)
        before, headers, after = frames.split_properties(values)
        self._before = before
        self._pieces = _pieces(headers, outgoing.task_id)
        self._middle, self._after = after.split(_short(_MARK))

    def properties(self, own: dict[str, bytes], task_id: str) -> bytes:
        """Return encoded properties.

        Args:
            own: The encoded values of `VARYING`; ``id`` also serves as ``root_id``.
            task_id: The task's id, at most 255 bytes.
        """
        headers = b"".join([piece if type(piece) is bytes else own[piece] for piece in self._pieces])  # type: ignore[index]
        correlation_id = _short(task_id)
        return b"".join(
            (self._before, _LENGTH.pack(len(headers)), headers, self._middle, correlation_id, self._after)
        )


def text_value(text: str | None) -> bytes:
    """Return a string as an encoded table value; None becomes AMQP's void."""
    if text is None:
        return b"V"
    encoded = text.encode("utf-8", "surrogatepass")  # as py-amqp
    return b"S" + _LENGTH.pack(len(encoded)) + encoded


def float_value(value: float) -> bytes:
    """Return a float as an encoded table value."""
    return _FLOAT.pack(b"d", value)


def _pieces(headers: Any, task_id: str) -> list[bytes | str]:
    """Return the table as fixed bytes and, between them, the names of the varying values."""
    pieces: list[bytes | str] = []
    still = b""
    for name, value in headers.items():
        source = "id" if name == "root_id" and value == task_id else name
        if name in VARYING and (name != "root_id" or source == "id"):
            key = name.encode()
            pieces += [still + bytes([len(key)]) + key, source]
            still = b""
        else:
            still += frames.table({name: value})[_LENGTH.size :]
    return [*pieces, still]


def _short(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return bytes([len(encoded)]) + encoded


_MARK = "broker-app: placeholder of the correlation id"
