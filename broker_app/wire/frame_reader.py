"""Frame reader: reads all available frames with one system call, where py-amqp makes ten for each message.

A worker's event loop waits for its connection, then calls the reader. Messages that arrived whole with a single
body frame are decoded here; py-amqp handles everything else. Surplus bytes stay in py-amqp's own buffer, where a
call that waits for an answer finds them.

A third of the processor time of py-amqp's own reading: benchmarks/codecs.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from amqp import Message, spec
from amqp.exceptions import RecoverableConnectionError, UnexpectedFrame
from amqp.serialization import decode_properties_basic
from amqp.transport import TCPTransport

from broker_app.wire.field_tables import read_item, read_key, read_properties

if TYPE_CHECKING:
    from kombu.asynchronous import Hub

READ_BYTES = 32 * 1024

_FRAME = struct.Struct(">BHI")  # type, channel, payload size; payload and end octet follow
_FRAME_END = 0xCE
_METHOD, _HEADER, _BODY = 1, 2, 3
_DELIVER = struct.pack(">HH", *spec.Basic.Deliver)
_CONTENT_BYTES = 12  # class, weight, body size; the properties follow
_LONG = struct.Struct(">I")
_LONG_LONG = struct.Struct(">Q")
_SIGNED = struct.Struct(">i")
_DOUBLE = struct.Struct(">d")

_HAS_CONTENT_TYPE, _HAS_CONTENT_ENCODING, _HAS_HEADERS = 0x8000, 0x4000, 0x2000
_TEXT, _NOTHING, _INTEGER, _TRUTH, _REAL = b"SVItd"
"""Type letters of header values, rabbitmq.com/amqp-0-9-1-errata#section_3."""

MAX_NAMES = 1_000
_names: dict[bytes, str] = {}  # cache of header names: the same few come with every message


class FrameReader:
    """Reads a worker's connection.

    Args:
        connection: An open py-amqp connection, without TLS.
        hub: The event loop that calls `read`.
    """

    def __init__(self, connection: Any, hub: Hub) -> None:
        self._connection = connection
        self._hub = hub
        self._socket = connection.transport.sock

    @staticmethod
    def can_read(connection: Any) -> bool:
        """Return whether the reader supports a connection: with TLS, the socket holds encrypted data."""
        return isinstance(connection.transport, TCPTransport)

    def read(self) -> None:
        """Read the available data and dispatch its frames.

        Raises:
            OSError, amqp.AMQPError: The connection or a channel was closed.
        """
        if not self._connection.connected:
            raise RecoverableConnectionError("Socket was disconnected")
        try:
            data = self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError, TimeoutError):
            return
        if not data:
            raise OSError("Server unexpectedly closed connection")
        self._connection.transport._read_buffer += data  # noqa: SLF001 - see the module's docstring
        self._dispatch_all()

    def _dispatch_all(self) -> None:
        """Dispatch all complete frames. After an error, the next turn of the event loop handles the rest."""
        try:
            while self._connection.connected and self._dispatch_one():
                pass
        except Exception as error:
            if self._connection.connected and not isinstance(error, UnexpectedFrame):
                self._hub.call_soon(self._dispatch_all)
            raise

    def _dispatch_one(self) -> bool:
        """Dispatch the first frame, or the three frames of a message; return whether they had arrived."""
        transport = self._connection.transport
        data: bytes = transport._read_buffer  # noqa: SLF001 - a callback may have read more
        method = _frame_at(data, 0)
        if method is None:
            return False
        channel = self._connection.channels.get(method.channel)
        is_delivery = method.kind == _METHOD and data.startswith(_DELIVER, _FRAME.size)
        if is_delivery and channel is not None and not channel.is_closing:
            header = _frame_at(data, method.end)
            if header is None:
                return False
            if _is_in_one_body(header, data, method.channel):
                body = _frame_at(data, header.end)
                if body is None:
                    return False
                transport._read_buffer = data[body.end :]  # noqa: SLF001
                self._connection.bytes_recv += 3  # py-amqp counts frames here
                _deliver(channel, method.payload(data), header.payload(data), body.payload(data))
                return True
        transport._read_buffer = data[method.end :]  # noqa: SLF001
        self._connection.on_inbound_frame((method.kind, method.channel, method.payload(data)))
        return True


class _Frame(NamedTuple):
    kind: int
    channel: int
    begin: int
    end: int
    """Offset after its last byte."""

    def payload(self, data: bytes) -> bytes:
        return data[self.begin + _FRAME.size : self.end - 1]


