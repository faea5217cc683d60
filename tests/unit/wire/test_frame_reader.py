"""A worker's frame reader: the same results as py-amqp's, for any content, however it arrives."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import amqp
import pytest
from amqp import spec
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st
from kombu.asynchronous import Hub

from broker_app.wire.frame_reader import READ_BYTES, FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS = st.text(max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-100, max_value=100).map(Decimal),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.dictionaries(TEXTS, VALUES, max_size=8)
BODIES = st.text(max_size=40).map(str.encode) | st.binary(max_size=40)
ENCODINGS = st.sampled_from(["utf-8", "no-such-encoding"])
FRAME_MAX = 4_096


class _Line:
    """A py-amqp connection on a pair of sockets: what is written at one end is read by the other.

    Attributes:
        received: Consumer's tag, delivery's tag, whether redelivered, exchange, key, properties, body.
    """

    def __init__(self, *, is_quick: bool) -> None:
        self.broker, ours = socket.socketpair()
        ours.settimeout(0)
        self.hub = Hub()
        self.connection = amqp.Connection(frame_max=FRAME_MAX)
        transport = amqp.transport.TCPTransport("localhost", 1)
        transport.sock, transport.connected = ours, True
        transport._setup_transport()
        self.connection._transport = transport
        self.connection.on_inbound_frame = self.connection.frame_handler_cls(
            self.connection, self.connection.on_inbound_method
        )
        self.channel = amqp.Channel(self.connection, 1)
        self.received: list[Any] = []
        self.channel._callbacks[spec.Basic.Deliver] = self._take
        self._intake = FrameReader(self.connection, self.hub) if is_quick else None

    def read(self) -> None:
        """Read all that was written."""
        if self._intake is not None:
            self._intake.read()
            return
        with suppress(TimeoutError):
            while True:
                self.connection.drain_events(timeout=0)

    def close(self) -> None:
        """Close both ends."""
        self.broker.close()
        self.connection._transport.sock.close()
        self.hub.close()

    def _take(self, *facts: Any) -> None:
        *where, message = facts
        self.received.append((*where, message.properties, message.body))


@pytest.fixture
def lines() -> Iterator[tuple[_Line, _Line]]:
    """Return a line that is read as py-amqp does, and one that is read by us."""
    both = _Line(is_quick=False), _Line(is_quick=True)
    yield both
    for line in both:
        line.close()


def frame(kind: int, payload: bytes, channel: int = 1) -> bytes:
    """Return a frame."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def delivery(tag: int, body: bytes, headers: dict[str, Any], **properties: Any) -> bytes:
    """Return the frames of a delivery, the body in as many as it needs."""
    arguments = dumps("sLbss", ("consumer", tag, tag % 2 == 0, "tasks", "default"))
    message = amqp.Message(body, application_headers=headers, **properties)
    header = struct.pack(">HHQ", spec.Basic.CLASS_ID, 0, len(body)) + message._serialize_properties()
    room = FRAME_MAX - 8
    parts = [body[start : start + room] for start in range(0, len(body), room)]
    method = struct.pack(">HH", *spec.Basic.Deliver) + arguments
    return frame(1, method) + frame(2, header) + b"".join(frame(3, part) for part in parts)


@given(messages=st.lists(st.tuples(BODIES, HEADERS), min_size=1, max_size=4), encoding=ENCODINGS)
def test_it_reads_what_py_amqp_reads(messages: list[tuple[bytes, dict[str, Any]]], encoding: str) -> None:
    """Headers of every kind, bodies that are text or are not, or none at all: the consumer is given the same."""
    both = _Line(is_quick=False), _Line(is_quick=True)
    for line in both:
        for tag, (body, headers) in enumerate(messages, 1):
            line.broker.sendall(delivery(tag, body, headers, content_encoding=encoding, priority=4))
        line.read()
        line.close()
    assert both[0].received == both[1].received
    assert len(both[1].received) == len(messages)


@pytest.mark.parametrize("size", [0, 1, 3_000, FRAME_MAX - 8, FRAME_MAX - 7, 5 * FRAME_MAX])
def test_it_reads_a_message_that_comes_in_pieces(lines: tuple[_Line, _Line], size: int) -> None:
    """However the network cuts it, and in however many frames the body is, a message comes once and whole."""
    sent = delivery(1, b"a" * size, {"task": "t"}) + delivery(2, b"b", {}) + frame(8, b"", 0)
    lines[0].broker.sendall(sent)
    lines[0].read()
    for start in range(0, len(sent), 701):
        lines[1].broker.sendall(sent[start : start + 701])
        lines[1].read()
    assert lines[0].received == lines[1].received
    assert [len(received[-1]) for received in lines[1].received] == [size, 1]
    assert lines[0].connection.bytes_recv == lines[1].connection.bytes_recv


def test_it_leaves_the_rest_to_a_call_that_waits(lines: tuple[_Line, _Line]) -> None:
    """Frames that a consumer reads itself, as it waits for an answer, are not read a second time."""
    line = lines[1]
    take, answers = line._take, []

    def take_and_ask(*facts: Any) -> None:
        take(*facts)
        if len(line.received) == 1:
            line.connection.drain_events(timeout=5)
            answers.append(len(line.received))

    line.channel._callbacks[spec.Basic.Deliver] = take_and_ask
    line.broker.sendall(b"".join(delivery(tag, b"x", {}) for tag in (1, 2, 3)))
    line.read()
    assert answers == [2]
    assert [received[1] for received in line.received] == [1, 2, 3]


def test_an_error_does_not_take_the_rest_along(lines: tuple[_Line, _Line]) -> None:
    """If a consumer raises, what has arrived behind its message is handed on in the loop's next turn."""
    line = lines[1]
    take = line._take

    def fail_once(*_facts: Any) -> None:
        line.channel._callbacks[spec.Basic.Deliver] = take
        raise ValueError("the first")

    line.channel._callbacks[spec.Basic.Deliver] = fail_once
    line.broker.sendall(delivery(1, b"x", {}) + delivery(2, b"x", {}))
    with pytest.raises(ValueError, match="the first"):
        line.read()
    line.hub.run_once()
    assert [received[1] for received in line.received] == [2]


def test_a_closed_connection_is_an_error(lines: tuple[_Line, _Line]) -> None:
    """The end of a connection makes the worker reconnect, and an invalid frame ends the connection."""
    line = lines[1]
    line.broker.sendall(frame(8, b"", 0)[:-1] + b"\x00")
    with pytest.raises(amqp.UnexpectedFrame):
        line.read()
    line.broker.close()
    with pytest.raises((OSError, amqp.AMQPError)):
        line.read()
    assert READ_BYTES > FRAME_MAX
