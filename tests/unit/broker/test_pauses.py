"""The pauses that a worker reads from the stream, without a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker_app import BrokerApp
from broker_app.broker.pauses import Pauses

if TYPE_CHECKING:
    from pathlib import Path


def entry(queue: str, *, is_paused: bool) -> dict[str, Any]:
    """Return an entry as an operator's command writes it."""
    return {"queue": queue, "is_paused": is_paused, "at": 1.0, "by": "me@here"}


@pytest.fixture
def changes() -> list[bool]:
    """Return what notes each change."""
    return []


@pytest.fixture
def pauses(tmp_path: Path, changes: list[bool]) -> Pauses:
    """Return what is known under a prefix, nothing yet."""
    file = tmp_path / "broker.toml"
    file.write_text('prefix = "shop."\n[queues.default]\n[queues.lopri]\n', encoding="utf-8")
    app = BrokerApp("shop", config=file, set_as_current=False)
    return Pauses(app, lambda: changes.append(True))


def read(pauses: Pauses, *entries: dict[str, Any]) -> None:
    """Read the stream to its end."""
    for one in entries:
        pauses.stream.on_entry(one)
    pauses.stream.on_read(True)  # noqa: FBT003 - a callback


def test_the_last_entry_of_a_queue_counts(pauses: Pauses, changes: list[bool]) -> None:
    """Whatever came before; what is between is not followed while the stream is read."""
    changed = [("lopri", True), ("default", True), ("lopri", False)]
    read(pauses, {}, *(entry(queue, is_paused=is_paused) for queue, is_paused in changed))
    assert pauses.queues == {"default"}
    assert pauses.broker_queues == {"shop.default"}
    assert changes == [True]


def test_a_change_is_told_at_once_and_a_repetition_is_none(pauses: Pauses, changes: list[bool]) -> None:
    """After the stream was read, each pause and resumption is reported once; a repeated one is not."""
    read(pauses)
    for is_paused in (True, True, False, False):
        pauses.stream.on_entry(entry("lopri", is_paused=is_paused))
    assert changes == [True, True]
    assert pauses.queues == frozenset()


def test_reading_it_again_does_not_resume_in_between(pauses: Pauses, changes: list[bool]) -> None:
    """After a lost connection the whole stream comes again: what was known counts until it is read."""
    history = [entry("lopri", is_paused=is_paused) for is_paused in (True, False, True)]
    read(pauses, *history)
    pauses.begin_anew()
    seen = set()
    for one in history:
        pauses.stream.on_entry(one)
        seen.add(pauses.queues)
    pauses.stream.on_read(True)  # noqa: FBT003 - a callback
    assert seen == {frozenset({"lopri"})}
    assert changes == [True]


def test_what_is_known_stays_where_the_stream_cannot_be_read(pauses: Pauses) -> None:
    """A worker whose right to read was taken away goes on leaving out what was paused."""
    read(pauses, entry("lopri", is_paused=True))
    pauses.begin_anew()
    pauses.stream.on_read(False)  # noqa: FBT003 - a callback
    assert pauses.queues == {"lopri"}
