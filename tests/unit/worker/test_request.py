"""The rest of a task's delay when a worker gets it, whatever the clocks say."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from celery.app.task import Context
from hypothesis import given
from hypothesis import strategies as st

from broker_app.queues.delay import MAX_DELAY_SECONDS, split_delay
from broker_app.queues.headers import DELAY_HEADER
from broker_app.worker.arrived_message import custom_headers
from broker_app.worker.request import remaining_eta

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
DELAYS = st.floats(0, MAX_DELAY_SECONDS, exclude_min=True)
CLOCKS = st.timedeltas(timedelta(days=-3_000), timedelta(days=3_000))
"""By how much the worker's clock is ahead of the producer's."""
TICK = timedelta(microseconds=1)


def held_by_lanes(delay: float) -> float:
    """Return how long the broker holds a message, in seconds."""
    return delay - split_delay(delay).fraction


@given(delay=DELAYS, ahead=CLOCKS)
def test_a_worker_never_holds_a_task_longer_than_the_fraction(delay: float, ahead: timedelta) -> None:
    """The lanes have held the rest: a clock that is wrong by years adds less than a tenth of a second."""
    arrives = NOW + timedelta(seconds=held_by_lanes(delay)) + ahead
    until = remaining_eta(NOW + timedelta(seconds=delay), {DELAY_HEADER: delay}, arrives)
    held = timedelta() if until is None else until - arrives
    assert timedelta() <= held <= timedelta(seconds=split_delay(delay).fraction) + TICK


@given(delay=DELAYS, late=st.timedeltas(timedelta(), timedelta(seconds=5)))
def test_a_task_starts_when_it_is_due_where_the_clocks_agree(delay: float, late: timedelta) -> None:
    """Lateness of the lanes is not added: the worker waits only until the due time itself."""
    due = NOW + timedelta(seconds=delay)
    arrives = NOW + timedelta(seconds=held_by_lanes(delay)) + late
    assert abs((remaining_eta(due, {DELAY_HEADER: delay}, arrives) or arrives) - max(due, arrives)) <= TICK


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-9))])
def test_the_zone_of_an_eta_does_not_matter(zone: timezone) -> None:
    """An eta is a moment, in whatever zone it is written."""
    due = NOW + timedelta(seconds=10.25)
    arrives = NOW + timedelta(seconds=10.2)
    assert remaining_eta(due.astimezone(zone), {DELAY_HEADER: 10.25}, arrives) == due


def test_a_task_without_a_delay_runs_at_once() -> None:
    """It has no eta, and the header says 0."""
    assert remaining_eta(None, {DELAY_HEADER: 0.0}, NOW) is None


@pytest.mark.parametrize("eta", [NOW + timedelta(hours=1), NOW - timedelta(hours=1), None])
def test_another_clients_eta_stands(eta: datetime | None) -> None:
    """Without our header no lane has held it: Celery's worker waits for it as ever."""
    assert remaining_eta(eta, {}, NOW) == eta


@pytest.mark.parametrize("header", ["ten", None, [], {}, math.nan, math.inf, -math.inf, -1, 1e300])
def test_a_header_that_is_no_number_is_none_of_ours(header: Any) -> None:
    """A forged message must not stop the worker that gets it: its eta is used."""
    eta = NOW + timedelta(hours=1)
    assert remaining_eta(eta, {DELAY_HEADER: header}, NOW) == eta


@pytest.mark.parametrize(
    "own", [{}, {"x-published-at": 1.5, "traceparent": "00-a-b-01"}, {b"\xff": 1, "deliveries": {}}]
)
def test_a_task_sees_the_headers_that_celery_would_show(own: dict[Any, Any]) -> None:
    """``request.headers`` holds exactly the headers that Celery's context would find in a request, or is None."""
    known = {"lang": "py", "id": "1", "task": "a", "argsrepr": "()", "timelimit": [None, None], "stamps": {}}
    request = known | own | {"args": [], "kwargs": {}, "delivery_info": {}, "properties": {}}
    assert custom_headers(request) == Context(request, called_directly=False).headers == (own or None)
