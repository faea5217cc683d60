"""The advice of live figures about a queue."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_app.cli.advise import _figures, _sentence
from broker_app.tuning.advice import LoadVerdict, QueueLoad, Remedy, advise
from broker_app.tuning.readable import shown_duration, shown_number

CALM = QueueLoad(
    queue="lopri",
    nodes=1,
    slots=20,
    starts=200.0,
    busy_slots=14.0,
    waiting=4.0,
    growth=0.0,
    cpu_cores=0.3,
    host_busy_cores=0.8,
    cores=2,
)


@settings(max_examples=30)
@given(st.floats(0.1, 1000), st.floats(0.001, 10), st.floats(0, 10))
def test_littles_law_gives_times_back(rate: float, run_seconds: float, wait_seconds: float) -> None:
    """From rates and numbers that were made with a run time and a wait, both are found."""
    load = replace(CALM, starts=rate, busy_slots=rate * run_seconds, waiting=rate * wait_seconds)

    assert load.run_seconds == pytest.approx(run_seconds)
    assert load.wait_seconds == pytest.approx(wait_seconds)


@settings(max_examples=30)
@given(st.floats(0.1, 1000), st.floats(0.001, 10))
def test_the_slots_needed_are_busy_to_80_per_cent(arrivals: float, run_seconds: float) -> None:
    """They are the fewest of which, with these arrivals, no more than 80 % are busy on average."""
    needed = advise(replace(CALM, starts=arrivals, busy_slots=arrivals * run_seconds)).slots_needed

    assert needed is not None
    assert arrivals * run_seconds <= 0.8 * needed + 1e-6
    assert needed == 1 or arrivals * run_seconds > 0.8 * (needed - 1) - 1e-6


@pytest.mark.parametrize(
    ("changes", "verdict", "remedy"),
    [
        ({}, LoadVerdict.FITS, Remedy.NONE),
        ({"busy_slots": 20.0}, LoadVerdict.SHORT, Remedy.SLOTS),
        ({"busy_slots": 20.0, "cpu_cores": None, "host_busy_cores": None}, LoadVerdict.SHORT, Remedy.SLOTS),
        ({"busy_slots": 20.0, "cpu_cores": 0.95}, LoadVerdict.SHORT, Remedy.NODE),
        ({"busy_slots": 20.0, "own_cores": 1.7, "host_busy_cores": 1.9}, LoadVerdict.SHORT, Remedy.HOST),
        ({"busy_slots": 20.0, "own_cores": 0.3, "host_busy_cores": 2.0}, LoadVerdict.SHORT, Remedy.SLOTS),
        ({"busy_slots": 20.0, "waiting": 500.0, "growth": -50.0}, LoadVerdict.FITS, Remedy.NONE),
        ({"is_paused": True, "starts": 0.0, "busy_slots": 0.0}, LoadVerdict.PAUSED, Remedy.RESUME),
        ({"waiting": 500.0, "growth": 50.0}, LoadVerdict.SHORT, Remedy.FETCHING),
        ({"waiting": 500.0, "growth": -50.0}, LoadVerdict.FITS, Remedy.NONE),
        ({"busy_slots": 3.0}, LoadVerdict.IDLE, Remedy.FEWER),
        ({"busy_slots": 15.0, "waiting": 500.0, "growth": -180.0}, LoadVerdict.FITS, Remedy.NONE),
        ({"slots": 0, "nodes": 0, "starts": 0.0, "busy_slots": 0.0}, LoadVerdict.UNSERVED, Remedy.START),
        ({"starts": 0.0, "busy_slots": 0.0}, LoadVerdict.UNKNOWN, Remedy.NONE),
    ],
)
def test_verdict_and_remedy(changes: dict[str, Any], verdict: LoadVerdict, remedy: Remedy) -> None:
    """The figures show which queue is short or idle, and whether slots, a node or a host helps."""
    advice = advise(replace(CALM, **changes))

    assert (advice.verdict, advice.remedy) == (verdict, remedy)


def test_a_backlog_counts_as_arrivals() -> None:
    """Busy slots do not hide the demand: the growth of the queue is added to their throughput."""
    advice = advise(replace(CALM, starts=200.0, busy_slots=20.0, waiting=900.0, growth=200.0))

    assert advice.slots_needed == 50
    assert replace(advice, load=replace(advice.load, nodes=2)).slots_per_node == 25
    assert advice.drain_seconds == math.inf


def test_what_waits_is_done_by_what_is_spare() -> None:
    """20 slots of 0.1 s do 200 a second; with 100 coming, 500 that wait take five seconds."""
    assert advise(replace(CALM, starts=100.0, busy_slots=10.0, waiting=500.0)).drain_seconds == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"busy_slots": 20.0}, "concurrency = 25 in [queues.lopri.fleet], then `broker-app fleet reload lopri`"),
        ({"busy_slots": 20.0, "own_cores": 0.3, "host_busy_cores": 2.0}, "others use 1.7 of its 2 cores"),
        ({"busy_slots": 20.0, "cpu_cores": 0.95}, "`broker-app fleet scale lopri 2`"),
        ({"waiting": 500.0, "growth": 50.0}, "prefetch = 2 in [queues.lopri]"),
        ({"is_paused": True}, "`broker-app resume lopri`"),
        ({"slots": 0, "starts": 0.0}, "`broker-app fleet start lopri`"),
    ],
)
def test_a_verdict_names_what_to_type(changes: dict[str, Any], words: str) -> None:
    """The setting and the command that help are in the sentence, with the queue's name."""
    advice = advise(replace(CALM, **changes))
    assert words in _sentence(advice)
    if advice.remedy is Remedy.SLOTS:
        assert "another host" not in _sentence(advice)


def test_figures_are_written_for_people() -> None:
    """No scientific notation, and a wait of minutes is not told in milliseconds."""
    figures = _figures(advise(replace(CALM, starts=1_234.0, busy_slots=14.0, waiting=250_000.0)))
    assert "1,230 arrive a second, 250,000 wait" in figures
    assert "wait 3 min 23 s" in figures


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 ms"), (0.0123, "12.3 ms"), (1, "1 s"), (119, "119 s"), (600, "10 min"), (5_400, "1 h 30 min")],
)
def test_a_duration_is_in_the_unit_that_fits(seconds: float, words: str) -> None:
    """From milliseconds to days."""
    assert shown_duration(seconds) == words


@given(st.floats(0, 1e12))
def test_a_number_is_plain_and_right_within_a_hundredth(number: float) -> None:
    """It can be read back, and never has an exponent."""
    text = shown_number(number)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(number, rel=0.01, abs=1e-6)
