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
    """The headers say whose it is and how it runs, the body has the arguments and what follows."""
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
    """What a publisher of ours put there, such as the moment of publishing, is kept."""
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
    """One of the second protocol, and what is no task's at all, is left to those who know what to do with it."""
    before = dict(made.headers), made.body

    translate(made)

    assert (made.headers, made.body) == before
