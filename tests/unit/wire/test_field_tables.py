"""Headers that Python cannot decode leave the rest of their message readable, and go on as they came."""

from __future__ import annotations

import struct
from typing import Any

import pika
import pytest

from broker_app.messages.pika_floats import floats_kept
from broker_app.messages.scan import ScannedMessage
from broker_app.messages.summary import summarize
from broker_app.wire import frames
from broker_app.wire.field_tables import MAX_DEPTH, UNREADABLE, Encoded, read_key, read_properties


def nested(levels: int) -> bytes:
    """Return an array in an array, and so on."""
    value = b"V"
    for _ in range(levels):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


UNDECODABLE = {
    "milliseconds": b"T" + struct.pack(">Q", 1_790_000_000_000),
    "largest": b"T" + b"\xff" * 8,
    "in a table": b"F" + struct.pack(">I", 11) + b"\x01aT" + b"\xff" * 8,
    "nested": nested(MAX_DEPTH + 1),
    "nested deeply": nested(3_000),
}


def with_header(value: bytes) -> bytes:
    """Return the encoded properties of a task message with such a header between others."""
    headers = {"task": "t", "at": Encoded(value, ""), "id": "1"}
    return frames.properties({"application_headers": headers, "priority": 4, "correlation_id": "1"})


@pytest.mark.parametrize("value", UNDECODABLE.values(), ids=UNDECODABLE)
def test_py_amqp_reads_the_rest_and_sends_it_on(value: bytes) -> None:
    """The other headers and properties are there, it says which one cannot be read, and no byte is lost."""
    encoded = with_header(value)
    found, end = read_properties(b"\x00" * 12 + encoded, 12)
    assert end == 12 + len(encoded)
    assert (found["priority"], found["correlation_id"]) == (4, "1")
    headers = found["application_headers"]
    assert (headers["task"], headers["id"], headers["at"].data) == ("t", "1", value)
    assert "header 'at'" in found[UNREADABLE]
    assert frames.properties(found) == encoded


@pytest.mark.parametrize("value", UNDECODABLE.values(), ids=UNDECODABLE)
def test_pika_reads_the_rest_and_sends_it_on(value: bytes) -> None:
    """So do the commands; the message is shown as undecodable, with the header."""
    encoded = with_header(value)
    properties = pika.BasicProperties()
    with floats_kept():
        properties.decode(encoded)
        assert b"".join(properties.encode()) == encoded
    letter = summarize(ScannedMessage(1, 1, "q", False, properties, b"[[], {}, {}]"), 0.0, "delay.")  # noqa: FBT003
    assert (letter.task, letter.id, letter.reason) == ("t", "1", "undecodable")
    assert "header 'at'" in letter.exception


@pytest.mark.parametrize("name", ["content_type", "content_encoding", "reply_to", "type", "app_id"])
def test_a_property_that_is_not_utf_8(name: str) -> None:
    """It is distinguished from the others, and sent on."""
    encoded = frames.properties(
        {name: Encoded(b"\xff\xfe", ""), "application_headers": {"id": "1"}, "priority": 1}
    )
    found: dict[str, Any] = read_properties(encoded, 0)[0]
    assert found["application_headers"] == {"id": "1"}
    assert found[UNREADABLE].startswith(f"{name}: UnicodeDecodeError")
    assert frames.properties(found) == encoded


def test_a_value_of_an_unknown_kind_takes_the_rest_of_its_table() -> None:
    """Nobody knows where it ends; what came before it is there."""
    table = b"\x02idS" + struct.pack(">I", 1) + b"1" + b"\x01aZ" + b"\x01" * 9
    encoded = struct.pack(">HI", 0x2000 | 0x0800, len(table)) + table + b"\x04"
    found = read_properties(encoded, 0)[0]
    assert (found["application_headers"]["id"], found["priority"]) == ("1", 4)
    assert "header 'a'" in found[UNREADABLE]


def test_a_routing_key_need_not_be_utf_8() -> None:
    """It is shown with escapes."""
    assert read_key(b"\x02a\xff", 0) == ("a\\xff", 3)
