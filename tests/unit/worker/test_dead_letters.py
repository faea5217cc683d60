"""The headers of a dead letter, and the parts of the original that are left out."""

from __future__ import annotations

import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.message import Message

from broker_app.queues import QueueSpec
from broker_app.queues.dead_letters import DEAD_PREFIX, DeadLetterCause, DeadReason
from broker_app.queues.headers import PUBLISHED_AT_HEADER
from broker_app.worker import dead_letters
from broker_app.worker.dead_letters import MAX_EXCEPTION_CHARACTERS, MAX_TRACEBACK_CHARACTERS, dead_letter
from broker_app.worker.poison.crash_log import CrashLog, key

SPEC = QueueSpec("lopri", prefix="shop.")
DEATH = DeadLetterCause(DeadReason.FAILED, ValueError("no such order"), "Traceback …")
HEADERS = {"id": "an-id", "task": "shop.pay", PUBLISHED_AT_HEADER: 1.5, "customer": "7"}
MAX_FRAME_BYTES = 131_072


def message(body: bytes | str = b"[]", headers: dict[str, Any] | None = None, **properties: Any) -> Message:
    """Return a message as kombu hands it to a worker."""
    properties = {"correlation_id": "an-id", "application_headers": headers} | properties
    return Message(body, headers=HEADERS if headers is None else headers, properties=properties)


def test_it_goes_to_the_exchange_of_the_dead_with_its_queue_as_the_key() -> None:
    """So it lands in `<queue>.dead`, for that queue and no other."""
    copy = dead_letter(message(), SPEC, DEATH, "lopri@host")
    assert (copy.exchange, copy.routing_key) == ("shop.tasks.dead", "shop.lopri")
    assert (copy.task, copy.task_id) == ("shop.pay", "an-id")


def test_it_says_why_when_where_and_what_went_wrong() -> None:
    """A dead letter has the headers of the message, and reason, time, queue, node, exception and traceback."""
    headers = dead_letter(message(), SPEC, DEATH, "lopri@host").properties["application_headers"]
    assert abs(headers.pop("broker_app_dead_at") - time.time()) < 5
    assert headers == HEADERS | {
        "broker_app_dead_reason": "failed",
        "broker_app_dead_queue": "shop.lopri",
        "broker_app_dead_node": "lopri@host",
        "broker_app_dead_exception": "ValueError: no such order",
        "broker_app_dead_traceback": "Traceback …",
    }


def test_a_second_death_replaces_the_first() -> None:
    """A dead letter that was replayed and fails again carries the last reason, and nothing of the way between."""
    before = {
        f"{DEAD_PREFIX}starts": 5,
        f"{DEAD_PREFIX}reason": "poisoned",
        "x-death": [{"count": 3}],
        "CC": ["other"],
    }
    copy = dead_letter(message(headers=HEADERS | before | {"x-delivery-count": 2}), SPEC, DEATH, "n")
    headers = copy.properties["application_headers"]
    assert headers["broker_app_dead_reason"] == "failed"
    assert not {"broker_app_dead_starts", "x-death", "x-delivery-count", "CC"} & headers.keys()


def test_properties_that_would_lose_it_are_left_away() -> None:
    """It is persistent, does not expire, and is not refused for the user id of the original's publisher."""
    copy = dead_letter(
        message(user_id="producer", expiration="1000", delivery_mode=1, priority=7), SPEC, DEATH, "n"
    )
    assert copy.properties["delivery_mode"] == 2
    assert copy.properties["priority"] == 7
    assert not {"user_id", "expiration"} & copy.properties.keys()


def test_a_message_without_any_header_can_be_kept() -> None:
    """A message that is not a task has no id; one is made up, so that a returned copy is recognised."""
    copy = dead_letter(Message(b"\xff", headers=None, properties=None), SPEC, DEATH, "n")
    assert copy.properties["correlation_id"]
    assert copy.body == b"\xff"


@pytest.mark.parametrize("body", [b"\x00\xff", b"", "text"])
def test_the_body_is_what_came(body: bytes | str) -> None:
    """Byte for byte, also where py-amqp has made a text of it."""
    expected = body.encode() if isinstance(body, str) else body
    assert dead_letter(message(body), SPEC, DEATH, "n").body == expected


def test_a_compressed_body_is_compressed_again() -> None:
    """A compressed body is kept compressed, as its header says."""
    copy = dead_letter(
        message(zlib.compress(b"[1]"), HEADERS | {"compression": "application/x-gzip"}), SPEC, DEATH, "n"
    )
    assert zlib.decompress(copy.body) == b"[1]"


