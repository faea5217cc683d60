"""Filters of messages, and the fields that they read."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pika
import pytest
from pika import data
from pika.exceptions import UnsupportedAMQPFieldException

from broker_app.messages import MessageFilter, MessageSummary
from broker_app.messages.pika_floats import floats_kept
from broker_app.messages.scan import ScannedMessage
from broker_app.messages.summary import MAX_SHOWN_CHARACTERS, summarize
from broker_app.queues.dead_letters import AT_HEADER, REASON_HEADER
from broker_app.queues.headers import PUBLISHED_AT_HEADER

NOW = 1_000_000.0


def letter(body: bytes = b"", **headers: Any) -> MessageSummary:
    """Return what a message with these headers says, at `NOW`."""
    properties = pika.BasicProperties(headers={name.replace("__", "-"): value for name, value in headers.items()})
    delivery = ScannedMessage(1, 1, "default", is_redelivered=False, properties=properties, body=body)
    return summarize(delivery, NOW, "eu.delay.")


def death(queue: str, reason: str, seconds_ago: int) -> dict[str, Any]:
    """Return an entry of ``x-death``."""
    return {"queue": queue, "reason": reason, "time": datetime.fromtimestamp(NOW - seconds_ago, UTC)}


@pytest.mark.parametrize(
    ("selection", "passes"),
    [
        (MessageFilter(), True),
        (MessageFilter(tasks=("shop.*",)), True),
        (MessageFilter(tasks=("Shop.*", "other")), False),
        (MessageFilter(ids=frozenset({"one"})), True),
        (MessageFilter(ids=frozenset({"two"})), False),
        (MessageFilter(reasons=("fail*",)), True),
        (MessageFilter(reasons=("rejected",)), False),
        (MessageFilter(older_than_seconds=100), True),
        (MessageFilter(older_than_seconds=101), False),
        (MessageFilter(newer_than_seconds=100), False),
        (MessageFilter(newer_than_seconds=101), True),
        (MessageFilter(tasks=("shop.*",), ids=frozenset({"two"})), False),
    ],
    ids=str,
)
def test_a_message_must_pass_all_filters(selection: MessageFilter, *, passes: bool) -> None:
    """Each filter reads its field of the message; an age of a hundred seconds is old enough for a hundred."""
    headers: dict[str, Any] = {"id": "one", "task": "shop.add", REASON_HEADER: "failed", AT_HEADER: NOW - 100}
    assert selection.matches(letter(**headers)) is passes


@pytest.mark.parametrize("ages", [{"older_than_seconds": 0.0}, {"newer_than_seconds": 1e9}])
def test_an_unknown_age_passes_no_filter_of_ages(ages: dict[str, Any]) -> None:
    """Without a recorded time the age is unknown."""
    assert not MessageFilter(**ages).matches(letter())


def test_what_the_worker_noted_wins_over_the_broker() -> None:
    """Reason and age are the worker's where it noted them; else the broker's latest that is no lane's."""
    x_death = [
        death("eu.delay.10s", "expired", 10),
        death("eu.default", "delivery_limit", 50),
        death("x", "y", 90),
    ]
    ours: dict[str, Any] = {REASON_HEADER: "failed", AT_HEADER: NOW - 5}
    published: dict[str, Any] = {PUBLISHED_AT_HEADER: NOW - 1_000}

    both = letter(x__death=x_death, **ours, **published)
    assert (both.reason, both.age_seconds) == ("failed", 5)
    brokers = letter(x__death=x_death, **published)
    assert (brokers.reason, brokers.age_seconds) == ("broker:delivery_limit", 50)
    assert MessageFilter(reasons=("delivery_limit",)).matches(brokers)
    assert MessageFilter(reasons=("broker:*",)).matches(brokers)
    alive = letter(x__death=x_death[:1], **published)
    assert (alive.reason, alive.age_seconds) == ("", 1_000)


@pytest.mark.parametrize(
    "headers",
    [
        {"id": 7, "task": None, "retries": "x", "argsrepr": ["?"]},
        {"x__death": "?"},
        {"x__death": [7, {"queue": None}]},
        {AT_HEADER: "yesterday", PUBLISHED_AT_HEADER: []},
    ],
)
def test_headers_that_are_not_what_they_should_be(headers: dict[str, Any]) -> None:
    """A message of another client is no reason to fail."""
    assert letter(b"{", **headers).retries == 0


def test_long_arguments_are_shortened() -> None:
    """Wherever they come from."""
    for shown in (
        letter(argsrepr="x" * 5_000),
        letter(b"x" * 5_000),
        letter(b'[["' + b"x" * 5_000 + b'"], {}, {}]'),
    ):
        assert len(shown.args) == MAX_SHOWN_CHARACTERS + 1


@pytest.mark.parametrize("value", [0.0, -1.5, 1_795_471_851.0133734, 1e300])
def test_floats_in_headers_survive(value: float) -> None:
    """They are written and read as they are, inside of lists and tables too."""
    pieces: list[bytes] = []
    table = {"at": value, "all": [value, 7, "x", None], "in": {"at": value}}
    with floats_kept():
        data.encode_table(pieces, table)
        assert data.decode_table(b"".join(pieces), 0)[0] == table


def test_a_users_own_pika_is_not_affected() -> None:
    """In another thread, and after the block, pika reads and writes headers as it always did."""

    def decoded() -> Any:
        return data.decode_value(b"d" + struct.pack(">d", 1.5), 0)

    plain = decoded()

    with floats_kept(), ThreadPoolExecutor(1) as other:
        assert decoded() == (1.5, 9)
        assert other.submit(decoded).result() == plain
        with pytest.raises(UnsupportedAMQPFieldException):
            other.submit(data.encode_value, [], 1.5).result()
    assert decoded() == plain
