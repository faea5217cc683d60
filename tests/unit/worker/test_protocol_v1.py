"""A message of Celery's first protocol in the form of the second."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kombu.message import Message

from broker_app.worker.protocol_v1 import translate

ID = "a1"


def message(body: Any, **headers: Any) -> Message:
    """Return a message as a worker gets it."""
    return Message(
        body=body if isinstance(body, str) else json.dumps(body),
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        properties={"correlation_id": ID},
        accept={"application/json"},
    )


def test_what_the_body_said_is_in_the_headers() -> None:
    """The headers have the publisher and the options, the body has the arguments and the callbacks."""
    said = {
        "task": "add",
        "id": ID,
        "args": [1],
        "kwargs": {"y": 2},
        "retries": 2,
        "taskset": "g",
        "expires": None,
    }
    then = [{"task": "mul"}]
    made = message(said | {"callbacks": then, "timelimit": [9, None]}, compression=None)

    translate(made)

    assert {name: made.headers[name] for name in ("task", "id", "root_id", "retries", "group", "timelimit")} == {
        "task": "add",
        "id": ID,
        "root_id": ID,
        "retries": 2,
        "group": "g",
        "timelimit": [9, None],
    }
    assert "expires" not in made.headers
    assert made.headers["argsrepr"] == "[1]"
    assert made.decode() == [[1], {"y": 2}, {"callbacks": then, "errbacks": None, "chain": None, "chord": None}]


def test_the_headers_that_it_has_stay() -> None:
    """Our publisher's headers, such as the moment of publishing, are kept."""
    made = message({"task": "add", "id": ID}, broker_app_published_at=1.5)

    translate(made)

    assert made.headers["broker_app_published_at"] == 1.5
    assert made.decode()[:2] == [[], {}]


@pytest.mark.parametrize(
    "made",
    [
        message([[1], {}, {}], task="add", id=ID),
        message({"args": [1]}, task="add", id=ID),
        message({"task": "add"}),
        message({"id": ID}),
        message(["task", "id"]),
        message("{"),
        message(""),
    ],
)
def test_any_other_message_stays(made: Message) -> None:
    """Messages of the second protocol, and messages that are not tasks, are left unchanged."""
    before = dict(made.headers), made.body

    translate(made)

    assert (made.headers, made.body) == before
