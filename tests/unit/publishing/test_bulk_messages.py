"""Messages made in bulk: the content of their bytes."""

from __future__ import annotations

import string
import struct
from typing import Any

import amqp
import pytest
from amqp.serialization import decode_properties_basic, dumps
from celery.utils.saferepr import saferepr
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_app.publishing.bulk.argsrepr import shown
from broker_app.publishing.bulk.item import BulkItem
from broker_app.publishing.bulk.template import VARYING, Template, float_value, text_value
from broker_app.publishing.message import OutgoingMessage
from broker_app.queues import Delay, QueueSpec
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER
from broker_app.wire import frames

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)
)
SPEC = QueueSpec("default")


def outgoing(**properties: Any) -> OutgoingMessage:
    """Return a message as Celery makes them."""
    headers: dict[str, Any] = {
        "lang": "py",
        "task": "shop.add",
        "id": "1",
        "eta": None,
        "expires": None,
        "group": None,
        "timelimit": [None, 30],
        "root_id": "1",
        "argsrepr": "(1,)",
        "kwargsrepr": "{}",
        "stamps": {},
        PUBLISHED_AT_HEADER: 1.5,
        DELAY_HEADER: 0.0,
    }
    values = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "application_headers": headers,
        "delivery_mode": 2,
        "correlation_id": "1",
        "reply_to": "",
    }
    written = values | properties
    return OutgoingMessage("shop.add", "1", "tasks", "default", b"[]", written, spec=SPEC, delay=Delay((), 0.0))


def properties_of(encoded: bytes) -> dict[str, Any]:
    """Return encoded properties as py-amqp reads them."""
    values: dict[str, Any] = decode_properties_basic(encoded, 0)[0]
    return values


@settings(max_examples=40)
@given(st.lists(VALUES, max_size=4), st.dictionaries(st.text(max_size=9), VALUES, max_size=3))
def test_arguments_are_shown_as_celery_shows_them(args: list[Any], kwargs: dict[str, Any]) -> None:
    """The quick way and Celery's agree on every value, truncated or not."""
    for value in (args, tuple(args), kwargs):
        for most in (20, 1_024):
            assert shown(value, most, 3) == saferepr(value, most, maxlevels=3)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"priority": 7},
        {"reply_to": None, "message_id": "m", "type": "t", "app_id": "a", "timestamp": 17},
        {"priority": 0, "user_id": "guest", "cluster_id": "c", "reply_to": "ü"},
    ],
)
def test_properties_are_encoded_as_py_amqp_does(properties: dict[str, Any]) -> None:
    """Any set of properties is encoded to py-amqp's bytes."""
    values = outgoing(**properties).properties
    assert frames.properties(values) == amqp.Message("", **values)._serialize_properties()


@given(st.binary(max_size=300), st.integers(min_value=20, max_value=60))
def test_a_message_is_read_back_as_it_was_written(body: bytes, frame_max: int) -> None:
    """An item returns the properties and the body that were encoded for it, in however many frames."""
    one = outgoing()
    one.body = body
    item = BulkItem(
        0,
        one.task,
        one.task_id,
        sent=frames.encode(3, frame_max, one.address, one.properties, one.body),
        address=("1", "tasks", "default"),
    )
    assert item.outgoing().body == body
    assert item.outgoing().properties == one.properties


@given(st.text(string.ascii_letters + "ü-", min_size=1, max_size=40), st.floats(allow_nan=False))
def test_a_template_fills_in_the_values_of_each_message(task_id: str, moment: float) -> None:
    """The varying headers and the correlation id are the message's, all else is that of the first."""
    first = outgoing(priority=3)
    template = Template(first, SPEC, {})
    own = dict.fromkeys(VARYING, text_value(None)) | {
        "id": text_value(task_id),
        "argsrepr": text_value("(2,)"),
        PUBLISHED_AT_HEADER: float_value(moment),
    }
    found = properties_of(template.properties(own, task_id))
    headers = dict.fromkeys(VARYING) | {
        "id": task_id,
        "root_id": task_id,
        "argsrepr": "(2,)",
        PUBLISHED_AT_HEADER: moment,
    }
    assert found == first.properties | {
        "correlation_id": task_id,
        "application_headers": first.properties["application_headers"] | headers,
    }


def test_a_root_that_is_another_task_stays() -> None:
    """Only a task that is its own root has its own id there."""
    first = outgoing()
    first.properties["application_headers"]["root_id"] = "the root"
    own = dict.fromkeys(VARYING, text_value(None)) | {"id": text_value("2")}
    found = properties_of(Template(first, SPEC, {}).properties(own, "2"))
    assert found["application_headers"]["root_id"] == "the root"


HEADER_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=9)
    | st.decimals(-100, 100, places=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=20), HEADER_VALUES, max_size=6))
def test_headers_are_encoded_as_py_amqp_does(headers: dict[str, Any]) -> None:
    """Headers of any content are encoded to py-amqp's bytes."""
    assert frames.table(headers) == dumps("F", [headers])


@pytest.mark.parametrize("headers", [{"a": object()}, {"a": {"b": object()}}, {"x" * 256: 1}, {"a": 2**63}])
def test_headers_that_cannot_be_said_are_refused_as_py_amqp_does(headers: dict[str, Any]) -> None:
    """An error of the same kind, before anything is sent."""
    with pytest.raises((amqp.FrameSyntaxError, struct.error)) as theirs:
        dumps("F", [headers])
    with pytest.raises(type(theirs.value)):
        frames.table(headers)