def test_a_body_that_cannot_be_decompressed_stays_as_it_is() -> None:
    """A body that cannot be decompressed is kept as it is."""
    copy = dead_letter(message(b"no zlib", HEADERS | {"compression": "application/x-gzip"}), SPEC, DEATH, "n")
    assert copy.body == b"no zlib"


@given(st.text(st.characters(), max_size=3_000), st.text(st.characters(), max_size=20_000))
def test_the_headers_are_text_and_small_whatever_was_raised(words: str, traceback: str) -> None:
    """The headers of a dead letter fit into half a frame, as UTF-8, and its exception is one line."""
    death = DeadLetterCause(DeadReason.FAILED, ValueError(words), traceback)
    headers = dead_letters.dead_headers(death, SPEC, "n")
    encoded = [headers[name].encode("utf-8") for name in headers if name != "broker_app_dead_at"]
    assert sum(map(len, encoded)) < MAX_FRAME_BYTES / 2
    assert "\n" not in headers["broker_app_dead_exception"]


def test_a_lone_surrogate_is_shown_by_its_number() -> None:
    """A lone surrogate in an error's text, which UTF-8 cannot carry, is escaped."""
    death = DeadLetterCause(DeadReason.FAILED, ValueError("\udce9"), "")
    assert dead_letters.dead_headers(death, SPEC, "n")["broker_app_dead_exception"] == "ValueError: \\udce9"


def test_what_is_cut_is_the_end_of_the_words_and_the_beginning_of_the_traceback() -> None:
    """A long error keeps its beginning, and a long traceback its end."""
    death = DeadLetterCause(DeadReason.FAILED, ValueError("a" * 5_000), "b" * 20_000 + "end")
    headers = dead_letters.dead_headers(death, SPEC, "n")
    assert len(headers["broker_app_dead_exception"]) == MAX_EXCEPTION_CHARACTERS
    assert len(headers["broker_app_dead_traceback"]) == MAX_TRACEBACK_CHARACTERS
    assert headers["broker_app_dead_traceback"].endswith("end")


# Suspects


def entry(message: str, start: str) -> dict[str, Any]:
    """Return an entry of the stream."""
    return {"message": message, "start": start, "node": "n", "at": 1.0}


@pytest.fixture
def suspects() -> CrashLog:
    """Return suspects that are read and not written."""
    found = CrashLog("", "n", None)  # type: ignore[arg-type] # nothing is written
    found.stream.on_read(True)  # noqa: FBT003 - a callback
    return found


def test_the_first_start_is_not_written_down(suspects: CrashLog) -> None:
    """A redelivered message was started once, as far as is known."""
    assert suspects.starts(HEADERS) == 1


def test_a_start_that_is_read_twice_counts_once(suspects: CrashLog) -> None:
    """After a lost connection the stream is read from its beginning again."""
    for start in ("one", "two", "one", "two"):
        suspects.stream.on_entry(entry(key(HEADERS), start))
    assert suspects.starts(HEADERS) == 3


def test_a_retry_and_a_replayed_message_begin_anew(suspects: CrashLog) -> None:
    """A message that was published later under the same id counts from its first start."""
    suspects.stream.on_entry(entry(key(HEADERS), "one"))
    assert suspects.starts(HEADERS | {PUBLISHED_AT_HEADER: 2.5}) == 1


def test_the_brokers_count_stands_in_only_where_the_stream_cannot_be_read(suspects: CrashLog) -> None:
    """The broker's delivery count is used only if the stream cannot be read."""
    headers = HEADERS | {"x-delivery-count": 4}
    assert suspects.starts(headers) == 1
    suspects.stream.on_read(False)  # noqa: FBT003 - a callback
    assert suspects.starts(headers) == 4


def test_a_start_that_its_worker_survived_does_not_count(suspects: CrashLog) -> None:
    """It is taken back by its worker; read again from the beginning, it stays so."""
    for _ in range(2):
        suspects.stream.on_entry(entry(key(HEADERS), "one"))
        suspects.stream.on_entry(entry(key(HEADERS), "two"))
        suspects.stream.on_entry(entry(key(HEADERS), "one") | {"is_survived": True})
    assert suspects.starts(HEADERS) == 2


def test_an_entry_that_says_nothing_is_none(suspects: CrashLog) -> None:
    """The first reader of an empty stream writes one."""
    suspects.stream.on_entry({})
    assert suspects.starts(HEADERS) == 1
