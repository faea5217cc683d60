"""A worker's attempts to reach an unreachable broker."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest
from ports import free_port

from broker_app.wire.connection import LONGEST_PAUSE_SECONDS, BrokerConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTEMPTS = 8


class EnoughError(Exception):
    """The attempts that a test wants to see are over."""


def test_pauses_between_attempts_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the broker is away, a worker tries again every few seconds, and so is back as soon."""
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _seconds: None)
    port = free_port()
    pauses: list[float] = []

    def note(_error: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == ATTEMPTS:
            raise EnoughError

    connection = BrokerConnection(f"amqp://guest:guest@127.0.0.1:{port}//")
    with pytest.raises(EnoughError):
        connection.ensure_connection(note, None)  # as Celery's worker calls it
    assert pauses == list(islice(_expected(), ATTEMPTS))


def _expected() -> Iterator[float]:
    yield from range(1, LONGEST_PAUSE_SECONDS)
    while True:
        yield LONGEST_PAUSE_SECONDS