def _frame_at(data: bytes, begin: int) -> _Frame | None:
    """Return the frame that starts at an offset; None if it is incomplete.

    Raises:
        UnexpectedFrame: The end octet is missing.
    """
    if len(data) < begin + _FRAME.size:
        return None
    kind, channel, size = _FRAME.unpack_from(data, begin)
    end = begin + _FRAME.size + size + 1
    if len(data) < end:
        return None
    if data[end - 1] != _FRAME_END:
        raise UnexpectedFrame(f"Received frame_end {data[end - 1]:#04x} while expecting 0xce")
    return _Frame(kind, channel, begin, end)


def _is_in_one_body(header: _Frame, data: bytes, channel: int) -> bool:
    """Return whether the next frames are the message's header and exactly one body frame."""
    if header.kind != _HEADER or header.channel != channel:
        return False
    size: int = _LONG_LONG.unpack_from(data, header.begin + _FRAME.size + 4)[0]
    if not size or len(data) < header.end + _FRAME.size:
        return bool(size) and size <= READ_BYTES
    return bool(_FRAME.unpack_from(data, header.end) == (_BODY, channel, size))


def _deliver(channel: Any, method: bytes, header: bytes, body: bytes) -> None:
    """Pass a message to its consumer (rabbitmq.com/amqp-0-9-1-reference#basic.deliver)."""
    consumer, offset = _short(method, len(_DELIVER))
    tag: int = _LONG_LONG.unpack_from(method, offset)[0]
    is_redelivered = bool(method[offset + 8] & 1)
    exchange, offset = _short(method, offset + 9)
    key, _ = read_key(method, offset)
    message = Message()
    try:
        message.properties = _properties(header, _CONTENT_BYTES)
    except Exception:  # noqa: BLE001 - no message may end the worker
        message.properties, _ = read_properties(header, _CONTENT_BYTES)
    message.body = _body(body, message.properties) if channel.auto_decode else body
    message.ready = True
    channel._callbacks[spec.Basic.Deliver](consumer, tag, is_redelivered, exchange, key, message)  # noqa: SLF001


def _body(content: bytes, properties: dict[str, Any]) -> bytes | str:
    """Return a body as py-amqp does: text if it can be decoded with its declared encoding, else bytes."""
    encoding = properties.get("content_encoding")
    if encoding is None:
        return content
    try:
        return content.decode(encoding)
    except Exception:  # noqa: BLE001 - unknown, invalid or non-text encoding
        return content


def _short(data: bytes, offset: int) -> tuple[str, int]:
    end = offset + 1 + data[offset]
    return data[offset + 1 : end].decode("utf-8", "surrogatepass"), end


def _properties(data: bytes, offset: int) -> dict[str, Any]:
    """Return a message's properties; py-amqp decodes those after the headers."""
    flags = data[offset] << 8 | data[offset + 1]
    offset += 2
    properties: dict[str, Any] = {}
    if flags & _HAS_CONTENT_TYPE:
        properties["content_type"], offset = _short(data, offset)
    if flags & _HAS_CONTENT_ENCODING:
        properties["content_encoding"], offset = _short(data, offset)
    if flags & _HAS_HEADERS:
        end = offset + 4 + _LONG.unpack_from(data, offset)[0]
        properties["application_headers"] = _table(data, offset + 4, end)
        offset = end
    rest = flags & 0x1FFF
    properties.update(decode_properties_basic(rest.to_bytes(2, "big") + data[offset:], 0)[0])
    return properties


def _table(data: bytes, offset: int, end: int) -> dict[str, Any]:
    """Return headers; py-amqp decodes values of rare types. Decoding errors propagate."""
    table: dict[str, Any] = {}
    size_at, names = _LONG.unpack_from, _names
    while offset < end:
        kind = offset + 1 + data[offset]
        name = data[offset + 1 : kind]
        key = names.get(name) or _name(name)
        letter, offset = data[kind], kind + 1
        if letter == _TEXT:
            begin = offset + 4
            offset = begin + size_at(data, offset)[0]
            try:
                table[key] = data[begin:offset].decode()
            except UnicodeDecodeError:
                table[key] = _text(data[begin:offset])
        elif letter == _NOTHING:
            table[key] = None
        elif letter == _INTEGER:
            table[key] = _SIGNED.unpack_from(data, offset)[0]
            offset += 4
        elif letter == _REAL:
            table[key] = _DOUBLE.unpack_from(data, offset)[0]
            offset += 8
        elif letter == _TRUTH:
            table[key] = bool(data[offset])
            offset += 1
        else:
            table[key], offset = read_item(data, kind)
    return table


def _name(name: bytes) -> Any:
    text = _text(name)
    if isinstance(text, str) and len(_names) < MAX_NAMES:
        _names[name] = text
    return text


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data
